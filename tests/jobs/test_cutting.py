import pytest

from jobs import cutting, records
from jobs.shards import read_plan, read_shard
from tests import plain_run as job

OPERATORS = {"digest": {"use": "digest"}, "upper": {"use": "upper", "text": "title"}}


@pytest.fixture
def config(tmp_path):
    rows = job.write_images(tmp_path / "manifest" / "images", 40)
    manifest = job.write_manifest(tmp_path / "manifest", rows)
    return job.config_of(manifest, tmp_path / "table", OPERATORS)


def due_rows(made):
    return [shard.due for shard in made.shards]


def test_few_rows_are_shared_among_the_actors(config):
    assert due_rows(job.make_plan(config, actors=2)) == [5] * 8


@pytest.mark.parametrize(
    ("due", "actors", "rows"),
    [(64, 1, 16), (256, 1, 32), (2048, 1, 128), (2048, 16, 32), (10**6, 1, 512)],
)
def test_stages_get_many_shards_that_are_worth_their_while(due, actors, rows):
    assert cutting.limits_for(due, actors).due == rows


def test_no_actor_count_makes_an_empty_shard(config):
    assert due_rows(job.make_plan(config, actors=100)) == [1] * 40


def test_a_shard_has_at_most_so_many_rows(config, monkeypatch):
    monkeypatch.setattr(cutting, "SHARD_ROWS", 7)

    assert due_rows(job.make_plan(config)) == [7] * 5 + [5]


def test_a_shard_has_at_most_so_many_expected_bytes_of_images(config, monkeypatch):
    monkeypatch.setattr(cutting, "SHARD_IMAGE_BYTES", 20)  # a file has 7 or 8 bytes

    made = job.make_plan(config)

    assert all(0 < shard.image_bytes <= 20 for shard in made.shards)
    assert due_rows(made) == [2] * 20


def test_an_image_beyond_the_bytes_of_a_shard_has_one_alone(config, monkeypatch):
    monkeypatch.setattr(cutting, "SHARD_IMAGE_BYTES", 3)

    assert due_rows(job.make_plan(config)) == [1] * 40


def test_a_shard_has_at_most_so_much_expected_work(config, monkeypatch):
    monkeypatch.setattr(cutting, "SHARD_SECONDS", 1.0)
    for operator, rate in zip(job.operators_of(config), (20.0, 5.0), strict=True):
        records.record_rate(config.table, operator.key, rate)

    assert due_rows(job.make_plan(config)) == [4] * 10  # 1/20 + 1/5 seconds a row


def test_a_measured_operator_tells_how_long_a_run_takes(config):
    for operator in job.operators_of(config):
        records.record_rate(config.table, operator.key, 2.0)

    assert job.make_plan(config, write=False).seconds == pytest.approx(40 / 2 + 12)


def test_a_large_file_gets_shards_of_its_own_and_small_ones_share(config, monkeypatch):
    job.enrich(config, actors=5)  # 20 files of 2 rows
    changed = job.config_of(
        config.manifest.path, config.table, {**OPERATORS, "digest": {"use": "digest", "version": 2}}
    )
    monkeypatch.setattr(cutting, "SHARD_ROWS", 5)

    made = job.make_plan(changed)

    assert due_rows(made) == [4] * 10
    assert all(len(shard.sources) == 2 for shard in made.shards)
    monkeypatch.setattr(cutting, "SHARD_ROWS", 1)
    other = {**OPERATORS, "digest": {"use": "digest", "version": 3}}
    made = job.make_plan(job.config_of(config.manifest.path, config.table, other))
    assert due_rows(made) == [1] * 40


def test_the_rows_of_all_shards_are_the_manifest_in_order(config, monkeypatch):
    monkeypatch.setattr(cutting, "FILE_SHARDS", 3)

    made = job.make_plan(config, actors=2)

    blocks = [read_shard(made.directory, shard) for shard in made.shards]
    ids = [row for block in blocks for row in block["image_id"].to_pylist()]
    assert ids == [f"id-{n:05d}" for n in range(40)]
    assert len({shard.file for shard in made.shards}) == 3
    assert all(block.schema.names == [*made.schema.names, "is_due", "attempts"] for block in blocks)


def test_a_plan_is_read_as_it_was_written(config):
    made = job.make_plan(config)

    assert read_plan(made.table, made.id) == made
    assert read_plan(made.table, "0" * 16) is None


def test_what_a_key_is_made_of_is_written_before_any_part(config, tmp_path):
    made = job.make_plan(config)

    there = {path.stem for path in (tmp_path / "table/_tagline/operators").iterdir()}
    assert there == set(made.operators.values())
