"""What captioning and entailment with OFA have in common when they are trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from operators.finetuning.trainee import Rules, recompute, set_training
from operators.models.checkpoint import read_json
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.model import OFAModel, load
from operators.models.ofa.reader import Reader
from operators.models.ofa.settings import Settings
from operators.models.ofa.tokenizer import OFATokenizer
from schemas.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

VOCABULARY = ("vocab.json", "merges.txt")
RULES = Rules(  # everything is decayed, as by fairseq's Adam
    parts={
        "vision": ("encoder.embed_images.",),
        "encoder": ("encoder.",),
        "embeddings": ("encoder.embed_tokens.",),
    }
)


def read_for_training(directory: Path, *, has_checkpoints: bool = False) -> Reader:
    """Reads a directory, its batch norms not folded away.

    Args:
        directory: in ModelScope's format.
        has_checkpoints: whether layers are computed again on the way back, to save memory.

    Raises:
        ModelError: a file is missing or damaged, or the files do not fit each other.
    """
    net, settings = load(directory), Settings.read(directory)
    tokenizer = OFATokenizer(directory, net.config.vocab_size)
    set_training(net, is_on=True)
    if has_checkpoints:
        blocks = net.encoder.embed_images
        stages = [*blocks.layer1, *blocks.layer2, *blocks.layer3]
        recompute([*stages, *net.encoder.layers, *net.decoder.layers])
    return Reader(net, tokenizer, settings, "float32")


class Teacher:
    """A larger model whose probabilities are learned from.

    Args:
        directory: of the same task as the trainee's.
        pupil: the trainee's directory.

    Raises:
        ModelError: its vocabulary is another, so that its probabilities mean other tokens.
    """

    def __init__(self, directory: Path, pupil: Path) -> None:
        for name in VOCABULARY:
            if (directory / name).read_bytes() != (pupil / name).read_bytes():
                raise ModelError(
                    f"{directory / name}: differs from {pupil / name}; a teacher must have the "
                    "vocabulary of the model it teaches"
                )
        if OFAConfig.read(directory).vocab_size != OFAConfig.read(pupil).vocab_size:
            raise ModelError(f"{directory}: 'vocab_size' is another than that of {pupil}")
        self.reader = read_for_training(directory)
        self.net: nn.Module = self.reader.net
        self.net.requires_grad_(requires_grad=False)
        set_training(self.net, is_on=False)

    @torch.no_grad()
    def states(self, pixels: Tensor, source: Tensor, given: Tensor) -> Tensor:
        """What its decoder makes of each token, (B, U, D); arguments as of `decoder_states`."""
        return decoder_states(self.reader.net, pixels, source, given)


def decoder_states(net: OFAModel, pixels: Tensor, source: Tensor, given: Tensor) -> Tensor:
    """Reads images, prompts and answers.

    Shapes: pixels (B, 3, S, S); source (B, T) and given (B, U) int64, padded with 1; returns
    (B, U, D).
    """
    memory = net.encode(net.encode_image_features(pixels), source)
    states: Tensor = net.decoder(memory, given)
    return states


def pixels_for(
    reader: Reader, teacher: Teacher | None, images: "Sequence[Image]"
) -> dict[str, Tensor]:
    """The pixels that a net wants, and those that its teacher wants."""
    cpu = torch.device("cpu")
    wanted = {"pixels": reader.pixels(images, device=cpu)}
    if teacher:
        wanted["teacher_pixels"] = teacher.reader.pixels(images, device=cpu)
    return wanted


def longest_target(directory: Path, default: int) -> int:
    """Words of a target that count: `max_tgt_length` of configuration.json."""
    model = read_json(directory / "configuration.json").get("model")
    found = model.get("max_tgt_length", default) if isinstance(model, dict) else default
    return found if type(found) is int and found > 0 else default
