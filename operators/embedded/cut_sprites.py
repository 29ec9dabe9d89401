"""Cuts the sprites of the drawn scenes out of the Noto Color Emoji font, once.

`apt-get install fonts-noto-color-emoji`, then
`python -m operators.embedded.cut_sprites /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf`.
The font is licensed under the SIL Open Font License 1.1; see sprites/OFL.txt.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from operators.embedded.kinds import COLOURS, KINDS

SPRITES = Path(__file__).parent / "sprites"
FONT_SIZE = 109  # pixels; the only size of the font's bitmaps
SPRITE_SIZE = 96  # pixels; scenes draw them at no more than 64
HUES = {"red": 0.0, "yellow": 0.145, "green": 0.36, "blue": 0.6}  # fractions of the colour circle


def cut(font_path: Path) -> None:
    """Writes a PNG with transparency for every kind, and for every colour of the coloured ones."""
    font = ImageFont.truetype(str(font_path), FONT_SIZE)
    for kind in KINDS:
        sprite = cut_one(kind.emoji, font)
        if not kind.is_coloured:
            save(sprite, kind.name)
            continue
        for colour, _ in COLOURS:
            save(dye(sprite, HUES[colour]), f"{kind.name}-{colour}")


def cut_one(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draws a character, trims it and centres it on a transparent square."""
    canvas = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(canvas).text((30, 30), emoji, font=font, embedded_color=True)
    trimmed = canvas.crop(canvas.getbbox())
    side = max(trimmed.size)
    square = Image.new("RGBA", (side, side))
    square.paste(trimmed, ((side - trimmed.width) // 2, (side - trimmed.height) // 2))
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)


def dye(sprite: Image.Image, hue: float) -> Image.Image:
    """Gives every saturated pixel one hue; greys, such as tyres and pages, stay."""
    hsv = np.array(sprite.convert("RGB").convert("HSV"))
    is_dyed = hsv[..., 1] > 90
    hsv[..., 0][is_dyed] = round(hue * 255)
    hsv[..., 1][is_dyed] = np.maximum(hsv[..., 1][is_dyed], 200)
    hsv[..., 2][is_dyed] = np.maximum(hsv[..., 2][is_dyed], 170)
    dyed = Image.fromarray(hsv, "HSV").convert("RGB")
    dyed.putalpha(sprite.getchannel("A"))
    return dyed


def save(sprite: Image.Image, name: str) -> None:
    """Writes a sprite with at most 128 colours, a few kilobytes."""
    quantised = sprite.quantize(colors=128, method=Image.Quantize.FASTOCTREE)
    quantised.save(SPRITES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    cut(Path(sys.argv[1]))
