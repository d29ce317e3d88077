"""The objects' pictures, turned, mirrored and scaled."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "sprites"

FAINT = 24
"""Alpha below which a pixel counts as empty: resampling leaves a haze that no one sees."""


@cache
def original(label: str) -> Image.Image:
    """The sprite as shipped, RGBA."""
    with Image.open(FOLDER / f"{label}.png") as image:
        return image.convert("RGBA")


@cache
def sprite(label: str, angle: int, size: int, mirrored: bool) -> np.ndarray:
    """RGBA (height, width, 4) uint8, cut to what is seen; the longer side is `size` pixels or a haze's width less."""
    image = original(label)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _cut(image.rotate(angle, Image.Resampling.BICUBIC, expand=True))
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return np.asarray(_cut(image.resize((width, height), Image.Resampling.LANCZOS)))


def _cut(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    pixels[pixels[:, :, 3] < FAINT] = 0
    cleaned = Image.fromarray(pixels)
    return cleaned.crop(cleaned.getbbox())
