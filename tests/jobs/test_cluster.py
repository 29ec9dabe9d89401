"""Where a job runs, told before anything starts."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from jobs import cluster
from schemas.errors import RunError
from tests.tiny import checkpoint, photographs


def test_a_cluster_is_named_by_the_option_then_by_the_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster.cluster_address() == "10.0.0.1:6379"
    assert cluster.cluster_address("10.0.0.2:6379") == "10.0.0.2:6379"
    assert cluster.cluster_address("local") is None


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_where_nothing_listens_is_told_at_once(address):
    with (
        pytest.raises(RunError, match=rf"no Ray cluster answers at '{address}': .*refused"),
        cluster.connected(address),
    ):
        pytest.fail("there is no cluster")


def test_hidden_gpus_are_not_counted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert cluster.local_capacity().gpus == 0
    assert cluster.local_capacity().cpus >= 1


def test_a_container_that_has_less_memory_than_its_machine_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(cluster, "MEMORY_LIMIT_FILES", (limit,))
    unlimited = cluster.memory_bytes()
    limit.write_text("4000000\n")
    assert cluster.memory_bytes() == 4_000_000
    limit.write_text("max\n")
    assert cluster.memory_bytes() == unlimited


def test_what_ray_writes_while_it_starts_does_not_reach_the_terminal(capfd):
    with cluster._no_stderr():
        os.write(2, b"noise")
        print("still waiting", file=sys.stderr)
    os.write(2, b"signal")

    assert capfd.readouterr().err == "still waiting\nsignal"


@pytest.mark.parametrize("visible", ["0", "0,1", "GPU-1234"])
def test_no_more_gpus_are_counted_than_there_are(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert cluster.local_capacity().gpus <= len(visible.split(","))


@pytest.mark.slow
def test_a_job_begins_before_the_machines_that_its_cluster_may_grow_to(tmp_path):
    environment = {
        **os.environ,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-" + "0" * 32,
        "OMP_NUM_THREADS": "1",
    }
    rows = [{"image_id": path.name, "uri": str(path.resolve())} for path in photographs()]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "manifest": str(tmp_path / "manifest.jsonl"),
        "table": str(tmp_path / "table"),
        "operators": {
            "embedding": {"use": "embedder", "model": str(checkpoint("chinese_clip_tiny"))}
        },
        "resources": {"machines": {"count": 2, "cpus": 2}, "embedding": {"actors": 1}},
        "allow": {"roots": [str(photographs()[0].resolve().parent)]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    growing = subprocess.Popen(
        [sys.executable, "-m", "tests.growing_cluster"], stdin=subprocess.PIPE, **pipes
    )
    try:
        address = growing.stdout.readline().strip()
        command = ["-m", "jobs.enrich", tmp_path / "job.yaml", "--json", "--address", address]
        job = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, **pipes)
        begun = next(line for line in job.stderr if "event=progress" in line)
        growing.stdin.write("a machine\n")
        growing.stdin.flush()
        output, errors = job.communicate(timeout=120)
    finally:
        growing.communicate()

    assert f"event=progress rows=0/{len(rows)}" in begun
    assert job.returncode == 0, errors
    assert json.loads(output)["computed"] == {"embedding": len(rows)}


@pytest.mark.parametrize(("told", "seconds"), [(None, 40), ("30", 40), ("300", 280), ("soon", 40)])
def test_a_server_is_lost_only_shortly_before_ray_gives_it_up(monkeypatch, told, seconds):
    monkeypatch.delenv(cluster.RECONNECT, raising=False)
    if told:
        monkeypatch.setenv(cluster.RECONNECT, told)

    assert cluster.lost_seconds() == seconds


def test_one_knock_in_vain_after_a_long_stop_ends_no_run(monkeypatch):
    now = 0.0
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now)
    silence = cluster._Silence(40)
    now = 3_600.0

    assert [silence.is_for_good() for _ in range(3)] == [False, False, True]
    silence.ends()
    assert [silence.is_for_good() for _ in range(4)] == [False] * 4
