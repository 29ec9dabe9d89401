import copy
import json

import pytest
import torch
import torch.distributed as distributed
from torch import nn

from jobs import embedded_training
from jobs.embedded_training import Progress


class Line:
    """A recipe small enough to follow: learns to give back its input."""

    images, batch, decay, settled_step = 40, 2, 0.0, None

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.ModuleDict({"model": nn.Linear(3, 3)})

    def rate(self, step, steps):
        return 0.1 * (1 - step / steps)

    def loss(self, first):
        x = torch.randn(self.batch, 3, generator=torch.Generator().manual_seed(first))
        loss = (self.module["model"](x) - x).square().mean()
        return loss, {"loss": loss.item()}


@pytest.fixture
def alone(tmp_path):
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def walk(recipe, average, optimizer, begin, end):
    for step in range(begin, end):
        parts = embedded_training.take_step(0, recipe, optimizer, step, 10)
        embedded_training.follow(average, recipe.module, step + 1, horizon=4)
    return parts["loss"]


def start():
    recipe = Line()
    optimizer = torch.optim.AdamW(recipe.module.parameters())
    return recipe, copy.deepcopy(recipe.module), optimizer


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(alone, tmp_path):
    whole = start()
    last = walk(*whole, 0, 10)
    first = start()
    walk(*first, 0, 6)
    embedded_training.save(tmp_path, first[0].module, *first[1:], Progress(step=6))
    second = start()
    progress = embedded_training.restore(tmp_path, second[0].module, *second[1:])
    assert walk(*second, progress.step, 10) == last
    assert torch.equal(second[1]["model"].weight, whole[1]["model"].weight)


def test_a_run_that_never_saved_begins_at_the_beginning(tmp_path):
    recipe, average, optimizer = start()
    found = embedded_training.restore(tmp_path, recipe.module, average, optimizer)
    assert found == Progress()


@pytest.mark.slow
def test_one_command_leaves_a_model_with_its_figures_and_log(tmp_path):
    embedded_training.run("embedder", tmp_path, seed=3, images=256)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (record["seed"], record["images"], record["step"]) == (3, 256, 1)
    figures = {"recall_zh", "recall_en", "labels_zh", "labels_en"}
    assert set(record["figures"]) == figures
    assert "event=published images=256" in (tmp_path / "model" / "training.log").read_text()

    from operators.embedder import Embedder

    assert Embedder(tmp_path / "model").dimension == 128
