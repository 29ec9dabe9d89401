import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import scenes
from schemas.errors import ConfigError


def test_pictures_manifest_and_hypotheses_belong_together(tmp_path):
    summary = scenes.run(tmp_path / "out", count=5, seed=7)
    rows = pq.read_table(summary.manifest).to_pylist()
    assert [*rows[0]] == ["image_id", "uri", "caption", "caption_zh"]
    for row in rows:
        with Image.open(tmp_path / "out" / row["uri"]) as picture:
            assert picture.size == (192, 192)
    lines = [json.loads(line) for line in Path(summary.hypotheses).read_text().splitlines()]
    assert [line["image_id"] for line in lines[::3]] == [row["image_id"] for row in rows]
    assert [line["label"] for line in lines] == ["yes", "no", "maybe"] * 5


def test_a_larger_count_only_adds_scenes(tmp_path):
    few = scenes.run(tmp_path / "few", count=3, seed=7)
    many = scenes.run(tmp_path / "many", count=6, seed=7)
    assert pq.read_table(few.manifest) == pq.read_table(many.manifest).slice(0, 3)
    names = [row["uri"] for row in pq.read_table(few.manifest).to_pylist()]
    for name in names:
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--count is 0; it must be at least 1"):
        scenes.run(tmp_path, count=0, seed=1)


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_is_named(tmp_path, out):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=rf"{out}: cannot be made .*/file.*: Not a directory"):
        scenes.run(tmp_path / out, count=1, seed=1)
