"""`ray job submit` against a real cluster of one machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.table import open_table
from tests.chaos import submitted
from tests.tiny import photographs

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
OPERATOR = """
import pyarrow as pa

from operators.base import fingerprint


class Length:
    def __init__(self, *, name):
        self.name, self.batch_rows, self.reads = name, 64, ("image_encoded",)
        self.writes = pa.schema([(name, pa.int64())])
        self.description = {"operator": "length", "code": 1}
        self.key = fingerprint(self.description)

    def load(self):
        pass

    def __call__(self, table):
        return pa.table([[len(one) for one in table["image_encoded"].to_pylist()]], self.writes)
"""  # that needs no torch, whose import would be most of the test's time


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that reaches a head on the loopback."""
    with submitted.head(tmp_path) as environment:
        yield environment


def test_a_submitted_job_with_an_operator_of_its_own_enriches_on_the_cluster(tmp_path, cluster):
    folder = tmp_path / "job"
    (folder / "photos").mkdir(parents=True)
    names, sizes = zip(*sorted((p.name, p.stat().st_size) for p in photographs()), strict=True)
    for path in photographs():
        shutil.copy(path, folder / "photos")
    manifest = pa.table({"image_id": names, "uri": names})
    pq.write_table(manifest, folder / "photos" / "manifest.parquet")
    document = {
        "manifest": str(folder / "photos" / "manifest.parquet"),
        "table": str(tmp_path / "table"),
        "operators": {"length": {"use": "user_operators:Length"}},
    }
    (folder / "user_operators.py").write_text(OPERATOR)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    submit = ["ray", "job", "submit", "--working-dir", str(folder), "--"]
    command = [*submit, "python", "-m", "jobs.enrich", "job.yaml", "--json"]

    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        env=cluster,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line[:8] == '{"rows":')
    assert summary["computed"] == {"length": len(names)}
    table = open_table(document["table"]).read(["image_id", "length"]).sort_by("image_id")
    assert table.to_pydict() == {"image_id": list(names), "length": list(sizes)}
