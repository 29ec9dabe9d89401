"""The folder of a fine-tuning: what a killed run goes on from, its curve, its list of bad images.

Beside the model directory, which `output` itself becomes, there are `output/_training/` (the state,
gone when the run is done), `curve.jsonl`, `skipped.jsonl` and `tensorboard/`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.models.checkpoint import WEIGHT_FILES, write_json
from schemas.errors import ConfigError
from schemas.finetune import FinetuneConfig

FREE_TO_CHANGE = (
    "limits",
    "allow",
    "save_seconds",
    "workers",
)  # between a run and its continuation
RECORD = "training.json"


@dataclass
class Progress:
    """How far a run has come; saved with the weights.

    Args:
        step: steps taken.
        best: the best value of the metric so far; None before the first validation.
        best_step: after which it was measured.
        training_seconds: over all sittings, validations not counted.
        shown: images, each as often as it was.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    training_seconds: float = 0.0
    shown: int = 0


@dataclass(frozen=True)
class RunFolder:
    """The places of a run."""

    output: Path
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "work", self.output / "_training")

    @property
    def curve(self) -> Path:
        """Lines of figures, one a step or validation."""
        return self.output / "curve.jsonl"

    @property
    def skipped(self) -> Path:
        """Lines of images that were left out, and why."""
        return self.output / "skipped.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.output / "tensorboard"

    @property
    def state(self) -> Path:
        """What a killed run goes on from."""
        return self.work / "state.pt"

    @property
    def candidate(self) -> Path:
        """The directory that is being validated."""
        return self.work / "candidate"

    @property
    def beginning(self) -> Path:
        """The model that training begins with, where it is not the config's own."""
        return self.work / "beginning"

    @property
    def rows(self) -> Path:
        """The rows of both splits, checked."""
        return self.work / "rows"

    def open(self, config: FinetuneConfig) -> None:
        """Begins a run, or goes on with the one that is there.

        Raises:
            ConfigError: the folder holds a run of another config, or something else.
        """
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"output {str(self.output)!r} is a file; a model is a folder")
        asked = config.model_dump(mode="json")
        known = self._known_config()
        if known is None and self.output.is_dir() and any(self.output.iterdir()):
            raise ConfigError(
                f"output {str(self.output)!r} holds something else already; give another folder"
            )
        changed = [
            name
            for name in asked
            if known is not None and name not in FREE_TO_CHANGE and known.get(name) != asked[name]
        ]
        if changed and self._has_begun():
            raise ConfigError(
                f"output {str(self.output)!r} holds a run that differs in {', '.join(changed)}; "
                "go on with its config, or give another output"
            )
        if changed:
            shutil.rmtree(self.work)
        if not (self.output / RECORD).is_file():
            self.work.mkdir(parents=True, exist_ok=True)
            write_json(self.work / "config.json", asked)

    def finished(self) -> dict[str, Any] | None:
        """The record of a run that is done; None where it is not."""
        path = self.output / RECORD
        shutil.rmtree(self.work.with_name("_finished"), ignore_errors=True)
        if self.work.exists() or not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def finish(self, record: Mapping[str, Any]) -> None:
        """Writes the record and removes what only a killed run needs.

        The folder loses its name in one move: a run is done or can be gone on with.
        """
        write_json(self.output / RECORD, record)
        done = self.work.with_name("_finished")
        os.replace(self.work, done)
        shutil.rmtree(done)

    def publish(self) -> None:
        """Makes the candidate the output: one move a file, the weights last."""
        files = sorted(self.candidate.iterdir(), key=lambda path: path.name in WEIGHT_FILES)
        for path in files:
            os.replace(path, self.output / path.name)
        self.candidate.rmdir()

    def read_curve(self) -> list[dict[str, Any]]:
        """All lines of the curve; one that is still being written is left out."""
        if not self.curve.is_file():
            return []
        lines = self.curve.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def follow_curve(self) -> "CurveFollower":
        """Reads the curve as it grows."""
        return CurveFollower(self.curve)

    def cut_curve(self, step: int) -> None:
        """Drops what comes after a step: it will be computed again."""
        kept = [line for line in self.read_curve() if line["step"] <= step]
        fresh = self.curve.with_name(f"{self.curve.name}.new")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(fresh, self.curve)

    def keep_rows(self, name: str, table: pa.Table) -> None:
        """Writes checked rows for the workers."""
        self.rows.mkdir(parents=True, exist_ok=True)
        fresh = self.rows / f"{name}.new"
        pq.write_table(table, fresh)
        os.replace(fresh, self._rows_of(name))

    def has_rows(self, name: str) -> bool:
        """Whether `keep_rows` wrote them."""
        return self._rows_of(name).is_file()

    def kept_rows(self, name: str) -> pa.Table:
        """Reads what `keep_rows` wrote."""
        return pq.read_table(self._rows_of(name))

    def _rows_of(self, name: str) -> Path:
        return self.rows / f"{name}.parquet"

    def _has_begun(self) -> bool:
        """Whether there are steps that another config must not go on from."""
        return self.state.is_file() or (self.output / RECORD).is_file()

    def _known_config(self) -> dict[str, Any] | None:
        for path in (self.work / "config.json", self.output / RECORD):
            if path.is_file():
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return found.get("config", {}) if path.name == RECORD else found
        return None


class CurveFollower:
    """Reads a curve that another process writes, each line once."""

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.file = path, 0, 0

    def read_on(self) -> tuple[list[dict[str, Any]], bool]:
        """The lines that were added, and whether they are the curve from its beginning.

        They are once more where the file was replaced, because a run went on from an earlier step.
        """
        if not self.path.is_file():
            return [], True
        with self.path.open("rb") as lines:
            file = os.fstat(lines.fileno()).st_ino
            is_other = file != self.file
            self.file, self.place = file, 0 if is_other else self.place
            lines.seek(self.place)
            whole, newline, _ = lines.read().rpartition(b"\n")
        self.place += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()], is_other
