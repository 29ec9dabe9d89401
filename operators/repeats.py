"""Finding rows for which an operator would compute the same again.

An operator's answer depends on nothing but the columns it reads, and the same sha256 is the same
image. So of rows with the same image and the same values of all else that is read, one is enough.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.columns import Positions
from schemas.enriched import IMAGE_ENCODED, IMAGE_SHA256


def first_alike(table: pa.Table, positions: Positions, reads: Sequence[str]) -> Positions:
    """Finds for each row the first one that an operator cannot tell from it.

    Args:
        table: with the columns that are read and, where they are known, the images' sha256.
        positions: of the rows, ascending.
        reads: columns of the operator; one that does not see the image costs too little to ask.

    Returns:
        For each of `positions` one of them, not after it; a row without sha256 is its own.
    """
    if IMAGE_ENCODED not in reads or IMAGE_SHA256 not in table.column_names:
        return positions
    digests = table[IMAGE_SHA256].take(positions)
    counts = pc.value_counts(digests.drop_null())
    is_twice = pc.greater(counts.field("counts"), 1)
    doubled = pc.is_in(digests, value_set=counts.field("values").filter(is_twice))
    found, firsts = positions.copy(), dict[str, int]()
    places = np.flatnonzero(doubled.to_numpy())
    for place, seen in zip(places, _seen(table, positions[places], reads), strict=True):
        found[place] = firsts.setdefault(seen, int(positions[place]))
    return found


def _seen(table: pa.Table, positions: Positions, reads: Sequence[str]) -> list[str]:
    """All that an operator sees of each row; of the image its sha256, and whether it is there."""
    others = [name for name in reads if name not in (IMAGE_ENCODED, IMAGE_SHA256)]
    rows = table.select([IMAGE_SHA256, *others])
    if IMAGE_ENCODED in table.column_names:
        rows = rows.append_column(IMAGE_ENCODED, pc.is_valid(table[IMAGE_ENCODED]))
    return [repr(row) for row in rows.take(positions).to_pylist()]
