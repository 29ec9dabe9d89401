"""What an index answers, and what LanceDB wrote between two versions of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lancedb

from jobs.image_index import ImageIndex
from jobs.index_store import read_state
from tests.enriched_tables import unit_vectors


def rows_of(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What answers: the rows of the index by id, as a search sees them."""
    opened = ImageIndex(str(folder))
    hits = opened.nearest(unit_vectors(1)[0], limit=1000)
    assert len(hits) == opened.state.rows
    return {hit.image_id: hit.columns for hit in hits}


def written_since(folder: Path, version: int) -> set[str]:
    """The image_ids of rows that lie elsewhere than at a version: each write places rows anew."""
    state = read_state(str(folder))
    return {image for _, image in _places(folder, state.stored_version) - _places(folder, version)}


def _places(folder: Path, version: int) -> set[tuple[int, str]]:
    state = read_state(str(folder))
    table = lancedb.connect(folder).open_table(state.stored)
    table.checkout(version)
    rows = table.search().select(["image_id"]).with_row_id(True).limit(None).to_arrow()
    return set(zip(rows["_rowid"].to_pylist(), rows["image_id"].to_pylist(), strict=True))
