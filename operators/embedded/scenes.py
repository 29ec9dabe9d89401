"""Draws scenes whose every word is known: a seed and an index fix a picture and its captions.

A scene is one group of things, two single things in a relation, or two groups, on one of eight
backgrounds. The things stand in a loose 3 x 3 grid, so that nothing hides another and "above" and
"to the left of" are never ambiguous. `describe` and `describe_in_chinese` are exact functions of
the scene. Scene `index` of a seed never depends on how many scenes are asked for. Training draws
from a stream of its own, which no seed of a user can reach.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from operators.embedded.kinds import BACKGROUNDS, COLOURS, COUNTS, KINDS, Background, Kind

SIZE = 192  # pixels a side
GRID = 3  # cells a side
CELL = SIZE // GRID
SPRITE_SIZES = (50, 54, 58, 62)  # pixels
ANGLES = (-12, -6, 0, 6, 12)  # degrees
JITTER = 7  # pixels to each side of a cell's centre
BACKGROUND_VARIANTS = 24
DRAWS = 50  # how often a repeated caption is drawn again before it is accepted
SPRITES = Path(__file__).parent / "sprites"

Relation = Literal["left", "above"]
Purpose = Literal["use", "training"]


@dataclass(frozen=True)
class Group:
    """One to three things of one kind, and of one colour where the kind is coloured."""

    kind: int  # index into KINDS
    colour: int | None  # index into COLOURS
    count: int


@dataclass(frozen=True)
class Thing:
    """One sprite as it is drawn."""

    group: int  # index into the scene's groups
    x: int  # pixels, of the centre
    y: int
    size: int  # pixels a side, before it is turned
    angle: int  # degrees


@dataclass(frozen=True)
class Scene:
    """What a picture shows; groups in the order in which the caption names them."""

    background: int  # index into BACKGROUNDS
    variant: int
    groups: tuple[Group, ...]
    relation: (
        Relation | None
    )  # between two single things: the first is left of, or above, the second
    things: tuple[Thing, ...]


def draw_scenes(count: int, seed: int, purpose: Purpose = "use") -> Iterator[Scene]:
    """Yields the first `count` scenes of a seed; a caption comes twice only after `DRAWS` tries."""
    captions: set[str] = set()
    for index in range(count):
        scene = sample(seed, index, 0, purpose)
        for draw in range(1, DRAWS):
            if describe(scene) not in captions:
                break
            scene = sample(seed, index, draw, purpose)
        captions.add(describe(scene))
        yield scene


def sample(seed: int, index: int, draw: int = 0, purpose: Purpose = "use") -> Scene:
    """Draws one scene at random; the same arguments give the same scene everywhere."""
    random = Random(f"tagline {purpose} {seed} {index} {draw}")
    form = random.random()
    if form < 0.2:
        relation: Relation | None = None
        groups = sample_groups(random, (random.randint(1, 3),))
    elif form < 0.55:
        relation = "left" if random.random() < 0.5 else "above"
        groups = sample_groups(random, (1, 1), is_ordered=False)
    else:
        relation = None
        counts = random.choice(((1, 2), (1, 3), (2, 1), (3, 1), (2, 2), (2, 3), (3, 2)))
        groups = sample_groups(random, counts)
    cells = sample_cells(random, sum(group.count for group in groups), relation)
    return Scene(
        background=random.randrange(len(BACKGROUNDS)),
        variant=random.randrange(BACKGROUND_VARIANTS),
        groups=groups,
        relation=relation,
        things=place(random, groups, cells),
    )


def sample_groups(
    random: Random, counts: tuple[int, ...], *, is_ordered: bool = True
) -> tuple[Group, ...]:
    """Draws groups of different kinds, in the caption's order unless `is_ordered` is false."""
    kinds: list[int] = []
    while len(kinds) < len(counts):
        kind = random.randrange(
            len(KINDS) + 4
        )  # the coloured kinds, last, come up nearly twice as often
        kind = kind if kind < len(KINDS) else kind - 4
        if kind not in kinds:
            kinds.append(kind)
    if is_ordered:
        kinds.sort()
    return tuple(
        Group(kind, random.randrange(len(COLOURS)) if KINDS[kind].is_coloured else None, count)
        for kind, count in zip(kinds, counts, strict=True)
    )


def sample_cells(random: Random, count: int, relation: Relation | None) -> list[tuple[int, int]]:
    """Draws different cells (column, row); for a relation two in line, the first before."""
    if relation is None:
        chosen = random.sample(range(GRID * GRID), count)
        return [(cell % GRID, cell // GRID) for cell in chosen]
    line = random.randrange(GRID)
    first, second = sorted(random.sample(range(GRID), 2))
    if relation == "left":
        return [(first, line), (second, line)]
    return [(line, first), (line, second)]


def place(
    random: Random, groups: tuple[Group, ...], cells: list[tuple[int, int]]
) -> tuple[Thing, ...]:
    """Puts each thing near the centre of its cell, wholly inside the picture."""
    owners = [number for number, group in enumerate(groups) for _ in range(group.count)]
    things = []
    for owner, (column, row) in zip(owners, cells, strict=True):
        size = random.choice(SPRITE_SIZES)
        margin = size // 2 + 2
        x, y = (
            min(
                max(CELL * cell + CELL // 2 + random.randint(-JITTER, JITTER), margin),
                SIZE - margin,
            )
            for cell in (column, row)
        )
        things.append(Thing(owner, x, y, size, random.choice(ANGLES)))
    return tuple(things)


def describe(scene: Scene) -> str:
    """Writes the English caption, such as `two dogs and a red car on the grass`."""
    phrases = [name_group(group) for group in scene.groups]
    if scene.relation is not None:
        words = {"left": "to the left of", "above": "above"}[scene.relation]
        what = f"{phrases[0]} {words} {phrases[1]}"
    else:
        what = " and ".join(phrases)
    return f"{what} {background_of(scene).english}"


def describe_in_chinese(scene: Scene) -> str:
    """Writes the Chinese caption, such as `草地上有两只狗和一辆红色的汽车`."""
    phrases = [name_group_in_chinese(group) for group in scene.groups]
    where = background_of(scene).chinese
    if scene.relation is not None:
        side = {"left": "左边", "above": "上面"}[scene.relation]
        return f"{where}，{phrases[0]}在{phrases[1]}的{side}"
    return f"{where}有{'和'.join(phrases)}"


def name_group(group: Group) -> str:
    """Names a group in English: `an apple`, `three blue balloons`."""
    noun = noun_of(group)
    count = COUNTS[group.count - 1][0]
    return f"an {noun}" if count == "a" and noun[0] in "aeiou" else f"{count} {noun}"


def noun_of(group: Group) -> str:
    """Names a group without its count: `apples`, `blue balloon`."""
    noun = kind_of(group).name if group.count == 1 else kind_of(group).plural
    return noun if group.colour is None else f"{COLOURS[group.colour][0]} {noun}"


def name_group_in_chinese(group: Group) -> str:
    """Names a group in Chinese: `三个蓝色的气球`."""
    kind = kind_of(group)
    colour = "" if group.colour is None else f"{COLOURS[group.colour][1]}的"
    return f"{COUNTS[group.count - 1][1]}{kind.measure}{colour}{kind.chinese}"


def kind_of(group: Group) -> Kind:
    """The kind of a group's things."""
    return KINDS[group.kind]


def background_of(scene: Scene) -> Background:
    """The background of a scene."""
    return BACKGROUNDS[scene.background]


def draw(scene: Scene) -> Image.Image:
    """Draws a scene: RGB, `SIZE` pixels a side."""
    image = paint_background(scene.background, scene.variant).copy()
    for thing in scene.things:
        group = scene.groups[thing.group]
        sprite = turn_sprite(sprite_name(group), thing.size, thing.angle)
        corner = (thing.x - sprite.width // 2, thing.y - sprite.height // 2)
        image.paste(sprite, corner, sprite)
    return image


def sprite_name(group: Group) -> str:
    """Names the file of a group's sprite, without its ending."""
    kind = kind_of(group)
    return kind.name if group.colour is None else f"{kind.name}-{COLOURS[group.colour][0]}"


@cache
def load_sprite(name: str) -> Image.Image:
    """Reads a sprite: RGBA."""
    with Image.open(SPRITES / f"{name}.png") as file:
        return file.convert("RGBA")


@cache
def turn_sprite(name: str, size: int, angle: int) -> Image.Image:
    """Scales and turns a sprite; its box grows with the angle."""
    turned = load_sprite(name).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    scale = size / load_sprite(name).width
    return turned.resize(
        (round(turned.width * scale), round(turned.height * scale)), Image.Resampling.LANCZOS
    )


@cache
def paint_background(background: int, variant: int) -> Image.Image:
    """Paints a ground under a sky, or a plain colour; variants differ in horizon and light."""
    random = Random(f"tagline background {background} {variant}")
    name = BACKGROUNDS[background].name
    light = random.uniform(0.93, 1.04)
    if name in WALLS:
        pixels = shade(WALLS[name], tuple(0.9 * value for value in WALLS[name]), SIZE)
    else:
        sky_top, sky_bottom, ground_top, ground_bottom = PLACES[name]
        horizon = random.randint(SIZE * 35 // 100, SIZE * 60 // 100)
        pixels = np.concatenate(
            [shade(sky_top, sky_bottom, horizon), shade(ground_top, ground_bottom, SIZE - horizon)]
        )
        if name == "night":
            scatter_stars(pixels[:horizon], random)
    return Image.fromarray(np.clip(pixels * light, 0, 255).astype(np.uint8), "RGB")


Colour = tuple[float, ...]  # red, green, blue in 0..255
WALLS: dict[str, Colour] = {
    "pink": (255, 188, 212),
    "purple": (188, 160, 240),
    "grey": (196, 198, 202),
    "orange": (255, 196, 130),
}
PLACES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {  # sky top, bottom; ground top, bottom
    "grass": ((110, 180, 240), (190, 225, 250), (128, 196, 84), (80, 150, 52)),
    "beach": ((90, 190, 235), (175, 230, 245), (246, 226, 168), (226, 192, 122)),
    "snow": ((150, 185, 215), (205, 225, 240), (250, 252, 255), (232, 240, 250)),
    "night": ((14, 14, 52), (36, 36, 88), (34, 46, 58), (20, 28, 38)),
}


def shade(top: Colour, bottom: Colour, rows: int) -> npt.NDArray[np.float64]:
    """A vertical gradient: float64 (rows, SIZE, 3)."""
    steps = np.linspace(0, 1, rows)[:, None, None]
    column = np.array(top) * (1 - steps) + np.array(bottom) * steps
    return np.repeat(column, SIZE, axis=1)


def scatter_stars(sky: npt.NDArray[np.float64], random: Random) -> None:
    """Sets some pixels of a night sky alight."""
    for _ in range(30):
        brightness = random.randint(120, 250)
        sky[random.randrange(len(sky)), random.randrange(SIZE)] = brightness
