"""Computing once what an operator cannot tell apart, in this call of `apply` and in others.

An operator's answer depends on nothing but the columns it reads, and the same sha256 is the same
image. So of rows with the same image and the same values of all else that is read, one is enough.
Calls that run at the same time, in other processes too, tell each other by way of `Answers`.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.columns import Outcome, Positions
from schemas.enriched import IMAGE_ENCODED, IMAGE_SHA256

DIGEST_BYTES = 16
LOT_SECONDS = 1.0  # of work that is claimed at once, so that nobody waits long for another
POLL_SECONDS = 0.02  # between two questions when all that is left is being computed elsewhere
WAIT_SECONDS = 120.0  # in which nothing comes; then nobody is waited for, whatever is said
MINE, THEIRS, OPEN = -1, -2, -3  # places of rows whose answer is not known

Compute = Callable[[Positions], Outcome]


@dataclass(frozen=True)
class Claim:
    """What there is of each digest that was asked about.

    Args:
        places: a row of `known`; or MINE, to be computed and published by who asked; THEIRS, being
            computed by another; OPEN, to be claimed later.
        known: answers; None when there are none.
    """

    places: Positions
    known: pa.Table | None = None


class Answers(Protocol):
    """What other calls of `apply` with the same operator have computed, or are about to.

    Whoever is told MINE computes at once and publishes before it claims again, so nobody waits for
    one who waits. A claim that is not honoured must lapse: what is THEIRS is then given to who asks
    next.
    """

    def claim(self, seen: Sequence[bytes], most: int) -> Claim:
        """Looks up digests, all different, and claims the first `most` that nobody has."""

    def publish(self, seen: Sequence[bytes], results: pa.Table) -> None:
        """Gives results to the others, a row each; what else was claimed is free again."""


def digests(
    key: str, reads: Sequence[str], table: pa.Table, positions: Positions, *, is_fetched: bool
) -> dict[int, bytes]:
    """Digests all that an operator sees of each row.

    Args:
        key: of the operator.
        reads: its columns; one that does not see the image costs too little to ask.
        table: with those columns and, where they are known, the images' sha256.
        positions: of the rows.
        is_fetched: whether an image that is not there will be fetched, and so be like one that is.

    Returns:
        By position; a row without sha256 has none.
    """
    if IMAGE_ENCODED not in reads or IMAGE_SHA256 not in table.column_names:
        return {}
    positions = positions[table[IMAGE_SHA256].take(positions).is_valid().to_numpy()]
    others = [name for name in reads if name not in (IMAGE_ENCODED, IMAGE_SHA256)]
    rows = table.select([IMAGE_SHA256, *others])
    if IMAGE_ENCODED in table.column_names and not is_fetched:
        rows = rows.append_column(IMAGE_ENCODED, pc.is_valid(table[IMAGE_ENCODED]))
    columns = [_values(column) for column in rows.take(positions).columns]
    return {
        position: _digest(repr((key, *row)).encode())
        for position, *row in zip(positions.tolist(), *columns, strict=True)
    }


def compute_once(
    compute: Compute,
    positions: Positions,
    seen: Mapping[int, bytes],
    *,
    answers: Answers | None,
    rows: int,
) -> Outcome:
    """Computes rows; those with the digest of one that is computed get a copy of its results.

    Where that one fails each is computed by itself, and has its own error.

    Args:
        compute: computes the rows at ascending positions.
        positions: of the rows, ascending.
        seen: their digests; rows without one are like no other.
        answers: of other calls.
        rows: of a micro-batch, so that what is claimed fills at least one.
    """
    first_of: dict[bytes, int] = {}
    firsts = np.array(
        [
            first_of.setdefault(seen[position], position) if position in seen else position
            for position in positions.tolist()
        ],
        np.int64,
    )
    is_repeat = firsts != positions
    alone = positions[~is_repeat]
    outcome = Outcome()
    if answers is not None:
        has_digest = np.array([position in seen for position in alone.tolist()], np.bool_)
        outcome.add(_compute_shared(compute, alone[has_digest], seen, answers=answers, rows=rows))
        alone = alone[~has_digest]
    outcome.add(compute(alone))
    outcome.add(compute(outcome.copy(positions[is_repeat], firsts[is_repeat])))
    return outcome


def _compute_shared(
    compute: Compute,
    positions: Positions,
    seen: Mapping[int, bytes],
    *,
    answers: Answers,
    rows: int,
) -> Outcome:
    """Computes lots of rows that nobody else has; the rest waits for its answers to the end."""
    outcome, waiting, most = Outcome(), positions, rows
    moved = time.perf_counter()
    while len(waiting):
        claim = answers.claim([seen[position] for position in waiting.tolist()], most)
        is_known, is_mine = claim.places >= 0, claim.places == MINE
        if claim.known is not None:
            known = claim.known.take(claim.places[is_known])
            outcome.settle(waiting[is_known], known, is_copied=True)
        mine, waiting = waiting[is_mine], waiting[~is_known & ~is_mine]
        begun = time.perf_counter()
        if not len(mine) and not is_known.any() and begun - moved > WAIT_SECONDS:
            mine, waiting = waiting, waiting[:0]
        if len(mine):
            outcome.add(_compute_and_publish(compute, mine, seen, answers))
            if time.perf_counter() - begun < LOT_SECONDS / 2:
                most *= 2
        elif len(waiting):
            time.sleep(POLL_SECONDS)
        if len(mine) or is_known.any():
            moved = time.perf_counter()
    return outcome


def _compute_and_publish(
    compute: Compute, mine: Positions, seen: Mapping[int, bytes], answers: Answers
) -> Outcome:
    done = Outcome()
    try:
        done = compute(mine)
    finally:
        computed = [seen[position] for position in done.computed().tolist()]
        answers.publish(computed, pa.concat_tables(done.results) if computed else pa.table({}))
    return done


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """A value a row whose repr tells it from others; of vectors a digest, as they are long."""
    kind = column.type
    if not pa.types.is_list(kind) or not pa.types.is_floating(kind.value_type):
        return column.to_pylist()  # type: ignore[no-any-return]
    vectors = column.combine_chunks()
    if vectors.values.null_count:
        return column.to_pylist()  # type: ignore[no-any-return]
    numbers, ends = vectors.values.to_numpy(), vectors.offsets.to_numpy()
    return [
        _digest(numbers[start:end].tobytes()) if is_there else None
        for start, end, is_there in zip(ends[:-1], ends[1:], vectors.is_valid(), strict=True)
    ]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
