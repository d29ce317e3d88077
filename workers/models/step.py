"""Step 3.7: tiles of windows that go by an image's shape, and a view of the whole behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from vlq.query.image.pictures import MAX_ASPECT
from vlq.query.schema import Transform
from vlq.workers.models.base import stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.tiles import Tiled

OF_IMAGE = ("<im_patch>", "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>")
"""Tokens that a processor writes for an image: none of them is the prompt's."""


class Step3p7(Tiled):
    """`Step3p7ForConditionalGeneration`. Of an image that is not cut there is the view of the whole alone. A narrow one
    is filled up to a square; cells that show nothing but that are no patches."""

    family = "Step3p7ForConditionalGeneration"

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        longest = images.max_image_size
        # A narrow image is cut into squares, the last of which may be begun.
        narrow = math.ceil(longest / max(1, longest // MAX_ASPECT)) + 1
        tiles = max(math.ceil(longest / self._tile) ** 2, narrow)
        return int(max(tiles * self._cells**2, (images.size["height"] // self._step) ** 2))

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.processor.image_processor.patch_size,) * 2

    @property
    def _step(self) -> int:
        return int(self.model.config.vision_config.patch_size) * 4  # two convolutions, of which each halves the sides

    def layout(self, width: int, height: int) -> Layout:
        images = self.processor.image_processor
        *_, window, columns, rows, squared = images._plan_patches(width, height, images.size["height"], self._tile)
        sides = (max(width, height),) * 2 if squared else (width, height)

        def shown(places: Tensor) -> tuple[Tensor, Transform]:
            """Of (row, column) cells that the sides are stretched to, those that show some of the image."""
            step = self._step
            transform = stretched(*sides, places.shape[1] * step, places.shape[0] * step)
            rows, columns = math.ceil(height * transform.scale_y / step), math.ceil(width * transform.scale_x / step)
            found = places[:rows, :columns]
            return found, replace(transform, width=found.shape[1] * step, height=found.shape[0] * step)

        cells, before = images.size["height"] // self._step, rows * columns * self._cells**2
        whole, transform = shown(before + torch.arange(cells**2).view(cells, cells))
        count = before + cells**2
        if not window:
            return Layout((whole.shape[0], whole.shape[1]), transform, whole.flatten(), count)
        view = View((whole.shape[0], whole.shape[1]), transform, whole.flatten())
        tiled, transform = shown(self._joined(rows, columns))
        return Layout((tiled.shape[0], tiled.shape[1]), transform, tiled.flatten(), count, view)

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        own = torch.tensor(self.tokenizer.convert_tokens_to_ids([*OF_IMAGE]))
        return (~torch.isin(input_ids, own)).nonzero()[:, 0]

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        found = super()._encode(image, prompt)
        # Beside images that are cut, one that is not has as many tiles as it has: none.
        none = {"pixel_values_local": torch.empty(0, 3, self._tile, self._tile)}
        return replace(found, values=none | dict(found.values))

    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        found = super().batch(images)
        if not len(found["pixel_values_local"]):
            del found["pixel_values_local"]
        return found
