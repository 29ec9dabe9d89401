import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from operators.models import checkpoint, hub
from operators.models.hub_clients import parse_id
from schemas.errors import ModelError
from tests import hubs

# More than the clients' buffers (10 MB), so that a killed fetch has left bytes on the disk.
WEIGHTS = np.random.default_rng(0).bytes(13_000_000)
FILES = {
    "configuration.json": b'{"task": "image-captioning", "model": {"type": "ofa"}}',
    "vocab.txt": "[PAD]\n图\n".encode(),
    "README.md": b"# a model\n",
    "pytorch_model.bin": WEIGHTS,
    "resources/picture.png": b"not wanted",
    "training_args.bin": b"not wanted either",
}
WANTED = {"configuration.json", "vocab.txt", "README.md", "pytorch_model.bin"}
IDS = ["damo/tiny", "hf://owner/tiny"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hubs.serving() as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "cache"))
        running.models = {"damo/tiny": dict(FILES), "owner/tiny": dict(FILES)}
        yield running


def start_pulling(model):
    command = f"from operators.models import hub; hub.pull({model!r})"
    return subprocess.Popen(
        [sys.executable, "-c", command], stderr=subprocess.DEVNULL, env=os.environ.copy()
    )


@pytest.mark.parametrize("model", IDS)
def test_a_model_is_fetched_with_what_is_needed_and_a_record(server, model):
    folder = hub.pull(model)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {*WANTED, "tagline.json"}
    assert (folder / "pytorch_model.bin").read_bytes() == WEIGHTS
    record = hub.read_record(folder)
    assert record["id"] == model
    assert record["digest"] == checkpoint.digest(folder)
    assert record["files"].keys() == WANTED - {"README.md"}
    assert hub.check_record(folder, record) == []


@pytest.mark.parametrize("model", IDS)
def test_what_is_in_the_cache_is_used_without_asking(server, model):
    folder = hub.pull(model)
    server.requests.clear()
    assert hub.pull(model) == folder
    assert checkpoint.resolve(f"hf://{model[5:]}" if model.startswith("hf") else model) == folder
    assert server.requests == []


@pytest.mark.parametrize("model", IDS)
def test_a_killed_fetch_goes_on_where_it_stopped(server, model):
    server.held.add("pytorch_model.bin")
    child = start_pulling(model)
    assert server.half_sent.wait(60)
    partial = parse_id(model).cached
    while not any(p.stat().st_size >= 2_000_000 for p in partial.rglob("*") if p.is_file()):
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.release.set()
    server.held.clear()
    server.requests.clear()
    assert hub.read_record(partial)["complete"] is False
    folder = hub.pull(model)
    starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in server.ranges(".bin")]
    assert starts[0] >= 1_000_000
    assert (folder / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert hub.check_record(folder, hub.read_record(folder)) == []


@pytest.mark.parametrize("model", IDS)
def test_two_processes_fetch_a_model_once(server, model):
    server.held.add("pytorch_model.bin")
    first = start_pulling(model)
    assert server.half_sent.wait(60)
    second = start_pulling(model)
    server.held.clear()
    server.release.set()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    folder = parse_id(model).cached
    assert hub.check_record(folder, hub.read_record(folder)) == []
    fetched = [p for m, p, r in server.requests if m == "GET" and "vocab.txt" in p]
    assert len(fetched) == 1


@pytest.mark.parametrize("model", IDS)
def test_a_connection_that_breaks_is_taken_up_again(server, model):
    server.cut.add("pytorch_model.bin")
    folder = hub.pull(model)
    assert (folder / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert server.ranges("pytorch_model.bin")


@pytest.mark.parametrize("model", IDS)
def test_other_bytes_than_announced_are_refused_and_not_kept(server, model, monkeypatch):
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.0)
    server.corrupt.add("pytorch_model.bin")
    with pytest.raises(ModelError, match="run the same command again"):
        hub.pull(model)
    folder = parse_id(model).cached
    assert not (folder / "pytorch_model.bin").exists()
    assert hub.read_record(folder)["complete"] is False
    server.corrupt.clear()
    assert hub.check_record(hub.pull(model), hub.read_record(folder)) == []


@pytest.mark.parametrize("model", IDS)
def test_a_small_file_that_was_changed_on_the_way_is_refused(server, model, monkeypatch):
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.0)
    server.corrupt.add("vocab.txt")
    with pytest.raises(ModelError, match=r"vocab\.txt"):
        hub.pull(model)


@pytest.mark.parametrize(
    "model", ["damo/absent", "hf://owner/absent", "damo/tiny@v9", "hf://owner/tiny@v9"]
)
def test_an_unknown_model_or_revision_is_told(server, model):
    with pytest.raises(ModelError, match=r"has no .*`tagline models list` names"):
        hub.pull(model)
    assert not parse_id(model).cached.exists()


def test_a_revision_is_fetched_beside_the_default(server):
    assert hub.pull("damo/tiny@v1.0.1") != hub.pull("damo/tiny")
    pulled = hub.pull(f"hf://owner/tiny@{hubs.COMMIT}")
    assert hub.read_record(pulled)["commit"] == hubs.COMMIT


@pytest.mark.parametrize("model", IDS)
def test_refreshing_fetches_what_changed_and_nothing_else(server, model):
    folder = hub.pull(model)
    before = hub.read_record(folder)["digest"]
    server.requests.clear()
    hub.pull(model, refresh=True)
    assert not [path for _, path, _ in server.requests if "pytorch_model" in path]
    server.models[model.removeprefix("hf://")]["vocab.txt"] = b"[PAD]\nother\n"
    hub.pull(model, refresh=True)
    assert (folder / "vocab.txt").read_bytes() == b"[PAD]\nother\n"
    assert hub.read_record(folder)["digest"] != before
    assert not [p for m, p, _ in server.requests if m == "GET" and "pytorch_model" in p]


def test_safetensors_are_preferred_to_a_pickle(server):
    server.models["owner/tiny"]["model.safetensors"] = b"tensors"
    folder = hub.pull("hf://owner/tiny")
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "pytorch_model.bin").exists()


def test_a_repository_without_weights_is_not_fetched(server):
    server.models["damo/tiny"] = {"configuration.json": b"{}", "model.onnx": b"x"}
    with pytest.raises(ModelError, match=r"holds no model\.safetensors .* it has .*model\.onnx"):
        hub.pull("damo/tiny")


def test_without_a_network_the_way_out_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"`tagline models pull hf://owner/tiny --to DIR`"):
        checkpoint.resolve("hf://owner/tiny")


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .* TAGLINE_CACHE"):
        hub.pull("damo/tiny")


def test_another_directory_may_be_given_but_not_one_in_use(server, tmp_path):
    folder = hub.pull("damo/tiny", to=tmp_path / "model")
    assert folder == tmp_path / "model"
    with pytest.raises(ModelError, match="holds damo/tiny; give another"):
        hub.pull("hf://owner/tiny", to=folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ModelError, match="not fetched by tagline"):
        hub.pull("damo/tiny", to=tmp_path / "mine")


def test_a_damaged_directory_is_mended_by_pulling_again(server):
    folder = hub.pull("damo/tiny")
    (folder / "pytorch_model.bin").write_bytes(WEIGHTS[:-1])
    (folder / "vocab.txt").unlink()
    (folder / "more.json").write_text("{}")
    faults = hub.check_record(folder, hub.read_record(folder))
    assert len(faults) == 3
    assert any("12999999 bytes instead of 13000000" in fault for fault in faults)
    assert "vocab.txt: missing" in faults
    assert "more.json: not in the record" in faults
    hub.pull("damo/tiny", refresh=True)
    assert (folder / "pytorch_model.bin").read_bytes() == WEIGHTS


def test_a_damaged_record_is_named(server):
    folder = hub.pull("damo/tiny")
    (folder / "tagline.json").write_text(json.dumps({"id": "damo/tiny"}))
    with pytest.raises(ModelError, match=r"tagline\.json: damaged"):
        hub.pull("damo/tiny")


@pytest.mark.parametrize("text", ["tiny", "a/b/c", "hf://a", "a/b@", "../b", "a/b@../..", "a b/c"])
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ModelError, match="not an id"):
        parse_id(text)


@pytest.mark.parametrize("text", ["damo/x", "iic/x.y@v1.0.1", "hf://a-b/c_d@refs/pr/1"])
def test_an_id_is_printed_as_it_was_given(text):
    assert str(parse_id(text)) == text
