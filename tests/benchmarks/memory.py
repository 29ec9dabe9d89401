"""Measures the memory of a job over large images: `python -m tests.benchmarks.memory`.

512 different images of 20 MB (noise, so that nothing compresses; 10 GB on the disk), the three
embedded models. Sums the proportional set sizes of all the job's processes, Ray's own and its
object store included, twice a second. Exit code 1 above 4 GB.
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

from tests.benchmarks.overhead import OPERATORS

CAP_BYTES = 4_000_000_000
SIDE = 2582  # pixels; x 2582 x 3 bytes = 20 MB
SAMPLE_SECONDS = 0.5
LARGEST = 10  # processes named


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


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--kind", default="bmp", help="bmp or png")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        uris = write_images(folder, given.count, given.kind)
        ids = [f"id-{number}" for number in range(given.count)]
        pq.write_table(pa.table({"image_id": ids, "uri": uris}), folder / "manifest.parquet")
        manifest = str(folder / "manifest.parquet")
        document = {"manifest": manifest, "table": str(folder / "table"), "operators": OPERATORS}
        config = folder / "job.yaml"
        config.write_text(yaml.safe_dump(document))
        begun, peak = time.monotonic(), dict[str, int]()
        job = subprocess.Popen(
            [sys.executable, "-m", "jobs.enrich", str(config), "--json"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while job.poll() is None:
            peak = max(peak, memory_bytes(job.pid), key=lambda sizes: sum(sizes.values()))
            time.sleep(SAMPLE_SECONDS)
    total, seconds = sum(peak.values()), round(time.monotonic() - begun, 1)
    largest = dict(sorted(peak.items(), key=lambda item: -item[1])[:LARGEST])
    figures = {"peak_bytes": total, "largest": largest, "seconds": seconds}
    print(json.dumps({**figures, "exit_code": job.returncode}))
    return 0 if total <= CAP_BYTES and job.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
