"""Small fine-tunings without a cluster: scenes to learn from, and the loop in this process."""

import multiprocessing
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from jobs import scenes
from jobs.training_loop import Task, run_loop
from jobs.training_rows import fetcher_of, healthy_rows, images_of, look_at, read_splits
from jobs.training_state import RunFolder
from operators.finetuning.recipes import recipe_of
from operators.finetuning.workers import Workers
from operators.models.checkpoint import load_state_dict, resolve
from schemas.finetune import FinetuneConfig


def drawn(folder: Path, *, train: int, validation: int) -> Path:
    """Draws scenes into `folder/train` and `folder/validation`."""
    scenes.run(folder / "train", count=train, seed=11)
    scenes.run(folder / "validation", count=validation, seed=12)
    return folder


def config_of(folder: Path, output: Path, **changes: Any) -> FinetuneConfig:
    """A fine-tuning of the embedded captioner on drawn scenes, without validation."""
    document: dict[str, Any] = {
        "use": "captioner",
        "model": "embedded:captioner",
        "output": str(output),
        "train": str(folder / "train" / "manifest.parquet"),
        "batch": 4,
        "steps": 4,
        "learning_rate": 1e-3,
        "augment": "none",
        "save_seconds": 0.0,
    }
    return FinetuneConfig.model_validate(document | changes)


def prepared(config: FinetuneConfig) -> Task:
    """Does what stands before the first step, and tells what the workers are told."""
    folder = RunFolder(Path(config.output))
    folder.open(config)
    splits = read_splits(config)
    for name, split in splits.items():
        seen = look_at(images_of(split), fetcher_of(config, split))
        folder.keep_rows(name, healthy_rows(split, seen))
    return Task(config, recipe_of(config, resolve(config.model)), folder, splits, sharing=1)


def train(config: FinetuneConfig) -> list[dict[str, Any]]:
    """Trains in this process; returns the curve."""
    task = prepared(config)
    run_loop(task, Workers(), torch.device("cpu"))
    return task.folder.read_curve()


def train_in_processes(config: FinetuneConfig, count: int) -> list[dict[str, Any]]:
    """Trains in processes that talk over gloo; returns the curve."""
    task = prepared(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(task, rank, count, port)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return task.folder.read_curve()


def weights(output: Path) -> Mapping[str, torch.Tensor]:
    """What a run wrote."""
    return load_state_dict(output)


def _work(task: Task, rank: int, count: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    run_loop(task, Workers(rank, count), torch.device("cpu"))
    distributed.destroy_process_group()
