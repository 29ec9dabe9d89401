"""The recipe of the embedded mPLUG captioner and matcher: one image tower learns for both.

At first the tower alone learns to see, on pictures full of things. Then an image is seen once,
captioned, and matched with three sentences: one that is true and two that are nearly so. Heads that
are thrown away predict what stands at each patch, and what there is of each noun of a sentence that
has read the image: that is what it takes to judge counts and relations. The vectors of patches are
compared with those of the nouns too, so that a word finds its thing. At last only captions and
matches are learned, without the heads.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.embedded.curriculum import (
    CELL_CLASSES,
    IGNORED,
    LABEL_CLASSES,
    cells_by_kind,
    crowded_scenes,
    label_cells,
    label_points,
    labels_by_kind,
    patch_points,
    training_scenes,
)
from operators.embedded.embedder_recipe import pixels_of
from operators.embedded.kinds import KINDS
from operators.embedded.mplug_files import (
    END,
    IMAGE_SIZE,
    LONGEST,
    PAD,
    PATCH,
    START,
    TEXT,
    network,
    vocabulary,
    write_directory,
)
from operators.embedded.scenes import Scene, describe, draw_scenes
from operators.embedded.sentences import changed_scenes, hard_negatives, replace_word, say
from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet
from operators.training import DenseHeads, contrastive_loss, token_loss, trapezoid_rate

WIDTH = int(str(TEXT["hidden_size"]))
PATCHES = IMAGE_SIZE // PATCH  # a side
POSITION_SCALE = 0.7  # of what a patch's row, and its column, add to it at first
SMOOTHING = 0.02  # of the captions' targets
SEEING_TO = 9_600  # images: until then the tower alone learns to see
CROWDS_TO, CROWDS_EVERY = 38_400, 4  # images; until then one step in four is of that sort
CROWD_WEIGHTS = (2.0, 0.5, 0.0, 0.0)  # as LABEL_CLASSES
SEEN_WEIGHTS = (0.5, 0.2, 0.4, 0.4)  # of what stands at a patch
NOUN_WEIGHTS = (0.3, 0.3, 0.3, 0.3)  # of what there is of a noun
CELL_WEIGHTS = (0.2, 0.2)  # as CELL_CLASSES
WRITTEN_FROM = 65_040  # images: from here on the decoder is asked what it writes about
WRITTEN_CLASSES = {**LABEL_CLASSES, **CELL_CLASSES}
WRITTEN_WEIGHTS = (0.3, 0.3, 0.3, 0.3, 0.2, 0.2)
ALONE_FROM = 118_080  # images: from here on captions and matches are all that is learned
ALONE_STEP = ALONE_FROM // 48
ALONE_PARTS = ("caption", "match", "ranked", "similar")
NAMED_WEIGHT = 0.3  # of patches' vectors against nouns'
RANKED_WEIGHT = 0.5  # of the true sentence against its image's others
SIMILAR_WEIGHT = 0.3  # of the contrastive loss
SENTENCES = 3  # of an image in a step: the first is true
SHORT = 0.1  # of the images' sentences leave out the background
CONVERSE_TRUE, CONVERSE_FALSE = 0.2, 0.35  # of relations are told from the other side
CHANGED_WORDS, OTHERS = 0.2, 0.2  # of the false sentences; the rest differ in one thing
CANDIDATES = 10  # of an image in the evaluation


class MPlugRecipe:
    """Everything about training the captioner and matcher but the loop.

    Args:
        seed: fixes the first weights and the scenes.
    """

    images = 163_200  # shown in all
    batch = 24  # images a step and process
    peak_rate = 1.0e-3
    decay = 0.02
    warmup = 100  # steps
    falling = 0.35  # of the first steps, the last ones, in which the rate falls to nothing
    last_rate = 4e-4  # from the settled step on, falling to nothing
    settled_step: int | None = ALONE_STEP

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.pieces = vocabulary()
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}
        self.captioner = MPlugCaptionNet(network("mplug-captioner"))
        self.matcher = MPlugMatchNet(network("matcher"))
        share_tower(self.captioner, self.matcher)
        draw_positions(self.captioner.visual_encoder.visual.positional_embedding)
        self.patch_heads = DenseHeads(WIDTH, LABEL_CLASSES)
        self.noun_heads = DenseHeads(WIDTH, LABEL_CLASSES)
        self.patch_cell_heads = DenseHeads(WIDTH, CELL_CLASSES)
        self.noun_cell_heads = DenseHeads(WIDTH, CELL_CLASSES)
        self.written_heads = DenseHeads(WIDTH, WRITTEN_CLASSES)
        self.module = nn.ModuleDict(
            {
                "captioner": self.captioner,
                "matcher": self.matcher,
                "patches": self.patch_heads,
                "nouns": self.noun_heads,
                "patch_cells": self.patch_cell_heads,
                "noun_cells": self.noun_cell_heads,
                "written": self.written_heads,
            }
        )
        self.nouns = torch.tensor(
            [[self.numbers[noun] for noun in (kind.name, kind.plural)] for kind in KINDS]
        )
        self.kinds = {
            token: kind for kind, forms in enumerate(self.nouns.tolist()) for token in forms
        }

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: a trapezoid, then a fall from `last_rate`."""
        if step >= ALONE_STEP:
            rising = min(1.0, (step - ALONE_STEP + 1) / self.warmup)
            return self.last_rate * rising * (steps - step) / (steps - ALONE_STEP)
        return trapezoid_rate(
            step, ALONE_STEP, peak=self.peak_rate, warmup=self.warmup, falling=self.falling
        )

    def loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss of the batch whose scenes begin with number `first`."""
        is_crowd = first // (2 * self.batch) % CROWDS_EVERY == 0 and first < CROWDS_TO
        if is_crowd or first < SEEING_TO:
            return self.seeing_loss(first)
        scenes = training_scenes(self.seed, first, self.batch, twins=self.batch // 4)
        random = Random(f"tagline sentences {self.seed} {first}")
        rows = [
            write_sentences(random, scene, scenes[number - 1])
            for number, scene in enumerate(scenes)
        ]
        states = self.captioner.see(pixels_of(scenes))
        labels = labels_of(scenes)
        seen = self.patch_heads.loss(states[:, 1:], labels, SEEN_WEIGHTS)
        cells = self.patch_cell_heads.loss(states[:, 1:], cells_of(scenes), CELL_WEIGHTS)
        named = NAMED_WEIGHT * self.naming_loss(states, labels[:, 0])
        caption, written = self.caption_loss(states, scenes)
        parts = {"caption": caption, "seen": seen, "cells": cells, "named": named}
        parts |= self.matching_loss(states, scenes, rows)
        if first >= WRITTEN_FROM:
            parts["written"] = written
        hits = parts.pop("hits").item()
        if first >= ALONE_FROM:
            parts = {name: parts[name] for name in ALONE_PARTS}
        figures = {name: part.item() for name, part in parts.items()} | {"hits": hits}
        return torch.stack(list(parts.values())).sum(), figures

    def seeing_loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Trains the tower alone, on pictures full of things."""
        scenes = crowded_scenes(self.seed, first, self.batch)
        states = self.captioner.see(pixels_of(scenes))
        labels = labels_of(scenes)
        seen = self.patch_heads.loss(states[:, 1:], labels, CROWD_WEIGHTS)
        cells = self.patch_cell_heads.loss(states[:, 1:], cells_of(scenes), CELL_WEIGHTS)
        named = NAMED_WEIGHT * self.naming_loss(states, labels[:, 0])
        parts = {"crowd_seen": seen, "crowd_cells": cells, "crowd_named": named}
        return seen + cells + named, {name: part.item() for name, part in parts.items()}

    def caption_loss(self, states: Tensor, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Teacher forcing; also the loss of what the decoder knows of what it writes about."""
        ids, _ = self.encode([describe(scene) for scene in scenes])
        decoder = self.captioner.text_decoder
        written = decoder.read(ids[:, :-1], decoder.start(states))  # (B, T, D)
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, IGNORED)
        caption = token_loss(decoder.logits(written), targets, smoothing=SMOOTHING)
        labels = self.label_phrases(ids[:, :-1], scenes)
        return caption, self.written_heads.loss(written, labels, WRITTEN_WEIGHTS)

    def label_phrases(self, ids: Tensor, scenes: list[Scene]) -> Tensor:
        """What the picture shows of the thing that each token of a caption belongs to.

        A thing's tokens are those of its phrase and the one before, which the phrase's count is
        written from: "[CLS] two red cars". Shapes: ids (B, T); returns (B, K, T).
        """
        labels = np.full((len(scenes), len(WRITTEN_CLASSES), ids.shape[1]), IGNORED)
        for row, (tokens, scene) in enumerate(zip(ids.tolist(), scenes, strict=True)):
            known, cells = labels_by_kind(scene), cells_by_kind(scene)
            for position, token in enumerate(tokens):
                if token in self.kinds:
                    kind = self.kinds[token]
                    first = position - (3 if KINDS[kind].is_coloured else 2)
                    told = (*known[kind], *cells.get(kind, (IGNORED,) * len(CELL_CLASSES)))
                    labels[row, :, first : position + 1] = np.array(told)[:, None]
        return torch.from_numpy(labels)

    def matching_loss(
        self, states: Tensor, scenes: list[Scene], rows: list[list[str]]
    ) -> dict[str, Tensor]:
        """What the matcher learns from each image's sentences, the true one first."""
        ids, mask = self.encode([text for row in rows for text in row])  # (B S, T)
        texts = self.matcher.read(ids, mask)
        fused = self.matcher.fusion_encoder(states, texts, mask)  # (B S, T, D)
        logits = self.matcher.itm_head(fused[:, 0])
        truth = torch.zeros(len(ids), dtype=torch.int64)
        truth[::SENTENCES] = 1
        ranks = (logits[:, 1] - logits[:, 0]).view(-1, SENTENCES)
        shown = [scene for scene in scenes for _ in range(SENTENCES)]
        nouns = self.noun_heads.loss(fused, self.label_nouns(ids, shown), NOUN_WEIGHTS)
        places = self.noun_cell_heads.loss(fused, self.label_noun_cells(ids, shown), CELL_WEIGHTS)
        similar = contrastive_loss(
            self.matcher.image_feature(states),
            self.matcher.text_feature(texts[::SENTENCES]),
            1 / self.matcher.temp.clamp(0.01, 0.5),
        )
        first = torch.zeros(len(ranks), dtype=torch.int64)
        return {
            "match": functional.cross_entropy(logits, truth),
            "ranked": RANKED_WEIGHT * functional.cross_entropy(ranks, first),
            "nouns": nouns,
            "places": places,
            "similar": SIMILAR_WEIGHT * similar,
            "hits": (logits.argmax(1) == truth).float().mean(),
        }

    def label_nouns(self, ids: Tensor, scenes: list[Scene]) -> Tensor:
        """What is there of each noun of a sentence: (B, K, T); kind 0 where nothing is."""
        labels = np.full((len(scenes), len(LABEL_CLASSES), ids.shape[1]), IGNORED)
        for row, (tokens, scene) in enumerate(zip(ids.tolist(), scenes, strict=True)):
            there = labels_by_kind(scene)
            for position, token in enumerate(tokens):
                if token in self.kinds:
                    label = there.get(self.kinds[token], (0, IGNORED, IGNORED, IGNORED))
                    labels[row, :, position] = label
        return torch.from_numpy(labels)

    def label_noun_cells(self, ids: Tensor, scenes: list[Scene]) -> Tensor:
        """The cell of the thing that a noun of a sentence names, if it is one: (B, K, T)."""
        labels = np.full((len(scenes), len(CELL_CLASSES), ids.shape[1]), IGNORED)
        for row, (tokens, scene) in enumerate(zip(ids.tolist(), scenes, strict=True)):
            there = cells_by_kind(scene)
            for position, token in enumerate(tokens):
                if self.kinds.get(token) in there:
                    labels[row, :, position] = there[self.kinds[token]]
        return torch.from_numpy(labels)

    def naming_loss(self, states: Tensor, kinds: Tensor) -> Tensor:
        """Cross entropy of patches' vectors against nouns': kinds (B, P), 0 where nothing is."""
        shown = states[:, 1:][kinds > 0]  # (N, D)
        wanted = kinds[kinds > 0] - 1
        tables = [
            stack.embeddings.word_embeddings.weight
            for stack in (self.captioner.text_decoder.bert, self.matcher.text_encoder)
        ]
        losses = [
            functional.cross_entropy(shown @ table[self.nouns[:, form]].T, wanted)
            for table in tables
            for form in (0, 1)
        ]
        return torch.stack(losses).mean()

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Gives the ids that BERT's tokenizer would, for the vocabulary's words, and their mask."""
        rows = [[START, *(self.numbers[word] for word in text.split()), END] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        return ids, (ids != PAD).long()

    @torch.inference_mode()
    def evaluate(self, model: nn.ModuleDict, *, seed: int, count: int = 500) -> dict[str, float]:
        """Measures exact captions and the right one of ten, with the weights of `model`."""
        trained = self.captioner, self.matcher
        self.captioner, self.matcher = (
            as_captioner(model["captioner"]),
            as_matcher(model["matcher"]),
        )
        scenes = list(draw_scenes(count, seed))
        right, matched, similar = 0, 0, 0
        for begin in range(0, count, 50):
            part = scenes[begin : begin + 50]
            states = self.captioner.see(pixels_of(part))
            said = self.write(states)
            right += sum(text == describe(scene) for text, scene in zip(said, part, strict=True))
            for number, scene in enumerate(part):
                random = Random(f"tagline candidates {seed} {begin + number}")
                texts = [describe(scene), *hard_negatives(random, scene, CANDIDATES - 1)]
                match, similarity = self.judge(states[number : number + 1], texts)
                matched += int(match.argmax() == 0)
                similar += int(similarity.argmax() == 0)
        self.captioner, self.matcher = trained
        return {
            "captions_exact": right / count,
            "match_of_ten": matched / count,
            "similarity_of_ten": similar / count,
        }

    def judge(self, states: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Scores sentences about one image: how likely each matches, and how similar it is."""
        ids, mask = self.encode(texts)
        read = self.matcher.read(ids, mask)
        logits = self.matcher.match(states, read, mask)
        similarity = self.matcher.text_feature(read) @ self.matcher.image_feature(states)[0]
        return logits[:, 1] - logits[:, 0], similarity

    def write(self, states: Tensor) -> list[str]:
        """Writes captions, the likeliest word each time; the captioner searches with beams."""
        ids = torch.full((len(states), 1), START)
        for _ in range(LONGEST):
            ids = torch.cat([ids, self.captioner.logits(states, ids)[:, -1:].argmax(-1)], dim=1)
        rows = [row[1 : [*row, END].index(END)] for row in ids.tolist()]
        return [" ".join(self.pieces[token] for token in row) for row in rows]

    def export(self, model: nn.ModuleDict, directory: Path) -> list[Path]:
        """Writes `mplug-captioner` and `matcher` in ModelScope's layout; returns them."""
        return [
            write_directory(as_captioner(model["captioner"]), "mplug-captioner", directory),
            write_directory(as_matcher(model["matcher"]), "matcher", directory),
        ]


def write_sentences(random: Random, scene: Scene, other: Scene) -> list[str]:
    """Writes one sentence that is true of a scene and `SENTENCES` - 1 that are not.

    Args:
        random: draws.
        scene: what the picture shows.
        other: another scene of the batch.
    """
    is_short = random.random() < SHORT
    truth = phrase(random, scene, is_short, CONVERSE_TRUE)
    sentences = [truth]
    while len(sentences) < SENTENCES:
        chance = random.random()
        if chance < OTHERS:
            text = phrase(random, other, is_short, CONVERSE_FALSE)
        elif chance < OTHERS + CHANGED_WORDS:
            text = replace_word(random, truth)
        else:
            changed = changed_scenes(scene)
            aspects = [aspect for aspect in changed if not (is_short and aspect == "place")]
            false = random.choice(changed[random.choice(aspects)])
            text = phrase(random, false, is_short, CONVERSE_FALSE)
        if text != truth:
            sentences.append(text)
    return sentences


def phrase(random: Random, scene: Scene, is_short: bool, converse: float) -> str:
    """Says what a scene shows; a relation, with the given probability, from the other side."""
    is_converse = scene.relation is not None and random.random() < converse
    return say(scene, is_short=is_short, is_converse=is_converse)


def share_tower(captioner: MPlugCaptionNet, matcher: MPlugMatchNet) -> None:
    """Gives the matcher the captioner's image tower and bridge."""
    matcher.visual_encoder = captioner.visual_encoder
    matcher.visn_fc = captioner.visn_fc
    matcher.visn_layer_norm = captioner.visn_layer_norm


@torch.no_grad()
def draw_positions(table: Tensor) -> None:
    """Draws the tower's positions: a vector of the row plus one of the column, as large as patches.

    CLIP's own are so small beside what the filters make of a drawing that no relation is learned.
    Shapes: table (1 + patches, W), the class token's first.
    """
    rows, columns = POSITION_SCALE * torch.randn(2, PATCHES, table.shape[1])  # (PATCHES, W) each
    table[1:] = (rows[:, None] + columns).flatten(0, 1)


def as_captioner(model: nn.Module) -> MPlugCaptionNet:
    """Says what a module dictionary holds."""
    assert isinstance(model, MPlugCaptionNet)
    return model


def as_matcher(model: nn.Module) -> MPlugMatchNet:
    """Says what a module dictionary holds."""
    assert isinstance(model, MPlugMatchNet)
    return model


def labels_of(scenes: list[Scene]) -> Tensor:
    """What stands at each patch: (B, K, P), as `DenseHeads` takes it."""
    labels = np.stack([label_points(scene, patch_points(PATCHES)) for scene in scenes])
    return torch.from_numpy(labels).flatten(2)


def cells_of(scenes: list[Scene]) -> Tensor:
    """The cell of what stands at each patch: (B, K, P), as `DenseHeads` takes it."""
    labels = np.stack([label_cells(scene, patch_points(PATCHES)) for scene in scenes])
    return torch.from_numpy(labels).flatten(2)
