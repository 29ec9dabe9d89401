"""What a run shows of itself while it goes on."""

import io

import pytest

from jobs import progress
from jobs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_tell_rows_rate_time_left_and_errors(monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()

    with Progress(100, stream=stream) as shown:
        shown.advance(20, errors=0)
        shown.advance(30, errors=2)

    last = stream.getvalue().splitlines()[-1]
    assert last == "event=progress rows=50/100 rows_per_second=15.0 seconds_left=3 errors=2"


def test_a_line_comes_each_few_seconds_even_when_nothing_does(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    stream = io.StringIO()

    with Progress(100, done=40, errors=1, stream=stream) as shown:
        while stream.getvalue().count("\n") < 3:
            assert shown.rows_per_second() is None

    assert stream.getvalue().startswith("event=progress rows=40/100 errors=1\n")


def test_a_terminal_gets_a_bar():
    stream = Terminal()

    with Progress(100, stream=stream) as shown:
        shown.advance(50, errors=3)
        shown.advance(50, errors=0)

    assert "100/100" in stream.getvalue()
    assert "3 errors" in stream.getvalue()
    assert "event=" not in stream.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(5, "0:05"), (75.9, "1:15"), (3700, "1:01:40")])
def test_time_left_reads_as_a_clock(seconds, told):
    assert progress._clock(seconds) == told
