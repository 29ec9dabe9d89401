"""A job without Ray, for tests of planning and committing: one shard after the other."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import storage
from jobs.commit import commit
from jobs.plan import Selection, open_manifest, plan
from jobs.shards import Plan, Shard, part_path, part_schema, read_shard
from jobs.table import open_table
from operators.base import Operator, apply, stale_rows
from operators.catalog import build_operators, check_document
from operators.fetcher import Fetcher
from schemas.config import JobConfig
from schemas.enriched import IMAGE_ENCODED
from schemas.errors import RowFault, RowFaults
from tests.plain_operators import CATALOG

ALL = Selection()


def write_manifest(folder: str | Path, rows: Sequence[dict[str, Any]], name: str = "m") -> str:
    """Writes rows as a Parquet file of a manifest folder and gives the folder."""
    path = storage.normalise(str(folder))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    storage.write_bytes(storage.join(path, f"{name}.parquet"), sink.getvalue())
    return path


def write_images(folder: str | Path, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Writes `count` little files and gives their rows of a manifest, with a text each."""
    base = storage.normalise(str(folder))
    rows = []
    for number in range(start, start + count):
        uri = storage.join(base, f"{number:05d}.bin")
        storage.write_bytes(uri, f"image {number}".encode())
        rows.append({"image_id": f"id-{number:05d}", "uri": uri, "title": f"title {number}"})
    return rows


def config_of(
    manifest: str, table: str | Path, operators: dict[str, Any], **more: Any
) -> JobConfig:
    """A checked config with the plain operators."""
    document = {"manifest": str(manifest), "table": str(table), "operators": operators, **more}
    return check_document(document, catalog=CATALOG)


def operators_of(config: JobConfig) -> list[Operator]:
    """The chain of a config."""
    return build_operators(config, open_manifest(config).schema.names, catalog=CATALOG)


def make_plan(config: JobConfig, selection: Selection = ALL, **more: Any) -> Plan:
    """Plans a config."""
    return plan(config, operators_of(config), selection=selection, **more)


class Ledger:
    """Counts what was computed, to show what was not."""

    def __init__(self) -> None:
        self.computed: dict[str, int] = {}
        self.fetched = 0


def run(
    made: Plan,
    operators: Sequence[Operator],
    ledger: Ledger | None = None,
    fetcher: Fetcher | None = None,
) -> None:
    """Writes the parts that are absent; with a real fetcher where images are real."""
    for shard in made.pending():
        write_part(made, shard, operators, ledger, fetcher)


def write_part(
    made: Plan,
    shard: Shard,
    operators: Sequence[Operator],
    ledger: Ledger | None = None,
    fetcher: Fetcher | None = None,
) -> None:
    """Computes one shard and puts its part."""
    rows = read_shard(made.directory, shard)
    if fetcher:
        rows = fetcher(rows)
    for operator in operators:
        if ledger:
            stale = len(stale_rows(operator, rows))
            ledger.computed[operator.name] = ledger.computed.get(operator.name, 0) + stale

        def fetch(table: pa.Table) -> pa.Table:
            if ledger:
                ledger.fetched += table.num_rows
            return _fetched(table)

        rows = apply(operator, rows, fetch=fetch)
    schema = part_schema(made)
    sink = io.BytesIO()
    pq.write_table(rows.select(schema.names).cast(schema), sink)
    storage.put_if_absent(part_path(made, shard), sink.getvalue())


def enrich(
    config: JobConfig, selection: Selection = ALL, ledger: Ledger | None = None, **more: Any
) -> Plan:
    """Plans, runs and commits, as the real job does."""
    operators = operators_of(config)
    made = plan(config, operators, selection=selection, **more)
    if not made.is_empty:
        run(made, operators, ledger)
        commit(made)
    return made


def rows_of(table: str | Path) -> list[dict[str, Any]]:
    """The whole table, by image_id."""
    opened = open_table(str(table))
    assert opened is not None
    return sorted(opened.read().to_pylist(), key=lambda row: row["image_id"])


def _fetched(table: pa.Table) -> pa.Table:
    data, faults = [], {}
    for position, uri in enumerate(table["uri"].to_pylist()):
        found = storage.read_bytes(uri) if uri else None
        data.append(found)
        if found is None:
            faults[position] = RowFault("missing", f"{uri} is not there")
    if faults:
        raise RowFaults(faults)
    at = table.schema.get_field_index(IMAGE_ENCODED)
    return table.set_column(at, IMAGE_ENCODED, pa.array(data, pa.large_binary()))
