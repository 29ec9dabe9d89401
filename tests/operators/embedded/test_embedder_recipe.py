"""What the embedded embedder learns: captions, and labels in words of both languages."""

from random import Random

import pytest

from operators.embedded.embedder_recipe import LABELS_FROM, EmbedderRecipe, strange_word
from operators.embedded.label_texts import common_labels, labels_of
from operators.embedded.scenes import describe, draw_scenes
from operators.models.wordpiece import read_vocabulary


@pytest.fixture(scope="module")
def recipe():
    return EmbedderRecipe(seed=5)


def test_a_scene_has_the_labels_that_its_caption_speaks_of():
    scene = next(scene for scene in draw_scenes(2000, 3) if "two red cars" in describe(scene))
    labels = {label.english: label.chinese for label in labels_of(scene)}
    assert labels["car"] == "汽车"
    assert labels["red car"] == "红色的汽车"
    assert labels["two red cars"] == "两辆红色的汽车"
    assert any(describe(scene).endswith(f" {label}") for label in labels)


def test_common_labels_are_all_labels_but_relations():
    common = set(common_labels())
    assert len(common) == len(common_labels())
    for scene in draw_scenes(100, 4):
        others = set(labels_of(scene)) - common
        assert len(others) == (scene.relation is not None)


def test_words_become_the_pieces_of_the_published_tokenizer(recipe, tmp_path):
    recipe.export(recipe.module, tmp_path)
    published = read_vocabulary(tmp_path)
    random = Random(0)
    texts = [strange_word(random) for _ in range(200)]
    texts += [text for label in common_labels() for text in label]
    for text in texts:
        assert recipe.encode(text) == list(published.encode(text, limit=48)), text


def test_labels_are_learned_in_the_last_stage(recipe):
    loss, figures = recipe.loss(first=LABELS_FROM)
    assert set(figures) == {"zh", "en", "labels"}
    loss.backward()
    assert recipe.model.text_projection.weight.grad.any()
    recipe.module.zero_grad()
    assert set(recipe.loss(first=0)[1]) == {"zh", "en", "dense"}
