"""`tagline index` that ends early: the old index answers, and the next run does it all."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from jobs import index
from jobs.image_index import ImageIndex
from schemas.errors import DatasetError
from tests.enriched_tables import EMBEDDER, EnrichedTable
from tests.index_versions import rows_of

CAPTIONS = ["a red apple", "红色的苹果", "two dogs run", "it's a cat", "绿色的汽车", "a blue car"]
STEPS = ["merge", "delete", "tidy", "write_state"]  # of an update, in order


@pytest.fixture
def table(tmp_path):
    return EnrichedTable(tmp_path / "table", CAPTIONS)


@pytest.fixture
def run(table, tmp_path):
    """Indexes the table."""
    return lambda: index.run(str(table.folder), str(tmp_path / "index"))


def interrupted(monkeypatch, step):
    """Has an update end before one of its steps."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(index, step, killed)


@pytest.mark.parametrize("step", STEPS)
def test_an_update_that_ends_early_changes_nothing_and_is_done_again(
    run, table, tmp_path, monkeypatch, step
):
    run()
    before = rows_of(tmp_path / "index")
    table.replace([table.changed(table.rows[1], caption="绿色的苹果")])
    table.remove(["image-0"])
    with monkeypatch.context() as patch:
        interrupted(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert rows_of(tmp_path / "index") == before
    assert len(ImageIndex(str(tmp_path / "index")).with_words("apple", limit=10)) == 1
    table.replace([table.changed(table.rows[1], caption="a new caption")])
    done = run()
    assert (done.new, done.changed, done.removed) == (0, 1, 1)
    after = rows_of(tmp_path / "index")
    assert set(after) == set(before) - {"image-0"}
    assert after["image-1"]["caption"] == "a new caption"


@pytest.mark.parametrize("step", ["index_columns", "write_state"])
def test_a_first_build_that_ends_early_leaves_no_index_and_is_begun_again(
    run, table, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        interrupted(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(DatasetError, match="no index; make one with"):
        ImageIndex(str(tmp_path / "index"))
    assert run().state.rows == 6
    assert len(list((tmp_path / "index").glob("*.lance"))) == 1


@pytest.mark.parametrize("step", ["index_columns", "write_state"])
def test_a_rebuild_that_ends_early_leaves_the_old_index(run, table, tmp_path, monkeypatch, step):
    run()
    before = rows_of(tmp_path / "index")
    other = table.record({**EMBEDDER, "weights": "c" * 64})
    table.replace([table.changed(row, embedding_key=other, caption="new") for row in table.rows])
    with monkeypatch.context() as patch:
        interrupted(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert rows_of(tmp_path / "index") == before
    assert run().state.key == other
    assert len(ImageIndex(str(tmp_path / "index")).with_words("new", limit=10)) == 6


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("step", ["delete", "write_state"])
def test_the_old_index_answers_after_a_kill(run, table, tmp_path, step):
    run()
    before = rows_of(tmp_path / "index")
    table.replace([table.changed(table.rows[1], caption="绿色的苹果")])
    table.remove(["image-0"])
    script = f"""
        import os, signal
        from jobs import index
        index.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        index.run({str(table.folder)!r}, {str(tmp_path / "index")!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert rows_of(tmp_path / "index") == before
    assert run().removed == 1
    assert set(rows_of(tmp_path / "index")) == set(before) - {"image-0"}
