"""Logs: one event a line, by the run's id, for people or as JSON, and no secrets."""

import json
import logging

import pytest

from jobs import event_log
from jobs.event_log import Formatter

RUN = "00000000-0000-4000-8000-000000000001"
CANARY = "canary-4f7b-secret"


def line(message, *values, as_json=False, name="jobs.commit"):
    record = logging.LogRecord(name, logging.WARNING, "", 0, message, values, None)
    return Formatter(as_json=as_json).format(record)


def test_a_line_for_people_has_time_level_logger_run_and_fields():
    with event_log.of_run(RUN):
        told = line("event=committed table=%s rows=%d reason=%s", "t", 3, "it is 'so'")

    time, rest = told.split(" ", 1)
    assert time.endswith("+00:00")
    assert (
        rest
        == f"WARNING jobs.commit run={RUN} event=committed table=t rows=3 reason=\"it is 'so'\""
    )


def test_a_line_in_json_keeps_numbers_as_numbers():
    with event_log.of_run(RUN):
        told = json.loads(
            line("event=x rows=%d seconds=%.1f error=%r", 3, 2.25, "a b", as_json=True)
        )

    del told["time"]
    assert told == {
        "level": "WARNING",
        "logger": "jobs.commit",
        "run": RUN,
        "event": "x",
        "rows": 3,
        "seconds": 2.2,
        "error": "a b",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_no_event_is_a_message_and_other_peoples_lines_carry_no_run(as_json):
    with event_log.of_run(RUN):
        told = line("got %d of event=%s", 3, "x", as_json=as_json, name="urllib3")

    assert "got 3 of event=x" in told
    assert RUN not in told


def test_lines_outside_a_run_carry_none():
    assert "run=" not in line("event=x")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "TAGLINE_TOKENS", "OPENAI_API_KEY"])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_of_the_environment_reaches_a_line(monkeypatch, name, as_json):
    monkeypatch.setenv(name, f"other-one-12345,{CANARY}")

    told = line("event=failed reason=%s", f"403 for {CANARY}", as_json=as_json)

    assert CANARY not in told
    assert "403 for ***" in told


def test_signatures_and_passwords_in_addresses_are_left_out():
    told = line(
        "event=x url=%s reason=%s", "https://me:pass@host/a?page=2", "Signature=abc s3://a:b@c/d@e"
    )

    assert 'url="https://host/a?…" ' in told
    assert "Signature=*** s3://c/d@e" in told


def test_a_line_in_json_stays_json_where_an_address_is_masked():
    quoted = 'got "https://me:pass@host/a?token=b" and "sig=abc"'
    told = json.loads(line("event=x reason=%s", quoted, as_json=True))

    assert told["reason"] == 'got "https://host/a?…" and "sig=***"'


def test_a_traceback_in_json_is_a_field():
    try:
        raise ValueError("torn")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("jobs.pools", logging.ERROR, "", 0, "event=actor_ends", (), info)

    told = Formatter(as_json=True).format(record)

    assert "\n" not in told
    assert "ValueError: torn" in json.loads(told)["traceback"]


def test_the_command_line_logs_as_the_environment_asks(tagline, monkeypatch, tmp_path):
    monkeypatch.setenv(event_log.FORMAT_VARIABLE, "json")
    (tmp_path / "job.yaml").write_text(
        "manifest: nowhere.parquet\ntable: table\noperators: {a: {use: agreement}}\n"
    )

    answer = tagline("enrich", tmp_path / "job.yaml")

    assert answer.code == 2
    events = [json.loads(one) for one in answer.errors.splitlines() if one.startswith("{")]
    assert [one["event"] for one in events] == ["run_started", "run_failed"]
    assert len({one["run"] for one in events}) == 1
    assert "ManifestError" in events[1]["error"]
