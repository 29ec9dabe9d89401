import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.captioner import Captioner
from operators.finetuning.captioner import CaptionerTrainee
from operators.finetuning.losses import IGNORED, smoothed_cross_entropy
from operators.finetuning.trainee import Step, set_training
from operators.images import decode
from operators.models import checkpoint
from operators.models.ofa.tokenizer import BOS, EOS
from schemas.errors import ModelError
from tests import tiny

SMALL = checkpoint.resolve("embedded:captioner")
CAPTIONS = ["two dogs, on the grass!", "a red car and three blue balloons at night"]


@pytest.fixture(scope="module")
def photographs():
    return [decode(path.read_bytes()) for path in tiny.photographs()[:2]]


def batch_of(trainee, photographs):
    rows = [{"caption": caption} for caption in CAPTIONS]
    return trainee.collate(photographs, rows, range(2))


def test_a_target_has_no_punctuation_and_ends(photographs):
    trainee = CaptionerTrainee(SMALL)
    batch = batch_of(trainee, photographs)
    wanted = [token for token in batch["wanted"][0].tolist() if token != IGNORED]
    assert trainee.reader.tokenizer.decode(wanted[:-1]) == " two dogs on the grass"
    assert wanted[-1] == EOS
    assert batch["given"][0, : len(wanted)].tolist() == [BOS, *wanted[:-1]]


def test_a_target_is_cut_to_twenty_words():
    trainee = CaptionerTrainee(SMALL)
    assert trainee.target("dog " * 40) == trainee.target("dog " * 20)


def test_the_loss_is_the_mean_over_all_tokens_in_parts_or_not(photographs):
    trainee = CaptionerTrainee(SMALL)
    set_training(trainee.net, is_on=False)
    batch = batch_of(trainee, photographs)
    whole = trainee.learn([batch], Step())
    gradient = trainee.model.encoder.image_proj.weight.grad.clone()
    trainee.net.zero_grad()
    halves = [{name: values[n : n + 1] for name, values in batch.items()} for n in range(2)]
    parts = trainee.learn(halves, Step())
    assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    torch.testing.assert_close(
        trainee.model.encoder.image_proj.weight.grad, gradient, atol=1e-6, rtol=1e-4
    )
    with torch.no_grad():
        logits = trainee.model(batch["pixels"], batch["source"], batch["given"])
    asked = batch["wanted"] != IGNORED
    expected = smoothed_cross_entropy(logits[asked], batch["wanted"][asked], 0.1).mean()
    assert whole["loss"] == pytest.approx(float(expected), abs=1e-4)


def test_a_model_is_the_teacher_it_need_not_learn_from(photographs):
    directory = SMALL
    trainee = CaptionerTrainee(directory, teacher=directory, teaching=1.0)
    set_training(trainee.net, is_on=False)
    trainee.learn([batch_of(trainee, photographs)], Step())
    largest = max(float(p.grad.abs().max()) for p in trainee.net.parameters() if p.grad is not None)
    assert largest < 1e-5  # cross entropy is least where both agree
    assert all(parameter.grad is None for parameter in trainee.teacher.net.parameters())


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    teacher = Path(shutil.copytree(SMALL, tmp_path / "teacher"))
    (teacher / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ModelError, match="must have the vocabulary"):
        CaptionerTrainee(SMALL, teacher=teacher)


def test_what_is_written_is_what_the_operator_reads(tmp_path, photographs):
    source = SMALL
    trainee = CaptionerTrainee(source)
    before = Captioner(source).caption(photographs[:1])[0]
    trainee.write(tmp_path / "same")
    after = Captioner(tmp_path / "same").caption(photographs[:1])[0]
    assert (after.text, after.score) == (before.text, before.score)
    for name, tensor in checkpoint.load_state_dict(tmp_path / "same").items():
        np.testing.assert_array_equal(tensor, trainee.model.state_dict()[name], name)


def test_a_model_is_never_written_over_the_one_it_came_from():
    source = SMALL
    with pytest.raises(ModelError, match="another folder"):
        CaptionerTrainee(source).write(source)
