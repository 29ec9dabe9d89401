"""What the actors of a run tell each other, so that a picture is computed once in all its shards.

One actor of Ray, the board, keeps the latest results and knows who is computing what. It lives as
long as the shards are run. Nothing depends on it: without it each actor computes for itself.
"""

import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from operators.base import Operator
from operators.repeats import DIGEST_BYTES, MINE, OPEN, THEIRS, Claim
from schemas.enriched import IMAGE_ENCODED

KEPT_BYTES = 256_000_000  # of results; those that nobody asked for longest are forgotten
ENTRY_BYTES = 300  # that Python takes to know one digest
FIRST_LAPSE_SECONDS = 20.0  # of a claim, while nobody knows how long the operator takes
LAPSE_SECONDS = (10.0, 60.0)  # at least and at most, afterwards
LAPSE_FACTOR = 4  # times the longest that a lot of this operator has taken
CALL_SECONDS = 30.0  # for an answer from the board; it takes about a millisecond

Claimant = tuple[str, str]  # the operator's name, the actor

logger = logging.getLogger(__name__)


@contextmanager
def board_of(operators: Sequence[Operator], *, shards: int) -> Iterator[Any]:
    """Keeps a board for the length of a `with`, on the driver's node.

    Yields:
        The actor; None where there is nothing to share: one shard, or no operator sees the image.
    """
    if shards < 2 or not any(IMAGE_ENCODED in operator.reads for operator in operators):
        yield None
        return
    here = ray.get_runtime_context().get_node_id()
    place = NodeAffinitySchedulingStrategy(here, soft=True)
    options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": place}
    board: Any = ray.remote(Board).options(**options).remote()
    try:
        yield board
    finally:
        ray.kill(board)


class SharedAnswers:
    """`operators.repeats.Answers` of one operator in one actor, by way of the board."""

    def __init__(
        self, board: Any, name: str, on_claim: Callable[[], object] = lambda: None
    ) -> None:
        self._board, self._on_claim = board, on_claim
        actor = ray.get_runtime_context().get_actor_id()  # the same when it is started again
        self._claimant: Claimant = (name, str(actor))

    def claim(self, seen: Sequence[bytes], most: int) -> Claim:
        """Asks the board; without one, whatever is asked for is to be computed here."""
        self._on_claim()
        if self._board is not None:
            try:
                call = self._board.claim.remote(self._claimant, b"".join(seen), most)
                places, known = ray.get(call, timeout=CALL_SECONDS)
                return Claim(np.frombuffer(places, np.int64), _read(known) if known else None)
            except ray.exceptions.RayError as error:
                name, reason = self._claimant[0], type(error).__name__
                logger.warning("event=answers_not_shared operator=%s reason=%s", name, reason)
                self._board = None
        return Claim(np.where(np.arange(len(seen)) < most, MINE, OPEN))

    def publish(self, seen: Sequence[bytes], results: pa.Table) -> None:
        """Tells the board, and does not wait for it."""
        if self._board is not None:
            self._board.publish.remote(self._claimant, b"".join(seen), _written(results))


@dataclass(frozen=True)
class _Block:
    """The results of one lot."""

    seen: Sequence[bytes]
    results: pa.Table
    size: int


class Board:
    """Which digests have an answer, and which are being computed, since when and by whom.

    An actor computes what it claimed before it asks again, so by asking it gives up what it had
    claimed: it was started again, or what it published was lost. The claims of an actor that is
    dead, or very slow, lapse.
    """

    def __init__(
        self, kept_bytes: int = KEPT_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept_bytes, self._now = kept_bytes, now
        self._blocks: OrderedDict[int, _Block] = OrderedDict()  # the one used last at the end
        self._blocks_made = self._size = 0
        self._places: dict[bytes, tuple[int, int]] = {}  # block and row
        self._claimants: dict[bytes, Claimant] = {}
        self._claims: dict[Claimant, tuple[float, Sequence[bytes]]] = {}
        self._slowest: dict[str, float] = {}  # seconds by operator

    def claim(self, claimant: Claimant, seen: bytes, most: int) -> tuple[bytes, bytes | None]:
        """As of `Answers.claim`: places as int64, answers as an Arrow stream."""
        self._end_claim(claimant)
        places = np.full(len(seen) // DIGEST_BYTES, OPEN, np.int64)
        mine: list[bytes] = []
        found = defaultdict[int, list[tuple[int, int]]](list)
        for at, digest in enumerate(_split(seen)):
            if place := self._places.get(digest):
                found[place[0]].append((at, place[1]))
            elif self._is_claimed(digest):
                places[at] = THEIRS
            elif len(mine) < most:
                places[at] = MINE
                mine.append(digest)
        if mine:
            self._claims[claimant] = (self._now(), mine)
            self._claimants.update(dict.fromkeys(mine, claimant))
        answers = self._answers(found, places)
        return places.tobytes(), answers

    def publish(self, claimant: Claimant, seen: bytes, results: bytes) -> None:
        """As of `Answers.publish`."""
        begun, _ = self._claims.get(claimant, (self._now(), ()))
        seconds = max(self._now() - begun, self._slowest.get(claimant[0], 0.0))
        self._slowest[claimant[0]] = seconds
        self._end_claim(claimant)
        if seen:
            self._keep(_Block(_split(seen), _read(results), len(results)))

    def _is_claimed(self, digest: bytes) -> bool:
        claimant = self._claimants.get(digest)
        if claimant is None:
            return False
        least, most = LAPSE_SECONDS
        lapse = FIRST_LAPSE_SECONDS
        if claimant[0] in self._slowest:
            lapse = min(most, max(least, LAPSE_FACTOR * self._slowest[claimant[0]]))
        return self._now() - self._claims[claimant][0] < lapse

    def _end_claim(self, claimant: Claimant) -> None:
        _, claimed = self._claims.pop(claimant, (0.0, ()))
        for digest in claimed:
            if self._claimants.get(digest) == claimant:  # else it lapsed and is another's
                del self._claimants[digest]

    def _keep(self, block: _Block) -> None:
        self._blocks_made += 1
        self._blocks[self._blocks_made] = block
        places = [(self._blocks_made, row) for row in range(len(block.seen))]
        self._places.update(zip(block.seen, places, strict=True))
        self._size += block.size + ENTRY_BYTES * len(block.seen)
        while self._size > self._kept_bytes:
            number, oldest = self._blocks.popitem(last=False)
            self._size -= oldest.size + ENTRY_BYTES * len(oldest.seen)
            for digest in oldest.seen:
                if self._places.get(digest, (0, 0))[0] == number:
                    del self._places[digest]

    def _answers(
        self, found: dict[int, list[tuple[int, int]]], places: np.ndarray[Any, np.dtype[np.int64]]
    ) -> bytes | None:
        """Collects answers by block, and numbers them in `places`."""
        tables, rows = [], 0
        for number, wanted in found.items():
            self._blocks.move_to_end(number)
            tables.append(self._blocks[number].results.take([row for _, row in wanted]))
            places[[at for at, _ in wanted]] = np.arange(rows, rows + len(wanted))
            rows += len(wanted)
        return _written(pa.concat_tables(tables)) if tables else None


def _split(seen: bytes) -> list[bytes]:
    return [seen[at : at + DIGEST_BYTES] for at in range(0, len(seen), DIGEST_BYTES)]


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _read(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
