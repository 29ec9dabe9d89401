"""Chinese CLIP: photographs and sentences as vectors of one space.

The net is transformers' ChineseCLIPModel. This file reads the two kinds of directory it is
published in, ModelScope's and Hugging Face's, and prepares images and texts as ModelScope 1.40
does.

Letters of shapes: N images or texts, R pixels a side, T ids a text, D size of the space.

Source: Chinese CLIP, arXiv:2211.01335; published as damo/multi-modal_clip-vit-* on ModelScope.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import Tensor
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from operators.models import checkpoint
from operators.models.chinese_clip_names import from_modelscope, to_modelscope
from operators.models.cpu import rows_at_once
from operators.models.directory import CLIP_FILES, expect
from operators.models.wordpiece import WordPiece, pad, read_vocabulary
from schemas.errors import ModelError

Rounding = Literal["fp16", "none"]
Vectors = npt.NDArray[np.float32]

CONTEXT_LENGTH = (
    52  # ids of a text, [CLS] and [SEP] included; `context_length` in ModelScope's CLIPPreprocessor
)
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16384}  # in the text tower
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, in [0, 1]
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MOST_LAYERS = 1000  # of a tower
HEAD_WIDTH = 64  # of the vision tower where the directory does not say

_NEEDED = (
    "embed_dim",
    "image_resolution",
    "vision_layers",
    "vision_width",
    "vision_patch_size",
    "vocab_size",
    "text_hidden_size",
    "text_intermediate_size",
    "text_max_position_embeddings",
    "text_num_attention_heads",
    "text_num_hidden_layers",
    "text_type_vocab_size",
)
_OPTIONAL = (
    "vision_head_width",
    "text_hidden_act",
    "text_attention_probs_dropout_prob",
    "text_hidden_dropout_prob",
    "text_initializer_range",
)
_PREFIXES = ("module.", "clip_model.")  # of a parallel wrapper; of a model fine-tuned in ModelScope
_UNUSED = re.compile(r"(bert|text_model)\.pooler\..*|.*\.(position_ids|token_type_ids)")
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError)


class ChineseClip:
    """Holds one set of weights and computes vectors with it.

    Args:
        model: in evaluation mode, on the device where it is to run.
        tokenizer: of the same directory.
        precision: of the arithmetic; weights stay float32.
    """

    def __init__(
        self, model: ChineseCLIPModel, tokenizer: WordPiece, precision: str = "float32"
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.precision = precision
        vision = _tower(model.config.vision_config)
        self.image_size: int = vision.image_size
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        self._widest: int = tokens * vision.intermediate_size  # numbers of an image in the net
        positions: int = _tower(model.config.text_config).max_position_embeddings
        self.context_length = min(CONTEXT_LENGTH, positions)
        self.dimension: int = model.text_projection.out_features

    @property
    def logit_scale(self) -> float:
        """What inner products are multiplied with before the softmax: 1 / temperature."""
        return float(self.model.logit_scale.detach().exp())

    def embed_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Returns float32 (N, D), rows of unit length; a row that is not finite is left so."""
        with self._arithmetic():
            pixels = prepare_images(images, self.image_size).to(self.model.device)  # (N, 3, R, R)
            some = torch.split(pixels, rows_at_once(self.model.device, self._widest))
            return _unit(torch.cat([self.model.get_image_features(p).pooler_output for p in some]))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Does for texts what `embed_images` does for images; those of like lengths together."""
        rows = [self.tokenizer.encode(text, limit=self.context_length) for text in texts]
        vectors = np.empty((len(rows), self.dimension), np.float32)
        with self._arithmetic():
            for places in _alike(rows, TOKENS_AT_ONCE[self.model.device.type]):
                ids = torch.tensor(pad([rows[place] for place in places])).to(self.model.device)
                mask = (ids != self.tokenizer.pad).long()  # (N, T), as the ids
                found = self.model.get_text_features(ids, attention_mask=mask).pooler_output
                vectors[places] = _unit(found)
        return vectors

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Computes in `precision`; float32 means float32, also in a GPU's convolutions."""
        device = self.model.device.type
        lower = self.precision != "float32"
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(device, dtype=getattr(torch, self.precision), enabled=lower),
        ):
            yield


def load(
    directory: Path, *, rounding: Rounding, precision: str = "float32", device: str = "cpu"
) -> ChineseClip:
    """Reads a directory of either layout.

    Args:
        directory: holds the configuration, the vocabulary and the weights.
        rounding: `fp16` rounds the weights as ModelScope does, except the logit scale and the
            vision tower's norms, class and position embeddings; the arithmetic stays as
            `precision` says.
        precision: a floating type of torch, by name.
        device: where to compute.

    Raises:
        ModelError: a file is missing, damaged or of another architecture; tensors are missing, left
            over or misshapen, all listed.
    """
    config = read_config(directory)
    tokenizer = read_vocabulary(directory)
    pieces, rows = max(tokenizer.vocabulary.values()) + 1, _tower(config.text_config).vocab_size
    if pieces > rows:
        raise ModelError(
            f"{directory}: the vocabulary has {pieces} pieces and the text tower {rows} rows; "
            "the vocabulary is of another model"
        )
    model = _build(config, _rounded(read_state(directory, config), rounding))
    model.train(mode=False).to(torch.device(device))
    return ChineseClip(model, tokenizer, precision)


def prepare_images(images: Sequence[Image.Image], size: int) -> Tensor:
    """Resizes to `size` x `size` pixels, aspect ratio not kept, nothing cropped, and normalises.

    The resize is in the image's own mode and RGB comes after it, as in ModelScope: it matters only
    for bilevel, palette and transparent images that were not made RGB before.

    Returns:
        float32 (N, 3, size, size).
    """
    mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB"))
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return scaled.sub_(mean).div_(std)


def read_config(directory: Path) -> ChineseCLIPConfig:
    """Reads the sizes of the net from a directory of either layout.

    Raises:
        ModelError: no Chinese CLIP, an unusable size, or a ResNet vision tower.
    """
    if expect(directory, "embedder").layout == "modelscope":
        return _modelscope_config(directory)
    path = directory / "config.json"
    return _checked(path, lambda: ChineseCLIPConfig.from_dict(checkpoint.read_json(path)))


def read_state(directory: Path, config: ChineseCLIPConfig) -> dict[str, Tensor]:
    """Reads the weights under transformers' names, each of the shape that `config` asks for.

    Raises:
        ModelError: lists what is missing, left over or misshapen, in the names of the file.
    """
    found = _without_prefix(checkpoint.load_state_dict(directory))
    found = {name: tensor for name, tensor in found.items() if not _UNUSED.fullmatch(name)}
    with torch.device("meta"):
        expected = dict(ChineseCLIPModel(config).state_dict())
    is_modelscope = expect(directory, "embedder").layout == "modelscope"
    if is_modelscope:
        expected = to_modelscope(expected)
    checkpoint.check_strict(expected, found, source=directory)
    return from_modelscope(found) if is_modelscope else found


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if next(iter(state), "").startswith(prefix):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _modelscope_config(directory: Path) -> ChineseCLIPConfig:
    sizes: dict[str, Any] = {}
    for name in CLIP_FILES:
        sizes |= checkpoint.read_json(directory / name)
    where = f"{directory}: {' and '.join(CLIP_FILES)}"
    absent = [name for name in _NEEDED if name not in sizes]
    unknown = [name for name in sizes if name not in (*_NEEDED, *_OPTIONAL)]
    if absent or unknown:
        lack = f" lack {', '.join(absent)};" if absent else ""
        extra = f" hold {', '.join(unknown)}, which no Chinese CLIP has;" if unknown else ""
        raise ModelError(f"{where}{lack}{extra} fetch the directory again")
    if isinstance(sizes["vision_layers"], list):
        raise ModelError(
            f"{where}: vision_layers is {sizes['vision_layers']!r}, a ResNet vision tower, which "
            "is not supported; the vision transformers are: base-patch16, large-patch14, "
            "large-patch14_336 and huge-patch14"
        )
    for name in (*_NEEDED, "vision_head_width"):
        size = sizes.get(name, HEAD_WIDTH)
        if type(size) is not int or size < 1:
            raise ModelError(
                f"{where}: {name} is {size!r}; it must be a whole number of at least 1"
            )
    head_width = sizes.get("vision_head_width", HEAD_WIDTH)
    if sizes["vision_width"] < head_width:
        raise ModelError(
            f"{where}: vision_width is {sizes['vision_width']}, narrower than one head of "
            f"{head_width}; give vision_head_width"
        )
    return _checked(directory, lambda: ChineseCLIPConfig(**_translated(sizes)))


def _translated(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """ModelScope's sizes in the words of transformers."""
    width = sizes["vision_width"]
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": width // sizes.get("vision_head_width", HEAD_WIDTH),
        "image_size": sizes["image_resolution"],
        "patch_size": sizes["vision_patch_size"],
        "projection_dim": sizes["embed_dim"],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    text = {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["text_hidden_size"],
        "intermediate_size": sizes["text_intermediate_size"],
        "num_hidden_layers": sizes["text_num_hidden_layers"],
        "num_attention_heads": sizes["text_num_attention_heads"],
        "max_position_embeddings": sizes["text_max_position_embeddings"],
        "type_vocab_size": sizes["text_type_vocab_size"],
        "hidden_act": sizes.get("text_hidden_act", "gelu"),
        "hidden_dropout_prob": sizes.get("text_hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": sizes.get("text_attention_probs_dropout_prob", 0.1),
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    return {"vision_config": vision, "text_config": text, "projection_dim": sizes["embed_dim"]}


def _checked(where: Path, make: Callable[[], ChineseCLIPConfig]) -> ChineseCLIPConfig:
    """Makes a configuration and tries it; what transformers refuses is a ModelError."""
    try:
        config = make()
        size = _tower(config.vision_config).image_size
        if not isinstance(size, int):
            raise TypeError(f"image_size is {size!r}; it must be one number")
        for tower in (_tower(config.vision_config), _tower(config.text_config)):
            if tower.num_hidden_layers > MOST_LAYERS:
                raise TypeError(f"{tower.num_hidden_layers} layers; at most {MOST_LAYERS} are made")
        with torch.device("meta"):
            ChineseCLIPModel(config)
    except (*_REFUSALS, StrictDataclassError) as error:
        raise ModelError(f"{where}: not the sizes of a Chinese CLIP: {error}") from error
    return config


def _rounded(state: Mapping[str, Tensor], rounding: Rounding) -> dict[str, Tensor]:
    return {
        name: (tensor.half() if rounding == "fp16" and not _is_kept(name) else tensor)
        .float()
        .contiguous()
        for name, tensor in state.items()
    }


def _is_kept(name: str) -> bool:
    """Whether ModelScope leaves a tensor in float32."""
    if name.startswith("vision_model."):
        return "norm" in name or name.endswith(("class_embedding", "position_embedding.weight"))
    return name == "logit_scale"


def _build(config: ChineseCLIPConfig, state: Mapping[str, Tensor]) -> ChineseCLIPModel:
    """Makes the net around the tensors, without a copy and without random weights first."""
    with torch.device("meta"):
        model = ChineseCLIPModel(config)
    model.load_state_dict(state, strict=True, assign=True)
    for name, buffer in dict(
        model.named_buffers()
    ).items():  # not in any file: positions 0, 1, 2, …; types 0
        owner, _, leaf = name.rpartition(".")
        counted = torch.arange(buffer.shape[-1]).view(1, -1)
        value = counted if leaf == "position_ids" else torch.zeros_like(counted)
        model.get_submodule(owner).register_buffer(leaf, value, persistent=False)
    return model


def _alike(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of all rows, the shortest first, as many at a time as have `tokens` when padded."""
    places: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if places and (len(places) + 1) * len(rows[place]) > tokens:
            yield places
            places = []
        places.append(place)
    if places:
        yield places


def _unit(features: Tensor) -> Vectors:
    features = features.float()
    unit: Vectors = (features / features.norm(dim=-1, keepdim=True)).cpu().numpy()
    return unit


def _tower(config: object) -> Any:
    """The configuration of one tower; transformers declares it as a dictionary or None as well."""
    return config
