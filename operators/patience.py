"""How long a store that does not answer is waited for, and what is said meanwhile.

An image waits with exponential backoff and full jitter, for minutes in all. What is known of a
store is shared by the threads of a process: one from which nothing came for those minutes is away,
and is then asked only now and then, so that an outage costs a run minutes once and not once an
image. Who waits holds no memory and says every half a minute what it waits for.

Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from schemas.errors import RowFault

PATIENCE_SECONDS = 180.0  # for one image, from its first failure on
FIRST_SECONDS = 0.5  # the most that is waited before the second try; doubled for each further one
LONGEST_SECONDS = 20.0  # of one wait
WISHED_SECONDS = 60.0  # the most that is waited because a store asks for it
AWAY_SECONDS = 30.0  # without an answer, at least, until a store counts as away
PROBE_SECONDS = 5.0  # between two tries of a store that is away
FORGOTTEN_SECONDS = 150.0  # after its last failure a store is given all patience anew
VAIN_IMAGES = 20  # given up while others were answered
BRIEF_SECONDS = 5.0  # then, while others are; so that what is broken for good costs no minutes each
TOLD_SECONDS = 30.0  # between two lines about a store
TOLD_FROM_SECONDS = 5.0  # waited, before the first

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class Patience:
    """Asks stores again, for all threads of a process. Pickles; what it knows stays behind.

    Args:
        seconds: one image is waited for; 0 for one try.
    """

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._stores: dict[str, _Store] = {}
        self._retries = Counter[str]()

    def __reduce__(self) -> tuple[object, ...]:
        return Patience, (self.seconds,)

    def ask(self, host: str, call: Callable[[], Answer]) -> Answer:
        """Calls until there is an answer, or patience ends.

        Args:
            host: of the store; outages are remembered by it.
            call: raises RowFault; a transient one is no answer.

        Raises:
            RowFault: the answer, or the last fault; or the store is away, and was not asked.
        """
        store = self._store(host)
        first_failed: float | None = None
        try:
            for trial in count(1):
                store.check()
                try:
                    answer = call()
                except RowFault as fault:
                    if not fault.transient:
                        store.answered()
                        raise
                    failed = store.failed()
                    first_failed = failed if first_failed is None else first_failed
                    pause = self._pause(store, fault, trial, failed - first_failed)
                else:
                    store.answered()
                    return answer
                time.sleep(pause)
        finally:
            store.left()
        raise AssertionError("the last try returns or raises")

    def counted(self) -> Counter[str]:
        """Tries beyond the first since this was last called, by the code of what had failed."""
        with self._lock:
            counted, self._retries = self._retries, Counter()
        return counted

    def _store(self, host: str) -> "_Store":
        with self._lock:
            return self._stores.setdefault(host, _Store(host, max(self.seconds, AWAY_SECONDS)))

    def _pause(self, store: "_Store", fault: RowFault, trial: int, waited: float) -> float:
        """Seconds until the next try.

        Raises:
            RowFault: the one given; there is none.
        """
        is_brief = store.is_in_vain and store.answers_since(waited) and not fault.wait_seconds
        left = (min(self.seconds, BRIEF_SECONDS) if is_brief else self.seconds) - waited
        if left <= 0 or store.is_away:
            store.gave_up()
            raise fault
        store.tell(fault, waited)
        with self._lock:
            self._retries[fault.code] += 1
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (trial - 1))
        wished = min(WISHED_SECONDS, fault.wait_seconds)
        return min(left, max(wished, random.uniform(0, longest)))


@dataclass
class _Store:
    """What the threads of a process know of one store.

    Args:
        host: its name.
        away_seconds: without an answer until it counts as away.
    """

    host: str
    away_seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    failing_since: float | None = None
    last_failed: float = -math.inf
    next_probe: float = -math.inf
    last_answered: float = -math.inf
    in_vain: int = 0
    told: float = -math.inf
    is_told: bool = False  # that it is waited for, and not yet that it answers
    waiting: dict[int, float] = field(default_factory=dict)  # since when, by thread

    @property
    def is_away(self) -> bool:
        """Whether nothing came from it for long."""
        since = self.failing_since
        return since is not None and self.last_failed - since >= self.away_seconds

    @property
    def is_in_vain(self) -> bool:
        """Whether waiting has led to nothing for many images in a row."""
        return self.in_vain >= VAIN_IMAGES

    def answers_since(self, seconds: float) -> bool:
        """Whether it answered anyone in the last so many seconds, so that it is not down itself."""
        return self.last_answered > time.monotonic() - seconds

    def check(self) -> None:
        """Lets a try pass, unless the store is away and was asked a moment ago.

        Raises:
            RowFault: it is.
        """
        with self.lock:
            now = time.monotonic()
            if now - self.last_failed > FORGOTTEN_SECONDS:
                self.failing_since = None
            if not self.is_away:
                return
            if now >= self.next_probe:
                self.next_probe = now + PROBE_SECONDS
                return
            silent = now - (self.failing_since or now)
        message = f"{self.host}: no answer for {silent:.0f} seconds; not asked for this image"
        raise RowFault("unavailable", message, transient=True)

    def failed(self) -> float:
        """Notes that a try came to nothing; gives the time."""
        with self.lock:
            self.last_failed = now = time.monotonic()
            if self.failing_since is None:
                self.failing_since = now
            return now

    def answered(self) -> None:
        """Notes that it answered, if only that there is no such image."""
        with self.lock:
            self.failing_since = None
            self.last_answered = time.monotonic()
            since = self.waiting.get(threading.get_ident())
            now = time.monotonic()
            if since is None:
                return
            if now - since > BRIEF_SECONDS:
                self.in_vain = 0
            is_news, self.is_told = self.is_told and self.told >= since, False
        if is_news:
            logger.warning("event=store_answers host=%s waited=%.1f", self.host, now - since)

    def gave_up(self) -> None:
        """Notes an image that was waited for in vain; of a store that is away it tells nothing."""
        with self.lock:
            self.in_vain += not self.is_away

    def left(self) -> None:
        """Notes that this thread waits no more."""
        with self.lock:
            self.waiting.pop(threading.get_ident(), None)

    def tell(self, fault: RowFault, waited: float) -> None:
        """Notes that this thread waits, and says so when it is time for a line."""
        with self.lock:
            now = time.monotonic()
            self.waiting[threading.get_ident()] = now - waited
            first = min(self.waiting.values())
            if now - first < TOLD_FROM_SECONDS or now - self.told < TOLD_SECONDS:
                return
            self.told, self.is_told, images = now, True, len(self.waiting)
        logger.warning(
            "event=store_waiting host=%s code=%s waited=%.1f images=%d said=%s",
            self.host,
            fault.code,
            now - first,
            images,
            fault.message[:200],
        )


def wished_seconds(header: str | None) -> float:
    """Seconds that a Retry-After asks for; 0 where it gives none, or a date."""
    return float(header) if header and header.strip().isdigit() else 0.0
