import threading

import pytest
import torch
from torch import nn

from operators.finetuning.workers import Workers


class InThreads(Workers):
    """Workers that are threads of this process: what is sent is put on a shared table."""

    meeting = threading.Barrier(2)
    table: dict[int, object] = {}  # noqa: RUF012

    def _exchange(self, item):
        self.table[self.rank] = item
        self.meeting.wait()
        found = [self.table[rank] for rank in range(self.size)]
        self.meeting.wait()
        return found

    def _all(self, tensor):
        return [part.clone() for part in self._exchange(tensor)]


def in_two_threads(work):
    found = {}

    def run(rank):
        found[rank] = work(InThreads(rank, 2))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_own_rows_come_first_and_alone_keep_their_gradient():
    def work(workers):
        own = torch.full((workers.rank + 1, 2), float(workers.rank), requires_grad=True)
        gathered = workers.gather(own)
        gathered.sum().backward()
        return gathered[:, 0].tolist(), own.grad.tolist()

    found = in_two_threads(work)
    assert found[0] == ([0.0, 1.0, 1.0], [[1.0, 1.0]])
    assert found[1] == ([1.0, 1.0, 0.0], [[1.0, 1.0]] * 2)


def test_a_single_worker_sends_nothing():
    rows, module = torch.ones(2, 3), nn.Linear(2, 2)
    assert Workers().gather(rows) is rows
    assert Workers().totals([1.5, 2.0]) == [1.5, 2.0]
    Workers().add_gradients(module)
    assert module.weight.grad is None


@pytest.fixture
def one_process(monkeypatch):
    """A group of one process that says it is of two: what it sends comes back doubled."""
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(2))


def test_gradients_are_added_up_and_what_nobody_used_has_none(one_process):
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    module["used"](torch.tensor([[1.0, 3.0]])).sum().backward()
    Workers(0, 2).add_gradients(module)
    assert module["used"].weight.grad.tolist() == [[2.0, 6.0]]
    assert module["unused"].weight.grad is None
