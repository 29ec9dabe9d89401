"""Flickr30k's own file of captions."""

import pytest

from jobs.datasets.captions import read_references
from schemas.errors import DatasetError


def test_captions_of_a_file_stand_together(tmp_path):
    path = tmp_path / "results_20130124.token"
    path.write_text(
        "1000092795.jpg#0\tTwo young guys with shaggy hair .\n"
        "1000092795.jpg#1\tTwo young , White males\tare outside .\r\n"
        "10002456.jpg#0\tSeveral men in hard hats .\n",
        "utf-8",
        newline="",
    )
    table = read_references(path)
    assert table["image_id"].to_pylist() == ["1000092795", "10002456"]
    assert table["file"].to_pylist() == ["1000092795.jpg", "10002456.jpg"]
    assert table["captions"].to_pylist() == [
        ["Two young guys with shaggy hair .", "Two young , White males\tare outside ."],
        ["Several men in hard hats ."],
    ]


def test_captions_come_from_the_table_with_bars_too(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(
        "\ufeffimage_name| comment_number| comment\r\n"
        "1000092795.jpg| 0| Two young guys | one with a hat .\r\n"
        "1000092795.jpg| 1   A dog runs .\r\n",
        "utf-8",
        newline="",
    )
    table = read_references(path)
    assert table["image_id"].to_pylist() == ["1000092795"]
    assert table["captions"].to_pylist() == [["Two young guys | one with a hat .", "A dog runs ."]]


def test_a_mark_of_utf8_is_not_part_of_the_first_name(tmp_path):
    path = tmp_path / "results.token"
    path.write_text("\ufeff1.jpg#0\ta\n1.jpg#1\tb\n", "utf-8")
    assert read_references(path)["captions"].to_pylist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1.jpg#0\ta\n1.jpg 1\tb\n", r"line 2: '1.jpg 1\\tb' is neither 'FILE.jpg#NUMBER'"),
        ("1.jpg#0\ta\n1.jpg#0\tb\n", r"line 2: caption '1.jpg#0' was there before"),
    ],
)
def test_a_line_of_another_form_is_refused(tmp_path, lines, message):
    path = tmp_path / "results.token"
    path.write_text(lines, "utf-8")
    with pytest.raises(DatasetError, match=message):
        read_references(path)


def test_a_line_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "results.token"
    path.write_bytes(b"1.jpg#0\tcaf\xe9\n")
    with pytest.raises(DatasetError, match="line 1: not UTF-8"):
        read_references(path)
