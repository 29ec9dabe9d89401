"""The recipe of the embedded embedder: a small Chinese CLIP learned from drawn scenes.

Each image is matched with its Chinese and with its English caption. A quarter of a batch are near
twins of other images in it, which differ in one word. The directory it writes has ModelScope's
layout.
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
from operators.embedded.scenes import Scene, describe, describe_in_chinese, draw, draw_scenes
from operators.models.checkpoint import write_json
from operators.models.chinese_clip import to_modelscope
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
MAX_SCALE = 100.0  # of the cosines, as in CLIP
SHORT_TEXTS = (
    0.1  # of the captions leave out the background, so that shorter searches are understood
)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OTHER_WORDS = (
    "a an the of to in on at and with is are there it picture background left right above below"
)


class EmbedderRecipe:
    """Everything about training the embedder but the loop.

    Args:
        seed: fixes the first weights and the scenes.
    """

    images = 108_800  # shown in all
    batch = 128  # images a step and process
    peak_rate = 1.2e-3
    decay = 0.05
    warmup = 100  # steps
    settled_step: int | None = None

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.vocabulary = {piece: number for number, piece in enumerate(vocabulary())}
        self.model = ChineseCLIPModel(network(len(self.vocabulary)))
        self.model.logit_scale.data.fill_(float(np.log(10)))
        self.heads = DenseHeads(VISION["vision_width"], LABEL_CLASSES)
        self.module = nn.ModuleDict({"model": self.model, "heads": self.heads})

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: a long cosine, ended early by a straight fall to nothing."""

        def cosine(at: int) -> float:
            return cosine_rate(at, COSINE_STEPS, peak=self.peak_rate, warmup=self.warmup)

        return min(cosine(step), cosine(FALL_STEP) * (steps - step) / (steps - FALL_STEP))

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
        labels = np.stack([label_points(scene, patch_points(PATCHES)) for scene in scenes])
        dense = self.heads.loss(states, torch.from_numpy(labels).flatten(2), (0.25,) * 4)
        parts = {"zh": chinese_loss.item(), "en": english_loss.item(), "dense": dense.item()}
        return (chinese_loss + english_loss) / 2 + dense, parts

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
        """Gives the ids that BERT's tokenizer would, for texts made of the vocabulary's words."""
        pieces = ["[CLS]", *re.findall(r"[a-z]+|[^a-z ]", text), "[SEP]"]
        return [self.vocabulary[piece] for piece in pieces]

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
        self.model = trained
        return figures

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
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = SPECIALS + sorted(set("".join(chinese))) + sorted(set(english))
    pieces += [*letters, *(f"##{letter}" for letter in letters), *",.!?"]
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


def pixels_of(scenes: list[Scene]) -> Tensor:
    """Draws scenes and prepares them as the embedder does: (B, 3, R, R)."""
    size = (VISION["image_resolution"],) * 2
    images = [np.asarray(draw(scene).resize(size, Image.Resampling.BICUBIC)) for scene in scenes]
    pixels = (np.stack(images).astype(np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
