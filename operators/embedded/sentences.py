"""Sentences for the matcher of pictures and sentences: right ones, and ones that are nearly right.

A caption can leave out the background, and can tell a relation from the other side ("a cat to the
right of a dog"): it stays true. The hardest false sentences are captions with one word changed: the
count, the colour, the kind, the relation or the background.
"""

from dataclasses import replace
from random import Random
from typing import Literal

from operators.embedded.kinds import BACKGROUNDS, COLOURS, COUNTS, KINDS
from operators.embedded.scenes import Group, Scene, background_of, describe

Aspect = Literal["kind", "colour", "count", "relation", "place"]

CONVERSES = (("to the left of", "to the right of"), ("above", "below"))
WORDS: tuple[tuple[str, ...], ...] = (  # of one class each: any can stand for any other
    tuple(kind.name for kind in KINDS) + tuple(kind.plural for kind in KINDS),
    tuple(word for word, _ in COLOURS),
    (*(word for word, _ in COUNTS), "an"),
    ("left", "right"),
    ("above", "below"),
    ("grass", "beach", "snow", "night"),
    tuple(where.name for where in BACKGROUNDS if where.english.endswith("background")),
)
SAME = {"an": "a"} | {kind.plural: kind.name for kind in KINDS}  # no other word in this sense


def say(scene: Scene, *, is_short: bool = False, is_converse: bool = False) -> str:
    """Writes a caption, without the background or with its relation told from the other side."""
    text = describe(replace(scene, groups=scene.groups[::-1]) if is_converse else scene)
    if is_converse:
        for forward, backward in CONVERSES:
            text = text.replace(f" {forward} ", f" {backward} ")
    return text.removesuffix(f" {background_of(scene).english}") if is_short else text


def changed_scenes(scene: Scene) -> dict[Aspect, list[Scene]]:
    """Lists all scenes whose caption differs in one thing, by what differs; nothing is placed.

    Groups stay where they are in the caption; an aspect that the caption has not is left out.
    """
    changed: dict[Aspect, list[Scene]] = {"kind": [], "colour": [], "count": []}
    for number, group in enumerate(scene.groups):
        for aspect, groups in changed_groups(scene, group).items():
            changed[aspect] += [exchange(scene, number, other) for other in groups]
    if scene.relation is not None:
        swapped = replace(scene, groups=scene.groups[::-1])
        other: Literal["left", "above"] = "left" if scene.relation == "above" else "above"
        changed["relation"] = [
            swapped,
            replace(scene, relation=other),
            replace(swapped, relation=other),
        ]
    places = [place for place in range(len(BACKGROUNDS)) if place != scene.background]
    changed["place"] = [replace(scene, background=place) for place in places]
    return {aspect: scenes for aspect, scenes in changed.items() if scenes}


def changed_groups(scene: Scene, group: Group) -> dict[Aspect, list[Group]]:
    """Lists the groups that differ from a scene's in one word."""
    there = {other.kind for other in scene.groups}
    coloured = group.colour is not None
    kinds = [n for n, kind in enumerate(KINDS) if n not in there and kind.is_coloured == coloured]
    colours = [colour for colour in range(len(COLOURS)) if coloured and colour != group.colour]
    counts = [count for count in range(1, len(COUNTS) + 1) if count != group.count]
    return {
        "kind": [replace(group, kind=kind) for kind in kinds],
        "colour": [replace(group, colour=colour) for colour in colours],
        "count": [replace(group, count=count) for count in counts],
    }


def exchange(scene: Scene, number: int, group: Group) -> Scene:
    """The same scene in words with one group exchanged, in its place."""
    groups = list(scene.groups)
    groups[number] = group
    return replace(scene, groups=tuple(groups))


def hard_negatives(random: Random, scene: Scene, count: int) -> list[str]:
    """Draws captions with one thing changed, as evenly over what can be changed as there are any.

    Args:
        random: draws.
        scene: whose caption it is.
        count: how many; all differ from each other and from the caption. At most 12 are certain.
    """
    texts = {aspect: list(map(say, scenes)) for aspect, scenes in changed_scenes(scene).items()}
    if scene.relation is not None:
        swapped = replace(scene, groups=scene.groups[::-1])
        texts["relation"].insert(0, say(swapped, is_converse=True))  # "right" for "left"
    for several in texts.values():
        random.shuffle(several)
    drawn: list[str] = []
    while len(drawn) < count:
        for several in texts.values():
            if several and len(drawn) < count:
                drawn.append(several.pop())
    random.shuffle(drawn)
    return drawn


def replace_word(random: Random, text: str) -> str:
    """Exchanges one word for another of its class, whether or not the grammar allows it."""
    words = text.split()
    places = [n for n, word in enumerate(words) if any(word in several for several in WORDS)]
    place = random.choice(places)
    word = words[place]
    several = next(several for several in WORDS if word in several)
    plain = SAME.get(word, word)
    words[place] = random.choice([other for other in several if SAME.get(other, other) != plain])
    return " ".join(words)
