"""What training takes from a scene besides its words: a near twin, and labels of where things are.

The labels say for a grid of points which kind of thing is there, its colour, how many of its group
there are and which part it plays in a relation. Heads that predict them are trained along with a
net and thrown away: they teach it to see long before captions alone would.
"""

from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt

from operators.embedded.hypotheses import absent_group, other
from operators.embedded.kinds import BACKGROUNDS, COLOURS, COUNTS, KINDS
from operators.embedded.scenes import (
    BACKGROUND_VARIANTS,
    CELL,
    GRID,
    SIZE,
    Group,
    Scene,
    place,
    sample,
    sample_cells,
)

Labels = npt.NDArray[np.int64]

LABEL_CLASSES = {  # class 0 stands for none
    "kind": len(KINDS) + 1,
    "colour": len(COLOURS) + 1,
    "count": len(COUNTS) + 1,
    "role": 5,  # left, right, above, below
}
CELL_CLASSES = {"column": GRID, "row": GRID}
REACH = 0.48  # of a thing's size to each side: a point nearer its centre than that shows it
IGNORED = -100  # of torch's cross entropy: where nothing stands only the kind is asked for


def training_scenes(seed: int, first: int, count: int, twins: int = 0) -> list[Scene]:
    """Draws `count` training scenes from `first` on, the last `twins` near twins of the first."""
    scenes = [sample(seed, first + index, 0, "training") for index in range(count - twins)]
    random = Random(f"tagline twins {seed} {first}")
    return scenes + [vary(random, scene) for scene in scenes[:twins]]


def crowded_scenes(seed: int, first: int, count: int) -> list[Scene]:
    """Draws pictures of six to nine different things each, to learn to see from."""
    scenes = []
    for index in range(first, first + count):
        random = Random(f"tagline crowd {seed} {index}")
        kinds = random.sample(range(len(KINDS)), random.randint(6, GRID * GRID))
        groups = tuple(
            Group(kind, random.randrange(len(COLOURS)) if KINDS[kind].is_coloured else None, 1)
            for kind in kinds
        )
        scenes.append(
            Scene(
                background=random.randrange(len(BACKGROUNDS)),
                variant=random.randrange(BACKGROUND_VARIANTS),
                groups=groups,
                relation=None,
                things=place(random, groups, sample_cells(random, len(kinds), None)),
            )
        )
    return scenes


def vary(random: Random, scene: Scene) -> Scene:
    """Draws a scene that differs in one word: the hardest to tell apart."""
    number = random.randrange(len(scene.groups))
    group = scene.groups[number]
    changes = [scene, swap(scene, number, absent_group(random, scene, group.count))]
    if scene.relation is None:
        changes += [swap(scene, number, recount(random, scene, group))] * 2
    else:
        changes += [replace(scene, groups=scene.groups[::-1])] * 2
        changes.append(replace(scene, relation="left" if scene.relation == "above" else "above"))
    if group.colour is not None:
        colour = other(random, len(COLOURS), group.colour)
        changes += [swap(scene, number, replace(group, colour=colour))] * 2
    changed = random.choice(changes)
    if changed is scene:
        changed = replace(scene, background=other(random, len(BACKGROUNDS), scene.background))
    cells = sample_cells(random, sum(group.count for group in changed.groups), changed.relation)
    return replace(changed, things=place(random, changed.groups, cells))


def recount(random: Random, scene: Scene, group: Group) -> Group:
    """The same group with another count; two groups never become two single things."""
    others = sum(other_group.count for other_group in scene.groups) - group.count
    counts = [
        count for count in (1, 2, 3) if count != group.count and count + others != 2 * bool(others)
    ]
    return replace(group, count=random.choice(counts))


def swap(scene: Scene, number: int, group: Group) -> Scene:
    """The same scene with one group exchanged, in the caption's order; nothing is placed."""
    groups = list(scene.groups)
    groups[number] = group
    if scene.relation is None:
        groups.sort(key=lambda group: group.kind)
    return replace(scene, groups=tuple(groups))


def label_cells(scene: Scene, points: npt.NDArray[np.floating]) -> Labels:
    """Says in which cell of the loose grid the thing at each point of a grid stands.

    Args:
        scene: as drawn.
        points: as in `label_points`.

    Returns:
        (2, P, P): classes in the order of `CELL_CLASSES`, then row, then column.
    """
    labels = np.full((len(CELL_CLASSES), len(points), len(points)), IGNORED, np.int64)
    for thing in scene.things:
        rows = np.abs(points - thing.y) < thing.size * REACH
        columns = np.abs(points - thing.x) < thing.size * REACH
        for label, value in zip(labels, (thing.x // CELL, thing.y // CELL), strict=True):
            label[np.ix_(rows, columns)] = value
    return labels


def cells_by_kind(scene: Scene) -> dict[int, tuple[int, int]]:
    """The cell, column and row, of each kind of which there is one thing."""
    return {
        scene.groups[thing.group].kind: (thing.x // CELL, thing.y // CELL)
        for thing in scene.things
        if scene.groups[thing.group].count == 1
    }


def label_points(scene: Scene, points: npt.NDArray[np.floating]) -> Labels:
    """Says what stands at each point of a grid.

    Args:
        scene: as drawn.
        points: (P,), pixels of the drawing along either side.

    Returns:
        (4, P, P): classes in the order of `LABEL_CLASSES`, then row, then column.
    """
    labels = np.full((len(LABEL_CLASSES), len(points), len(points)), IGNORED, np.int64)
    labels[0] = 0
    for thing in scene.things:
        rows = np.abs(points - thing.y) < thing.size * REACH
        columns = np.abs(points - thing.x) < thing.size * REACH
        at = np.ix_(rows, columns)
        values = label_group(scene, thing.group)
        for label, value in zip(labels, values, strict=True):
            label[at] = value
    return labels


def label_group(scene: Scene, number: int) -> tuple[int, int, int, int]:
    """The classes of a group's things, in the order of `LABEL_CLASSES`."""
    group = scene.groups[number]
    colour = 0 if group.colour is None else group.colour + 1
    role = 0
    if scene.relation is not None:
        role = {"left": 1, "above": 3}[scene.relation] + number
    return group.kind + 1, colour, group.count, role


def labels_by_kind(scene: Scene) -> dict[int, tuple[int, int, int, int]]:
    """The classes of each kind that is there."""
    return {group.kind: label_group(scene, n) for n, group in enumerate(scene.groups)}


def patch_points(patches: int) -> npt.NDArray[np.floating]:
    """The centres of equal patches along a side, in pixels of the drawing."""
    return (np.arange(patches, dtype=np.float64) + 0.5) * (SIZE / patches)
