"""Trains the checkpoints that ship with the project, from nothing, on scenes it draws itself.

`python -m jobs.embedded_training embedder --out DIR --seed 0`. Two processes of one thread each
share every step and average their gradients over gloo; every image is drawn when it is needed, by
its number, so the run is fixed by its seed. It saves its state about once a minute: killed, the
same command goes on from there. Beside the weights it writes training.json (recipe, figures, how
long it took) and training.log.
"""

import argparse
import copy
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from operators.training import flatten, follow, parameter_groups

PROCESSES = 2  # part of the recipe: it fixes which images share a step
BETAS = (0.9, 0.98)
MAX_GRADIENT = 1.0  # norm over all parameters
AVERAGE_STEPS = 30  # horizon of the running average that is published
SAVE_SECONDS = 60.0
LOG_STEPS = 25
EVALUATIONS = 12  # in a run, evenly spread
VALIDATION_SEED = 1_000_003  # of the scenes whose figures the log shows
VALIDATION_SCENES = 200
TEST_SEED = 2_000_003  # of the scenes whose figures training.json shows; looked at once

log = logging.getLogger("embedded_training")


class Recipe(Protocol):
    """What differs between trainings."""

    images: int
    batch: int
    decay: float
    settled_step: int | None  # where training goes on from the running average
    module: nn.ModuleDict

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step."""

    def loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss, and its parts for the log, of the batch from image `first` on."""

    def evaluate(self, model: nn.ModuleDict, *, seed: int, count: int = 500) -> dict[str, float]:
        """Measures the weights of `model` on `count` scenes of a user's seed."""

    def export(self, model: nn.ModuleDict, directory: Path) -> list[Path]:
        """Writes what ships; returns the model directories."""


@dataclass
class Progress:
    """How far a run has come; saved with the weights."""

    step: int = 0
    cpu_seconds: float = 0.0  # of process 0
    wall_seconds: float = 0.0


def embedder(seed: int) -> Recipe:
    """The recipe of the embedder."""
    from operators.embedded.embedder_recipe import EmbedderRecipe

    return EmbedderRecipe(seed)


def describer(seed: int) -> Recipe:
    """The recipe of the captioner and the entailment checker, which share their weights."""
    from operators.embedded.describer_recipe import DescriberRecipe

    return DescriberRecipe(seed)


def mplug(seed: int) -> Recipe:
    """The recipe of mPLUG's captioner and matcher, which share their image tower."""
    from operators.embedded.mplug_recipe import MPlugRecipe

    return MPlugRecipe(seed)


RECIPES: dict[str, Callable[[int], Recipe]] = {
    "embedder": embedder,
    "captioner": describer,
    "entailment": describer,
    "mplug": mplug,
}


def run(name: str, out: Path, seed: int, images: int | None = None) -> None:
    """Trains a recipe to its end, going on from what an earlier call left in `out`.

    Args:
        name: of `RECIPES`.
        out: folder of the run.
        seed: fixes the first weights and all that is drawn.
        images: shown in all, for a trial; None for what the recipe says.
    """
    out.mkdir(parents=True, exist_ok=True)
    arguments = (name, out, seed, images, free_port())
    start_processes(train, args=arguments, nprocs=PROCESSES)  # type: ignore[no-untyped-call]


def train(rank: int, name: str, out: Path, seed: int, images: int | None, port: int) -> None:
    """Is one of the processes of a run; process 0 also saves, measures and writes the log."""
    torch.set_num_threads(1)
    join(rank, port)
    if rank == 0:
        start_log(out / "training.log")
    recipe = RECIPES[name](seed)
    recipe.images = images or recipe.images
    average = copy.deepcopy(recipe.module)
    optimizer = torch.optim.AdamW(parameter_groups(recipe.module, decay=recipe.decay), betas=BETAS)
    progress = restore(out, recipe.module, average, optimizer)
    steps = recipe.images // (recipe.batch * PROCESSES)
    log.info("event=start recipe=%s seed=%d step=%d steps=%d", name, seed, progress.step, steps)
    saved, cpu, wall = time.monotonic(), time.process_time(), time.monotonic()
    while progress.step < steps:
        if progress.step == recipe.settled_step:
            recipe.module.load_state_dict(average.state_dict())
        parts = take_step(rank, recipe, optimizer, progress.step, steps)
        progress.step += 1
        follow(average, recipe.module, progress.step, horizon=AVERAGE_STEPS)
        if rank > 0:
            continue
        progress.cpu_seconds += time.process_time() - cpu
        progress.wall_seconds += time.monotonic() - wall
        cpu, wall = time.process_time(), time.monotonic()
        if progress.step % LOG_STEPS == 0:
            log_step(recipe, progress, parts)
        if progress.step % max(1, steps // EVALUATIONS) == 0:
            measure(recipe, average, progress)
        if time.monotonic() - saved > SAVE_SECONDS or progress.step == steps:
            save(out, recipe.module, average, optimizer, progress)
            saved = time.monotonic()
    if rank == 0:
        publish(name, recipe, average, progress, out, seed)
    distributed.barrier()
    distributed.destroy_process_group()


def take_step(
    rank: int, recipe: Recipe, optimizer: torch.optim.Optimizer, step: int, steps: int
) -> dict[str, float]:
    """Moves the weights by the processes' mean gradient; returns this one's loss in parts."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step, steps)
    loss, parts = recipe.loss((step * PROCESSES + rank) * recipe.batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in recipe.module.parameters() if parameter.grad is not None]
    gradients = flatten(parameter.grad for parameter in trained if parameter.grad is not None)
    distributed.all_reduce(gradients)
    gradients /= distributed.get_world_size()
    gradients *= min(1.0, MAX_GRADIENT / (gradients.norm().item() + 1e-6))
    sizes = [parameter.numel() for parameter in trained]
    chunks = torch.split(gradients, sizes)
    for parameter, chunk in zip(trained, chunks, strict=True):
        parameter.grad = chunk.view_as(parameter)
    optimizer.step()
    return parts


def measure(recipe: Recipe, average: nn.ModuleDict, progress: Progress) -> None:
    """Logs the figures of the averaged weights on scenes that are never trained on."""
    average.eval()
    figures = recipe.evaluate(average, seed=VALIDATION_SEED, count=VALIDATION_SCENES)
    log.info(
        "event=measure step=%d images=%d %s", progress.step, shown(recipe, progress), show(figures)
    )


def publish(
    name: str, recipe: Recipe, average: nn.ModuleDict, progress: Progress, out: Path, seed: int
) -> None:
    """Writes the directory that ships, with the figures on scenes nobody looked at before."""
    average.eval()
    figures = recipe.evaluate(average, seed=TEST_SEED)
    log.info("event=published images=%d %s", shown(recipe, progress), show(figures))
    record = {
        "command": f"python -m jobs.embedded_training {name} --out DIR --seed {seed}",
        "seed": seed,
        "images": shown(recipe, progress),
        **asdict(progress),
        "processes": PROCESSES,
        "test_seed": TEST_SEED,
        "test_scenes": 500,
        "figures": figures,
    }
    for folder in recipe.export(average, out / "model"):
        text = json.dumps(record, indent=2) + "\n"
        (folder / "training.json").write_text(text, encoding="utf-8")
        shutil.copy(out / "training.log", folder / "training.log")


def export_now(name: str, out: Path, seed: int) -> None:
    """Publishes what a run that is still going, or was stopped, has learned so far."""
    recipe = RECIPES[name](seed)
    average = copy.deepcopy(recipe.module)
    state = torch.load(out / "state.pt", weights_only=True)
    average.load_state_dict(state["average"])
    start_log(out / "training.log")
    publish(name, recipe, average, Progress(**state["progress"]), out, seed)


def save(
    out: Path,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Replaces the saved state in one move, so that a kill leaves the old one or the new one."""
    state = {
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    torch.save(state, out / "state.pt.new")
    os.replace(out / "state.pt.new", out / "state.pt")


def restore(
    out: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Goes back to the saved state, if there is one."""
    if not (out / "state.pt").exists():
        return Progress()
    state: dict[str, Any] = torch.load(out / "state.pt", weights_only=True)
    module.load_state_dict(state["module"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def join(rank: int, port: int) -> None:
    """Joins the processes of a run on this machine."""
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES
    )


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_log(path: Path) -> None:
    """Appends one event a line to a file."""
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )


def log_step(recipe: Recipe, progress: Progress, parts: dict[str, float]) -> None:
    """Logs the last step's loss."""
    log.info(
        "event=step step=%d images=%d cpu_seconds=%.0f wall_seconds=%.0f %s",
        progress.step,
        shown(recipe, progress),
        progress.cpu_seconds,
        progress.wall_seconds,
        show(parts),
    )


def shown(recipe: Recipe, progress: Progress) -> int:
    """How many images the run has trained on."""
    return progress.step * recipe.batch * PROCESSES


def show(figures: dict[str, float]) -> str:
    """Figures as `name=value`."""
    return " ".join(f"{name}={value:.4f}" for name, value in figures.items())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; its model goes to OUT/model"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="shown in all; a trial may have fewer")
    parser.add_argument(
        "--export", action="store_true", help="publish the saved state as it is and stop"
    )
    arguments = parser.parse_args()
    if arguments.export:
        export_now(arguments.recipe, arguments.out, arguments.seed)
    else:
        run(arguments.recipe, arguments.out, arguments.seed, arguments.images)


if __name__ == "__main__":
    main()
