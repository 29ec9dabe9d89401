"""A small enriched table with pictures on disk, written without a run: for report and export."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import Schema, write_deltalake
from deltalake.transaction import AddAction, create_table_with_add_actions

from jobs.parts import REPORT, PartReport
from jobs.pictures import record_policy
from operators.base import fingerprint
from operators.embedded.scenes import describe, draw, draw_scenes
from operators.policy import Policy
from schemas.enriched import (
    ALTERNATIVES_TYPE,
    ENRICHED_AT_TYPE,
    ERROR_TYPE,
    HYPOTHESES_TYPE,
    TAGS_TYPE,
    VERDICTS_TYPE,
)

HYPOTHESES = ("there is a dog", "there is <b>writing</b>")
LABELS = ("yes", "no", "maybe")


class Reviewed:
    """A table of drawn scenes: `caption`, `holds`, `claims`, `match`, `tags`, `accept`.

    Every fourth caption is another scene's, and denied; the last two rows have errors.

    Args:
        folder: gets `pictures/` and `table/`.
        rows: of the table.
    """

    def __init__(self, folder: Path, rows: int = 12, seed: int = 0) -> None:
        self.folder, self.path, self.rows = folder, folder / "table", rows
        self.random = np.random.default_rng(seed)
        scenes = list(draw_scenes(rows, seed))
        (folder / "pictures").mkdir(parents=True)
        for n, scene in enumerate(scenes):
            draw(scene).save(folder / "pictures" / f"scene-{n}.png")
        self.truth = [describe(scene) for scene in scenes]
        self.is_wrong = np.arange(rows) % 4 == 3
        self.captions = [
            self.truth[n - 1] if wrong else self.truth[n] for n, wrong in enumerate(self.is_wrong)
        ]
        self.ids = [f"scene-{n}" for n in range(rows)]
        self.columns = self._columns()
        self.keys = self._keys()
        self.write()
        record_policy(str(self.path), Policy(manifest=str(folder / "manifest.parquet")))

    def write(self, *, report=None, **columns) -> None:
        """Writes the table, with other columns where given.

        Args:
            report: how each of two parts came about; None for one file that does not say.
            columns: by name; None for one that is left out.
        """
        keys = {f"{name}_key": [key] * self.rows for name, key in self.keys.items()}
        made = {**self.columns, **keys, **columns}
        table = pa.table({name: values for name, values in made.items() if values is not None})
        shutil.rmtree(self.path / "_delta_log", ignore_errors=True)
        if report is None:
            write_deltalake(str(self.path), table)
            return
        half = self.rows // 2
        actions = [self._part(n, table.slice(n * half, half), report) for n in range(2)]
        create_table_with_add_actions(str(self.path), Schema.from_arrow(table.schema), actions)

    def _part(self, number, rows, report):
        """Writes a part with its report, as a run does."""
        told = PartReport(shard=str(number), rows=len(rows), tried=len(rows), **report)
        path = self.path / "data" / "plan" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.replace_schema_metadata({REPORT: told.to_json().encode()}), path)
        stats = json.dumps({"numRecords": len(rows)})
        size, modified = path.stat().st_size, int(path.stat().st_mtime * 1000)
        return AddAction(f"data/plan/{number}.parquet", size, {}, modified, True, stats)

    def _columns(self):
        rows, random, wrong = self.rows, self.random, self.is_wrong
        denied = np.where(wrong, 0.8 + 0.15 * random.random(rows), 0.1 * random.random(rows))
        maybe = (1 - denied) * 0.1
        sure = np.where(wrong, 0.55, 0.97) - 0.1 * random.random(rows)
        entries = [
            [{"text": t, "label": "no", "yes": 0.1, "no": 0.7, "maybe": 0.2} for t in HYPOTHESES]
        ] * rows
        error = {"stage": "fetch", "code": "missing", "message": "no <such> file"}
        errors = [None] * (rows - 2) + [
            {**error, "transient": False, "attempts": 1},
            {**error, "stage": "caption", "code": "model", "transient": True, "attempts": 3},
        ]
        others = [
            [
                {"text": caption, "score": float(np.log(s))},
                {"text": "a <b>bold</b> dog", "score": -2.0},
            ]
            for caption, s in zip(self.captions, sure, strict=True)
        ]
        columns = {
            "image_id": pa.array(self.ids),
            "uri": pa.array([f"pictures/{name}.png" for name in self.ids[:-2]] + ["gone.png"] * 2),
            "image_width": pa.array([128] * rows, pa.int32()),
            "caption": pa.array(self.captions),
            "caption_score": pa.array(np.log(sure), pa.float32()),
            "caption_alternatives": pa.array(others, ALTERNATIVES_TYPE),
            "holds": pa.array(np.where(wrong, "no", "yes")),
            "holds_yes": pa.array(1 - denied - maybe, pa.float32()),
            "holds_no": pa.array(denied, pa.float32()),
            "holds_maybe": pa.array(maybe, pa.float32()),
            "claims": pa.array(entries, HYPOTHESES_TYPE),
            "match": pa.array(1 - denied, pa.float32()),
            "match_similarity": pa.array(1 - denied, pa.float32()),
            "tags": pa.array(
                [
                    [{"label": word, "answer": "yes", "yes": 0.9, "similarity": 0.3}]
                    for word in (caption.split()[-1] for caption in self.captions)
                ],
                TAGS_TYPE,
            ),
            "accept": pa.array(np.where(wrong, "review", "accepted")),
            "accept_reason": pa.array(np.where(wrong, "caption: not sure enough", "all sure")),
            "accept_verdicts": pa.array([[]] * rows, VERDICTS_TYPE),
            "embedding": pa.array([[0.6, 0.8]] * rows, pa.list_(pa.float32())),
            "enriched_at": pa.array([1_790_000_000_000_000 + n for n in range(rows)]).cast(
                ENRICHED_AT_TYPE
            ),
            "error": pa.array(errors, ERROR_TYPE),
        }
        has_failed = pa.array([one is not None for one in errors])
        kept = {"image_id", "uri", "error", "enriched_at"}
        return {
            name: column
            if name in kept
            else pc.if_else(has_failed, pa.scalar(None, column.type), column)
            for name, column in columns.items()
        }

    def _keys(self):
        return {
            "caption": self.record({"operator": "captioner", "options": {}}),
            "holds": self.record({"operator": "entailment", "options": {"hypothesis": "caption"}}),
            "claims": self.record(
                {"operator": "entailment", "options": {"hypotheses": list(HYPOTHESES)}}
            ),
            "match": self.record({"operator": "matcher", "options": {"text": "caption"}}),
            "tags": self.record({"operator": "tagger", "options": {}}),
            "embedding": self.record({"operator": "embedder", "options": {}}),
        }

    def record(self, description):
        return record(self.path, description)


def record(table: Path, description):
    """Says in a table what a key is made of; returns it."""
    key = fingerprint(description)
    path = table / "_tagline" / "operators" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key, "description": description}))
    return key
