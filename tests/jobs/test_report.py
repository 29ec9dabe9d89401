"""`tagline report`: one page that needs nothing else, and tells what the table holds."""

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs.records import record_rate
from schemas.enriched import ERROR_TYPE
from tests.reviewed import Reviewed

BUSY = {"fetch": 2.0, "caption": 6.0, "holds": 1.0}


class Page(HTMLParser):
    """The elements of a page, with the text of each."""

    VOID = ("meta", "img", "rect", "line", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, style=None):
        return [
            one
            for one in self.elements
            if one["tag"] == tag and (style is None or style in one.get("class", "").split())
        ]


@pytest.fixture
def table(tmp_path):
    return Reviewed(tmp_path / "job")


@pytest.fixture
def report(tagline, tmp_path):
    """Reports a table; gives what was answered, and the page."""

    def report(table, *arguments):
        out = tmp_path / "report.html"
        (answer,) = tagline("report", table.path, "--out", out, "--json", *arguments).lines
        return answer, out.read_text()

    return report


def test_the_page_tells_rows_errors_labels_and_speed(report, table):
    table.write(report={"busy": BUSY, "computed": {"caption": 5, "holds": 5}})
    answer, text = report(table, "--cost-per-hour", "3600")
    assert (answer["rows"], answer["healthy"]) == (12, 10)
    assert answer["errors"] == {"missing": 1, "model": 1}
    assert answer["labels"]["holds"] == {"yes": 8, "no": 2}
    assert answer["rows_per_second"] == {"fetch": 3.0, "caption": 10 / 12, "holds": 5.0}
    assert (answer["busy_seconds"], answer["cost"]) == (18.0, 18.0)
    page = Page(text)
    tiles = {one["text"] for one in page.all("div", "tile")}
    assert {"Rows12each image once", "Failed216.7%"} <= tiles
    rows = [one["text"] for one in page.all("tr")]
    assert any(row.startswith("missingfetch18.3%") for row in rows)
    assert any(row.startswith("caption100.812.0 s") for row in rows)


def test_a_stage_that_the_files_do_not_time_has_its_last_rate(report, table):
    table.write(report={"busy": {"fetch": 0.0, "caption": 0.1, "accept": 2.0}})
    record_rate(str(table.path), table.keys["caption"], 42.0)
    answer, text = report(table)
    assert answer["rows_per_second"]["caption"] == 42.0
    assert "holds" not in answer["rows_per_second"]
    assert any(one["text"] == "caption42.0" for one in Page(text).all("tr"))


def test_the_page_stands_alone_and_is_readable_by_all(report, table):
    _, text = report(table)
    page = Page(text)
    assert not page.all("script") + page.all("link") + page.all("iframe")
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)|url\(|@import", text)
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in page.all("img"))
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["aria-label"] for one in page.all("svg"))
    assert [one["lang"] for one in page.all("html")] == ["en"]
    levels = [int(one["tag"][1]) for one in page.elements if re.fullmatch(r"h\d", one["tag"])]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "prefers-color-scheme: dark" in text


def test_what_comes_from_the_table_is_never_markup(report, table):
    hostile = "<script>alert(1)</script>\" onerror='x'"
    captions = pa.array([hostile] * table.rows)
    table.write(caption=captions, image_id=pa.array([f"{hostile}{n}" for n in range(table.rows)]))
    _, text = report(table)
    page = Page(text)
    assert not page.all("script")
    assert not any("onerror" in one for one in page.elements)
    assert hostile in {one["text"] for one in page.all("p", "caption")}


def test_pictures_are_small_and_of_the_row(report, table):
    _, text = report(table)
    for one in Page(text).all("img"):
        picture = Image.open(io.BytesIO(base64.b64decode(one["src"].partition(",")[2])))
        name = re.match(r"Picture (scene-\d+), captioned", one["alt"])[1]
        whole = Image.open(table.folder / "pictures" / f"{name}.png").convert("RGB")
        assert picture.format == "JPEG"
        assert max(picture.size) <= 220
        whole.thumbnail((220, 220))
        difference = np.abs(np.asarray(picture, float) - np.asarray(whole, float))
        assert difference.mean() < 8  # JPEG of quality 78


def test_the_sheet_shows_the_best_the_worst_the_denied_and_the_failed(report, table):
    answer, text = report(table)
    shown = answer["shown"]
    assert set(shown["disagreeing"]) == {"scene-3", "scene-7"}  # entailment says no
    assert set(shown["failed"]) == {"scene-10", "scene-11"}
    assert len(shown["best"]) == len(shown["worst"]) == 4
    assert not set(shown["best"]) & set(shown["worst"])
    assert answer["pictures_missing"] == 2
    page = Page(text)
    assert [one["text"] for one in page.all("h3")] == ["Best", "Worst", "Disagreeing", "Failed"]
    (gone,) = {one["text"] for one in page.all("p") if one["text"].startswith("No picture")}
    assert "no such file" in gone
    assert any(one["text"] == "no <such> file" for one in page.all("p", "message"))


def test_best_and_worst_are_told_by_the_agreement_where_the_table_has_one(report, tmp_path):
    table = Reviewed(tmp_path / "long", 40)
    agreement = np.linspace(0.9, 0.1, 40)
    table.write(agreement=pa.array(agreement, pa.float32()))
    answer, text = report(table)
    right = [f"scene-{n}" for n in range(38) if not table.is_wrong[n]]
    assert answer["shown"]["best"] == right[:12]
    assert answer["shown"]["worst"] == right[::-1][:12]
    assert "By the agreement of the models." in text
    assert 'aria-label="agreement: 38' not in text  # rows with an error have one here too
    assert 'aria-label="agreement: 40' in text


def test_a_table_without_any_answer_has_a_page_too(report, table):
    kept = ("image_id", "uri", "error")
    for name in set(table.columns) - set(kept):
        table.columns[name] = None
    table.keys = {}
    table.write(error=pa.nulls(table.rows, ERROR_TYPE))
    answer, text = report(table)
    assert (answer["labels"], answer["cost"]) == ({}, None)
    for told in ("No row has an error", "no scores", "no labels", "do not say how they came"):
        assert told in text


def test_pictures_are_looked_for_where_the_user_says(report, tagline, table, tmp_path):
    (table.folder / "pictures").rename(tmp_path / "pictures")
    assert report(table)[0]["pictures_missing"] == 12
    assert report(table, "--images", tmp_path)[0]["pictures_missing"] == 2
    answer = tagline("report", table.path, "--images", tmp_path / "nowhere")
    assert (answer.code, answer.output) == (2, "")
    assert "no such folder" in answer.errors


def test_pictures_come_only_from_where_the_job_allowed(report, table, tmp_path):
    (table.folder / "pictures" / "scene-0.png").rename(tmp_path / "secret.png")
    uris = table.columns["uri"].to_pylist()
    table.write(uri=pa.array([str(tmp_path / "secret.png"), *uris[1:]]))
    answer, text = report(table)
    assert answer["pictures_missing"] == 3
    assert "local images may lie under" in text


def test_what_cannot_be_reported_is_told(tagline, table, tmp_path):
    answer = tagline("report", tmp_path / "nowhere")
    assert (answer.code, answer.output) == (2, "")
    assert "no table; write one with `tagline enrich`" in answer.errors
    for cost in ("-1", "nan", "inf"):
        assert tagline("report", table.path, "--cost-per-hour", cost).code == 2
    answer = tagline("report", table.path, "--cost-per-hour", "-1")
    assert answer.code == 2
    assert "--cost-per-hour is -1.0" in answer.errors
    answer = tagline("report", table.path, "--out", tmp_path)
    assert answer.code == 2
    assert "is a folder; give a file, such as" in answer.errors
    next(table.path.glob("*.parquet")).write_bytes(b"cut short")
    answer = tagline("report", table.path, "--out", tmp_path / "report.html")
    assert answer.code == 2
    assert "its data files cannot be read" in answer.errors


def test_people_are_told_where_the_page_is(tagline, table, tmp_path):
    answer = tagline("report", table.path, "--out", tmp_path / "sub" / "page.html")
    assert answer.code == 0
    assert "12 rows, 2 with an error" in answer.output
    assert (tmp_path / "sub" / "page.html").exists()
