"""`tagline apply`: one operator on a few images, here and now, without a cluster or a table.

The same fetcher and the same `operators.base.apply` as in a job, so an image gets the same answer
here. What the user types is allowed wherever it lies: any local path, S3, any public http(s)
address.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml
from rich.text import Text

from operators.base import Operator, apply
from operators.catalog import CATALOG, entry_faults
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.enriched import ERROR, URI
from schemas.errors import ConfigError, RowFault, RowFaults
from schemas.results import (
    CaptionedImage,
    EmbeddedImage,
    EmbeddedText,
    FailedRow,
    JudgedText,
    MatchedText,
    Result,
    RowError,
    ScoredText,
)

GROUP_ROWS = 64  # images fetched together; their answers are given before the next are fetched
MATCHED_IMAGES = 16  # fetched together for a matcher, fewer where there are many texts
TEXT = "text"
PREMISE = "premise"
GIVEN_BY = {  # what the command's own arguments decide
    "use": "OPERATOR",
    "model": "--model",
    "hypothesis": "--text",
    "hypotheses": "--text",
    "text": "--text",
    "premise": "--text2",
}


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        operator: a name of `operators.catalog.CATALOG`.
        model: a directory, `embedded:NAME`, an s3:// directory or a hub's id.
        images: paths or uris.
        texts: what an entailment checker judges, a matcher matches or an embedder embeds.
        premise: what is known besides the image; the published `text2`.
        options: of the operator, by name.
    """

    operator: str
    model: str
    images: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    premise: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def run(request: Request) -> Iterator[Result]:
    """Answers image by image and, for each image, text by text, in the order given.

    A `FailedRow` stands in place of each answer that an image, or one of its texts, spoils. An
    embedder gives the images first, then the texts. The model is loaded before anything is
    answered.

    Raises:
        ConfigError: no such operator or option, or one that needs images or texts and got none; or
            an argument is not UTF-8.
        ModelError: the model is missing, damaged or of another task.
    """
    answerers = {
        "captioner": _captions,
        "entailment": _judgements,
        "embedder": _embeddings,
        "matcher": _matches,
    }
    if request.operator not in CATALOG or request.operator not in answerers:
        faults = entry_faults({"use": request.operator})
        raise ConfigError("; ".join(faults) or f"apply cannot run {request.operator!r} yet")
    _check_arguments(request)
    answer: Callable[[Request], Iterator[Result]] = answerers[request.operator]
    return answer(request)


def read_options(settings: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` settings; a value is YAML, so that 5 is a number and true a truth.

    Raises:
        ConfigError: a setting has no `=`, or its value is not YAML.
    """
    options = {}
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"--set {setting!r} is not key=value, such as beam_size=3")
        try:
            options[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting!r}: the value is not YAML: {error}") from error
    return options


def _check_arguments(request: Request) -> None:
    """Refuses bytes that are no text: neither a table nor a line of JSON can hold them."""
    given = (*request.images, *request.texts, request.premise or "")
    faults = [
        f"{argument!r} is not UTF-8; rename the file, or type the text in UTF-8"
        for argument in given
        if any("\ud800" <= character <= "\udfff" for character in argument)
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _captions(request: Request) -> Iterator[Result]:
    _refuse_texts(request)
    _need_images(request)
    return _answers(request, _operator(request), _caption)


def _caption(image: str, row: Mapping[str, Any]) -> list[Result]:
    alternatives = tuple(ScoredText(**sentence) for sentence in row["captioner_alternatives"])
    text, score = row["captioner"], row["captioner_score"]
    return [CaptionedImage(image=image, text=text, score=score, alternatives=alternatives)]


def _judgements(request: Request) -> Iterator[Result]:
    _need_images(request)
    if not request.texts:
        raise ConfigError("entailment judges texts: give at least one --text")
    operator = _operator(request, hypotheses=list(request.texts), premise=_premise(request))
    return _judged(request, operator)


def _judged(request: Request, operator: Operator) -> Iterator[Result]:
    """Judges all texts of an image together and, where that fails, each by itself."""
    alone: Operator | None = None
    for result in _answers(request, operator, _judgement):
        if not isinstance(result, FailedRow):
            yield result
        elif result.error.stage == request.operator and len(request.texts) > 1:
            alone = alone or _operator(request, hypothesis=TEXT, premise=_premise(request))
            for text in request.texts:
                yield _judged_alone(request, alone, str(result.image), text)
        else:
            yield from (result.model_copy(update={"text": text}) for text in request.texts)


def _judged_alone(request: Request, operator: Operator, image: str, text: str) -> Result:
    row = _rows(request, operator, [image], {TEXT: text})[0]
    if row[ERROR]:
        return FailedRow(image=image, text=text, error=RowError(**row[ERROR]))
    found = {label: row[f"entailment_{label}"] for label in ("yes", "no", "maybe")}
    return JudgedText(image=image, text=text, label=row["entailment"], **found)


def _judgement(image: str, row: Mapping[str, Any]) -> list[Result]:
    return [JudgedText(image=image, **judged) for judged in row["entailment"]]


def _matches(request: Request) -> Iterator[Result]:
    if request.premise is not None:
        raise ConfigError("matcher takes no --text2; give each text as a --text")
    _need_images(request)
    if not request.texts:
        raise ConfigError("matcher matches images with texts: give at least one --text")
    return _matched(request, _operator(request, text=TEXT))


def _matched(request: Request, operator: Any) -> Iterator[Result]:
    """Matches a few images with all texts, so that rows of one image are neighbours."""
    together = max(1, min(MATCHED_IMAGES, GROUP_ROWS // len(request.texts)))
    for start in range(0, len(request.images), together):
        images = request.images[start : start + together]
        found: list[list[Result]] = [[] for _ in images]
        for begin in range(0, len(request.texts), GROUP_ROWS):
            texts = request.texts[begin : begin + GROUP_ROWS]
            rows = _matched_rows(operator, images, texts)
            for at, image in enumerate(images):
                some = rows[at * len(texts) : (at + 1) * len(texts)]
                found[at] += [
                    _match(operator, image, text, row)
                    for text, row in zip(texts, some, strict=True)
                ]
        for results in found:
            yield from results


def _matched_rows(
    operator: Operator, images: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    fetcher = Fetcher([operator], Policy(is_typed=True))
    fetched = fetcher(pa.table({URI: pa.array(images, pa.string())}))
    table = fetched.take([at for at in range(len(images)) for _ in texts])
    table = table.append_column(TEXT, pa.array(list(texts) * len(images), pa.string()))
    done = apply(operator, table, fetch=fetcher.fill, batch_rows=GROUP_ROWS)
    return done.select([*operator.writes.names, ERROR]).to_pylist()  # type: ignore[no-any-return]


def _match(operator: Any, image: str, text: str, row: Mapping[str, Any]) -> Result:
    if row[ERROR]:
        return FailedRow(image=image, text=text, error=RowError(**row[ERROR]))
    return MatchedText(
        image=image,
        text=text,
        score=row["matcher"],
        similarity=row["matcher_similarity"],
        is_cut=operator.is_cut(text) or None,
    )


def _embeddings(request: Request) -> Iterator[Result]:
    if request.premise is not None:
        raise ConfigError("embedder takes no --text2; give each text as a --text")
    if not request.images and not request.texts:
        raise ConfigError("embedder needs an image or a --text")
    return _embedded(request, _operator(request))


def _embedded(request: Request, operator: Any) -> Iterator[Result]:
    yield from _answers(request, operator, _embedding)
    found: dict[int, Result] = {}
    positions = list(range(len(request.texts)))
    while positions:
        try:
            vectors = operator.embed_texts([request.texts[at] for at in positions]).tolist()
        except RowFaults as error:
            failed = {positions[at]: fault for at, fault in error.faults.items()}
            found.update((at, _failed_text(request, at, fault)) for at, fault in failed.items())
            positions = [at for at in positions if at not in failed]
        else:
            for at, vector in zip(positions, vectors, strict=True):
                found[at] = EmbeddedText(text=request.texts[at], embedding=vector)
            break
    yield from (found[at] for at in range(len(request.texts)))


def _embedding(image: str, row: Mapping[str, Any]) -> list[Result]:
    return [EmbeddedImage(image=image, embedding=row["embedder"])]


def _failed_text(request: Request, at: int, fault: RowFault) -> FailedRow:
    error = RowError(
        stage=request.operator,
        code=fault.code,
        message=fault.message,
        transient=fault.transient,
        attempts=1,
    )
    return FailedRow(text=request.texts[at], error=error)


def _answers(
    request: Request,
    operator: Operator,
    read: Callable[[str, Mapping[str, Any]], list[Result]],
) -> Iterator[Result]:
    """Runs the operator over the images, a group at a time."""
    for start in range(0, len(request.images), GROUP_ROWS):
        images = request.images[start : start + GROUP_ROWS]
        for image, row in zip(images, _rows(request, operator, images), strict=True):
            if row[ERROR]:
                yield FailedRow(image=image, error=RowError(**row[ERROR]))
            else:
                yield from read(image, row)


def _rows(
    request: Request,
    operator: Operator,
    images: Sequence[str],
    texts: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    table = pa.table({URI: pa.array(images, pa.string())})
    for name, text in {**(texts or {}), PREMISE: request.premise}.items():
        table = table.append_column(name, pa.repeat(pa.scalar(text, pa.string()), len(images)))
    fetcher = Fetcher([operator], Policy(is_typed=True))
    done = apply(operator, fetcher(table), fetch=fetcher.fill)
    return done.select([*operator.writes.names, ERROR]).to_pylist()  # type: ignore[no-any-return]


def _operator(request: Request, **given: Any) -> Any:
    """Builds the operator and reads its weights; what `GIVEN_BY` names may not be set as well."""
    given = {name: value for name, value in given.items() if value is not None}
    entry = {**request.options, **given, "use": request.operator, "model": request.model}
    faults = [
        f"{name!r} is given by {argument}, not by --set"
        for name, argument in GIVEN_BY.items()
        if name in request.options
    ]
    faults += entry_faults(entry)
    if faults:
        raise ConfigError("\n".join(faults))
    build = CATALOG[request.operator]()
    operator = build(request.model, name=request.operator, **request.options, **given)
    operator.load()
    return operator


def _premise(request: Request) -> str | None:
    return None if request.premise is None else PREMISE


def _need_images(request: Request) -> None:
    if not request.images:
        raise ConfigError(f"{request.operator} needs at least one image: a path or a uri")


def _refuse_texts(request: Request) -> None:
    if request.texts or request.premise is not None:
        raise ConfigError(f"{request.operator} takes no --text and no --text2")


def lines(result: Result) -> list[Text]:
    """Tells a result to people; text of images and models is never taken for markup."""
    if isinstance(result, FailedRow):
        what = " ".join(filter(None, (result.image, result.text and repr(result.text))))
        error = result.error
        return [Text.assemble((what, "bold"), "  ", (f"{error.code}: {error.message}", "red"))]
    if isinstance(result, CaptionedImage):
        told = f"{result.text}  ({result.score:.3f})"
        others = [f"    {other.text}  ({other.score:.3f})" for other in result.alternatives]
        return [Text.assemble((result.image, "bold"), "  ", told), *map(Text, others)]
    if isinstance(result, JudgedText):
        odds = f"yes {result.yes:.3f}, no {result.no:.3f}, maybe {result.maybe:.3f}"
        judged = ("  ", (result.label, "bold green"), f"  {result.text!r}  ({odds})")
        return [Text.assemble((result.image, "bold"), *judged)]
    if isinstance(result, MatchedText):
        odds = f"(similarity {result.similarity:.3f})" + (", cut" if result.is_cut else "")
        matched = ("  ", (f"{result.score:.3f}", "bold green"), f"  {result.text!r}  {odds}")
        return [Text.assemble((result.image, "bold"), *matched)]
    what = result.image if isinstance(result, EmbeddedImage) else repr(result.text)
    first = ", ".join(f"{number:.3f}" for number in result.embedding[:4])
    return [Text.assemble((what, "bold"), f"  {len(result.embedding)} numbers: {first}, …")]


if __name__ == "__main__":
    from jobs.cli import main

    main(["apply"])
