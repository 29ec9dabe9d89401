"""Who gets which cores and GPUs, and what is refused."""

import pytest

from jobs.cluster import Capacity
from jobs.resources import TASKS_RESERVE_CPUS, Allotment, allot, writers
from operators.agreement import Agreement
from schemas.config import FETCH, Machines, Resources
from schemas.errors import ConfigError
from tests.plain_jobs import Brightness

OPERATORS = [
    Brightness(name="caption"),
    Brightness(name="entailment"),
    Brightness(name="embedding"),
]


def machine(cpus: float, gpus: float = 0) -> Capacity:
    return Capacity(cpus, gpus, cpus, gpus)


def given(capacity: Capacity, **pools: dict[str, float]) -> dict[str, Allotment]:
    return allot(OPERATORS, Resources.model_validate(pools), capacity, where="this machine")


def cpus_in_use(allotments: dict[str, Allotment]) -> float:
    return sum(allotment.actors * allotment.cpus for allotment in allotments.values())


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 64, 1000])
def test_every_stage_has_an_actor_and_tasks_still_find_room(cpus):
    allotments = given(machine(cpus))

    assert set(allotments) == {FETCH, "caption", "entailment", "embedding"}
    assert cpus_in_use(allotments) <= cpus - TASKS_RESERVE_CPUS + 1e-9
    assert all(allotment.cpus > 0 for allotment in allotments.values())


def test_a_cluster_counts_as_large_as_its_autoscaler_may_make_it():
    wishes = {"caption": {"actors": 4, "gpus": 0.5}, "embedding": {"actors": 4, "gpus": 0.5}}
    head = Capacity(0, 0, 0, 0)  # where no machine is there yet
    with pytest.raises(ConfigError, match="0 GPUs"):
        given(head, **wishes)
    grown = head.grown_to(Machines(count=4, cpus=8, gpus=1))
    assert given(grown, **wishes)["caption"].gpus == 0.5
    larger = machine(64, 8)
    assert larger.grown_to(Machines(count=4, cpus=8, gpus=1)) == larger


def test_two_cores_hold_one_actor_of_each_and_no_more():
    assert all(allotment.most_actors == 1 for allotment in given(machine(2)).values())


def test_pools_may_grow_into_the_cores_that_are_left_and_leave_the_others_theirs():
    assert [given(machine(16))[op.name].most_actors for op in OPERATORS] == [6, 5, 5]
    asked = given(machine(16), caption={"actors": 2})
    assert [asked[op.name].most_actors for op in OPERATORS] == [2, 7, 7]


def test_a_single_operator_has_an_actor_on_every_core():
    found = allot(OPERATORS[:1], Resources(), machine(2), where="this machine")
    assert found["caption"].most_actors == 2


def test_the_slowest_operator_gets_most_of_the_gpus():
    work = {"caption": 1000.0, "entailment": 4000.0, "embedding": 1000.0}
    found = allot(OPERATORS, Resources(), machine(64, 12), where="this machine", work=work)

    assert [found[op.name].most_actors for op in OPERATORS] == [2, 8, 2]
    assert [found[op.name].actors for op in OPERATORS] == [2, 8, 2]


def test_no_more_actors_are_started_than_have_something_to_do():
    work = {"caption": 10.0, "entailment": 100.0, "embedding": 1e6}
    found = allot(OPERATORS, Resources(), machine(64, 0), where="this machine", work=work)

    assert found["caption"].actors == 1
    assert found["entailment"].actors <= 4
    assert found["embedding"].actors == found["embedding"].most_actors > 50
    assert cpus_in_use(found) <= 64 - TASKS_RESERVE_CPUS + 1e-9


def test_gpus_have_fetchers_enough_to_feed_them():
    assert given(machine(16))[FETCH].actors == 1
    assert given(machine(16, 1))[FETCH].actors == 4


def test_parts_are_put_by_few_processes_on_any_machine():
    assert writers(machine(2)) == 2
    assert writers(machine(1000)) == 125


def test_operators_share_the_gpus_that_nobody_asked_for():
    one = given(machine(8, 1))
    assert {one[name].gpus for name in ("caption", "entailment", "embedding")} == {0.33}
    eight = given(machine(64, 8))
    assert eight["caption"].gpus == 1
    assert [eight[op.name].most_actors for op in OPERATORS] == [3, 3, 2]
    asked = given(machine(8, 1), caption={"gpus": 0.5})
    assert (asked["caption"].gpus, asked["embedding"].gpus) == (0.5, 0.25)
    assert given(machine(8, 1), caption={"gpus": 0})["caption"].gpus == 0


def test_wishes_for_all_cores_leave_room_to_fetch_and_to_write():
    asked = given(machine(2), caption={"cpus": 1}, embedding={"cpus": 1})

    assert cpus_in_use(asked) <= 2 - TASKS_RESERVE_CPUS + 1e-9


@pytest.mark.parametrize(
    ("pools", "told"),
    [
        ({"caption": {"gpus": 1}}, "caption asks for 1 GPUs"),
        ({"caption": {"actors": 2, "cpus": 2}}, "the stages ask for 4 CPUs together"),
        ({"caption": {"cpus": 64}}, "caption asks for 64 CPUs"),
        ({"caption": {"actors": 3}}, "caption asks for 3 actors"),
    ],
)
def test_more_than_there_is_is_refused_with_what_there_is(pools, told):
    with pytest.raises(ConfigError, match=f"{told}.*this machine has 2 CPUs and 0 GPUs"):
        given(machine(2), **pools)


def test_a_whole_that_no_single_machine_has_is_refused():
    cluster = Capacity(cpus=16, gpus=0, largest_cpus=4, largest_gpus=0)

    with pytest.raises(ConfigError, match="caption asks for 8 CPUs on one machine"):
        given(cluster, caption={"cpus": 8})


def test_what_asks_a_server_has_one_actor_and_no_gpu_unless_it_is_given_them():
    asking = Brightness(name="ask")
    asking.is_remote = True
    resources = {"ask": {"actors": 3, "gpus": 0.2}}

    def allotted(**pools: dict[str, float]) -> dict[str, Allotment]:
        wishes = Resources.model_validate(pools)
        return allot([*OPERATORS, asking], wishes, machine(16, 1), where="this machine")

    plain, wished = allotted(), allotted(**resources)
    assert (plain["ask"].most_actors, plain["ask"].gpus) == (1, 0)
    assert plain["caption"].gpus == 0.33
    assert (wished["ask"].actors, wished["ask"].most_actors, wished["ask"].gpus) == (3, 3, 0.2)


def test_what_has_no_net_leaves_the_gpus_to_others():
    judging = Agreement(name="agreement", match="match")
    found = allot([*OPERATORS, judging], Resources(), machine(16, 1), where="this machine")
    assert found["agreement"].gpus == 0
    assert found["caption"].gpus == 0.33
    assert found["agreement"].most_actors > 1
