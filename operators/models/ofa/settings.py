"""How a published OFA pipeline is set up: the part of `configuration.json` under `model`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Self

from operators.models.checkpoint import read_json
from schemas.errors import ModelError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of each channel
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SEARCH = {"beam_size": 5, "max_tokens": 16, "min_tokens": 1, "no_repeat_ngram": 3}
SEARCH_NAMES = {  # published: ours, as in operators.models.beam
    "beam_size": "beam_size",
    "max_len_b": "max_tokens",
    "min_len": "min_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "len_penalty": "length_penalty",
    "temperature": "temperature",
    "unk_penalty": "unknown_penalty",
}
PROMPT_TYPES = ("none", "prev_output")

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Settings:
    """What a directory asks of those who run it.

    Args:
        image_pixels: side of the square that an image is squashed to.
        mean: taken off each channel, and then
        deviation: divides it.
        prompt: replaces the task's own question.
        longest_source: tokens of a question that count, and words of a hypothesis.
        search: the fields of `operators.models.beam.Beam` that it sets.
        repeats_prompt: whether the decoder reads the question again before it answers.
        answers: what entailment chooses from, in the order of the file.
    """

    image_pixels: int
    mean: Channels
    deviation: Channels
    prompt: str | None
    longest_source: int
    search: Mapping[str, float]
    repeats_prompt: bool
    answers: tuple[str, ...]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `configuration.json` and the file of answers that it names.

        Raises:
            ModelError: a value that cannot be followed.
        """
        path = directory / "configuration.json"
        model = read_json(path).get("model")
        if not isinstance(model, dict):
            raise ModelError(f"{path}: no object 'model'; fetch the model again")
        faults = _faults(model)
        if faults:
            raise ModelError(f"{path}: " + "; ".join(faults))
        mean, deviation = IMAGENET if model.get("imagenet_default_mean_and_std") else HALVES
        return cls(
            image_pixels=model.get("patch_image_size", 480),
            mean=mean,
            deviation=deviation,
            prompt=model.get("prompt"),
            longest_source=model.get("max_src_length", 256),
            search=_search(model.get("beam_search") or {}),
            repeats_prompt=model.get("prompt_type", "none") == "prev_output",
            answers=_answers(directory, model.get("answer2label")),
        )


def blanks(prompt: str) -> int | None:
    """How many texts a prompt has a place for; None when it is no prompt."""
    try:
        fields = [field[1:] for field in Formatter().parse(prompt) if field[1] is not None]
    except ValueError:
        return None
    return len(fields) if len(fields) <= 2 and set(fields) <= {("", "", None)} else None


def _faults(model: Mapping[str, Any]) -> list[str]:
    faults = []
    for name in ("patch_image_size", "max_src_length"):
        value = model.get(name, 1)
        if type(value) is not int or value < 1:
            faults.append(f"{name!r} is {value!r}, not a positive integer")
    if model.get("language", "en") != "en":
        faults.append(f"'language' is {model['language']!r}; only 'en' is supported")
    if model.get("prompt_type", "none") not in PROMPT_TYPES:
        allowed = ", ".join(PROMPT_TYPES)
        faults.append(f"'prompt_type' is {model['prompt_type']!r}; it can be {allowed}")
    answers = model.get("answer2label")
    if answers is not None and not isinstance(answers, str):
        faults.append(f"'answer2label' is {answers!r}, not the name of a file")
    prompt = model.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        faults.append(f"'prompt' is {prompt!r}, not text")
    elif prompt and answers and blanks(prompt) is None:
        faults.append(
            f"'prompt' is {prompt!r}; it can hold {{}} for the hypothesis, before it another for "
            "what is known besides the image, and no other brace that is not doubled"
        )
    search = model.get("beam_search") or {}
    if not isinstance(search, dict):
        return [*faults, f"'beam_search' is {search!r}, not an object"]
    return [*faults, *_search_faults(search)]


def _search_faults(published: Mapping[str, Any]) -> list[str]:
    faults = []
    known = {*SEARCH_NAMES, "normalize_scores"}
    temperature = published.get("temperature", 1)
    if not isinstance(temperature, int | float) or temperature <= 0:
        faults.append(f"'beam_search' sets a temperature of {temperature!r}, not a number above 0")
    for name, value in published.items():
        if name not in known and value:
            faults.append(
                f"'beam_search' sets {name!r}, which is not supported; "
                f"it can set {', '.join(sorted(known))}"
            )
    return faults


def _search(published: Mapping[str, Any]) -> dict[str, float]:
    given = {ours: published[name] for name, ours in SEARCH_NAMES.items() if name in published}
    if published.get("normalize_scores") is False:
        given["length_penalty"] = 0.0
    return {**SEARCH, **given}


def _answers(directory: Path, name: str | None) -> tuple[str, ...]:
    return tuple(read_json(directory / name)) if name else ()
