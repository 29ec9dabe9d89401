"""The recipe of the embedded captioner and entailment checker: one small OFA learns both.

An image is seen once and read with the captioner's prompt, answered with its caption, and with the
entailment checker's about two hypotheses. The two directories it writes hold the same weights in
ModelScope's layout.

Heads at three depths predict what stands in each cell (see `curriculum`), and are thrown away. The
vectors of cells are also compared with those of the nouns, singular and plural: so a word finds
its thing long before sentences teach it.
"""

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional

from operators.embedded.curriculum import (
    IGNORED,
    LABEL_CLASSES,
    crowded_scenes,
    label_points,
    training_scenes,
)
from operators.embedded.hypotheses import LABELS, Label, write_hypotheses
from operators.embedded.kinds import (
    ANIMAL_STATES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    THING_STATES,
)
from operators.embedded.scenes import SIZE, Scene, describe, draw, draw_scenes
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.model import OFAModel
from operators.models.ofa.tokenizer import BOS, EOS, PAD, OFATokenizer, pad
from operators.training import DenseHeads, token_loss, trapezoid_rate

WIDTH = 128
NETWORK = {
    "model_type": "ofa",
    "d_model": WIDTH,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 256,
    "max_position_embeddings": 64,
    "token_bucket_size": 64,
    "image_bucket_size": 6,
    "dropout": 0.0,
    "resnet_type": "resnet18",
    "resnet_layers": [1, 1, 1],
    "image_codes": False,
}
IMAGE_SIZE = 72  # pixels a side
CELLS = 5  # a side: one for every 16 pixels begun
CELL_POINTS = np.arange(CELLS) * (
    16 * SIZE / IMAGE_SIZE
)  # where each cell looks, in pixels of the drawing
FEATURES = 1024  # of the ResNet
CAPTION_PROMPT = " what does the image describe?"
HYPOTHESIS_PROMPT = ' does the image describe " {} "?'
ANSWERS = {"no": " no", "yes": " yes", "maybe": " maybe"}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
SMOOTHING = 0.02  # of the captions' targets
FIRST_WEIGHTS = {"seen": (0.15,) * 4, "read": (0.15,) * 4, "named": (0.15,)}  # as LABEL_CLASSES
LATER_WEIGHTS = {"seen": (2.0, 0.5, 0.0, 0.0), "read": (0.5, 0.15, 0.15, 0.15), "named": (0.3,)}
LATER_FROM = 22_528  # images: by then sentences are well formed, but a third of the kinds are wrong
CROWDS_FROM, CROWDS_TO = 23_296, 51_200  # images: of these, two steps in three only learn to see
FALSE_FROM = 84_480  # images: from here on every image comes with a hypothesis that is false
HYPOTHESES = 2  # of an image in a step
LONGEST = 16  # tokens of a caption, its end included
OTHER_WORDS = (
    " an the one of to left right above below in on at and with is are there it some no yes maybe"
)


class DescriberRecipe:
    """Everything about training the captioner and entailment checker but the loop.

    Args:
        seed: fixes the first weights and the scenes.
    """

    images = 140_800  # shown in all
    batch = 64  # images a step and process
    peak_rate = 1.2e-3
    decay = 0.02
    warmup = 60  # steps
    falling = 0.36  # of the steps, the last ones, in which the rate falls to nothing

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
            [[self.ids(f" {noun}")[0] for kind in KINDS for noun in (kind.name, kind.plural)]]
        ).view(len(KINDS), 2)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        return trapezoid_rate(
            step, steps, peak=self.peak_rate, warmup=self.warmup, falling=self.falling
        )

    def loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss of the batch whose scenes begin with number `first`."""
        if CROWDS_FROM <= first < CROWDS_TO and first // (2 * self.batch) % 3 > 0:
            return self.seeing_loss(first)
        scenes = training_scenes(self.seed, first, self.batch)
        random = Random(f"tagline labels {self.seed} {first}")
        chosen = [
            choose(random, write_hypotheses(scene, self.seed, first + number, "training"), first)
            for number, scene in enumerate(scenes)
        ]
        hypotheses = [one for several in zip(*chosen, strict=True) for one in several]
        labels = labels_of(scenes)
        features = self.model.encode_image_features(pixels_of(scenes))
        caption, states = self.caption_loss(features, [describe(scene) for scene in scenes])
        answer, hits = self.answer_loss(features.repeat(HYPOTHESES, 1, 1, 1), hypotheses)
        weights = LATER_WEIGHTS if first >= LATER_FROM else FIRST_WEIGHTS
        seen = self.feature_heads.loss(features.flatten(2).transpose(1, 2), labels, weights["seen"])
        read = self.state_heads.loss(states, labels, weights["read"])
        named = weights["named"][0] * self.naming_loss(features, labels[:, 0])
        parts = {"caption": caption, "answer": answer, "seen": seen, "read": read, "named": named}
        total = caption + answer + seen + read + named
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
        self, features: Tensor, hypotheses: list[tuple[str, str]]
    ) -> tuple[Tensor, float]:
        """Cross entropy over the three answers, and the share that is right."""
        scores = self.answer_scores(features, [text for text, _ in hypotheses])
        labels = torch.tensor([LABELS.index(label) for _, label in hypotheses])
        hits = (scores.argmax(1) == labels).float().mean().item()
        return functional.cross_entropy(scores, labels), hits

    def answer_scores(self, features: Tensor, hypotheses: list[str]) -> Tensor:
        """Scores each answer as the word after the prompt: (B, 3), in the order of `LABELS`."""
        sources = [self.source(HYPOTHESIS_PROMPT.format(text)) for text in hypotheses]
        given = pad([source[:-1] for source in sources])
        states = self.model.decoder(self.model.encode(features, pad(sources)), given)
        last = torch.tensor([len(source) - 2 for source in sources])
        return self.model.logits(states[torch.arange(len(last)), last])[:, self.answers]

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
                scores = self.answer_scores(features, [three[number][0] for three in texts])
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
        state = as_ofa(model["model"]).published_state_dict()
        halves = {
            name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
            for name, tensor in state.items()
        }
        folders = []
        for name, configuration in configurations().items():
            folder = directory / name
            folder.mkdir(parents=True, exist_ok=True)
            save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
            write_tokenizer(self.tokens, folder)
            write_json(folder / "config.json", {**NETWORK, "vocab_size": len(self.tokens)})
            write_json(folder / "configuration.json", configuration)
            folders.append(folder)
        labels = {answer.strip(): label for label, answer in ANSWERS.items()}
        write_json(directory / "entailment" / "ans2label.json", labels)
        return folders


def choose(random: Random, written: list[tuple[str, Label]], first: int) -> list[tuple[str, Label]]:
    """Two of a scene's hypotheses; later the false one, learned last, is always among them."""
    if first < FALSE_FROM:
        return random.sample(written, HYPOTHESES)
    true, false, undecided = written
    return [false, random.choice((true, undecided))]


def as_ofa(model: nn.Module) -> OFAModel:
    """Says what a module dictionary holds."""
    assert isinstance(model, OFAModel)
    return model


def vocabulary() -> list[str]:
    """Lists the tokens: every word said of scenes, and the prompts', a blank before each."""
    texts = [CAPTION_PROMPT, HYPOTHESIS_PROMPT.format("a"), OTHER_WORDS]
    texts += [f" {noun}" for kind in KINDS for noun in (kind.name, kind.plural)]
    texts += [f" {where.english} {where.statement}" for where in BACKGROUNDS]
    texts += [f" {word}" for word, _ in COLOURS + COUNTS]
    texts += [f" {state}" for state in ANIMAL_STATES + THING_STATES]
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    return SPECIALS + sorted(words)


def merges(tokens: list[str]) -> list[str]:
    """The merges that build each token from its letters, one after the other."""
    pairs = []
    for token in tokens:
        pairs += [f"{token[:end]} {token[end]}" for end in range(1, len(token))]
    return list(dict.fromkeys(pairs))


def write_tokenizer(tokens: list[str], folder: Path) -> None:
    """Writes `vocab.json` and `merges.txt`."""
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    lines = ["#version: 0.2", *merges([token for token in tokens if token not in SPECIALS])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_tokenizer(tokens: list[str]) -> OFATokenizer:
    """The tokenizer that the directory will have."""
    with TemporaryDirectory() as folder:
        write_tokenizer(tokens, Path(folder))
        return OFATokenizer(Path(folder), len(tokens))


def network(tokens: int) -> OFAConfig:
    """The sizes, as the net takes them."""
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", {**NETWORK, "vocab_size": tokens})
        return OFAConfig.read(Path(folder))


def configurations() -> dict[str, dict[str, object]]:
    """The `configuration.json` of both directories."""
    shared = {
        "type": "ofa",
        "beam_search": {"beam_size": 5, "max_len_b": 16, "min_len": 1, "no_repeat_ngram_size": 3},
        "max_src_length": 60,
        "language": "en",
        "patch_image_size": IMAGE_SIZE,
        "max_image_size": IMAGE_SIZE,
        "imagenet_default_mean_and_std": False,
    }
    captioner = {"task": "image-captioning", "model": {**shared, "gen_type": "generation"}}
    entailment = {
        "task": "visual-entailment",
        "model": {
            **shared,
            "gen_type": "traverse",
            "prompt_type": "prev_output",
            "answer2label": "ans2label.json",
        },
    }
    return {
        name: {"framework": "pytorch", **content, "pipeline": {"type": content["task"]}}
        for name, content in (("captioner", captioner), ("entailment", entailment))
    }


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


def write_json(path: Path, value: object) -> None:
    """Writes a value for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
