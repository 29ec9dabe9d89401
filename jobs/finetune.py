"""Fine-tunes a model: rows, workers, a directory that the operators read.

The images are looked at with Ray Data, the steps are taken by Ray Train's workers. A killed run is
gone on with by the same command, and ends with the weights of one that was not.
"""

import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.cluster import Capacity, connected
from jobs.training_progress import show_progress
from jobs.training_rows import (
    Split,
    digest_of,
    fetcher_of,
    healthy_rows,
    images_of,
    look_at,
    read_splits,
    refuse_same_pictures,
)
from jobs.training_state import Progress, RunFolder
from operators.finetuning.recipes import Recipe, recipe_of, words_to_learn
from operators.models import checkpoint
from schemas.enriched import IMAGE_SHA256, URI
from schemas.errors import ConfigError, RunError, TaglineError
from schemas.finetune import FinetuneConfig

if TYPE_CHECKING:
    from jobs.training_loop import Task

CPU_WORKERS = 4  # where the config does not say
SHARD_IMAGES = 256  # looked at by one task
COLUMNS = {"captioner": "caption", "entailment": "entailment", "embedder": "embedding"}
GIT_SECONDS = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    Args:
        use: the operator that takes the result.
        output: the directory.
        steps: taken in all.
        metric: by which the weights are the best; None without validation.
        best: its value.
        best_step: after which the weights were so.
        images: of each split, and how many were left out.
        images_per_second: over all steps, validation not counted.
        seconds: of this command.
    """

    use: str
    output: str
    steps: int
    metric: str | None
    best: float | None
    best_step: int
    images: Mapping[str, int]
    images_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def told(summary: Summary, config: FinetuneConfig) -> str:
    """Says what came of a run, and how a job uses the result: on columns named as in training."""
    images = ", ".join(f"{count} {name}" for name, count in summary.images.items())
    lines = [f"{summary.steps} steps in {summary.seconds:.0f} s; images: {images}"]
    if summary.metric is not None:
        lines.append(f"best after step {summary.best_step}: {summary.metric} {summary.best:.4f}")
    name = COLUMNS.get(summary.use, "match")
    entry = {"use": summary.use, "model": json.dumps(summary.output), **_columns_read(config)}
    options = ", ".join(f"{option}: {value}" for option, value in entry.items())
    lines += ["in a job for `tagline enrich`:", "operators:", f"  {name}: {{{options}}}"]
    return "\n".join(lines)


def _columns_read(config: FinetuneConfig) -> dict[str, str]:
    """The options that name columns of the manifest, or of operators before this one."""
    options = {"entailment": ("hypothesis", "premise"), "matcher": ("text",)}
    named = next(config.train.readings())
    return {
        option: json.dumps(named.get(option, option), ensure_ascii=False)
        for option in options.get(config.use, ())
        if option in config.targets
    }


def run(config: FinetuneConfig, *, address: str | None = None) -> Summary:
    """Trains to the end, going on with what an earlier call left in the output.

    Args:
        config: checked by `schemas.finetune.read_finetune_config`.
        address: of a Ray cluster; else RAY_ADDRESS, else a Ray of its own on this machine.

    Raises:
        TaglineError: of the config, the rows or the model, before anything ran; or `RunError` when
            the run could not be finished. What was written is kept, and the same command goes on.
    """
    begun = time.monotonic()
    if "://" in config.output:
        raise ConfigError(f"output {config.output!r} is no local folder; copy it there afterwards")
    directory = checkpoint.resolve(config.model)
    recipe = recipe_of(config, directory)
    folder = RunFolder(Path(config.output).absolute())
    if folder.output.resolve() == directory.resolve():
        raise ConfigError(f"output {config.output!r} is the model that training begins with")
    folder.open(config)
    done = folder.finished()
    if done is None:
        splits = read_splits(config)
        with connected(address) as capacity:
            rows = _prepare(config, folder, splits)
            words = _teach_words(config, directory, folder, rows["train"])
            _train(config, recipe, folder, splits, rows["train"].num_rows, capacity)
        told = {"model": checkpoint.digest(directory), "new_words": words}
        done = _record(config, recipe, folder, rows) | told
        folder.finish(done)
    return _summary(config, done, time.monotonic() - begun)


def _prepare(
    config: FinetuneConfig, folder: RunFolder, splits: Mapping[str, Split]
) -> dict[str, pa.Table]:
    """Looks at all images, unless that was done before; the rows whose image is good, by split."""
    if not folder.has_rows("train") or not folder.skipped.is_file():
        seen = {name: _look(config, split) for name, split in splits.items()}
        _list_skipped(config, folder, seen)
        if not config.allow_overlap:
            refuse_same_pictures(seen)
        for name in reversed(list(splits)):  # train last: its rows tell that all is done
            folder.keep_rows(name, healthy_rows(splits[name], seen[name]))
    return {name: folder.kept_rows(name) for name in splits}


def _teach_words(
    config: FinetuneConfig, directory: Path, folder: RunFolder, rows: pa.Table
) -> list[str]:
    """Writes the model that training begins with where it must learn words; returns them."""
    words = words_to_learn(config, directory, rows.select(config.targets).to_pylist())
    if words and not folder.beginning.is_dir():
        from operators.finetuning.vocabulary import teach_words

        logger.warning("event=words_taught count=%d first=%r", len(words), words[:8])
        fresh = folder.beginning.with_name("beginning.new")
        teach_words(directory, words, fresh)
        os.replace(fresh, folder.beginning)
    return words


def _look(config: FinetuneConfig, split: Split) -> pa.Table:
    """Looks at the images of a split, with Ray Data."""
    import ray

    from jobs.pools import configure

    images = images_of(split)
    fetcher = fetcher_of(config, split)
    configure()
    shards = [
        images.slice(start, SHARD_IMAGES) for start in range(0, images.num_rows, SHARD_IMAGES)
    ]
    look: Any = look_at
    found = ray.data.from_arrow(shards).map_batches(
        look, fn_args=(fetcher,), batch_format="pyarrow", batch_size=None, num_cpus=1
    )
    seen = pa.concat_tables(ray.get(found.to_arrow_refs()))
    if seen.num_rows != images.num_rows:
        raise RunError(
            f"{split.name}: {images.num_rows - seen.num_rows} images were lost; run again"
        )
    return seen


def _list_skipped(config: FinetuneConfig, folder: RunFolder, seen: Mapping[str, pa.Table]) -> None:
    """Writes the list of bad images.

    Raises:
        RunError: they are too many.
    """
    bad = {name: table.filter(pc.is_valid(table["code"])) for name, table in seen.items()}
    lines = [
        json.dumps({"split": name, **row}, ensure_ascii=False)
        for name, table in bad.items()
        for row in table.select([URI, "code", "message"]).to_pylist()
    ]
    folder.skipped.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    total = sum(table.num_rows for table in seen.values())
    if len(lines) > config.limits.error_fraction * total:
        codes = pa.concat_tables(bad.values())["code"].value_counts().to_pylist()
        told = ", ".join(f"{each['counts']} {each['values']}" for each in codes)
        raise RunError(
            f"{len(lines)} of {total} images cannot be used ({told}), more than "
            f"limits.error_fraction {config.limits.error_fraction} allows; they are listed in "
            f"{folder.skipped}; mend them or raise the limit, and run the same command"
        )
    if lines:
        logger.warning("event=images_skipped count=%d list=%s", len(lines), folder.skipped)


def _train(
    config: FinetuneConfig,
    recipe: Recipe,
    folder: RunFolder,
    splits: Mapping[str, Split],
    rows: int,
    capacity: Capacity,
) -> None:
    """Runs the loop on Ray Train's workers, showing the curve as it grows."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from jobs.training_loop import Task

    count = workers_of(config, capacity, rows)
    bare = {name: Split(name, None, split.policy) for name, split in splits.items()}
    begun = anchored(config)
    if folder.beginning.is_dir():
        begun = begun.model_copy(update={"model": str(folder.beginning)})
    task = Task(begun, recipe, folder, bare, count)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(num_workers=count, use_gpu=capacity.gpus > 0),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.work),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ended = threading.Event()
    watcher = threading.Thread(target=show_progress, args=(folder, ended), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _told(error) from error
    finally:
        ended.set()
        watcher.join()


def anchored(config: FinetuneConfig) -> FinetuneConfig:
    """The config with local models as absolute paths: workers have folders of their own."""
    models = {"model": config.model, "teacher": config.teacher}
    local = {n: os.path.abspath(m) for n, m in models.items() if m and Path(m).is_dir()}
    return config.model_copy(update=local)


def workers_of(config: FinetuneConfig, capacity: Capacity, rows: int) -> int:
    """How many workers a run has: as asked, else one a GPU or core where batches have the rows.

    Args:
        config: of the run.
        capacity: of the cluster.
        rows: to learn from.

    Raises:
        ConfigError: more are asked for than there is room for.
    """
    room = int(capacity.gpus) if capacity.gpus else int(capacity.cpus)
    if config.workers is None:
        most = room if capacity.gpus else min(room, CPU_WORKERS)
        batches = max(1, -(-rows // config.batch))
        return max(1, min(most, rows // batches // config.accumulate))
    kind = "GPUs" if capacity.gpus else "cores"
    if config.workers > room:
        raise ConfigError(
            f"workers is {config.workers}, but there are {room} {kind}; take at most {room}"
        )
    return config.workers


def _work(settings: dict[str, Any]) -> None:
    """Is one of the workers."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    from jobs.training_loop import run_loop
    from operators.finetuning.workers import Workers

    torch.set_num_threads(1)  # workers share the cores; another number would sum in another order
    task: Task = settings["task"]
    context = get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    run_loop(task, workers, get_device())


def _told(error: Any) -> TaglineError:
    """What a failure of the workers means for the user."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, TaglineError):
                return cause
            cause = cause.__cause__
    told = "; ".join(dict.fromkeys(f"{type(each).__name__}: {each}" for each in failures))
    return RunError(
        f"a worker failed: {told or error}; nothing written is lost: run the same command, which "
        "goes on from the last saved state"
    )


def _record(
    config: FinetuneConfig, recipe: Recipe, folder: RunFolder, rows: Mapping[str, pa.Table]
) -> dict[str, Any]:
    """What training.json says."""
    import torch

    state = torch.load(folder.state, map_location="cpu", weights_only=True)
    progress = Progress(**state["progress"])
    images = {name: pc.count_distinct(table[IMAGE_SHA256]).as_py() for name, table in rows.items()}
    skipped = len(folder.skipped.read_text(encoding="utf-8").splitlines())
    return {
        "command": "tagline finetune",
        "config": config.model_dump(mode="json"),
        "recipe": asdict(recipe),
        "data": digest_of(rows.values()),
        "git": git_revision(),
        "images": images | {"skipped": skipped},
        "metric": config.best_by if config.validation else None,
        **asdict(progress),
        "curve": folder.read_curve(),
    }


def git_revision() -> str | None:
    """The commit that this code is of, with `+` where files were changed; None outside of git."""
    folder = Path(__file__).parent
    asked = (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
    answers = []
    for words in asked:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=GIT_SECONDS,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


def _summary(config: FinetuneConfig, record: Mapping[str, Any], seconds: float) -> Summary:
    rate = record["shown"] / record["training_seconds"] if record["training_seconds"] else 0.0
    return Summary(
        use=config.use,
        output=config.output,
        steps=record["step"],
        metric=record["metric"],
        best=record["best"],
        best_step=record["best_step"],
        images=record["images"],
        images_per_second=round(rate, 3),
        seconds=round(seconds, 3),
    )


if __name__ == "__main__":
    from jobs.cli import main

    main(["finetune"])
