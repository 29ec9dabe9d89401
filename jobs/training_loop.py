"""The loop of a fine-tuning, run by every worker: steps, validations, a state to go on from.

Everything that is drawn is drawn from the seed and the number of the step, so a run that was killed
and goes on from its state ends with the same weights. The state is replaced in one move.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from jobs.training_batches import Loader, Order
from jobs.training_memory import check_memory
from jobs.training_quality import answer, judge
from jobs.training_rows import Split, fetcher_of
from jobs.training_state import Progress, RunFolder
from operators.fetcher import Fetcher
from operators.finetuning.recipes import Recipe, build_trainee
from operators.finetuning.schedules import rate, warm_up_steps
from operators.finetuning.trainee import Batch, Figures, Step, Trainee
from operators.finetuning.workers import Workers
from schemas.config import nearest
from schemas.errors import ConfigError, RunError
from schemas.finetune import FinetuneConfig

STEP_SEEDS = 1_000_003  # a prime: seeds of steps and of parts do not meet
PARTS = 1009  # more than a step ever has


@dataclass(frozen=True)
class Task:
    """What every worker is told; pickled to it.

    Args:
        config: checked.
        recipe: what it says where it leaves things open.
        folder: of the run.
        splits: without their rows, which lie in the folder.
        sharing: workers on one machine.
    """

    config: FinetuneConfig
    recipe: Recipe
    folder: RunFolder
    splits: Mapping[str, Split]
    sharing: int


def run_loop(task: Task, workers: Workers, device: torch.device) -> None:
    """Takes all steps that are left; worker 0 also writes.

    Raises:
        ConfigError: a part to freeze is not there, or the batch does not fit into memory.
        RunError: a loss or gradient is not finite, or memory ran out.
    """
    run = _Run(task, workers, device)
    run.restore()
    try:
        run.take_steps()
    except torch.OutOfMemoryError as error:
        rows = math.ceil(task.config.batch / workers.size / task.config.accumulate)
        raise RunError(
            f"step {run.progress.step}: the GPU's memory ran out with parts of {rows} rows; a "
            f"micro-batch of {max(1, rows // 2)} may fit: begin again in another output with "
            f"accumulate: {2 * task.config.accumulate}, or recompute: true"
        ) from error


class _Run:
    """A worker's part of a run."""

    def __init__(self, task: Task, workers: Workers, device: torch.device) -> None:
        config, recipe = task.config, task.recipe
        self.task, self.config, self.workers, self.device = task, config, workers, device
        self.trainee = build_trainee(config, recipe)
        self.trainee.to(device)
        self.tables = {name: task.folder.kept_rows(name) for name in task.splits}
        table = self.tables["train"]
        self.order = Order(table.num_rows, config.batch, config.seed)
        if self.order.smallest < workers.size * config.accumulate:
            raise ConfigError(
                f"the smallest batch has {self.order.smallest} rows, too few for {workers.size} "
                f"workers with {config.accumulate} parts each (accumulate); take fewer of them, "
                "or more rows"
            )
        self.steps = config.steps or self.order.steps(config.epochs or recipe.epochs)
        self.loader = Loader(
            self.trainee,
            table,
            self._fetcher("train"),
            order=self.order,
            workers=workers,
            parts=config.accumulate,
        )
        self.frozen = frozen_parameters(self.trainee, config.freeze)
        self.thawed_at = math.inf
        if config.freeze_epochs is not None:
            self.thawed_at = self.order.steps(config.freeze_epochs)
        self.optimizer = build_optimizer(self.trainee, recipe)
        is_scaled = config.precision == "float16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_scaled)
        self.progress = Progress()

    def restore(self) -> None:
        """Goes on from the saved state, or checks that the run can begin."""
        path = self.task.folder.state
        if path.is_file():
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.trainee.net.load_state_dict(state["net"])
            self.trainee.remember(state["memory"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(**state["progress"])
        else:
            self._freeze(0)
            self._check_memory()
        if self.workers.rank == 0:
            self.task.folder.cut_curve(self.progress.step)

    def take_steps(self) -> None:
        """Takes the steps, with validations between them."""
        with ExitStack() as stack:
            log = None
            if self.workers.rank == 0:
                log = stack.enter_context(_Log(self.task.folder, self.progress.step))
            batches = self.loader.batches(self.progress.step, self.steps)
            stack.callback(batches.close)
            self._take(batches, log)

    def _take(self, batches: Iterator[list[Batch]], log: "_Log | None") -> None:
        every = self.config.validate_every or self.order.steps_per_epoch
        saved = last = time.monotonic()
        for parts in batches:
            figures = self._step(parts)
            self.progress.step += 1
            self.progress.shown += len(self.order.batch_of(self.progress.step - 1))
            now = time.monotonic()
            self.progress.training_seconds += now - last
            if log:
                log.write(self._told(figures, now - last))
            is_judged = self.progress.step % every == 0 or self.progress.step == self.steps
            if is_judged:
                self._validate(log)
            if log and (is_judged or now - saved >= self.config.save_seconds):
                self._save()
                saved = time.monotonic()
            last = time.monotonic()

    def _step(self, parts: list[Batch]) -> Figures:
        step = self.progress.step
        self._freeze(step)
        warmup = warm_up_steps(self.steps, self.task.recipe.warmup)
        share = rate(self.task.recipe.schedule, step, steps=self.steps, warmup=warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self.optimizer.zero_grad(set_to_none=True)
        parts = [{name: each.to(self.device) for name, each in part.items()} for part in parts]
        seed = (self.config.seed * STEP_SEEDS + step) * PARTS * self.workers.size
        with self._arithmetic():
            own = self.trainee.learn(
                parts,
                Step(self.workers, seed + self.workers.rank * PARTS, self._backward),
            )
        self.workers.add_gradients(self.trainee.net)
        self.scaler.unscale_(self.optimizer)  # last: an overflow is then seen by all workers
        figures = dict(zip(own, self.workers.totals(own.values()), strict=True))
        figures["gradient"] = self._clip()
        self._refuse_nonsense(figures)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.trainee.settle()
        return figures | {"rate": self.task.recipe.learning_rate * share}

    def _arithmetic(self) -> AbstractContextManager[Any]:
        precision = self.config.precision
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16 if precision == "float32" else getattr(torch, precision),
            enabled=precision != "float32",
        )

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _clip(self) -> float:
        """Shortens the gradients to the recipe's largest norm; returns the norm before."""
        trained = [p for p in self.trainee.net.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.task.recipe.clip or math.inf)
        return float(norm)

    def _refuse_nonsense(self, figures: Figures) -> None:
        if math.isfinite(figures["loss"]) and (
            math.isfinite(figures["gradient"]) or self.scaler.is_enabled()
        ):
            return  # a float16 gradient that overflows is left out, and the scale made smaller
        name = "gradient" if math.isfinite(figures["loss"]) else "loss"
        kept = f"the best so far, of step {self.progress.best_step}, is in the output"
        raise RunError(
            f"step {self.progress.step}: the {name} is {figures[name]}; "
            f"{kept if self.progress.best is not None else 'nothing was written'}; begin again in "
            "another output with a smaller learning_rate, a longer warmup, clip: 1.0 or precision: "
            "float32"
        )

    def _freeze(self, step: int) -> None:
        learns = step >= self.thawed_at
        for parameter in self.frozen:
            parameter.requires_grad = learns

    def _told(self, figures: Figures, seconds: float) -> dict[str, Any]:
        step = self.progress.step
        rows = len(self.order.batch_of(step - 1))
        return {
            "step": step,
            "steps": self.steps,
            "epoch": step / self.order.steps_per_epoch,
            **figures,
            "images_per_second": rows / max(seconds, 1e-9),
        }

    def _validate(self, log: "_Log | None") -> None:
        """Writes a candidate, has it judged, and publishes it where it is the best."""
        folder, config = self.task.folder, self.config
        is_judged = "validation" in self.tables
        if not is_judged and self.progress.step < self.steps:
            return
        if log:
            self.trainee.write(folder.candidate)
        self._meet()
        figures: Figures = {}
        if is_judged:
            table, fetcher = self.tables["validation"], self._fetcher("validation")
            own = answer(config, folder.candidate, table, fetcher, self.workers)
            answers = self._all_answers(own)
            if log:
                figures = judge(config, folder.candidate, table, answers)
        self._meet()
        if not log:
            return
        value = figures.get(config.best_by)
        if figures:
            log.write({"step": self.progress.step, "validation": figures})
        if value is None or self.progress.best is None or value > self.progress.best:
            folder.publish()
            self.progress.best, self.progress.best_step = value, self.progress.step

    def _all_answers(self, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.workers.size == 1:
            return own
        found: list[Any] = [None] * self.workers.size
        distributed.all_gather_object(found, own)
        return [each for some in found for each in some]

    def _meet(self) -> None:
        if self.workers.size > 1:
            distributed.barrier()

    def _save(self) -> None:
        state = {
            "net": self.trainee.net.state_dict(),
            "memory": self.trainee.memory(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }
        path = self.task.folder.state
        fresh = path.with_name(f"{path.name}.new")
        torch.save(state, fresh)
        os.replace(fresh, path)

    def _check_memory(self) -> None:
        if self.order.rows < 2:
            return
        rows = math.ceil(
            math.ceil(min(self.config.batch, self.order.rows) / self.workers.size)
            / self.config.accumulate
        )
        one, two = (
            {name: each.to(self.device) for name, each in self.loader.part(some).items()}
            for some in ([0], [0, 1])
        )
        with self._arithmetic():
            check_memory(
                self.trainee,
                one,
                two,
                rows=rows,
                sharing=self.task.sharing,
                accumulate=self.config.accumulate,
            )

    def _fetcher(self, name: str) -> Fetcher:
        return fetcher_of(self.config, self.task.splits[name])


class _Log:
    """The curve, as lines of JSON and as TensorBoard's events."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from tensorboardX import SummaryWriter

        self.lines = folder.curve.open("a", encoding="utf-8")
        self.events = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, figures: dict[str, Any]) -> None:
        """Adds a line; a gradient that overflowed in float16 has no number there."""
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        self.lines.write(json.dumps(figures) + "\n")
        self.lines.flush()
        shown = figures.get("validation")
        kind, values = ("validation", shown) if shown else ("train", figures)
        for name, value in values.items():
            if name not in ("step", "steps") and value is not None:
                self.events.add_scalar(f"{kind}/{name}", value, figures["step"])

    def __enter__(self) -> Self:
        """Is itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Writes what is still held."""
        self.lines.close()
        self.events.close()


def frozen_parameters(trainee: Trainee, freeze: tuple[str, ...]) -> list[nn.Parameter]:
    """The parameters that do not learn, by parts of the model or beginnings of published names.

    Raises:
        ConfigError: nothing is called so.
    """
    rules = trainee.rules
    named = [(rules.published_name(name), p) for name, p in trainee.net.named_parameters()]
    prefixes: list[str] = []
    for wished in freeze:
        found = rules.parts.get(wished, (wished,))
        if not any(name.startswith(found) for name, _ in named):
            raise ConfigError(
                f"freeze: the model has nothing called {wished!r}; {nearest(wished, rules.parts)}, "
                f"and all beginnings of its parameters' names, such as {named[0][0]!r}"
            )
        prefixes += found
    return [p for name, p in named if prefixes and name.startswith(tuple(prefixes))]


def build_optimizer(trainee: Trainee, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over groups of parameters that share decay and rate, told by their published names."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in trainee.net.named_parameters():
        published = trainee.rules.published_name(name)
        key = trainee.rules.is_decayed(published, parameter), trainee.rules.rate_of(published)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if is_decayed else 0.0,
                "peak": recipe.learning_rate * share,
            }
            for (is_decayed, share), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
    )
