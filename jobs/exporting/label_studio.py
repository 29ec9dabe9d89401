"""Label Studio: `tasks.json` with the table's answers as predictions, and the `config.xml` beside.

People are asked of each caption whether it is right, and for a better one; of each label what it
should be. Tasks come with the least sure first, which is also their prediction's score. What was
asked lies in the task's `data.questions`, so that `jobs.import_labels` knows what an answer means.

A picture in a bucket or on a host keeps its uri; a local one is copied to `images/` and named as
Label Studio serves local files, with the folder that holds the exported one as document root.

Sources: https://labelstud.io/guide/predictions, /guide/task_format, /guide/storage#Local-storage,
/tags/choices and /tags/textarea.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.compute as pc

from jobs.exporting.selection import PICTURES, Selection, as_json, save_picture
from operators.claims import LABELS
from operators.policy import Place
from schemas.enriched import IMAGE_ID, URI, key_column
from schemas.errors import ConfigError
from schemas.label_studio import AskedQuestion

IMAGE = "image"  # the name of the picture's tag, and of its key in a task
RIGHT, WRONG = "right", "wrong"  # what a person may say of a caption
VERDICT = "{}_is"  # the name of the choice between the two
TEXT = "{}_text"  # the key of what a question is about
QUESTIONS = "questions"
MOST_HYPOTHESES = 50

Asked = Literal["caption", "label"]


@dataclass(frozen=True)
class Question:
    """What is asked of each picture.

    Args:
        name: of the control's tag.
        column: of the table that answers it.
        asked: for a better caption, or for a label.
        place: in the column's list of hypotheses; None where it holds no list.
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
        lines.append(f'  <Header value={about} size="4"/>')
        if one.asked == "caption":
            lines.append(_choices(VERDICT.format(one.name), (RIGHT, WRONG)))
            lines.append(
                f'  <TextArea name={quoteattr(one.name)} toName="{IMAGE}" rows="2" '
                'editable="true" maxSubmissions="1" placeholder="A better caption"/>'
            )
        else:
            lines.append(_choices(one.name, LABELS))
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
    for one in roles.of_kind("hypotheses"):
        count = _longest(selection, one.column)
        if count > MOST_HYPOTHESES:
            raise ConfigError(
                f"{selection.table.path}: {one.column!r} holds {count} hypotheses; at most "
                f"{MOST_HYPOTHESES} can be asked about"
            )
        found += [Question(f"{one.column}_{n}", one.column, "label", n) for n in range(count)]
    return found


def _longest(selection: Selection, column: str) -> int:
    batches = selection.of_all_rows().batches([column])
    lengths = (pc.max(pc.list_value_length(batch[column])).as_py() for batch in batches)
    return max((length for length in lengths if length), default=0)


def _columns(selection: Selection) -> list[str]:
    roles = selection.roles
    keys = [key_column(name) for name in roles.keys]
    wanted = [IMAGE_ID, URI, *keys, *roles.texts.values(), *roles.quality_reads]
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
    asked = {one.name: _asked(row, one, selection.roles.texts) for one in questions}
    data = {
        IMAGE: image,
        IMAGE_ID: row[IMAGE_ID],
        URI: row[URI],
        **{TEXT.format(name): one.text or one.label for name, one in asked.items()},
        QUESTIONS: {name: one.model_dump() for name, one in asked.items()},
    }
    results = [result for one in questions for result in _results(row, one)]
    prediction = {"model_version": _version(row, selection), "score": score, "result": results}
    return {"data": data, "predictions": [prediction]}


def _asked(row: Mapping[str, Any], question: Question, texts: Mapping[str, str]) -> AskedQuestion:
    column = question.column
    if question.place is not None:
        entry = _entry(row, question)
        about = entry["text"] if entry else None
        return AskedQuestion(asked="label", label=about or "", text=None, hypothesis=about)
    if question.asked == "caption":
        return AskedQuestion(asked="caption", label=column, text=row[column], hypothesis=None)
    text = row.get(texts.get(column, ""))
    return AskedQuestion(asked="label", label=column, text=text, hypothesis=text)


def _results(row: Mapping[str, Any], question: Question) -> Iterator[dict[str, Any]]:
    """What the table answers."""
    entry = _entry(row, question)
    is_listed = question.place is not None
    answer = (entry["label"] if entry else None) if is_listed else row[question.column]
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


def _entry(row: Mapping[str, Any], question: Question) -> Mapping[str, Any] | None:
    """The entry of a list of hypotheses; None where the list has none at that place."""
    if question.place is None:
        return None
    entries: Sequence[Mapping[str, Any]] = row[question.column] or []
    return entries[question.place] if question.place < len(entries) else None


def _version(row: Mapping[str, Any], selection: Selection) -> str:
    """The operators that answered, by their keys."""
    keys = {name: row.get(key_column(name)) for name in selection.roles.keys}
    return " ".join(f"{name}={key}" for name, key in keys.items() if key) or "unknown"
