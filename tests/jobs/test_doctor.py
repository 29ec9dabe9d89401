"""`tagline doctor`: what it sees, what it advises, and that it leaves nothing behind."""

import errno
import json
import socket
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from jobs import storage
from jobs.health import job, machine
from jobs.scenes import run as draw_scenes
from tests import s3

CANARY = "canary-4f7b-secret"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes a job's config over two scenes; gives its path."""
    monkeypatch.chdir(tmp_path)
    draw_scenes(Path("scenes"), count=2, seed=1)

    def write(**changes):
        document = {
            "manifest": {
                "path": "scenes/manifest.parquet",
                "columns": {"true_caption": "caption"},
            },
            "table": "table",
            "operators": {"caption": {"use": "captioner", "model": "embedded:captioner"}},
        }
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({**document, **changes}))  # JSON is YAML
        return path

    return write


def states(answer):
    return {one["check"]: one["state"] for one in answer.lines[0]["checks"]}


def found(answer, check):
    (one,) = [one for one in answer.lines[0]["checks"] if one["check"] == check]
    return f"{one['found']} -> {one['advice']}"


def test_a_healthy_job_is_told_so_and_nothing_is_left_behind(tagline, config, tmp_path):
    path = config()
    before = sorted(tmp_path.rglob("*"))

    answer = tagline("doctor", path, "--json")

    assert answer.code == 0, answer.output
    assert answer.lines[0]["failed"] == 0
    assert sorted(tmp_path.rglob("*")) == before
    checks = {"python", "packages", "cores", "memory", "gpus", "disk", "ports", "proxies", "config"}
    checks |= {"credentials", "manifest", "table", "writing", "clock", "model of caption", "ray"}
    assert checks <= set(states(answer))


def test_a_table_on_s3_is_probed_and_left_as_it_was(tagline, config, s3_bucket, s3_endpoint):
    answer = tagline("doctor", config(table=f"{s3_bucket}/table"), "--json")

    assert answer.code == 0, answer.output
    assert states(answer)["writing"] == states(answer)["clock"] == "ok"
    bucket = s3_bucket.removeprefix("s3://")
    assert "Contents" not in s3.client(s3_endpoint).list_objects_v2(Bucket=bucket)
    assert s3.KEY not in answer.output.replace("AWS_ACCESS_KEY_ID", "")


def test_a_store_that_ignores_the_condition_fails(tagline, config, s3_bucket, monkeypatch):
    monkeypatch.setattr(storage, "_put_s3", lambda uri, data: True)

    answer = tagline("doctor", config(table=f"{s3_bucket}/table"), "--json")

    assert answer.code == 1
    assert "ignores If-None-Match" in found(answer, "writing")


def test_a_bucket_that_is_not_there_fails(tagline, config, s3_bucket):
    answer = tagline("doctor", config(table=f"{s3_bucket}-not/table"), "--json")

    assert answer.code == 1
    assert "NoSuchBucket" in found(answer, "table")


def test_a_store_that_is_away_is_told_of_as_such(tagline, config, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    answer = tagline("doctor", config(table=f"{s3_bucket}/table"), "--json")

    assert answer.code == 1
    assert found(answer, "table").endswith(
        "-> start the store, or mend AWS_ENDPOINT_URL or the network on the way to it"
    )


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "this user may write"), (None, "let these")],
)
def test_a_table_that_cannot_be_written_says_what_to_do(
    tagline, config, monkeypatch, number, advice
):
    def fail(*_: object) -> bool:
        raise OSError(number, "no") if number else OSError("no")

    monkeypatch.setattr(storage, "put_if_absent", fail)
    answer = tagline("doctor", config(), "--json")

    assert answer.code == 1
    assert advice in found(answer, "writing")


def test_folders_that_cannot_be_written_are_told_of(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)

    assert machine.cache().state == "warning"
    assert "TAGLINE_CACHE" in machine.cache().advice
    first = next(iter(machine.disk()))
    assert first.state == "warning"
    assert f"TMPDIR {tmp_path / 'gone'} cannot be written; " in first.found


def test_no_place_for_temporary_files_fails(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])

    (only,) = machine.disk()

    assert only.state == "failed"
    assert "No usable temporary directory" in only.found


def test_a_wrong_config_or_manifest_is_wrong_use(tagline, config, tmp_path):
    answer = tagline("doctor", config(operator={}), "--json")
    assert answer.code == 2
    assert "did you mean 'operators'" in found(answer, "config")

    answer = tagline("doctor", config(manifest="nowhere.parquet"), "--json")
    assert answer.code == 2
    assert "nowhere.parquet: no manifest file" in found(answer, "manifest")


def test_models_that_are_not_there_are_told_of(tagline, config):
    operators = {
        "caption": {"use": "captioner", "model": "no/such/folder"},
        "match": {"use": "matcher", "model": "damo/not-pulled", "text": "caption"},
    }

    answer = tagline("doctor", config(operators=operators), "--json")

    assert answer.code == 1
    assert states(answer)["model of caption"] == "failed"
    assert states(answer)["model of match"] == "warning"
    assert "tagline models pull damo/not-pulled" in found(answer, "model of match")


def test_a_model_that_is_not_as_locked_is_told_of(tagline, config, tmp_path):
    assert tagline("models", "lock", config()).code == 0
    answer = tagline("doctor", config(), "--json")
    assert answer.code == 0, answer.output
    lock = tmp_path / "models.lock"
    lock.write_text(json.dumps({"embedded:captioner": "0" * 64}))

    answer = tagline("doctor", config(), "--json")

    assert answer.code == 1
    assert "models.lock has 0000000000000000" in found(answer, "model of caption")


def test_a_chat_model_is_no_directory(tagline, config):
    chat = {"use": "chat", "model": "m", "url": "http://127.0.0.1:9/", "prompt": "?"}
    answer = tagline("doctor", config(operators={"answer": chat}), "--json")
    assert answer.code == 0, answer.output


def test_secrets_are_told_by_name_alone(tagline, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("https_proxy", f"http://user:{CANARY}@127.0.0.1:3128")
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{CANARY}.invalid:10001")

    answer = tagline("doctor", "--json")

    assert CANARY not in answer.output + answer.errors
    assert "AWS_SECRET_ACCESS_KEY" in found(answer, "credentials")
    assert "no_proxy=127.0.0.1" in found(answer, "proxies")


def test_a_cluster_that_does_not_answer_fails_at_once(tagline):
    answer = tagline("doctor", "--address", "127.0.0.1:9", "--json")

    assert answer.code == 1
    assert "nothing answers at 127.0.0.1:9" in found(answer, "ray")


@pytest.mark.parametrize(
    ("stored", "state"), [(99.2, "ok"), (101.0, "ok"), (60.0, "warning"), (1200.0, "failed")]
)
def test_a_clock_that_is_off_is_told(stored, state):
    assert job._clock(stored, begun=100.0, ended=101.0).state == state


def test_packages_that_are_not_as_pinned_are_told_of(monkeypatch):
    wanted = ["numpy==0.0.1", 'lancedb==0.0.1; extra == "search"', "no-such-package-of-ours==1"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted[:2])
    assert machine.packages().state == "warning"
    assert "numpy" in machine.packages().found
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    assert machine.packages().state == "failed"


def test_a_port_in_use_is_told_of():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert machine.port("127.0.0.1", other.getsockname()[1]).state == "warning"
    assert machine.ports().state == "ok"


def test_lines_for_people_say_what_to_do(tagline, config):
    answer = tagline("doctor", config(manifest="nowhere.parquet"))

    (line,) = [line for line in answer.output.splitlines() if "manifest: " in line]
    assert line.startswith("failed  manifest: ")
    assert line.endswith("-> mend the manifest, or its path in the config")


@pytest.mark.slow
def test_ray_is_started_and_ended_when_asked_for(tagline):
    answer = tagline("doctor", "--ray", "--json")

    assert answer.code == 0, answer.output
    assert "CPUs" in found(answer, "ray")
