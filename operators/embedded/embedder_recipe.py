"""The recipe of the embedded embedder: a small Chinese CLIP learned from drawn scenes.

Each image is matched with its Chinese and with its English caption. A quarter of a batch are near
twins of other images in it, which differ in one word. Later it is also placed near every short
label that is true of it, so that tags and searches for one thing find it. The directory it writes
has ModelScope's layout.
"""

import re
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from operators.embedded.curriculum import (
    LABEL_CLASSES,
    label_points,
    patch_points,
    training_scenes,
)
from operators.embedded.kinds import (
    ANIMAL_STATES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    THING_STATES,
)
from operators.embedded.label_texts import Label, common_labels, labels_of
from operators.embedded.scenes import Scene, describe, describe_in_chinese, draw, draw_scenes
from operators.models.checkpoint import write_json
from operators.models.chinese_clip_names import to_modelscope
from operators.training import DenseHeads, contrastive_loss, cosine_rate

VISION = {
    "embed_dim": 128,
    "image_resolution": 96,
    "vision_layers": 4,
    "vision_width": 192,
    "vision_patch_size": 16,
    "vision_head_width": 48,
}
TEXT = {
    "text_attention_probs_dropout_prob": 0.0,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.0,
    "text_hidden_size": 128,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 512,
    "text_max_position_embeddings": 48,
    "text_num_attention_heads": 4,
    "text_num_hidden_layers": 3,
    "text_type_vocab_size": 2,
}
PATCHES = VISION["image_resolution"] // VISION["vision_patch_size"]  # a side
PIXEL_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)  # of CLIP's training images
PIXEL_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
COSINE_STEPS = 781
FALL_STEP = 360
LABELS_FROM = 108_800  # images: from here on labels are learned too, patches no longer
LABELS_STEP = LABELS_FROM // 256
LABELS_WARMUP = 20  # steps
LABELS_WEIGHT = 0.5
SHORTLIST = 32  # labels nearest to an image that are looked through
MAX_SCALE = 100.0  # of the cosines, as in CLIP
SHORT_TEXTS = (
    0.1  # of the captions leave out the background, so that shorter searches are understood
)
SINGULAR_WORDS = {word for word, _ in COLOURS} | {kind.name for kind in KINDS}
STRANGE_WORDS, UNSEEN_STATES = 64, 64  # a step
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OTHER_WORDS = (
    "a an the of to in on at and with is are there it picture background left right above below"
)


class EmbedderRecipe:
    """Everything about training the embedder but the loop.

    Args:
        seed: fixes the first weights and the scenes.
    """

    images = 185_600  # shown in all
    batch = 128  # images a step and process
    peak_rate = 1.2e-3
    decay = 0.05
    warmup = 100  # steps
    labels_rate = 6e-4
    settled_step: int | None = LABELS_STEP

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.vocabulary = {piece: number for number, piece in enumerate(vocabulary())}
        self.model = ChineseCLIPModel(network(len(self.vocabulary)))
        self.model.logit_scale.data.fill_(float(np.log(10)))
        self.heads = DenseHeads(VISION["vision_width"], LABEL_CLASSES)
        self.module = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self.labels = common_labels()

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        A long cosine, ended early by a straight fall to nothing; then the same for the labels.
        """
        if step >= LABELS_STEP:
            rising = min(1.0, (step - LABELS_STEP + 1) / LABELS_WARMUP)
            return self.labels_rate * rising * (steps - step) / (steps - LABELS_STEP)

        def cosine(at: int) -> float:
            return cosine_rate(at, COSINE_STEPS, peak=self.peak_rate, warmup=self.warmup)

        falling = (LABELS_STEP - step) / (LABELS_STEP - FALL_STEP)
        return min(cosine(step), cosine(FALL_STEP) * falling)

    def loss(self, first: int) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss of the batch whose scenes begin with number `first`."""
        scenes = training_scenes(self.seed, first, self.batch, twins=self.batch // 4)
        random = Random(f"tagline captions {self.seed} {first}")
        is_short = [random.random() < SHORT_TEXTS for _ in scenes]
        images, states = self.embed_images(pixels_of(scenes))
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        chinese = [
            caption(scene, short, chinese=True)
            for scene, short in zip(scenes, is_short, strict=True)
        ]
        english = [
            caption(scene, short, chinese=False)
            for scene, short in zip(scenes, is_short, strict=True)
        ]
        chinese_loss = contrastive_loss(images, self.embed_texts(chinese), scale)
        english_loss = contrastive_loss(images, self.embed_texts(english), scale)
        if first >= LABELS_FROM:
            labelled = self.label_loss(random, scenes, images, scale)
            parts = {
                "zh": chinese_loss.item(),
                "en": english_loss.item(),
                "labels": labelled.item(),
            }
            return (chinese_loss + english_loss) / 2 + LABELS_WEIGHT * labelled, parts
        labels = np.stack([label_points(scene, patch_points(PATCHES)) for scene in scenes])
        dense = self.heads.loss(states, torch.from_numpy(labels).flatten(2), (0.25,) * 4)
        parts = {"zh": chinese_loss.item(), "en": english_loss.item(), "dense": dense.item()}
        return (chinese_loss + english_loss) / 2 + dense, parts

    def label_loss(
        self, random: Random, scenes: list[Scene], images: Tensor, scale: Tensor
    ) -> Tensor:
        """Cross entropy of each image over all labels, and of each label over the batch's images.

        Captions are labels too, so that a true label is nearer than another picture's caption. So
        are words without a meaning and states that no picture shows, which none is near to. Where
        several labels are right, the target is shared equally between them.
        """
        true = [[*labels_of(scene), caption_label(scene)] for scene in scenes]
        labels = list(dict.fromkeys([*self.labels, *(label for some in true for label in some)]))
        at = {label: number for number, label in enumerate(labels)}
        strange = [strange_word(random) for _ in range(STRANGE_WORDS)]
        strange += [unseen_state(random) for _ in range(UNSEEN_STATES)]
        target = torch.zeros(len(scenes), len(labels) + len(strange))
        for row, some in enumerate(true):
            target[row, [at[label] for label in some]] = 1
        texts = self.embed_texts([*(write_label(random, label) for label in labels), *strange])
        images = nn.functional.normalize(images, dim=-1)
        scores = scale * images @ nn.functional.normalize(texts, dim=-1).T
        shown = target.sum(0) > 0
        of_images = -(target / target.sum(1, keepdim=True) * scores.log_softmax(1)).sum(1)
        of_labels = -(target / target.sum(0).clamp(min=1) * scores.log_softmax(0)).sum(0)[shown]
        return (of_images.mean() + of_labels.mean()) / 2

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (B, D), not normalised, and the patches' last states (B, P, W)."""
        output = self.model.get_image_features(pixels)
        return output.pooler_output, output.last_hidden_state[:, 1:]

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Returns vectors (B, D), not normalised."""
        rows = [self.encode(text) for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        output = self.model.get_text_features(ids, attention_mask=(ids != 0).long())
        vectors: Tensor = output.pooler_output
        return vectors

    def encode(self, text: str) -> list[int]:
        """Gives the ids that BERT's tokenizer would, for texts in small letters."""
        words = re.findall(r"[a-z]+|[^a-z ]", text)
        pieces = ["[CLS]", *(piece for word in words for piece in self.pieces(word)), "[SEP]"]
        return [self.vocabulary[piece] for piece in pieces]

    def pieces(self, word: str) -> list[str]:
        """Cuts a word into pieces, the longest first; after the first they are single letters."""
        if word in self.vocabulary:
            return [word]
        end = max(at for at in range(1, len(word)) if word[:at] in self.vocabulary)
        return [word[:end], *(f"##{letter}" for letter in word[end:])]

    @torch.inference_mode()
    def evaluate(self, model: nn.ModuleDict, *, seed: int, count: int = 500) -> dict[str, float]:
        """Measures text-to-image recall at 1 on a user's seed, with the weights of `model`."""
        trained, self.model = self.model, as_clip(model["model"])
        scenes = list(draw_scenes(count, seed))
        parts = [self.embed_images(pixels_of(scenes[i : i + 100]))[0] for i in range(0, count, 100)]
        images = nn.functional.normalize(torch.cat(parts), dim=-1)
        figures = {}
        for language in ("zh", "en"):
            captions = [
                caption(scene, is_short=False, chinese=language == "zh") for scene in scenes
            ]
            texts = nn.functional.normalize(self.embed_texts(captions), dim=-1)
            hits = (texts @ images.T).argmax(1) == torch.arange(count)
            figures[f"recall_{language}"] = hits.float().mean().item()
            figures[f"labels_{language}"] = self.label_recall(scenes, images, language)
        self.model = trained
        return figures

    def label_recall(self, scenes: list[Scene], images: Tensor, language: str) -> float:
        """The share of true labels among the 32 nearest of all common ones; relations not asked."""
        names = [label.chinese if language == "zh" else label.english for label in self.labels]
        texts = nn.functional.normalize(self.embed_texts(names), dim=-1)
        nearest = (images @ texts.T).topk(SHORTLIST).indices.tolist()
        at = {label: number for number, label in enumerate(self.labels)}
        found = [
            at[label] in row
            for scene, row in zip(scenes, nearest, strict=True)
            for label in labels_of(scene)
            if label in at
        ]
        return float(np.mean(found))

    def export(self, model: nn.ModuleDict, directory: Path) -> list[Path]:
        """Writes a directory in ModelScope's layout, the weights as float16; returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = to_modelscope(as_clip(model["model"]).state_dict())
        halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
        save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
        write_json(directory / "vision_model_config.json", VISION)
        write_json(
            directory / "text_model_config.json", {"vocab_size": len(self.vocabulary), **TEXT}
        )
        write_json(
            directory / "configuration.json",
            {
                "framework": "pytorch",
                "task": "multi-modal-embedding",
                "model": {"type": "clip-multi-modal-embedding"},
                "pipeline": {"type": "multi-modal-embedding"},
            },
        )
        (directory / "vocab.txt").write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8")
        return [directory]


def as_clip(model: nn.Module) -> ChineseCLIPModel:
    """Says what a module dictionary holds."""
    assert isinstance(model, ChineseCLIPModel)
    return model


def vocabulary() -> list[str]:
    """Lists the pieces: every Chinese character and English word of captions, and letters."""
    chinese = [where.chinese for where in BACKGROUNDS] + [word for _, word in COLOURS + COUNTS]
    chinese += [kind.chinese + kind.measure for kind in KINDS] + [
        "和有在的左边上面下右是个，。一二三"
    ]
    english = [name for kind in KINDS for name in (kind.name, kind.plural)]
    english += [
        word for where in BACKGROUNDS for word in f"{where.english} {where.statement}".split()
    ]
    english += [word for word, _ in COLOURS + COUNTS] + [
        *ANIMAL_STATES,
        *THING_STATES,
        *OTHER_WORDS.split(),
    ]
    signs = f"{LETTERS}0123456789"
    pieces = SPECIALS + sorted(set("".join(chinese))) + sorted(set(english))
    pieces += [*signs, *(f"##{sign}" for sign in signs), *",.!?"]
    return list(dict.fromkeys(pieces))


def network(pieces: int) -> ChineseCLIPConfig:
    """The sizes in transformers' words."""
    vision = {
        "hidden_size": VISION["vision_width"],
        "intermediate_size": 4 * VISION["vision_width"],
        "num_hidden_layers": VISION["vision_layers"],
        "num_attention_heads": VISION["vision_width"] // VISION["vision_head_width"],
        "image_size": VISION["image_resolution"],
        "patch_size": VISION["vision_patch_size"],
        "projection_dim": VISION["embed_dim"],
    }
    text = {name.removeprefix("text_"): value for name, value in TEXT.items()}
    return ChineseCLIPConfig(
        text_config={"vocab_size": pieces, "pad_token_id": 0, **text},
        vision_config=vision,
        projection_dim=VISION["embed_dim"],
    )


def caption(scene: Scene, is_short: bool, *, chinese: bool) -> str:
    """The caption of a scene; a short one does not say where."""
    text = describe_in_chinese(scene) if chinese else describe(scene)
    if not is_short:
        return text
    where = BACKGROUNDS[scene.background]
    if chinese:
        return text.removeprefix(where.chinese).removeprefix("，").removeprefix("有")
    return text.removesuffix(f" {where.english}")


def strange_word(random: Random) -> str:
    """A word without a meaning; some begin with one that has, as `carpet` begins with `car`."""
    letters = "".join(random.choice(LETTERS) for _ in range(random.randint(3, 9)))
    known = random.choice(KINDS).name
    return random.choice((letters, letters, f"{known}{letters[:4]}", f"{letters} {known[:3]}x"))


def unseen_state(random: Random) -> str:
    """A thing in a state that no picture shows: `hungry dog`."""
    kind = random.choice(KINDS)
    return f"{random.choice(ANIMAL_STATES if kind.is_animal else THING_STATES)} {kind.name}"


def caption_label(scene: Scene) -> Label:
    """The whole caption, in both languages."""
    return Label(describe(scene), describe_in_chinese(scene))


def write_label(random: Random, label: Label) -> str:
    """A label in either language; in English one thing may have an article."""
    if random.random() < 0.5:
        return label.chinese
    if set(label.english.split()) <= SINGULAR_WORDS and random.random() < 0.5:
        return f"{'an' if label.english[0] in 'aeiou' else 'a'} {label.english}"
    return label.english


def pixels_of(scenes: list[Scene]) -> Tensor:
    """Draws scenes and prepares them as the embedder does: (B, 3, R, R)."""
    size = (VISION["image_resolution"],) * 2
    images = [np.asarray(draw(scene).resize(size, Image.Resampling.BICUBIC)) for scene in scenes]
    pixels = (np.stack(images).astype(np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
