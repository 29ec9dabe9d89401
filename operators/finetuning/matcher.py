"""mPLUG's image-text retrieval as a trainee: contrast with momentum, and matching of hard pairs.

Features of slowly following copies of the encoders make the targets softer and the candidates more:
a queue holds those of the last batches. Then pairs are matched: the true ones, and for each text
and each image a wrong one, drawn the likelier the more similar it is.

Letters: B pairs, N image tokens, T text tokens, D width, E width of the contrastive features, Q
candidates in the queue.

Source: mPLUG, arXiv:2205.12005; ALBEF, arXiv:2107.07651; ModelScope 1.40, mplug_for_retrieval.py.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.finetuning import mplug
from operators.finetuning.losses import contrast_with_momentum, draw_negatives
from operators.finetuning.trainee import Batch, Figures, Step, set_training
from operators.finetuning.workers import Workers
from operators.models.checkpoint import load_state_dict
from operators.models.directory import expect
from operators.models.mplug.config import CONFIG, read_for_matching, read_yaml
from operators.models.mplug.model import MPlugMatchNet
from operators.models.mplug.reader import Reader, read_words
from operators.models.mplug.weights import load_matcher
from operators.models.wordpiece import pad

if TYPE_CHECKING:
    from PIL.Image import Image

MOMENTUM = 0.995  # whatever config.yaml says
ALPHA = 0.4  # of the targets is what the following copies find
TEMPERATURES = (0.001, 0.5)
QUEUE = 65_536  # candidates, where config.yaml does not say
NOBODY = -100  # the image of a candidate that is of no image
FOLLOWED = (
    "visual_encoder",
    "visn_fc",
    "visn_layer_norm",
    "text_encoder",
    "vision_proj",
    "text_proj",
)


@dataclass
class Queue:
    """The last candidates. Shapes: images and texts (Q, E); numbers (Q,), of their images."""

    images: Tensor
    texts: Tensor
    numbers: Tensor
    place: int = 0  # of the next one

    def put(self, images: Tensor, texts: Tensor, numbers: Tensor) -> None:
        """Overwrites the oldest."""
        if not len(self.numbers):
            return
        at = (torch.arange(len(numbers), device=numbers.device) + self.place) % len(self.numbers)
        self.images[at], self.texts[at], self.numbers[at] = images, texts, numbers
        self.place = (self.place + len(numbers)) % len(self.numbers)


class MatcherTrainee:
    """An mPLUG retrieval directory in training.

    Args:
        directory: in ModelScope's format; momentum copies and queue are taken from it where it has
            them.
        has_checkpoints: whether layers are computed again on the way back, to save memory.
    """

    columns: tuple[str, ...] = ("text",)
    rules = mplug.RULES

    def __init__(self, directory: Path, *, has_checkpoints: bool = False) -> None:
        expect(directory, "matcher")
        self.directory = directory
        config = read_for_matching(directory)
        self.words = read_words(directory, config)
        self.reader = Reader(load_matcher(directory))
        self.model = self.reader.net
        self.net: nn.Module = self.model
        self.followers = _followers(self.model)
        self.queue = _new_queue(directory, config.embed_dim)
        mplug.prepare(self.model, has_checkpoints=has_checkpoints)
        found = load_state_dict(directory, is_mapped=True)
        self.remember({name.replace("model.", ""): tensor for name, tensor in found.items()})

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Shapes: pixels (B, 3, S, S); ids and mask (B, T); numbers (B,), of the images."""
        ids = [self.words.encode(row["text"].lower(), limit=mplug.LONGEST) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.tensor(pad(ids))
        return {
            "pixels": self.reader.pixels(images),
            "ids": padded,
            "mask": torch.arange(padded.shape[1]) < lengths[:, None],
            "numbers": torch.tensor(list(numbers)),
        }

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Adds the gradients of each part, weighed by its rows; a part has its own negatives."""
        rows = step.workers.total(sum(len(part["ids"]) for part in parts))
        self.follow()
        figures = {"loss": 0.0, "contrast": 0.0, "match": 0.0}
        for number, part in enumerate(parts):
            step.begin(number)
            contrast, match = self.losses(part, step.workers)
            weight = len(part["ids"]) / rows
            step.backward((contrast + match) * weight)
            figures["contrast"] += contrast.item() * weight
            figures["match"] += match.item() * weight
        figures["loss"] = figures["contrast"] + figures["match"]
        return figures

    def losses(self, part: Batch, workers: Workers | None = None) -> tuple[Tensor, Tensor]:
        """The contrastive and the matching loss of a batch; its candidates enter the queue."""
        net, mask, numbers = self.model, part["mask"], part["numbers"]
        images, texts = net.see(part["pixels"]), net.read(part["ids"], mask)
        own = net.image_feature(images).float(), net.text_feature(texts).float()
        with torch.no_grad():
            followed = self._followed(part)
        same = numbers[:, None] == torch.cat([numbers, self.queue.numbers])
        with torch.autocast(images.device.type, enabled=False):  # cosines need float32
            similar = self._similarities(own, followed, net.temp)
            softer = self._similarities(followed, followed, net.temp.detach())
            pairs = zip(similar, softer, strict=True)
            losses = [contrast_with_momentum(*pair, same, ALPHA) for pair in pairs]
        contrast = torch.stack(losses).mean()
        count = len(numbers)
        match = self._match(images, texts, mask, same[:, :count], [s[:, :count] for s in similar])
        self._enqueue(followed, numbers, workers or Workers())
        return contrast, match

    def pair_logits(
        self, images: Tensor, texts: Tensor, mask: Tensor, image_for: Tensor, text_for: Tensor
    ) -> Tensor:
        """Scores true pairs, then each text with a wrong image, then each image with a wrong text.

        Shapes: image_for and text_for (B,), positions of the wrong ones; returns (3 B, 2).
        """
        seen = torch.cat([images, images[image_for], images])
        read = torch.cat([texts, texts, texts[text_for]])
        return self.model.match(seen, read, torch.cat([mask, mask, mask[text_for]]))

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the following copies a little towards the encoders."""
        for name, follower in self.followers.items():
            trained = self.model.get_submodule(name)
            for slow, now in zip(follower.parameters(), trained.parameters(), strict=True):
                slow.mul_(MOMENTUM).add_(now, alpha=1 - MOMENTUM)

    def settle(self) -> None:
        """Holds the temperature within bounds."""
        with torch.no_grad():
            self.model.temp.clamp_(*TEMPERATURES)

    def to(self, device: torch.device) -> None:
        """Moves the net, its copies and the queue."""
        self.net.to(device)
        self.followers.to(device)
        for name in ("images", "texts", "numbers"):
            setattr(self.queue, name, getattr(self.queue, name).to(device))

    def memory(self) -> dict[str, Tensor]:
        """The copies and the queue, by their published names."""
        copies = {
            f"{name}_m.{leaf}": tensor
            for name, follower in self.followers.items()
            for leaf, tensor in follower.state_dict().items()
        }
        return copies | {
            "image_queue": self.queue.images.T,
            "text_queue": self.queue.texts.T,
            "idx_queue": self.queue.numbers[None],
            "queue_ptr": torch.tensor([self.queue.place]),
        }

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Takes what is there of copies and queue; the rest stays as it is."""
        with torch.no_grad():
            for name, tensor in self.memory().items():
                found = memory.get(name)
                if found is not None and found.shape == tensor.shape and name != "queue_ptr":
                    tensor.copy_(found)
                elif found is not None and name == "queue_ptr":
                    self.queue.place = int(found[0]) % max(1, len(self.queue.numbers))

    def write(self, directory: Path) -> None:
        """Writes ModelScope's layout; copies and queue where the file had them before."""
        had = load_state_dict(self.directory, is_mapped=True)
        names = {name.replace("model.", "") for name in had}
        memory = {name: tensor for name, tensor in self.memory().items() if name in names}
        mplug.write_whole(self.directory, directory, {**memory, **self.model.state_dict()})

    def _followed(self, part: Batch) -> tuple[Tensor, Tensor]:
        """What the copies make of images and texts, (B, E) each, of unit length."""
        copies = self.followers
        seen = copies["visn_layer_norm"](
            copies["visn_fc"](copies["visual_encoder"](part["pixels"]))
        )
        read = copies["text_encoder"](part["ids"], part["mask"])
        unit = functional.normalize
        images = unit(copies["vision_proj"](seen[:, 0]).float(), dim=-1)
        return images, unit(copies["text_proj"](read[:, 0]).float(), dim=-1)

    def _similarities(
        self, asking: tuple[Tensor, Tensor], candidates: tuple[Tensor, Tensor], temp: Tensor
    ) -> list[Tensor]:
        """Logits of images asking for texts, and of texts asking for images, (B, B + Q) each."""
        images, texts = (
            torch.cat([some, queued])
            for some, queued in zip(candidates, (self.queue.images, self.queue.texts), strict=True)
        )
        return [asking[0] @ texts.T / temp, asking[1] @ images.T / temp]

    def _match(
        self, images: Tensor, texts: Tensor, mask: Tensor, same: Tensor, similar: Sequence[Tensor]
    ) -> Tensor:
        """The matching loss; 0 where a batch has no two images."""
        if bool(same.all(dim=1).any()):
            return images.sum() * 0.0
        image_for = draw_negatives(similar[1], same)
        text_for = draw_negatives(similar[0], same)
        logits = self.pair_logits(images, texts, mask, image_for, text_for)
        truth = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        truth[: len(images)] = 1
        return functional.cross_entropy(logits, truth)

    def _enqueue(self, followed: tuple[Tensor, Tensor], numbers: Tensor, workers: Workers) -> None:
        """Puts the candidates of all workers into the queue, in the same order everywhere."""
        parts = []
        for own in (*followed, numbers):
            others = workers.others(own) if workers.size > 1 else []
            parts.append(torch.cat([*others[: workers.rank], own, *others[workers.rank :]]))
        self.queue.put(*parts)


def _followers(net: MPlugMatchNet) -> nn.ModuleDict:
    copies = {name: copy.deepcopy(net.get_submodule(name)) for name in FOLLOWED}
    followers = nn.ModuleDict(copies).requires_grad_(requires_grad=False)
    set_training(followers, is_on=True)
    return followers


def _new_queue(directory: Path, width: int) -> Queue:
    """A queue of random candidates that are of no image, as the published class begins with."""
    found = read_yaml(directory / CONFIG).get("queue_size", QUEUE)
    size = found if type(found) is int and found >= 0 else QUEUE
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, width, generator=generator) for _ in range(2)]
    images, texts = (functional.normalize(vectors, dim=-1) for vectors in drawn)
    return Queue(images, texts, torch.full((size,), NOBODY))
