"""Which stage is named, and what people are told to change."""

import re

import pytest

from jobs.bottleneck import Bottleneck, find_bottleneck
from jobs.parts import PartReport
from jobs.resources import Allotment
from operators.agreement import Agreement
from schemas.config import FETCH, Resources
from tests.plain_jobs import Brightness

LONG = 1000.0  # seconds


def found(
    busy: dict[str, float],
    seconds: float = LONG,
    actors: dict[str, int] | None = None,
    gpus: float = 0.0,
    operators: list | None = None,
    **pools: dict[str, float],
) -> Bottleneck | None:
    """The bottleneck of a run of ten parts, which the actors took in turn."""
    counts = actors or {}
    reports = [
        PartReport(
            f"{number}",
            1,
            1,
            busy={stage: total / 10 for stage, total in busy.items()},
            actors={stage: f"{stage}-{number % counts.get(stage, 1)}" for stage in busy},
        )
        for number in range(10)
    ]
    return find_bottleneck(
        reports,
        seconds,
        allotments={stage: Allotment(stage, 1, 9, 1, gpus) for stage in busy},
        operators=operators or [Brightness(name="caption"), Brightness(name="embedding")],
        resources=Resources.model_validate(pools),
    )


def test_the_stage_is_named_whose_actors_had_least_time_to_spare():
    alike = {FETCH: 100.0, "caption": 1800.0, "embedding": 900.0}

    one = found(alike, actors={"caption": 3})
    assert (one.stage, one.actors, one.share) == ("embedding", 1, pytest.approx(0.9))
    assert found(alike, seconds=2000.0).stage == "caption"


def test_parts_that_no_actor_computed_name_none():
    assert found({}) is None


@pytest.mark.parametrize(
    ("busy", "given", "advice"),
    [
        ({FETCH: 900.0}, {}, r"raise resources.fetch.actors \(1 now\), or run nearer"),
        ({"caption": 900.0}, {}, "run on GPUs or on more cores"),
        ({"caption": 900.0}, {"gpus": 0.33}, r"resources.caption.gpus \(0.33 now\)"),
        ({"caption": 900.0}, {"gpus": 1.0}, "run on more GPUs: a larger machine, or a cluster"),
        ({"caption": 900.0}, {"caption": {"actors": 2}}, r"resources.caption.actors \(2 now\)"),
        ({"caption": 300.0}, {}, "no stage was busy all the time"),
        ({"caption": 9.0}, {"seconds": 30.0}, "the run was short, and most of it was starting"),
        ({"judge": 900.0}, {"operators": [Agreement(name="judge", match="m")]}, "on more cores:"),
    ],
)
def test_what_to_change_is_told_of_what_the_stage_has(busy, given, advice):
    assert re.search(advice, found(busy, **given).advice)


def test_what_waits_for_a_server_is_to_ask_it_more_at_once():
    asking = Brightness(name="ask")
    asking.is_remote = True

    assert "raise its concurrency" in found({"ask": 900.0}, operators=[asking]).advice
