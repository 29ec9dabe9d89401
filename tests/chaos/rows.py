"""Faults of single rows: they kill, hang or fill the process that computes them."""

import os
import random
from pathlib import Path

from tests.chaos.fault import Fault, NotHereError
from tests.chaos.life import Life

GROUP = Path("/sys/fs/cgroup/memory")
GROUP_BYTES = 1_500_000_000
BATCH_SECONDS = 8
JUDGED_ROWS = 250  # a run is judged before its end from 200 rows on
MANY = 0.3  # of the pictures, above limits.error_fraction


def poison(point: random.Random, life: Life) -> None:
    """A row that reads at address 0."""
    _ends_as(life, "crashed", segfault=[point.choice(life.grow())])


def hang(point: random.Random, life: Life) -> None:
    """A row that never comes back and holds the interpreter's lock."""
    life.config["limits"] = {"batch_timeout": f"{BATCH_SECONDS}s"}
    _ends_as(life, "timeout", hang=[point.choice(life.grow())])
    del life.config["limits"]


def memory_error(point: random.Random, life: Life) -> None:
    """A row that asks for more than RLIMIT_AS has."""
    _ends_as(life, "out_of_memory", memory=[point.choice(life.grow())])


def killed_for_memory(point: random.Random, life: Life) -> None:
    """A row whose process the kernel kills at the limit of a control group."""
    group = GROUP / f"tagline-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(GROUP_BYTES))
    except OSError as error:
        raise NotHereError(f"no control group for memory can be made: {error}") from error
    try:
        oom = [point.choice(life.grow())]
        _ends_as(life, "crashed", oom=oom, cgroup=str(group))
    finally:
        group.rmdir()


def all_kinds(point: random.Random, life: Life) -> None:
    """Rows that crash, hang and want too much memory, in one run."""
    life.config["limits"] = {"batch_timeout": f"{BATCH_SECONDS}s", "error_fraction": MANY}
    one, two, three = point.sample(life.grow(), 3)
    life.switch(segfault=[one], hang=[two], memory=[three])
    life.run(code=0)
    life.codes |= {one: "crashed", two: "timeout", three: "out_of_memory"}
    del life.config["limits"]


def _ends_as(life: Life, code: str, **harm: object) -> None:
    """The bad rows end with their code, all others with their values, in one run."""
    life.switch(**harm)
    life.run(code=0)
    (numbers,) = [rows for rows in harm.values() if isinstance(rows, list)]
    life.codes |= dict.fromkeys(numbers, code)


def too_many_errors(point: random.Random, life: Life) -> None:
    """Broken pictures above the limit: an early end that names them; a higher limit goes on."""
    new = life.grow(JUDGED_ROWS)
    bad = point.sample(new, int(MANY * len(new)))
    for number in bad:
        (life.folder / "photos" / f"{number}.png").write_bytes(b"<html>not found</html>")
    stopped = life.run(code=1)
    for word in ("not_an_image", "limits.error_fraction", "run the same command"):
        assert word in stopped.message, stopped.text
    life.codes |= dict.fromkeys(bad, "not_an_image")
    life.run("limits.error_fraction=0.5", code=0)


FAULTS = (
    Fault("a row that segfaults", poison, "row `crashed`, exit 0", is_short=False),
    Fault("a row that hangs", hang, "row `timeout`, exit 0", is_short=False),
    Fault("a row out of memory (RLIMIT_AS)", memory_error, "row `out_of_memory`", is_short=False),
    Fault("a row the kernel kills for memory", killed_for_memory, "row `crashed`", is_short=False),
    Fault("rows that segfault, hang and run out of memory", all_kinds, "exit 0"),
    Fault("errors above the limit", too_many_errors, "exit 1, codes named; a higher limit: exit 0"),
)
