"""The recipe of the embedded captioner and entailment checker: one small OFA learns both.

An image is seen once and read with the captioner's prompt, answered with its caption, and with the
entailment checker's about two hypotheses.

Heads at three depths predict what stands in each cell (see `curriculum`), and are thrown away. The
vectors of cells are also compared with those of the nouns, singular and plural: so a word finds
its thing long before sentences teach it. Last, nouns in a hypothesis are taught what is known of
their thing in the picture, which is what it takes to judge counts and relations.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from operators.embedded.curriculum import (
    IGNORED,
    LABEL_CLASSES,
    crowded_scenes,
    label_points,
    labels_by_kind,
    training_scenes,
)
from operators.embedded.describer_files import (
    ANSWERS,
    CAPTION_PROMPT,
    HYPOTHESIS_PROMPT,
    IMAGE_SIZE,
    WIDTH,
    build_tokenizer,
    network,
    vocabulary,
    write_directories,
)
from operators.embedded.hypotheses import LABELS, Label, write_hypotheses, write_pair
from operators.embedded.kinds import KINDS
from operators.embedded.scenes import SIZE, Scene, describe, draw, draw_scenes
from operators.models.ofa.model import OFAModel
from operators.models.ofa.tokenizer import BOS, EOS, PAD, pad
from operators.training import DenseHeads, token_loss, trapezoid_rate

CELLS = 5  # a side: one for every 16 pixels begun
CELL_POINTS = np.arange(CELLS) * (16 * SIZE / IMAGE_SIZE)  # pixels of the drawing
FEATURES = 1024  # of the ResNet
SMOOTHING = 0.02  # of the captions' targets
FIRST_WEIGHTS = {"seen": (0.15,) * 4, "read": (0.15,) * 4, "named": (0.15,)}  # as LABEL_CLASSES
LATER_WEIGHTS = {"seen": (2.0, 0.5, 0.0, 0.0), "read": (0.5, 0.15, 0.15, 0.15), "named": (0.3,)}
LATER_FROM = 22_528  # images: by then sentences are well formed, but a third of the kinds are wrong
CROWDS_FROM, CROWDS_TO = 23_296, 51_200  # images: of these, two steps in three only learn to see
FALSE_FROM = 84_480  # images: from here on every image comes with a hypothesis that is false
HYPOTHESES = 2  # of an image in a step
PAIRS_FROM = 114_048  # images: from here on the ResNet rests and most hypotheses are hard pairs
SETTLED_STEP = PAIRS_FROM // 128  # training goes on from the running average
TOKEN_WEIGHTS = (0.3, 0.3, 0.3, 0.3)  # as LABEL_CLASSES
LONGEST = 16  # tokens of a caption, its end included


class DescriberRecipe:
    """Everything about training the captioner and entailment checker but the loop.

    Args:
        seed: fixes the first weights and the scenes.
    """

    images = 160_128  # shown in all
    batch = 64  # images a step and process
    peak_rate = 1.2e-3
    decay = 0.02
    warmup = 60  # steps
    falling = 0.28  # of the first 980 steps, the last ones, in which the rate falls to nothing
    last_rate = 1.0e-3  # from the settled step on, falling to nothing
    settled_step: int | None = SETTLED_STEP

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.tokens = vocabulary()
        self.tokenizer = build_tokenizer(self.tokens)
        self.model = OFAModel(network(len(self.tokens)))
        self.feature_heads = DenseHeads(FEATURES, LABEL_CLASSES)
        self.state_heads = DenseHeads(WIDTH, LABEL_CLASSES)
        parts = {"model": self.model, "features": self.feature_heads, "states": self.state_heads}
        self.module = nn.ModuleDict(parts)
        self.answers = torch.tensor([self.ids(ANSWERS[label])[0] for label in LABELS])
        self.nouns = torch.tensor(
            [[self.ids(f" {noun}")[0] for noun in (kind.name, kind.plural)] for kind in KINDS]
        )
        self.kinds = {
            token: kind for kind, forms in enumerate(self.nouns.tolist()) for token in forms
        }

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: a trapezoid ended early, then a fall from `last_rate`."""
        if step < SETTLED_STEP:
            return trapezoid_rate(
                step, 980, peak=self.peak_rate, warmup=self.warmup, falling=self.falling
            )
        return self.last_rate * (steps - step) / (steps - SETTLED_STEP)

    def loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss of the batch whose scenes begin with number `first`."""
        if CROWDS_FROM <= first < CROWDS_TO and first // (2 * self.batch) % 3 > 0:
            return self.seeing_loss(first)
        scenes = training_scenes(self.seed, first, self.batch)
        random = Random(f"tagline labels {self.seed} {first}")
        chosen = [
            choose(random, scene, write_hypotheses(scene, self.seed, first + n, "training"), first)
            for n, scene in enumerate(scenes)
        ]
        hypotheses = [one for several in zip(*chosen, strict=True) for one in several]
        labels = labels_of(scenes)
        is_resting = first >= PAIRS_FROM
        with torch.set_grad_enabled(not is_resting):
            self.model.encoder.embed_images.train(not is_resting)
            features = self.model.encode_image_features(pixels_of(scenes))
        caption, states = self.caption_loss(features, [describe(scene) for scene in scenes])
        several = len(chosen[0])
        answer, tokens, hits = self.answer_loss(
            features.repeat(several, 1, 1, 1), hypotheses, scenes * several
        )
        weights = LATER_WEIGHTS if first >= LATER_FROM else FIRST_WEIGHTS
        cells = features.flatten(2).transpose(1, 2)
        seen = self.feature_heads.loss(cells, labels, weights["seen"])
        read = self.state_heads.loss(states, labels, weights["read"])
        named = weights["named"][0] * self.naming_loss(features, labels[:, 0])
        parts = {"caption": caption, "answer": answer, "seen": seen, "read": read, "named": named}
        total = caption + answer + seen + read + named
        if is_resting:
            total, parts["tokens"] = total + tokens, tokens
        return total, {name: part.item() for name, part in parts.items()} | {"hits": hits}

    def seeing_loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Trains the ResNet alone, on pictures full of things."""
        scenes = crowded_scenes(self.seed, first, self.batch)
        labels = labels_of(scenes)
        features = self.model.encode_image_features(pixels_of(scenes))
        cells = features.flatten(2).transpose(1, 2)
        seen = self.feature_heads.loss(cells, labels, LATER_WEIGHTS["seen"])
        named = LATER_WEIGHTS["named"][0] * self.naming_loss(features, labels[:, 0])
        return seen + named, {"crowd_seen": seen.item(), "crowd_named": named.item()}

    def caption_loss(self, features: Tensor, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Teacher forcing; also returns what the encoder made of the cells, (B, C, D)."""
        prompt = torch.tensor([self.source(CAPTION_PROMPT)]).expand(len(captions), -1)
        targets = [[*self.ids(f" {caption}"), EOS] for caption in captions]
        given = pad([[BOS, *target[:-1]] for target in targets])
        wanted = pad(targets)
        memory = self.model.encode(features, prompt)
        logits = self.model.logits(self.model.decoder(memory, given))
        loss = token_loss(logits, wanted.masked_fill(wanted == PAD, IGNORED), smoothing=SMOOTHING)
        return loss, memory.states[:, : CELLS * CELLS]

    def answer_loss(
        self, features: Tensor, hypotheses: list[tuple[str, Label]], scenes: list[Scene]
    ) -> tuple[Tensor, Tensor, float]:
        """Cross entropy over the answers; that of what nouns know; the share that is right."""
        scores, states, sources = self.answer_scores(features, [text for text, _ in hypotheses])
        labels = torch.tensor([LABELS.index(label) for _, label in hypotheses])
        hits = (scores.argmax(1) == labels).float().mean().item()
        known = self.label_nouns(sources, scenes)
        tokens = self.state_heads.loss(states[:, CELLS * CELLS :], known, TOKEN_WEIGHTS)
        return functional.cross_entropy(scores, labels), tokens, hits

    def answer_scores(
        self, features: Tensor, hypotheses: list[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores each answer as the word after the prompt.

        Returns:
            (B, 3), in the order of `LABELS`; what the encoder made of cells and prompts,
            (B, C + T, D); the prompts, (B, T).
        """
        rows = [self.source(HYPOTHESIS_PROMPT.format(text)) for text in hypotheses]
        sources = pad(rows)
        memory = self.model.encode(features, sources)
        states = self.model.decoder(memory, pad([row[:-1] for row in rows]))
        last = torch.tensor([len(row) - 2 for row in rows])
        scores = self.model.logits(states[torch.arange(len(last)), last])[:, self.answers]
        return scores, memory.states, sources

    def label_nouns(self, sources: Tensor, scenes: list[Scene]) -> Tensor:
        """What is there of each noun in a prompt: (B, K, T); kind 0 where nothing is."""
        labels = np.full((len(scenes), len(LABEL_CLASSES), sources.shape[1]), IGNORED)
        for row, (source, scene) in enumerate(zip(sources.tolist(), scenes, strict=True)):
            there = labels_by_kind(scene)
            for position, token in enumerate(source):
                if token in self.kinds:
                    label = there.get(self.kinds[token], (0, IGNORED, IGNORED, IGNORED))
                    labels[row, :, position] = label
        return torch.from_numpy(labels)

    def naming_loss(self, features: Tensor, kinds: Tensor) -> Tensor:
        """Cross entropy of cells' vectors against nouns': kinds (B, C), 0 where nothing is."""
        cells = self.model.encoder.image_proj(features.flatten(2).transpose(1, 2))  # (B, C, D)
        shown = functional.layer_norm(cells[kinds > 0], cells.shape[-1:])
        wanted = kinds[kinds > 0] - 1
        nouns = self.model.encoder.embed_tokens.weight[self.nouns]  # (K, 2, D)
        losses = [functional.cross_entropy(shown @ nouns[:, form].T, wanted) for form in (0, 1)]
        return torch.stack(losses).mean()

    @torch.inference_mode()
    def evaluate(self, model: nn.ModuleDict, *, seed: int, count: int = 500) -> dict[str, float]:
        """Measures exact captions and entailment on a user's seed, with the weights of `model`."""
        trained, self.model = self.model, as_ofa(model["model"])
        scenes = list(draw_scenes(count, seed))
        right, answers = 0, []
        for begin in range(0, count, 50):
            part = scenes[begin : begin + 50]
            features = self.model.encode_image_features(pixels_of(part))
            said = self.write(features)
            right += sum(text == describe(scene) for text, scene in zip(said, part, strict=True))
            texts = [write_hypotheses(scene, seed, begin + i) for i, scene in enumerate(part)]
            for number in range(len(LABELS)):
                scores, _, _ = self.answer_scores(features, [three[number][0] for three in texts])
                answers.append((scores.argmax(1) == number).float().mean().item())
        self.model = trained
        figures = {"captions_exact": right / count, "entailment": float(np.mean(answers))}
        for number, label in enumerate(LABELS):
            figures[f"entailment_{label}"] = float(np.mean(answers[number :: len(LABELS)]))
        return figures

    def write(self, features: Tensor) -> list[str]:
        """Writes captions, the likeliest word each time; the captioner searches with beams."""
        prompt = torch.tensor([self.source(CAPTION_PROMPT)]).expand(len(features), -1)
        cache = self.model.decoder.start(self.model.encode(features, prompt), length=LONGEST)
        token = torch.full((len(features), 1), BOS)
        written = []
        for _ in range(LONGEST):
            token = self.model.logits(self.model.decoder.read(token, cache)).argmax(-1)
            written.append(token)
        rows = torch.cat(written, dim=1).tolist()
        return [self.tokenizer.decode(row[: [*row, EOS].index(EOS)]).strip() for row in rows]

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without `<s>` and `</s>`."""
        return self.tokenizer.encode(text)

    def source(self, text: str) -> list[int]:
        """Tokens of a prompt as the encoder reads it."""
        return [BOS, *self.ids(text), EOS]

    def export(self, model: nn.ModuleDict, directory: Path) -> list[Path]:
        """Writes `captioner` and `entailment` in ModelScope's layout and float16; returns them."""
        return write_directories(as_ofa(model["model"]), self.tokens, directory)


def choose(
    random: Random, scene: Scene, written: list[tuple[str, Label]], first: int
) -> list[tuple[str, Label]]:
    """Which hypotheses an image comes with; what is learned last comes more often later."""
    if first < FALSE_FROM:
        return random.sample(written, HYPOTHESES)
    true, false, undecided = written
    if first < PAIRS_FROM:
        return [false, random.choice((true, undecided))]
    if random.random() < 0.7:
        return write_pair(random, scene)
    return [undecided, random.choice((true, false))]


def as_ofa(model: nn.Module) -> OFAModel:
    """Says what a module dictionary holds."""
    assert isinstance(model, OFAModel)
    return model


def labels_of(scenes: list[Scene]) -> Tensor:
    """What stands in each cell: (B, K, C), as `DenseHeads` takes it."""
    labels = np.stack([label_points(scene, CELL_POINTS) for scene in scenes])
    return torch.from_numpy(labels).flatten(2)


def pixels_of(scenes: list[Scene]) -> Tensor:
    """Draws scenes and prepares them as the operators do: (B, 3, S, S) in [-1, 1]."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = [np.asarray(draw(scene).resize(size, Image.Resampling.BICUBIC)) for scene in scenes]
    pixels = (np.stack(images).astype(np.float32) / 255 - 0.5) / 0.5
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2))
