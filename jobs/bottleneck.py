"""Which stage held a run up, and what to change so that it would not."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.parts import PartReport
from jobs.resources import Allotment
from operators.base import Operator
from schemas.config import FETCH, Resources

FULL = 0.6  # of the time that a stage's actors compute; below, they wait for something else
SHORT_SECONDS = 60.0  # in which Ray, actors and weights have a large part


@dataclass(frozen=True)
class Bottleneck:
    """The stage whose actors had least time to spare.

    Args:
        stage: the operator's name, or `fetch`.
        actors: that it had at last.
        share: of the time that they computed, at most 1.
        advice: what to change, for people.
    """

    stage: str
    actors: int
    share: float
    advice: str


def find_bottleneck(
    reports: Sequence[PartReport],
    seconds: float,
    *,
    allotments: Mapping[str, Allotment],
    operators: Sequence[Operator],
    resources: Resources,
) -> Bottleneck | None:
    """Finds the stage that was busiest, by what its parts say.

    Args:
        reports: of the parts of this run.
        seconds: that the stages ran, start-up included.
        allotments: what each stage had got.
        operators: in order.
        resources: the config's wishes.

    Returns:
        None when no actor computed anything.
    """
    busy, who = defaultdict[str, float](float), defaultdict[str, set[str]](set)
    for report in reports:
        for stage, actor in report.actors.items():
            busy[stage] += report.busy.get(stage, 0.0)
            who[stage].add(actor)
    if not busy:
        return None
    stage = max(busy, key=lambda name: busy[name] / len(who[name]))
    actors = len(who[stage])
    share = min(1.0, busy[stage] / actors / max(seconds, 1e-9))
    operator = {one.name: one for one in operators}.get(stage)
    given = resources.pool(stage).actors
    advice = _advice(share, seconds) or _more(allotments[stage], operator, given)
    return Bottleneck(stage, actors, share, advice)


def _advice(share: float, seconds: float) -> str | None:
    """What to change where no stage was to blame; None where one was."""
    if share >= FULL:
        return None
    if seconds < SHORT_SECONDS:
        return "the run was short, and most of it was starting"
    return (
        "no stage was busy all the time; see that nothing else uses these machines, and that the "
        "table's store is near and takes parts as fast as they come"
    )


def _more(allotment: Allotment, operator: Operator | None, given: int | None) -> str:
    """What gives a stage more, from what it has."""
    wish = f"resources.{allotment.name}.actors"
    if allotment.name == FETCH:
        now = given or allotment.actors
        return f"raise {wish} ({now} now), or run nearer to the images"
    if getattr(operator, "is_remote", False):
        return "raise its concurrency, if its server can take more, or serve its model by more"
    if given:
        return f"raise {wish} ({given} now) while cores and GPUs last"
    if not getattr(operator, "has_net", True):
        return "run on more cores: a larger machine, or a cluster (--address)"
    if allotment.gpus == 0:
        return "run on GPUs or on more cores: a larger machine, or a cluster (--address)"
    if allotment.gpus < 1:
        name = f"resources.{allotment.name}.gpus"
        return f"run on more GPUs, or give it more of this one: {name} ({allotment.gpus:g} now)"
    return "run on more GPUs: a larger machine, or a cluster (--address)"
