"""Short labels of what a scene shows, as a taxonomy of tags has them, in English and Chinese.

A kind of thing, a coloured kind, a counted group, a background, a relation of two things: what a
caption says piece by piece. The embedder learns that each goes with every picture that shows it.
"""

from typing import NamedTuple

from operators.embedded.kinds import BACKGROUNDS, COLOURS, KINDS
from operators.embedded.scenes import (
    Group,
    Scene,
    describe,
    describe_in_chinese,
    kind_of,
    name_group,
    name_group_in_chinese,
)


class Label(NamedTuple):
    """What may be true of a scene, in both languages."""

    english: str
    chinese: str


def common_labels() -> list[Label]:
    """All labels but the relations; a thing's label holds however many of it there are."""
    colours = [
        (kind, colour)
        for kind, told in enumerate(KINDS)
        for colour in (range(len(COLOURS)) if told.is_coloured else (None,))
    ]
    counted = [Group(kind, colour, count) for kind, colour in colours for count in (1, 2, 3)]
    found = [label for group in counted for label in _of_group(group)]
    return list(dict.fromkeys([*found, *map(_of_background, range(len(BACKGROUNDS)))]))


def labels_of(scene: Scene) -> list[Label]:
    """All labels that are true of a scene."""
    found = [label for group in scene.groups for label in _of_group(group)]
    if scene.relation is not None:
        where = BACKGROUNDS[scene.background]
        english = describe(scene).removesuffix(f" {where.english}")
        chinese = describe_in_chinese(scene).removeprefix(f"{where.chinese}，")
        found.append(Label(english, chinese))
    return [*found, _of_background(scene.background)]


def _of_group(group: Group) -> list[Label]:
    """`dog`; `red car`; `two dogs` where there are several."""
    kind = kind_of(group)
    found = [Label(kind.name, kind.chinese)]
    if group.colour is not None:
        english, chinese = COLOURS[group.colour]
        found.append(Label(f"{english} {kind.name}", f"{chinese}的{kind.chinese}"))
    if group.count > 1:
        found.append(Label(name_group(group), name_group_in_chinese(group)))
    return found


def _of_background(background: int) -> Label:
    where = BACKGROUNDS[background]
    return Label(where.english, where.chinese)
