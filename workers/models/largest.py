"""Whether a batch of the largest images fits, where images have grids of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import noise

SIDES = tuple(64 * 2**power for power in range(8))
"""Pixels of the longer side of images that are tried for most patches, up to 8,192."""

SHAPES = (1, 4 / 3, 3 / 2, 16 / 9, 2, 3, 4)
"""How many times as long it is as the shorter one."""


def largest_size(model: LensModel) -> tuple[int, int]:
    """Width and height of the smallest image that no other one that was tried becomes more patches than."""
    tall = [(round(side / shape), side) for side in SIDES for shape in SHAPES]
    sizes = [*tall, *((width, height) for height, width in tall)]
    return max(sizes, key=lambda size: (math.prod(model.layout(*size).grid), -math.prod(size)))


def trouble_with_largest(model: LensModel, images: int, answer: bool = False) -> str | None:
    """What the user should know if a batch of so many of the largest images does not fit into the GPU's memory; None if
    it does. With `answer` the model answers, too.

    It is no error: whether a corpus has such images shows when they are read.
    """
    if model.grid is not None:
        return None  # all images are as large as those that a model is checked with
    encoded = model.encode(noise(*largest_size(model)))
    batch = [encoded] * images
    image, place = model.places(batch, ("patch", "prompt"))

    def visit(layer: int, hidden: Tensor) -> None:
        hidden[image, place]  # what the lens is given

    try:
        if answer:
            model.answer(batch, 1, visit)
        else:
            model.forward(batch, visit)
    except torch.cuda.OutOfMemoryError:
        return (
            f"A batch of {images} images of {math.prod(encoded.grid):,} patches, about the most that the processor "
            "makes of one, does not fit into the GPU's memory. If there are such images, begin the cache with a "
            "smaller --batch-size."
        )
    finally:
        torch.cuda.empty_cache()
    return None
