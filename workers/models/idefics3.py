"""Idefics3 and SmolVLM: an image is cut into square tiles, and seen once more as a whole."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.idefics3.image_processing_pil_idefics3 import MAX_IMAGE_SIZE, get_resize_output_image_size

from vlq.workers.models.base import LensModel, longest_edge, stretched
from vlq.workers.models.encoded import Layout, View


class Idefics3(LensModel):
    """`Idefics3ForConditionalGeneration`. A patch is what the decoder sees: several of the tower's patches, merged.

    The patches of all tiles make one grid over the whole image. The view of the whole image that follows the tiles is
    left out; it is the grid where there are no tiles, because the image is small or the processor does not split it.
    Tokens around the image, of a tile's row and column and of line ends between them, are neither patches nor prompt.
    """

    family = "Idefics3ForConditionalGeneration"

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.text_model  # type: ignore[no-any-return]

    @property
    def grid(self) -> tuple[int, int] | None:
        return None if self.processor.image_processor.do_image_splitting else (self._side, self._side)

    @property
    def most_patches(self) -> int:
        if self.grid:
            return math.prod(self.grid)
        longest = self._longest + self._longest % 2  # the shorter side is rounded up to an even number
        tiles = math.ceil(longest / self._tile)
        return (tiles * self._side) ** 2

    @property
    def _tile(self) -> int:
        """A tile's side in pixels."""
        return int(self.processor.image_processor.max_image_size["longest_edge"])

    @property
    def _side(self) -> int:
        """A tile's side in patches."""
        config = self.model.config
        return self._tile // int(config.vision_config.patch_size * config.scale_factor)

    @property
    def _longest(self) -> int:
        """Pixels of an image's longer side before it is cut."""
        return min(longest_edge(self), MAX_IMAGE_SIZE)

    def layout(self, width: int, height: int) -> Layout:
        side, (rows, columns) = self._side, self._tiles(width, height)
        model_width, model_height = columns * self._tile, rows * self._tile
        transform = stretched(width, height, model_width, model_height)
        grid = (rows * side, columns * side)
        if rows == columns == 1:
            return Layout(grid, transform)
        # The sequence goes tile by tile, the grid row by row through the tiles that are beside each other.
        places = torch.arange(math.prod(grid)).reshape(rows, columns, side, side)
        whole = stretched(width, height, self._tile, self._tile)
        view = View((side, side), whole, math.prod(grid) + torch.arange(side**2))
        return Layout(grid, transform, places.transpose(1, 2).flatten(), math.prod(grid) + side**2, view)

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of an image's tiles."""
        if self.grid:
            return 1, 1
        pixels = np.broadcast_to(np.uint8(0), (3, height, width))  # takes no memory
        height, width = get_resize_output_image_size(pixels, self._longest)
        # The longer side is rounded up to whole tiles, then the other one with it.
        aspect, tile = width / height, self._tile
        if width >= height:
            columns = math.ceil(width / tile)
            return math.ceil(int(columns * tile / aspect) / tile), columns
        rows = math.ceil(height / tile)
        return rows, math.ceil(int(rows * tile * aspect) / tile)

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        around = input_ids == self.tokenizer.convert_tokens_to_ids(self.processor.fake_image_token)
        first, *_, last = around.nonzero()[:, 0]
        places = torch.arange(len(input_ids))
        return places[(places < first) | (places > last)]


class SmolVLM(Idefics3):
    """`SmolVLMForConditionalGeneration`, which reads images as Idefics3 does."""

    family = "SmolVLMForConditionalGeneration"
