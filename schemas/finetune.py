"""The config of a fine-tuning, as YAML: which model learns what, from which rows, and how.

What is left out is as published for the model (`operators.finetuning.recipes`). All faults of a
config are found before any is reported.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, Field, ValidationError, model_validator

from schemas.config import PLAIN_FAULTS, Allow, Strict, nearest, overridden
from schemas.documents import read_document
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError

Use = Literal["captioner", "entailment", "embedder", "matcher"]
Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["cosine", "polynomial", "constant"]
DataFormat = Literal["manifest", "captions", "snli_ve", "chinese_clip"]

Names = Annotated[  # one, or a list
    tuple[str, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
    Field(min_length=1),
]

METRICS: dict[str, tuple[str, ...]] = {  # the first is the default; all are the better the higher
    "captioner": ("cider", "exact"),
    "entailment": ("accuracy",),
    "embedder": ("recall",),
    "matcher": ("recall",),
}
TARGETS: dict[str, tuple[str, ...]] = {  # columns that rows need beside `uri`
    "captioner": ("caption",),
    "entailment": ("hypothesis", "label"),
    "embedder": ("text",),
    "matcher": ("text",),
}
LABELS = ("yes", "no", "maybe")
LABELS_OF_SNLI = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}


class DataConfig(Strict):
    """Where rows to learn from lie.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSONL; or a file of another format.
        columns: our name of a column to its name in the files: `{caption: true_caption}`; a target
            may have several, `{text: [caption, caption_zh]}`, of which each makes a row.
        format: `manifest`; `captions` for COCO's annotations, Karpathy's JSON and Flickr30k's
            captions; `snli_ve` for SNLI-VE's lines; `chinese_clip` for MUGE's and its like's.
        images: the folder of the images, where the format names files only; or `{split}_imgs.tsv`.
        split: of Karpathy's JSON; or several.
    """

    path: str = Field(min_length=1)
    columns: dict[str, Names] = Field(default_factory=dict)
    format: DataFormat = "manifest"
    images: str | None = None
    split: Names | None = None

    @model_validator(mode="after")
    def _has_images(self) -> "DataConfig":
        if (self.format == "manifest") == (self.images is not None):
            needs = "names no folder" if self.images is None else "has a uri in each row"
            raise ValueError(f"format {self.format!r} {needs}; see `images`")
        several = [n for n in (URI, IMAGE_ID) if len(self.columns.get(n, ())) > 1]
        if several:
            raise ValueError(f"{several[0]!r} has several columns; only a target may")
        return self

    def readings(self) -> Iterator[dict[str, str]]:
        """Every way to name a row's columns: one, unless a target has several columns."""
        for names in product(*self.columns.values()):
            yield dict(zip(self.columns, names, strict=True))


class TrainingLimits(Strict):
    """How much may go wrong, and how large an image may be.

    Args:
        error_fraction: of the images; those that fail are left out, counted and listed.
        image_bytes: encoded; a number or `50 MB`.
        image_pixels: width x height.
    """

    error_fraction: float = Field(default=0.05, ge=0, le=1)
    image_bytes: ByteSize = Field(default=ByteSize(50_000_000), gt=0)
    image_pixels: int = Field(default=178_956_970, ge=1, le=178_956_970)


class FinetuneConfig(Strict):
    """A whole fine-tuning; see infra/examples/finetune-*.yaml. None is as published.

    Args:
        use: the operator that takes the model.
        model: a directory, `embedded:NAME`, an s3:// directory or a hub's id.
        output: a folder that all workers see; it becomes the directory that operators read.
        train: rows to learn from.
        validation: rows that tell which weights are best; without, the last are kept.
        premise: entailment's rows have a column `premise`.
        allow_overlap: whether an image may be in both.
        epochs: over all rows; or
        steps: of the optimizer.
        batch: rows of a step, all workers together; an epoch is cut as evenly as can be.
        accumulate: parts that each worker cuts its rows of a step into, for less memory.
        workers: processes; None for one a GPU or, without GPUs, one a core, up to 4.
        learning_rate: at its peak.
        schedule: how it falls.
        warmup: steps from 1 on, else a share of all steps.
        weight_decay: of what the published scripts decay.
        clip: the largest norm of the gradients; 0 for any.
        smoothing: of labels.
        precision: of the arithmetic; weights stay float32.
        freeze: parts of the model that do not learn, or names of parameters as published.
        freeze_epochs: after which they do; None for never.
        augment: how images are changed; `published` is for an embedder, the others are published
            with images as they are.
        recompute: activations on the way back, to save memory.
        teacher: a larger model of the same task and vocabulary to learn from too; OFA only.
        teaching: its share of the loss.
        seed: of order, dropout and augmentation.
        validate_every: steps; None for each epoch.
        metric: by which weights are best.
        save_seconds: between two savings of the state that a killed run goes on from.
    """

    use: Use
    model: str = Field(min_length=1)
    output: str = Field(min_length=1)
    train: DataConfig
    validation: DataConfig | None = None
    premise: bool = False
    allow_overlap: bool = False
    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    workers: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Schedule | None = None
    warmup: float | None = Field(default=None, ge=0)
    weight_decay: float | None = Field(default=None, ge=0)
    clip: float | None = Field(default=None, ge=0)
    smoothing: float | None = Field(default=None, ge=0, lt=1)
    precision: Precision = "float32"
    freeze: tuple[str, ...] = ()
    freeze_epochs: float | None = Field(default=None, gt=0)
    augment: Literal["published", "none"] | None = None
    recompute: bool = False
    teacher: str | None = None
    teaching: float = Field(default=0.5, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    validate_every: int | None = Field(default=None, ge=1)
    metric: str | None = None
    save_seconds: float = Field(default=60.0, ge=0)
    limits: TrainingLimits = TrainingLimits()
    allow: Allow = Allow()

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        paths = {
            name: {"path": document[name]}
            for name in ("train", "validation")
            if isinstance(document.get(name), str)
        }
        return {**document, **paths}

    @model_validator(mode="after")
    def _fits_together(self) -> "FinetuneConfig":
        faults = _misfits(self)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that rows need beside `uri`."""
        return (*TARGETS[self.use], *(("premise",) if self.premise else ()))

    @property
    def best_by(self) -> str:
        """The metric that decides."""
        return self.metric or METRICS[self.use][0]


def read_finetune_config(path: str | Path, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """Reads a config from a YAML file.

    Args:
        path: the file; paths inside it are relative to the current folder.
        overrides: `key=value` with dotted keys, values in YAML: `train.path=rows.csv`.

    Raises:
        ConfigError: with every fault found, one a line.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a fine-tuning is a mapping with use, model, output and train")
    for name in ("train", "validation"):
        if isinstance(document.get(name), str):
            document[name] = {"path": document[name]}
    try:
        return FinetuneConfig.model_validate(overridden(document, overrides))
    except ValidationError as error:
        faults = dict.fromkeys(f"{path}: {_described(fault)}" for fault in error.errors())
        raise ConfigError("\n".join(faults)) from error


def _misfits(config: FinetuneConfig) -> list[str]:
    faults = []
    if config.epochs is not None and config.steps is not None:
        faults.append("epochs and steps are both given; give one of them")
    if config.metric is not None and config.metric not in METRICS[config.use]:
        allowed = ", ".join(map(repr, METRICS[config.use]))
        faults.append(f"metric is {config.metric!r}; {config.use} has {allowed}")
    if config.premise and config.use != "entailment":
        faults.append(f"premise is for entailment; this is a {config.use}")
    if config.teacher is not None and config.use not in ("captioner", "entailment"):
        faults.append(f"teacher is for OFA's captioner and entailment; this is a {config.use}")
    if config.augment == "published" and config.use != "embedder":
        faults.append(
            f"augment is 'published', but a {config.use} is published with images as they are"
        )
    if config.freeze_epochs is not None and not config.freeze:
        faults.append("freeze_epochs is given, but freeze names nothing")
    return faults


def _described(fault: Any) -> str:
    """One line for a fault that pydantic found: where, what was found, what is allowed."""
    location = [str(part) for part in fault["loc"]]
    at = ".".join(location)
    if fault["type"] == "extra_forbidden":
        inside = f" in {'.'.join(location[:-1])}" if location[:-1] else ""
        known = list(_section(location[:-1]).model_fields)
        return f"unknown key {location[-1]!r}{inside}; {nearest(location[-1], known)}"
    if fault["type"] == "missing":
        return f"{at} is missing; it must be given"
    if fault["type"] in PLAIN_FAULTS:
        either = "a path or " if at in ("train", "validation") else ""
        return f"{at} is {fault['input']!r}: {PLAIN_FAULTS[fault['type']].format(either)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not at:
        return message
    found = "" if isinstance(fault["input"], dict) else f" is {fault['input']!r}"
    return f"{at}{found}: {message[:1].lower()}{message[1:]}"


def _section(location: list[str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {
        "train": DataConfig,
        "validation": DataConfig,
        "limits": TrainingLimits,
        "allow": Allow,
    }
    return sections.get(location[0], FinetuneConfig) if location else FinetuneConfig
