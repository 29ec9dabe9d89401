"""The small mPLUG's files: its sizes, its vocabulary, and the two directories it ships as.

Captioner and matcher have the same image tower, trained once; each directory, in ModelScope's
layout, holds what its task uses. The vocabulary has the words of captions whole and the letters of
all others; its special tokens have the numbers that BERT's have, for the published generation
begins and ends with 101 and 102 whatever the vocabulary says.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file
from torch import Tensor, nn

from operators.embedded.kinds import (
    ANIMAL_STATES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    THING_STATES,
)
from operators.models.checkpoint import write_json
from operators.models.mplug.config import MPlugConfig

PAD, UNKNOWN, START, END, MASK = 0, 100, 101, 102, 103
NAMES = {PAD: "[PAD]", UNKNOWN: "[UNK]", START: "[CLS]", END: "[SEP]", MASK: "[MASK]"}
OTHER_WORDS = (
    "an the of to in on at and with is are it there some no picture background "
    "left right above below"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,!?-'\""
IMAGE_SIZE = 96  # pixels a side
PATCH = 16
VISION_WIDTH = 192
VISION_LAYERS = 4
LONGEST = 18  # tokens of a caption, its end included
VISION = {
    "bert_config": "config_bert.json",
    "image_res": IMAGE_SIZE,
    "vision_width": VISION_WIDTH,
    "clip_name": "ViT-B-16",  # says the size of a patch
    "clip_embed_dim": 128,
    "clip_image_resolution": IMAGE_SIZE,
    "clip_vision_layers": VISION_LAYERS,
    "clip_vision_width": VISION_WIDTH,
    "clip_vision_patch_size": PATCH,
}
GENERATION = {"beam_size": 5, "min_length": 1, "max_length": LONGEST}
RETRIEVAL = {"embed_dim": 128, "temp": 0.07, "distill": False, "queue_size": 0}
TEXT = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "pad_token_id": PAD,
    "initializer_range": 0.02,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "encoder_width": 128,
    "text_encoder_layers": 2,
    "fusion_layers": 3,
    "num_hidden_layers": 3,  # as many as run: there are no dead ones
    "text_decode_layers": 2,
    "stride_layer": 6,
}
TASKS = {"mplug-captioner": "image-captioning", "matcher": "image-text-retrieval"}


def vocabulary() -> list[str]:
    """Lists the pieces in the order of their ids."""
    words = [name for kind in KINDS for name in (kind.name, kind.plural)]
    words += [word for word, _ in COLOURS + COUNTS]
    words += [
        word for where in BACKGROUNDS for word in f"{where.english} {where.statement}".split()
    ]
    words += [*ANIMAL_STATES, *THING_STATES, *OTHER_WORDS.split()]
    unused = (f"[unused{number}]" for number in range(MASK))
    specials = [NAMES.get(number) or next(unused) for number in range(MASK + 1)]
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *PUNCTUATION]
    return list(dict.fromkeys(specials + letters + sorted(set(words))))


def network(name: str) -> MPlugConfig:
    """The sizes of the net of a directory of `TASKS`."""
    with TemporaryDirectory() as folder:
        write_settings(name, Path(folder))
        return MPlugConfig.read(Path(folder))


def write_directory(net: nn.Module, name: str, directory: Path) -> Path:
    """Writes the folder `name`, of `TASKS`, of `directory`: everything but the training's record.

    The weights are rounded to float16.
    """
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(name, folder)
    save_file(halves(net), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_settings(name: str, folder: Path) -> None:
    """Writes what stands beside the weights."""
    pieces = vocabulary()
    task = TASKS[name]
    own = GENERATION if task == "image-captioning" else RETRIEVAL
    settings = {"task": task, **VISION, **own}
    lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]  # JSON is YAML too
    (folder / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "config_bert.json", {**TEXT, "vocab_size": len(pieces)})
    write_json(
        folder / "configuration.json",
        {
            "framework": "pytorch",
            "task": task,
            "model": {"type": "mplug"},
            "pipeline": {"type": task},
        },
    )
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def halves(net: nn.Module) -> dict[str, Tensor]:
    """The tensors as they are stored; each once, under its first name."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in net.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            stored[name] = (
                tensor.detach().half() if tensor.is_floating_point() else tensor.detach()
            ).contiguous()
    return stored
