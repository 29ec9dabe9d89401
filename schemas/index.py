"""What a search index remembers of the table it was made of: its file `tagline.json`.

The file is replaced in one step when an index is complete and names the version that answers, so
a reader sees the index before a run or after it, and nothing between.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

VECTOR = "tagline_vector"  # columns of an index that no table has
WORDS = "tagline_words"
DIGEST = "tagline_digest"
INDEX_COLUMNS = (VECTOR, WORDS, DIGEST)


class IndexState(BaseModel):
    """An index as it answers.

    Args:
        table: path of the enriched table, and `table_id`, Delta's own name of it.
        version: of that table.
        files: its data files at that version; what they held is in the index.
        column: of the vectors.
        key: of the embedder that made them, and `description`, what the key is made of.
        model: where that embedder's model was, and `matcher`, that of the table's matcher.
        stored: name of LanceDB's table, and `stored_version` the version that answers.
        copied: the table's columns that it has too, of which `captions` are those of sentences and
            `labels` those of labels.
        left_out: rows that are not in the index, by reason.
        trained_rows: in the index when its approximate search was trained; 0 searches every row.
        changed: rows that came, changed or went since then, and `unmeasured` since the recall was.
        recall: of the first 10, against searching every row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    table: str
    table_id: str
    version: int
    files: tuple[str, ...]
    column: str
    key: str
    description: Mapping[str, Any]
    model: str | None
    matcher: str | None
    stored: str
    stored_version: int
    rows: int
    copied: tuple[str, ...]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: Mapping[str, int]
    trained_rows: int = 0
    changed: int = 0
    unmeasured: int = 0
    recall: float = 1.0


def with_index_columns(schema: pa.Schema, dimension: int) -> pa.Schema:
    """Adds the columns that an index has of its own."""
    return pa.schema(
        [
            *schema,
            pa.field(DIGEST, pa.int64()),
            pa.field(WORDS, pa.string()),
            pa.field(VECTOR, pa.list_(pa.float32(), dimension)),
        ]
    )
