"""How long a plan takes over a large manifest: `python -m tests.benchmarks.planning`.

10 million rows in the manifest (Parquet; an id, a uri, a title), 9.9 million of them in the table
as they should be, in data files of 50,000 rows, three operators. Told are the seconds and the most
memory of `tagline plan`, a process of its own, on files that the system has in its cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from deltalake import Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

from jobs.plan import open_manifest
from jobs.table import planned_schema
from operators.catalog import build_operators, check_document
from schemas.enriched import key_column
from tests.benchmarks import measuring
from tests.benchmarks.overhead import OPERATORS

MANIFEST_FILE_ROWS = 1_000_000
ASKED_ROWS, MOST_SECONDS, MOST_GIGABYTES = 10_000_000, 90, 3
TABLE_FILE_ROWS = 50_000  # of 2 kB each, most of it an embedding: Delta's 100 MB
KINDS = ("apple", "bicycle", "cat", "dog", "elephant", "guitar", "house", "tree")


def manifest_rows(start: int, end: int) -> pa.Table:
    """Rows of a manifest: an id of 16 hex digits, a uri, a title."""
    numbers = np.arange(start, end, dtype=np.uint64)
    ids = hexadecimal(scattered(numbers)[:, None])
    kinds = pa.array(KINDS).take(pa.array(numbers % len(KINDS)))
    uris = pc.binary_join_element_wise("photos/", ids, ".jpg", "")
    titles = pc.binary_join_element_wise("a photograph of a ", kinds, ids, " no. ")
    return pa.table({"image_id": ids, "uri": uris, "title": titles})


def scattered(numbers: np.ndarray) -> np.ndarray:
    """Other numbers in no order, each once (Knuth's multiplicative hash; the factor is odd)."""
    return numbers * np.uint64(0x9E3779B97F4A7C15)


def hexadecimal(words: np.ndarray) -> pa.Array:
    """Text of 16 hex digits a word: (rows, words) of uint64."""
    data = np.ascontiguousarray(words.astype(">u8")).view(np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.stack([digits[data >> 4], digits[data & 15]], axis=-1).reshape(len(words), -1)
    ends = np.arange(len(words) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(ends), pa.py_buffer(text))


def table_rows(rows: pa.Table, schema: pa.Schema, keys: dict[str, str]) -> pa.Table:
    """Rows of the table: those of the manifest, fetched and computed; values are of no matter."""
    count = rows.num_rows
    random = np.random.default_rng(count).integers(0, 2**63, (count, 6), np.uint64)
    known = {name: rows[name] for name in rows.column_names}
    known |= {"image_sha256": hexadecimal(random[:, :4]), "image_etag": hexadecimal(random[:, 4:])}
    known["image_size"] = pa.array((random[:, 0] % 400_000 + 100_000).astype(np.int64))
    known |= {
        key_column(name): pa.array([key]).take(pa.array(np.zeros(count, int)))
        for name, key in keys.items()
    }
    columns = [known.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.table(columns, schema=schema)


def write(folder: Path, rows: int, in_table: int, file_rows: int) -> Path:
    """Writes the manifest, the table and the config, whose path is returned."""
    (folder / "manifest").mkdir(parents=True)
    for start in range(0, rows, MANIFEST_FILE_ROWS):
        made = manifest_rows(start, min(rows, start + MANIFEST_FILE_ROWS))
        pq.write_table(made, folder / "manifest" / f"{start:010}.parquet")
    document: dict[str, Any] = {
        "manifest": str(folder / "manifest"),
        "table": str(folder / "table"),
        "operators": OPERATORS,
    }
    config = folder / "job.yaml"
    config.write_text(yaml.safe_dump(document))
    checked = check_document(document)
    manifest = open_manifest(checked)
    operators = build_operators(checked, manifest.schema.names)
    schema = planned_schema(None, manifest.schema, operators)
    (folder / "table" / "data").mkdir(parents=True)
    keys = {operator.name: operator.key for operator in operators}
    added = list(data_files(folder / "table", in_table, file_rows, schema, keys))
    create_table_with_add_actions(str(folder / "table"), Schema.from_arrow(schema), added)
    return config


def data_files(
    table: Path, rows: int, file_rows: int, schema: pa.Schema, keys: dict[str, str]
) -> Iterator[AddAction]:
    """Writes the data files of the table."""
    for start in range(0, rows, file_rows):
        made = table_rows(manifest_rows(start, min(rows, start + file_rows)), schema, keys)
        path = table / "data" / f"{start:010}.parquet"
        pq.write_table(made, path, compression="zstd", row_group_size=file_rows)
        yield AddAction(
            path=f"data/{path.name}",
            size=path.stat().st_size,
            partition_values={},
            modification_time=0,
            data_change=True,
            stats=json.dumps({"numRecords": made.num_rows}),
        )


def planned(config: Path) -> tuple[float, float]:
    """Seconds and gigabytes at most of `tagline plan`, a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "jobs.plan", str(config), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - begun, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Writes the inputs, plans, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--new", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write(Path(folder), given.rows, given.rows - given.new, TABLE_FILE_ROWS)
        found = [planned(config) for _ in range(given.rounds)]
    what = f"{given.rows:,} rows in the manifest, {given.rows - given.new:,} in the table"
    is_asked = given.rows == ASKED_ROWS
    measuring.write(
        measuring.Section(
            name="planning",
            title="Planning",
            text=measuring.second_paragraph(__doc__),
            command="python -m tests.benchmarks.planning",
            rows=[
                measuring.Row(
                    what=f"`tagline plan`: {what}",
                    unit="s",
                    ours=[seconds for seconds, _ in found],
                    most=MOST_SECONDS if is_asked else None,
                ),
                measuring.Row(
                    what=f"memory of it: {what}",
                    unit="GB",
                    ours=[gigabytes for _, gigabytes in found],
                    most=MOST_GIGABYTES if is_asked else None,
                ),
            ],
        )
    )


if __name__ == "__main__":
    main()
