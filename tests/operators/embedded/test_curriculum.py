from random import Random

import numpy as np

from operators.embedded.curriculum import (
    IGNORED,
    cells_by_kind,
    crowded_scenes,
    label_cells,
    label_points,
    labels_by_kind,
    patch_points,
    training_scenes,
    vary,
)
from operators.embedded.scenes import Group, Scene, Thing, describe, draw_scenes


def test_labels_say_what_stands_at_each_point():
    groups = (Group(2, None, 1), Group(35, 3, 1))
    things = (Thing(0, 32, 32, 50, 0), Thing(1, 160, 32, 50, 0))
    scene = Scene(0, 0, groups, "left", things)
    labels = label_points(scene, patch_points(3))
    assert labels[0].tolist() == [[3, 0, 36], [0, 0, 0], [0, 0, 0]]
    assert labels[1, 0].tolist() == [0, IGNORED, 4]
    assert labels[2, 0].tolist() == [1, IGNORED, 1]
    assert labels[3, 0].tolist() == [1, IGNORED, 2]


def test_labels_say_in_which_cell_a_thing_stands():
    things = (Thing(0, 160, 38, 50, 0), Thing(1, 30, 90, 50, 0), Thing(1, 99, 90, 50, 0))
    scene = Scene(0, 0, (Group(2, None, 1), Group(35, 3, 2)), None, things)
    labels = label_cells(scene, patch_points(3))
    assert labels[0].tolist() == [[IGNORED, IGNORED, 2], [0, 1, IGNORED], [IGNORED] * 3]
    assert labels[1].tolist() == [[IGNORED, IGNORED, 0], [1, 1, IGNORED], [IGNORED] * 3]
    assert cells_by_kind(scene) == {2: (2, 0)}  # of the other kind there are two


def test_every_thing_is_seen_by_a_point():
    points = np.arange(5) * 16 * 192 / 72
    for scene in draw_scenes(200, seed=61):
        seen = label_points(scene, points)[0]
        assert {group.kind + 1 for group in scene.groups} <= set(seen.flatten().tolist())


def test_a_twin_is_told_from_its_scene_by_its_caption():
    for number, scene in enumerate(draw_scenes(200, seed=62)):
        twin = vary(Random(number), scene)
        assert describe(twin) != describe(scene)
        assert len(twin.things) == sum(group.count for group in twin.groups)


def test_twins_close_a_batch():
    scenes = training_scenes(0, 100, 8, twins=2)
    assert scenes[:6] == training_scenes(0, 100, 6)
    assert len(scenes) == 8


def test_crowds_hold_six_to_nine_different_things():
    for scene in crowded_scenes(0, 100, 20):
        assert 6 <= len({group.kind for group in scene.groups}) == len(scene.things) <= 9
    assert crowded_scenes(0, 105, 1)[0] == crowded_scenes(0, 100, 20)[5]


def test_labels_are_known_of_each_kind_that_is_there():
    groups = (Group(33, 1, 1), Group(4, None, 1))
    assert labels_by_kind(Scene(0, 0, groups, "above", ())) == {33: (34, 2, 1, 3), 4: (5, 0, 1, 4)}
    assert labels_by_kind(Scene(0, 0, groups[1:], None, ())) == {4: (5, 0, 1, 0)}
