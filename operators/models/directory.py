"""Tells what a model directory holds, by its small files alone: no weights, no torch.

ModelScope's directories say their task and architecture in `configuration.json`; Hugging Face's say
the architecture in `config.json`. One table maps both to the operator that takes the directory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from operators.models import checkpoint
from operators.models.mplug import config as mplug
from schemas.errors import ModelError

Layout = Literal["modelscope", "huggingface"]

CLIP_FILES = (
    "vision_model_config.json",
    "text_model_config.json",
)  # only ModelScope's Chinese CLIP


@dataclass(frozen=True)
class Content:
    """What a directory holds.

    Args:
        architecture: `ofa`, `mplug` or `chinese_clip`.
        task: in ModelScope's words.
        operator: the `use:` of a job config that takes the directory.
        layout: whose files they are.
    """

    architecture: str
    task: str
    operator: str
    layout: Layout


_MODELSCOPE = {  # model.type and task of configuration.json
    ("ofa", "image-captioning"): Content("ofa", "image-captioning", "captioner", "modelscope"),
    ("ofa", "visual-entailment"): Content("ofa", "visual-entailment", "entailment", "modelscope"),
    ("mplug", "image-captioning"): Content("mplug", "image-captioning", "captioner", "modelscope"),
    ("mplug", "image-text-retrieval"): Content(
        "mplug", "image-text-retrieval", "matcher", "modelscope"
    ),
    ("clip-multi-modal-embedding", "multi-modal-embedding"): Content(
        "chinese_clip", "multi-modal-embedding", "embedder", "modelscope"
    ),
}
_HUGGINGFACE = {  # model_type of config.json
    "chinese_clip": Content("chinese_clip", "multi-modal-embedding", "embedder", "huggingface"),
}


def identify(directory: Path) -> Content:
    """Reads what the directory's configuration says it is.

    Raises:
        ModelError: there is no configuration, no operator takes what it describes, or a file is
            too large to be what its name says.
    """
    if not directory.is_dir():
        raise ModelError(
            f"{directory}: no such model directory; `tagline models pull ID` fetches one"
        )
    checkpoint.check_sizes(directory)
    if (directory / "configuration.json").is_file():
        return _by_configuration(directory / "configuration.json")
    if all((directory / name).is_file() for name in CLIP_FILES):
        return _MODELSCOPE["clip-multi-modal-embedding", "multi-modal-embedding"]
    path = directory / "config.json"
    if path.is_file():
        kind = checkpoint.read_json(path).get("model_type")
        if str(kind) in _HUGGINGFACE:
            return _HUGGINGFACE[str(kind)]
        if str(kind) in {published for published, _ in _MODELSCOPE}:
            raise ModelError(
                f"{directory}: config.json has model_type {kind!r}, but the configuration.json "
                "that belongs beside it, and tells its task, is missing; fetch the model again"
            )
        raise ModelError(
            f"{path}: model_type is {kind!r}; a Hugging Face directory may be of "
            f"{', '.join(_HUGGINGFACE)}, and a ModelScope directory has a configuration.json, "
            "which is missing"
        )
    raise ModelError(
        f"{directory}: no model: neither configuration.json (ModelScope) nor config.json "
        "(Hugging Face) is there"
    )


def expect(directory: Path, operator: str) -> Content:
    """Returns what `directory` holds if the operator takes it.

    Raises:
        ModelError: it holds no known model, or one of another operator.
    """
    content = identify(directory)
    if content.operator != operator:
        raise ModelError(
            f"{directory}: a model for {content.task} ({content.architecture}), which the operator "
            f"{content.operator!r} takes; {operator!r} takes {' or '.join(_taken_by(operator))}"
        )
    return content


def _taken_by(operator: str) -> list[str]:
    contents = (*_MODELSCOPE.values(), *_HUGGINGFACE.values())
    return sorted({f"{c.task} ({c.architecture})" for c in contents if c.operator == operator})


def _by_configuration(path: Path) -> Content:
    configuration: dict[str, Any] = checkpoint.read_json(path)
    model = configuration.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    task = configuration.get("task")
    if kind == "mplug" and task is None:
        task = mplug.read_yaml(path.parent / mplug.CONFIG).get("task")  # as the published class
    content = _MODELSCOPE.get((str(kind), str(task)))
    if content is None:
        known = ", ".join(f"{task} of {kind}" for kind, task in _MODELSCOPE)
        raise ModelError(f"{path}: task is {task!r} and model.type {kind!r}; known are {known}")
    return content
