"""What is done to one shard, without Ray."""

import logging

import pyarrow as pa
import pytest

from jobs.enrich import _tell_cuts
from jobs.parts import PartReport
from jobs.pools import _packed, _unpacked
from jobs.shards import Shard
from jobs.stages import ShardState, Work, run_stage
from operators.fetcher import Fetcher
from operators.matcher import Matcher
from operators.policy import Policy
from tests import mplug, plain_jobs, tiny

LONG = "cat " * 30


@pytest.fixture
def matched(tmp_path):
    """A shard after its matcher: one row was computed before, one has no text, one a short one."""
    matcher = Matcher(mplug.write(tmp_path / "model", mplug.MATCHING), text="title")
    image = tiny.photographs()[0].read_bytes()
    table = pa.table(
        {
            "image_encoded": pa.array([image] * 5, pa.large_binary()),
            "title": [LONG, "cat", LONG, None, LONG + LONG],
            "match_key": [matcher.key, None, None, None, None],
        }
    )
    shard = Shard("0", rows=5, due=5, images=5, image_bytes=0, file="0", row_group=0)
    work = Work(plan=None, operators=(matcher,), fetcher=Fetcher([matcher], Policy()))
    return run_stage(work, "match", ShardState(shard, table))


def test_texts_that_were_cut_are_counted_among_the_rows_computed(matched):
    assert matched.computed == {"match": 3}
    assert matched.cut == {"match": 2}


def test_the_count_travels_with_the_shard(matched):
    parcel = _packed(matched)
    row = {name: parcel[name][0].as_py() for name in ("shard", "progress")}
    assert _unpacked(row, parcel).cut == {"match": 2}


def test_a_run_says_how_many_texts_were_cut(caplog):
    reports = [PartReport(str(n), rows=5, tried=5, cut={"match": n}) for n in (2, 3)]
    with caplog.at_level(logging.WARNING):
        _tell_cuts([PartReport.from_json(report.to_json()) for report in reports])
    assert caplog.messages == ["event=texts_cut operator=match rows=5"]


def test_512_rows_of_8_pictures_are_computed_8_times_and_counted_512_times(tmp_path, monkeypatch):
    plain_jobs.write_pictures(tmp_path, range(8))
    uris = [str(tmp_path / f"{number % 8}.png") for number in range(512)]
    brightness = plain_jobs.Brightness()
    asked, compute = [], plain_jobs.Brightness.__call__

    def counting(self, table):
        asked.append(table.num_rows)
        return compute(self, table)

    monkeypatch.setattr(plain_jobs.Brightness, "__call__", counting)
    fetcher = Fetcher([brightness], Policy(roots=(str(tmp_path),)))
    work = Work(plan=None, operators=(brightness,), fetcher=fetcher)
    shard = Shard("0", rows=512, due=512, images=512, image_bytes=0, file="0", row_group=0)
    state = run_stage(work, "fetch", ShardState(shard, pa.table({"uri": uris})))
    state = run_stage(work, "brightness", state)
    assert (asked, state.computed) == ([8], {"brightness": 512})
    assert state.table["brightness"].to_pylist() == [float(number % 8) for number in range(512)]
