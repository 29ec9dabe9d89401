"""Brings people's answers in Label Studio back: as gold for `calibrate`, or rows for `finetune`.

It reads what Label Studio exports as JSON of tasks that `tagline export --to labelstudio` made.
A skipped task is no answer. Of several answers of one person the last counts; people who agree
count once, and what they disagree on is left out and listed.

Source: https://labelstud.io/guide/task_format
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from jobs import storage
from jobs.exporting.label_studio import CHOICES, IMAGE, RIGHT, VERDICT, WRONG
from jobs.gold import FALSE, LABEL, TEXT, TRUE, TRUTH
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError, DatasetError
from schemas.label_studio import Annotation, AskedQuestion, Task, TaskData

Purpose = Literal["calibrate", "captioner", "entailment"]
COLUMNS: Mapping[Purpose, tuple[str, ...]] = {
    "calibrate": (IMAGE_ID, LABEL, TRUTH, TEXT),
    "captioner": (IMAGE_ID, URI, "caption"),
    "entailment": (IMAGE_ID, URI, "hypothesis", "label"),
}


@dataclass(frozen=True)
class Answer:
    """What one person said to one question about one picture.

    Args:
        data: of the task.
        name: of the question.
        question: itself.
        said: a label; of a caption whether it is right, None where that was not said.
        caption: the better one, or the same; None where none was given.
    """

    data: TaskData
    name: str
    question: AskedQuestion
    said: str | None
    caption: str | None


@dataclass(frozen=True)
class Disagreement:
    """What people did not agree on.

    Args:
        image_id: of the picture.
        label: what was asked.
        answers: what they said, as often as they did.
    """

    image_id: str
    label: str
    answers: Mapping[str, int]


@dataclass(frozen=True)
class Imported:
    """What was brought back.

    Args:
        path: of the file.
        purpose: what it is for.
        rows: in it.
        tasks: in the export.
        unanswered: tasks that nobody answered.
        skipped: annotations that say that a task was skipped.
        disagreements: left out.
    """

    path: str
    purpose: Purpose
    rows: int
    tasks: int
    unanswered: int
    skipped: int
    disagreements: tuple[Disagreement, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "file": self.path,
            "for": self.purpose,
            "rows": self.rows,
            "tasks": self.tasks,
            "unanswered": self.unanswered,
            "skipped": self.skipped,
            "disagreements": [asdict(one) for one in self.disagreements],
        }


def run(export: str, to: str, *, purpose: Purpose = "calibrate") -> Imported:
    """Reads an export of Label Studio and writes a Parquet file.

    Args:
        export: the JSON file, local or `s3://`.
        to: the file to write, ending in `.parquet`.
        purpose: one of `COLUMNS`.

    Raises:
        ConfigError: an argument cannot be.
        DatasetError: the file is no such export, or nobody answered anything in it.
    """
    if not to.endswith(".parquet"):
        raise ConfigError(f"--to {to!r}: give a name that ends in .parquet")
    tasks = _read_tasks(export)
    answers: list[Answer] = []
    skipped = unanswered = 0
    for n, task in enumerate(tasks):
        given = [one for one in task.annotations if not one.was_cancelled]
        skipped += len(task.annotations) - len(given)
        unanswered += not given
        answers += _answers(task.data, _latest(given), f"{export}: task {n + 1}")
    rows, disagreements = _rows(answers, purpose)
    if not rows:
        raise DatasetError(
            f"{export}: nothing in it is of use for {purpose}: {len(tasks)} tasks, {unanswered} "
            f"without an answer, {len(disagreements)} answers that people disagree on"
        )
    schema = pa.schema([(name, pa.string()) for name in COLUMNS[purpose]])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    storage.write_bytes(storage.normalise(to), sink.getvalue().to_pybytes())
    return Imported(to, purpose, len(rows), len(tasks), unanswered, skipped, tuple(disagreements))


def _read_tasks(export: str) -> list[Task]:
    path = storage.normalise(export)
    data = None if Path(path).is_dir() else storage.read_bytes(path)
    if data is None:
        raise DatasetError(f"{export}: no such file; export the project in Label Studio as JSON")
    try:
        return TypeAdapter(list[Task]).validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        at = list(first["loc"])
        task = f"task {int(at[0]) + 1}: " if at else ""
        place = ".".join(map(str, at[1:]))
        told = f"{place}: {first['msg']}" if place else first["msg"]
        raise DatasetError(
            f"{export}: {task}{told}; give what Label Studio exports as JSON (not JSON_MIN) of "
            "tasks that `tagline export --to labelstudio` made"
        ) from error


def _latest(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Each person's last annotation; one that names nobody is a person of its own."""
    by: dict[str, Annotation] = {}
    for n, one in enumerate(sorted(annotations, key=lambda one: one.updated_at or "")):
        person = one.completed_by
        person = person.get("id") if isinstance(person, dict) else person
        by[f"nobody {n}" if person is None else str(person)] = one
    return list(by.values())


def _answers(data: TaskData, annotations: Sequence[Annotation], where: str) -> list[Answer]:
    found = []
    for annotation in annotations:
        said = _said(annotation, where)
        for name, question in data.questions.items():
            is_caption = question.asked == "caption"
            verdict = said.get(VERDICT.format(name) if is_caption else name)
            caption = said.get(name) if is_caption else None
            if verdict is not None:
                _check(verdict, CHOICES[question.asked], f"{where}: {name}")
            if verdict is not None or caption is not None:
                found.append(Answer(data, name, question, verdict, caption))
    return found


def _said(annotation: Annotation, where: str) -> dict[str, str]:
    """What an annotation says, by the name of the control."""
    said: dict[str, str] = {}
    for region in annotation.result:
        told = region.value.get("choices", region.value.get("text"))
        texts = [told] if isinstance(told, str) else list(told or ())
        if not texts or region.to_name != IMAGE:
            continue
        name, text = region.from_name, str(texts[0]).strip()
        if len(texts) > 1 or said.get(name, text) != text:
            raise DatasetError(f"{where}: {name} has several answers to one question; keep one")
        said[name] = text
    return {name: text for name, text in said.items() if text}


def _check(said: str, allowed: Sequence[str], where: str) -> None:
    if said not in allowed:
        raise DatasetError(f"{where} is {said!r}; it may be {', '.join(allowed)}")


def _rows(
    answers: Sequence[Answer], purpose: Purpose
) -> tuple[list[dict[str, str | None]], list[Disagreement]]:
    """The rows that people agree on, and what they do not."""
    makers = {"calibrate": _gold, "captioner": _captions, "entailment": _pairs}
    grouped: dict[tuple[str, str], list[tuple[str, dict[str, str | None]]]] = {}
    for answer in answers:
        for told, row in makers[purpose](answer):
            grouped.setdefault((answer.data.image_id, answer.name), []).append((told, row))
    rows, disagreements = [], []
    for (image, _), several in grouped.items():
        counts = Counter(told for told, _ in several)
        if len(counts) == 1:
            rows.append(several[0][1])
        else:
            label = several[0][1].get(LABEL) or several[0][0]
            disagreements.append(Disagreement(image, str(label), dict(counts)))
    return rows, disagreements


def _gold(answer: Answer) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Whether the table is right: what people said of it, and the row."""
    if answer.said is None:
        return
    truth = {RIGHT: TRUE, WRONG: FALSE}.get(answer.said, answer.said)
    asked = answer.question
    made = {LABEL: asked.label, TRUTH: truth, TEXT: asked.text}
    yield answer.said, {IMAGE_ID: answer.data.image_id, **made}


def _captions(answer: Answer) -> Iterator[tuple[str, dict[str, str | None]]]:
    """A caption that a person wrote, or called right; one that is called wrong is none."""
    if answer.question.asked != "caption":
        return
    shown = answer.question.text
    caption = answer.caption or shown
    if caption and (caption != shown or answer.said == RIGHT):
        yield caption, {**_picture(answer), "caption": caption}


def _pairs(answer: Answer) -> Iterator[tuple[str, dict[str, str | None]]]:
    """A hypothesis and its label."""
    hypothesis = answer.question.hypothesis
    if answer.said is not None and hypothesis:
        yield answer.said, {**_picture(answer), "hypothesis": hypothesis, "label": answer.said}


def _picture(answer: Answer) -> dict[str, str | None]:
    return {IMAGE_ID: answer.data.image_id, URI: answer.data.uri}


if __name__ == "__main__":
    from jobs.cli import main

    main(["import-labels"])
