"""Hours and cost of large jobs: `python -m tests.benchmarks.scale --rates a=2000 b=1080`.

Nothing is run: the hours follow from images a second of each operator on one GPU, or on another
worker that `--worker` names, which are given, and from what `planning` and `shard_cost` measured.
Operators share the workers evenly. The driver is one process, so it bounds a job however many
workers there are; the note of each row says which bound it met. Shards are full (512 images).
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from jobs.cutting import SHARD_ROWS
from tests.benchmarks import measuring

IMAGES = (10**6, 10**8, 10**9)
WORKERS = (1, 16, 256)
OTHER_STAGES = 2  # fetch and put


@dataclass(frozen=True)
class Costs:
    """What was measured of planning and of the driver.

    Args:
        plan_seconds: a row of the manifest.
        stage_seconds: of the driver, a shard and stage.
    """

    plan_seconds: float
    stage_seconds: float


def measured() -> Costs:
    """Reads the figures that benchmarks kept, of their largest sizes."""
    sections = {
        name: measuring.read(measuring.RESULTS / f"{name}.json")
        for name in ("planning", "shard_cost")
    }
    plan = next(row for row in sections["planning"].rows if row.unit == "s")
    rows = int(plan.what.split(" rows")[0].rpartition(" ")[2].replace(",", ""))
    driver = [row for row in sections["shard_cost"].rows if row.most is not None][-1]
    return Costs(median(plan.ours) / rows, median(driver.ours) / 1000)


def hours(images: int, workers: int, rates: Mapping[str, float], costs: Costs) -> tuple[float, str]:
    """Hours of a job, and what bounds it."""
    compute = images * sum(1 / rate for rate in rates.values()) / workers
    shards = -(-images // SHARD_ROWS)
    driver = shards * (len(rates) + OTHER_STAGES) * costs.stage_seconds
    bound = "the workers" if compute >= driver else "the driver"
    return (images * costs.plan_seconds + max(compute, driver)) / 3600, bound


def main() -> None:
    """Keeps a row for each size of a job and of a cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", nargs="+", required=True, metavar="OPERATOR=IMAGES_PER_SECOND")
    parser.add_argument("--worker", default="GPU", help="what the rates are of")
    parser.add_argument("--worker-hour", type=float, default=4.0, help="what an hour of it costs")
    given = parser.parse_args()
    pairs = (rate.partition("=") for rate in given.rates)
    rates = {name: float(value) for name, _, value in pairs}
    told = ", ".join(f"{name} {rate:g} images/s" for name, rate in rates.items())
    rows = []
    for images in IMAGES:
        for workers in WORKERS:
            taken, bound = hours(images, workers, rates, measured())
            cost = taken * workers * given.worker_hour
            note = f"{cost:,.0f} at {given.worker_hour:g} an hour of each; bounded by {bound}"
            what = f"{images:,} images on {workers} x {given.worker}"
            rows.append(measuring.Row(what, "h", [taken], note=note))
    measuring.write(
        measuring.Section(
            name="scale",
            title="Hours and cost of large jobs",
            text=f"Calculated, not run: one {given.worker} does {told}; planning and the driver's "
            "seconds a shard and stage as measured; shards of 512 images; workers shared evenly.",
            command=f"python -m tests.benchmarks.scale {shlex.join(sys.argv[1:])}",
            rows=rows,
        )
    )


if __name__ == "__main__":
    main()
