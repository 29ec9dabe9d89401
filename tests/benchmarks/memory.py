"""Measures the memory of a job over large images: `python -m tests.benchmarks.memory`.

512 different images of 20 MB (noise, so that nothing compresses; 10 GB on the disk), the three
embedded models. Sums the proportional set sizes of all the job's processes, Ray's own and its
object store included, twice a second. Exit code 1 above 4 GB.

`--rows 10000 100000` instead compares runs over so many tiny pictures, all different, with an
operator that has no weights, and keeps the figures: memory must not grow with the manifest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.benchmarks.measuring import Row, Section, write
from tests.benchmarks.overhead import OPERATORS

CAP_BYTES = 4_000_000_000
SIDE = 2582  # pixels; x 2582 x 3 bytes = 20 MB
SAMPLE_SECONDS = 0.5
LARGEST = 10  # processes named
GROWTH = 1.15  # of memory, with ten times the rows


def write_images(folder: Path, count: int, kind: str) -> list[str]:
    """Writes pictures of noise, 20 MB each, that differ in their first row."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    names = []
    for number in range(count):
        pixels[0] = np.random.default_rng(number).integers(0, 256, (SIDE, 3), np.uint8)
        names.append(f"{number}.{kind}")
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def memory_bytes(root: int) -> dict[str, int]:
    """Proportional set sizes of a process and all that descend from it, by number and name."""
    children, sizes, waiting = defaultdict(list), {}, [root]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children[parent].append(int(stat.parent.name))
    while waiting:
        process = waiting.pop()
        waiting += children[process]
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            name = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")[:40]
        except OSError:
            continue
        sizes[f"{process} {name.strip()}"] = sum(
            int(line.split()[1]) * 1024 for line in rollup.splitlines() if line[:4] == "Pss:"
        )
    return sizes


def peak_of(command: list[str]) -> dict[str, int]:
    """The most memory of a job and all its processes, by number and name.

    Raises:
        CalledProcessError: the job failed.
    """
    peak = dict[str, int]()
    job = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    while job.poll() is None:
        peak = max(peak, memory_bytes(job.pid), key=lambda sizes: sum(sizes.values()))
        time.sleep(SAMPLE_SECONDS)
    if job.returncode:
        raise subprocess.CalledProcessError(job.returncode, command)
    return peak


def gigabytes_of_rows(rows: int) -> float:
    """The most memory of a job over so many tiny pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(rows):
            colour = (number & 255, number >> 8 & 255, number >> 16)
            Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
        numbers = range(rows)
        manifest = {
            "image_id": [f"id-{number:07}" for number in numbers],
            "uri": [f"{number}.png" for number in numbers],
            "number": pa.array(numbers, pa.float32()),
        }
        pq.write_table(pa.table(manifest), folder / "manifest.parquet")
        document = {
            "manifest": str(folder / "manifest.parquet"),
            "table": str(folder / "table"),
            "operators": {"brightness": {"use": "brightness"}},
        }
        (folder / "job.json").write_text(json.dumps(document))
        peak = peak_of([sys.executable, "-m", "tests.plain_driver", str(folder / "job.json")])
        gigabytes = sum(peak.values()) / 1e9
        print(f"{rows:,} rows: {gigabytes:.3f} GB", flush=True)
    return gigabytes


def compare(few: int, many: int) -> int:
    """Keeps what runs over few and over many rows took; 1 when many took much more."""
    small, large = gigabytes_of_rows(few), gigabytes_of_rows(many)
    grown = Row(f"memory of {many:,} rows by that of {few:,}", "x", [large / small], most=GROWTH)
    write(
        Section(
            name="memory",
            title="Memory",
            text="The most memory (proportional set sizes) of driver, workers, Ray's own processes "
            "and its object store, twice a second, over tiny pictures that are all different, with "
            "an operator that has no weights.",
            command=f"python -m tests.benchmarks.memory --rows {few} {many}",
            rows=[
                Row(f"{few:,} rows", "GB", [small]),
                Row(f"{many:,} rows", "GB", [large]),
                grown,
            ],
        )
    )
    return 0 if grown.is_met else 1


def main() -> int:
    """Prints one JSON object, or keeps the figures of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--kind", default="bmp", help="bmp or png")
    parser.add_argument("--rows", type=int, nargs=2, help="compare runs over few and many rows")
    given = parser.parse_args()
    if given.rows:
        return compare(*given.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        uris = write_images(folder, given.count, given.kind)
        ids = [f"id-{number}" for number in range(given.count)]
        pq.write_table(pa.table({"image_id": ids, "uri": uris}), folder / "manifest.parquet")
        manifest = str(folder / "manifest.parquet")
        document = {"manifest": manifest, "table": str(folder / "table"), "operators": OPERATORS}
        config = folder / "job.yaml"
        config.write_text(yaml.safe_dump(document))
        begun = time.monotonic()
        peak = peak_of([sys.executable, "-m", "jobs.enrich", str(config), "--json"])
    total, seconds = sum(peak.values()), round(time.monotonic() - begun, 1)
    largest = dict(sorted(peak.items(), key=lambda item: -item[1])[:LARGEST])
    print(json.dumps({"peak_bytes": total, "largest": largest, "seconds": seconds}))
    return 0 if total <= CAP_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
