"""A picture is computed once in all shards of a run, and nobody could tell."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from jobs import enrich
from jobs.cluster import connected
from jobs.observed import observed
from jobs.plan import plan
from jobs.shared_answers import Board, SharedAnswers, _read, _written, board_of
from jobs.stages import close_shard, open_shard, run_stage
from operators.base import apply, fingerprint
from operators.catalog import build_operators, check_document
from operators.repeats import MINE, OPEN, THEIRS, Claim, digests
from tests import plain_jobs as job

ROWS, PICTURES = 1500, 20
TIMES = {"grey": 1, "sum": 2}  # what each operator makes of a picture's grey value


class Direct:
    """Asks a board of this process."""

    def __init__(self, board: Board, name: str) -> None:
        self.board, self.claimant = board, ("shown", name)

    def claim(self, seen, most):
        places, known = self.board.claim(self.claimant, b"".join(seen), most)
        return Claim(np.frombuffer(places, np.int64), _read(known) if known else None)

    def publish(self, seen, results):
        self.board.publish(self.claimant, b"".join(seen), _written(results))


class Shown:
    """Writes an image's bytes as text, and keeps what it was asked; fails on one of them."""

    batch_rows = 4
    writes = pa.schema([("shown", pa.string())])
    key = fingerprint({"operator": "shown"})
    name = "shown"
    reads = ("image_encoded",)

    def __init__(self, fails_on=None):
        self.fails_on = fails_on
        self.asked = []

    def load(self):
        return

    def __call__(self, table):
        images = [data.decode() for data in table["image_encoded"].to_pylist()]
        self.asked += images
        if self.fails_on in images:
            raise ArithmeticError(f"no answer for {self.fails_on}")
        return pa.table([images], self.writes)


def pictures(*names):
    encoded = pa.array([name.encode() for name in names], pa.large_binary())
    return pa.table({"image_encoded": encoded, "image_sha256": [f"sha {name}" for name in names]})


def numbered(*numbers):
    return [bytes([number]) * 16 for number in numbers]


def test_what_one_call_computed_the_next_one_copies():
    board, operator, copied = Board(), Shown(), []
    apply(operator, pictures(*"abcabc"), answers=Direct(board, "one"))
    done = apply(
        operator, pictures(*"cdadb"), answers=Direct(board, "two"), on_copied=copied.append
    )
    assert operator.asked == [*"abc", "d"]
    assert done["shown"].to_pylist() == [*"cdadb"]
    assert done["shown_key"].to_pylist() == [operator.key] * 5
    assert copied == [4]


def test_each_call_has_its_own_error_of_a_picture_that_fails():
    board, operator = Board(), Shown(fails_on="b")
    tables = [apply(operator, pictures(*"abcb"), answers=Direct(board, name)) for name in "xy"]
    for table in tables:
        assert table["shown"].to_pylist() == ["a", None, "c", None]
        assert [error["attempts"] for error in table["error"].drop_null().to_pylist()] == [1, 1]
    assert Counter(operator.asked)["c"] == 2  # with b, and alone
    assert board.claim(("shown", "z"), b"".join(numbered(1)), 1) == (_places(MINE), None)


def _places(*places):
    return np.array(places, np.int64).tobytes()


def test_a_row_is_given_to_one_until_that_one_is_slower_than_it_ever_was():
    seconds = [0.0]
    board = Board(now=lambda: seconds[0])
    one, two = Direct(board, "one"), Direct(board, "two")
    assert one.claim(numbered(1, 2, 3), 2).places.tolist() == [MINE, MINE, OPEN]
    assert two.claim(numbered(1, 2, 3), 2).places.tolist() == [THEIRS, THEIRS, MINE]
    seconds[0] = 10.0
    two.publish(numbered(3), pa.table({"shown": ["c"]}))
    assert two.claim(numbered(1, 3), 2).places.tolist() == [THEIRS, 0]
    seconds[0] = 41.0  # more than four times ten
    assert two.claim(numbered(1, 2), 1).places.tolist() == [MINE, OPEN]
    one.publish(numbered(1), pa.table({"shown": ["a"]}))  # it was alive after all
    assert two.claim(numbered(1, 2), 2).places.tolist() == [0, MINE]


def test_what_another_claimed_and_never_computes_is_computed_in_the_end():
    seconds = iter(range(0, 10_000, 3))
    board, operator = Board(now=lambda: next(seconds)), Shown()
    two = pictures(*"ab")
    seen = digests(operator.key, operator.reads, two, np.arange(2), is_fetched=False).values()
    board.claim(("shown", "killed"), b"".join(seen), 2)
    done = apply(operator, pictures(*"abc"), answers=Direct(board, "two"))
    assert operator.asked == [*"cab"]
    assert done["shown"].to_pylist() == [*"abc"]


def test_one_who_asks_again_has_given_up_what_it_had_claimed():
    board = Board()
    one, two = Direct(board, "one"), Direct(board, "two")
    one.claim(numbered(1, 2), 2)
    one.claim(numbered(2), 2)
    assert two.claim(numbered(1, 2), 2).places.tolist() == [MINE, THEIRS]


def test_answers_that_nobody_asked_for_longest_are_forgotten():
    board = Board(kept_bytes=4000)
    one = Direct(board, "one")
    for number in range(9):
        claim = one.claim(numbered(number, 0), 1)
        one.publish(numbered(number), pa.table({"shown": [f"{number}" * 500]}))
    claim = one.claim(numbered(*range(9)), 0)
    assert claim.places.tolist() == [0, *[OPEN] * 6, 1, 2]  # 0 was asked for each time
    assert claim.known["shown"].to_pylist() == ["0" * 500, "7" * 500, "8" * 500]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with connected():
        yield


def config_of(folder: Path, name: str, **killed):
    """A job of two operators that see the image, the second also what the first wrote.

    Args:
        folder: with the pictures.
        name: of the table and of the log.
        killed: options of the first operator, which then is the only one.
    """
    logged = {"use": "tests.logged_operator:Logged", "log": str(folder / f"{name}.log")}
    operators = {"grey": {**logged, **killed}, "sum": {**logged, "plus": "grey"}}
    if killed:
        del operators["sum"]
    return check_document(
        {
            "manifest": str(folder / "photos" / "*.parquet"),
            "table": str(folder / name),
            "operators": operators,
            "resources": {one: {"actors": 2, "cpus": 0.3} for one in operators},
        }
    )


def lines(folder, name):
    return sorted((folder / f"{name}.log").read_text().splitlines())


def each_once():
    return sorted(f"{name} {n * times}" for n in range(PICTURES) for name, times in TIMES.items())


def shard_by_shard(config):
    """The rows of a job whose shards know nothing of each other."""
    operators = build_operators(config, job.COLUMNS)
    planned = plan(config, operators)
    with observed(config, "enrich") as told:
        work = enrich._Run(planned, config, operators, told, address=None, rounds=0).work
    rows = []
    for shard in planned.shards:
        state = open_shard(work, shard)
        for stage in work.stages:
            state = run_stage(work, stage, state)
        close_shard(work, state)
        rows += job.part_rows(planned, shard)
    return sorted(rows, key=lambda row: row["image_id"])


def untimed(rows):
    return [{name: row[name] for name in sorted(row) if name != "enriched_at"} for row in rows]


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """1,500 rows of 20 pictures, in no order."""
    folder = tmp_path_factory.mktemp("job")
    numbers = list(range(ROWS))
    random.Random(7).shuffle(numbers)
    job.write_pictures(folder / "photos", range(PICTURES))
    uris = {number: f"{number % PICTURES}.png" for number in numbers}
    job.write_manifest(folder / "photos", numbers, uris=uris)
    return folder


@pytest.mark.usefixtures("_ray")
def test_20_pictures_are_computed_20_times_whatever_the_shards_and_actors(shuffled):
    summary = enrich.run(config_of(shuffled, "shared"))
    alone = shard_by_shard(config_of(shuffled, "alone"))

    assert lines(shuffled, "shared") == each_once()
    assert len(lines(shuffled, "alone")) >= 3 * len(each_once())  # in each of its shards
    assert untimed(job.table_rows(shuffled, "shared")) == untimed(alone)
    assert summary.computed == {"grey": ROWS, "sum": ROWS}
    assert summary.copied == {"grey": ROWS - PICTURES, "sum": ROWS - PICTURES}


@pytest.mark.chaos
@pytest.mark.usefixtures("_ray")
def test_an_actor_that_is_killed_costs_only_what_it_was_at(shuffled):
    summary = enrich.run(config_of(shuffled, "killed", kills_at=11))

    assert (shuffled / "killed.log.killed").exists()
    computed = lines(shuffled, "killed")
    assert len(set(computed)) == PICTURES
    assert len(computed) < PICTURES + 16  # some that were computed and not yet told
    assert summary.computed == {"grey": ROWS}
    rows = job.table_rows(shuffled, "killed")
    assert [row["grey"] for row in rows] == [float(n % PICTURES) for n in range(ROWS)]


@pytest.mark.chaos
@pytest.mark.usefixtures("_ray")
def test_without_its_board_an_actor_computes_for_itself(caplog):
    operator = Shown()
    with board_of([operator], shards=2) as board:
        shared = SharedAnswers(board, "shown")
        apply(operator, pictures(*"ab"), answers=shared)
        ray.kill(board)
        done = apply(operator, pictures(*"abcdefgh"), answers=shared)

    assert done["shown"].to_pylist() == [*"abcdefgh"]
    assert operator.asked == [*"ab", *"abcdefgh"]
    assert "event=answers_not_shared operator=shown" in caplog.text


def test_there_is_no_board_where_nothing_can_be_shared():
    class Upper(Shown):
        reads = ("title",)

    for operators, shards in [([Shown()], 1), ([Upper()], 9)]:
        with board_of(operators, shards=shards) as board:
            assert board is None
