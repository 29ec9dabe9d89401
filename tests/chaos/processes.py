"""Faults of the driver and of the actors: killed, asked to end, started twice."""

import random
import signal
import time
from contextlib import ExitStack

from tests.chaos.command import Ended
from tests.chaos.fault import Fault
from tests.chaos.life import Life

GOES_ON = "the same command"
SLOW_ROW_SECONDS = 0.2  # so that there is a run to end
END_SECONDS = 20.0  # in which a command that is asked to end must have ended


def kill_driver(point: random.Random, life: Life) -> None:
    """SIGKILL at any moment of a run, be it start-up, plan, run or commit."""
    usual = life.ended[-1].seconds
    life.grow()
    with life.start() as running:
        running.rest(point.uniform(0.1, usual))
        running.kill()
        life.keep(running.wait())
    life.until_done()


def kill_driver_between_parts(point: random.Random, life: Life) -> None:
    """SIGKILL after so many parts."""
    life.grow()
    with life.start() as running:
        life.until_parts(running, point.randint(1, 8))
        running.kill()
        life.keep(running.wait())
    life.until_done()


def terminate(point: random.Random, life: Life) -> None:
    """SIGTERM at any moment of the run itself."""
    life.switch(seconds=SLOW_ROW_SECONDS)
    life.grow()
    with life.start() as running:
        life.until_parts(running, point.randint(0, 6))
        _asked_to_end(life, running.kill, running.wait, signal.SIGTERM)
    life.switch()
    life.until_done()


def terminate_early(point: random.Random, life: Life) -> None:
    """SIGTERM while the command starts, plans or begins."""
    life.grow()
    with life.start() as running:
        running.until("event=run_started")
        running.rest(point.uniform(0, 3))
        _asked_to_end(life, running.kill, running.wait, signal.SIGTERM)
    life.until_done()


def interrupt(point: random.Random, life: Life) -> None:
    """Ctrl-C: SIGINT to all processes of the terminal."""
    life.switch(seconds=SLOW_ROW_SECONDS)
    life.grow()
    with life.start() as running:
        running.until("event=run_started")
        if point.random() < 0.5:
            life.until_parts(running, point.randint(1, 6))
        else:
            running.rest(point.uniform(0, 3))
        _asked_to_end(life, lambda _: running.interrupt(), running.wait, signal.SIGINT)
    life.switch()
    life.until_done()


def _asked_to_end(life: Life, send, wait, number: int) -> None:
    """Asks a command to end; it must do so soon, with exit code 1, and say what is kept."""
    sent = time.monotonic()
    send(number)
    ended: Ended = life.keep(wait())
    if ended.code == 0:  # it was done before it was asked
        return
    assert ended.code == 1, f"exit {ended.code}, not 1:\n{ended.text}"
    assert GOES_ON in ended.message, f"does not say what is kept:\n{ended.text}"
    assert "Traceback" not in ended.text, ended.text
    assert "event=run_failed" in ended.text, f"the log has no end:\n{ended.text}"
    assert time.monotonic() - sent < END_SECONDS, f"ended only after {time.monotonic() - sent} s"


def kill_actors(point: random.Random, life: Life) -> None:
    """A tenth of all batches kill the actor that computes them."""
    life.switch(deaths=point.uniform(0.08, 0.12))
    life.grow()
    life.run(code=0)


def start_twice(point: random.Random, life: Life) -> None:
    """Two drivers of one table, the second at any moment of the first."""
    life.grow()
    with ExitStack() as stack:
        one = stack.enter_context(life.start())
        one.rest(point.uniform(0, 5))
        two = stack.enter_context(life.start())
        both = [life.keep(one.wait()), life.keep(two.wait())]
    for ended in both:
        assert ended.code == 0 or (ended.code == 1 and GOES_ON in ended.message), ended.text
    assert any(ended.code == 0 for ended in both), both[0].text
    life.until_done()


def start_twice_with_other_rows(point: random.Random, life: Life) -> None:
    """Two drivers of one table whose manifest grows between their plans."""
    life.grow()
    with ExitStack() as stack:
        one = stack.enter_context(life.start())
        one.until("event=planned")
        life.grow(30)
        life.sizes.add(len(life.numbers))
        two = stack.enter_context(life.start())
        both = [life.keep(one.wait()), life.keep(two.wait())]
    for ended in both:
        assert ended.code == 0 or (ended.code == 1 and GOES_ON in ended.message), ended.text
    life.until_done()


FAULTS = (
    Fault("driver killed at any moment", kill_driver),
    Fault("driver killed between two parts", kill_driver_between_parts, is_short=False),
    Fault("actor killed in 10 % of the batches", kill_actors, "exit 0"),
    Fault("two drivers on one table at once", start_twice, "at least one exits 0", is_short=False),
    Fault(
        "two drivers on one table, the manifest growing",
        start_twice_with_other_rows,
        "one may say: run again",
        is_short=False,
    ),
    Fault("SIGTERM in the run", terminate, "exit 1 and what is kept"),
    Fault("SIGTERM at the start", terminate_early, "exit 1 and what is kept", is_short=False),
    Fault("Ctrl-C", interrupt, "exit 1 and what is kept"),
)
