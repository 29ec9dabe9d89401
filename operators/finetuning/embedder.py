"""Chinese CLIP as a trainee: each image against its text, and all others of the batch.

ModelScope 1.40's training is followed: symmetric cross entropy over the gathered batch, the
temperature held within bounds after each step, weight decay by ModelScope's names. A text with
several images in one batch counts them as negatives, as published.

Letters: N pairs of a worker, D size of the space.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.finetuning.augmentation import augment
from operators.finetuning.losses import in_batch_recall, shared
from operators.finetuning.trainee import Batch, Figures, Rules, Step, recompute, set_training
from operators.finetuning.weights import write_directory
from operators.models import chinese_clip, chinese_clip_names
from operators.models.directory import expect
from operators.models.wordpiece import pad
from operators.training import contrastive_loss

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_SCALE = math.log(100)  # of the logit scale, 4.6052; the least is 0
UNDECAYED = ("bn", "ln", "bias", "logit_scale")  # parts of ModelScope's names

Pairs = tuple[Tensor, Tensor]


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """BERT's norms are decayed, being called LayerNorm; all others and biases are not."""
    return not any(sign in name for sign in UNDECAYED)


RULES = Rules(
    published_name=chinese_clip_names.published_name,
    is_decayed=is_decayed,
    parts={"vision": ("visual.",), "text": ("bert.", "text_projection")},
)


class EmbedderTrainee:
    """A Chinese CLIP directory in training.

    Args:
        directory: of either layout.
        is_augmented: whether images are cropped, mirrored and changed as published.
        has_checkpoints: whether layers are computed again on the way back, to save memory.
    """

    columns: tuple[str, ...] = ("text",)
    rules = RULES

    def __init__(
        self, directory: Path, *, is_augmented: bool = True, has_checkpoints: bool = False
    ) -> None:
        self.directory = directory
        self.is_augmented = is_augmented
        self.is_modelscope = expect(directory, "embedder").layout == "modelscope"
        rounding: chinese_clip.Rounding = "fp16" if self.is_modelscope else "none"
        self.clip = chinese_clip.load(directory, rounding=rounding)  # where published runs begin
        self.model = self.clip.model
        self.net: nn.Module = self.model
        set_training(self.net, is_on=True)
        if has_checkpoints:
            recompute(
                [*self.model.vision_model.encoder.layers, *self.model.text_model.encoder.layer]
            )

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Shapes: pixels (N, 3, R, R); ids (N, T) int64, 0 for padding."""
        if draws is not None and self.is_augmented:
            size = self.clip.image_size
            pairs = zip(images, draws, strict=True)
            images = [augment(image, size, random) for image, random in pairs]
        ids = [
            self.clip.tokenizer.encode(row["text"], limit=self.clip.context_length) for row in rows
        ]
        pixels = chinese_clip.prepare_images(images, self.clip.image_size)
        return {"pixels": pixels, "ids": torch.tensor(pad(ids))}

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Contrasts the whole batch, in parts or not: first all features, then their gradients."""
        if len(parts) == 1:
            step.begin(0)
            images, texts = self.features(parts[0])
            loss, recall = self._contrast(images, texts, step)
            step.backward(loss)
        else:
            loss, recall = self._learn_in_parts(parts, step)
        size = step.workers.size
        return {"loss": loss.item() / size, "batch_recall": recall / size}

    def features(self, batch: Batch) -> Pairs:
        """Computes image and text vectors of unit length, (N, D) each."""
        ids = batch["ids"]
        mask = (ids != self.clip.tokenizer.pad).long()
        images = self.model.get_image_features(batch["pixels"]).pooler_output
        texts = self.model.get_text_features(ids, attention_mask=mask).pooler_output
        unit = functional.normalize
        return unit(images.float(), dim=-1), unit(texts.float(), dim=-1)

    def settle(self) -> None:
        """Holds the logit scale between 0 and 4.6052."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, LARGEST_SCALE)

    def to(self, device: torch.device) -> None:
        """Moves the net."""
        self.net.to(device)

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing is to be remembered."""

    def write(self, directory: Path) -> None:
        """Writes the layout that was read."""
        state = dict(self.model.state_dict())
        if self.is_modelscope:
            state = chinese_clip_names.to_modelscope(state)
        write_directory(self.directory, directory, state)

    def _contrast(self, images: Tensor, texts: Tensor, step: Step) -> tuple[Tensor, float]:
        """The loss of the joined batch; a worker's share are the gradients of its own rows."""
        workers = step.workers
        scale = shared(self.model.logit_scale, workers.size).exp()
        images, texts = workers.gather(images), workers.gather(texts)
        with torch.autocast(images.device.type, enabled=False):  # cosines need float32
            loss = contrastive_loss(images, texts, scale)
            return loss, in_batch_recall(images.detach(), texts.detach())

    def _learn_in_parts(self, parts: Sequence[Batch], step: Step) -> tuple[Tensor, float]:
        """Computes each part twice, so that only one part's activations are held at a time."""
        found = []
        with torch.no_grad():
            for number, part in enumerate(parts):
                step.begin(number)
                found.append(self.features(part))
        images, texts = (torch.cat(some).requires_grad_() for some in zip(*found, strict=True))
        loss, recall = self._contrast(images, texts, step)
        step.backward(loss)
        assert images.grad is not None
        assert texts.grad is not None
        counts = [len(part["ids"]) for part in parts]
        halves = (torch.split(slope, counts) for slope in (images.grad, texts.grad))
        gradients = zip(*halves, strict=True)
        for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            step.begin(number)
            pairs = zip(self.features(part), gradient, strict=True)
            needed = [(vectors, slope) for vectors, slope in pairs if vectors.requires_grad]
            if needed:
                vectors, slopes = zip(*needed, strict=True)
                torch.autograd.backward(vectors, slopes)
        return loss, recall
