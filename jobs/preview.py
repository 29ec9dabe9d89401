"""What `tagline plan` tells: what `enrich` would do, without doing any of it."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.enrich import MODELS, PLAN, actors_expected
from jobs.plan import open_manifest, plan
from jobs.shards import Plan
from jobs.waiting import Waiting
from operators.catalog import build_operators
from schemas.config import JobConfig

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def preview(config: JobConfig, *, address: str | None = None) -> Plan:
    """Plans a run and writes nothing.

    Raises:
        TaglineError: of the config, the manifest, a model or the table.
    """
    with Waiting() as waiting:
        waiting.begins(f"the manifest {config.manifest.path} to be listed")
        manifest = open_manifest(config)
        waiting.begins(MODELS)
        operators = build_operators(config, manifest.schema.names)
        actors = actors_expected(config, operators, address)
        waiting.begins(PLAN)
        return plan(config, operators, manifest=manifest, actors=actors, write=False)


def to_json(planned: Plan) -> dict[str, Any]:
    """The object of `plan --json`."""
    return {
        "operators": {name: asdict(counts) for name, counts in planned.computed.items()},
        "images_to_fetch": planned.images_to_fetch,
        "bytes_to_rewrite": planned.bytes_to_rewrite,
        "seconds": round(planned.seconds, 3),
        "cost": planned.cost,
    }


def show(planned: Plan, console: Console) -> None:
    """Prints a plan for people."""
    counts = planned.counts
    console.print(
        f"{planned.table}: {counts.manifest:,} rows in the manifest, {counts.new:,} new, "
        f"{counts.changed:,} changed, {counts.retry:,} with an error to be tried again, "
        f"{counts.settled:,} with a settled error, {counts.absent:,} absent, "
        f"{counts.duplicates:,} duplicates"
    )
    if planned.is_empty:
        console.print("Nothing to do.")
        return
    grid = Table("operator", "new", "changed", "retry", box=None)
    for name, rows in planned.computed.items():
        grid.add_row(name, f"{rows.new:,}", f"{rows.changed:,}", f"{rows.retry:,}")
    console.print(grid)
    cost = "" if planned.cost is None else f", cost {planned.cost:,.2f}"
    console.print(
        f"{planned.images_to_fetch:,} images to fetch, {_size(planned.bytes_to_rewrite)} of the "
        f"table to rewrite, about {_duration(planned.seconds)}{cost}"
    )


def _size(count: float) -> str:
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
