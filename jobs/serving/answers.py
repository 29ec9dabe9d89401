"""What is answered to a question, in the shapes of `tagline apply --json`."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from jobs.serving.chain import Chain, Link
from jobs.serving.questions import Question
from jobs.serving.refusals import Refusal
from jobs.serving.worker import IS_CUT, TEXT, Row
from schemas.enriched import IMAGE_ENCODED, key_column
from schemas.results import (
    CaptionedImage,
    EmbeddedImage,
    EmbeddedText,
    JudgedText,
    MatchedText,
    ScoredText,
)

LABELS = ("yes", "no", "maybe")


async def caption(chain: Chain, question: Question) -> CaptionedImage:
    """Describes the image."""
    link = chain.find("captioner", question.operator)
    _refuse(question, link, texts=True, premise=True)
    row = await chain.answer(link.name, _row(question))
    alternatives = tuple(ScoredText(**one) for one in row[f"{link.name}_alternatives"])
    return CaptionedImage(
        image=question.name,
        text=row[link.name],
        score=row[f"{link.name}_score"],
        alternatives=alternatives,
    )


async def entailment(chain: Chain, question: Question) -> list[JudgedText]:
    """Judges each text; without one, what the operator judges in a job."""
    link = chain.find("entailment", question.operator)
    _refuse(question, link, texts=link.said is None, premise=link.premise is None)
    if link.said is None:
        row = await chain.answer(link.name, _row(question))
        return [JudgedText(image=question.name, **judged) for judged in row[link.name]]
    return [_judged(question, link, row) for row in await _each(chain, link, question)]


async def match(chain: Chain, question: Question) -> list[MatchedText]:
    """Matches each text; without one, what the operator matches in a job."""
    link = chain.find("matcher", question.operator)
    _refuse(question, link, texts=False, premise=True)
    return [
        MatchedText(
            image=question.name,
            text=row[str(link.said)],
            score=row[link.name],
            similarity=row[f"{link.name}_similarity"],
            is_cut=row[IS_CUT] or None,
        )
        for row in await _each(chain, link, question)
    ]


async def embed(chain: Chain, question: Question) -> list[EmbeddedImage | EmbeddedText]:
    """Embeds the image, then the texts."""
    link = chain.find("embedder", question.operator)
    _refuse(question, link, texts=False, premise=True)
    if question.image is None and not question.texts:
        raise Refusal(422, "no_image", "an image or a text is needed: give `image` or `text`")
    rows = [chain.ask(link.name, {TEXT: text}) for text in question.texts]
    if question.image is not None:
        rows.insert(0, chain.answer(link.name, _row(question)))
    vectors = [row[link.name] for row in await _gathered(rows)]
    answers: list[EmbeddedImage | EmbeddedText] = []
    if question.image is not None:
        answers.append(EmbeddedImage(image=question.name, embedding=vectors.pop(0)))
    texts = zip(question.texts, vectors, strict=True)
    return answers + [EmbeddedText(text=text, embedding=vector) for text, vector in texts]


async def columns(chain: Chain, link: Link, question: Question) -> dict[str, Any]:
    """What any operator writes, by column, as its row of a table would have it."""
    if question.texts[1:]:
        raise Refusal(422, "too_many", f"{link.name} takes one text at a time")
    _refuse(question, link, texts=link.said is None, premise=link.premise is None)
    row = await chain.answer(link.name, _row(question, link, *question.texts))
    kept = [name for name in link.writes if name != key_column(link.name)]
    return {"image": question.name, **{name: row[name] for name in kept}}


async def tags(chain: Chain, question: Question) -> dict[str, Any]:
    """What a tagger writes, under `tags` whatever its name in the config is."""
    link = chain.find("tagger", question.operator)
    found = await columns(chain, link, question)
    return {
        name if name == "image" else "tags" + name.removeprefix(link.name): value
        for name, value in found.items()
    }


async def _each(chain: Chain, link: Link, question: Question) -> list[Row]:
    """A row a text; the first error among them is the answer to all."""
    if not question.texts:
        return [await chain.answer(link.name, _row(question, link))]
    texts = question.texts
    return await _gathered([chain.answer(link.name, _row(question, link, text)) for text in texts])


async def _gathered(rows: Sequence[Coroutine[Any, Any, Row]]) -> list[Row]:
    """Waits for all; one that fails ends the others."""
    tasks = [asyncio.ensure_future(row) for row in rows]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _row(question: Question, link: Link | None = None, text: str | None = None) -> Row:
    row: Row = {} if question.image is None else {IMAGE_ENCODED: question.image}
    if link and link.said and text is not None:
        row[link.said] = text
    if link and link.premise and question.premise is not None:
        row[link.premise] = question.premise
    return row


def _judged(question: Question, link: Link, row: Row) -> JudgedText:
    odds = {label: row[f"{link.name}_{label}"] for label in LABELS}
    text = row[str(link.said)]
    return JudgedText(image=question.name, text=text, label=row[link.name], **odds)


def _refuse(question: Question, link: Link, *, texts: bool, premise: bool) -> None:
    """Refuses what the operator would not read."""
    if texts and question.texts:
        fixed = link.use == "entailment"
        why = "judges the hypotheses of its config" if fixed else "reads no text"
        raise Refusal(422, "unexpected_text", f"{link.name} {why}; leave out `text`")
    if premise and question.premise is not None:
        message = f"{link.name} reads no premise; leave out `premise`"
        raise Refusal(422, "unexpected_premise", message)
