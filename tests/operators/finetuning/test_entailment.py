import math

import pytest
import torch

from operators.entailment import Entailment
from operators.finetuning.entailment import EntailmentTrainee
from operators.finetuning.trainee import Step, set_training
from operators.images import decode
from operators.models import checkpoint
from tests import tiny

SMALL = checkpoint.resolve("embedded:entailment")
ROWS = [
    {"hypothesis": "The dog is on the grass", "label": "yes"},
    {"hypothesis": "there-is a dog", "label": "no"},
    {"hypothesis": "the cat is hungry", "label": "maybe"},
]


@pytest.fixture(scope="module")
def photographs():
    return [decode(path.read_bytes()) for path in tiny.photographs()[:3]]


def unsmoothed_loss(trainee, photographs, rows=ROWS):
    set_training(trainee.net, is_on=False)
    return trainee.learn([trainee.collate(photographs, rows, range(3))], Step())


def test_the_loss_is_what_the_operator_finds_improbable(photographs):
    directory = SMALL
    found = unsmoothed_loss(EntailmentTrainee(directory, smoothing=0.0), photographs)
    judged = [
        Entailment(directory, hypotheses=["-"]).judge([photograph], [row["hypothesis"]])[0][0]
        for photograph, row in zip(photographs, ROWS, strict=True)
    ]
    odds = [getattr(judgement, row["label"]) for judgement, row in zip(judged, ROWS, strict=True)]
    assert found["loss"] == pytest.approx(-sum(map(math.log, odds)) / 3, abs=1e-4)
    right = [judgement.label == row["label"] for judgement, row in zip(judged, ROWS, strict=True)]
    assert found["batch_accuracy"] == pytest.approx(sum(right) / 3)


def test_answers_of_several_tokens_cost_where_they_part():
    trainee = EntailmentTrainee(SMALL)
    yes, no = trainee.paths["yes"], trainee.paths["no"]
    trainee.paths["maybe"] = (yes[0], 42, yes[-1])
    assert [len(choice) for choice in trainee.choices_of(trainee.paths["maybe"])] == [2, 2, 1]
    assert trainee.choices_of(no) == [sorted({yes[0], no[0]}), [no[1]]]


def test_parts_give_the_gradient_of_the_whole(photographs):
    trainee = EntailmentTrainee(SMALL)
    whole = unsmoothed_loss(trainee, photographs)
    gradient = trainee.model.encoder.image_proj.weight.grad.clone()
    trainee.net.zero_grad()
    parts = [trainee.collate([photographs[n]], [ROWS[n]], [n]) for n in range(3)]
    found = trainee.learn(parts, Step())
    assert found["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    torch.testing.assert_close(
        trainee.model.encoder.image_proj.weight.grad, gradient, atol=1e-6, rtol=1e-4
    )


def test_a_premise_is_asked_for_in_the_published_words(photographs):
    trainee = EntailmentTrainee(SMALL, has_premise=True)
    row = {"premise": "A man in a suit.", "hypothesis": "he flies", "label": "maybe"}
    assert trainee.ask(row) == ' can image and text1 " a man in a suit. " imply text2 " he flies "?'
    assert trainee.columns == ("hypothesis", "label", "premise")


def test_batch_norms_keep_their_statistics(photographs):
    trainee = EntailmentTrainee(SMALL)
    set_training(trainee.net, is_on=True)
    before = trainee.model.encoder.embed_images.bn1.running_mean.clone()
    trainee.learn([trainee.collate(photographs, ROWS, range(3))], Step())
    assert torch.equal(trainee.model.encoder.embed_images.bn1.running_mean, before)


def test_recomputing_activations_changes_no_gradient(photographs):
    found = []
    for has_checkpoints in (False, True):
        trainee = EntailmentTrainee(SMALL, has_checkpoints=has_checkpoints)
        trainee.learn([trainee.collate(photographs, ROWS, range(3))], Step(seed=3))
        found.append(trainee.model.encoder.image_proj.weight.grad)
    torch.testing.assert_close(*found)
