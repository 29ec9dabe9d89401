"""A fault, its injection at a random point of a job's life, and what came of it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from schemas.errors import TableError
from tests.chaos.life import Law, Life
from tests.chaos.reader import Reader

DAMAGED = (TableError, OSError, pa.ArrowInvalid)  # of a reader, where a fault damages the table
Inject = Callable[[random.Random, Life], None]


class NotHereError(Exception):
    """This machine does not let the fault be injected; the message says why."""


@dataclass(frozen=True)
class Fault:
    """One row of the table of faults.

    Args:
        name: what happens, in a few words.
        inject: gets a source of random points and a life with nothing left to do; gives the life
            something to do, breaks it, and runs the command until it is done. Raises
            AssertionError where exit codes or messages are not what a user needs, NotHereError
            where it cannot be done.
        then: what must be true beside the law, for the table.
        is_short: whether it is part of the short form.
        needs_disk: whether the table must lie on a small disk of its own.
    """

    name: str
    inject: Inject
    then: str = ""
    is_short: bool = True
    needs_disk: bool = False


@dataclass(frozen=True)
class Result:
    """What a fault came to at one point.

    Args:
        fault: its name.
        seed: of the point.
        law: how it was kept.
        codes: exit codes of the commands, in order.
        silence: the longest time without a line.
        seconds: all of it took.
        failure: what was not as it must be; empty when all was.
    """

    fault: str
    seed: int
    law: Law
    codes: tuple[int, ...]
    silence: float
    seconds: float
    failure: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the law was kept and the command said what it must."""
        return self.law.is_kept and not self.failure

    def __str__(self) -> str:
        return (
            f"{self.fault}: {'right' if self.is_right else 'WRONG'} seed={self.seed} "
            f"lost={self.law.lost} doubled={self.law.doubled} wrong={len(self.law.wrong)} "
            f"half={len(self.law.half)} exits={list(self.codes)} silence={self.silence:.0f} "
            f"seconds={self.seconds:.0f} {self.failure}"
        ).rstrip()


def inject(fault: Fault, life: Life, seed: int) -> Result:
    """Injects a fault into a life at the point of a seed, and judges what came of it."""
    begun, before = time.monotonic(), len(life.ended)
    failure = ""
    with Reader(life.table, passes=DAMAGED) as reader:
        try:
            fault.inject(random.Random(seed), life)
        except AssertionError as error:
            failure = str(error)
        finally:
            life.switch()
    ended = life.ended[before:]
    return Result(
        fault.name,
        seed,
        life.law(reader.seen),
        tuple(one.code for one in ended),
        max((one.silence for one in ended), default=0.0),
        time.monotonic() - begun,
        failure,
    )
