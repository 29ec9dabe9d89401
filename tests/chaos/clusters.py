"""Faults of a cluster: a node is gone, all of it is gone, one node is slow."""

import random

from tests.chaos import cluster
from tests.chaos.fault import Fault
from tests.chaos.life import ROW_SECONDS, ROWS, Life
from tests.chaos.processes import GOES_ON

SLOW = 10


def kill_raylet(point: random.Random, life: Life) -> None:
    """One of two nodes goes, with its actors and the blocks it had."""
    life.grow()
    with cluster.running([2, 2]) as nodes, _on(life, nodes), life.start() as running:
        life.until_parts(running, point.randint(0, 8))
        nodes.kill_node(point.randint(0, 1))
        ended = life.keep(running.wait())
        assert ended.code == 0, ended.text
    life.until_done()


def kill_cluster(point: random.Random, life: Life) -> None:
    """All nodes go; the same command goes on elsewhere, with other parallelism."""
    life.grow()
    with cluster.running([2, 2]) as nodes, _on(life, nodes), life.start() as running:
        life.until_parts(running, point.randint(1, 8))
        nodes.kill()
        ended = life.keep(running.wait())
        assert ended.code == 0 or (ended.code == 1 and GOES_ON in ended.message), ended.text
        assert "Traceback" not in ended.text, ended.text
    pool = life.config["resources"]["twice"]
    life.config["resources"]["twice"] = {**pool, "actors": point.choice([1, 2, 5])}
    life.until_done()
    life.config["resources"]["twice"] = pool


def slow_node(point: random.Random, life: Life) -> None:
    """One actor of three takes ten times as long."""
    life.switch(slow_actor=SLOW)
    life.grow()
    ended = life.run(code=0)
    alone = SLOW * ROW_SECONDS * ROWS  # if the slow one had to do all of it
    assert ended.seconds < alone + 60, f"took {ended.seconds:.0f} s"


class _on:  # noqa: N801
    """Points a life at a cluster for the length of a `with`."""

    def __init__(self, life: Life, nodes: cluster.Cluster) -> None:
        self.life, self.nodes = life, nodes
        self.before = (life.address, life.environment)

    def __enter__(self) -> None:
        self.life.address = self.nodes.address
        self.life.environment = {**self.life.environment, **cluster.ENVIRONMENT}

    def __exit__(self, *_: object) -> None:
        self.life.address, self.life.environment = self.before


FAULTS = (
    Fault("raylet of one of two nodes killed", kill_raylet, "exit 0", is_short=False),
    Fault(
        "whole cluster killed, rerun with other parallelism",
        kill_cluster,
        "exit 1 and what is kept",
        is_short=False,
    ),
    Fault("one actor 10 times slower", slow_node, "exit 0", is_short=False),
)
