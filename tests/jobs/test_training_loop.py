import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from operators.captioner import Captioner
from operators.finetuning.trainee import Figures
from operators.models.directory import expect
from schemas.errors import ConfigError, RunError
from tests import finetuning, mplug

KILLED_AFTER = 3  # steps
KILLED = """
import os, signal, sys
import jobs.training_loop as loop
from schemas.finetune import FinetuneConfig
from tests import finetuning

def save(run, kept=loop._Run._save):
    kept(run)
    if run.progress.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

loop._Run._save = save
finetuning.train(FinetuneConfig.model_validate_json(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finetuning.drawn(tmp_path_factory.mktemp("scenes"), train=14, validation=4)


def losses(curve):
    return [line["loss"] for line in curve if "loss" in line]


def same_weights(first: Path, second: Path):
    found, expected = finetuning.weights(first), finetuning.weights(second)
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def without_times(curve):
    timed = ("images_per_second",)
    return [{name: line[name] for name in line if name not in timed} for line in curve]


def test_a_run_that_was_killed_ends_with_the_very_same_weights(folder, tmp_path):
    validation = str(folder / "validation" / "manifest.parquet")
    changes = {"validation": validation, "validate_every": 2, "steps": 5}
    whole = finetuning.train(finetuning.config_of(folder, tmp_path / "whole", **changes))
    config = finetuning.config_of(folder, tmp_path / "killed", **changes)
    code = KILLED.format(step=KILLED_AFTER)
    killed = subprocess.run([sys.executable, "-c", code, config.model_dump_json()], check=False)
    assert killed.returncode == -9
    resumed = finetuning.train(config)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "captioner", "model": "embedded:captioner"},
        {
            "use": "embedder",
            "model": "embedded:embedder",
            "train": "{}/train/manifest.parquet",
        },
    ],
    ids=lambda changes: changes["use"],
)
def test_two_workers_and_parts_learn_what_one_does(folder, tmp_path, changes):
    if changes["use"] == "embedder":
        path = str(folder / "train" / "manifest.parquet")
        changes = changes | {"train": {"path": path, "columns": {"text": "caption_zh"}}}
    changes = changes | {"steps": 2, "batch": 7, "learning_rate": 1e-4}
    one = finetuning.train(finetuning.config_of(folder, tmp_path / "one", **changes))
    config = finetuning.config_of(folder, tmp_path / "two", accumulate=2, workers=2, **changes)
    two = finetuning.train_in_processes(config, 2)
    for alone, together in zip(one, two, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert together["gradient"] == pytest.approx(alone["gradient"], rel=1e-5, abs=1e-5)


def test_the_best_weights_are_kept_not_the_last(folder, tmp_path, monkeypatch):
    judged = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr("jobs.training_loop.answer", lambda *arguments: [])

    def judge(*arguments) -> Figures:
        return {"cider": next(judged)}

    monkeypatch.setattr("jobs.training_loop.judge", judge)
    validation = str(folder / "validation" / "manifest.parquet")
    changes = {"validation": validation, "validate_every": 1}
    three = tmp_path / "three"
    finetuning.train(finetuning.config_of(folder, three, steps=3, schedule="constant", **changes))
    monkeypatch.undo()
    two = tmp_path / "two"
    finetuning.train(finetuning.config_of(folder, two, steps=2, schedule="constant"))
    assert same_weights(three, two)


def test_nonsense_is_refused_and_nothing_is_written(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out", learning_rate=1e30, steps=4, clip=0)
    with pytest.raises(RunError, match=r"step \d: the (loss|gradient) is .*learning_rate"):
        finetuning.train(config)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def rows_of(folder, name, **columns):
    """A split of drawn scenes with other targets."""
    manifest = pq.read_table(folder / name / "manifest.parquet")
    rows = [
        {"uri": row["uri"], **{column: make(row) for column, make in columns.items()}}
        for row in manifest.to_pylist()
    ]
    path = folder / name / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize(
    ("use", "task", "columns", "metric"),
    [
        (
            "entailment",
            None,
            {"hypothesis": lambda row: row["caption"], "label": lambda row: "entailment"},
            "accuracy",
        ),
        ("embedder", None, {"text": lambda row: row["caption_zh"]}, "recall"),
        ("matcher", mplug.MATCHING, {"text": lambda row: row["caption"]}, "recall"),
        ("captioner", mplug.CAPTIONING, {"caption": lambda row: row["caption"]}, "cider"),
    ],
    ids=["entailment", "embedder", "mplug matcher", "mplug captioner"],
)
def test_every_model_learns_and_is_judged(folder, tmp_path, use, task, columns, metric):
    model = mplug.write(tmp_path / "model", task) if task else f"embedded:{use}"
    changes = {
        "use": use,
        "model": str(model),
        "train": rows_of(folder, "train", **columns),
        "validation": rows_of(folder, "validation", **columns),
        "augment": "published" if use == "embedder" else "none",
        "batch": 7,
        "accumulate": 2,
        "recompute": True,
    }
    curve = finetuning.train(finetuning.config_of(folder, tmp_path / "out", **changes))
    assert all(loss > 0 for loss in losses(curve))
    assert 0.0 <= curve[-1]["validation"][metric] <= 10.0
    assert expect(tmp_path / "out", use)
    assert finetuning.weights(tmp_path / "out")


def test_a_teacher_is_learned_from(folder, tmp_path):
    plain = finetuning.train(finetuning.config_of(folder, tmp_path / "plain", steps=1))
    taught = finetuning.train(
        finetuning.config_of(
            folder, tmp_path / "taught", steps=1, teacher="embedded:captioner", teaching=0.25
        )
    )
    assert taught[0]["unsmoothed"] == plain[0]["unsmoothed"]
    assert taught[0]["loss"] < plain[0]["loss"]  # the pupil is its own teacher here


def test_more_parts_than_rows_are_refused(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out", batch=4, accumulate=5)
    with pytest.raises(
        ConfigError, match="smallest batch has 3 rows, too few for 1 workers with 5"
    ):
        finetuning.train(config)


def test_frozen_parts_stay_and_learn_when_thawed(folder, tmp_path):
    before = finetuning.weights(Path(Captioner("embedded:captioner").directory))
    name = "encoder.embed_images.conv1.weight"
    for label, freeze_epochs, stays in (("ever", None, True), ("epoch", 0.5, False)):
        config = finetuning.config_of(
            folder, tmp_path / label, freeze=("vision",), freeze_epochs=freeze_epochs, steps=3
        )
        finetuning.train(config)
        after = finetuning.weights(tmp_path / label)
        assert torch.equal(after[name], before[name].float()) == stays
        assert not torch.equal(
            after["encoder.image_proj.weight"], before["encoder.image_proj.weight"].float()
        )


def test_what_is_not_there_cannot_be_frozen(folder, tmp_path):
    config = finetuning.config_of(folder, tmp_path / "out", freeze=("visoin",))
    with pytest.raises(ConfigError, match="did you mean 'vision'"):
        finetuning.train(config)


def test_a_batch_that_does_not_fit_is_told_what_would(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.training_memory.free_bytes", lambda device: 60_000_000)
    config = finetuning.config_of(folder, tmp_path / "out", batch=14)
    with pytest.raises(
        ConfigError, match=r"a micro-batch of (\d+) rows would fit.*accumulate: "
    ) as told:
        finetuning.train(config)
    parts = int(str(told.value).partition("accumulate: ")[2].split()[0])
    fits = finetuning.config_of(folder, tmp_path / "parts", batch=14, accumulate=parts, steps=1)
    assert losses(finetuning.train(fits))


def test_a_run_in_bfloat16_learns_nearly_the_same(folder, tmp_path):
    changes = {"steps": 1, "batch": 2}
    exact = finetuning.train(finetuning.config_of(folder, tmp_path / "exact", **changes))
    rough = finetuning.train(
        finetuning.config_of(folder, tmp_path / "rough", precision="bfloat16", **changes)
    )
    assert losses(rough) == pytest.approx(losses(exact), rel=0.05)


def test_a_gradient_that_overflows_in_float16_is_left_out_and_has_no_number(
    folder, tmp_path, monkeypatch
):
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**60)
    monkeypatch.setattr("torch.amp.GradScaler", scaler)
    changes = {"precision": "float16", "steps": 1, "batch": 2}
    finetuning.train(finetuning.config_of(folder, tmp_path / "out", **changes))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    (line,) = (tmp_path / "out" / "curve.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["gradient"] is None
    trained = finetuning.weights(tmp_path / "out")
    begun = finetuning.weights(Path(Captioner("embedded:captioner").directory))
    assert all(torch.equal(trained[name], tensor.float()) for name, tensor in begun.items())


def test_the_curve_is_drawn_for_tensorboard(folder, tmp_path):
    finetuning.train(finetuning.config_of(folder, tmp_path / "out", steps=1))
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    lines = (tmp_path / "out" / "curve.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 1
