from random import Random

import pytest

from operators.embedded.scenes import Group, Scene, describe, draw_scenes
from operators.embedded.sentences import changed_scenes, hard_negatives, replace_word, say

CAT, DOG, CAR = 10, 13, 33
RELATION = Scene(0, 0, (Group(CAT, None, 1), Group(CAR, 0, 1)), "left", ())
GROUPS = Scene(3, 0, (Group(CAT, None, 2), Group(DOG, None, 3)), None, ())


@pytest.fixture(scope="module")
def scenes():
    return list(draw_scenes(300, seed=71))


def test_a_caption_can_leave_out_the_background():
    assert say(RELATION, is_short=True) == "a cat to the left of a red car"
    assert say(GROUPS, is_short=True) == "two cats and three dogs"


def test_a_relation_can_be_told_from_the_other_side():
    said = say(RELATION, is_converse=True)
    assert said == "a red car to the right of a cat on the grass"


def test_each_aspect_of_a_caption_is_changed_to_everything_else():
    changed = {aspect: set(map(say, scenes)) for aspect, scenes in changed_scenes(RELATION).items()}
    assert changed["colour"] == {
        f"a cat to the left of a {colour} car on the grass"
        for colour in ("yellow", "green", "blue")
    }
    assert "two cats to the left of a red car on the grass" in changed["count"]
    assert changed["relation"] == {
        "a red car to the left of a cat on the grass",
        "a cat above a red car on the grass",
        "a red car above a cat on the grass",
    }
    assert "a dog to the left of a red car on the grass" in changed["kind"]
    assert "a cat to the left of a red car at night" in changed["place"]
    assert len(changed["place"]) == 7
    assert set(changed_scenes(GROUPS)) == {"kind", "count", "place"}


def test_no_change_leaves_the_caption_as_it_was(scenes):
    for scene in scenes:
        for several in changed_scenes(scene).values():
            assert describe(scene) not in map(say, several)


def test_nine_hard_negatives_differ_from_each_other_and_from_the_caption(scenes):
    for number, scene in enumerate(scenes):
        texts = [describe(scene), *hard_negatives(Random(number), scene, 9)]
        assert len(set(texts)) == 10


def test_hard_negatives_change_everything_that_can_be_changed():
    texts = hard_negatives(Random(0), GROUPS, 9)
    parts = [
        tuple(a == b for a, b in zip(text.split(), describe(GROUPS).split(), strict=False))
        for text in texts
    ]
    assert sum(not part[0] or not part[3] for part in parts) == 3  # counts
    assert sum(text.startswith("two cats and three dogs ") for text in texts) == 3


def test_a_replaced_word_makes_the_sentence_another(scenes):
    for number, scene in enumerate(scenes):
        before, after = (
            describe(scene).split(),
            replace_word(Random(number), describe(scene)).split(),
        )
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1
        assert set(changed[0]) != {"a", "an"}
