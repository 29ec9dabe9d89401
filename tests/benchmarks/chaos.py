"""Injects every fault at several random points, and tells what came of each in the README.

    python -m tests.benchmarks.chaos                       all, three points each
    python -m tests.benchmarks.chaos --only SIGTERM --points 10 --seed 1

The faults of one pass meet one table after the other, which grows by 60 images each time. In the
second pass each command has a Ray of its own, in the others they share a cluster. A fault is
followed by the same command until it is done, and by a comparison of the whole table. Prints a line
a point, keeps all in results/chaos.json (`--more`: beside the points that are there) and writes the
README's table anew. About forty minutes on two cores; 1 when a row was lost, doubled or wrong, or a
command did not say what it must.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import RESULTS, machine
from tests.chaos import cluster, table_store
from tests.chaos.catalog import FAULTS
from tests.chaos.fault import Fault, NotHereError, Result, inject
from tests.chaos.life import Law, Life

FILE = RESULTS / "chaos.json"
README = Path(__file__).parents[2] / "README.md"
TABLE = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- /faults -->)", re.DOTALL)
POINTS = 3
OWN_RAY = 1  # the pass in which commands have a Ray of their own
COLUMNS = (
    "fault",
    "then",
    "points",
    "rows lost, doubled, wrong",
    "longest silence",
    "exit codes",
    "seconds",
)


def main(arguments: Sequence[str]) -> int:
    """Injects what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", type=int, default=POINTS, help="of each fault")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 10**6))
    parser.add_argument("--only", default="", help="faults whose name this expression fits")
    parser.add_argument("--own-ray", action="store_true", help="for each command in all passes")
    parser.add_argument("--more", action="store_true", help="keep the points that are there")
    parser.add_argument("--page-only", action="store_true", help="write the table of what was kept")
    given = parser.parse_args(arguments)
    faults = [fault for fault in FAULTS if re.search(given.only, fault.name)]
    is_right = True
    for point in range(0 if given.page_only else given.points):
        with Passage(own_ray=given.own_ray or point % POINTS == OWN_RAY) as passage:
            for fault in faults:
                found = passage.inject(fault, given.seed + point)
                is_right &= isinstance(found, str) or found.is_right
                keep(fault, found, is_first=point == 0 and not given.more)
    write_table()
    return 0 if is_right else 1


class Passage:
    """One point of each fault, on one table as long as that is right."""

    def __init__(self, *, own_ray: bool) -> None:
        self.own_ray = own_ray
        self._life: Life | None = None
        self._all = ExitStack()

    def __enter__(self) -> "Passage":
        self._nodes = None if self.own_ray else self._all.enter_context(cluster.running([4]))
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()

    def inject(self, fault: Fault, seed: int) -> Result | str:
        """Injects a fault; or says why it cannot be."""
        try:
            life = self._life = self._life or self._new_life()
            if fault.needs_disk and not table_store.is_on_small_disk(life):
                return "nothing can be mounted"
            result = inject(fault, life, seed)
        except NotHereError as reason:
            return str(reason)
        except Exception as error:
            traceback.print_exc()
            failure = f"{type(error).__name__}: {error}"
            result = Result(fault.name, seed, Law(-1, -1), (), 0.0, 0.0, failure)
        print(result, *result.law.wrong[:3], flush=True)
        if not result.is_right:
            self._life = None
        return result

    def _new_life(self) -> Life:
        folder = self._all.enter_context(tempfile.TemporaryDirectory(prefix="tagline-chaos-"))
        life = Life(Path(folder))
        if self._nodes:
            life.address, life.environment = self._nodes.address, dict(cluster.ENVIRONMENT)
        with suppress(NotHereError):
            table_store.on_small_disk(life)
        self._all.callback(table_store.leave, life)
        life.grow()
        life.run(code=0)
        return life


def keep(fault: Fault, found: Result | str, *, is_first: bool) -> None:
    """Keeps what a fault came to, beside its other points unless it is the first."""
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"faults": {}}
    told = machine()
    row = kept["faults"].get(fault.name)
    if row is None or is_first:
        row = {"commits": [], "points": []}
    row["commits"] = sorted({*row["commits"], told["commit"]})
    row["not_here"] = found if isinstance(found, str) else ""
    if isinstance(found, Result):
        law = replace(found.law, wrong=found.law.wrong[:3])
        row["points"].append(asdict(replace(found, failure=found.failure[:300], law=law)))
    kept["faults"][fault.name] = row
    kept["machine"] = told
    FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def write_table() -> None:
    """Writes what was kept into the README, in the order of the catalog."""
    kept = json.loads(FILE.read_text())
    faults, told = kept["faults"], kept["machine"]
    lines = [line_of(fault, faults[fault.name]) for fault in FAULTS if fault.name in faults]
    commits = sorted({commit for one in faults.values() for commit in one["commits"]})
    points = sum(len(one["points"]) for one in faults.values())
    page = "\n".join(
        [
            f"| {' | '.join(COLUMNS)} |",
            "|" + " --- |" * len(COLUMNS),
            *lines,
            "",
            f"`make chaos`, {points} points, {told['date']}, commit {', '.join(commits)}; "
            f"{told['cores']} cores of {told['processor']}.",
            "",
        ]
    )
    README.write_text(TABLE.sub(lambda _: page, README.read_text()))


def line_of(fault: Fault, kept: dict[str, Any]) -> str:
    """A fault's line of the table."""
    points = kept["points"]
    if not points:
        return f"| {fault.name} | {fault.then} | not here: {kept['not_here']} | | | | |"
    sums = [sum(max(0, one["law"][name]) for one in points) for name in ("lost", "doubled")]
    sums.append(sum(len(one["law"]["wrong"]) + len(one["law"]["half"]) for one in points))
    failed = [one for one in points if one["failure"]]
    silence = max(one["silence"] for one in points)
    codes = " ".join(dict.fromkeys(_codes(one["codes"]) for one in points))
    seconds = sum(one["seconds"] for one in points)
    told = ", ".join(map(str, sums)) + (f"; **{len(failed)} failed**" if failed else "")
    return (
        f"| {fault.name} | {fault.then} | {len(points)} | {told} | {silence:.0f} s | {codes} | "
        f"{seconds:.0f} |"
    )


def _codes(codes: Sequence[int]) -> str:
    return ",".join(str(code) for code in codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
