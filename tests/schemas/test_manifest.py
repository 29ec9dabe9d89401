import json

import fsspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from schemas.errors import ManifestError
from schemas.manifest import Manifest

ROWS = {"image_id": ["a", "b"], "uri": ["s3://x/a.jpg", None], "title": ["one", "two"]}


def opened(path, columns=None):
    return Manifest.open(str(path), columns, filesystem=fsspec.filesystem("file"))


def read(path, columns=None):
    manifest = opened(path, columns)
    return pa.Table.from_batches(manifest.batches(), manifest.schema)


def parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_the_three_formats_say_the_same(tmp_path):
    parquet(tmp_path / "m.parquet", **ROWS)
    pacsv.write_csv(pa.table(ROWS), tmp_path / "m.csv")
    lines = [json.dumps(row) for row in pa.table(ROWS).to_pylist()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")

    tables = [read(tmp_path / name) for name in ("m.parquet", "m.csv", "m.jsonl")]

    assert [table.to_pydict() for table in tables] == [ROWS] * 3
    assert len({str(table.schema) for table in tables}) == 1


def test_a_manifest_on_s3_is_read(s3_bucket):
    filesystem = fsspec.filesystem("s3", use_listings_cache=False)
    with filesystem.open(f"{s3_bucket}/m/a.csv", "wb") as file:
        file.write(b"image_id,uri\n7,x\n")

    manifest = Manifest.open(f"{s3_bucket}/m", filesystem=filesystem)

    assert [batch.to_pylist() for batch in manifest.batches()] == [[{"image_id": "7", "uri": "x"}]]
    assert manifest.files[0].path == f"{s3_bucket}/m/a.csv"


def test_files_of_a_folder_come_in_order_and_hidden_ones_do_not(tmp_path):
    for name, number in (("b", 2), ("a", 1), ("_c", 3), (".d", 4)):
        parquet(tmp_path / f"{name}.parquet", image_id=[str(number)], uri=["x"])
    parquet(tmp_path / "deep" / "e.parquet", image_id=["5"], uri=["x"])

    assert read(tmp_path)["image_id"].to_pylist() == ["1", "2", "5"]


def test_a_glob_chooses_files(tmp_path):
    for name in ("a1", "a2", "b1", "_c1", ".d1"):
        parquet(tmp_path / f"{name}.parquet", image_id=[name], uri=["x"])

    assert read(tmp_path / "a*.parquet")["image_id"].to_pylist() == ["a1", "a2"]
    assert read(tmp_path / "*.parquet")["image_id"].to_pylist() == ["a1", "a2", "b1"]
    assert read(tmp_path / "_*.parquet")["image_id"].to_pylist() == ["_c1"]


def test_a_glob_that_is_none_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"\*\.parquet: cannot be listed: .*'\*\*'"):
        opened(tmp_path / "a**b" / "*.parquet")


def test_columns_are_renamed(tmp_path):
    parquet(tmp_path / "m.parquet", id=["a"], url=["x"], title=["t"])

    table = read(tmp_path, {"image_id": "id", "uri": "url"})

    assert table.to_pydict() == {"image_id": ["a"], "uri": ["x"], "title": ["t"]}


def test_integer_ids_become_text_whatever_their_width(tmp_path):
    parquet(tmp_path / "a.parquet", image_id=pa.array([1], pa.int32()), uri=["x"])
    parquet(tmp_path / "b.parquet", image_id=pa.array([2], pa.uint64()), uri=["x"])

    assert read(tmp_path)["image_id"].to_pylist() == ["1", "2"]


def test_csv_is_text_and_keeps_leading_zeros(tmp_path):
    (tmp_path / "m.csv").write_text('image_id,uri,n,note\n007,x,1.50,"a\nb"\nNA,,,""\n')

    assert read(tmp_path).to_pylist() == [
        {"image_id": "007", "uri": "x", "n": "1.50", "note": "a\nb"},
        {"image_id": "NA", "uri": None, "n": None, "note": ""},
    ]


def test_types_become_those_every_delta_reader_knows(tmp_path):
    odd = {
        "u": pa.array([1], pa.uint32()),
        "big": pa.array([2**64 - 1], pa.uint64()),
        "when": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "kind": pa.array(["k"]).dictionary_encode(),
        "large": pa.array(["l"], pa.large_string()),
        "half": pa.array([1.5], pa.float16()),
        "tags": pa.array([["a"]], pa.large_list(pa.large_string())),
        "nothing": pa.nulls(1),
    }
    parquet(tmp_path / "m.parquet", image_id=["a"], uri=["x"], **odd)

    table = read(tmp_path)

    assert [str(table.schema.field(name).type) for name in odd] == [
        "int64",
        "decimal128(20, 0)",
        "timestamp[us, tz=UTC]",
        "string",
        "string",
        "float",
        "list<item: string>",
        "string",
    ]
    assert table["tags"].to_pylist() == [["a"]]


def test_text_that_looks_like_a_time_stays_text_in_jsonl(tmp_path):
    row = {"image_id": "2024-01-01", "uri": "x", "day": "2024-01-02"}
    row |= {"shot": {"at": "2024-01-02 10:00:00", "by": None}, "days": ["2024-01-02"]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")

    assert read(tmp_path).to_pylist() == [row]


def test_the_fingerprint_changes_with_files_and_renames(tmp_path):
    parquet(tmp_path / "a.parquet", **ROWS)
    first = opened(tmp_path)
    assert opened(tmp_path).fingerprint == first.fingerprint

    renamed = opened(tmp_path, {"words": "title"})
    parquet(tmp_path / "b.parquet", **ROWS)

    assert len({m.fingerprint for m in (first, renamed, opened(tmp_path))}) == 3


def test_nothing_at_the_path_is_an_error(tmp_path):
    with pytest.raises(
        ManifestError, match=r"nowhere: no manifest file, nothing is there|no such manifest"
    ):
        opened(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"nowhere.csv: no "):
        opened(tmp_path / "nowhere.csv")


def test_a_folder_of_other_files_names_some(tmp_path):
    (tmp_path / "readme.txt").write_text("")

    with pytest.raises(ManifestError, match=r"no manifest file, it holds .*readme.txt"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).write_text("")

    with pytest.raises(ManifestError, match=rf"{name}: the file is empty"):
        opened(tmp_path)


def test_a_manifest_without_rows_is_an_error(tmp_path):
    (tmp_path / "m.csv").write_text("image_id,uri\n")

    with pytest.raises(ManifestError, match="the manifest has no rows"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["image_id", "uri"])
def test_a_missing_column_is_named_with_what_is_there(tmp_path, column):
    there = {name: values for name, values in ROWS.items() if name != column}
    parquet(tmp_path / "m.parquet", **there)

    with pytest.raises(ManifestError, match=rf"m.parquet: no column '{column}'; it has .*title"):
        opened(tmp_path)


def test_a_rename_of_nothing_is_named(tmp_path):
    parquet(tmp_path / "m.parquet", **ROWS)

    with pytest.raises(ManifestError, match="takes 'uri' from 'url', which is not there"):
        opened(tmp_path, {"uri": "url"})


def test_a_column_renamed_twice_is_named(tmp_path):
    parquet(tmp_path / "m.parquet", url=["x"])

    with pytest.raises(ManifestError, match="takes both 'image_id' and 'uri' from 'url'"):
        opened(tmp_path, {"image_id": "url", "uri": "url"})


@pytest.mark.parametrize(("bad", "found"), [(None, "null"), ("", "empty")])
def test_a_bad_id_is_named_by_file_and_row(tmp_path, bad, found):
    parquet(tmp_path / "a.parquet", image_id=["x"] * 3, uri=["u"] * 3)
    parquet(tmp_path / "b.parquet", image_id=["x", "y", bad], uri=["u"] * 3)

    with pytest.raises(ManifestError, match=rf"b.parquet: image_id is {found} in row 3"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": [1.5], "uri": ["x"]}, "image_id is double; it must be text or an integer"),
        ({"image_id": ["a"], "uri": [5]}, "uri is int64; it must be text"),
        ({"image_id": ["a"], "uri": ["x"], "t": pa.array([1], pa.time64("us"))}, "column 't' is"),
        ({"image_id": ["a"], "uri": ["x"], "a b": [1]}, "cannot have a column 'a b'"),
        ({"image_id": ["a"], "uri": ["x"], "URI": ["y"]}, "two columns are called 'uri' and 'URI'"),
    ],
)
def test_a_wrong_type_or_name_is_refused(tmp_path, columns, message):
    parquet(tmp_path / "m.parquet", **columns)

    with pytest.raises(ManifestError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"n": ["text"]}, r"b.parquet: column 'n' is string, but int64 in .*a.parquet"),
        ({}, r"b.parquet: no column 'n', which .*a.parquet has"),
        ({"n": [1], "more": [1]}, r"a.parquet: no column 'more', which .*b.parquet has"),
        ({"n": [1], "image_id": [1]}, r"b.parquet: column 'image_id' is int64, but string in"),
    ],
)
def test_files_that_differ_are_named(tmp_path, second, message):
    parquet(tmp_path / "a.parquet", image_id=["a"], uri=["x"], n=[1])
    parquet(tmp_path / "b.parquet", **{"image_id": ["b"], "uri": ["x"], **second})

    with pytest.raises(ManifestError, match=message):
        opened(tmp_path)


def test_a_column_of_nulls_fits_any_type(tmp_path):
    parquet(tmp_path / "a.parquet", image_id=["a"], uri=pa.nulls(1), n=pa.nulls(1))
    parquet(tmp_path / "b.parquet", image_id=["b"], uri=["x"], n=[1])

    assert read(tmp_path)["n"].to_pylist() == [None, 1]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and then nothing")

    with pytest.raises(ManifestError, match=r"m.parquet: cannot be read as parquet"):
        opened(tmp_path)


def test_a_damaged_row_is_named(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"image_id": "a", "uri": "x"}\n{"image_id": 5, "uri": "x"}\n'
    )

    with pytest.raises(ManifestError, match=r"m.jsonl: cannot be read as jsonl.*number in row 1"):
        read(tmp_path)


def test_mixed_formats_are_refused(tmp_path):
    parquet(tmp_path / "a.parquet", **ROWS)
    pacsv.write_csv(pa.table(ROWS), tmp_path / "b.csv")

    with pytest.raises(ManifestError, match="mixes csv, parquet"):
        opened(tmp_path)


@pytest.mark.parametrize("value", ["{}", '{"a": 1, "A": 2}'])
def test_a_struct_that_no_table_can_hold_is_refused(tmp_path, value):
    row = f'{{"image_id": "a", "uri": "x", "extra": {value}}}\n'
    (tmp_path / "m.jsonl").write_text(row)

    with pytest.raises(ManifestError, match=r"'extra' is struct<.*cannot hold"):
        opened(tmp_path)


def test_nanoseconds_are_dropped_also_inside_a_column(tmp_path):
    times = pa.array([[1_700_000_000_123_456_789]], pa.list_(pa.timestamp("ns")))
    parquet(tmp_path / "m.parquet", image_id=["a"], uri=["x"], times=times)

    (found,) = read(tmp_path)["times"].cast(pa.list_(pa.int64())).to_pylist()
    assert found == [1_700_000_000_123_456]
