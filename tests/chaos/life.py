"""The life of one table: a small job by the real command, again and again, and the law it keeps.

The law: every image_id of the manifest is exactly once in the table, with the values or the error
that are meant, and whoever reads meanwhile sees whole runs only.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from jobs.table import Table, open_table
from tests.chaos.command import Ended, Running

ROWS = 60  # that a fault meets
ROW_SECONDS = 0.04
MOST_RUNS = 6  # of the same command until it is done
GREYS = 256


@dataclass(frozen=True)
class Law:
    """How the table differs from what it must be.

    Args:
        lost: image_ids of the manifest that are not there.
        doubled: rows beyond the first of an image_id.
        wrong: rows with another value, or another error, than is meant.
        half: states of the table that a reader saw and that no whole run made.
    """

    lost: int
    doubled: int
    wrong: Sequence[str] = ()
    half: Sequence[tuple[int, int, int]] = ()

    @property
    def is_kept(self) -> bool:
        """Whether nothing differs."""
        return not (self.lost or self.doubled or self.wrong or self.half)


@dataclass
class Life:
    """A job in a folder, its table, and what was done to it.

    Args:
        folder: of its own.
        address: of a Ray cluster; None for a Ray of its own each time.
        rows: that a fault meets.
        environment: of its commands.
        codes: errors that are meant, by number.
        shades: of pictures that were exchanged, by number.
        others: image_ids that another writer added.
        ended: its commands so far.
    """

    folder: Path
    address: str | None = None
    rows: int = ROWS
    environment: dict[str, str] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)
    shades: dict[int, int] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    sizes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name in ("photos", "store"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "manifest": str(self.folder / "photos" / "*.parquet"),
            "table": str(self.folder / "store" / "table"),
            "operators": {
                "shade": {"use": "tests.plain_jobs:Brightness"},
                "twice": {
                    "use": "tests.chaos.operators:Twice",
                    "of": "number",
                    "switches": str(self.switches),
                },
            },
            "resources": {
                "fetch": {"actors": 1, "cpus": 0.1},
                "shade": {"actors": 1, "cpus": 0.2, "batch": 4},
                "twice": {"actors": 3, "cpus": 0.2},
            },
        }
        self.switch()

    @property
    def switches(self) -> Path:
        """The file of switches of `tests.chaos.operators`."""
        return self.folder / "switches.json"

    @property
    def table(self) -> str:
        """Where the table lies."""
        return str(self.config["table"])

    def switch(self, **harm: Any) -> None:
        """Does this harm and no other from now on."""
        new = self.switches.with_suffix(".new")
        new.write_text(json.dumps({"seconds": ROW_SECONDS, **harm}))
        new.replace(self.switches)
        self.switches.with_suffix(".slow").unlink(missing_ok=True)

    def grow(self, rows: int | None = None) -> list[int]:
        """Adds pictures, and a file of the manifest that names them; gives their numbers."""
        first = len(self.numbers)
        new = list(range(first, first + (rows or self.rows)))
        for number in new:
            self.draw(number, number % GREYS)
        self.name(new, f"rows-{first:05d}")
        self.numbers += new
        self.count()
        return new

    def draw(self, number: int, grey: int) -> None:
        """Puts a picture of one grey value where there may be one, in one step."""
        path = self.folder / "photos" / f"{number}.png"
        Image.new("L", (8, 8), grey).save(path.with_suffix(".new"), "PNG")
        path.with_suffix(".new").replace(path)

    def name(self, numbers: Iterable[int], file: str) -> None:
        """Puts a file of the manifest, over one that may be there, in one step."""
        numbers = list(numbers)
        rows = pa.table(
            {
                "image_id": [f"id-{number:05d}" for number in numbers],
                "uri": [self.uri(number) for number in numbers],
                "number": pa.array(numbers, pa.float32()),
            }
        )
        path = self.folder / "photos" / f"{file}.parquet"
        pq.write_table(rows, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def uri(self, number: int) -> str:
        """Where a picture lies, as the manifest says."""
        return f"{number}.png"

    def count(self) -> None:
        """Lets the table have as many rows as there are now."""
        self.sizes.add(len(self.numbers) + len(self.others))

    def words(self, *arguments: str, verb: str = "enrich") -> list[str]:
        """The words of a command."""
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(self.config))
        where = ["--address", self.address] if self.address else []
        return [sys.executable, "-m", f"jobs.{verb}", str(path), *where, *arguments]

    def start(self, *arguments: str, verb: str = "enrich", **environment: str) -> Running:
        """Starts the command; the caller gives its end to `keep`."""
        return Running(self.words(*arguments, verb=verb), {**self.environment, **environment})

    def keep(self, ended: Ended) -> Ended:
        """Counts a command that ended."""
        self.ended.append(ended)
        return ended

    def run(self, *arguments: str, code: int | None = None, verb: str = "enrich") -> Ended:
        """Runs the command to its end, which must be by an exit code where one is given."""
        with self.start(*arguments, verb=verb) as running:
            ended = self.keep(running.wait())
        assert code in (None, ended.code), f"exit {ended.code}, not {code}:\n{ended.text}"
        return ended

    def until_done(self, *arguments: str) -> Ended:
        """Runs the same command until it says that it is done."""
        for _ in range(MOST_RUNS):
            ended = self.run(*arguments)
            if ended.code == 0:
                return ended
            goes_on = ended.code == 1 and "the same command" in ended.message
            assert goes_on, f"exit {ended.code}:\n{ended.text}"
        raise AssertionError(f"not done after {MOST_RUNS} runs:\n{ended.text}")

    def parts(self) -> list[Path]:
        """Parts that were put, the latest last."""
        found = Path(self.table, "data").glob("*/*.parquet")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def until_parts(self, running: Running, count: int) -> bool:
        """Waits for the plan, and for so many parts; whether the command still runs then."""
        running.until("event=planned")
        before = len(self.parts())
        while not running.has_ended:
            if len(self.parts()) >= before + count:
                return True
            running.rest(0.02)
        return False

    def opened(self) -> Table:
        """The table as it is now."""
        table = open_table(self.table)
        assert table is not None, "there is no table"
        return table

    def law(self, seen: Iterable[tuple[int, int, int]] = ()) -> Law:
        """Compares the table with what it must be, and what a reader saw with whole runs."""
        rows = self.opened().read(["image_id", "shade", "twice", "error"]).to_pylist()
        times = Counter(row["image_id"] for row in rows)
        meant = {f"id-{number:05d}": number for number in self.numbers}
        wrong = [
            f"{row['image_id']}: {row['shade']}, {row['twice']}, {row['error']}"
            for row in rows
            if row["image_id"] in meant and not self._is_right(meant[row["image_id"]], row)
        ]
        wrong += [f"{name}: unknown" for name in times if name not in {*meant, *self.others}]
        half = [one for one in seen if one[1] != one[2] or one[1] not in self.sizes]
        lost = len(meant.keys() - times.keys()) + len(self.others - times.keys())
        return Law(lost, sum(times.values()) - len(times), tuple(wrong), tuple(half))

    def _is_right(self, number: int, row: dict[str, Any]) -> bool:
        code = self.codes.get(number)
        if code is not None:
            return bool(row["error"] and row["error"]["code"] == code)
        shade = self.shades.get(number, number % GREYS)
        return (row["shade"], row["twice"], row["error"]) == (float(shade), 2.0 * number, None)
