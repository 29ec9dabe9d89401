"""Enriched tables written directly, with columns, keys and records as `enrich` writes them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from operators.base import fingerprint
from schemas.enriched import (
    ALTERNATIVES_TYPE,
    ENRICHED_AT_TYPE,
    ERROR_TYPE,
    HYPOTHESES_TYPE,
    TAGS_TYPE,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("caption", pa.string()),
        ("caption_score", pa.float32()),
        ("caption_alternatives", ALTERNATIVES_TYPE),
        ("caption_key", pa.string()),
        ("entailment", pa.string()),
        ("entailment_yes", pa.float32()),
        ("entailment_no", pa.float32()),
        ("entailment_maybe", pa.float32()),
        ("entailment_key", pa.string()),
        ("claims", HYPOTHESES_TYPE),
        ("claims_key", pa.string()),
        ("tags", TAGS_TYPE),
        ("tags_key", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("embedding_key", pa.string()),
        ("error", ERROR_TYPE),
        ("enriched_at", ENRICHED_AT_TYPE),
    ]
)
ERROR = {"stage": "fetch", "code": "missing", "message": "", "transient": False, "attempts": 1}
EMBEDDER = {"operator": "embedder", "code": 1, "weights": "b" * 64, "options": {"rounding": "none"}}


def unit_vectors(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    """Vectors in random directions."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class EnrichedTable:
    """A table of images `image-0`, `image-1`, …

    Args:
        folder: where it lies.
        captions: of the images.
        vectors: of the images; random ones when absent.
        embedder: what the embedder's key is made of.
    """

    def __init__(self, folder: Path, captions, vectors=None, embedder=None, model=None):
        self.folder = folder
        self.key = self.record(embedder or EMBEDDER, model)
        vectors = unit_vectors(len(captions)) if vectors is None else vectors
        told = enumerate(zip(captions, vectors, strict=True))
        self.rows = [self.row(n, *pair) for n, pair in told]
        self.append(self.rows)

    def record(self, description, model=None) -> str:
        """Says what a key is made of; returns it."""
        key = fingerprint(description)
        path = self.folder / "_tagline" / "operators" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "description": description, "model": model}))
        return key

    def row(self, n, caption, vector, **columns):
        """One row, healthy."""
        label = ("yes", "no", "maybe")[n % 3]
        claim = {"text": "it is raining", "label": label, "yes": 0.5, "no": 0.3, "maybe": 0.2}
        tag = {"label": ("动物", "fruit")[n % 2], "answer": "yes", "yes": 0.9, "similarity": 0.4}
        return {
            "image_id": f"image-{n}",
            "uri": f"pictures/{n}.png",
            "caption": caption,
            "caption_score": -0.5,
            "caption_alternatives": [{"text": caption, "score": -0.5}],
            "caption_key": "c" * 16,
            "entailment": label,
            "entailment_yes": 0.5,
            "entailment_no": 0.3,
            "entailment_maybe": 0.2,
            "entailment_key": "e" * 16,
            "claims": [claim],
            "claims_key": "d" * 16,
            "tags": [tag] if n % 4 else [],
            "tags_key": "f" * 16,
            "embedding": vector,
            "embedding_key": self.key,
            "error": None,
            "enriched_at": START,
            **columns,
        }

    def changed(self, row, **columns):
        """A row as a later run computes it."""
        return {**row, "enriched_at": row["enriched_at"] + timedelta(hours=1), **columns}

    def append(self, rows) -> None:
        """Adds rows as another data file."""
        self._write(rows, mode="append")

    def replace(self, rows) -> None:
        """Puts rows in the place of those with the same ids, as `enrich` does: in new files."""
        ids = {row["image_id"] for row in rows}
        self.remove(ids)
        self.append(rows)

    def remove(self, ids) -> None:
        """Deletes rows; the file they lay in is written anew without them."""
        quoted = ", ".join(f"'{one}'" for one in ids)
        DeltaTable(str(self.folder)).delete(f"image_id IN ({quoted})")

    def compact(self) -> None:
        """Joins all data files into one: the same rows, another file."""
        DeltaTable(str(self.folder)).optimize.compact()

    def _write(self, rows, mode) -> None:
        write_deltalake(str(self.folder), pa.Table.from_pylist(rows, SCHEMA), mode=mode)
