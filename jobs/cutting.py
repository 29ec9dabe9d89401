"""Cuts what a plan decided into shards and writes them.

Rows of the table come first, in the order of its data files: a data file that fits into what is
left of a shard goes into it whole, a larger one gets shards of its own. New rows follow in the
manifest's order. The names of the files hold a digest of their content, so that two drivers that
cut the same plan differently, for another number of actors, never mix: the first plan.json counts.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import storage
from jobs.decision import FILE, NEEDS_IMAGE, ROW, STALE
from jobs.shards import PART_SCHEMA, SOURCE, SOURCE_ROW, Shard
from jobs.staleness import Comparison
from schemas.enriched import ATTEMPTS, ERROR, IMAGE_SIZE, IN_FLIGHT_SCHEMA, IS_DUE

SHARD_ROWS = 512
SHARD_IMAGE_BYTES = 128_000_000  # expected, encoded
SHARD_SECONDS = 120.0  # of work, by what is known of the operators' speed
SHARDS_PER_ACTOR = 16  # so that no stage waits long for its first shard, nor for the last ones
LEAST_SHARDS_PER_ACTOR = 4  # where the other would make shards of less than
WORTHWHILE_ROWS = 32  # two batches of an operator
BATCH_ROWS = 16_384
FILE_SHARDS = 64  # row groups in one file of shards
FILE_BYTES = 64_000_000


@dataclass(frozen=True)
class Limits:
    """How large a shard may be; a single row may pass all but `rows`.

    Args:
        rows: of any kind.
        due: rows to be computed.
        image_bytes: expected encoded bytes.
        seconds: expected work.
    """

    rows: int
    due: int
    image_bytes: float
    seconds: float


def limits_for(due: int, actors: int) -> Limits:
    """The limits that give every actor sixteen shards, or four where rows are few.

    Args:
        due: rows to be computed in all.
        actors: of the largest pool.
    """
    actors = max(1, actors)
    few = min(WORTHWHILE_ROWS, due // (LEAST_SHARDS_PER_ACTOR * actors))
    share = max(1, few, due // (SHARDS_PER_ACTOR * actors))
    return Limits(SHARD_ROWS, min(SHARD_ROWS, share), SHARD_IMAGE_BYTES, SHARD_SECONDS)


@dataclass(frozen=True)
class Expectation:
    """What a row is expected to cost.

    Args:
        image_bytes: of an image whose size is not known.
        seconds: of each operator for one row.
    """

    image_bytes: float
    seconds: Mapping[str, float]


def cut(
    comparison: Comparison,
    *,
    directory: str,
    schema: pa.Schema,
    limits: Limits,
    expectation: Expectation,
) -> tuple[Shard, ...]:
    """Writes the shards of a plan.

    Args:
        comparison: decided.
        directory: of the plan.
        schema: of the parts.
        limits: of a shard.
        expectation: by which the limits are applied.

    Returns:
        The shards in order, all in the store.
    """
    paths = [file.path for file in comparison.files]
    writer = _Writer(directory, paths, _shard_schema(comparison, schema))
    for blocks in (
        comparison.existing_rows(BATCH_ROWS),
        comparison.new_rows(BATCH_ROWS),
    ):
        for rows, load in _cut_stream(blocks, comparison, limits, expectation):
            writer.add(rows, load)
    return writer.finish()


def _shard_schema(comparison: Comparison, schema: pa.Schema) -> pa.Schema:
    """The columns a shard's file holds: identity, decisions, the manifest's columns, keys."""
    keys = [pa.field(column, pa.string()) for column in comparison.key_columns]
    fields = [
        *comparison.manifest.schema,
        *keys,
        schema.field(ERROR),
        IN_FLIGHT_SCHEMA.field(IS_DUE),
        IN_FLIGHT_SCHEMA.field(ATTEMPTS),
        pa.field(SOURCE, pa.string()),
        pa.field(SOURCE_ROW, pa.int64()),
    ]
    return pa.schema(fields, metadata={PART_SCHEMA: schema.serialize().to_pybytes()})


@dataclass
class _Load:
    """What a run of rows weighs, against the limits."""

    rows: int = 0
    due: int = 0
    image_bytes: float = 0.0
    seconds: float = 0.0

    def fits(self, limits: Limits) -> bool:
        return (
            self.rows <= limits.rows
            and self.due <= limits.due
            and self.image_bytes <= limits.image_bytes
            and self.seconds <= limits.seconds
        )

    def __add__(self, other: "_Load") -> "_Load":
        return _Load(
            self.rows + other.rows,
            self.due + other.due,
            self.image_bytes + other.image_bytes,
            self.seconds + other.seconds,
        )


def _cut_stream(
    batches: Iterator[pa.RecordBatch],
    comparison: Comparison,
    limits: Limits,
    expectation: Expectation,
) -> Iterator[tuple[pa.Table, _Load]]:
    """Yields the rows of one shard after the other, and what they weigh."""
    waiting: list[pa.Table] = []
    load = _Load()
    for rows in _whole_files(batches):
        weights = _weights(rows, comparison, expectation)
        whole = _sum(weights, 0, rows.num_rows)
        if rows[FILE][0].is_valid and waiting and not (load + whole).fits(limits):
            yield pa.concat_tables(waiting), load
            waiting, load = [], _Load()
        start = 0
        while start < rows.num_rows:
            end = _reach(weights, start, load, limits)
            if end > start:
                waiting.append(rows.slice(start, end - start))
                load = load + _sum(weights, start, end)
            if end < rows.num_rows:
                yield pa.concat_tables(waiting), load
                waiting, load = [], _Load()
            start = end
        if whole.rows and not whole.fits(limits) and waiting and rows[FILE][0].is_valid:
            yield pa.concat_tables(waiting), load  # what is left of a file that was cut stays alone
            waiting, load = [], _Load()
    if waiting:
        yield pa.concat_tables(waiting), load


def _whole_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroups ordered rows so that a data file comes as one; new rows come as they are."""
    held: list[pa.Table] = []
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        file = rows[FILE]
        if not rows.num_rows:
            continue
        if file.null_count:
            yield rows
            continue
        starts = np.flatnonzero(np.diff(file.to_numpy())) + 1
        for start, end in zip([0, *starts], [*starts, rows.num_rows], strict=True):
            piece = rows.slice(start, end - start)
            if held and held[-1][FILE][0] != piece[FILE][0]:
                yield pa.concat_tables(held)
                held = []
            held.append(piece)
    if held:
        yield pa.concat_tables(held)


Weights = npt.NDArray[np.float64]  # (4, rows + 1): running sums of rows, due, bytes, seconds


def _weights(rows: pa.Table, comparison: Comparison, expectation: Expectation) -> Weights:
    due = rows[IS_DUE].to_numpy().astype(np.float64)
    size = pc.fill_null(rows[IMAGE_SIZE].cast(pa.float64()), expectation.image_bytes).to_numpy()
    image_bytes = np.where(rows[NEEDS_IMAGE].to_numpy(), size, 0.0)
    seconds = np.zeros(rows.num_rows)
    for op in comparison.operators:
        seconds += rows[STALE + op.name].to_numpy() * expectation.seconds[op.name]
    each = np.stack([np.ones(rows.num_rows), due, image_bytes, seconds])
    return np.concatenate([np.zeros((4, 1)), np.cumsum(each, axis=1)], axis=1)


def _sum(weights: Weights, start: int, end: int) -> _Load:
    rows, due, image_bytes, seconds = weights[:, end] - weights[:, start]
    return _Load(int(rows), round(due), float(image_bytes), float(seconds))


def _reach(weights: Weights, start: int, load: _Load, limits: Limits) -> int:
    """How far a shard that holds `load` reaches from `start`; at least one row when empty."""
    room = [
        limits.rows - load.rows,
        limits.due - load.due,
        limits.image_bytes - load.image_bytes,
        limits.seconds - load.seconds,
    ]
    ends = [
        int(np.searchsorted(running, running[start] + left + 1e-6, side="right")) - 1
        for running, left in zip(weights, room, strict=True)
    ]
    return max(min(ends), start + (load.rows == 0))


@dataclass
class _Writer:
    """Collects shards into files of row groups.

    Args:
        directory: of the plan.
        paths: of the table's data files, by position.
        schema: of the rows in the files.
    """

    directory: str
    paths: list[str]
    schema: pa.Schema
    files: int = 0
    held: list[pa.Table] = field(default_factory=list)
    held_bytes: int = 0
    shards: list[Shard] = field(default_factory=list)

    def add(self, rows: pa.Table, load: _Load) -> None:
        """Takes the rows of a shard; writes a file when enough of them wait."""
        positions = rows[FILE].combine_chunks()
        sources = pa.array(self.paths, pa.string()).take(positions)
        columns = [
            sources if name == SOURCE else rows[ROW if name == SOURCE_ROW else name]
            for name in self.schema.names
        ]
        columns = [c.cast(f.type) for c, f in zip(columns, self.schema, strict=True)]
        self.held.append(pa.table(columns, schema=self.schema))
        self.held_bytes += self.held[-1].nbytes
        self.shards.append(
            Shard(
                id=f"{len(self.shards):06d}",
                rows=rows.num_rows,
                due=load.due,
                images=pc.sum(rows[NEEDS_IMAGE]).as_py() or 0,
                image_bytes=round(load.image_bytes),
                file="",
                row_group=len(self.held) - 1,
                sources=tuple(
                    self.paths[at] for at in pc.unique(positions.drop_null()).to_pylist()
                ),
            )
        )
        if len(self.held) >= FILE_SHARDS or self.held_bytes >= FILE_BYTES:
            self._write()

    def finish(self) -> tuple[Shard, ...]:
        """Writes what still waits."""
        if self.held:
            self._write()
        return tuple(self.shards)

    def _write(self) -> None:
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, self.schema, compression="zstd") as writer:
            for rows in self.held:
                writer.write_table(rows, row_group_size=rows.num_rows)
        data = buffer.getvalue()
        name = f"rows-{self.files:05d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        storage.put_if_absent(storage.join(self.directory, name), data)
        start = len(self.shards) - len(self.held)
        self.shards[start:] = [replace(shard, file=name) for shard in self.shards[start:]]
        self.files += 1
        self.held, self.held_bytes = [], 0
