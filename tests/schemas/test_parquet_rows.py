"""Rows of Parquet from anywhere: the same as any reader's, and bombs are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from schemas import parquet_pages, parquet_rows
from schemas.parquet_pages import Chunk, PageReader
from schemas.parquet_rows import read_batches
from tests.manifest_bombs import BOMBS, LONG, in_lists, repeated, write_all

PROJECT = Path(__file__).parents[2]
PEAK_BYTES = 512_000_000  # above an idle process
LONG_BYTES = 1_900_000  # of a page, in a test that makes smaller ones
SLOW_SECONDS = 10.0  # of processor time

WRITTEN = [
    {},
    {"row_group_size": 70, "data_page_size": 64},
    {"data_page_version": "2.0", "compression": "zstd", "use_dictionary": False},
    {"compression": "gzip", "data_page_size": 64, "dictionary_pagesize_limit": 50},
    {"compression": "lz4", "write_page_index": True, "store_schema": False},
    {
        "use_dictionary": False,
        "column_encoding": {"uri": "DELTA_BYTE_ARRAY", "size": "DELTA_BINARY_PACKED"},
    },
]


TEXT = pa.string()


def table(rows: int) -> pa.Table:
    columns = {
        "image_id": [f"id-{n}" for n in range(rows)],
        "uri": pa.array(
            [f"s3://x/{'y' * (n % 50)}{n}" if n % 7 else None for n in range(rows)], TEXT
        ),
        "size": list(range(rows)),
        "kind": pa.array([f"kind {n % 3}" for n in range(rows)]).dictionary_encode(),
        "tags": [[f"tag {n % 5}", None, f"é{n}"] if n % 3 else None for n in range(rows)],
        "deep": [[{"a": [str(n)], "b": n}] for n in range(rows)],
        "vector": pa.array([[1.0, float(n)] for n in range(rows)], pa.list_(pa.float32(), 2)),
        "raw": [b"\0\xff" * (n % 4) for n in range(rows)],
    }
    return pa.table(columns)


def read(path: Path) -> pa.Table:
    schema = pq.read_schema(path).remove_metadata()
    batches = read_batches(pafs.LocalFileSystem(), str(path), schema)
    return pa.Table.from_batches(batches, schema)


@pytest.mark.parametrize("options", WRITTEN)
@pytest.mark.parametrize("rows", [0, 1000])
def test_rows_are_those_of_any_reader(tmp_path, options, rows):
    path = tmp_path / "m.parquet"
    pq.write_table(table(rows), path, **options)

    assert read(path) == pq.read_table(path).replace_schema_metadata(None)


def test_a_long_text_in_a_dictionary_makes_batches_small(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"t": repeated(LONG, 200)}), path, store_schema=False)
    schema = pa.schema([("t", pa.string())])

    batches = list(read_batches(pafs.LocalFileSystem(), str(path), schema))

    assert sum(batch.num_rows for batch in batches) == 200
    assert max(batch.nbytes for batch in batches) < 20_000_000


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a" * 2_000_000], "row group 0, column 't': a page unpacks to 2000010 bytes"),
        (in_lists(repeated(LONG), 1000), "texts in lists unpack to 200000000000 bytes"),
        (in_lists(pa.nulls(30_000_000, pa.int8())), "lists of 30000000 values in"),
    ],
)
def test_what_unpacks_to_too_much_is_named(tmp_path, monkeypatch, column, message):
    monkeypatch.setattr(parquet_rows, "PAGE_BYTES", LONG_BYTES)
    path = tmp_path / "m.parquet"
    is_plain = isinstance(column, list)
    pq.write_table(pa.table({"t": column}), path, use_dictionary=not is_plain, store_schema=False)
    with pytest.raises(pa.ArrowInvalid, match=message):
        read(path)


def test_more_rows_than_a_file_can_hold_are_an_error(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"t": pa.nulls(2_000_000, pa.int64())}), path)
    with pytest.raises(pa.ArrowInvalid, match=r"2000000 rows in \d+ bytes"):
        read(path)


def head(packed: int, values: int = 0, text: int = 0) -> bytes:
    """A data page's head in Thrift's compact protocol; `text` bytes of it are a statistic."""
    told = bytes([0x15, values * 2, 0x15, 0, 0x15, 0, 0x15, 0])
    statistics = b"\x1c\x18" + varint(text) + b"a" * text + b"\0"
    return b"\x15\0\x15\0\x15" + varint(packed * 2) + b"\x2c" + told + statistics + b"\0\0"


def varint(value: int) -> bytes:
    low, more = value & 127, value >> 7
    return bytes([low | 128]) + varint(more) if more else bytes([low])


def reader(data: bytes) -> tuple[PageReader, Chunk]:
    return PageReader(pa.BufferReader(data)), Chunk(0, len(data), 1 << 30, 0)


def test_more_pages_than_a_file_can_mean_are_an_error(monkeypatch):
    monkeypatch.setattr(parquet_pages, "FREE_PAGES", 100)
    pages, chunk = reader(head(0) * 1000)
    with pytest.raises(pa.ArrowInvalid, match=r"more than 210 pages in \d+ bytes"):
        list(pages.pages(chunk))


def test_heads_are_found_without_what_lies_between_them():
    sizes = [10, 300_000, 0, 70_000, 5_000_000, 65_520]
    texts = [0, 200_000, 65_500, 1, 0, 0]
    data = b"".join(
        head(size, 1, text) + b"\xff" * size for size, text in zip(sizes, texts, strict=True)
    )
    pages, chunk = reader(data)
    read = []
    source = pages.source
    pages.source = Watched(source, read)

    assert [page.packed for page in pages.pages(chunk)] == sizes
    assert sum(read) < 1_000_000


class Watched:
    """A source that notes how much is read of it."""

    def __init__(self, source: pa.NativeFile, read: list[int]) -> None:
        self.source, self.read = source, read

    def read_at(self, size: int, at: int) -> bytes:
        self.read.append(size)
        return self.source.read_at(size, at)


@pytest.mark.chaos
def test_no_manifest_takes_a_plan_half_a_gigabyte(tmp_path):
    write_all(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "tests.manifest_bombs", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(BOMBS), done.stderr
    wrong = [
        line
        for line in lines
        if line[2] != "done"
        or not line[3].startswith("ManifestError")
        or line[4] > PEAK_BYTES
        or line[5] > SLOW_SECONDS
    ]
    assert wrong == []
