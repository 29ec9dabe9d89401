"""`models.lock`: a model whose bytes are others is refused, by every command."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.scenes import run as draw_scenes
from operators.models import checkpoint, pins
from schemas.errors import ModelError
from tests.tiny import checkpoint as tiny_checkpoint


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A job over two scenes, whose model lies in the folder `model`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(pins.VARIABLE, raising=False)
    draw_scenes(Path("scenes"), count=2, seed=1)
    shutil.copytree(tiny_checkpoint("chinese_clip_mini"), "model")
    document = {
        "manifest": "scenes/manifest.parquet",
        "table": "table",
        "operators": {
            "embedding": {"use": "embedder", "model": "model"},
            "answer": {"use": "chat", "model": "no directory", "url": "http://x/", "prompt": "?"},
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(document))
    return path


def change(folder: str) -> None:
    (Path(folder) / "vocab.txt").write_text("other")


def test_a_locked_model_is_taken_and_a_changed_one_is_refused(tagline, config):
    assert tagline("plan", config).code == 0  # no lock: nothing is held
    answer = tagline("models", "lock", config, "--json")
    assert answer.code == 0, answer.errors
    assert json.loads(answer.output) == {
        "path": str(config.parent / "models.lock"),
        "models": {"model": checkpoint.digest(Path("model"))},
    }
    assert tagline("plan", config).code == 0
    change("model")

    answer = tagline("plan", config)

    assert answer.code == 2
    assert "model 'model': model holds" in answer.errors
    assert "bring the old ones back, or, if the change is meant" in answer.errors
    assert tagline("models", "lock", config).code == 0
    assert tagline("plan", config).code == 0


def test_a_model_that_is_not_in_the_lock_is_refused(tagline, config):
    assert tagline("models", "lock", config).code == 0

    answer = tagline("plan", config, "operators.embedding.model=embedded:embedder")

    assert answer.code == 2
    assert "model 'embedded:embedder' is not in" in answer.errors


def test_a_lock_that_the_environment_names_holds_any_command(tagline, config, monkeypatch):
    assert tagline("models", "lock", config, "--to", "elsewhere.lock").code == 0
    assert tagline("plan", config).code == 0
    monkeypatch.setenv(pins.VARIABLE, "elsewhere.lock")
    command = ["apply", "embedder", "--model", "model", "--text", "a", "--json"]
    assert tagline(*command).code == 0
    change("model")

    answer = tagline(*command)

    assert answer.code == 2
    assert "elsewhere.lock has" in answer.errors
    assert tagline("models", "lock", config, "--to", "elsewhere.lock").code == 0
    assert "a BERT vocabulary" in tagline(*command).errors  # past the lock


def test_a_lock_may_be_named_by_the_config(tagline, config):
    assert tagline("models", "lock", config, "--to", "named.lock").code == 0
    assert tagline("plan", config, "models_lock=named.lock").code == 0
    assert "cannot be read as a lock" in tagline("plan", config, "models_lock=nowhere").errors


@pytest.mark.parametrize("text", ["", "[1]", '{"m": "abc"}', '{"m": 1}', "[" * 100_000])
def test_what_is_no_lock_is_named(tmp_path, text):
    path = tmp_path / "models.lock"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"models\.lock: .*`tagline models lock CONFIG`"):
        pins.read_lock(path)


def test_a_name_that_only_the_users_own_operator_knows_is_not_locked(tagline, config):
    document = json.loads(config.read_text())
    own = {"use": "my.module:Own", "model": "gpt", "judge": {"model": "gpt 2", "teacher": "model"}}
    config.write_text(json.dumps(document | {"operators": {"own": own}}))

    answer = tagline("models", "lock", config, "--json")

    assert answer.code == 0, answer.errors
    assert list(json.loads(answer.output)["models"]) == ["model"]


def test_the_models_of_all_configs_are_found():
    job = {
        "manifest": {"path": "x", "columns": {"model": "m"}},
        "operators": {
            "a": {"use": "captioner", "model": "A", "rerank": {"matcher": {"model": "B"}}},
            "b": {"use": "tagger", "model": "C", "embedder": "D", "taxonomy": "t.yaml"},
            "c": {"use": "tagger", "model": "C", "embedder": {"model": "E", "rounding": "none"}},
            "d": {"use": "chat", "model": "gpt"},
            "e": {"use": "agreement", "entailment": "b"},
        },
    }
    assert pins.models_of(job) == ["A", "B", "C", "D", "E"]
    training = {"use": "captioner", "model": "A", "teacher": "T", "train": {"path": "x"}}
    assert pins.models_of(training) == ["A", "T"]
