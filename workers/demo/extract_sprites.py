"""How the sprites were made, once, from Noto Color Emoji (Debian's fonts-noto-color-emoji, SIL Open Font License):

python -m vlq.workers.demo.extract_sprites /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from vlq.workers.demo.sprites import FOLDER
from vlq.workers.demo.words import CLASSES

EMOJI = {
    "apple": "🍎", "ball": "⚽", "bird": "🐦", "boat": "⛵", "book": "📕", "bus": "🚌", "butterfly": "🦋", "car": "🚗",
    "cat": "🐱", "dog": "🐶", "ear": "👂", "elephant": "🐘", "eye": "👁", "fish": "🐟", "flower": "🌻", "frog": "🐸",
    "horse": "🐴", "house": "🏠", "mushroom": "🍄", "nose": "👃", "rock": "🪨", "shoe": "👟", "tree": "🌳",
    "umbrella": "☂",
}  # fmt: skip

STRIKE = 109
"""The one size in which the font holds its bitmaps, 136 x 128 pixels."""

LONGEST = 96
"""Pixels of a sprite's longer side; scenes show them at two thirds of it and less."""


def main(font_file: str) -> None:
    font = ImageFont.truetype(font_file, STRIKE)
    for label in CLASSES:
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), EMOJI[label], font=font, embedded_color=True)
        sprite = canvas.crop(canvas.getbbox())
        sprite.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        sprite.save(FOLDER / f"{label}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
