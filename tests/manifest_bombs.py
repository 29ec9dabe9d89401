"""Small manifests that ask for much, and a command that loads each into a plan's database.

    python -m tests.manifest_bombs FOLDER

Each file of FOLDER is read in a process of its own. Prints a line of JSON for each: name, bytes,
fate, what came out, peak of memory above an idle process, seconds of processor time.
"""

import bz2
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LONG = "a" * 1_000_000
ROWS = 200_000


def parquet(path: Path, columns: dict[str, pa.Array], **options: object) -> None:
    """A file of these columns, and of the two that a manifest needs."""
    rows = len(next(iter(columns.values())))
    ids = {"image_id": pa.array(np.arange(rows)), "uri": pa.nulls(rows, pa.string())}
    pq.write_table(pa.table(ids | columns), path, compression="zstd", **options)


def repeated(text: str, rows: int = ROWS) -> pa.Array:
    """A text that is stored once and stands in every row."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])


def in_lists(values: pa.Array, rows: int = 1) -> pa.Array:
    """All values in as many lists."""
    return pa.ListArray.from_arrays(np.linspace(0, len(values), rows + 1).astype(np.int32), values)


def text_page(path: Path) -> None:
    """A page of a text of 200 MB."""
    parquet(path, {"t": pa.array(["a" * 200_000_000])}, use_dictionary=False)


def pages_of_columns(path: Path) -> None:
    """Pages of 100 MB in each of four columns."""
    text = pa.array(["a" * 100_000_000])
    parquet(path, {f"t{n}": text for n in range(4)}, use_dictionary=False)


def pages_of_nothing(path: Path) -> None:
    """A page for every value."""
    columns = {"t": pa.nulls(100_000, pa.int32())}
    parquet(
        path,
        columns,
        data_page_size=1,
        write_batch_size=1,
        use_dictionary=False,
        row_group_size=1 << 20,
    )


def sparse_lines(path: Path) -> None:
    """A few lines of many keys, and very many without any."""
    keys = {f"k{number}": 1 for number in range(1500)}
    first = json.dumps({"image_id": "a", "uri": "x", **keys})
    path.write_text(first + "\n" + "{}\n" * 4_000_000)


def later_sparse_lines(path: Path) -> None:
    """The same, after what is looked at for types."""
    keys = {f"k{number}": 1 for number in range(200)}
    first = json.dumps({"image_id": "a", "uri": "x" * 4_000, **keys}) + "\n"
    path.write_text(first * 3_000 + "{}\n" * 5_000_000)


def rows_of_csv(path: Path) -> None:
    """Rows that pack to nearly nothing."""
    path.write_bytes(bz2.compress(b"image_id,uri\n" + (b"a," + b"x" * 900_000 + b"\n") * 400, 9))


def one_line(path: Path) -> None:
    """A CSV without an end of line, packed."""
    path.write_bytes(gzip.compress(b"image_id,uri\n" + b"a" * 400_000_000, 1))


BOMBS: dict[str, Callable[[Path], None]] = {
    "a long text in every row.parquet": lambda path: parquet(path, {"t": repeated(LONG)}),
    "the same without its type.parquet": lambda path: parquet(
        path, {"t": repeated(LONG)}, store_schema=False
    ),
    "the same in small row groups.parquet": lambda path: parquet(
        path, {"t": repeated(LONG, 5_000)}, row_group_size=10, store_schema=False
    ),
    "sharing beginnings.parquet": lambda path: parquet(
        path,
        {"t": pa.array([LONG] * 300)},
        use_dictionary=False,
        column_encoding={"t": "DELTA_BYTE_ARRAY"},
    ),
    "a page of one text.parquet": text_page,
    "pages of many columns.parquet": pages_of_columns,
    "pages of nothing.parquet": pages_of_nothing,
    "a list of all numbers.parquet": lambda path: parquet(
        path, {"t": in_lists(pa.array(np.zeros(30_000_000, np.int32)))}
    ),
    "long texts in lists.parquet": lambda path: parquet(
        path, {"t": in_lists(repeated(LONG), 1000)}, store_schema=False
    ),
    "long texts in typed lists.parquet": lambda path: parquet(
        path, {"t": in_lists(repeated(LONG), 1000)}
    ),
    "rows of nothing.parquet": lambda path: pq.write_table(
        pa.table(
            {name: pa.array(np.zeros(3_000_000, np.int64)) for name in ("image_id", "n")}
        ).append_column("uri", pa.nulls(3_000_000, pa.string())),
        path,
        compression="zstd",
    ),
    "sparse lines.jsonl": sparse_lines,
    "later sparse lines.jsonl": later_sparse_lines,
    "rows.csv.bz2": rows_of_csv,
    "one line.csv.gz": one_line,
}


def write_all(folder: Path) -> None:
    """Writes every bomb into a folder."""
    for name, make in BOMBS.items():
        make(folder / name)


def outcome(path: Path) -> str:
    """Loads a manifest as a plan does."""
    import fsspec

    from jobs.staleness import Comparison
    from schemas.errors import ManifestError
    from schemas.manifest import Manifest

    try:
        manifest = Manifest.open(str(path), {}, filesystem=fsspec.filesystem("file"))
        with Comparison(manifest, None, ()) as comparison:
            comparison.load()
    except ManifestError as error:
        return f"ManifestError: {error}"
    return "rows"


def main() -> None:
    """Reads every file of the folder that is given."""
    import jobs.staleness  # noqa: F401  so that it counts as idle
    from tests.hostile import judged

    for path in sorted(Path(sys.argv[1]).iterdir()):
        lot = judged([path], outcome)
        what = next(iter(lot.faults.values()), next(iter(lot.outcomes), ""))
        line = [path.name, path.stat().st_size, lot.fate, what, lot.peak, lot.seconds]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
