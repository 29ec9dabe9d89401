"""The sizes of an OFA net, as its directory's `config.json` gives them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from operators.models.checkpoint import read_json
from schemas.errors import ModelError

RESNETS = {  # bottleneck blocks in each of the three stages
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}
LONGEST = 1024  # tokens that the published net tells the distances of
STAGES = 3  # of the ResNet
ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new")
CHOICES = {"resnet_type": tuple(RESNETS), "activation_function": ACTIVATIONS}
FRACTIONS = ("dropout", "layerdrop", "drop_path_rate")  # ends of names
LARGEST = 200_000  # of any size: beyond it no tensor of the net could be held
DEEPEST = 1_000  # layers, or blocks of a stage


@dataclass(frozen=True)
class OFAConfig:
    """An OFA net; names and defaults are the published class's, the last two are ours."""

    vocab_size: int = 59457
    d_model: int = 512
    encoder_layers: int = 4
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 4
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    max_position_embeddings: int = 1024  # text positions; two more rows are kept
    token_bucket_size: int = 256
    image_bucket_size: int = 42  # cells of 16 pixels along a side
    activation_function: str = "gelu"
    attn_scale_factor: float = 2.0
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    encoder_drop_path_rate: float = 0.0
    decoder_drop_path_rate: float = 0.0
    resnet_drop_path_rate: float = 0.0
    init_std: float = 0.02
    resnet_type: str = "resnet101"
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    normformer: bool = True
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    scale_embedding: bool = False
    share_decoder_input_output_embed: bool = True
    share_attn_bias: bool = False
    entangle_position_embedding: bool = False
    disable_entangle: bool = False
    interpolate_position: bool = False
    orig_patch_image_size: int = 224
    code_image_size: int = 128  # pixels of an image drawn from codes
    use_image_feature: bool = True
    use_ofasys: bool = False
    use_gamma_feature: bool = False
    gamma: float = 1.0
    exclude_mlp: bool = True
    mlp_dim: int = 512
    temperature_init_value: float | None = None
    resnet_layers: tuple[int, ...] | None = None  # ours: blocks a stage, instead of resnet_type
    image_codes: bool = True  # ours: False leaves out the decoder's tables for drawing images

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `config.json`; keys that do not bear on the net are ignored.

        Raises:
            ModelError: a value that no net can be built from, or a variant that is not supported.
        """
        path = directory / "config.json"
        found = read_json(path)
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in found.items() if name in known}
        if isinstance(values.get("resnet_layers"), list):
            values["resnet_layers"] = tuple(values["resnet_layers"])
        faults = _faults(found, values)
        if faults:
            raise ModelError(f"{path}: " + "; ".join(faults))
        return cls(**values)

    @property
    def positions(self) -> int:
        """How many tokens a text may have."""
        return min(self.max_position_embeddings + 2, LONGEST)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Bottleneck blocks in each of the ResNet's three stages."""
        return self.resnet_layers or RESNETS[self.resnet_type]


def _faults(found: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Everything in a config.json that no net can be built from."""
    defaults = {field.name: field.default for field in fields(OFAConfig)}
    faults = [
        f"{name!r} is {value!r}, not {allowed}"
        for name, value in values.items()
        if (allowed := _allowed_instead(name, value, defaults[name]))
    ]
    if found.get("model_type", "ofa") != "ofa":
        faults.append(f"'model_type' is {found['model_type']!r}, not 'ofa'")
    return faults or _misfits({**defaults, **values})


def _allowed_instead(name: str, value: Any, default: Any) -> str | None:
    """What a value of `config.json` should be; None when it is that."""
    if value == default and type(value) is type(default):
        return None
    if name == "resnet_layers":
        return None if _is_depths(value) else f"{STAGES} whole numbers from 1 to {DEEPEST}"
    if name in CHOICES:
        return None if value in CHOICES[name] else f"one of {', '.join(CHOICES[name])}"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        least = 0 if name.endswith("_token_id") else 1
        most = DEEPEST if name.endswith("_layers") else LARGEST
        is_one = type(value) is int and least <= value <= most
        return None if is_one else f"a whole number from {least} to {most}"
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        return "a number from 0 on"
    return "a number from 0 to 1" if name.endswith(FRACTIONS) and value > 1 else None


def _misfits(values: Mapping[str, Any]) -> list[str]:
    """What is wrong only together with other values, or with this version of tagline."""
    faults = []
    for side in ("encoder", "decoder"):
        heads = values[f"{side}_attention_heads"]
        if values["d_model"] % heads:
            faults.append(f"'d_model' {values['d_model']} is no multiple of {heads} {side} heads")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if values[name] >= values["vocab_size"]:
            faults.append(f"{name!r} is {values[name]}, but 'vocab_size' {values['vocab_size']}")
    if not values["attn_scale_factor"]:
        faults.append("'attn_scale_factor' is 0, but scores are divided by it")
    if values["use_ofasys"] or not values["use_image_feature"]:
        faults.append("nets of OFA-Sys ('use_ofasys') or without images are not supported")
    return faults


def _is_depths(blocks: object) -> bool:
    return (
        isinstance(blocks, tuple)
        and len(blocks) == STAGES
        and all(type(count) is int and 1 <= count <= DEEPEST for count in blocks)
    )
