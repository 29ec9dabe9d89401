"""What a run says while nothing moves."""

import threading

import pytest

from jobs import enrich, waiting
from jobs.waiting import Waiting
from tests import plain_jobs as job


class Listener:
    """Takes what is said, and wakes who waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.heard = threading.Event()
        monkeypatch.setattr(waiting.logger, "info", self.hear)

    def hear(self, message: str, *values: object) -> None:
        self.lines.append(message % values)
        if len(self.lines) >= 2:
            self.heard.set()


def test_what_is_waited_for_is_said_again_and_again(monkeypatch):
    listener = Listener(monkeypatch)

    with Waiting(0.05) as watched:
        watched.begins(lambda: "3 of 7 shards")
        assert listener.heard.wait(10)

    assert listener.lines[0] == "event=waiting for=3 of 7 shards seconds=0"


def test_a_question_that_fails_does_not_end_the_watching(monkeypatch):
    listener = Listener(monkeypatch)

    def left():
        raise ConnectionError("Ray is away")

    with Waiting(0.05) as watched:
        watched.begins(left)
        assert listener.heard.wait(10)

    assert "for=what cannot be told (ConnectionError: Ray is away)" in listener.lines[1]


def test_nothing_is_said_while_something_moves(monkeypatch):
    listener = Listener(monkeypatch)

    with Waiting(30) as watched:
        watched.begins("the plan")
        watched.moves()

    assert listener.lines == []


def test_a_run_says_that_its_manifest_cannot_be_listed_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 0.05)
    listener = Listener(monkeypatch)
    config = job.config(tmp_path, 4)

    def slow(config):
        assert listener.heard.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(enrich, "open_manifest", slow)
    with pytest.raises(KeyboardInterrupt):
        enrich.run(config, catalog=job.CATALOG)

    assert f"for=the manifest {config.manifest.path} to be listed" in listener.lines[0]
