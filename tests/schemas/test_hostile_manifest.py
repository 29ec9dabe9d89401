"""Manifests from strangers: rows or a ManifestError, and nothing of them is executed."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import manifest_files
from schemas.errors import ManifestError
from schemas.manifest import Manifest

PROJECT = Path(__file__).parents[2]


def rows(path: Path) -> list[dict[str, object]]:
    manifest = Manifest.open(str(path), {}, filesystem=fsspec.filesystem("file"))
    return [row for batch in manifest.batches() for row in batch.to_pylist()]


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_a_line_that_is_nested_too_deeply_is_an_error(tmp_path, left, right):
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"image_id": "a", "uri": "x", "t": {left * 40_000}1{right * 40_000}}}\n')
    with pytest.raises(ManifestError, match="line 1 is nested more than 1000 deep"):
        rows(path)


def test_a_later_line_that_is_nested_too_deeply_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    good = json.dumps({"image_id": "a", "uri": "x", "t": "y" * 1_000_000}) + "\n"
    deep = f'{{"image_id": "a", "uri": "x", "t": {"[" * 100_000}{"]" * 100_000}}}\n'
    path.write_text(good * 17 + deep)
    with pytest.raises(ManifestError, match="changed from string to array"):
        rows(path)


def test_many_brackets_side_by_side_are_no_depth(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"image_id": "a", "uri": "x", "t": [[1]] * 5000}) + "\n")
    assert len(rows(path)[0]["t"]) == 5000


def test_very_many_columns_are_an_error_at_once(tmp_path):
    path = tmp_path / "m.csv"
    names = ",".join(f"c{number}" for number in range(100_000))
    path.write_text(f"image_id,uri,{names}\n")
    with pytest.raises(ManifestError, match="100002 columns; at most 2000"):
        rows(path)


def test_bytes_that_are_no_text_are_an_error_of_their_file(tmp_path):
    path = tmp_path / "m.parquet"
    bad = pa.array([b"a\xff.jpg"], pa.binary())
    text = pa.StringArray.from_buffers(1, *bad.buffers()[1:])
    pq.write_table(pa.table({"image_id": ["a"], "uri": text}), path)
    with pytest.raises(ManifestError, match=r"m\.parquet: cannot be read as parquet .*UTF8"):
        rows(path)


def test_a_time_that_no_table_can_hold_is_an_error(tmp_path):
    path = tmp_path / "m.parquet"
    far = pa.array([[2**53]], pa.list_(pa.timestamp("s")))
    pq.write_table(pa.table({"image_id": ["a"], "uri": ["x"], "shot": far}), path)
    with pytest.raises(ManifestError, match=r"column 'shot' cannot be read as .* out of bounds"):
        rows(path)


def test_a_column_name_that_is_no_text_is_an_error_of_its_file(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(b"image_id,uri,\xe2\x28\xa1\na,b,c\n")
    with pytest.raises(ManifestError, match=r"m\.csv: cannot be read as csv"):
        rows(path)


def counting_up(path: Path, prompt: str, rows: int = 20_000) -> int:
    """A manifest of ids and uris that count up, and of one prompt in every row; its bytes."""
    names = [f"s3://photos/{number:09}.jpg" for number in range(rows)]
    prompts = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [prompt])
    table = pa.table({"image_id": names, "uri": names, "prompt": prompts})
    pq.write_table(table, path, compression="zstd")
    return path.stat().st_size


def test_rows_that_count_up_and_share_a_prompt_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_files, "FREE_UNPACKED", 1 << 20)
    path = tmp_path / "m.parquet"
    assert counting_up(path, "a" * 1000) * manifest_files.MOST_UNPACKED < 20_000 * 1000

    manifest = Manifest.open(str(path), {}, filesystem=fsspec.filesystem("file"))

    assert sum(batch.num_rows for batch in manifest.batches()) == 20_000


def test_long_prompts_and_tables_that_are_held_whole_are_held_to_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_files, "FREE_UNPACKED", 1 << 20)
    path = tmp_path / "m.parquet"
    counting_up(path, "a" * 5000)
    with pytest.raises(ManifestError, match=r"unpack to \d+ in \d+ rows"):
        rows(path)
    counting_up(path, "a" * 1000)
    with pytest.raises(ManifestError, match=r"unpack to \d+ in \d+ rows"):
        list(manifest_files.stored_tables(str(path), fsspec.filesystem("file")))


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


READER = """
import sys
import ray.data.extensions  # registers Ray's extension types, as the driver of a job does
from pathlib import Path
from schemas.errors import ManifestError
from tests.schemas.test_hostile_manifest import rows
for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    try:
        print(len(rows(path)))
    except ManifestError:
        print("refused")
"""


def test_no_extension_type_of_a_manifest_is_ever_unpickled(tmp_path):
    """Ray's pickled objects, its tensors with a pickled shape, and pyarrow's old type."""
    fired = tmp_path / "fired"
    evil = pickle.dumps(Bomb(fired))
    plain = [pa.field("image_id", pa.string()), pa.field("uri", pa.string())]
    for number, (name, kind, values) in enumerate(
        [
            ("ray.data.arrow_pickled_object", pa.large_binary(), [evil]),
            ("ray.data.arrow_tensor", pa.list_(pa.int64()), [[1]]),
            ("ray.data.arrow_tensor_v2", pa.large_list(pa.int64()), [[1]]),
            ("arrow.py_extension_type", pa.binary(), [evil]),
        ]
    ):
        told = {"ARROW:extension:name": name, "ARROW:extension:metadata": evil}
        schema = pa.schema([*plain, pa.field("t", kind, metadata=told)])
        table = pa.table([["a"], ["x"], pa.array(values, kind)], schema=schema)
        pq.write_table(table, tmp_path / f"{number}.parquet")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["1", "refused", "refused", "1"], done.stderr
    assert not fired.exists()


@pytest.mark.chaos
def test_five_thousand_damaged_files_end_in_rows_pixels_or_their_errors():
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.fuzz", "--inputs", "5000"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert (found["wrong"], done.returncode) == ([], 0)
    assert found["tried"] >= 5000
    assert {"PNG pixels", "TIFF truncated", ".parquet error", ".csv.gz error"} <= set(
        found["outcomes"]
    )
