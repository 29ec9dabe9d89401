"""Tells an evaluation: figures with their intervals, beside what the models' cards report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.bootstrap import CONFIDENCE, RESAMPLES
from jobs.judging import Evaluation, Interval
from jobs.reported import Reported, Task, reported
from schemas.errors import ConfigError

_RECALLS = (("r1", "R@1", 1), ("r5", "R@5", 1), ("r10", "R@10", 1), ("mean_recall", "MR", 1))
_COLUMNS: dict[Task, tuple[tuple[str, str, int], ...]] = {  # figure, heading, factor
    "captions": (
        ("CIDEr", "CIDEr", 100),
        *((f"Bleu_{n}", f"BLEU-{n}", 100) for n in (1, 2, 3, 4)),
        ("ROUGE_L", "ROUGE-L", 100),
    ),
    "entailment": (
        ("accuracy", "accuracy", 100),
        *((label, label, 100) for label in ("entailment", "neutral", "contradiction")),
    ),
    "t2i": _RECALLS,
    "i2t": _RECALLS,
    "classification": (("accuracy", "top-1", 100),),
}
_MOST_LABELS = 12  # of a confusion table that is printed


@dataclass(frozen=True)
class Report:
    """An evaluation and what it was made of.

    Args:
        task: what was judged.
        evaluation: the figures.
        annotations: where the truth comes from.
        predictions: where the answers come from.
    """

    task: Task
    evaluation: Evaluation
    annotations: str
    predictions: str

    def to_json(self) -> dict[str, Any]:
        """All of it; `scores` is what `--json` prints."""
        return {
            "task": self.task,
            "annotations": self.annotations,
            "predictions": self.predictions,
            "count": self.evaluation.count,
            "scores": self.evaluation.answer,
            "intervals": self.evaluation.intervals,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "reported": [asdict(one) for one in reported(self.task)],
        }

    def to_markdown(self) -> str:
        """Tables for people: the figures in percent, then the confusion where labels are few."""
        columns = _COLUMNS[self.task]
        rows = [
            ["", *(heading for _, heading, _ in columns), "data", "how measured"],
            self._measured(columns),
            *(_reported(one, columns) for one in reported(self.task)),
        ]
        note = (
            f"In percent, CIDEr times 100; in brackets where {CONFIDENCE:.0%} of "
            f"{RESAMPLES:,} bootstrap resamples lie."
        )
        return "\n\n".join([_table(rows), note, *self._confusion()]) + "\n"

    def _measured(self, columns: Sequence[tuple[str, str, int]]) -> list[str]:
        answer = {**self.evaluation.answer, **self.evaluation.answer.get("per_label", {})}
        cells = [
            _cell(answer[figure], self.evaluation.intervals.get(figure), factor)
            for figure, _, factor in columns
        ]
        return [
            "**measured**",
            *cells,
            f"{self.annotations} ({self.evaluation.count:,})",
            self.predictions,
        ]

    def _confusion(self) -> list[str]:
        confusion = self.evaluation.answer.get("confusion", {})
        answers = list(dict.fromkeys(label for row in confusion.values() for label in row))
        if not confusion or len({*confusion, *answers}) > _MOST_LABELS:
            return []
        rows = [["true \\ answered", *answers]]
        rows += [
            [true, *(f"{row.get(answer, 0):,}" for answer in answers)]
            for true, row in confusion.items()
        ]
        return [_table(rows)]


def check_path(path: Path | None) -> Path | None:
    """Refuses a file that a report cannot be written to, before anything is computed.

    Raises:
        ConfigError: its suffix is neither .json nor .md.
    """
    if path is not None and path.suffix not in (".json", ".md"):
        raise ConfigError(f"--report {path}: the suffix must be .json or .md")
    return path


def write(report: Report, path: Path) -> None:
    """Writes a report, as JSON or Markdown after the file's suffix."""
    if path.suffix == ".json":
        text = json.dumps(report.to_json(), ensure_ascii=False, indent=2) + "\n"
    else:
        text = report.to_markdown()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _reported(one: Reported, columns: Sequence[tuple[str, str, int]]) -> list[str]:
    cells = [_cell(one.figures.get(figure), None, factor) for figure, _, factor in columns]
    return [f"reported, {one.model}", *cells, one.split, one.protocol]


def _cell(value: float | None, interval: Interval, factor: int) -> str:
    if value is None:
        return "–"
    told = f"{value * factor:.1f}"
    if interval is None:
        return told
    return f"{told} ({interval[0] * factor:.1f}–{interval[1] * factor:.1f})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
