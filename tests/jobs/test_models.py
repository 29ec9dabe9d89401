import json
import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from jobs import models
from operators.models import checkpoint
from schemas.errors import ModelError
from tests import hubs, mplug, tiny


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server(monkeypatch):
    with hubs.serving() as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def served(recipe):
    return {path.name: path.read_bytes() for path in tiny.checkpoint(recipe).iterdir()}


def run(*arguments):
    return CliRunner().invoke(models.app, [str(argument) for argument in arguments])


def test_the_five_published_models_are_listed():
    listed = json.loads(run("list", "--json").stdout)
    assert [model["parameters"] for model in listed][:3] == [33_488_336, 33_488_336, 406_560_769]
    assert {model["operator"] for model in listed} == {
        "captioner",
        "entailment",
        "embedder",
        "matcher",
    }
    assert all(model["size_bytes"] > 0 and model["source"] for model in listed)
    text = run("list").stdout
    assert all(model["id"] in text for model in listed)


def test_what_is_in_the_cache_is_listed_as_such(server):
    name = "damo/multi-modal_clip-vit-large-patch14_336_zh"
    server.models = {name: served("chinese_clip_mini")}
    pulled = models.pull(f"{name}@v1.0.1")
    cached = {model["id"]: model["cached"] for model in models.list_models()}
    assert cached[name] == [pulled["directory"]]
    assert sum(map(len, cached.values())) == 1


@pytest.mark.parametrize(
    ("recipe", "operator", "architecture", "parameters"),
    [
        ("chinese_clip_mini", "embedder", "chinese_clip", 1_605_569),
        ("ofa_caption_tiny", "captioner", "ofa", 33_488_336),
        ("ofa_entailment_mini", "entailment", "ofa", 13_085_448),
    ],
)
def test_a_directory_says_what_it_holds(recipe, operator, architecture, parameters):
    directory = tiny.checkpoint(recipe)
    found = json.loads(run("inspect", directory, "--json").stdout)
    assert (found["operator"], found["architecture"]) == (operator, architecture)
    assert found["parameters"] == parameters
    assert found["digest"] == checkpoint.digest(directory)
    assert found["files"]["pytorch_model.bin"] > 4 * parameters
    assert found["record"] is None
    text = run("inspect", directory).stdout
    assert operator in text
    assert f"{parameters:,}" in text


def test_a_hugging_face_directory_is_inspected_and_verified(tmp_path):
    from operators.models import chinese_clip

    source = tiny.checkpoint("chinese_clip_mini")
    net = chinese_clip.load(source, rounding="fp16", precision="float32", device="cpu")
    net.model.save_pretrained(tmp_path / "hf")
    shutil.copy(source / "vocab.txt", tmp_path / "hf")
    assert models.inspect(tmp_path / "hf")["layout"] == "huggingface"
    assert models.verify(tmp_path / "hf")["is_whole"]


@pytest.mark.parametrize("recipe", ["chinese_clip_mini", "ofa_caption_mini", "ofa_entailment_mini"])
def test_a_whole_directory_is_verified(recipe):
    result = run("verify", tiny.checkpoint(recipe))
    assert result.exit_code == 0
    assert "whole; checked its tensors" in result.stdout


def test_a_directory_with_other_tensors_is_damaged_and_says_how(tmp_path):
    directory = tiny.checkpoint("chinese_clip_mini", folder=tmp_path / "model")
    path = directory / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    del state["visual.proj"]
    state["visual.more"] = torch.zeros(1)
    torch.save(state, path)
    result = run("verify", directory, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["is_whole"]
    assert "missing: visual.proj" in found["faults"][0]
    assert "left over: visual.more" in found["faults"][0]


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_cut_file_is_damaged(tmp_path, share):
    directory = tiny.checkpoint("chinese_clip_mini", folder=tmp_path / "model")
    path = directory / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    result = run("verify", directory)
    assert result.exit_code == 1
    assert "pytorch_model.bin" in result.stdout


def test_one_changed_bit_in_a_fetched_model_is_found(server):
    server.models = {"damo/tiny": served("chinese_clip_mini")}
    result = run("pull", "damo/tiny", "--json")
    pulled = json.loads(result.stdout)
    assert result.exit_code == 0
    assert models.verify("damo/tiny")["checked"] == ["digests", "tensors"]
    path = checkpoint.resolve("damo/tiny") / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run("verify", pulled["directory"])
    assert result.exit_code == 1
    assert "pytorch_model.bin: changed: sha256" in result.stdout


def test_a_pulled_model_works_by_its_id(server):
    from operators.embedder import Embedder

    server.models = {"damo/tiny": served("chinese_clip_mini")}
    by_id = Embedder("damo/tiny")
    direct = Embedder(tiny.checkpoint("chinese_clip_mini"))
    assert by_id.key == direct.key  # where the weights came from is not part of what they compute
    assert (by_id.embed_texts("猫") == direct.embed_texts("猫")).all()


def test_a_model_may_be_pulled_elsewhere(server, tmp_path):
    server.models = {"owner/tiny": served("chinese_clip_mini")}
    result = run("pull", "hf://owner/tiny", "--to", tmp_path / "here")
    assert result.exit_code == 0
    assert f"hf://owner/tiny: 5 files in {tmp_path / 'here'}" in result.stdout
    assert models.verify(tmp_path / "here")["is_whole"]


def test_inspecting_and_verifying_fetch_nothing():
    for command in (models.inspect, models.verify):
        with pytest.raises(ModelError, match="run `tagline models pull damo/absent`"):
            command("damo/absent")
        with pytest.raises(ModelError, match="no such directory"):
            command("absent")


@pytest.mark.parametrize("task", [mplug.CAPTIONING, mplug.MATCHING])
def test_an_mplug_directory_is_inspected_and_verified(tmp_path, task):
    folder = mplug.write(tmp_path / "model", task)
    found = models.inspect(folder)
    assert (found["architecture"], found["task"]) == ("mplug", task)
    assert found["sizes"]["hidden_size"] == mplug.SMALL.hidden_size
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert found["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert models.verify(folder)["is_whole"]
    (folder / "vocab.txt").unlink()
    assert "no vocabulary" in models.verify(folder)["faults"][0]


def test_pulling_prints_nothing_but_json_on_standard_output(server, tagline):
    for model, name in (("damo/tiny", "damo/tiny"), ("hf://owner/tiny", "owner/tiny")):
        server.models = {name: served("chinese_clip_mini")}
        answer = tagline("models", "pull", model, "--json")
        assert answer.code == 0
        assert json.loads(answer.output)["id"] == model


def test_exit_codes_tell_damage_from_wrong_use(tagline, tmp_path, server):
    directory = tiny.checkpoint("chinese_clip_mini", folder=tmp_path / "model")
    assert tagline("models", "verify", directory).code == 0
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert tagline("models", "verify", directory).code == 1
    assert tagline("models", "verify", tmp_path / "absent").code == 2
    answer = tagline("models", "verify", tmp_path, "--json")
    assert (answer.code, answer.output) == (2, "")
    assert "no model: neither configuration.json" in answer.errors
    assert tagline("models", "inspect").code == 2
    answer = tagline("models", "pull", "damo/absent")
    assert answer.code == 2
    assert answer.output == ""
    assert "has no 'damo/absent'" in answer.errors


def test_the_module_is_a_command_too():
    result = subprocess.run(
        [sys.executable, "-m", "jobs.models", "list", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(json.loads(result.stdout)) == 5


@pytest.mark.parametrize("command", ["list", "inspect", "verify", "pull"])
def test_every_verb_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_the_commands_start_without_torch():
    code = "import sys, jobs.models; sys.exit(any(m in sys.modules for m in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
