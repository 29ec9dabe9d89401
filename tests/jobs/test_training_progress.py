import io
import json
import threading

import pytest

from jobs.training_progress import Progression, show_progress
from jobs.training_state import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def step(number, speed=10.0):
    return {
        "step": number,
        "steps": 4,
        "epoch": number / 2,
        "loss": 0.5,
        "rate": 1e-3,
        "images_per_second": speed,
    }


def write(folder, *lines, end="\n"):
    with folder.curve.open("a") as file:
        file.write("\n".join(map(json.dumps, lines)) + end)


def test_a_curve_is_read_on_and_not_again(folder):
    follower = folder.follow_curve()
    assert follower.read_on() == ([], True)
    write(folder, step(1))
    assert follower.read_on() == ([step(1)], True)
    write(folder, step(2), step(3), end="")  # the last is still being written
    assert follower.read_on() == ([step(2)], False)
    write(folder, end="\n")
    assert follower.read_on() == ([step(3)], False)
    assert follower.read_on() == ([], False)


def test_a_run_that_goes_on_from_an_earlier_step_is_shown_from_there(folder):
    progression = Progression(folder)
    write(folder, step(1), {"step": 1, "validation": {"exact": 0.25}}, step(2), step(3))
    progression.read_on()
    assert "step=3/4" in progression.describe()
    folder.cut_curve(1)
    progression.read_on()
    assert progression.describe() == (
        "step=1/4 epoch=0.50 loss=0.5000 rate=1.00e-03 images_per_second=10.0 exact=0.2500"
    )


def test_speed_is_that_of_the_last_steps(folder):
    write(folder, *(step(1, speed=1.0) for _ in range(5)), *(step(2, 30.0) for _ in range(20)))
    progression = Progression(folder)
    progression.read_on()
    assert "images_per_second=30.0" in progression.describe()


def test_what_came_last_is_shown_when_a_run_ends(folder):
    write(folder, step(4))
    ended, stream = threading.Event(), io.StringIO()
    ended.set()
    show_progress(folder, ended, stream)
    assert stream.getvalue().startswith("event=progress step=4/4")


def test_a_terminal_gets_a_bar(folder):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    write(folder, step(2))
    ended, stream = threading.Event(), Terminal()
    ended.set()
    show_progress(folder, ended, stream)
    assert "2/4" in stream.getvalue()
