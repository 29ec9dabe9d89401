"""What LanceDB wrote between two versions of an index."""

from pathlib import Path

import lancedb

from jobs.index_store import read_state


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
