"""Faults of the table's disk: full, read-only, files cut short."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.fault import Fault, NotHereError
from tests.chaos.life import Life
from tests.chaos.processes import GOES_ON

DISK_BYTES = 100_000_000
MOMENT_SECONDS = 4.0


def on_small_disk(life: Life) -> None:
    """Puts the life's table on a tmpfs of its own; `leave` takes it away."""
    store = life.folder / "store"
    _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tagline-chaos", str(store))


def leave(life: Life) -> None:
    """Unmounts the disk of a life that has one."""
    if is_on_small_disk(life):
        subprocess.run(["umount", "--lazy", str(life.folder / "store")], check=True)


def is_on_small_disk(life: Life) -> bool:
    """Whether the life's table has a disk of its own."""
    return os.path.ismount(life.folder / "store")


def full_for_a_moment(point: random.Random, life: Life) -> None:
    """The disk is full in mid-write, and has room again while the run still tries."""
    _broken_for_a_moment(point, life, _full)


def read_only_for_a_moment(point: random.Random, life: Life) -> None:
    """The disk is read-only in mid-write, and can be written again while the run still tries."""
    _broken_for_a_moment(point, life, _read_only)


def full(point: random.Random, life: Life) -> None:
    """The disk is full in mid-write until the run gives up."""
    _broken_to_the_end(point, life, _full)


def read_only(point: random.Random, life: Life) -> None:
    """The disk is read-only in mid-write until the run gives up."""
    _broken_to_the_end(point, life, _read_only)


def _broken_for_a_moment(point: random.Random, life: Life, broken) -> None:
    life.grow()
    with life.start() as running:
        life.until_parts(running, point.randint(0, 6))
        with broken(life):
            running.rest(MOMENT_SECONDS)
        life.keep(running.wait())
    life.until_done()


def _broken_to_the_end(point: random.Random, life: Life, broken) -> None:
    life.grow()
    with life.start() as running:
        life.until_parts(running, point.randint(0, 6))
        with broken(life):
            ended = life.keep(running.wait())
    if ended.code:  # else it was done before
        assert ended.code == 1, ended.text
        assert GOES_ON in ended.message, ended.text
        assert life.table in ended.message, ended.text
        assert "Traceback" not in ended.text, ended.text
    life.until_done()


@contextmanager
def _full(life: Life) -> Iterator[None]:
    """Leaves no room on the disk, for the length of a `with`."""
    ballast = life.folder / "store" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size >= 1:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _read_only(life: Life) -> Iterator[None]:
    """Lets nobody write to the disk, for the length of a `with`."""
    store = str(life.folder / "store")
    _mount("-o", "remount,ro", store)
    try:
        yield
    finally:
        _mount("-o", "remount,rw", store)


def cut_part(point: random.Random, life: Life) -> None:
    """A part is cut short after it was put and before the commit."""
    life.grow()
    with life.start() as running:
        life.until_parts(running, point.randint(1, 8))
        running.kill()
        ended = life.keep(running.wait())
    if ended.code:
        _cut(point, point.choice(_uncommitted(life)))
    life.until_done()


def cut_part_while_running(point: random.Random, life: Life) -> None:
    """A part is cut short while the same run still puts others, and is about to commit."""
    life.grow()
    with life.start() as running:
        if life.until_parts(running, point.randint(1, 8)):
            _cut(point, point.choice(_uncommitted(life)))
        ended = life.keep(running.wait())
    if ended.code:
        assert ended.code == 1, ended.text
        assert "Traceback" not in ended.text, ended.text
    life.until_done()


def cut_data_file(point: random.Random, life: Life) -> None:
    """A data file of the table is cut short; once it is back the same command goes on."""
    life.grow(20)
    file = point.choice([Path(life.table, one.path) for one in life.opened().files])
    kept = file.read_bytes()
    _cut(point, file)
    ended = life.run()
    file.write_bytes(kept)
    life.until_done()
    assert ended.code in (1, 2), f"exit {ended.code}:\n{ended.text}"
    assert "Traceback" not in ended.text, ended.text
    assert file.name in ended.text, f"does not name the file:\n{ended.text}"


def _uncommitted(life: Life) -> list[Path]:
    """Parts of the plan that is being run; those that earlier plans left are nobody's."""
    there = {file.path for file in life.opened().files}
    parts = life.parts()
    found = [path for path in parts if path.parent == parts[-1].parent]
    return [path for path in found if str(path.relative_to(life.table)) not in there]


def _cut(point: random.Random, path: Path) -> None:
    os.truncate(path, point.randint(0, path.stat().st_size - 1))


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(f"nothing can be mounted: {done.stderr.strip()}")


FAULTS = (
    Fault("table's disk full for a moment", full_for_a_moment, needs_disk=True),
    Fault("table read-only for a moment", read_only_for_a_moment, needs_disk=True, is_short=False),
    Fault(
        "table's disk full",
        full,
        "exit 1 and what is kept",
        is_short=False,
        needs_disk=True,
    ),
    Fault(
        "table read-only",
        read_only,
        "exit 1 and what is kept",
        is_short=False,
        needs_disk=True,
    ),
    Fault("part cut short, driver killed", cut_part, "computed anew", is_short=False),
    Fault("part cut short before the commit", cut_part_while_running, "exit 1: run again"),
    Fault("data file of the table cut short", cut_data_file, "names the file", is_short=False),
)
