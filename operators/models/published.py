"""The five published models that tagline is built around, as far as their figures are known.

Parameters are counted on nets of the published sizes. None of the files was weighed: sizes are
reckoned from the tensors in float32, which is how `tagline models list` words them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedModel:
    """One model of ModelScope's hub.

    Args:
        id: what a job config and `tagline models pull` take.
        revision: what the model's card names; None for the default branch.
        task: in ModelScope's words.
        operator: the `use:` of a job config.
        architecture: as `operators.models.directory` names it.
        net: which of its sizes.
        parameters: held by the file; not what is only counted or kept from training.
        size_bytes: of the weights, reckoned.
        source: where the figures come from.
    """

    id: str
    revision: str | None
    task: str
    operator: str
    architecture: str
    net: str
    parameters: int
    size_bytes: int
    source: str


PUBLISHED = (
    PublishedModel(
        id="damo/ofa_image-caption_coco_distilled_en",
        revision="v1.0.1",
        task="image-captioning",
        operator="captioner",
        architecture="ofa",
        net="OFA tiny, distilled",
        parameters=33_488_336,
        size_bytes=200_700_000,
        source="the card's 33M counted on the net; size: float32 and 67 MB of position tables",
    ),
    PublishedModel(
        id="damo/ofa_visual-entailment_snli-ve_distilled_v2_en",
        revision=None,
        task="visual-entailment",
        operator="entailment",
        architecture="ofa",
        net="OFA tiny, distilled",
        parameters=33_488_336,
        size_bytes=200_700_000,
        source="the card's 33M counted on the net; size: float32 and 67 MB of position tables",
    ),
    PublishedModel(
        id="damo/multi-modal_clip-vit-large-patch14_336_zh",
        revision="v1.0.1",
        task="multi-modal-embedding",
        operator="embedder",
        architecture="chinese_clip",
        net="Chinese CLIP, ViT-L/14 at 336 pixels",
        parameters=406_560_769,
        size_bytes=1_628_605_444,
        source="counted on the net; size: float32, BERT's unused pooler included",
    ),
    PublishedModel(
        id="damo/mplug_image-captioning_coco_large_en",
        revision=None,
        task="image-captioning",
        operator="captioner",
        architecture="mplug",
        net="mPLUG large",
        parameters=746_399_803,
        size_bytes=2_990_000_000,
        source="counted on the net, of which 443 M are used; the card says about 600 M",
    ),
    PublishedModel(
        id="damo/mplug_image-text-retrieval_flickr30k_large_en",
        revision=None,
        task="image-text-retrieval",
        operator="matcher",
        architecture="mplug",
        net="mPLUG large",
        parameters=1_217_826_309,
        size_bytes=4_970_000_000,
        source="counted on the net with its momentum copies, of which 428 M are used",
    ),
)
