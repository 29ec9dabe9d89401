"""How near the job comes to its models: images per second of `enrich` and of a bare loop.

    python -m tests.benchmarks.overhead [--count 256] [--rounds 5]

Both run all kinds of operators over the same drawn scenes, start-up excluded. The job's clock runs
from when its first finished shard entered the first stage to its last part. The bare loop is one
process that reads each file and calls the operators one after the other, with one thread for torch;
with one a core it is measured once. As many loops at once as there are cores, each with its share
of the images, show what the machine can do at most.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jobs import scenes
from jobs.parts import REPORT, PartReport
from operators.base import apply
from operators.catalog import build_operators, check_document
from tests.benchmarks.measuring import ROUNDS, Row, Section, alternate, write
from tests.benchmarks.tagger import taxonomy_of

OPERATORS = {
    "caption": {"use": "captioner", "model": "embedded:captioner"},
    "entailment": {"use": "entailment", "model": "embedded:entailment", "hypothesis": "caption"},
    "embedding": {"use": "embedder", "model": "embedded:embedder"},
}
LABELS = 200  # of the tagger's taxonomy
BATCH_ROWS = 64  # read and computed at once by the bare loop
WARM_UP_ROWS = 4  # of the bare loop, before its clock starts
TITLE = "The job beside a bare loop"
LEAST_SHARE = 0.92


def all_operators(folder: Path) -> dict[str, Any]:
    """One of each kind; the taxonomy is written beside the scenes."""
    taxonomy = folder / "taxonomy.yaml"
    taxonomy.write_text(yaml.safe_dump(taxonomy_of(LABELS, seed=5), allow_unicode=True))
    judges = {"entailment": "entailment", "match": "match", "tags": "tags"}
    return {
        **OPERATORS,
        "tags": {
            "use": "tagger",
            "model": "embedded:entailment",
            "embedder": "embedded:embedder",
            "taxonomy": str(taxonomy),
        },
        "match": {"use": "matcher", "model": "embedded:matcher", "text": "caption"},
        "agreement": {"use": "agreement", **judges, "taxonomy": str(taxonomy)},
    }


def document(folder: Path, table: Path) -> dict[str, Any]:
    """The job's config."""
    return {
        "manifest": {
            "path": str(folder / "manifest.parquet"),
            "columns": {"true_caption": "caption"},
        },
        "table": str(table),
        "operators": all_operators(folder),
    }


def job_rate(folder: Path) -> float:
    """Images per second of `enrich`, told by when its parts were written and what they say."""
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary, "table")
        config = table.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(document(folder, table), sort_keys=False))
        subprocess.run(
            [sys.executable, "-m", "jobs.enrich", str(config)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        parts = sorted(table.glob("data/*/*.parquet"), key=lambda part: part.stat().st_mtime)
        reports = [PartReport.from_json(pq.read_schema(part).metadata[REPORT]) for part in parts]
        begun = parts[0].stat().st_mtime - sum(reports[0].busy.values())
        return sum(report.rows for report in reports) / (parts[-1].stat().st_mtime - begun)


def bare_rate(folder: Path, *, threads: int = 1, share: str = "0/1") -> float:
    """Images per second of a loop over the operators, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.overhead", "--bare", str(folder), share],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def bare_on_every_core(folder: Path) -> float:
    """Images per second of as many loops at once as there are cores."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        shares = [f"{number}/{cores}" for number in range(cores)]
        return sum(pool.map(lambda share: bare_rate(folder, share=share), shares))


def bare_loop(folder: Path, part: int, parts: int) -> float:
    """The loop itself; weights are read and the first images computed before the clock starts."""
    config = check_document(document(folder, folder / "unused"))
    rows = pq.read_table(folder / "manifest.parquet").select(["image_id", "uri"])
    operators = build_operators(config, ["image_id", "uri"])

    def compute(batch: pa.Table) -> None:
        encoded = [(folder / uri).read_bytes() for uri in batch["uri"].to_pylist()]
        batch = batch.append_column("image_encoded", pa.array(encoded, pa.large_binary()))
        for operator in operators:
            batch = apply(operator, batch)

    compute(rows.slice(0, WARM_UP_ROWS))
    rows = rows.slice(rows.num_rows * part // parts, rows.num_rows // parts)
    begun = time.perf_counter()
    for start in range(0, rows.num_rows, BATCH_ROWS):
        compute(rows.slice(start, BATCH_ROWS))
    return rows.num_rows / (time.perf_counter() - begun)


def measure(folder: Path, count: int, rounds: int) -> Section:
    """Draws scenes and lets the job and the loops run by turns."""
    scenes.run(folder, count=count, seed=11)
    contenders: dict[str, Callable[[], object]] = {
        "job": partial(job_rate, folder),
        "bare": partial(bare_rate, folder),
        "every core": partial(bare_on_every_core, folder),
    }
    found = alternate(contenders, rounds=rounds, warm_up=0)
    threads = len(os.sched_getaffinity(0))
    threaded = bare_rate(folder, threads=threads)
    note = f"with {threads} threads for torch the loop made {threaded:.1f} images/s"
    figures: dict[str, Any] = {"unit": "images/s", "more_is_better": True}
    what = f"enrich, {len(all_operators(folder))} operators, {count} scenes"
    return Section(
        name="overhead",
        title=TITLE,
        text=(__doc__ or "").partition("\n\n    python")[0]
        + " Start-up is excluded on both sides.",
        command="python -m tests.benchmarks.overhead",
        rows=[
            Row(
                what,
                ours=found["job"],
                theirs=found["bare"],
                against="bare loop in one process",
                least=LEAST_SHARE,
                note=note,
                **figures,
            ),
            Row(
                f"{what}, of what the cores can do",
                ours=found["job"],
                theirs=found["every core"],
                against=f"{threads} bare loops at once",
                **figures,
            ),
        ],
    )


def main() -> None:
    """Keeps the figures, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "PART"), help="run only a bare loop")
    given = parser.parse_args()
    if given.bare:
        part, parts = given.bare[1].split("/")
        print(bare_loop(Path(given.bare[0]), int(part), int(parts)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        write(measure(Path(temporary, "scenes"), given.count, given.rounds))


if __name__ == "__main__":
    main()
