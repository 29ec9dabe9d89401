"""The sizes of an mPLUG net, as its directory's `config.yaml` and `config_bert.json` give them.

ModelScope's code hard-wires the width of the image tower's position table by `clip_name`; here the
tower's width and patch are what the directory says, so that smaller towers can be described, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import yaml

from operators.models.checkpoint import read_json
from schemas.errors import ModelError

CONFIG = "config.yaml"
LONGEST_MATCHED = 25  # ids of a matched text, [CLS] and [SEP] counted; published code cuts there
HEAD_WIDTH = 64  # of the image tower; it has clip_vision_width // 64 heads
HARD_WIRED = {"ViT-B-16": (16, 768)}  # patch and width that ModelScope takes for a clip_name
HARD_WIRED_ELSE = (14, 1024)
NEVER = 100  # stride_layer of a config_bert.json without one: no layer is connected
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
POSITIVE_IN_YAML = (
    "image_res",
    "clip_vision_width",
    "clip_vision_layers",
    "clip_vision_patch_size",
    "embed_dim",
    "beam_size",
    "max_length",
)
POSITIVE_IN_JSON = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "num_hidden_layers",
    "text_encoder_layers",
    "fusion_layers",
    "text_decode_layers",
    "stride_layer",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
LARGEST = 1_000_000  # of any size but layers; a file that says more is damaged
MOST_LAYERS = 1_000  # of a stack; more would fill the memory before weights are looked at
OF_YAML = (*POSITIVE_IN_YAML, "clip_name", "min_length", "temp")
NEEDED_IN_JSON = ("text_encoder_layers", "fusion_layers", "text_decode_layers")
PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class MPlugConfig:
    """An mPLUG net; names and defaults are the published classes'.

    Of config.yaml: the image tower, the contrastive features, and how captions are searched. Of
    config_bert.json: the three text stacks.
    """

    image_res: int = 504  # pixels, of both sides
    clip_name: str = "ViT-L-14"
    clip_vision_width: int = 1024
    clip_vision_layers: int = 24
    clip_vision_patch_size: int = 14  # pixels
    embed_dim: int = 256  # of the contrastive features
    temp: float = 0.07  # what cosines are divided by in training; a file's own value wins
    beam_size: int = 5
    min_length: int = 1  # tokens
    max_length: int = 10  # tokens, the end counted
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_hidden_layers: int = 12  # of the fusion stack as allocated; the last fusion_layers run
    text_encoder_layers: int = 6
    fusion_layers: int = 6
    text_decode_layers: int = 12
    stride_layer: int = NEVER
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads both files; keys that do not bear on the net are ignored.

        Raises:
            ModelError: a file is missing or damaged, or holds a value that no net can be built
                from.
        """
        settings = read_yaml(directory / CONFIG)
        name = settings.get("bert_config", "config_bert.json")
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(
                f"{directory / CONFIG}: 'bert_config' is {name!r}, not the name of a file beside it"
            )
        bert = read_json(directory / name)
        faults = [f"{directory / CONFIG}: {fault}" for fault in _yaml_faults(settings)]
        faults += [f"{directory / name}: {fault}" for fault in _json_faults(bert)]
        if faults:
            raise ModelError("\n".join(faults))
        own = {key: settings[key] for key in OF_YAML if key in settings}
        of_bert = {field.name for field in fields(cls)} - set(OF_YAML)
        return cls(**own, **{key: bert[key] for key in of_bert if key in bert})

    @property
    def has_bridge(self) -> bool:
        """Whether image states are brought to the text's width; not in the base sizes."""
        return self.hidden_size != self.clip_vision_width

    @property
    def image_tokens(self) -> int:
        """Patches of an image and the class token."""
        return (self.image_res // self.clip_vision_patch_size) ** 2 + 1

    @property
    def image_positions(self) -> int:
        """Rows of the image tower's position table; more than are used where patches do not fit."""
        patch, width = HARD_WIRED_ELSE
        for name, sizes in HARD_WIRED.items():
            if name in self.clip_name:
                patch, width = sizes
        if self.clip_vision_width != width:
            patch = self.clip_vision_patch_size  # a tower that ModelScope has no table for
        return int(self.image_res * self.image_res / (patch * patch)) + 1

    @property
    def fusion_numbers(self) -> range:
        """The fusion layers that run; those before are dead weights in the published files."""
        return range(max(0, self.num_hidden_layers - self.fusion_layers), self.num_hidden_layers)

    def is_connected(self, number: int) -> bool:
        """Whether a fusion layer attends over image and text as one sequence."""
        relative = number - self.fusion_numbers.start
        return relative > 0 and relative % self.stride_layer == 0


def read_for_matching(directory: Path) -> MPlugConfig:
    """Reads a config as `MPlugConfig.read` does, and checks that a matcher can be made of it.

    Raises:
        ModelError: as there; also where text and image tower are equally wide, or texts may not be
            long enough.
    """
    config = MPlugConfig.read(directory)
    if not config.has_bridge:
        raise ModelError(
            f"{directory}: 'hidden_size' and 'clip_vision_width' are both {config.hidden_size}; a "
            "matcher needs them to differ, as the published code has no other"
        )
    if config.max_position_embeddings < LONGEST_MATCHED:
        raise ModelError(
            f"{directory}: 'max_position_embeddings' in the BERT configuration is "
            f"{config.max_position_embeddings}, but texts have up to {LONGEST_MATCHED} tokens"
        )
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping; a tag that would make Python objects is refused.

    Raises:
        ModelError: the file is missing, not YAML, or not a mapping.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; is {str(path.parent)!r} a model directory?"
        ) from None
    except yaml.constructor.ConstructorError as error:
        raise ModelError(
            f"{path}: asks for objects that are no plain values; refused, nothing was executed "
            f"({error.problem})"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not YAML ({error}); fetch the model again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: holds a {type(value).__name__}, not a mapping; fetch the model again"
        )
    return value


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, by which a few lines stand for billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Composes the next node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias stands for a value", None)
        return super().compose_node(parent, index)


def _yaml_faults(found: Mapping[str, Any]) -> list[str]:
    """Everything in a config.yaml that no net can be built from or no caption searched with."""
    faults = _size_faults(found, POSITIVE_IN_YAML)
    if type(found.get("min_length", 1)) is not int or found.get("min_length", 1) < 0:
        faults.append(f"'min_length' is {found['min_length']!r}, not a whole number from 0")
    if not isinstance(found.get("clip_name", ""), str):
        faults.append(f"'clip_name' is {found['clip_name']!r}, not a text such as 'ViT-L-14'")
    if not _is_number(found.get("temp", 1.0)) or not 0 < found.get("temp", 1.0) < LARGEST:
        faults.append(f"'temp' is {found['temp']!r}, not a number above 0 and below {LARGEST}")
    if faults:
        return faults
    tower = MPlugConfig(**{key: found[key] for key in POSITIVE_IN_YAML if key in found})
    width, patch = tower.clip_vision_width, tower.clip_vision_patch_size
    if width < HEAD_WIDTH or width % (width // HEAD_WIDTH):
        faults.append(
            f"'clip_vision_width' is {width}; it must be at least {HEAD_WIDTH} and a multiple of "
            f"its {width // HEAD_WIDTH} heads"
        )
    told = found.get("vision_width", 1024)
    if told != width:
        faults.append(f"'vision_width' is {told!r}, but 'clip_vision_width' is {width}")
    if tower.image_res < patch:
        faults.append(f"'image_res' is {tower.image_res}, less than a patch of {patch} pixels")
    return faults


def _json_faults(found: Mapping[str, Any]) -> list[str]:
    """Everything in a config_bert.json that no net can be built from."""
    faults = [f"no {name!r}; fetch the file again" for name in NEEDED_IN_JSON if name not in found]
    faults += _size_faults(found, POSITIVE_IN_JSON)
    for name in PROBABILITIES:
        value = found.get(name, 0.0)
        if not _is_number(value) or not 0 <= value < 1:
            faults.append(f"{name!r} is {value!r}, not a number from 0 to below 1")
    for name in ("layer_norm_eps", "initializer_range"):
        value = found.get(name, 1.0)
        if not _is_number(value) or not 0 < value < float("inf"):
            faults.append(f"{name!r} is {value!r}, not a number above 0")
    if found.get("hidden_act", "gelu") not in ACTIVATIONS:
        faults.append(
            f"'hidden_act' is {found['hidden_act']!r}; it can be {', '.join(ACTIVATIONS)}"
        )
    positions = found.get("position_embedding_type", "absolute")
    if positions != "absolute":
        faults.append(f"'position_embedding_type' is {positions!r}; only 'absolute' is supported")
    return faults or _proportion_faults(found)


def _proportion_faults(found: Mapping[str, Any]) -> list[str]:
    faults = []
    width = found.get("hidden_size", MPlugConfig.hidden_size)
    heads = found.get("num_attention_heads", MPlugConfig.num_attention_heads)
    if width % heads:
        faults.append(f"'hidden_size' {width} is no multiple of {heads} heads")
    if found.get("encoder_width", width) != width:
        faults.append(
            f"'encoder_width' is {found['encoder_width']!r}; it must be {width}, as 'hidden_size'"
        )
    pad, vocabulary = found.get("pad_token_id", 0), found.get("vocab_size", MPlugConfig.vocab_size)
    if type(pad) is not int or not 0 <= pad < vocabulary:
        faults.append(f"'pad_token_id' is {pad!r}, not from 0 to {vocabulary - 1}")
    return faults


def _size_faults(found: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    most = {name: MOST_LAYERS if name.endswith("layers") else LARGEST for name in names}
    return [
        f"{name!r} is {found[name]!r}, not a whole number from 1 to {most[name]}"
        for name in names
        if name in found and (type(found[name]) is not int or not 1 <= found[name] <= most[name])
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
