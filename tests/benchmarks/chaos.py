"""Injects every fault at several random points, and tells what came of each in the README.

    python -m tests.benchmarks.chaos                       all, three points each
    python -m tests.benchmarks.chaos --only SIGTERM --points 10 --seed 1

The first point of a fault meets a job with a Ray of its own, the others one on a cluster that
stays. Each is followed by the same command until it is done, and by a comparison of the whole
table. Prints a line a point, keeps all in results/chaos.json and writes the README's table anew.
About half an hour on two cores; 1 when a row was lost, doubled or wrong, or a command did not say
what it must.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import RESULTS, machine
from tests.chaos import cluster, table_store
from tests.chaos.catalog import FAULTS
from tests.chaos.fault import Fault, NotHereError, Result, inject, new_life
from tests.chaos.life import Law

FILE = RESULTS / "chaos.json"
README = Path(__file__).parents[2] / "README.md"
TABLE = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- /faults -->)", re.DOTALL)

POINTS = 3
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
    parser.add_argument("--page-only", action="store_true", help="write the table of what was kept")
    given = parser.parse_args(arguments)
    if given.page_only:
        write_table()
        return 0
    faults = [fault for fault in FAULTS if re.search(given.only, fault.name)]
    is_right = True
    with cluster.running([2]) as nodes:
        for fault in faults:
            found = points_of(fault, given.points, given.seed, nodes)
            is_right &= isinstance(found, list) and all(one.is_right for one in found)
            keep(fault, found)
            write_table()
    return 0 if is_right else 1


def points_of(fault: Fault, points: int, seed: int, nodes: cluster.Cluster) -> list[Result] | str:
    """Injects a fault at its points, one after the other in one life; or says why it cannot be."""
    results = []
    with tempfile.TemporaryDirectory(prefix="tagline-chaos-") as folder:
        life = None
        try:
            for point in range(points):
                if life is None:
                    life = new_life(fault, Path(folder) / str(point))
                if point and not fault.is_alone:
                    life.address, life.environment = nodes.address, dict(cluster.ENVIRONMENT)
                try:
                    result = inject(fault, life, seed + point)
                except NotHereError as reason:
                    print(f"{fault.name}: not here, {reason}", flush=True)
                    return str(reason)
                except Exception as error:
                    traceback.print_exc()
                    failure = f"{type(error).__name__}: {error}"
                    result = Result(fault.name, seed + point, Law(-1, -1), (), 0.0, 0.0, failure)
                results.append(result)
                print(result, *result.law.wrong[:3], flush=True)
                if not result.is_right:  # what comes after begins with a table that is right
                    table_store.leave(life)
                    life = None
        finally:
            if life is not None:
                table_store.leave(life)
    return results


def keep(fault: Fault, found: list[Result] | str) -> None:
    """Keeps what a fault came to, in place of what was kept of it before."""
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"faults": {}}
    told = machine()
    short = [
        asdict(
            replace(one, failure=one.failure[:300], law=replace(one.law, wrong=one.law.wrong[:3]))
        )
        for one in (found if isinstance(found, list) else ())
    ]
    kept["faults"][fault.name] = {
        "date": told["date"],
        "commit": told["commit"],
        "not_here": found if isinstance(found, str) else "",
        "points": short,
    }
    kept["machine"] = told
    FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def write_table() -> None:
    """Writes what was kept into the README, in the order of the catalog."""
    kept = json.loads(FILE.read_text())
    lines = [
        line_of(fault, kept["faults"][fault.name])
        for fault in FAULTS
        if fault.name in kept["faults"]
    ]
    told = kept["machine"]
    commits = sorted({one["commit"] for one in kept["faults"].values()})
    points = sum(len(one["points"]) for one in kept["faults"].values())
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
