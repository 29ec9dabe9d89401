"""Goldens: pycocoevalcap 1.2 and Chinese-CLIP's own scripts, on the texts and rankings given."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from jobs import metrics
from jobs.ptb_tokenizer import tokenize

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
EXACT = 1e-9  # sums in another order; 1e-6 is what is promised


def read(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def tokenized(golden):
    """References and captions by image, tokenised as pycocoevalcap does: all in one go."""
    references = golden["references"]
    lines = iter(tokenize([one for true in references.values() for one in true]))
    true = [[next(lines) for _ in some] for some in references.values()]
    return tokenize([golden["captions"][image] for image in references]), true


@pytest.fixture(scope="module", params=["caption_metrics.json", "caption_metrics_awkward.json"])
def golden(request):
    return read(request.param)


def test_bleu_is_that_of_pycocoevalcap(golden):
    statistics = metrics.bleu_statistics(*tokenized(golden))
    np.testing.assert_allclose(metrics.bleu(statistics.sum(0)), golden["Bleu"], atol=EXACT)


def test_cider_of_every_image_is_that_of_pycocoevalcap(golden):
    scores = metrics.cider_d(*tokenized(golden))
    per_image = golden["CIDEr_per_image"]
    expected = list(per_image.values()) if isinstance(per_image, dict) else per_image
    np.testing.assert_allclose(scores, expected, atol=EXACT)
    assert scores.mean() == pytest.approx(golden["CIDEr"], abs=EXACT)


def test_rouge_is_that_of_pycocoevalcap(golden):
    assert metrics.rouge_l(*tokenized(golden)).mean() == pytest.approx(golden["ROUGE_L"], abs=EXACT)


def test_rouge_of_every_image_is_that_of_pycocoevalcap():
    golden = read("caption_metrics_awkward.json")
    scores = metrics.rouge_l(*tokenized(golden))
    np.testing.assert_allclose(scores, golden["ROUGE_L_per_image"], atol=EXACT)


def test_the_order_of_images_does_not_matter():
    captions, references = tokenized(read("caption_metrics.json"))
    order = random.Random(5).sample(range(len(captions)), len(captions))
    moved = [captions[at] for at in order], [references[at] for at in order]
    np.testing.assert_allclose(
        metrics.cider_d(*moved), metrics.cider_d(captions, references)[order], atol=EXACT
    )
    assert metrics.bleu_statistics(*moved).sum(0).tolist() == (
        metrics.bleu_statistics(captions, references).sum(0).tolist()
    )


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    captions, references = ["", "a cat"], [["a dog runs", "one dog"], ["a cat"]]
    assert metrics.rouge_l(captions, references).tolist() == [0.0, 1.0]
    assert metrics.cider_d(captions, references)[0] == 0
    assert metrics.bleu_statistics(captions, references)[0].tolist() == [0, 2, *[0] * 8]


def test_cider_of_a_single_image_is_zero_for_nothing_is_rare():
    assert metrics.cider_d(["a cat sits"], [["a cat sits"]]).tolist() == [0.0]


def test_no_captions_give_empty_scores():
    assert metrics.cider_d([], []).shape == (0,)
    assert metrics.bleu_statistics([], []).shape == (0, 10)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_rankings_of_integer_features_keep_ties_as_chinese_clip_does(direction):
    exact = read("chinese_clip_retrieval.json")["exact"]
    images, texts = (
        np.array([one["feature"] for one in exact[f"{kind}_features"]], np.float32)
        for kind in ("image", "text")
    )
    ids = {
        "image": [one["image_id"] for one in exact["image_features"]],
        "text": [one["text_id"] for one in exact["text_features"]],
    }
    queries, candidates, named = (
        (texts, images, ids["image"]) if direction == "t2i" else (images, texts, ids["text"])
    )
    expected = [
        one["image_ids" if direction == "t2i" else "text_ids"]
        for one in exact[f"{direction}_predictions"]
    ]
    ranked = metrics.rank(queries, candidates)
    assert [[named[at] for at in row] for row in ranked] == expected


@pytest.mark.parametrize("part", ["exact", None])
def test_recall_is_that_of_chinese_clip(part):
    golden = read("chinese_clip_retrieval.json")
    golden = golden[part] if part else golden
    for direction, query, found, truth in (
        ("t2i", "text_id", "image_ids", golden["texts"]),
        ("i2t", "image_id", "text_ids", golden["i2t_annotation"]),
    ):
        named = {one[query]: one[found] for one in golden[f"{direction}_predictions"]}
        hit = metrics.hits([named[one[query]] for one in truth], [one[found] for one in truth])
        score = golden[f"{direction}_score"]["scoreJson"]
        assert hit.mean(0) * 100 == pytest.approx([score["r1"], score["r5"], score["r10"]])


def test_a_query_with_nothing_right_is_a_miss():
    assert metrics.hits([[1, 2]], [[]]).tolist() == [[False, False, False]]


def test_confusion_counts_answers_by_truth():
    table = metrics.confusion([0, 0, 1, 2], [0, 1, 1, 0], 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_a_class_is_the_direction_between_its_prompts():
    prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [0.0, -1.0]]])
    expected = [[2**-0.5, 2**-0.5], [0.0, -1.0]]
    np.testing.assert_allclose(metrics.class_vectors(prompts), expected)


def test_class_probabilities_follow_a_hundredfold_cosine():
    probabilities = metrics.class_probabilities(
        np.array([[1.0, 0.0]]), np.array([[0.6, 0.8], [0.58, -0.8146]])
    )
    # softmax of 60 and 58
    np.testing.assert_allclose(probabilities, [[0.880797, 0.119203]], atol=1e-6)
