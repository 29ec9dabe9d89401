"""ELEVATER's folders."""

import json

import pytest

from jobs.datasets import elevater
from schemas.errors import DatasetError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "label_cn.txt").write_text("飞机\n鸟\n猫\n", "utf-8")
    for name in ("000/b.png", "000/a.png", "000/.DS_Store", "002/c.png"):
        file = tmp_path / "test" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"picture")
    return tmp_path


def test_a_folder_is_the_number_of_its_label_even_where_another_is_missing(folder):
    assert elevater.read_labels(folder) == ["飞机", "鸟", "猫"]
    assert elevater.read_pictures(folder).to_pylist() == [
        {"image": "000/a.png", "class": 0},
        {"image": "000/b.png", "class": 0},
        {"image": "002/c.png", "class": 2},
    ]


def test_answers_name_a_label_or_its_number(folder):
    path = folder / "answers.jsonl"
    lines = [{"image": "000/a.png", "label": "猫"}, {"image": "002/c.png", "label": 1}]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    answers = elevater.read_answers(path, elevater.read_labels(folder))
    assert answers == {"000/a.png": 2, "002/c.png": 1}


@pytest.mark.parametrize("label", ["狗", 3, -1])
def test_a_label_that_is_not_there_is_refused(folder, label):
    path = folder / "answers.jsonl"
    path.write_text(json.dumps({"image": "a", "label": label}), "utf-8")
    with pytest.raises(DatasetError, match=r"line 1: label is .*, from 0 to 2"):
        elevater.read_answers(path, elevater.read_labels(folder))


def test_folders_that_are_no_line_of_the_labels_are_refused(folder):
    (folder / "test" / "003").mkdir()
    with pytest.raises(DatasetError, match=r"003: its name must be .* counted from 0 to 2"):
        elevater.read_pictures(folder)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"label_cn\.txt: cannot be read"):
        elevater.read_pictures(tmp_path)
    (tmp_path / "label_cn.txt").write_text("飞机\n", "utf-8")
    with pytest.raises(DatasetError, match=r"test: no such folder"):
        elevater.read_pictures(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(DatasetError, match=r"test: no images"):
        elevater.read_pictures(tmp_path)
