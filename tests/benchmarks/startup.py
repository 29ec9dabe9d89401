"""How long one waits before anything is there: `python -m tests.benchmarks.startup`.

`tagline --help`, `tagline plan` of the demo's 64 scenes with nothing in the table, and the whole
of `tagline enrich` of them with the demo's five operators: Ray, actors and weights included.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from jobs.demo import document
from tests.benchmarks import measuring

HELP_SECONDS, ENRICH_SECONDS = 0.3, 25


def seconds(arguments: Sequence[str]) -> float:
    """Runs the command line in a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def enriched(folder: Path, number: int) -> tuple[float, float]:
    """Seconds of `plan` and of `enrich` of a new table."""
    config = folder / f"{number}.yaml"
    config.write_text(yaml.safe_dump(document(folder / f"table-{number}"), sort_keys=False))
    return seconds(["plan", str(config)]), seconds(["enrich", str(config)])


def main() -> None:
    """Keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=measuring.ROUNDS)
    given = parser.parse_args()
    helped = [seconds(["--help"]) for _ in range(1 + given.rounds)][1:]
    with tempfile.TemporaryDirectory() as folder:
        found = [enriched(Path(folder), number) for number in range(given.rounds)]
    measuring.write(
        measuring.Section(
            name="startup",
            title="Start-up",
            text=measuring.second_paragraph(__doc__),
            command="python -m tests.benchmarks.startup",
            rows=[
                measuring.Row("`tagline --help`", "s", helped, most=HELP_SECONDS),
                measuring.Row("`tagline plan` of 64 scenes", "s", [plan for plan, _ in found]),
                measuring.Row(
                    "`tagline enrich` of 64 scenes, five operators",
                    "s",
                    [enrich for _, enrich in found],
                    most=ENRICH_SECONDS,
                ),
            ],
        )
    )


if __name__ == "__main__":
    main()
