from collections import Counter

import numpy as np
import pytest

from operators.embedded.kinds import BACKGROUNDS, COLOURS, KINDS
from operators.embedded.scenes import (
    SIZE,
    SPRITES,
    Group,
    Scene,
    describe,
    describe_in_chinese,
    draw,
    draw_scenes,
    sample,
)

GRASS = next(i for i, where in enumerate(BACKGROUNDS) if where.name == "grass")
NIGHT = next(i for i, where in enumerate(BACKGROUNDS) if where.name == "night")
RED = 0


def kind(name):
    return next(i for i, kind in enumerate(KINDS) if kind.name == name)


@pytest.fixture(scope="module")
def scenes():
    return list(draw_scenes(300, seed=41))


def test_a_seed_fixes_the_pictures_to_the_last_pixel(scenes):
    again = list(draw_scenes(300, seed=41))
    assert again == scenes
    assert all(np.array_equal(draw(a), draw(b)) for a, b in zip(again[:20], scenes, strict=False))


def test_asking_for_more_scenes_changes_none_of_the_first(scenes):
    assert list(draw_scenes(40, seed=41)) == scenes[:40]


def test_another_seed_draws_other_scenes(scenes):
    assert not set(scenes) & set(draw_scenes(300, seed=42))


def test_no_seed_of_a_user_reaches_the_scenes_of_training(scenes):
    assert not {sample(41, index, 0, "training") for index in range(300)} & set(scenes)


def test_no_caption_comes_twice_in_either_language(scenes):
    assert len({describe(scene) for scene in scenes}) == 300
    assert len({describe_in_chinese(scene) for scene in scenes}) == 300


def test_captions_say_what_was_drawn():
    groups = (Group(kind("dog"), None, 2), Group(kind("car"), RED, 1))
    scene = Scene(GRASS, 0, groups, None, ())
    assert describe(scene) == "two dogs and a red car on the grass"
    assert describe_in_chinese(scene) == "草地上有两只狗和一辆红色的汽车"


def test_captions_say_how_two_things_stand():
    groups = (Group(kind("cat"), None, 1), Group(kind("apple"), None, 1))
    assert describe(Scene(NIGHT, 0, groups, "left", ())) == "a cat to the left of an apple at night"
    assert (
        describe_in_chinese(Scene(NIGHT, 0, groups, "above", ())) == "夜晚，一只猫在一个苹果的上面"
    )


def test_things_stand_as_their_relation_says(scenes):
    for scene in scenes:
        if scene.relation is None:
            continue
        first, second = scene.things
        across, down = second.x - first.x, second.y - first.y
        ahead, aside = (across, down) if scene.relation == "left" else (down, across)
        assert ahead > 2 * abs(aside)


def test_two_single_things_always_stand_in_a_relation(scenes):
    for scene in scenes:
        counts = [group.count for group in scene.groups]
        assert (counts == [1, 1]) == (scene.relation is not None)


def test_as_many_things_are_drawn_as_the_groups_count(scenes):
    for scene in scenes:
        drawn = Counter(thing.group for thing in scene.things)
        assert [drawn[number] for number in range(len(scene.groups))] == [
            group.count for group in scene.groups
        ]


def test_things_lie_within_the_picture_and_hardly_touch(scenes):
    for scene in scenes:
        for number, thing in enumerate(scene.things):
            assert thing.size // 2 < min(thing.x, thing.y)
            assert max(thing.x, thing.y) < SIZE - thing.size // 2
            for other in scene.things[:number]:
                assert max(abs(thing.x - other.x), abs(thing.y - other.y)) >= 45


def test_every_kind_colour_and_background_is_drawn(scenes):
    groups = [group for scene in draw_scenes(600, seed=43) for group in scene.groups]
    assert {group.kind for group in groups} == set(range(len(KINDS)))
    assert {group.colour for group in groups} == {None, *range(len(COLOURS))}
    assert {scene.background for scene in scenes} == set(range(len(BACKGROUNDS)))


def test_things_can_be_seen_against_every_background():
    for background in range(len(BACKGROUNDS)):
        empty = Scene(background, 0, (), None, ())
        for scene in draw_scenes(30, seed=44):
            there = np.asarray(draw(Scene(background, 0, scene.groups, None, scene.things)), int)
            changed = np.abs(there - np.asarray(draw(empty), int)).sum(axis=2) > 60
            assert changed.sum() > 150 * len(scene.things)


def test_the_sprites_ship_with_their_licence():
    assert "SIL OPEN FONT LICENSE Version 1.1" in (SPRITES / "OFL.txt").read_text()
    assert len(list(SPRITES.glob("*.png"))) == sum(4 if kind.is_coloured else 1 for kind in KINDS)
