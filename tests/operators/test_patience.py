"""How long a store is waited for, by a clock of the test's own."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from operators import patience as module
from operators.patience import Patience, wished_seconds
from schemas.errors import RowFault

DOWN = RowFault("unavailable", "s3://photos/1.png: SlowDown", transient=True)


@dataclass
class Clock:
    """Stands in for `time`: sleeping takes none."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


@dataclass
class Store:
    """Answers unless `is_down` says otherwise at that moment; a try takes a tenth of a second."""

    clock: Clock
    is_down: Callable[[float], bool]
    fault: RowFault = DOWN
    asked: int = 0

    def __call__(self) -> str:
        self.asked += 1
        self.clock.now += 0.1
        if self.is_down(self.clock.now):
            raise self.fault
        return "bytes"


def test_an_image_is_tried_again_for_minutes_at_growing_random_moments(clock):
    store = Store(clock, lambda now: True)
    for _ in range(2):
        begun = clock.now
        with pytest.raises(RowFault, match="SlowDown"):
            Patience(180).ask("photos", store)
        assert 180 <= clock.now - begun < 185
    assert 2 * 10 < store.asked < 2 * 60
    assert max(clock.slept) <= 20
    assert max(clock.slept[:2]) < 1
    half = len(clock.slept) // 2
    assert clock.slept[:5] != clock.slept[half : half + 5]


def test_a_store_that_is_away_for_two_minutes_costs_no_image(clock):
    store = Store(clock, lambda now: now < 1120)
    assert Patience(180).ask("photos", store) == "bytes"
    assert clock.now < 1145


def test_a_store_that_stays_away_costs_minutes_once_and_not_each_image(clock):
    store, patience = Store(clock, lambda now: True), Patience(180)
    with pytest.raises(RowFault):
        patience.ask("photos", store)
    begun, asked = clock.now, store.asked
    for _ in range(10_000):
        with pytest.raises(RowFault) as raised:
            patience.ask("photos", store)
        assert (raised.value.code, raised.value.transient) == ("unavailable", True)
        clock.now += 0.001
    assert clock.now - begun < 12
    assert store.asked - asked <= 3
    assert "photos: no answer for 1" in str(raised.value)


def test_a_store_that_was_away_is_found_again(clock):
    store, patience = Store(clock, lambda now: now < 1200), Patience(180)
    with pytest.raises(RowFault):
        patience.ask("photos", store)
    clock.now = 1201
    assert patience.ask("photos", store) == "bytes"
    store.is_down = lambda now: now < 1260  # and is waited for as at first
    assert patience.ask("photos", store) == "bytes"
    assert clock.now > 1260


def test_no_image_is_an_answer(clock):
    store = Store(clock, lambda now: True, RowFault("missing", "no such object"))
    with pytest.raises(RowFault, match="no such"):
        Patience(180).ask("photos", store)
    assert store.asked == 1


def test_other_stores_do_not_suffer(clock):
    patience = Patience(180)
    with pytest.raises(RowFault):
        patience.ask("photos", Store(clock, lambda now: True))
    assert patience.ask("paintings", Store(clock, lambda now: False)) == "bytes"


def test_a_store_that_asks_to_wait_is_obeyed(clock):
    asked = RowFault("unavailable", "429", transient=True, wait_seconds=7)
    store = Store(clock, lambda now: now < 1001, asked)
    assert Patience(180).ask("photos", store) == "bytes"
    assert clock.slept == [7]
    assert [wished_seconds(text) for text in ("7", None, "Wed, 21 Oct 2026 07:28:00 GMT")] == [
        7,
        0,
        0,
    ]


def test_many_files_that_stay_broken_do_not_cost_minutes_each(clock):
    patience = Patience(180)
    broken = Store(clock, lambda now: True)

    def with_another() -> str:
        other = threading.Thread(target=patience.ask, args=("photos", lambda: "bytes"))
        other.start()
        other.join()
        return broken()

    costs = []
    for _ in range(30):
        begun = clock.now
        with pytest.raises(RowFault):
            patience.ask("photos", with_another)
        costs.append(clock.now - begun)
    assert min(costs[:20]) >= 180
    assert max(costs[20:]) < 15

    until = clock.now + 60  # and now the store itself is down: an image is waited for all the same
    assert patience.ask("photos", Store(clock, lambda now: now < until)) == "bytes"


def test_waiting_is_told_every_half_a_minute_and_its_end_too(clock, caplog):
    said = []
    monotonic = clock.monotonic

    def listen() -> float:
        if len(caplog.records) > len(said):
            said.append(clock.now)
        return monotonic()

    clock.monotonic = listen
    Patience(180).ask("photos", Store(clock, lambda now: now < 1150))
    gaps = [later - earlier for earlier, later in zip([1000, *said], said, strict=False)]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("event=store_waiting host=photos code=unavailable waited=")
    assert lines[0].endswith("images=1 said=s3://photos/1.png: SlowDown")
    assert lines[-1].startswith("event=store_answers host=photos waited=1")
    assert len(lines) <= 7
    assert max(gaps) < 60


def test_a_short_stumble_is_not_told(clock, caplog):
    Patience(180).ask("photos", Store(clock, lambda now: now < 1001))
    assert not caplog.records


def test_tries_beyond_the_first_are_counted_by_what_failed(clock):
    patience = Patience(180)
    assert patience.ask("photos", Store(clock, lambda now: False)) == "bytes"
    assert not patience.counted()
    store = Store(clock, lambda now: now < 1002)
    patience.ask("photos", store)
    assert patience.counted() == {"unavailable": store.asked - 1}
    assert not patience.counted()


def test_without_patience_there_is_one_try(clock):
    store, patience = Store(clock, lambda now: True), Patience(0)
    for _ in range(3):
        with pytest.raises(RowFault, match="SlowDown"):
            patience.ask("photos", store)
    assert store.asked == 3
    assert not clock.slept


def test_patience_travels_without_what_it_knows(clock):
    assert pickle.loads(pickle.dumps(Patience(7))).seconds == 7
