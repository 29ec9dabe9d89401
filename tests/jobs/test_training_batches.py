import numpy as np
import pytest

from jobs.training_batches import Order
from operators.finetuning.workers import Workers


@pytest.mark.parametrize(("rows", "batch"), [(12, 6), (13, 6), (5, 32), (33, 32), (1, 1)])
def test_an_epoch_shows_every_row_once_in_even_batches(rows, batch):
    order = Order(rows, batch, seed=3)
    batches = [order.batch_of(step) for step in range(order.steps_per_epoch)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    sizes = {len(some) for some in batches}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) == order.smallest


def test_epochs_and_seeds_differ_in_order():
    orders = [
        Order(40, 40, seed=seed).batch_of(step).tolist() for seed in (0, 1) for step in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert Order(40, 40, seed=0).batch_of(0).tolist() == orders[0]


@pytest.mark.parametrize("parts", [1, 3])
def test_workers_and_parts_share_a_batch(parts):
    order = Order(23, 8, seed=0)
    for step in range(order.steps_per_epoch):
        shared = [order.parts_of(step, Workers(rank, 2), parts) for rank in range(2)]
        assert all(len(own) == parts for own in shared)
        together = np.concatenate([part for own in shared for part in own])
        assert together.tolist() == order.batch_of(step).tolist()


def test_steps_are_counted_by_epochs():
    order = Order(100, 32, seed=0)
    assert order.steps_per_epoch == 4
    assert [order.steps(epochs) for epochs in (0.01, 0.5, 3)] == [1, 2, 12]
