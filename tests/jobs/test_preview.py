"""`tagline plan`: tells what would be done, and does nothing."""

import json

import pytest

from jobs import waiting
from tests import tiny
from tests.command import Command

JOB = """
manifest: {folder}/manifest.csv
table: {folder}/table
operators:
  caption: {{use: captioner, model: "{model}"}}
resources: {{cost_per_hour: 36}}
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "manifest.csv").write_text("image_id,uri\na,a.png\nb,b.png\nb,c.png\n")
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(folder=tmp_path, model=tiny.checkpoint("ofa_caption_mini")))
    return path


@pytest.fixture
def tagline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


def test_a_plan_is_told_as_json_and_nothing_is_written(tagline, job):
    answer = tagline("plan", job, "--json")
    assert answer.code == 0
    told = json.loads(answer.output)
    assert told["operators"] == {"caption": {"new": 2, "changed": 0, "retry": 0}}
    assert told["images_to_fetch"] == 2
    assert told["bytes_to_rewrite"] == 0
    assert told["cost"] == pytest.approx(told["seconds"] / 100, abs=0.01)
    assert set(told) == {"operators", "images_to_fetch", "bytes_to_rewrite", "seconds", "cost"}
    assert not (job.parent / "table").exists()


def test_a_plan_says_what_it_waits_for(tagline, job, monkeypatch):
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 0.01)
    answer = tagline("plan", job, "--json")
    assert 'event=waiting for="the plan: manifest and table are compared"' in answer.errors
    assert json.loads(answer.output)["images_to_fetch"] == 2


def test_a_plan_is_told_to_people(tagline, job):
    answer = tagline("plan", job)
    assert answer.code == 0
    assert "2 rows in the manifest, 2 new" in answer.output
    assert "1 duplicates" in answer.output
    assert "2 images to fetch" in answer.output


def test_a_value_can_be_replaced_on_the_command_line(tagline, job):
    answer = tagline("plan", job, "limits.attempts=0")
    assert answer.code == 2
    assert "limits.attempts is 0" in answer.errors
