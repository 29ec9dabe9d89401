"""Measures what the job costs beside its models: images per second of `enrich` and of a bare loop.

    python -m tests.benchmarks.overhead [--count 512] [--rounds 2]

Both run the three embedded models over the same drawn scenes on this machine, start-up excluded, by
turns. The job's clock runs from when its first finished shard entered the first stage to its last
part. The bare loop is one process that reads each file and calls the operators, with as many
threads for torch as is best (1 or all cores). Exit code 1 when the job is slower than 80 % of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jobs import scenes
from jobs.parts import REPORT, PartReport
from operators.base import apply
from operators.catalog import build_operators, check_document

LEAST_SHARE = 0.8
OPERATORS = {
    "caption": {"use": "captioner", "model": "embedded:captioner"},
    "entailment": {"use": "entailment", "model": "embedded:entailment", "hypothesis": "caption"},
    "embedding": {"use": "embedder", "model": "embedded:embedder"},
}
BATCH_ROWS = 64  # read and computed at once by the bare loop


def document(folder: Path, table: Path) -> dict[str, Any]:
    """The job's config."""
    return {
        "manifest": {
            "path": str(folder / "manifest.parquet"),
            "columns": {"true_caption": "caption"},
        },
        "table": str(table),
        "operators": OPERATORS,
    }


def job_rate(folder: Path, table: Path) -> float:
    """Images per second of `enrich`, told by when its parts were written and what they say."""
    config = table.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(document(folder, table)))
    subprocess.run(
        [sys.executable, "-m", "jobs.enrich", str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    parts = sorted(table.glob("data/*/*.parquet"), key=lambda part: part.stat().st_mtime)
    reports = [PartReport.from_json(pq.read_schema(part).metadata[REPORT]) for part in parts]
    begun = parts[0].stat().st_mtime - sum(reports[0].busy.values())
    return sum(report.rows for report in reports) / (parts[-1].stat().st_mtime - begun)


def bare_rate(folder: Path, threads: int) -> float:
    """Images per second of a loop over the operators, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.overhead", "--bare", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def bare_loop(folder: Path) -> float:
    """The loop itself; weights are read and the first images computed before the clock starts."""
    config = check_document(document(folder, folder / "unused"))
    rows = pq.read_table(folder / "manifest.parquet").select(["image_id", "uri"])
    operators = build_operators(config, ["image_id", "uri"])

    def compute(batch: pa.Table) -> None:
        encoded = [(folder / uri).read_bytes() for uri in batch["uri"].to_pylist()]
        batch = batch.append_column("image_encoded", pa.array(encoded, pa.large_binary()))
        for operator in operators:
            batch = apply(operator, batch)

    compute(rows.slice(0, 4))
    begun = time.perf_counter()
    for start in range(0, rows.num_rows, BATCH_ROWS):
        compute(rows.slice(start, BATCH_ROWS))
    return rows.num_rows / (time.perf_counter() - begun)


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bare", type=Path, help="run only the bare loop over this folder")
    given = parser.parse_args()
    if given.bare:
        print(bare_loop(given.bare))
        return 0
    threads = sorted({1, os.cpu_count() or 1})
    job, bare = [], {count: list[float]() for count in threads}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scenes"
        scenes.run(folder, count=given.count, seed=11)
        for number in range(given.rounds):
            for count in threads:
                bare[count].append(bare_rate(folder, count))
            job.append(job_rate(folder, Path(temporary) / f"table-{number}"))
    best = max(median(rates) for rates in bare.values())
    share = median(job) / best
    figures = {"job_images_per_second": job, "bare_images_per_second": bare, "share": share}
    print(json.dumps(figures))
    return 0 if share >= LEAST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
