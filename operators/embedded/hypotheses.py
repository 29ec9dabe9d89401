"""Writes sentences about a scene that hold (yes), do not (no), or that no picture decides (maybe).

Each form of sentence occurs with at least two labels, so that a text alone does not tell its
label: what is said of an invisible state ("the dog is hungry") is "maybe" when there is such a
thing and "no" when there is none.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

from operators.embedded.kinds import ANIMAL_STATES, BACKGROUNDS, COLOURS, KINDS, THING_STATES
from operators.embedded.scenes import Group, Purpose, Scene, describe, kind_of, name_group, noun_of

Label = Literal["yes", "no", "maybe"]
LABELS: tuple[Label, ...] = ("yes", "no", "maybe")

Writer = Callable[[Random, Scene], str]


def write_hypotheses(
    scene: Scene, seed: int, index: int, purpose: Purpose = "use"
) -> list[tuple[str, Label]]:
    """Writes one sentence for each label, in the order of `LABELS`."""
    random = Random(f"tagline hypotheses {purpose} {seed} {index}")
    return [
        (say_true(random, scene), "yes"),
        (say_false(random, scene), "no"),
        (say_undecided(random, scene), "maybe"),
    ]


def write_pair(random: Random, scene: Scene) -> list[tuple[str, Label]]:
    """Writes a true and a false sentence of one form, the hardest to tell apart; for training."""
    if scene.relation is not None and random.random() < 0.7:
        return [(say_relation(random, scene), "yes"), (say_converse(random, scene), "no")]
    return [(describe(scene), "yes"), (say_changed(random, scene), "no")]


def say_true(random: Random, scene: Scene) -> str:
    """A sentence that the picture shows to be so."""
    forms: list[str] = [f"there {verb(group)} {name_group(group)}" for group in scene.groups]
    forms += [describe(scene), BACKGROUNDS[scene.background].statement]
    forms += [say_colour(group, group.colour) for group in scene.groups if group.colour is not None]
    if scene.relation is not None:
        forms += [say_relation(random, scene), say_relation(random, scene)]
    return random.choice(forms)


def say_false(random: Random, scene: Scene) -> str:
    """A sentence that the picture shows not to be so."""
    writers: list[Writer] = [
        say_absent,
        say_miscounted,
        say_changed,
        say_elsewhere,
        say_state_of_absent,
    ]
    writers += [say_state_of_absent]
    if any(group.colour is not None for group in scene.groups):
        writers += [say_miscoloured]
    if scene.relation is not None:
        writers += [say_converse, say_converse]
    return random.choice(writers)(random, scene)


def say_undecided(random: Random, scene: Scene) -> str:
    """A sentence about an invisible state of a thing that is there."""
    return say_state(random, random.choice(scene.groups))


def say_absent(random: Random, scene: Scene) -> str:
    """There is something that is not there."""
    group = absent_group(random, scene)
    return f"there {verb(group)} {name_group(group)}"


def say_miscounted(random: Random, scene: Scene) -> str:
    """There are more, or fewer, than there are."""
    group = change_count(random, random.choice(scene.groups))
    return f"there {verb(group)} {name_group(group)}"


def say_miscoloured(random: Random, scene: Scene) -> str:
    """A thing has a colour that it has not."""
    group = random.choice([group for group in scene.groups if group.colour is not None])
    return say_colour(group, other(random, len(COLOURS), group.colour))


def say_elsewhere(random: Random, scene: Scene) -> str:
    """The background is another."""
    return BACKGROUNDS[other(random, len(BACKGROUNDS), scene.background)].statement


def say_state_of_absent(random: Random, scene: Scene) -> str:
    """A thing that is not there is in some state."""
    return say_state(random, absent_group(random, scene))


def say_converse(random: Random, scene: Scene) -> str:
    """A relation the wrong way round."""
    return say_relation(random, change(scene, groups=scene.groups[::-1]))


def say_changed(random: Random, scene: Scene) -> str:
    """The caption with one thing in it changed."""
    number = random.randrange(len(scene.groups))
    group = scene.groups[number]
    changes = [absent_group(random, scene, group.count)]
    if scene.relation is None:
        changes.append(change_count(random, group))
    if group.colour is not None:
        changes.append(Group(group.kind, other(random, len(COLOURS), group.colour), group.count))
    groups = list(scene.groups)
    groups[number] = random.choice(changes)
    candidates = [change(scene, groups=tuple(groups))]
    candidates.append(change(scene, background=other(random, len(BACKGROUNDS), scene.background)))
    if scene.relation is not None:
        candidates.append(change(scene, groups=scene.groups[::-1]))
    return describe(random.choice(candidates))


def say_colour(group: Group, colour: int | None) -> str:
    """`the car is red`, `the balloons are blue`."""
    assert colour is not None
    return f"the {bare_noun(group)} {verb(group)} {COLOURS[colour][0]}"


def say_state(random: Random, group: Group) -> str:
    """`the dogs are hungry`."""
    states = ANIMAL_STATES if kind_of(group).is_animal else THING_STATES
    return f"the {bare_noun(group)} {verb(group)} {random.choice(states)}"


def say_relation(random: Random, scene: Scene) -> str:
    """The relation of two things in either of its two forms: `the cat is below the dog`."""
    first, second = (f"the {noun_of(group)}" for group in scene.groups)
    forward, backward = {
        "left": ("to the left of", "to the right of"),
        "above": ("above", "below"),
    }[scene.relation or "left"]
    if random.random() < 0.5:
        return f"{first} is {forward} {second}"
    return f"{second} is {backward} {first}"


def absent_group(random: Random, scene: Scene, count: int | None = None) -> Group:
    """A group of a kind that the scene has not."""
    absent = [
        kind for kind in range(len(KINDS)) if kind not in {group.kind for group in scene.groups}
    ]
    kind = random.choice(absent)
    colour = random.randrange(len(COLOURS)) if KINDS[kind].is_coloured else None
    return Group(kind, colour, count if count is not None else random.choice((1, 1, 2, 3)))


def change_count(random: Random, group: Group) -> Group:
    """The same group with another count; never one of several, which might be taken as true."""
    counts = [count for count in (2, 3) if count != group.count]
    return Group(group.kind, group.colour, random.choice(counts))


def change(
    scene: Scene, *, groups: tuple[Group, ...] | None = None, background: int | None = None
) -> Scene:
    """The same scene in words, with other groups, in the caption's order, or another background."""
    groups = scene.groups if groups is None else groups
    if scene.relation is None:
        groups = tuple(sorted(groups, key=lambda group: group.kind))
    background = scene.background if background is None else background
    return replace(scene, groups=groups, background=background)


def other(random: Random, count: int, index: int | None) -> int:
    """An index below `count` that is not `index`."""
    return random.choice([value for value in range(count) if value != index])


def bare_noun(group: Group) -> str:
    """A group's noun without its colour."""
    return kind_of(group).name if group.count == 1 else kind_of(group).plural


def verb(group: Group) -> str:
    """`is` for one, `are` for more."""
    return "is" if group.count == 1 else "are"
