"""Unlimited-OCR: tiles, and behind them the whole image once more, put into the middle of a square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.query.schema import Transform
from vlq.workers.models.base import stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.tiles import Tiled


class UnlimitedOcr(Tiled):
    """`UnlimitedOcrForConditionalGeneration`. Of an image that is not cut there is the view of the whole alone, in
    which cells that show padding alone are no patches. Rows end with an image position, and so does the image."""

    family = "UnlimitedOcrForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        if self._whole % self._step:
            raise ModelError(
                f"{self.family}: expected a view of a multiple of {self._step} pixels. Got {self._whole}.",
                "The processor's settings do not fit the model.",
            )

    @property
    def most_patches(self) -> int:
        return int(max(super().most_patches, (self._whole // self._step) ** 2))

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.processor.image_processor.tile_size,) * 2

    @property
    def _whole(self) -> int:
        """Pixels along the side of the view."""
        size = self.processor.image_processor.size
        return int(max(size["height"], size["width"]))

    @property
    def _step(self) -> int:
        # Two convolutions, of which each halves the sides.
        return int(self.model.config.vision_config.sam_config.patch_size) * 4

    def layout(self, width: int, height: int) -> Layout:
        images, cells = self.processor.image_processor, self._whole // self._step
        small = torch.arange(cells * (cells + 1)).view(cells, cells + 1)[:, :cells]
        if not images.crop_to_patches or max(width, height) <= self._tile:
            grid, transform, places = self._shown(width, height, small)
            return Layout(grid, transform, places, cells * (cells + 1) + 1)
        columns, rows = self._best_tiles(width, height, images.min_patches, images.max_patches)
        transform = stretched(width, height, columns * self._tile, rows * self._tile)
        rows, columns = rows * self._cells, columns * self._cells
        before = rows * (columns + 1)
        every = torch.arange(before).view(rows, columns + 1)[:, :columns]
        view = View(*self._shown(width, height, before + small))
        return Layout((rows, columns), transform, every.flatten(), before + cells * (cells + 1) + 1, view)

    def _shown(self, width: int, height: int, places: Tensor) -> tuple[tuple[int, int], Transform, Tensor]:
        """Of the view's cells (row, column) those that show some of the image."""
        images, side, step = self.processor.image_processor, self._whole, self._step
        if not images.crop_to_patches and side <= images.maximum_pad_value:
            return (places.shape[0], places.shape[1]), stretched(width, height, side, side), places.flatten()
        scale = side / max(width, height)
        resized = round(width * scale), round(height * scale)
        left, top = ((side - shown) // 2 for shown in resized)
        x, y = left // step, top // step
        found = places[y : math.ceil((top + resized[1]) / step), x : math.ceil((left + resized[0]) / step)]
        rows, columns = found.shape
        transform = Transform(
            resized[0] / width, resized[1] / height, left - x * step, top - y * step, columns * step, rows * step
        )
        return (rows, columns), transform, found.flatten()

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        found = super()._encode(image, prompt)
        values = {name: torch.as_tensor(given) for name, given in found.values.items()}
        # Beside images that are cut, one that is not has as many tiles as it has: none.
        return replace(found, values={"pixel_values_local": torch.empty(0, 3, self._tile, self._tile)} | values)

    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        found: dict[str, Any] = super().batch(images)
        if not len(found["pixel_values_local"]):
            del found["pixel_values_local"]
        return found | {name: found[name].tolist() for name in ("num_local_patches", "patches_grid")}
