from collections import Counter
from random import Random

import pytest

from operators.embedded.hypotheses import LABELS, write_hypotheses, write_pair
from operators.embedded.kinds import BACKGROUNDS, COLOURS, KINDS
from operators.embedded.scenes import Group, Scene, describe, draw_scenes, name_group

SEED = 51


@pytest.fixture(scope="module")
def written():
    return [
        (scene, text, label)
        for index, scene in enumerate(draw_scenes(400, SEED))
        for text, label in write_hypotheses(scene, SEED, index)
    ]


def decide(scene, text):
    """Says what a person with the scene before them would: written apart from the generator."""
    words = text.split()
    nouns = {n: i for i, kind in enumerate(KINDS) for n in (kind.name, kind.plural)}
    there = {group.kind: group for group in scene.groups}
    statements = [where.statement for where in BACKGROUNDS]
    if text in statements:
        return "yes" if statements.index(text) == scene.background else "no"
    if words[0] == "there":
        phrase = " ".join(words[2:])
        return "yes" if phrase in map(name_group, scene.groups) else "no"
    if words[0] != "the":
        return "yes" if text == describe(scene) else "no"
    if words[-1] in dict(COLOURS):
        group = there[nouns[words[1]]]
        return "yes" if COLOURS[group.colour][0] == words[-1] else "no"
    kinds = [nouns[word] for word in words if word in nouns]
    if len(kinds) == 2:
        return decide_relation(scene, words, kinds)
    return "maybe" if kinds[0] in there else "no"


def decide_relation(scene, words, kinds):
    if "right" in words or "below" in words:
        kinds = kinds[::-1]
    relation = "left" if {"left", "right"} & set(words) else "above"
    holds = scene.relation == relation and kinds == [group.kind for group in scene.groups]
    return "yes" if holds else "no"


def test_every_scene_has_one_hypothesis_of_each_label(written):
    assert [label for _, _, label in written] == list(LABELS) * 400


def test_labels_are_what_the_scene_says(written):
    wrong = [(describe(s), text, label) for s, text, label in written if decide(s, text) != label]
    assert wrong == []


def test_a_text_alone_does_not_tell_its_label(written):
    labels = {}
    for _, text, label in written:
        labels.setdefault(text.split()[0] + text.split()[-1], set()).add(label)
    frequent = Counter(text.split()[0] + text.split()[-1] for _, text, _ in written)
    for opening, count in frequent.items():
        if count >= 30:
            assert len(labels[opening]) > 1, opening


def test_changed_captions_name_things_in_the_usual_order(written):
    for scene, text, _ in written:
        if " and " not in text or scene.relation is not None:
            continue
        first, second = (part.split() for part in text.split(" and "))
        order = {n: i for i, kind in enumerate(KINDS) for n in (kind.name, kind.plural)}
        kinds = [next(order[word] for word in part if word in order) for part in (first, second)]
        assert kinds == sorted(kinds)


def test_a_scene_with_the_same_seed_gets_the_same_hypotheses():
    scene = Scene(0, 0, (Group(3, None, 2),), None, ())
    assert write_hypotheses(scene, 5, 6) == write_hypotheses(scene, 5, 6)
    assert write_hypotheses(scene, 5, 6) != write_hypotheses(scene, 5, 7)


def test_a_pair_for_training_is_one_true_and_one_false_sentence():
    for index, scene in enumerate(draw_scenes(200, SEED)):
        for text, label in write_pair(Random(index), scene):
            assert decide(scene, text) == label
