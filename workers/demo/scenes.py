"""Scenes: sprites on a background, with what a picture cannot say of itself: boxes, the main object, a caption.

A scene is a function of its split and its number. The splits differ in their random numbers and in how sprites are
turned and scaled, so that nothing measured on one was drawn in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from propcache.api import cached_property

from vlq.workers.demo.backgrounds import paint
from vlq.workers.demo.sprites import sprite
from vlq.workers.demo.words import BACKGROUNDS, CLASSES

SIDE = 112
"""Pixels of a scene's side."""

GRID = 8
PATCH = SIDE // GRID

SHOWS = 0.4
"""Share of a patch that an object must cover for the patch to be called its own when training."""

MOST_OBJECTS = 4
MARGIN = 1.3
"""How many times the area of any other class the main object has: near ties have no answer."""

LEAST_PATCHES = 2
"""How many patches each object must have for its own; what no patch shows, no one can ask for."""

OVERLAP = 0.1
"""Share of the smaller box that another may hide."""


@dataclass(frozen=True)
class Split:
    """A family of scenes."""

    seed: int
    angles: tuple[int, ...]  # degrees
    sizes: tuple[int, ...]  # pixels of the longer side


TRAINING = Split(1, tuple(range(-24, 25, 6)), tuple(range(32, 65, 2)))
EVALUATION = Split(2, tuple(range(-21, 22, 6)), tuple(range(33, 64, 2)))
DEMO = Split(3, EVALUATION.angles, EVALUATION.sizes)


@dataclass(frozen=True)
class Placed:
    """One object: its word and its box in pixels, right and bottom excluded."""

    label: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1

    @property
    def area(self) -> int:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it."""

    pixels: np.ndarray  # (SIDE, SIDE, 3) uint8
    background: str
    objects: tuple[Placed, ...]
    coverage: np.ndarray  # (object, GRID, GRID) float32: the share of each patch in which the object is seen

    @property
    def words(self) -> list[str]:
        """The objects' words, each once, in alphabetical order."""
        return sorted({placed.label for placed in self.objects})

    @property
    def main(self) -> str:
        """The word of the object with the largest box."""
        return max(self.objects, key=lambda placed: placed.area).label

    @property
    def caption(self) -> str:
        """'an apple, a dog and a rock'."""
        named = [with_article(word) for word in self.words]
        return " and ".join(([", ".join(named[:-1])] if named[1:] else []) + named[-1:])

    @cached_property
    def patch_words(self) -> np.ndarray:
        """(GRID, GRID) of str: the word of what each patch shows, an object's or the background's."""
        words = np.full((GRID, GRID), self.background, dtype=object)
        best = self.coverage.argmax(0)  # (GRID, GRID)
        for i, placed in enumerate(self.objects):
            words[(best == i) & (self.coverage[i] >= SHOWS)] = placed.label
        return words


def with_article(word: str) -> str:
    """'a dog', 'an ear'."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def compose(split: Split, number: int) -> Scene:
    """The scene of this number, always the same."""
    rng = np.random.default_rng([split.seed, number])
    background = str(rng.choice(BACKGROUNDS))
    count = int(rng.integers(1, MOST_OBJECTS + 1))
    while True:
        drawn = _draw_objects(split, count, rng)
        if drawn is None:
            continue
        coverage = _coverage(drawn)
        if ((coverage >= SHOWS).sum((1, 2)) >= LEAST_PATCHES).all():
            break
    canvas = paint(background, SIDE, rng)  # (SIDE, SIDE, 3) float32
    for placed, picture in drawn:
        x0, y0, x1, y1 = placed.box
        area = canvas[y0:y1, x0:x1]
        area += (picture[:, :, 3:] / np.float32(255)) * (picture[:, :, :3] - area)
    return Scene(canvas.round().astype(np.uint8), background, tuple(placed for placed, _ in drawn), coverage)


def _coverage(drawn: list[tuple[Placed, np.ndarray]]) -> np.ndarray:
    """(object, GRID, GRID): the share of each patch in which an object is seen; later ones hide earlier ones."""
    shown = np.zeros((len(drawn), SIDE, SIDE), np.float32)
    for i, (placed, picture) in enumerate(drawn):
        x0, y0, x1, y1 = placed.box
        alpha = picture[:, :, 3] / np.float32(255)  # (height, width)
        shown[:i, y0:y1, x0:x1] *= 1 - alpha
        shown[i, y0:y1, x0:x1] = alpha
    shares: np.ndarray = shown.reshape(len(drawn), GRID, PATCH, GRID, PATCH).mean((2, 4))
    return shares


def _draw_objects(split: Split, count: int, rng: np.random.Generator) -> list[tuple[Placed, np.ndarray]] | None:
    """Objects that fit beside each other, the main one clearly the largest; None if these do not."""
    drawn: list[tuple[Placed, np.ndarray]] = []
    for _ in range(count):
        # The more objects, the smaller all but one must be.
        largest = split.sizes[-1] if not drawn else split.sizes[-1] - 6 * count
        sizes = [size for size in split.sizes if size <= largest]
        label = CLASSES[rng.integers(len(CLASSES))]
        angle = split.angles[rng.integers(len(split.angles))]
        picture = sprite(label, angle, sizes[rng.integers(len(sizes))], bool(rng.integers(2)))
        placed = _place(label, picture.shape, [other for other, _ in drawn], rng)
        if placed is None:
            return None
        drawn.append((placed, picture))
    by_area = sorted((placed for placed, _ in drawn), key=lambda placed: -placed.area)
    rivals = [placed.area for placed in by_area[1:] if placed.label != by_area[0].label]
    if rivals and by_area[0].area < MARGIN * rivals[0]:
        return None
    order = rng.permutation(count)  # of painting, and so of who hides whom
    return [drawn[i] for i in order]


def _place(label: str, shape: Sequence[int], others: list[Placed], rng: np.random.Generator) -> Placed | None:
    height, width = shape[:2]
    for _ in range(12):
        x0, y0 = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
        placed = Placed(label, (x0, y0, x0 + width, y0 + height))
        if all(_shared(placed, other) <= OVERLAP * min(placed.area, other.area) for other in others):
            return placed
    return None


def _shared(one: Placed, other: Placed) -> int:
    width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    return max(0, width) * max(0, height)
