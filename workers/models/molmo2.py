"""Molmo 2: overlapping crops, whose patches are pooled to one grid, and a small view of the whole before them."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlq.query.schema import Transform
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded, Layout, View


class Molmo2(LensModel):
    """`Molmo2ForConditionalGeneration`.

    An image is stretched to a canvas, which the crops cover; of what two of them show each is shown the half that lies
    nearer to its middle. Where the canvas does not divide into cells, the first ones are smaller. Rows end with a
    token that is neither patch nor prompt, as those around an image are: the head has no rows for them.
    """

    family = "Molmo2ForConditionalGeneration"

    @property
    def most_patches(self) -> int:
        most = range(1, self._images.max_crops + 1)
        tilings = (tiling for tiling in itertools.product(most, most) if math.prod(tiling) <= self._images.max_crops)
        return max(
            math.prod(math.ceil(self._canvas(tiles) / step) for tiles, step in zip(tiling, self._steps, strict=True))
            for tiling in tilings
        )

    @property
    def _images(self) -> Any:
        return self.processor.image_processor

    @property
    def _steps(self) -> tuple[int, int]:
        """Pixels along a cell's sides: its height and its width."""
        rows, columns = self._images.pooling_size
        return rows * self._images.patch_size, columns * self._images.patch_size

    def _canvas(self, tiles: int) -> int:
        """Pixels along a canvas of so many crops."""
        margin = sum(self._images.overlap_margins) * self._images.patch_size
        return int(tiles * (self._images.size["height"] - margin) + margin)

    def layout(self, width: int, height: int) -> Layout:
        images = self._images
        geometry: Callable[..., tuple[int, int, int, int]] = sys.modules[type(images).__module__].compute_crop_geometry
        side = images.size["height"]
        canvas = geometry(height, width, images.max_crops, images.overlap_margins, side, images.patch_size)[2:]
        grid, transform = self._cells(width, height, canvas)
        small, whole = self._cells(width, height, (side, side))
        before, cells = math.prod(small), math.prod(grid)
        view = View(small, whole, torch.arange(before))
        return Layout(grid, transform, before + torch.arange(cells), before + cells, view)

    def _cells(self, width: int, height: int, canvas: tuple[int, int]) -> tuple[tuple[int, int], Transform]:
        """The grid of an image that is stretched to a canvas of a height and a width."""
        patch = self._images.patch_size
        rows, columns = (math.ceil(side / step) for side, step in zip(canvas, self._steps, strict=True))
        sides = rows * self._steps[0], columns * self._steps[1]
        # Whole patches are put in front, one less than behind if they are odd.
        y, x = ((whole - side) // patch // 2 * patch for whole, side in zip(sides, canvas, strict=True))
        return (rows, columns), Transform(canvas[1] / width, canvas[0] / height, x, y, sides[1], sides[0])

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        return (~torch.isin(input_ids, torch.tensor(self.processor.image_token_ids))).nonzero()[:, 0]

    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        """Patches of the tower are numbered through all images."""
        numbered, before = [], 0
        for image in images:
            pooled = image.values["image_token_pooling"]
            shifted = torch.where(pooled >= 0, pooled + before, pooled)
            numbered.append(replace(image, values={**image.values, "image_token_pooling": shifted}))
            before += math.prod(image.values["pixel_values"].shape[:2])
        return super().batch(numbered)
