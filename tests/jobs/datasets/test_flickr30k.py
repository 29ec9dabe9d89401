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


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1.jpg#0\ta\n1.jpg 1\tb\n", r"line 2: b'1.jpg 1\\tb' is not 'FILE.jpg#NUMBER'"),
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
