"""Label Studio: `tasks.json` with the table's answers as predictions, and the `config.xml` beside.

People are asked of each caption whether it is right, and for a better one; of each label what it
should be; of each tag whether it holds; of each match whether it is one. Tasks come with the least
sure first, which is also their prediction's score. What was asked lies in the task's
`data.questions`, so that `jobs.import_labels` knows what an answer means.

A picture in a bucket or on a host keeps its uri; a local one is copied to `images/` and named as
Label Studio serves local files, with the folder that holds the exported one as document root.

Sources: https://labelstud.io/guide/predictions, /guide/task_format, /guide/storage#Local-storage,
/tags/choices and /tags/textarea.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.compute as pc

from jobs.exporting.selection import PICTURES, Selection, as_json, save_picture
from operators.claims import LABELS
from operators.policy import Place
from schemas.enriched import IMAGE_ID, URI, key_column
from schemas.errors import ConfigError
from schemas.label_studio import Asked, AskedQuestion

IMAGE = "image"  # the name of the picture's tag, and of its key in a task
RIGHT, WRONG = "right", "wrong"  # what a person may say of a caption
VERDICT = "{}_is"  # the name of the choice between the two
TEXT = "{}_text"  # the key of what a question is about
QUESTIONS = "questions"
MOST_LISTED = 100  # hypotheses or tags of a row
YES_OR_NO = ("yes", "no")
HEADERS: Mapping[Asked, str] = {
    "caption": "Is this caption right?",
    "label": "Does this hold of the picture?",
    "tag": "Is this in the picture?",
    "match": "Do this text and the picture belong together?",
}
CHOICES: Mapping[Asked, tuple[str, ...]] = {
    "caption": (RIGHT, WRONG),
    "label": LABELS,
    "tag": YES_OR_NO,
    "match": YES_OR_NO,
}
NOTHING = "(nothing to ask here: go on)"  # where a row lists less than others
EVEN = 0.5  # from here on a match is more likely than none


@dataclass(frozen=True)
class Question:
    """What is asked of each picture.

    Args:
        name: of the control's tag.
        column: of the table that answers it.
        asked: what about.
        place: in the column's list of hypotheses or tags; None where it holds no list.
    """

    name: str
    column: str
    asked: Asked
    place: int | None = None


def write(selection: Selection, folder: Path) -> int:
    """Writes tasks and config.

    Raises:
        ConfigError: the table has nothing that people could be asked about.
    """
    questions = _questions(selection)
    if not questions:
        raise ConfigError(
            f"{selection.table.path}: has neither captions nor labels to be asked about; export to "
            "another format"
        )
    (folder / "config.xml").write_text(config(questions), encoding="utf-8")
    places: list[tuple[float, int, int]] = []  # score, where a task begins, its length
    with tempfile.TemporaryFile(dir=folder) as unsorted:
        for score, task in _tasks(selection, questions, folder):
            data = as_json(task).encode()
            places.append((score, unsorted.tell(), len(data)))
            unsorted.write(data)
        with (folder / "tasks.json").open("wb") as file:
            file.write(b"[")
            for n, (_, begin, length) in enumerate(sorted(places)):
                unsorted.seek(begin)
                file.write((b",\n" if n else b"\n") + unsorted.read(length))
            file.write(b"\n]\n")
    return len(places)


def config(questions: Sequence[Question]) -> str:
    """The labelling interface, as XML."""
    lines = [f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>']
    for one in questions:
        about = quoteattr(f"${TEXT.format(one.name)}")
        lines.append(f'  <Header value={quoteattr(HEADERS[one.asked])} size="6"/>')
        lines.append(f'  <Header value={about} size="4"/>')
        is_caption = one.asked == "caption"
        name = VERDICT.format(one.name) if is_caption else one.name
        lines.append(_choices(name, CHOICES[one.asked]))
        if is_caption:
            lines.append(
                f'  <TextArea name={quoteattr(one.name)} toName="{IMAGE}" rows="2" '
                'editable="true" maxSubmissions="1" placeholder="A better caption"/>'
            )
    return "\n".join([*lines, "</View>\n"])


def _choices(name: str, values: Sequence[str]) -> str:
    entries = "".join(f"<Choice value={quoteattr(value)}/>" for value in values)
    return (
        f'  <Choices name={quoteattr(name)} toName="{IMAGE}" choice="single" showInline="true">'
        f"{entries}</Choices>"
    )


def _questions(selection: Selection) -> list[Question]:
    roles = selection.roles
    found = [Question(name, name, "caption") for name in roles.captions]
    found += [Question(one.column, one.column, "label") for one in roles.of_kind("entailment")]
    found += [Question(one.column, one.column, "match") for one in roles.of_kind("matcher")]
    for one in roles.of_kind("hypotheses"):
        found += _listed(selection, one.column, "label")
    for name in roles.tags:
        found += _listed(selection, name, "tag")
    return found


def _listed(selection: Selection, column: str, asked: Asked) -> list[Question]:
    """A question for each place of a column of lists."""
    count = _longest(selection, column)
    if count > MOST_LISTED:
        raise ConfigError(
            f"{selection.table.path}: {column!r} holds {count} entries in a row; at most "
            f"{MOST_LISTED} can be asked about"
        )
    return [Question(f"{column}_{n}", column, asked, n) for n in range(count)]


def _longest(selection: Selection, column: str) -> int:
    batches = selection.of_all_rows().batches([column])
    lengths = (pc.max(pc.list_value_length(batch[column])).as_py() for batch in batches)
    return max((length for length in lengths if length), default=0)


def _columns(selection: Selection) -> list[str]:
    roles = selection.roles
    keys = [key_column(name) for name in roles.keys]
    wanted = [IMAGE_ID, URI, *keys, *roles.texts.values(), *roles.quality_reads, *roles.tags]
    for source in roles.sources:
        wanted += [source.column, *source.reads]
    return [name for name in dict.fromkeys(wanted) if name in selection.columns]


def _tasks(
    selection: Selection, questions: Sequence[Question], folder: Path
) -> Iterator[tuple[float, dict[str, Any]]]:
    """The tasks with their scores, in the order of the table."""
    (folder / "images").mkdir()
    number = 0
    for batch in selection.batches(_columns(selection)):
        for first in range(0, batch.num_rows, PICTURES):
            rows = batch.slice(first, PICTURES)
            scores = [0.0 if score != score else score for score in _scores(selection, rows)]
            shown = _shown(selection, rows.to_pylist(), folder, number)
            for (row, image), score in zip(shown, scores, strict=True):
                if image is not None:
                    yield score, _task(selection, row, questions, image=image, score=score)
            number += rows.num_rows


def _scores(selection: Selection, rows: pa.Table) -> list[float]:
    scores: list[float] = selection.roles.quality(rows).tolist()
    return scores


def _shown(
    selection: Selection, rows: Sequence[dict[str, Any]], folder: Path, number: int
) -> list[tuple[dict[str, Any], str | None]]:
    """Rows and the addresses of their pictures; a row's uri is made one that holds anywhere."""
    places = [selection.place(row) for row in rows]
    here = [n for n, place in enumerate(places) if place is not None and place.kind == "file"]
    fetched = dict(zip(here, selection.fetch([rows[n] for n in here]), strict=True))
    found: list[tuple[dict[str, Any], str | None]] = []
    for n, (row, place) in enumerate(zip(rows, places, strict=True)):
        address: str | None = None
        if n in fetched and (image := fetched[n]) is not None:
            name = save_picture(image, folder / "images", number + n)
            path = f"{_final_name(folder)}/images/{name}"
            address = f"/data/local-files/?d={quote(path)}"
        elif place is not None and place.kind != "file":
            address = row[URI]
        found.append(({**row, URI: _uri(row, place)}, address))
    return found


def _final_name(folder: Path) -> str:
    """The name that the folder will have when the export is complete."""
    return folder.name.removeprefix(".").removesuffix(".writing")


def _uri(row: Mapping[str, Any], place: Place | None) -> str:
    return place.path if place is not None and place.kind == "file" else str(row[URI])


def _task(
    selection: Selection,
    row: Mapping[str, Any],
    questions: Sequence[Question],
    *,
    image: str,
    score: float,
) -> dict[str, Any]:
    told = {one.name: _asked(row, one, selection.roles.texts) for one in questions}
    asked = {name: one for name, one in told.items() if one is not None}
    data = {
        IMAGE: image,
        IMAGE_ID: row[IMAGE_ID],
        URI: row[URI],
        **{TEXT.format(one.name): NOTHING for one in questions},
        **{TEXT.format(name): one.text or one.label for name, one in asked.items()},
        QUESTIONS: {name: one.model_dump() for name, one in asked.items()},
    }
    results = [result for one in questions for result in _results(row, one)]
    prediction = {"model_version": _version(row, selection), "score": score, "result": results}
    return {"data": data, "predictions": [prediction]}


def _asked(
    row: Mapping[str, Any], question: Question, texts: Mapping[str, str]
) -> AskedQuestion | None:
    """What is asked of a row; None where it has nothing at that place."""
    column, asked = question.column, question.asked
    if question.place is not None:
        entries = row[column] or []
        if question.place >= len(entries):
            return None
        about = entries[question.place]["label" if asked == "tag" else "text"]
        hypothesis = None if asked == "tag" else about
        return AskedQuestion(asked=asked, label=about, text=None, hypothesis=hypothesis)
    if asked == "caption":
        return AskedQuestion(asked=asked, label=column, text=row[column], hypothesis=None)
    if asked == "match" and row[column] is None:
        return None
    text = row.get(texts.get(column, ""))
    hypothesis = text if asked == "label" else None
    return AskedQuestion(asked=asked, label=column, text=text, hypothesis=hypothesis)


def _results(row: Mapping[str, Any], question: Question) -> Iterator[dict[str, Any]]:
    """What the table answers."""
    answer = _answer(row, question)
    if answer is None:
        return
    is_caption = question.asked == "caption"
    yield {
        "id": question.name,
        "from_name": question.name,
        "to_name": IMAGE,
        "type": "textarea" if is_caption else "choices",
        "value": {"text" if is_caption else "choices": [answer]},
    }


def _answer(row: Mapping[str, Any], question: Question) -> str | None:
    """A caption or a choice; None where the row has no answer."""
    value = row[question.column]
    if question.place is not None:
        entry = value[question.place] if value and question.place < len(value) else None
        if entry is None:
            return None
        return "yes" if question.asked == "tag" else entry["label"]
    if question.asked == "match" and value is not None:
        return "yes" if value >= EVEN else "no"
    return None if value is None else str(value)


def _version(row: Mapping[str, Any], selection: Selection) -> str:
    """The operators that answered, by their keys."""
    keys = {name: row.get(key_column(name)) for name in selection.roles.keys}
    return " ".join(f"{name}={key}" for name, key in keys.items() if key) or "unknown"
