"""Which rows a step learns from, and their images: fixed by the seed, whatever the workers.

An epoch is a shuffle of all rows, cut into batches as evenly as can be; a worker has its even share
of each batch, in parts. The images of the next steps are fetched while one is computed.
"""

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from operators.fetcher import Fetcher
from operators.finetuning.trainee import Batch, Trainee
from operators.finetuning.workers import Workers
from operators.images import decode
from schemas.enriched import IMAGE_SHA256, URI
from schemas.errors import RowFault, RunError

if TYPE_CHECKING:
    from PIL.Image import Image

AHEAD = 3  # steps that are being prepared at once
THREADS = 8

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order of a run.

    Args:
        rows: in all.
        batch: the most rows of a step, all workers together.
        seed: of the shuffles.
    """

    rows: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch is cut into."""
        return math.ceil(self.rows / self.batch)

    @property
    def smallest(self) -> int:
        """Rows of the smallest batch."""
        return self.rows // self.steps_per_epoch

    def steps(self, epochs: float) -> int:
        """Steps of so many epochs, at least 1."""
        return max(1, round(epochs * self.steps_per_epoch))

    def batch_of(self, step: int) -> Rows:
        """The rows of a step, from 0 on."""
        epoch, number = divmod(step, self.steps_per_epoch)
        shuffled = _shuffled(self.rows, self.seed, epoch)
        return np.array_split(shuffled, self.steps_per_epoch)[number]

    def parts_of(self, step: int, workers: Workers, parts: int) -> list[Rows]:
        """A worker's rows of a step, in parts; none is empty, but there may be none at all."""
        own = np.array_split(self.batch_of(step), workers.size)[workers.rank]
        return [part for part in np.array_split(own, parts) if len(part)]


@lru_cache(maxsize=2)  # the epoch that is computed, and the one that is fetched ahead
def _shuffled(rows: int, seed: int, epoch: int) -> Rows:
    return np.random.default_rng([seed, epoch]).permutation(rows).astype(np.int64)


class Loader:
    """Fetches and prepares the batches of a worker.

    Args:
        trainee: that makes tensors of rows.
        table: the rows, with `uri`, `image_sha256` and the targets.
        fetcher: of their images.
        order: which step has which rows.
        workers: which of them this is.
        parts: of a worker's rows of a step.
    """

    def __init__(
        self,
        trainee: Trainee,
        table: pa.Table,
        fetcher: Fetcher,
        *,
        order: Order,
        workers: Workers,
        parts: int,
    ) -> None:
        self.trainee, self.fetcher, self.order = trainee, fetcher, order
        self.workers, self.parts = workers, parts
        self.uris: list[str] = table[URI].to_pylist()
        self.numbers: list[int] = (
            table[IMAGE_SHA256].combine_chunks().dictionary_encode().indices.to_pylist()
        )
        self.targets = table.select(trainee.columns).to_pylist()

    def batches(self, first: int, steps: int) -> Generator[list[Batch]]:
        """Yields the parts of the steps from `first` up to `steps`, each fetched ahead.

        Raises:
            RunError: an image that was good when the run began is not there any more.
        """
        with ThreadPoolExecutor(AHEAD, "prepare") as preparer, ThreadPoolExecutor(THREADS) as pool:
            coming: list[Future[list[Batch]]] = []
            try:
                for step in range(first, steps):
                    while len(coming) <= AHEAD and step + len(coming) < steps:
                        ahead = step + len(coming)
                        coming.append(preparer.submit(self._prepare, ahead, pool))
                    yield coming.pop(0).result()
            finally:
                for future in coming:
                    future.cancel()

    def part(self, rows: Sequence[int], *, step: int | None = None) -> Batch:
        """Makes tensors of some rows, augmented where they are of a step."""
        with ThreadPoolExecutor(THREADS) as pool:
            return self._part(rows, step, pool)

    def _prepare(self, step: int, pool: ThreadPoolExecutor) -> list[Batch]:
        parts = self.order.parts_of(step, self.workers, self.parts)
        return [self._part(part.tolist(), step, pool) for part in parts]

    def _part(self, rows: Sequence[int], step: int | None, pool: ThreadPoolExecutor) -> Batch:
        images = list(pool.map(self._image, rows))
        targets = [self.targets[row] for row in rows]
        numbers = [self.numbers[row] for row in rows]
        draws = None
        if step is not None:
            draws = [Random(f"{self.order.seed} {step} {row}") for row in rows]
        return self.trainee.collate(images, targets, numbers, draws)

    def _image(self, row: int) -> "Image":
        uri = self.uris[row]
        try:
            encoded = self.fetcher.image(uri).encoded
            assert encoded is not None  # a single image always travels
            return decode(encoded, pixel_limit=self.fetcher.pixel_limit)
        except RowFault as fault:
            raise RunError(
                f"{uri!r} was good when the run began and is not now: {fault.message}; put it back "
                "and run the same command, which goes on from the last saved state"
            ) from fault
