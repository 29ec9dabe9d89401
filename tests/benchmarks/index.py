"""How long an index takes, and what its search finds, where vectors are at their worst.

    python -m tests.benchmarks.index [--rows 100000] [--dimension 768]

Vectors point in random directions, so that no two images are alike and no cluster helps; but each
of 200 queries has ten neighbours planted at cosines between 0.3 and 0.9. Told are the seconds to
build, recall@10 of the planted queries and of random ones against numpy's own search of all rows,
the time of a query, and what an update of 1,000 changed rows takes and touches.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from jobs import index
from jobs.image_index import ImageIndex
from tests.enriched_tables import EMBEDDER, SCHEMA, START, EnrichedTable
from tests.index_versions import written_since

QUERIES = 200
PLANTED = 10
CHANGED = 1000
FIRST = 10
FILE_ROWS = 10_000


def main() -> None:
    """Prints the figures of one run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tagline-index-"))
    try:
        measure(folder, given.rows, given.dimension)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, rows: int, dimension: int) -> None:
    """Builds, asks, changes, asks again."""
    random = np.random.default_rng(0)
    vectors, planted = unit(random, rows, dimension), unit(random, QUERIES, dimension)
    plant(random, vectors, planted)
    table = write(folder / "table", vectors)
    path = str(folder / "index")
    report("build", index.run(str(table.folder), path))
    ask("planted", path, planted, vectors)
    ask("random", path, unit(random, QUERIES, dimension), vectors)

    changed = np.sort(random.choice(rows, CHANGED, replace=False))
    vectors[changed] = unit(random, CHANGED, dimension)
    replace(table, changed, vectors)
    before = ImageIndex(path).state
    report(f"update of {CHANGED:,} rows", index.run(str(table.folder), path))
    written = written_since(folder / "index", before.stored_version)
    print(f"  rows written: {len(written):,}", flush=True)
    assert written == {f"image-{n}" for n in changed}
    ask("planted", path, planted, vectors)
    ask("changed", path, vectors[changed[:QUERIES]], vectors)


def unit(random: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Random directions."""
    vectors = random.standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plant(random: np.random.Generator, vectors: np.ndarray, queries: np.ndarray) -> None:
    """Turns ten vectors a query towards it."""
    places = random.choice(len(vectors), (len(queries), PLANTED), replace=False)
    for query, mine in zip(queries, places, strict=True):
        for place, cosine in zip(mine, np.linspace(0.3, 0.9, PLANTED), strict=True):
            across = vectors[place] - (vectors[place] @ query) * query
            across /= np.linalg.norm(across)
            vectors[place] = cosine * query + np.sqrt(1 - cosine**2) * across


def write(folder: Path, vectors: np.ndarray) -> EnrichedTable:
    """An enriched table in files of 10,000 rows."""
    folder.mkdir()
    table = EnrichedTable.__new__(EnrichedTable)
    table.folder, table.key = folder, ""
    table.key = table.record(EMBEDDER)
    for start in range(0, len(vectors), FILE_ROWS):
        ids = np.arange(start, min(start + FILE_ROWS, len(vectors)))
        write_deltalake(str(folder), rows_of(table, ids, vectors), mode="append")
    return table


def rows_of(table: EnrichedTable, ids: np.ndarray, vectors: np.ndarray, hours: int = 0) -> pa.Table:
    """Rows with captions, labels and tags beside the vectors."""
    kinds = ("apple", "dog", "car", "tree", "红色的苹果", "绿色的汽车")
    caption = [f"a picture of {kinds[n % 6]} number {n}" for n in ids]
    rows = [table.row(int(n), text, None) for n, text in zip(ids, caption, strict=True)]
    made = pa.Table.from_pylist(rows, SCHEMA)
    chosen = vectors[ids]
    ends = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * chosen.shape[1])
    column = pa.ListArray.from_arrays(ends, pa.array(chosen.reshape(-1)))
    made = made.set_column(SCHEMA.get_field_index("embedding"), "embedding", column)
    at = pa.array([START.replace(hour=hours)] * len(ids), SCHEMA.field("enriched_at").type)
    return made.set_column(SCHEMA.get_field_index("enriched_at"), "enriched_at", at)


def replace(table: EnrichedTable, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Rewrites the files of some rows, as a run of `enrich` does, so that most of a file stays."""
    quoted = ", ".join(f"'image-{n}'" for n in ids)
    DeltaTable(str(table.folder)).delete(f"image_id IN ({quoted})")
    write_deltalake(str(table.folder), rows_of(table, ids, vectors, hours=1), mode="append")


def report(what: str, done: index.Indexed) -> None:
    """One line of what a run did."""
    load = os.getloadavg()[0]
    print(
        f"{what}: {done.seconds:.1f} s, new {done.new:,}, changed {done.changed:,}, removed "
        f"{done.removed:,}, recall@10 as told {done.state.recall:.3f}, load {load:.1f}",
        flush=True,
    )


def ask(what: str, path: str, queries: np.ndarray, vectors: np.ndarray) -> None:
    """Recall and time of queries against numpy's search of all rows."""
    opened = ImageIndex(path)
    truth = np.argpartition(-(queries @ vectors.T), FIRST, axis=1)[:, :FIRST]
    seconds, right = [], 0
    for query, near in zip(queries, truth, strict=True):
        started = time.perf_counter()
        hits = opened.nearest(query, limit=FIRST)
        seconds.append(time.perf_counter() - started)
        right += len({hit.image_id for hit in hits} & {f"image-{n}" for n in near})
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    print(
        f"  {what} queries: recall@10 {right / FIRST / len(queries):.4f}, p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
