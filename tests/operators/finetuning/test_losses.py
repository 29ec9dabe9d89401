import math

import pytest
import torch

from operators.finetuning.losses import (
    IGNORED,
    caption_loss,
    contrast_with_momentum,
    distillation_loss,
    draw_negatives,
    in_batch_recall,
    smoothed_cross_entropy,
)

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))


def test_smoothing_shares_out_among_the_others_only():
    found = smoothed_cross_entropy(LOGITS, torch.tensor([0, 2]), 0.1)
    expected = [
        -(0.9 * math.log(0.5) + 0.05 * math.log(0.3) + 0.05 * math.log(0.2)),
        -(0.9 * math.log(0.8) + 0.05 * math.log(0.1) + 0.05 * math.log(0.1)),
    ]
    assert found.tolist() == pytest.approx(expected)


def test_a_caption_loss_adds_up_the_tokens_that_are_asked():
    found = caption_loss(LOGITS[None], torch.tensor([[1, IGNORED]]))
    assert float(found) == pytest.approx(-math.log(0.3))


def test_a_pupil_that_knows_what_its_teacher_knows_loses_the_entropy():
    targets = torch.tensor([[0, IGNORED]])
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert float(distillation_loss(LOGITS[None], LOGITS[None], targets)) == pytest.approx(entropy)
    worse = distillation_loss(LOGITS[None].flip(2), LOGITS[None], targets)
    assert float(worse) > entropy + 0.1


def test_the_momentum_contrast_softens_the_truth():
    similar, followed = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    found = contrast_with_momentum(similar, followed, torch.tensor([[True, False]]), alpha=0.4)
    first = math.log(math.exp(2) / (math.exp(2) + 1))
    second = math.log(1 / (math.exp(2) + 1))
    assert float(found) == pytest.approx(-(0.8 * first + 0.2 * second))


def test_rows_of_one_image_share_the_truth():
    similar = torch.tensor([[1.0, 1.0, 1.0]])
    same = torch.tensor([[True, True, False]])
    found = contrast_with_momentum(similar, similar, same, alpha=0.0)
    assert float(found) == pytest.approx(math.log(3))


def test_negatives_are_drawn_by_likeness_and_never_from_the_own_image():
    torch.manual_seed(0)
    similar = torch.tensor([[9.0, 0.0, 3.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    same = torch.eye(3, dtype=torch.bool)
    drawn = torch.stack([draw_negatives(similar, same) for _ in range(300)])
    assert not (drawn == torch.arange(3)).any()
    assert (drawn[:, 0] == 2).float().mean() > 0.9


def test_a_batch_of_one_image_has_no_negatives():
    with pytest.raises(ValueError, match="larger batches"):
        draw_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_recall_asks_each_text_for_its_image():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]])
    assert in_batch_recall(images, texts) == pytest.approx(2 / 3)
