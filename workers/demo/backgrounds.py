"""What is behind the objects: five kinds of ground and sky, drawn from random numbers."""

from __future__ import annotations

import numpy as np
from PIL import Image

Array = np.ndarray


def paint(kind: str, side: int, rng: np.random.Generator) -> Array:
    """An RGB picture of a background, (side, side, 3) float32 from 0 to 255."""
    picture = {"beach": _beach, "grass": _grass, "night": _night, "sky": _sky, "snow": _snow}[kind](side, rng)
    brightness = rng.uniform(0.9, 1.08)
    grain = rng.integers(-5, 6, (side, side, 1), dtype=np.int8)
    return np.clip(picture * brightness + grain, 0, 255).astype(np.float32)


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], at: Array) -> Array:
    """Colours between two, `at` (side, side) from 0 to 1."""
    return np.asarray(low, np.float32) + at[:, :, None] * (np.asarray(high, np.float32) - np.asarray(low, np.float32))


def _clouds(side: int, cells: tuple[int, int], rng: np.random.Generator) -> Array:
    """(side, side) smooth noise from 0 to 1; `cells` are the bumps down and across."""
    coarse = rng.integers(0, 256, cells, dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / 255


def _down(side: int) -> Array:
    """(side, side) from 0 at the top to 1 at the bottom."""
    return np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32)[:, None], (side, side))


def _beach(side: int, rng: np.random.Generator) -> Array:
    picture = _blend((214, 184, 130), (240, 217, 168), _clouds(side, (28, 14), rng))
    shore = rng.uniform(0.05, 0.25) + 0.04 * np.sin(np.linspace(0, rng.uniform(3, 9), side, dtype=np.float32))
    picture[_down(side) < shore[None, :] + 0.03] = (250, 248, 240)  # foam
    sea = _blend((60, 160, 190), (110, 200, 215), _clouds(side, (20, 4), rng))
    return np.where((_down(side) < shore[None, :])[:, :, None], sea, picture)


def _grass(side: int, rng: np.random.Generator) -> Array:
    blades = 0.6 * _clouds(side, (8, 56), rng) + 0.4 * _clouds(side, (5, 5), rng)
    return _blend((52, 110, 38), (128, 186, 76), blades)


def _night(side: int, rng: np.random.Generator) -> Array:
    picture = _blend((10, 12, 38), (38, 36, 84), 0.7 * _down(side) + 0.3 * _clouds(side, (5, 5), rng))
    rows, columns = rng.integers(0, side - 1, (2, 60))
    picture[rows, columns] = (255, 250, 220)
    picture[rows[:20] + 1, columns[:20]] = (200, 200, 200)
    return picture


def _sky(side: int, rng: np.random.Generator) -> Array:
    blue = _blend((66, 138, 222), (148, 200, 246), _down(side))
    white = np.clip(2.5 * _clouds(side, (6, 4), rng) - 1.4, 0, 1)[:, :, None]
    cloud = np.asarray((246, 249, 253), np.float32)
    picture: Array = blue + white * (cloud - blue)
    return picture


def _snow(side: int, rng: np.random.Generator) -> Array:
    drifts = 0.6 * _clouds(side, (7, 3), rng) + 0.4 * _down(side)
    picture = _blend((205, 216, 232), (246, 249, 253), drifts)
    rows, columns = rng.integers(0, side - 1, (2, 50))
    picture[rows, columns] = picture[rows + 1, columns] = (186, 200, 224)
    return picture
