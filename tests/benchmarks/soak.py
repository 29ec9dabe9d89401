"""Lets a job suffer for long: failing requests, bad images and kills, and counts what it leaves.

100,000 tiny pictures, all different, lie behind a proxy that has 5 % of all requests fail in every
way (`tests/fault_proxy.py`); 2 % are truncated, no image, empty or not there. Each minute for 20
minutes the driver or one of its actors is killed, and the same command is started again where it
was the driver. At the end the rows with an error are tried once more, without faults, as a user
does, and every row is compared with what it must be. The pictures are served by `rclone serve s3`,
which RCLONE names; the table by moto, as rclone has no conditional PUT.

    RCLONE=/tmp/rivals/bin/rclone python -m tests.benchmarks.soak [--rows 2000 --every 15 --kills 8]
"""

import argparse
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.table import existing_table
from tests import fault_proxy, s3
from tests.benchmarks.embedding_rivals import served
from tests.benchmarks.measuring import Row, Section, second_paragraph, write
from tests.benchmarks.memory import memory_bytes
from tests.fault_proxy import Proxy, Rule

RCLONE = "RCLONE"
PHOTOS, ENRICHED = "photos", "enriched"
TABLE = f"s3://{ENRICHED}/table"
BAD_EVERY = 50  # 2 %
BAD = ("truncated", "not_an_image", "empty", "missing")
PASSING = {"busy": 0.015, "broken": 0.015, "reset": 0.007, "cut": 0.007}
HANGING = {"stall": 0.0007, "trickle": 0.0003}  # each holds up its shard for 20 or 60 seconds
LASTING = {"missing": 0.002, "forbidden": 0.003}  # of pictures alone: a table's are believed
FETCHERS = 2
SAMPLE_SECONDS = 5.0
GROWTH = 1.15  # of memory, from the first third to the last
SILENCE_SECONDS = 120.0
MOST_RUNS = 60
RETRIES = re.compile(r"event=run_done .*retries=(\d+)")


def is_bad(number: int) -> str | None:
    """The code that a picture must end with."""
    return BAD[number // BAD_EVERY % len(BAD)] if number % BAD_EVERY == 7 else None


def write_pictures(folder: Path, rows: int) -> None:
    """Writes pictures, good and bad, and their manifest, as two buckets of a store."""
    photos, lists = folder / "store" / PHOTOS, folder / "store" / "lists"
    photos.mkdir(parents=True)
    lists.mkdir()
    for number in range(rows):
        code = is_bad(number)
        if code == "missing":
            continue
        file = BytesIO()
        Image.new("RGB", (8, 8), colour(number)).save(file, "PNG")
        data = file.getvalue()
        data = {"truncated": data[: len(data) // 2], "not_an_image": b"<html/>", "empty": b""}.get(
            code or "", data
        )
        (photos / f"{number}.png").write_bytes(data)
    columns = {
        "image_id": [f"id-{number:07}" for number in range(rows)],
        "uri": [f"s3://{PHOTOS}/{number}.png" for number in range(rows)],
        "number": pa.array(range(rows), pa.float32()),
    }
    pq.write_table(pa.table(columns), lists / "manifest.parquet")


def colour(number: int) -> tuple[int, int, int]:
    """The only colour of a picture."""
    return number & 255, number >> 8 & 255, number >> 16


@dataclass
class Watched:
    """What was seen while drivers ran.

    Args:
        memory: seconds since the start, bytes of the driver, bytes of all its other processes.
        silence: the longest time without a line of a driver that was not ended yet.
        codes: how drivers ended.
        kills: by whom they met.
        waits: lines that told of a store that was waited for.
        retries: tries of images beyond the first, as told at the end of runs.
    """

    begun: float = field(default_factory=time.monotonic)
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    silence: float = 0.0
    codes: Counter[int] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    waits: int = 0
    retries: int = 0


class Killer:
    """Kills a driver or one of its actors every so often, until it has done so often enough."""

    def __init__(self, every: float, kills: int, seed: int) -> None:
        self.every, self.left, self.random = every, kills, random.Random(seed)
        self.next = time.monotonic() + every

    def strike(self, driver: int, watched: Watched) -> None:
        """Kills when it is time; an actor is not always there."""
        if not self.left or time.monotonic() < self.next:
            return
        actors = [int(name.split()[0]) for name in memory_bytes(driver) if "ray::Map" in name]
        whom = self.random.choice(["driver", "actor"]) if actors else "driver"
        with suppress(ProcessLookupError):
            os.kill(driver if whom == "driver" else self.random.choice(actors), signal.SIGKILL)
            watched.kills[whom] += 1
            self.left -= 1
        self.next = time.monotonic() + self.every


def run(config: Path, watched: Watched, killer: Killer | None, log: Path, *words: str) -> int:
    """Runs the command once, whatever becomes of it; gives its exit code."""
    command = [sys.executable, "-m", "tests.plain_driver", str(config), *words]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    told = [time.monotonic()]

    def read() -> None:
        assert driver.stdout is not None
        with log.open("a", buffering=1) as file:
            for line in driver.stdout:
                watched.silence = max(watched.silence, time.monotonic() - told[0])
                watched.waits += "event=store_waiting" in line
                told_of = RETRIES.search(line)
                watched.retries += int(told_of[1]) if told_of else 0
                told[0] = time.monotonic()
                file.write(line)

    reader = threading.Thread(target=read)
    reader.start()
    sampled = 0.0
    while driver.poll() is None:
        if killer:
            killer.strike(driver.pid, watched)
        if time.monotonic() - sampled >= SAMPLE_SECONDS:
            sampled = time.monotonic()
            sizes = memory_bytes(driver.pid)
            own = sum(size for name, size in sizes.items() if name.startswith(f"{driver.pid} "))
            seconds = sampled - watched.begun
            watched.memory.append((seconds, own, sum(sizes.values()) - own))
        time.sleep(0.5)
    reader.join()
    watched.codes[driver.returncode] += 1
    return driver.returncode


def until_done(config: Path, watched: Watched, killer: Killer | None, log: Path) -> int:
    """Runs the same command until it says that it is done; gives how often."""
    for number in range(1, MOST_RUNS + 1):
        if run(config, watched, killer, log) == 0:
            return number
    raise AssertionError(f"not done after {MOST_RUNS} runs; see {log}")


@dataclass(frozen=True)
class Found:
    """How the table differs from what it must be, and what it cost.

    Args:
        lost: ids that are not there.
        doubled: rows beyond the first of an id.
        wrong: healthy rows with another value, or rows with another error than is meant.
        bad: rows with an error that is meant, by code.
    """

    lost: int
    doubled: int
    wrong: int
    bad: Mapping[str, int]


def found(rows: int) -> Found:
    """Compares every row."""
    got = existing_table(TABLE).read(["image_id", "brightness", "error"])
    ids = got["image_id"].to_pylist()
    wrong, bad = 0, Counter[str]()
    for name, value, error in zip(
        ids, got["brightness"].to_pylist(), got["error"].to_pylist(), strict=True
    ):
        number = int(name.removeprefix("id-"))
        code = is_bad(number)
        bad[code or ""] += code is not None
        is_right = error["code"] == code if error else code is None and value == grey(number)
        wrong += not is_right
    wanted = {f"id-{number:07}" for number in range(rows)}
    bad.pop("", None)
    return Found(len(wanted - set(ids)), len(ids) - len(set(ids)), wrong, bad)


def grey(number: int) -> float:
    """What the operator must say of a picture."""
    return float(np.asarray(Image.new("RGB", (1, 1), colour(number)).convert("L"))[0, 0])


@contextmanager
def stores(folder: Path) -> Iterator[Proxy]:
    """The store of the pictures and that of the table behind one proxy, and this process there."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # of moto: a line a request
    with s3.served() as slow, served(folder, Path(os.environ[RCLONE])) as fast:
        s3.client(slow).create_bucket(Bucket=ENRICHED)
        with fault_proxy.before(fast["AWS_ENDPOINT_URL"], buckets={ENRICHED: slow}) as proxy:
            os.environ.update(s3.environment(proxy.endpoint))
            os.environ.update({"OMP_NUM_THREADS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
            yield proxy


def rules() -> list[Rule]:
    """5 % of the requests for pictures, and of those for the table what may pass."""
    pictures = [
        Rule(kind, share, key=f"^/{PHOTOS}/")  # type: ignore[arg-type]
        for kind, share in {**PASSING, **HANGING, **LASTING}.items()
    ]
    others = [Rule(kind, share) for kind, share in PASSING.items()]  # type: ignore[arg-type]
    return [*pictures, *others]


def soak(folder: Path, rows: int, every: float, kills: int) -> Section:
    """Runs it all and gives what was found."""
    write_pictures(folder, rows)
    config, log = folder / "job.json", folder / "soak.log"
    document = {
        "manifest": "s3://lists/manifest.parquet",
        "table": TABLE,
        "operators": {"brightness": {"use": "brightness"}},
        "resources": {"fetch": {"actors": FETCHERS, "cpus": 0.25}},
    }
    config.write_text(json.dumps(document))
    with stores(folder) as proxy:
        watched = Watched()
        proxy.arm(*rules(), seed=1)
        runs = until_done(config, watched, Killer(every, kills, seed=1), log)
        told = proxy.told()
        proxy.arm()
        for words in ((), ("errors",)):
            assert run(config, watched, None, log, *words) == 0, log.read_text()[-3000:]
        minutes = (time.monotonic() - watched.begun) / 60
        return _section(rows, found(rows), watched, told, runs=runs, minutes=minutes)


def _section(
    rows: int, end: Found, watched: Watched, told: Mapping[str, Any], *, runs: int, minutes: float
) -> Section:
    injected = told["injected"]
    failing = sum(injected.values())
    kills = ", ".join(f"{whom} {count}" for whom, count in sorted(watched.kills.items()))
    requests = f"{failing:,} of {told['requests']:,} requests failed: {_listed(injected)}"
    expected = sum(is_bad(number) is not None for number in range(rows))
    lines = [
        Row(f"{rows:,} rows: lost", "rows", [end.lost], most=0, note=requests),
        Row(f"{rows:,} rows: doubled", "rows", [end.doubled], most=0, note=f"killed: {kills}"),
        Row(f"{rows:,} rows: wrong value or error", "rows", [end.wrong], most=0),
        Row(
            f"{rows:,} rows: bad images that carry their code",
            "rows",
            [sum(end.bad.values())],
            least=expected,
            most=expected,
            note=_listed(end.bad),
        ),
        Row(
            f"{rows:,} rows: images asked for again",
            "tries",
            [watched.retries],
        ),
        Row(
            f"{rows:,} rows: longest time without a line",
            "s",
            [watched.silence],
            most=SILENCE_SECONDS,
            note=f"{watched.waits} lines told of a store that was waited for",
        ),
        Row(
            f"{rows:,} rows: runs of the command, {minutes:.0f} minutes in all", "runs", [runs + 2]
        ),
        *_memory(rows, watched.memory),
    ]
    text, command = second_paragraph(__doc__), f"{RCLONE}=… python -m tests.benchmarks.soak"
    return Section("soak", "A long job under faults and kills", text, command, lines)


def _memory(rows: int, samples: Sequence[tuple[float, int, int]]) -> list[Row]:
    """Peaks of the last third beside those of the first."""
    third = samples[-1][0] / 3
    lines = []
    for whose, at in (("driver", 1), ("workers and Ray", 2)):
        first = max(sample[at] for sample in samples if sample[0] <= third)
        last = max(sample[at] for sample in samples if sample[0] >= 2 * third)
        note = f"{first / 1e6:.0f} MB, then {last / 1e6:.0f} MB"
        what = f"{rows:,} rows: memory of {whose}, last third by first"
        lines.append(Row(what, "x", [last / first], most=GROWTH, note=note))
    return lines


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def main() -> int:
    """Keeps the figures, and prints them; 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keeps pictures and log")
    given = parser.parse_args()
    if RCLONE not in os.environ:
        print(f"skipped: {RCLONE} names no rclone.\n{__doc__}")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        section = soak(given.folder or Path(temporary), given.rows, given.every, given.kills)
    write(section)
    return 0 if all(row.is_met is not False for row in section.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
