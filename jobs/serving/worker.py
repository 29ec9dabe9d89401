"""One loaded operator that answers batches of rows by `operators.base.apply`, as a job does.

A row is a dictionary by column. One without an image but with a text asks an embedder about the
text. Nothing here knows Ray: `deployments.py` puts a worker into a replica, tests call it directly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from operators.base import Operator, apply
from schemas.enriched import ERROR, IMAGE_ENCODED, key_column

TEXT = "text"
IS_CUT = "is_cut"  # of a text that a matcher did not read to its end

Row = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What became of a row: the operator's columns, its key and `error`.

    Args:
        batch_rows: how many rows were answered together; 0 but for the first of them.
    """

    row: Row
    batch_rows: int


class Worker:
    """Answers rows.

    Args:
        operator: of the chain.
        types: of the columns it may read; the others are texts.
    """

    def __init__(self, operator: Operator, types: pa.Schema) -> None:
        self.operator = operator
        self.texts = TextEmbedder(operator) if hasattr(operator, "embed_texts") else None
        self.types = types
        operator.load()

    def answer(self, rows: Sequence[Row]) -> list[Reply]:
        """Answers rows in their order; one that cannot be computed carries `error`."""
        found: dict[int, Row] = {}
        askable: list[tuple[Operator, bool]] = [(self.operator, False)]
        askable += [(self.texts, True)] if self.texts else []
        for operator, is_of_texts in askable:
            asked = [at for at, row in enumerate(rows) if self._is_text(row) == is_of_texts]
            if asked:
                some = self._applied(operator, [rows[at] for at in asked])
                found.update(zip(asked, some, strict=True))
        return [Reply(found[at], 0 if at else len(rows)) for at in range(len(rows))]

    def _is_text(self, row: Row) -> bool:
        """Whether a row asks an embedder about a text; another operator may read such a column."""
        return self.texts is not None and IMAGE_ENCODED not in row

    def _applied(self, operator: Operator, rows: Sequence[Row]) -> list[Row]:
        columns = {
            name: pa.array([row[name] for row in rows], self._type(name)) for name in operator.reads
        }
        table = pa.table(columns) if columns else pa.table({TEXT: [None] * len(rows)})
        done = apply(operator, table, batch_rows=len(rows))
        kept = done.select([*operator.writes.names, key_column(operator.name), ERROR]).to_pylist()
        return [self._with_cuts(row, asked) for row, asked in zip(kept, rows, strict=True)]

    def _with_cuts(self, row: Row, asked: Row) -> Row:
        matcher: Any = self.operator
        if row[ERROR] or not hasattr(matcher, "is_cut"):
            return row
        return {**row, IS_CUT: matcher.is_cut(asked[matcher.text])}

    def _type(self, name: str) -> pa.DataType:
        if name == IMAGE_ENCODED:
            return pa.large_binary()
        return self.types.field(name).type if name in self.types.names else pa.string()


class TextEmbedder:
    """An embedder's texts as an operator, so that a bad text harms no other in its batch."""

    reads: tuple[str, ...] = (TEXT,)

    def __init__(self, embedder: Any) -> None:
        self.embedder = embedder
        self.name: str = embedder.name
        self.key: str = embedder.key
        self.description: Mapping[str, Any] = embedder.description
        self.writes: pa.Schema = embedder.writes
        self.batch_rows: int = embedder.batch_rows

    def load(self) -> None:
        """Reads the weights, unless they are there."""
        self.embedder.load()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embeds the text of every row; raises RowFaults as an embedder does."""
        vectors = self.embedder.embed_texts(table[TEXT].to_pylist())
        return pa.table([pa.array(vectors.tolist(), pa.list_(pa.float32()))], schema=self.writes)
