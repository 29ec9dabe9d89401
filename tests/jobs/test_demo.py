import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops

from jobs import demo
from jobs.demo import Demo, Row, Search


def test_the_shipped_scenes_are_those_of_the_seed(tmp_path):
    demo.draw_input(tmp_path)
    shipped = pq.read_table(demo.INPUT / "manifest.parquet").to_pylist()
    assert pq.read_table(tmp_path / "manifest.parquet").to_pylist() == shipped
    assert len(shipped) == 64
    for row in shipped:
        with (
            Image.open(tmp_path / row["uri"]) as drawn,
            Image.open(demo.INPUT / row["uri"]) as file,
        ):
            assert ImageChops.difference(drawn, file).getbbox() is None


def test_the_claims_have_every_label():
    rows = pq.read_table(demo.INPUT / "manifest.parquet").to_pylist()
    labels = [row["true_label"] for row in rows]
    assert min(labels.count(label) for label in ("yes", "no", "maybe")) >= 21


def test_a_match_is_right_when_it_agrees_with_the_truth():
    def row(caption, match):
        return Row("scene-00", caption, None, match, "a cat at night", "it is night", "yes", "yes")

    assert demo.is_match_right(row("a cat at night", 0.98))
    assert demo.is_match_right(row("a dog at night", 0.02))
    assert not demo.is_match_right(row("a dog at night", 0.98))
    assert not demo.is_match_right(row("a cat at night", None))


def test_what_is_printed_stands_beside_the_truth(capsys):
    row = Row("scene-00", "a cat", "a dog", 0.04, "a cat at night", "it is night", "no", "yes")
    hit = Search("草地上有一只猫", "scene-09", "a cat on the grass", is_right=True)
    told = Demo("demo/table", 64, 61, 60, 59, 58, (row,), (hit,))
    demo.show(told)
    printed = capsys.readouterr().out
    for words in (
        "scene-00",
        "a dog",
        "0.04",
        "it is night",
        "草地上有一只猫",
        "61 of 64",
        "mPLUG's: 60",
        "matcher: 59",
        "right: 58",
        "demo/table",
    ):
        assert words in printed
    found = json.loads(demo.to_json(told))
    assert found["searches"][0]["is_right"] is True


@pytest.mark.slow
def test_the_demo_enriches_its_scenes_and_most_of_it_is_true(tmp_path):
    result = demo.run(tmp_path / "demo")
    assert Path(result.table, "_delta_log").is_dir()
    assert result.rows == 64
    assert result.captions_right >= 60
    assert result.mplug_captions_right >= 60
    assert result.matches_right >= 60
    assert result.labels_right >= 60
    assert sum(search.is_right for search in result.searches) >= len(result.searches) - 1
