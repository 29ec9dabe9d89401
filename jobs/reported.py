"""What the cards of the published models report, to stand beside a figure of one's own."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["captions", "entailment", "t2i", "i2t", "classification"]

OFA_CAPTION = "damo/ofa_image-caption_coco_distilled_en"
OFA_ENTAILMENT = "damo/ofa_visual-entailment_snli-ve_distilled_v2_en"
CHINESE_CLIP = "damo/multi-modal_clip-vit-large-patch14_336_zh"

_RANKED = "inner product, any right candidate among the first k"
_PROMPTS = "zero-shot, cosine with the mean of Chinese prompts"


@dataclass(frozen=True)
class Reported:
    """Figures of one model on one split.

    Args:
        model: id on ModelScope.
        split: data set and part.
        protocol: how it was measured, as far as it is told.
        figures: by the name that `tagline evaluate` gives them, in its unit.
    """

    model: str
    split: str
    protocol: str
    figures: dict[str, float]


def reported(task: Task) -> list[Reported]:
    """Finds what is known of a task."""
    return list(_REPORTED[task])


def _recalls(split: str, setting: str, *recalls: float) -> Reported:
    figures = dict(zip(("r1", "r5", "r10", "mean_recall"), recalls, strict=False))
    return Reported(CHINESE_CLIP, split, f"{setting}; {_RANKED}", figures)


def _top1(split: str, percent: float) -> Reported:
    return Reported(CHINESE_CLIP, f"ELEVATER {split}", _PROMPTS, {"accuracy": percent / 100})


_REPORTED: dict[Task, tuple[Reported, ...]] = {
    "captions": (
        Reported(
            OFA_CAPTION,
            "COCO Captions, Karpathy's test split (5,000 images)",
            "beam search of size 5, punctuation removed; CIDEr-D on PTB tokens",
            {"CIDEr": 1.201},
        ),
    ),
    "entailment": (
        Reported(OFA_ENTAILMENT, "SNLI-VE dev", "three labels, plain accuracy", {"accuracy": 0.87}),
        Reported(
            OFA_ENTAILMENT, "SNLI-VE test", "three labels, plain accuracy", {"accuracy": 0.869}
        ),
    ),
    "t2i": (
        _recalls("MUGE valid", "zero-shot", 59.0, 81.4, 87.8, 76.1),
        _recalls("MUGE valid", "fine-tuned", 65.3, 86.7, 92.1, 81.3),
        _recalls("Flickr30K-CN test", "zero-shot", 69.0, 90.7, 95.4),
        _recalls("Flickr30K-CN test", "fine-tuned", 84.4, 97.1, 98.7),
        _recalls("COCO-CN test", "zero-shot", 64.7, 89.6, 94.6),
        _recalls("COCO-CN test", "fine-tuned", 80.1, 96.7, 99.2),
    ),
    "i2t": (
        _recalls("Flickr30K-CN test", "zero-shot", 83.3, 97.2, 98.5),
        _recalls("Flickr30K-CN test", "fine-tuned", 96.6, 99.8, 100.0),
        _recalls("COCO-CN test", "zero-shot", 63.4, 87.2, 94.4),
        _recalls("COCO-CN test", "fine-tuned", 81.2, 97.2, 99.1),
    ),
    "classification": (
        _top1("CIFAR-10", 94.1),
        _top1("CIFAR-100", 73.5),
        _top1("DTD", 43.8),
        _top1("EuroSAT", 50.7),
        _top1("FER", 55.1),
        _top1("FGVC-Aircraft", 17.1),
        _top1("KITTI", 49.8),
        _top1("MNIST", 65.0),
        _top1("PatchCamelyon", 62.9),
        _top1("VOC", 84.9),
        _top1("ImageNet", 56.7),
    ),
}
