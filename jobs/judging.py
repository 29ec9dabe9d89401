"""Compares what was predicted with what is true: the figures, and how sure they are.

`answer` of an `Evaluation` is what `tagline evaluate … --json` prints. Everything that was asked
must have been answered: a figure over a part of a data set cannot be compared with any other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs import metrics
from jobs.bootstrap import Floats, intervals
from jobs.datasets.reading import some
from jobs.datasets.snli_ve import LABELS
from jobs.ptb_tokenizer import tokenize
from schemas.errors import DatasetError

CAPTION_FIGURES = ("CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L")
RECALL_FIGURES = ("r1", "r5", "r10", "mean_recall")

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Args:
        answer: the figures as they are printed; null where one is undefined.
        intervals: of the figures that have one, by name.
        count: items that were judged.
    """

    answer: dict[str, Any]
    intervals: dict[str, Interval] = field(default_factory=dict)
    count: int = 0


def judge_captions(references: pa.Table, captions: Mapping[str, str], *, where: str) -> Evaluation:
    """Scores captions as pycocoevalcap 1.2 does, without METEOR and SPICE.

    Args:
        references: `datasets.tables.CAPTIONS`; in their order texts are read.
        captions: by image id, one for each image.
        where: the captions come from, for messages.

    Raises:
        DatasetError: an image has no caption, a caption is of another image, or there is none.
    """
    images = references["image_id"].to_pylist()
    _check_complete(where, "image", images, captions)
    told = references["captions"].to_pylist()
    lines = iter(tokenize([one for some_of_image in told for one in some_of_image]))
    true = [[next(lines) for _ in some_of_image] for some_of_image in told]
    said = tokenize([captions[image] for image in images])
    statistics = np.column_stack(
        [
            np.ones(len(images)),
            metrics.cider_d(said, true),
            metrics.rouge_l(said, true),
            metrics.bleu_statistics(said, true),
        ]
    )
    return _evaluation(CAPTION_FIGURES, statistics, _caption_figures, {"count": len(images)})


def judge_rankings(
    gold: Mapping[int, Collection[int]], rankings: Mapping[int, Sequence[int]], *, where: str
) -> Evaluation:
    """Scores rankings as Chinese-CLIP does, in percent; rankings of other queries do not count.

    Args:
        gold: what is right for each query.
        rankings: at least ten candidates for each query, best first.
        where: the rankings come from, for messages.

    Raises:
        DatasetError: a query has no ranking, or there is no query.
    """
    known = {query: rankings[query] for query in gold if query in rankings}
    _check_complete(where, "query", gold, known)
    hits = metrics.hits([known[query] for query in gold], list(gold.values()))
    statistics = np.column_stack([np.ones(len(hits)), hits])
    return _evaluation(RECALL_FIGURES, statistics, _recall_figures, {})


def judge_pairs(pairs: pa.Table, answers: Mapping[str, str], *, where: str) -> Evaluation:
    """Scores labels of entailment; pairs that the annotators left open do not count.

    Args:
        pairs: `datasets.tables.PAIRS`.
        answers: by pair, one of `datasets.snli_ve.LABELS`.
        where: the answers come from, for messages.

    Raises:
        DatasetError: a pair has no answer, an answer is of another pair, or there is none.
    """
    labels = pairs["label"].to_pylist()
    truth = {
        pair: LABELS.index(label)
        for pair, label in zip(pairs["pair_id"].to_pylist(), labels, strict=True)
        if label is not None
    }
    undecided = set(pairs["pair_id"].to_pylist()) - set(truth)
    given = {pair: LABELS.index(a) for pair, a in answers.items() if pair not in undecided}
    _check_complete(where, "pair", truth, given)
    return _judge_labels(list(truth.values()), [given[pair] for pair in truth], LABELS)


def judge_classes(
    pictures: pa.Table, answers: Mapping[str, int], labels: Sequence[str], *, where: str
) -> Evaluation:
    """Scores classes; the confusion names only what occurred.

    Args:
        pictures: `datasets.tables.PICTURES`.
        answers: number of the class, by image.
        labels: of the classes.
        where: the answers come from, for messages.

    Raises:
        DatasetError: an image has no answer, an answer is of another image, or there is none.
    """
    images = pictures["image"].to_pylist()
    _check_complete(where, "image", images, answers)
    judged = _judge_labels(
        pictures["class"].to_pylist(), [answers[image] for image in images], labels
    )
    confusion = {
        true: {label: count for label, count in row.items() if count}
        for true, row in judged.answer["confusion"].items()
    }
    answer = {**judged.answer, "confusion": {true: row for true, row in confusion.items() if row}}
    return Evaluation(answer, judged.intervals, judged.count)


def _judge_labels(truth: list[int], answers: list[int], labels: Sequence[str]) -> Evaluation:
    """Accuracy overall and per label, and the confusion by truth and answer."""
    names = ("accuracy", *labels)
    is_of = np.eye(len(labels))[truth]  # (n, labels)
    is_right = np.array(truth) == np.array(answers)
    statistics = np.column_stack([is_of, is_of * is_right[:, None]])
    judged = _evaluation(names, statistics, _label_figures, {})
    table = metrics.confusion(truth, answers, len(labels)).tolist()
    answer = {
        "accuracy": judged.answer["accuracy"],
        "per_label": {label: judged.answer[label] for label in labels},
        "confusion": {
            true: dict(zip(labels, row, strict=True))
            for true, row in zip(labels, table, strict=True)
        },
    }
    return Evaluation(answer, judged.intervals, judged.count)


def _evaluation(
    names: Sequence[str],
    statistics: npt.NDArray[np.float64],
    figures: Any,
    others: dict[str, Any],
) -> Evaluation:
    values = figures(statistics.sum(axis=0, keepdims=True))[0]
    ends = intervals(statistics, figures)
    return Evaluation(
        {**{name: _number(value) for name, value in zip(names, values, strict=True)}, **others},
        {name: _interval(pair) for name, pair in zip(names, ends, strict=True)},
        len(statistics),
    )


def _caption_figures(sums: Floats) -> Floats:
    count, cider, rouge = sums[:, :1], sums[:, 1:2], sums[:, 2:3]
    return np.hstack([cider / count, metrics.bleu(sums[:, 3:]), rouge / count])


def _recall_figures(sums: Floats) -> Floats:
    recalls = 100 * sums[:, 1:] / sums[:, :1]
    return np.hstack([recalls, recalls.mean(axis=1, keepdims=True)])


def _label_figures(sums: Floats) -> Floats:
    of_label, right = np.split(sums, 2, axis=1)
    with np.errstate(invalid="ignore"):  # a label that no item has
        per_label = right / of_label
    accuracy = right.sum(axis=1, keepdims=True) / of_label.sum(axis=1, keepdims=True)
    return np.hstack([accuracy, per_label])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(ends: Floats) -> Interval:
    return None if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def _check_complete(
    where: str, what: str, asked: Collection[object], given: Mapping[Any, object]
) -> None:
    if not asked:
        raise DatasetError(f"nothing to judge: the annotations have no {what} with an answer")
    missing = [one for one in asked if one not in given]
    if missing:
        raise DatasetError(
            f"{where}: no prediction for {len(missing):,} of {len(asked):,}: "
            f"{what} {some(missing)}; predict for each, or take them out of the annotations"
        )
    wanted = set(asked)
    unknown = [one for one in given if one not in wanted]
    if unknown:
        raise DatasetError(
            f"{where}: {len(unknown):,} predictions for what the annotations do not have: "
            f"{what} {some(unknown)}; take them out, or give the annotations they belong to"
        )
