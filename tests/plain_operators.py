"""Small operators that need no model, to test planning, running and committing with."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.base import fingerprint
from schemas.enriched import IMAGE_ENCODED
from schemas.errors import RowFault, RowFaults


class ByteDigest:
    """Writes the digest of an image's bytes: reads the image and nothing else.

    Args:
        version: another number makes another key.
        fails_on: rows whose bytes hold these fail.
        transient: whether such a failure may pass.
    """

    def __init__(
        self,
        *,
        name: str = "digest",
        version: int = 1,
        fails_on: bytes | None = None,
        transient: bool = False,
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.reads: tuple[str, ...] = (IMAGE_ENCODED,)
        self.writes = pa.schema([(name, pa.string()), (f"{name}_score", pa.float32())])
        self.batch_rows = 16
        self.fails_on = fails_on
        self.transient = transient
        self.description: Mapping[str, Any] = {"operator": "digest", "version": version}
        self.key = fingerprint(self.description)

    def load(self) -> None:
        return

    def __call__(self, table: pa.Table) -> pa.Table:
        encoded = table[IMAGE_ENCODED].to_pylist()
        fault = RowFault("model", "these bytes are not liked", transient=self.transient)
        bad = [i for i, data in enumerate(encoded) if self.fails_on and self.fails_on in data]
        if bad:
            raise RowFaults(dict.fromkeys(bad, fault))
        digests = [hashlib.sha256(data).hexdigest() for data in encoded]
        scores = [len(data) / 10 for data in encoded]
        return pa.table([digests, scores], schema=self.writes)


class UpperCase:
    """Writes a text column in capitals; rows where it is `bad` fail.

    Args:
        text: the column to read, of the manifest or of an operator before.
    """

    def __init__(
        self,
        *,
        text: str,
        name: str = "upper",
        version: int = 1,
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.texts = (text,)
        self.reads: tuple[str, ...] = self.texts
        self.writes = pa.schema([(name, pa.string())])
        self.batch_rows = 16
        self.description: Mapping[str, Any] = {
            "operator": "upper",
            "version": version,
            "text": text,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)

    def load(self) -> None:
        return

    def __call__(self, table: pa.Table) -> pa.Table:
        column = table[self.reads[0]]
        bad = [i for i, text in enumerate(column.to_pylist()) if text == "bad"]
        if bad:
            raise RowFaults(dict.fromkeys(bad, RowFault("model", "the text is bad")))
        return pa.table([pc.utf8_upper(column)], schema=self.writes)


CATALOG = {"digest": lambda: ByteDigest, "upper": lambda: UpperCase}
