"""What a run's workers say of stores, on its way to the driver."""

import logging

from jobs import worker_lines
from jobs.worker_lines import _Follower


def test_a_ray_in_trouble_does_not_end_the_listening_and_is_told_once(monkeypatch, caplog):
    follower = _Follower("lines")
    monkeypatch.setattr(worker_lines, "POLL_SECONDS", 0)
    asked = []

    def get_actor(name):
        asked.append(name)
        if len(asked) == 3:
            follower.ended.set()
        raise RuntimeError("the driver is not connected")

    monkeypatch.setattr(worker_lines.ray, "get_actor", get_actor)
    with caplog.at_level(logging.WARNING):
        follower._follow()

    assert len(asked) >= 3
    assert len(caplog.messages) == 1
    assert "not connected" in caplog.messages[0]


def test_a_line_without_a_value_is_told_too(caplog):
    with caplog.at_level(logging.WARNING):
        _Follower("lines")._tell("jobs", "event=store_waiting", ())

    assert caplog.messages == ["event=store_waiting"]
