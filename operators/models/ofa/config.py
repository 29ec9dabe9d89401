"""The sizes of an OFA net, as its directory's `config.json` gives them."""

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
POSITIVE = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "max_position_embeddings",
    "token_bucket_size",
    "image_bucket_size",
)


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
    defaults = OFAConfig()
    get = {**{field.name: getattr(defaults, field.name) for field in fields(defaults)}, **values}
    faults = []
    if found.get("model_type", "ofa") != "ofa":
        faults.append(f"'model_type' is {found['model_type']!r}, not 'ofa'")
    for name in POSITIVE:
        if not isinstance(get[name], int) or get[name] < 1:
            faults.append(f"{name!r} is {get[name]!r}, not a positive integer")
    if not faults:
        for side in ("encoder", "decoder"):
            heads = get[f"{side}_attention_heads"]
            if get["d_model"] % heads:
                faults.append(f"'d_model' {get['d_model']} is no multiple of {heads} {side} heads")
    blocks = get["resnet_layers"]
    if blocks is None and get["resnet_type"] not in RESNETS:
        faults.append(f"'resnet_type' is {get['resnet_type']!r}; it can be {', '.join(RESNETS)}")
    if blocks is not None and not _is_depths(blocks):
        faults.append(f"'resnet_layers' is {blocks!r}; it must be {STAGES} whole numbers")
    if get["activation_function"] not in ACTIVATIONS:
        faults.append(
            f"'activation_function' is {get['activation_function']!r}; "
            f"it can be {', '.join(ACTIVATIONS)}"
        )
    if get["use_ofasys"] or not get["use_image_feature"]:
        faults.append("nets of OFA-Sys ('use_ofasys') or without images are not supported")
    return faults


def _is_depths(blocks: object) -> bool:
    return (
        isinstance(blocks, tuple)
        and len(blocks) == STAGES
        and all(type(count) is int and count > 0 for count in blocks)
    )
