"""What each stage of a job may use: the config's wishes, and shares of the rest.

What cannot stand together is refused before anything starts, as Ray would wait for it for ever.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jobs.cluster import Capacity
from operators.base import Operator
from schemas.config import FETCH, Resources
from schemas.errors import ConfigError

FETCH_CPUS = 0.25  # a fetcher waits for the store most of the time
CPUS_PER_FETCHER = 16  # of a cluster without GPUs, where the number of fetchers was not given
CPUS_PER_GPU_FETCHER = 4  # where there are GPUs, which want a few hundred images a second each
LEAST_WORK_SECONDS = 30.0  # for which it is worth to start an actor and read its weights
CPUS_PER_WRITER = 8  # of the cluster; a part takes a few tenths of a second
LEAST_WRITERS = 2
TASK_CPUS = 0.02  # of a task that puts a part
TASKS_RESERVE_CPUS = 0.2  # kept free of actors, or those tasks would never start
LEAST_CPUS = 0.05  # of an actor, when wishes leave hardly anything


@dataclass(frozen=True)
class Allotment:
    """What a stage has got.

    Args:
        name: of the operator, or `fetch`.
        actors: at the start; as many as have work for half a minute.
        most_actors: when those cannot keep up.
        cpus: per actor; logical, for Ray to count.
        gpus: per actor.
        batch: rows per call; None for the operator's own.
    """

    name: str
    actors: int
    most_actors: int
    cpus: float
    gpus: float
    batch: int | None = None


def allot(
    operators: Sequence[Operator],
    resources: Resources,
    capacity: Capacity,
    *,
    where: str,
    work: Mapping[str, float] | None = None,
) -> dict[str, Allotment]:
    """Divides what there is among the stages.

    An actor has one GPU, or an equal share of one, where there are GPUs that nobody asked for; and
    one core, or an equal share of one. Pools whose size was not given have as many actors as leave
    all of them busy for equally long, by what is known of their work; were they to grow as they
    like, the first would take what the others need.

    Args:
        operators: in order.
        resources: the config's wishes.
        capacity: what there is.
        where: the cluster's name in messages.
        work: seconds that one actor would need, by operator; without it all have the same, and
            begin with one actor.

    Returns:
        By the name of the operator, and `fetch`.

    Raises:
        ConfigError: more is asked for than there is.
    """
    names = [operator.name for operator in operators]
    resources = _with_modest(operators, resources)
    faults = _faults(names, resources, capacity)
    if faults:
        raise ConfigError(
            f"resources: {'; '.join(faults)}; {where} has {capacity.cpus:g} CPUs and "
            f"{capacity.gpus:g} GPUs; ask for less, or run on a larger cluster with --address"
        )
    stages = [_fetchers(resources, capacity)]
    gpus, cpus = _gpu_shares(names, resources, capacity), _cpu_shares(names, resources, capacity)
    for name in names:
        pool = resources.pool(name)
        actors = pool.actors or 1
        stages.append(Allotment(name, actors, actors, cpus[name], gpus[name], pool.batch))
    nets = {operator.name for operator in operators if getattr(operator, "has_net", True)}
    weights = work or {name: float(name in nets) for name in names}
    most = _spread(stages, resources, capacity, weights)
    return {
        stage.name: replace(
            stage,
            actors=min(most[stage.name], max(stage.actors, _worth(stage.name, work))),
            most_actors=most[stage.name],
        )
        for stage in stages
    }


def _worth(name: str, work: Mapping[str, float] | None) -> int:
    """How many actors a stage's work is worth starting at once."""
    return math.ceil((work or {}).get(name, 0.0) / LEAST_WORK_SECONDS)


def _spread(
    stages: Sequence[Allotment],
    resources: Resources,
    capacity: Capacity,
    weights: Mapping[str, float],
) -> dict[str, int]:
    """Actors by stage: one after the other for the pool that would be done last, while they fit."""
    actors = {stage.name: stage.actors for stage in stages}
    idle_cpus = capacity.cpus - TASKS_RESERVE_CPUS - sum(s.actors * s.cpus for s in stages)
    idle_gpus = capacity.gpus - sum(s.actors * s.gpus for s in stages)
    may_grow = [s for s in stages if s.name != FETCH and not resources.pool(s.name).actors]
    last = [(-weights.get(stage.name, 0.0), place) for place, stage in enumerate(may_grow)]
    heapq.heapify(last)
    while last:
        _, place = heapq.heappop(last)
        stage = may_grow[place]
        if stage.cpus <= idle_cpus + 1e-6 and stage.gpus <= idle_gpus + 1e-6:
            actors[stage.name] += 1
            idle_cpus, idle_gpus = idle_cpus - stage.cpus, idle_gpus - stage.gpus
            each = weights.get(stage.name, 0.0) / actors[stage.name]
            heapq.heappush(last, (-each, place))
    return actors


def writers(capacity: Capacity) -> int:
    """How many parts are put at once; each takes a process, and hardly any of its core."""
    return max(LEAST_WRITERS, int(capacity.cpus / CPUS_PER_WRITER))


def _with_modest(operators: Sequence[Operator], resources: Resources) -> Resources:
    """No GPU for what has no net; one actor for what asks a server, as its limits are the job's."""
    pools = {}
    for operator in operators:
        pool = resources.pool(operator.name)
        is_remote = getattr(operator, "is_remote", False)
        if is_remote or not getattr(operator, "has_net", True):
            actors = (pool.actors or 1) if is_remote else pool.actors
            least = {"actors": actors, "gpus": pool.gpus or 0.0}
            pools[operator.name] = pool.model_copy(update=least)
    return resources.model_copy(update=pools)


def _faults(names: Sequence[str], resources: Resources, capacity: Capacity) -> list[str]:
    """Wishes that cannot come true, each alone and then all together."""
    faults, cpus, gpus = [], 0.0, 0.0
    for name in [FETCH, *names]:
        pool = resources.pool(name)
        actors = pool.actors or 1
        cpus += actors * (pool.cpus or 0)
        gpus += actors * (pool.gpus or 0)
        if (pool.cpus or 0) > capacity.largest_cpus:
            faults.append(f"{name} asks for {pool.cpus:g} CPUs on one machine")
        if (pool.gpus or 0) > capacity.largest_gpus:
            faults.append(f"{name} asks for {pool.gpus:g} GPUs on one machine")
        if (
            name != FETCH
            and not pool.cpus
            and not pool.gpus
            and actors > max(capacity.cpus, capacity.gpus)
        ):
            faults.append(f"{name} asks for {actors} actors, more than there are CPUs")
    if cpus > capacity.cpus:
        faults.append(f"the stages ask for {cpus:g} CPUs together")
    if gpus > capacity.gpus:
        faults.append(f"the stages ask for {gpus:g} GPUs together")
    return faults


def _fetchers(resources: Resources, capacity: Capacity) -> Allotment:
    pool = resources.pool(FETCH)
    each = CPUS_PER_GPU_FETCHER if capacity.gpus else CPUS_PER_FETCHER
    actors = pool.actors or max(1, int(capacity.cpus / each))
    cpus = pool.cpus or min(FETCH_CPUS, FETCH_CPUS * capacity.cpus / 2 / actors)
    return Allotment(FETCH, actors, actors, cpus, pool.gpus or 0.0, pool.batch)


def _gpu_shares(
    names: Sequence[str], resources: Resources, capacity: Capacity
) -> Mapping[str, float]:
    pools = {name: resources.pool(name) for name in [FETCH, *names]}
    asked = sum((pool.actors or 1) * (pool.gpus or 0) for pool in pools.values())
    sharing = sum(pools[name].actors or 1 for name in names if pools[name].gpus is None)
    share = min(1.0, _floor((capacity.gpus - asked) / max(1, sharing)))
    return {name: share if (gpus := pools[name].gpus) is None else gpus for name in names}


def _cpu_shares(
    names: Sequence[str], resources: Resources, capacity: Capacity
) -> Mapping[str, float]:
    """Cores per actor; wishes that leave no room for fetching and writing are scaled down."""
    pools = {name: resources.pool(name) for name in names}
    fetchers = _fetchers(resources, capacity)
    free = capacity.cpus - fetchers.actors * fetchers.cpus - TASKS_RESERVE_CPUS
    sharing = sum(pool.actors or 1 for pool in pools.values() if not pool.cpus)
    if sharing < capacity.cpus and not any(pool.cpus for pool in pools.values()):
        sharing = int(capacity.cpus)  # an actor a core: fetching and writing hardly need theirs
    asked = sum((pool.actors or 1) * (pool.cpus or 0) for pool in pools.values())
    scale = min(1.0, (free - LEAST_CPUS * sharing) / asked) if asked else 1.0
    share = max(0.01, min(1.0, _floor((free - asked * scale) / max(1, sharing))))
    return {name: _floor(pool.cpus * scale) if pool.cpus else share for name, pool in pools.items()}


def _floor(value: float) -> float:
    """Rounds down to hundredths, so that shares never sum to more than there is."""
    return math.floor(value * 100 + 1e-6) / 100
