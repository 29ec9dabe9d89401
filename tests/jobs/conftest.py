"""Fixtures of tests that call the command, or plan, run and commit with `tests.plain_operators`."""

import pytest

from tests import plain_run as job
from tests.command import Command

OPERATORS = {"digest": {"use": "digest"}, "upper": {"use": "upper", "text": "title"}}


@pytest.fixture
def tagline(monkeypatch, capfd):
    """The command line, as a shell would call it."""
    return Command(monkeypatch, capfd)


@pytest.fixture
def rows(tmp_path):
    return job.write_images(tmp_path / "images", 20)


@pytest.fixture
def enrich(tmp_path):
    """Enriches the rows of a manifest and gives the plan, what was computed, and the table."""

    def run(rows, operators=OPERATORS, selection=job.ALL, actors=1, **more):
        job.write_manifest(tmp_path / "manifest", rows)
        config = job.config_of(tmp_path / "manifest", tmp_path / "table", operators, **more)
        ledger = job.Ledger()
        made = job.enrich(config, selection, ledger, actors=actors)
        return made, ledger, job.rows_of(tmp_path / "table")

    return run
