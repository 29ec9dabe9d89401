"""How the published Chinese CLIP training changes images: cropped, mirrored, AutoAugmented.

The policy is the one found for ImageNet: 25 pairs of operations, of which one is drawn for an
image. All draws come from the `Random` given.

Source: Chinese-CLIP, cn_clip/training/data.py; AutoAugment, arXiv:1805.09501, table 9.
"""

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageEnhance, ImageOps

SCALE = (0.9, 1.0)  # share of the area that a crop keeps
RATIO = (3 / 4, 4 / 3)  # width to height of a crop
CROP_TRIES = 10
MIRRORED = 0.5  # of the images
LEVELS = 10  # of an operation's strength
FILL = (128, 128, 128)  # where an image is turned or moved away from

Change = tuple[str, float, int]  # operation, how probable it is, strength from 0 to 10

POLICY: tuple[tuple[Change, Change], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


def augment(image: Image.Image, size: int, random: Random) -> Image.Image:
    """Draws a changed image of `size` x `size` pixels, RGB."""
    image = image.convert("RGB")
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=draw_crop(image.size, random))
    if random.random() < MIRRORED:
        image = ImageOps.mirror(image)
    for operation, probability, level in random.choice(POLICY):
        if random.random() <= probability:
            image = OPERATIONS[operation](image, level / LEVELS, random)
    return image


def draw_crop(size: tuple[int, int], random: Random) -> tuple[int, int, int, int]:
    """Draws a part of an image: left, top, right and bottom in pixels."""
    width, height = size
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = random.randint(0, width - across), random.randint(0, height - down)
            return left, top, left + across, top + down
    across = min(width, round(height * RATIO[1]))  # the middle, as near to the image as allowed
    down = min(height, round(width / RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _either(value: float, random: Random) -> float:
    return -value if random.random() < 0.5 else value


def _rotate(image: Image.Image, strength: float, random: Random) -> Image.Image:
    angle = _either(30 * strength, random)
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=FILL)


def _shear_x(image: Image.Image, strength: float, random: Random) -> Image.Image:
    matrix = (1, _either(0.3 * strength, random), 0, 0, 1, 0)
    transform = Image.Transform.AFFINE
    return image.transform(image.size, transform, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


def _enhanced(
    kind: type[ImageEnhance.Color | ImageEnhance.Contrast | ImageEnhance.Sharpness],
) -> Callable[[Image.Image, float, Random], Image.Image]:
    return lambda image, strength, _: kind(image).enhance(0.1 + 1.8 * strength)


OPERATIONS: dict[str, Callable[[Image.Image, float, Random], Image.Image]] = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "posterize": lambda image, strength, _: ImageOps.posterize(image, int(4 * strength) + 4),
    "solarize": lambda image, strength, _: ImageOps.solarize(image, min(255, int(256 * strength))),
    "autocontrast": lambda image, strength, _: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, _: ImageOps.equalize(image),
    "invert": lambda image, strength, _: ImageOps.invert(image),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
}
