import json
from functools import cache

import numpy as np
import pytest
import torch

from operators.embedder import Embedder
from operators.finetuning.embedder import EmbedderTrainee
from operators.finetuning.schedules import rate, warm_up_steps
from operators.finetuning.trainee import Step
from operators.images import decode
from operators.models import checkpoint, chinese_clip
from tests import tiny

GOLDENS = tiny.DATA / "golden"
EXACT = 5e-5  # float32 in another order of summation, eight steps long
PARTS = {"whole": (6,), "in parts": (4, 2)}


@cache
def golden(name):
    return json.loads((GOLDENS / f"{name}.json").read_text())


@cache
def photographs(name):
    by_name = {path.name: path for path in tiny.photographs()}
    return [decode(by_name[file].read_bytes()) for file in golden(name)["files"]]


def batch_of(trainee, name, numbers):
    images = [photographs(name)[number] for number in numbers]
    rows = [{"text": golden(name)["captions"][number]} for number in numbers]
    return trainee.collate(images, rows, numbers)


def prepared(name):
    """The trainee and optimizer that the published run began with."""
    known = golden(name)
    trainee = EmbedderTrainee(tiny.checkpoint(known["recipe"]), is_augmented=False)
    trainee.net.eval()  # without dropout
    groups = {True: [], False: []}
    for its_name, parameter in trainee.net.named_parameters():
        published = trainee.rules.published_name(its_name)
        if known["freeze_vision"] and published.startswith("visual."):
            parameter.requires_grad_(requires_grad=False)
        else:
            groups[trainee.rules.is_decayed(published, parameter)].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": known["weight_decay"]},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        betas=known["betas"],
        eps=known["eps"],
    )
    return trainee, optimizer


@pytest.mark.parametrize("name", ["chinese_clip_training", "chinese_clip_training_freeze"])
@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_training_equals_modelscope_step_by_step(name, sizes):
    known = golden(name)
    trainee, optimizer = prepared(name)
    warmup = warm_up_steps(known["steps"], known["warmup_proportion"])
    recall = 0.0
    for number, expected in enumerate(known["log"]):
        share = rate("cosine", number, steps=known["steps"], warmup=warmup)
        for group in optimizer.param_groups:
            group["lr"] = known["lr"] * share
        assert group["lr"] == pytest.approx(expected["lr"])
        batch = batch_of(trainee, name, expected["batch"])
        pieces = {column: torch.split(values, sizes) for column, values in batch.items()}
        optimizer.zero_grad()
        figures = trainee.learn(
            [{c: pieces[c][n] for c in batch} for n in range(len(sizes))], Step()
        )
        optimizer.step()
        trainee.settle()
        assert figures["loss"] == pytest.approx(expected["loss"], abs=EXACT)
        assert trainee.model.logit_scale.item() == pytest.approx(expected["logit_scale"], abs=EXACT)
        recall += figures["batch_recall"] / known["steps"]
    assert recall == pytest.approx(known["inbatch_t2i_recall_at_1"]["inbatch_t2i_recall_at_1"])
    with torch.no_grad(), np.load(GOLDENS / f"{name}.npz") as vectors:
        images, texts = trainee.features(batch_of(trainee, name, range(12)))
        np.testing.assert_allclose(images.numpy(), vectors["img_embedding"], atol=EXACT)
        np.testing.assert_allclose(texts.numpy(), vectors["text_embedding"], atol=EXACT)


def test_weight_decay_goes_by_modelscopes_names():
    known = golden("chinese_clip_training")
    trainee = EmbedderTrainee(tiny.checkpoint(known["recipe"]))
    published = {trainee.rules.published_name(name) for name, _ in trainee.net.named_parameters()}
    decayed = {name for name in published if trainee.rules.is_decayed(name, torch.nn.Parameter())}
    assert "bert.encoder.layer.0.output.LayerNorm.weight" in decayed
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in decayed
    assert not {"visual.ln_pre.weight", "visual.transformer.resblocks.0.ln_1.weight"} & decayed
    pooler = 1  # matrix and bias of BERT's pooler, which is never used and so not kept
    assert len(decayed) == known["decayed_parameters"] - pooler
    assert len(published - decayed) == known["not_decayed_parameters"] - pooler


def test_the_logit_scale_stays_within_bounds():
    trainee = EmbedderTrainee(tiny.checkpoint("chinese_clip_mini"))
    for given, kept in ((9.0, 4.6052), (-1.0, 0.0)):
        torch.nn.init.constant_(trainee.model.logit_scale, given)
        trainee.settle()
        assert trainee.model.logit_scale.item() == pytest.approx(kept, abs=1e-4)


def test_dropout_is_what_the_directory_says_and_is_repeated_in_parts():
    name = "chinese_clip_training"
    trainee = EmbedderTrainee(tiny.checkpoint("chinese_clip_mini"), is_augmented=False)
    assert trainee.model.config.text_config.hidden_dropout_prob == 0.1
    batch = batch_of(trainee, name, range(6))
    halves = [{c: values[some] for c, values in batch.items()} for some in (slice(3), slice(3, 6))]
    losses = [trainee.learn(halves, Step(seed=seed))["loss"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_what_is_written_is_what_the_operator_reads(tmp_path):
    source = tiny.checkpoint("chinese_clip_mini")
    trainee = EmbedderTrainee(source)
    with torch.no_grad():
        trainee.model.text_projection.weight.mul_(2.0).add_(0.01)
    trainee.write(tmp_path / "tuned")
    trainee.write(tmp_path / "tuned")  # again, over what is there
    state = checkpoint.load_state_dict(tmp_path / "tuned")
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in state
    trainee.net.eval()
    with torch.no_grad():
        _, texts = trainee.features(batch_of(trainee, "chinese_clip_training", [0]))
    found = Embedder(tmp_path / "tuned", rounding="none").embed_texts(
        golden("chinese_clip_training")["captions"][:1]
    )
    np.testing.assert_allclose(found, texts.numpy(), atol=1e-6)


def test_recomputing_activations_changes_no_gradient():
    found = []
    for has_checkpoints in (False, True):
        trainee = EmbedderTrainee(
            tiny.checkpoint("chinese_clip_mini"),
            is_augmented=False,
            has_checkpoints=has_checkpoints,
        )
        batch = batch_of(trainee, "chinese_clip_training", range(4))
        trainee.learn([batch], Step(seed=3))
        found.append(trainee.model.visual_projection.weight.grad)
    torch.testing.assert_close(*found)


def test_a_hugging_face_directory_stays_one(tmp_path):
    published = chinese_clip.load(tiny.checkpoint("chinese_clip_mini"), rounding="fp16").model
    published.save_pretrained(tmp_path / "source")
    vocabulary = tiny.checkpoint("chinese_clip_mini") / "vocab.txt"
    (tmp_path / "source" / "vocab.txt").write_bytes(vocabulary.read_bytes())
    trainee = EmbedderTrainee(tmp_path / "source")
    assert not trainee.is_modelscope
    assert (
        trainee.rules.published_name("vision_model.pre_layrnorm.weight") == "visual.ln_pre.weight"
    )
    trainee.write(tmp_path / "tuned")
    before, after = (
        Embedder(tmp_path / name).embed_texts(["一杯咖啡"]) for name in ("source", "tuned")
    )
    np.testing.assert_array_equal(before, after)
