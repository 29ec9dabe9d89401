import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from operators.training import (
    DenseHeads,
    contrastive_loss,
    cosine_rate,
    follow,
    parameter_groups,
    token_loss,
    trapezoid_rate,
)


def test_the_contrastive_loss_asks_both_ways():
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    texts = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    aslant = 10 / math.sqrt(2)
    logits = torch.tensor([[aslant, 0.0], [aslant, 10.0]])
    rows = functional.cross_entropy(logits, torch.arange(2))
    columns = functional.cross_entropy(logits.T, torch.arange(2))
    found = contrastive_loss(images, texts, torch.tensor(10.0))
    assert torch.allclose(found, (rows + columns) / 2)


def test_the_token_loss_leaves_out_what_is_not_asked():
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    with_end = token_loss(logits, torch.tensor([[1, 2, -100]]), smoothing=0.0)
    without = token_loss(logits[:, :2], torch.tensor([[1, 2]]), smoothing=0.0)
    assert torch.equal(with_end, without)


def test_dense_heads_weigh_each_label():
    torch.manual_seed(0)
    heads = DenseHeads(8, {"kind": 3, "colour": 2})
    features, labels = torch.randn(2, 4, 8), torch.zeros(2, 2, 4, dtype=torch.int64)
    kind = heads.loss(features, labels, (1.0, 0.0))
    colour = heads.loss(features, labels, (0.0, 1.0))
    assert torch.allclose(heads.loss(features, labels, (2.0, 0.5)), 2 * kind + colour / 2)


def test_the_cosine_warms_up_and_ends_at_a_hundredth():
    rates = [cosine_rate(step, 100, peak=1.0, warmup=10) for step in range(101)]
    assert rates[:2] == [0.1, 0.2]
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.505)
    assert rates[100] == pytest.approx(0.01)


def test_the_trapezoid_can_be_made_longer_until_it_falls():
    def rate(step, steps):
        return trapezoid_rate(step, steps, peak=2.0, warmup=10, falling=0.25)

    assert [rate(step, 100) for step in range(75)] == [rate(step, 200) for step in range(75)]
    assert rate(4, 100) == 1.0
    assert rate(88, 100) == pytest.approx(0.96)
    assert rate(100, 100) == 0.0


def test_only_matrices_are_decayed():
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, free = parameter_groups(module, decay=0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2)]
    assert [tuple(p.shape) for p in free["params"]] == [(3,), (3,), (3,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_the_running_average_follows_weights_and_batch_statistics():
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(module.weight, 3.0)
    module.running_mean.fill_(8.0)
    follow(average, module, 10**6, horizon=4)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [2.0, 2.0]
