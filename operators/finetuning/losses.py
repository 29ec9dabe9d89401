"""The losses of the published training scripts, as pure functions.

Letters: B rows, T tokens, V vocabulary, C choices, N image-text pairs, D width of features.
"""

import torch
from torch import Tensor

IGNORED = -100  # a target that is not asked


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross entropy against the target, which keeps 1 - smoothing; the others share the rest.

    PyTorch's own smoothing gives the target a share of the rest, too; fairseq's does not.

    Shapes: logits (B, C), C > 1; targets (B,) int64; returns (B,).

    Source: OFA, criterions/label_smoothed_cross_entropy.py, with the trie as its mask: the choices.
    """
    logs = logits.float().log_softmax(dim=-1)
    target = -logs.gather(1, targets[:, None])[:, 0]
    each = smoothing / (logits.shape[-1] - 1)
    return (1 - smoothing - each) * target - each * logs.sum(dim=-1)


def caption_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sums the smoothed cross entropy over the tokens that are asked.

    Shapes: logits (B, T, V); targets (B, T) int64, -100 where nothing is asked; returns ().
    """
    is_asked = targets != IGNORED
    return smoothed_cross_entropy(logits[is_asked], targets[is_asked], smoothing).sum()


def distillation_loss(logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Sums the cross entropy against a teacher's probabilities over the tokens that are asked.

    Shapes: logits and teacher (B, T, V); targets (B, T), as of `caption_loss`; returns ().

    Source: Hinton et al. 2015, arXiv:1503.02531, at temperature 1.
    """
    is_asked = targets != IGNORED
    wanted = teacher[is_asked].float().softmax(dim=-1)
    return -(wanted * logits[is_asked].float().log_softmax(dim=-1)).sum()


def shared(parameter: Tensor, workers: int) -> Tensor:
    """The same value with a part of its gradient, for what every worker uses on the whole batch."""
    return parameter.detach() + (parameter - parameter.detach()) / workers


def in_batch_recall(images: Tensor, texts: Tensor) -> float:
    """The share of texts whose own image is the nearest of the batch.

    Shapes: images and texts (N, D), of unit length; text i belongs to image i.

    Source: ModelScope 1.40, `inbatch_t2i_recall_at_1`.
    """
    nearest = (texts @ images.T).argmax(dim=1)
    return float((nearest == torch.arange(len(texts), device=nearest.device)).float().mean())


def contrast_with_momentum(similar: Tensor, followed: Tensor, same: Tensor, alpha: float) -> Tensor:
    """Cross entropy of each row's similarities against softened truth; the mean over rows.

    Args:
        similar: (B, N), logits of the trained features against the candidates.
        followed: (B, N), logits of the momentum features against the same candidates.
        same: (B, N) bool, which candidates are of the row's image.
        alpha: how much of the target is the softmax of `followed`; the rest is the truth.

    Source: ALBEF, arXiv:2107.07651; mPLUG, arXiv:2205.12005.
    """
    truth = same.float() / same.float().sum(dim=1, keepdim=True)
    wanted = alpha * followed.softmax(dim=1) + (1 - alpha) * truth
    return -(similar.log_softmax(dim=1) * wanted).sum(dim=1).mean()


def draw_negatives(similar: Tensor, same: Tensor) -> Tensor:
    """Draws one wrong candidate a row, the likelier the more similar.

    Shapes: similar (B, B), logits; same (B, B) bool, what may not be drawn; returns (B,) int64.

    Raises:
        ValueError: a row has no wrong candidate.

    Source: ALBEF, arXiv:2107.07651.
    """
    if bool(same.all(dim=1).any()):
        raise ValueError("every candidate of a row is of its own image; take larger batches")
    odds = (similar.detach().float().softmax(dim=1) + 1e-9).masked_fill(same, 0.0)
    return torch.multinomial(odds, 1)[:, 0]
