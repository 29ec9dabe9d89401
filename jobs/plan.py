"""Decides what has to be computed, and lays it down as shards that any run can take up.

The same table version, manifest, operators and selection give the same plan id: a run that was cut
short goes on where it was, on any size of cluster.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pyarrow as pa

from jobs import storage
from jobs.cutting import Expectation, cut, limits_for
from jobs.decision import Rules
from jobs.records import (
    ANOTHER,
    read_rates,
    read_tried,
    record_operators,
    record_tried,
    unrecorded,
)
from jobs.shards import Plan, read_plan, write_plan
from jobs.staleness import Comparison
from jobs.store_patience import hastily
from jobs.table import Table, check_texts, open_table, planned_schema
from operators.base import Operator
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.config import JobConfig
from schemas.errors import ConfigError, RowFault
from schemas.manifest import Manifest
from schemas.manifest_files import STORE_ERRORS

ROUND_ROWS = 50_000_000  # due rows of one plan; the rest is for the next
PLAN_FORMAT = 2  # raised when the same state would be planned into other shards
START_SECONDS = 12.0  # Ray, its actors and the weights; measured on two cores
SAMPLE_ROWS = 200  # images whose size is asked for when none is known
SAMPLE_THREADS = 32
TABLE_FILES = (  # such as a table holds, to tell whether a manifest's glob takes them in
    "data/0123456789abcdef/000000.parquet",
    "part-00000-01234567-89ab-cdef-0123-456789abcdef-c000.zstd.parquet",
    "_tagline/plans/0123456789abcdef/rows-00000-0123456789abcdef.parquet",
    "_delta_log/00000000000000000100.checkpoint.parquet",
)
UNKNOWN_IMAGE_BYTES = 1_000_000.0  # where not even a sample can be had


@dataclass(frozen=True)
class Selection:
    """Which rows beside new and changed ones are wanted.

    Args:
        retry: `due` takes errors that something changed for and transient ones with attempts left;
            `errors` takes all rows with an error and nothing else; `transient` those of them that
            may pass.
        prune: removes rows the manifest no longer names.
        refresh: asks the stores for the etag of every image, and takes those that changed too.
    """

    retry: Literal["due", "errors", "transient"] = "due"
    prune: bool = False
    refresh: bool = False

    @property
    def verb(self) -> str:
        """The verb that asks for them."""
        return "enrich" if self.retry == "due" else "retry"


def open_manifest(config: JobConfig) -> Manifest:
    """Opens the manifest of a job; reads schemas, no rows.

    Raises:
        ManifestError: it cannot be read as one.
        ConfigError: the manifest's folder or glob takes in files of the table.
    """
    path = storage.normalise(config.manifest.path)
    table = storage.normalise(config.table)
    is_folder = storage.join(table, "").startswith(storage.join(path, ""))
    if is_folder or any(storage.matches(path, storage.join(table, name)) for name in TABLE_FILES):
        kind = "folder" if is_folder else "glob"
        raise ConfigError(
            f"table {config.table!r} lies in the manifest's {kind} {config.manifest.path!r}, so "
            "its files would be taken for the manifest; give the table another place, or name the "
            "manifest's files more narrowly"
        )
    return Manifest.open(path, config.manifest.columns, filesystem=storage.filesystem(path))


def policy_of(config: JobConfig) -> Policy:
    """Where the images of a job may come from."""
    allow = config.allow
    return Policy(
        manifest=config.manifest.path,
        buckets=allow.buckets,
        roots=allow.roots,
        hosts=allow.hosts,
    )


def plan(
    config: JobConfig,
    operators: Sequence[Operator],
    *,
    selection: Selection = Selection(),
    manifest: Manifest | None = None,
    actors: int = 1,
    write: bool = True,
    round_rows: int = ROUND_ROWS,
) -> Plan:
    """Plans a run, or finds the plan that a run cut short has left.

    Args:
        config: names the manifest and the table.
        operators: in order: `build_operators(config, open_manifest(config).schema.names)`.
        selection: which rows are wanted.
        manifest: opened by `open_manifest`; opened here when None.
        actors: of the largest pool; decides how small shards are, where rows allow 4 for each.
        write: lays the shards down for a run. Without it nothing is written and the plan has no
            shards: that is `tagline plan`.
        round_rows: due rows of one plan; `Plan.remaining` are left for the next.

    Returns:
        The plan; when `is_empty`, nothing was written and there is nothing to run or commit.

    Raises:
        ConfigError: the manifest's columns clash with the operators' or with the table's types.
        ManifestError: the manifest cannot be read as one.
        TableError: the table's path holds something else.
    """
    manifest = manifest or open_manifest(config)
    path = storage.normalise(config.table)
    table = open_table(path)
    schema = planned_schema(table, manifest.schema, operators)
    check_texts(schema, operators)
    plan_id = _plan_id(table, manifest, operators, selection)
    standing = read_plan(path, plan_id) if write else None
    if standing:
        return standing
    with Comparison(manifest, table, operators) as comparison:
        comparison.load()
        if selection.refresh:
            comparison.refresh(Fetcher(operators, policy_of(config)).has_changed)
        comparison.decide(_rules(path, comparison, config, selection))
        made = _decided(
            comparison,
            plan_id,
            path,
            table_version=table.version if table else None,
            operators=operators,
            schema=schema,
            round_rows=round_rows,
        )
        if made.is_empty:
            return made
        rates = read_rates(path, made.operators)
        made = _estimated(made, config, rates, actors)
        return _written(made, comparison, config, rates, actors) if write else made


def _decided(
    comparison: Comparison,
    plan_id: str,
    path: str,
    *,
    table_version: int | None,
    operators: Sequence[Operator],
    schema: pa.Schema,
    round_rows: int,
) -> Plan:
    """The plan of what was decided, without its estimates and shards."""
    remaining = comparison.limit(round_rows)
    replaced = [comparison.files[at] for at in comparison.replaced()]
    return Plan(
        id=plan_id,
        table=path,
        table_version=table_version,
        operators={op.name: op.key for op in operators},
        counts=comparison.counts(),
        computed=comparison.computed(),
        images_to_fetch=comparison.images_to_fetch(),
        bytes_to_rewrite=sum(file.size for file in replaced),
        seconds=0.0,
        cost=None,
        remaining=remaining,
        schema=schema,
        retired=comparison.retired,
        replaced=tuple(file.path for file in replaced),
    )


def _plan_id(
    table: Table | None, manifest: Manifest, operators: Sequence[Operator], selection: Selection
) -> str:
    known = {
        "format": PLAN_FORMAT,
        "version": table.version if table else None,
        "table": table.delta.metadata().id if table else None,
        "manifest": manifest.fingerprint,
        "operators": [[op.name, op.key] for op in operators],
        "selection": asdict(selection),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _rules(path: str, comparison: Comparison, config: JobConfig, selection: Selection) -> Rules:
    return Rules(
        retry=selection.retry,
        prune=selection.prune,
        attempts=config.limits.attempts,
        tried_keys=read_tried(path, comparison.files_with_errors()),
        untried=unrecorded(path, comparison.operators),
        retired=comparison.retired,
    )


def _estimated(made: Plan, config: JobConfig, rates: Mapping[str, float], actors: int) -> Plan:
    """Adds the expected time, that of the slowest operator, and what it costs."""
    slowest = 0.0
    for name, counts in made.computed.items():
        count = config.resources.pool(name).actors or actors
        rows = counts.new + counts.changed + counts.retry
        slowest = max(slowest, rows / (rates[name] * count))
    seconds = round(slowest + START_SECONDS, 1)
    hourly = config.resources.cost_per_hour
    return replace(
        made, seconds=seconds, cost=None if hourly is None else round(seconds / 3600 * hourly, 4)
    )


def _written(
    made: Plan,
    comparison: Comparison,
    config: JobConfig,
    rates: Mapping[str, float],
    actors: int,
) -> Plan:
    """Writes all that a run needs, `plan.json` last."""
    record_operators(made.table, comparison.operators)
    left = comparison.open_stages()
    tried = {name: ANOTHER if name in left else key for name, key in made.operators.items()}
    record_tried(made.table, made.id, tried)
    expectation = Expectation(
        image_bytes=_image_bytes(comparison, config),
        seconds={name: 1 / rate for name, rate in rates.items()},
    )
    shards = cut(
        comparison,
        directory=made.directory,
        schema=made.schema,
        limits=limits_for(made.counts.due, actors),
        expectation=expectation,
    )
    return write_plan(replace(made, shards=shards))


def _image_bytes(comparison: Comparison, config: JobConfig) -> float:
    """The mean size of images that were never fetched, of a sample that may be looked at."""
    policy = policy_of(config)
    uris = [uri for _, uri in comparison.sample_of_unknown_size(SAMPLE_ROWS)]
    with ThreadPoolExecutor(SAMPLE_THREADS) as pool:
        found = pool.map(lambda uri: _size_of(uri, policy), uris)
        sizes = [size for size in found if size is not None]
    return sum(sizes) / len(sizes) if sizes else UNKNOWN_IMAGE_BYTES


def _size_of(uri: str, policy: Policy) -> int | None:
    """Bytes of an image; None where that cannot be told, which the fetch will name."""
    try:
        place = policy.place(uri)
        path = {"file": place.path, "s3": f"s3://{place.host}/{place.path}"}.get(place.kind)
        with hastily():
            known = storage.stat(path) if path else None
    except (RowFault, ValueError, *STORE_ERRORS):
        return None
    return known.size if known else None


if __name__ == "__main__":
    from jobs.cli import main

    main(["plan"])
