"""The smallest mPLUG directories, for tests that compare with no golden."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from operators.models.mplug.config import OF_YAML, MPlugConfig
from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet

CAPTIONING, MATCHING = "image-captioning", "image-text-retrieval"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cup", "cat", "a"),
    *(f"##{letter}" for letter in LETTERS),
)
SMALL = MPlugConfig(
    image_res=36,  # of which a patch of 16 leaves 4 pixels unseen
    clip_vision_width=64,
    clip_vision_layers=1,
    clip_vision_patch_size=16,
    embed_dim=8,
    beam_size=3,
    min_length=1,
    max_length=6,
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=48,
    num_hidden_layers=4,
    text_encoder_layers=1,
    fusion_layers=3,
    text_decode_layers=1,
    stride_layer=2,
    vocab_size=len(VOCABULARY),
    max_position_embeddings=32,
    initializer_range=0.3,
)


def write(folder: Path, task: str, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a directory in ModelScope's layout.

    Args:
        folder: to be made.
        task: CAPTIONING or MATCHING.
        seed: of the weights.
        changes: fields of the config.
    """
    config = replace(SMALL, **changes)
    torch.manual_seed(seed)
    net = MPlugCaptionNet(config) if task == CAPTIONING else MPlugMatchNet(config)
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    configuration = {"framework": "pytorch", "task": task, "model": {"type": "mplug"}}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    values = dict(vars(config))
    settings = {name: values.pop(name) for name in OF_YAML}
    settings |= {"task": task, "vision_width": config.clip_vision_width}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "config_bert.json").write_text(json.dumps(values))
    return folder


def edit(folder: Path, file: str, **changes: Any) -> Path:
    """Changes values of a configuration in place; None takes a key out."""
    path = folder / file
    read = yaml.safe_load if path.suffix == ".yaml" else json.loads
    values = {k: v for k, v in {**read(path.read_text()), **changes}.items() if v is not None}
    path.write_text(yaml.safe_dump(values) if path.suffix == ".yaml" else json.dumps(values))
    return folder
