"""How good captions, labels and rankings are: the published metrics, as pure functions.

Captions are scored on the tokens of `jobs.ptb_tokenizer`, and come out as pycocoevalcap 1.2 has
them, oddities included. Rankings are scored as Chinese-CLIP scores them. What can be resampled is
kept item by item, so that `jobs.bootstrap` can say how sure a figure is.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.floating]

LONGEST_NGRAM = 4
RANKS = (1, 5, 10)  # the k of R@k
CANDIDATES = max(RANKS)  # that a ranking must hold
LOGIT_SCALE = 100.0  # of zero-shot classification; fixed there, whatever the model learnt

_QUERIES_AT_ONCE = 512  # ranked together, to bound memory
_BLEU_TINY = 1e-15  # pycocoevalcap's, against a division of zero
_BLEU_SMALL = 1e-9  # and by zero
_ROUGE_BETA = 1.2  # how much more recall counts than precision
_CIDER_SIGMA = 6.0  # tokens; of the Gaussian that punishes another length
_CIDER_SCALE = 10.0


def bleu(statistics: Integers | Floats) -> Floats:
    """BLEU-1 to BLEU-4 of one corpus, or of many at once.

    Args:
        statistics: (..., 10), sums over the corpus of what `bleu_statistics` counts.

    Returns:
        (..., 4), from 0 to 1.

    Source: Papineni et al. 2002; length of the closest reference.
    """
    tokens, closest = statistics[..., 0], statistics[..., 1]
    guesses, hits = statistics[..., 2:6], statistics[..., 6:10]
    precisions = (hits + _BLEU_TINY) / (guesses + _BLEU_SMALL)
    scores = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, LONGEST_NGRAM + 1))
    ratio = (tokens + _BLEU_TINY) / (closest + _BLEU_SMALL)
    brevity = np.exp(np.minimum(0, 1 - 1 / ratio))
    return np.asarray(scores * brevity[..., None], np.float64)


def bleu_statistics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Integers:
    """Counts what BLEU adds up over a corpus.

    Args:
        captions: n, of tokens with spaces between.
        references: for each at least one.

    Returns:
        (n, 10): tokens, tokens of the reference closest in length, then for each length of n-gram
        how many the caption has, and how many of them a reference has as often.
    """
    rows = []
    for caption, true in zip(captions, references, strict=True):
        counts, most = _ngrams(caption), Counter[tuple[str, ...]]()
        for reference in true:
            most |= _ngrams(reference)
        tokens = len(caption.split())
        closest = min((abs(length - tokens), length) for length in map(_length, true))[1]
        guesses = [max(0, tokens - n) for n in range(LONGEST_NGRAM)]
        hits = [0] * LONGEST_NGRAM
        for ngram, count in (counts & most).items():
            hits[len(ngram) - 1] += count
        rows.append([tokens, closest, *guesses, *hits])
    return np.array(rows, np.int64).reshape(-1, 2 + 2 * LONGEST_NGRAM)


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """ROUGE-L of each caption, from 0 to 1: how long a subsequence it shares with a reference.

    Args:
        captions: n, of tokens with spaces between; without a token it is one empty token, as there.
        references: for each at least one.

    Returns:
        (n,); their mean is the corpus's score.

    Source: Lin 2004; the best precision and the best recall, be they of different references.
    """
    scores = []
    for caption, true in zip(captions, references, strict=True):
        said = caption.split(" ")
        shared = [(_common_length(said, one.split(" ")), len(one.split(" "))) for one in true]
        precision = max(common for common, _ in shared) / len(said)
        recall = max(common / length for common, length in shared)
        weighted = recall + _ROUGE_BETA**2 * precision
        scores.append((1 + _ROUGE_BETA**2) * precision * recall / weighted if weighted else 0.0)
    return np.array(scores, np.float64)


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """CIDEr-D of each caption, from 0 to 10; published figures are the mean times 100.

    How rare an n-gram is, is counted over the references given: the score of a caption depends on
    the others, and is 0 where there is only one image.

    Args:
        captions: n, of tokens with spaces between.
        references: for each at least one.

    Returns:
        (n,); their mean is the corpus's score.

    Source: Vedantam et al., arXiv:1411.5726, section 7.
    """
    counted = [[_ngrams(one) for one in true] for true in references]
    images_with: Counter[tuple[str, ...]] = Counter()
    for true in counted:
        images_with.update(set().union(*true))
    rarity = _Rarity(images_with, float(np.log(max(1, len(captions)))))
    return np.array(
        [
            _CIDER_SCALE * np.mean([_likeness(rarity.weigh(_ngrams(caption)), one) for one in true])
            for caption, true in zip(
                captions, ([rarity.weigh(one) for one in true] for true in counted), strict=True
            )
        ],
        np.float64,
    )


@dataclass(frozen=True)
class _Weighed:
    """The n-grams of a sentence by their length, weighed by count and rarity."""

    weights: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int  # as pycocoevalcap counts it: bigrams


@dataclass(frozen=True)
class _Rarity:
    """How much an n-gram tells, by the images whose references have it."""

    images_with: Mapping[tuple[str, ...], int]
    log_images: float

    def weigh(self, counts: Counter[tuple[str, ...]]) -> _Weighed:
        weights: tuple[dict[tuple[str, ...], float], ...] = tuple({} for _ in range(LONGEST_NGRAM))
        for ngram, count in counts.items():
            idf = self.log_images - np.log(max(1.0, self.images_with.get(ngram, 0)))
            weights[len(ngram) - 1][ngram] = count * idf
        norms = tuple(float(np.sqrt(sum(w * w for w in some.values()))) for some in weights)
        length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
        return _Weighed(weights, norms, length)


def _likeness(caption: _Weighed, reference: _Weighed) -> float:
    """The mean cosine over the lengths of n-grams, clipped, less for another length."""
    cosines = []
    for said, true, *norms in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        product = sum(
            min(w, true[ngram]) * true[ngram] for ngram, w in said.items() if ngram in true
        )
        cosines.append(product / (norms[0] * norms[1]) if all(norms) else product)
    difference = caption.length - reference.length
    return float(np.mean(cosines) * np.exp(-(difference**2) / (2 * _CIDER_SIGMA**2)))


def _ngrams(sentence: str) -> Counter[tuple[str, ...]]:
    """How often each sequence of one to four tokens occurs."""
    words = sentence.split()
    return Counter(
        tuple(words[at : at + n])
        for n in range(1, LONGEST_NGRAM + 1)
        for at in range(len(words) - n + 1)
    )


def _length(sentence: str) -> int:
    return len(sentence.split())


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for one in first:
        diagonal = 0
        for at, other in enumerate(second, 1):
            above = row[at]
            row[at] = diagonal + 1 if one == other else max(above, row[at - 1])
            diagonal = above
    return row[-1]


def rank(queries: Vectors, candidates: Vectors, *, count: int = CANDIDATES) -> Integers:
    """Finds the candidates nearest to each query; equally near ones keep their order.

    Args:
        queries: (q, d).
        candidates: (c, d).
        count: how many to name, at most c.

    Returns:
        (q, count) positions of candidates, nearest first.
    """
    nearest = [
        np.argsort(-(queries[start : start + _QUERIES_AT_ONCE] @ candidates.T), kind="stable")
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    empty = np.empty((0, len(candidates)), np.int64)
    return np.concatenate([empty, *nearest])[:, :count]


def hits(
    rankings: Sequence[Sequence[object]], gold: Sequence[Collection[object]]
) -> npt.NDArray[np.bool_]:
    """Whether any right candidate is among the first 1, 5 and 10.

    Args:
        rankings: for each of n queries the candidates named, best first.
        gold: for each query what is right; nothing right is a miss.

    Returns:
        (n, 3); the mean of each column is R@1, R@5 and R@10.

    Source: Chinese-CLIP, cn_clip/eval/evaluation.py.
    """
    found = [
        [not set(right).isdisjoint(named[:k]) for k in RANKS]
        for named, right in zip(rankings, gold, strict=True)
    ]
    return np.array(found, np.bool_).reshape(-1, len(RANKS))


def confusion(truth: Sequence[int], answers: Sequence[int], labels: int) -> Integers:
    """Counts answers by what is true.

    Args:
        truth: numbers of labels, from 0 on.
        answers: one for each.
        labels: how many there are.

    Returns:
        (labels, labels); row = truth, column = answer.
    """
    table = np.zeros((labels, labels), np.int64)
    np.add.at(table, (np.array(truth, np.int64), np.array(answers, np.int64)), 1)
    return table


def class_vectors(prompts: Vectors) -> Vectors:
    """Makes one vector of unit length a class from those of its prompts.

    Args:
        prompts: (classes, templates, d), each of unit length.

    Returns:
        (classes, d).

    Source: CLIP, arXiv:2103.00020, section 3.1.4.
    """
    mean = prompts.mean(axis=1)
    unit: Vectors = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return unit


def class_probabilities(images: Vectors, classes: Vectors) -> Vectors:
    """How probable each class is for each image.

    Args:
        images: (n, d), of unit length.
        classes: (c, d), of unit length.

    Returns:
        (n, c), rows summing to 1; the largest is the answer of zero-shot classification.
    """
    logits = LOGIT_SCALE * images @ classes.T
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Vectors = odds / odds.sum(axis=-1, keepdims=True)
    return probabilities
