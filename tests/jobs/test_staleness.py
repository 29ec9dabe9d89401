"""The comparison of a manifest with a table, where they are large."""

from jobs import staleness
from jobs.plan import open_manifest, plan
from operators.catalog import build_operators, read_config
from tests.benchmarks import planning


def test_more_rows_are_compared_than_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(staleness, "MEMORY_LIMIT", "80MB")  # joined in memory they take 100
    monkeypatch.setattr(staleness, "MOST_THREADS", 2)
    config = read_config(planning.write(tmp_path, 200_000, 198_000, 50_000))
    operators = build_operators(config, open_manifest(config).schema.names)

    made = plan(config, operators, write=False)

    assert (made.counts.new, made.counts.healthy) == (2_000, 198_000)
