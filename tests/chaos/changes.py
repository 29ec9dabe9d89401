"""Faults of what changes under a run: pictures, manifest, the table's log, the clock."""

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tests.chaos.fault import Fault, NotHereError
from tests.chaos.life import GREYS, Life
from tests.chaos.processes import GOES_ON

CLOCK = Path(__file__).parent / "clock.c"
DAYS = 3
DAY_SECONDS = 86_400


def exchange_picture(point: random.Random, life: Life) -> None:
    """A picture is exchanged between plan and read; `--refresh` finds it if the run did not."""
    number = point.choice(life.grow())
    grey = (number + point.randint(1, GREYS - 1)) % GREYS
    with life.start() as running:
        running.until("event=planned")
        life.until_parts(running, point.randint(0, 6))
        life.draw(number, grey)
        ended = life.keep(running.wait())
    assert ended.code == 0, ended.text
    life.shades[number] = grey
    life.run("--refresh", code=0)


def exchange_manifest(point: random.Random, life: Life) -> None:
    """The manifest's newest file is written anew with more rows while it is worked on."""
    new = life.grow()
    with life.start() as running:
        running.until("event=planned")
        life.until_parts(running, point.randint(0, 6))
        more = list(range(len(life.numbers), len(life.numbers) + 20))
        for number in more:
            life.draw(number, number % GREYS)
        life.name([*new, *more], f"rows-{new[0]:05d}")
        ended = life.keep(running.wait())
    assert ended.code == 0, ended.text
    life.numbers += more
    life.count()
    life.run(code=0)


def other_rows(point: random.Random, life: Life) -> None:
    """Another writer adds rows of its own between plan and commit: both pass."""
    life.grow()
    life.sizes.add(len(life.numbers) + len(life.others) + 1)
    with life.start() as running:
        running.until("event=planned")
        life.until_parts(running, point.randint(0, 6))
        name = f"other-{len(life.others)}"
        _append(life, name)
        life.others.add(name)
        life.sizes.add(life.opened().read(["image_id"]).num_rows)
        ended = life.keep(running.wait())
    assert ended.code == 0, ended.text


def our_rows(point: random.Random, life: Life) -> None:
    """Another writer touches rows that the run replaces: it says so, and runs again."""
    new = life.grow()
    with life.start() as running:
        running.until("event=planned")
        life.until_parts(running, point.randint(0, 6))
        before = life.opened().version
        _append(life, f"id-{point.choice(new):05d}")
        life.sizes.add(life.opened().read(["image_id"]).num_rows)
        ended = life.keep(running.wait())
    if life.opened().version > before + 1:  # it had committed before the other did
        raise AssertionError(f"committed on top of its own row:\n{ended.text}")
    assert ended.code == 1, ended.text
    assert GOES_ON in ended.message, ended.text
    life.until_done()


def _append(life: Life, name: str) -> None:
    """Adds a row as another program would: an id, and nulls."""
    table = DeltaTable(life.table)
    schema = pa.schema(table.schema().to_arrow())
    row = {field.name: [name if field.name == "image_id" else None] for field in schema}
    write_deltalake(table, pa.table(row, schema=schema), mode="append")


def jump_clock(point: random.Random, life: Life) -> None:
    """The wall clock of the driver, its workers and Ray jumps by days in a run, back and forth."""
    library = life.folder / "clock.so"
    if not shutil.which("cc"):
        raise NotHereError("there is no C compiler, and no other way to shift a clock")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, CLOCK, "-ldl"], check=True)
    clock = life.folder / "clock"
    clock.write_bytes(bytes(8))
    environment = {"LD_PRELOAD": str(library), "TAGLINE_CHAOS_CLOCK": str(clock)}
    address, life.address = life.address, None  # Ray and workers of the job's own, by its clock
    life.grow()
    with life.start(**environment) as running:
        for days in point.sample([-DAYS, DAYS], 2):
            life.until_parts(running, point.randint(1, 3))
            with clock.open("r+b") as file:
                file.write(struct.pack("=q", days * DAY_SECONDS))
        ended = life.keep(running.wait())
    life.address = address
    assert ended.code == 0, ended.text
    jumped = {line.partition("T")[0] for line in ended.lines if "event=" in line}
    assert len(jumped) > 1, f"no jump was seen:\n{ended.text}"
    life.grow(12)
    life.run(code=0)


FAULTS = (
    Fault(
        "picture exchanged between plan and read",
        exchange_picture,
        "`--refresh` finds it",
        is_short=False,
    ),
    Fault("manifest file replaced during the run", exchange_manifest, "exit 0, the next run adds"),
    Fault("another writer adds other rows", other_rows, "exit 0"),
    Fault("another writer adds one of our rows", our_rows, "exit 1: run again", is_short=False),
    Fault("clock jumps by days, back and forth", jump_clock, "exit 0", is_short=False),
)
