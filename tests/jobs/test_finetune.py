import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from jobs import finetune
from jobs.cluster import Capacity
from jobs.training_state import RunFolder
from operators.captioner import Captioner
from operators.models import checkpoint
from schemas.errors import ConfigError, ModelError
from tests import finetuning

TWO_CORES = Capacity(cpus=2, gpus=0, largest_cpus=2, largest_gpus=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finetuning.drawn(tmp_path_factory.mktemp("scenes"), train=14, validation=4)


def command(config, folder):
    path = folder / "finetune.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return [sys.executable, "-m", "jobs.finetune", str(path), "--json"]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_command_that_was_killed_ends_as_one_that_was_not(folder, tmp_path):
    broken = folder / "train" / "pictures" / "scene-11-000003.png"
    broken.write_bytes(b"no picture")
    changes = {
        "workers": 2,
        "steps": 6,
        "validation": str(folder / "validation" / "manifest.parquet"),
        "validate_every": 3,
        "limits": {"error_fraction": 0.2},
    }
    whole = finetuning.config_of(folder, tmp_path / "whole", **changes)
    finetuning.train_in_processes(whole, 2)
    config = finetuning.config_of(folder, tmp_path / "killed", **changes)
    words = command(config, tmp_path)
    started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    curve = RunFolder(tmp_path / "killed").read_curve
    while not curve() and started.poll() is None:
        assert started.stderr
        started.stderr.readline()  # progress comes every few seconds
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["images"] == {"train": 13, "validation": 4, "skipped": 1}
    assert told["steps"] == 6
    found, expected = (finetuning.weights(tmp_path / name) for name in ("killed", "whole"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert Captioner(tmp_path / "killed").key
    record = json.loads((tmp_path / "killed" / "training.json").read_text())
    assert {"data", "config", "git", "curve", "best"} <= record.keys()
    (line,) = (tmp_path / "killed" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["code"] == "not_an_image"
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) | {"seconds": 0} == told | {"seconds": 0}


def test_a_checkpoint_of_another_task_is_refused(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out", model="embedded:embedder")
    with pytest.raises(ModelError, match="'captioner' takes image-captioning"):
        finetune.run(config)
    assert not (tmp_path / "out").exists()


def test_the_model_itself_is_no_output(folder):
    directory = checkpoint.resolve("embedded:captioner")
    config = finetuning.config_of(folder, directory, model=str(directory))
    with pytest.raises(ConfigError, match="is the model that training begins with"):
        finetune.run(config)


def test_an_output_that_holds_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else already"):
        finetune.run(finetuning.config_of(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_is_not_gone_on_with_by_another_config(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out", steps=1)
    finetuning.train(config)
    other = config.model_copy(update={"batch": 3, "save_seconds": 9.0})
    with pytest.raises(ConfigError, match="holds a run that differs in batch; go on"):
        finetune.run(other)


def test_a_run_that_never_took_a_step_may_be_begun_otherwise(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out")
    run = RunFolder(tmp_path / "out")
    run.open(config)
    run.open(config.model_copy(update={"batch": 3}))
    known = json.loads((run.work / "config.json").read_text())
    assert known["batch"] == 3


@pytest.mark.parametrize(
    ("changes", "capacity", "expected"),
    [
        ({}, TWO_CORES, 2),
        ({"workers": 1}, TWO_CORES, 1),
        ({}, replace(TWO_CORES, cpus=64), 3),  # rows of the smallest of four batches
        ({"accumulate": 3}, TWO_CORES, 1),
        ({"batch": 14}, replace(TWO_CORES, cpus=64), 4),
        ({"batch": 14}, replace(TWO_CORES, gpus=6), 6),
    ],
)
def test_there_are_as_many_workers_as_are_of_use(folder, tmp_path, changes, capacity, expected):
    config = finetuning.config_of(folder, tmp_path, **changes)
    assert finetune.workers_of(config, capacity, rows=14) == expected


def test_workers_that_cannot_be_had_are_refused(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path, workers=3)
    with pytest.raises(ConfigError, match="3, but there are 2 cores"):
        finetune.workers_of(config, TWO_CORES, rows=14)


@pytest.mark.parametrize(
    ("use", "columns", "entry"),
    [
        ("captioner", {}, 'caption: {use: captioner, model: "my tuned"}'),
        (
            "entailment",
            {"hypothesis": "text"},
            'entailment: {use: entailment, model: "my tuned", hypothesis: "text"}',
        ),
        ("matcher", {"text": ["en", "zh"]}, 'match: {use: matcher, model: "my tuned", text: "en"}'),
    ],
)
def test_the_summary_says_how_to_use_the_result_on_such_rows(folder, use, columns, entry):
    train = {"path": "rows.csv", "columns": columns}
    config = finetuning.config_of(folder, folder / "out", use=use, train=train)
    summary = finetune.Summary(use, "my tuned", 6, "exact", 0.9, 3, {"train": 9}, 4.0, 1.0)
    said = finetune.told(summary, config)
    assert said.endswith(f"operators:\n  {entry}")
    assert yaml.safe_load(said.partition("`tagline enrich`:\n")[2])["operators"]
