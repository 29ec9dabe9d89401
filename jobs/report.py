"""Shows a table on one page: what is in it, how it came about, and rows to look at with pictures.

The page is one HTML file that needs no network and no script. A table of a million rows is gone
through once, and only over its columns of scores and labels (`jobs.survey`).
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import storage
from jobs.parts import PartReport, reports_of_files
from jobs.pictures import fetcher_of, read_policy, thumbnails
from jobs.records import measured_rate
from jobs.roles import AGREEMENT, Roles, roles_of
from jobs.summary import total
from jobs.survey import Survey, read_rows, survey
from jobs.table import Table, existing_table
from schemas.config import FETCH
from schemas.enriched import ERROR, IMAGE_ID, URI
from schemas.errors import ConfigError, RowFault


@dataclass(frozen=True)
class Stage:
    """How fast a stage was.

    Args:
        name: of the stage.
        rows: that it took; for the fetcher those that were due.
        seconds: its actors were busy, all together; None where only the rate is known.
        rate: rows a second of one actor; None where nothing was measured.
    """

    name: str
    rows: int
    seconds: float | None
    rate: float | None


@dataclass(frozen=True)
class Effort:
    """What it took to compute the rows that the table has now.

    Args:
        stages: in order.
        covered: rows whose data files say how they came about.
        cost: of the busy seconds; None where that is not known.
    """

    stages: tuple[Stage, ...]
    covered: int
    cost: float | None

    @property
    def seconds(self) -> float:
        """Busy, all stages together."""
        return sum(stage.seconds or 0.0 for stage in self.stages)


@dataclass(frozen=True)
class Shown:
    """A row of the contact sheet.

    Args:
        row: its columns.
        picture: a data URL, or why there is none.
    """

    row: Mapping[str, Any]
    picture: str | RowFault


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    Args:
        table: its path.
        version: of Delta.
        roles: of its columns.
        survey: what it holds.
        effort: what it took.
        sheet: rows to look at, by kind.
        out: where the page is.
        seconds: that the report took.
    """

    table: str
    version: int
    roles: Roles
    survey: Survey
    effort: Effort
    sheet: Mapping[str, Sequence[Shown]] = field(default_factory=dict)
    out: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        errors: Counter[str] = Counter()
        for (_, code), count in self.survey.errors.items():
            errors[code] += count
        pictures = [one.picture for shown in self.sheet.values() for one in shown]
        return {
            "report": self.out,
            "version": self.version,
            "rows": self.survey.rows,
            "healthy": self.survey.healthy,
            "errors": dict(errors),
            "labels": {name: dict(counts) for name, counts in self.survey.labels.items()},
            "rows_per_second": {one.name: one.rate for one in self.effort.stages},
            "busy_seconds": round(self.effort.seconds, 3),
            "cost": self.effort.cost,
            "shown": {
                kind: [one.row[IMAGE_ID] for one in rows] for kind, rows in self.sheet.items()
            },
            "pictures_missing": sum(isinstance(one, RowFault) for one in pictures),
            "seconds": round(self.seconds, 3),
        }


def run(
    table: str, out: str, *, images: str | None = None, cost_per_hour: float | None = None
) -> Report:
    """Writes the page.

    Args:
        table: path of an enriched table.
        out: the file to write.
        images: see `jobs.pictures.read_policy`.
        cost_per_hour: of one actor, be it busy with fetching or with a model.

    Raises:
        ConfigError: an argument cannot be.
        DatasetError: there is no table.
        TableError: something else lies there.
    """
    from jobs.report_page import page

    begun = time.monotonic()
    if cost_per_hour is not None and not 0 <= cost_per_hour < math.inf:
        raise ConfigError(f"--cost-per-hour is {cost_per_hour}; what an actor costs is 0 or more")
    if storage.scheme_of(out) == "file" and Path(storage.normalise(out)).is_dir():
        raise ConfigError(f"--out {out!r}: is a folder; give a file, such as {out}/report.html")
    opened = existing_table(table)
    policy = read_policy(opened.path, images)
    roles = roles_of(opened)
    found = survey(opened, roles)
    sheet = _sheet(opened, roles, found)
    fetcher = fetcher_of(policy)
    pictures = iter(thumbnails(fetcher, [row[URI] for rows in sheet.values() for row in rows]))
    report = Report(
        table=opened.path,
        version=opened.version,
        roles=roles,
        survey=found,
        effort=_effort(opened, roles, cost_per_hour),
        sheet={kind: [Shown(row, next(pictures)) for row in rows] for kind, rows in sheet.items()},
        out=out,
        seconds=time.monotonic() - begun,
    )
    storage.write_bytes(storage.normalise(out), page(report).encode())
    return report


def _sheet(table: Table, roles: Roles, found: Survey) -> dict[str, list[dict[str, Any]]]:
    """Reads the rows to look at, by kind."""
    kinds = found.sheet()
    places = [place for rows in kinds.values() for place in rows]
    rows = iter(read_rows(table, _shown_columns(roles), places))
    return {kind: [next(rows) for _ in places] for kind, places in kinds.items()}


def _shown_columns(roles: Roles) -> list[str]:
    wanted = [IMAGE_ID, URI, ERROR, AGREEMENT, *roles.tags, *roles.verdicts, *roles.texts.values()]
    wanted += [f"{name}_reason" for name in roles.verdicts]
    for source in roles.sources:
        wanted += [source.column, *source.signals]
    return wanted + [f"{name}_alternatives" for name in roles.captions]


def _effort(table: Table, roles: Roles, cost_per_hour: float | None) -> Effort:
    """Adds up what the table's data files say of how they came about."""
    reports = reports_of_files(table.path, [file.path for file in table.files])
    covered = sum(file.rows for file in table.files if file.path in reports)
    stages = _stages(list(reports.values()), table.path, roles.keys)
    seconds = sum(stage.seconds or 0.0 for stage in stages)
    is_known = cost_per_hour is not None and bool(reports)
    cost = round(seconds / 3600 * (cost_per_hour or 0.0), 4) if is_known else None
    return Effort(tuple(stages), covered, cost)


def _stages(reports: Sequence[PartReport], table: str, keys: Mapping[str, str]) -> list[Stage]:
    """The stages in the order in which they ran.

    One that the reports do not time, as when a later run wrote its rows anew for another operator,
    has the rate that was last measured.
    """
    busy, computed = total(reports, "busy"), total(reports, "computed")
    tried = sum(report.tried for report in reports)
    stages = []
    for name in [*busy, *(name for name in keys if name not in busy)]:
        rows = tried if name == FETCH else computed[name]
        seconds = float(busy[name]) if rows else None
        rate = rows / seconds if seconds else None
        if rate is None and name in keys:
            rate = measured_rate(table, keys[name])
        if rows or rate:
            stages.append(Stage(name, rows, seconds, rate))
    return stages


if __name__ == "__main__":
    from jobs.cli import main

    main(["report"])
