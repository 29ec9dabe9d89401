"""A table and an index that an older tagline wrote go on with this one.

`tests/data/upgrade/VERSION-COMMIT.tar.xz` was made by that commit: six drawn scenes and a torn
picture (`photos`), enriched by the embedded captioner and embedder (`table`), indexed (`index`).
"""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cluster import connected
from jobs.plan import open_manifest
from jobs.table import open_table
from operators.catalog import build_operators, read_config
from operators.embedded.scenes import describe, draw, draw_scenes

RELEASES = sorted((Path(__file__).parents[1] / "data" / "upgrade").glob("*.tar.xz"))
JOB = """
manifest: photos/manifest.parquet
table: table
operators:
  caption: {use: captioner, model: "embedded:captioner"}
  embedding: {use: embedder, model: "embedded:embedder"}
limits: {error_fraction: 0.5}
"""


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys_that_changed(folder):
    """The operators whose outputs are others now than when the table was written."""
    config = read_config(folder / "job.yaml")
    operators = build_operators(config, open_manifest(config).schema.names)
    recorded = {path.stem for path in (folder / "table/_tagline/operators").iterdir()}
    return [operator.name for operator in operators if operator.key not in recorded]


def add_scene(folder):
    """Draws one more picture and names it in a manifest that has all of them."""
    (scene,) = draw_scenes(1, 4243)
    buffer = io.BytesIO()
    draw(scene).save(buffer, format="PNG")
    (folder / "photos/pictures/later.png").write_bytes(buffer.getvalue())
    path = folder / "photos/manifest.parquet"
    row = {"image_id": "later", "uri": "pictures/later.png", "true_caption": describe(scene)}
    known = pq.read_table(path)
    pq.write_table(pa.concat_tables([known, pa.Table.from_pylist([row], known.schema)]), path)
    return describe(scene)


@pytest.mark.slow
@pytest.mark.parametrize("folder", RELEASES, indirect=True, ids=lambda path: path.name)
def test_a_table_and_an_index_of_an_older_release_go_on(folder, tagline):
    changed = keys_that_changed(folder)
    due = {name: 6 if name in changed else 0 for name in ("caption", "embedding")}
    before = {row["image_id"]: row for row in open_table("table").read().to_pylist()}

    (plan,) = tagline("plan", "job.yaml", "--json").lines
    told = {name: counts["changed"] for name, counts in plan["operators"].items()}
    assert told == {**due, **{name: told[name] for name in changed}}
    assert all(counts["new"] == 0 for counts in plan["operators"].values())
    if not changed:
        query = before["scene-2"]["caption"]
        (found,) = tagline("search", "index", query, "--limit", 1, "--json").lines
        assert found["image_id"] == "scene-2"

    caption = add_scene(folder)
    with connected():
        (grown,) = tagline("enrich", "job.yaml", "--json").lines
        assert (grown["rows"]["new"], grown["rows"]["errors"]) == (1, 1)
        if not changed:
            assert grown["computed"] == {"caption": 1, "embedding": 1}
        torn = folder / "photos/pictures/torn.png"
        torn.write_bytes((folder / "photos/pictures/scene-0.png").read_bytes())
        (mended,) = tagline("retry", "job.yaml", "--json").lines
        assert mended["computed"] == {"caption": 1, "embedding": 1}
    rows = {row["image_id"]: row for row in open_table("table").read().to_pylist()}
    assert sorted(rows) == sorted([*before, "later"])
    assert rows["later"]["caption"] == caption
    assert rows["torn"]["caption"] == before["scene-0"]["caption"]

    assert tagline("index", "table", "--to", "index", "--json").lines[0]["rows"] == 8
    (found,) = tagline("search", "index", caption, "--limit", 1, "--json").lines
    assert found["image_id"] == "later"
