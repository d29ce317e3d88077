"""Images that are cut into square tiles, as many as their shape asks for, and shown once more as a whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.workers.models.base import Layout, LensModel, View, stretched
from vlq.workers.models.generic import found_finish


class Tiled(LensModel):
    """A model whose image is stretched to whole tiles, rows and columns of them.

    The tower sees each tile, and, where there is more than one, a thumbnail of the whole image. Several of its patches
    make one image position, a cell. The sequence has tile after tile, each row by row, and the thumbnail before or
    behind them. `patch` is the grid of the tiles together; the thumbnail's positions are no patches.
    """

    whole_first: ClassVar[bool] = False
    """Whether the thumbnail is before the tiles."""

    around: ClassVar[tuple[str, str] | None] = None
    """Tokens around an image, if there are more between its tiles: those are neither patches nor prompt."""

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        size = processor.image_processor.size
        if size["height"] != size["width"] or self._tile % self._step:
            raise ModelError(
                f"{self.family}: expected square tiles of a multiple of {self._step} pixels. Got {dict(size)}.",
                "The processor's settings do not fit the model.",
            )

    @property
    def grid(self) -> None:
        return None

    @property
    def most_patches(self) -> int:
        return (int(self._setting("max_patches")) if self._setting("crop_to_patches") else 1) * self._cells**2

    @property
    def _tile(self) -> int:
        """Pixels along a tile's side."""
        return int(self.processor.image_processor.size["height"])

    @property
    def _step(self) -> int:
        """Pixels along a cell's side."""
        raise NotImplementedError

    @property
    def _cells(self) -> int:
        """Cells along a tile's side."""
        return self._tile // self._step

    def _setting(self, name: str) -> Any:
        """As the processor gives it to its image processor, whose own it overrides."""
        own = getattr(self.processor.image_processor, name)
        return getattr(self.processor, "images_kwargs", {}).get(name, own)

    def layout(self, width: int, height: int) -> Layout:
        rows, columns = self._tiles(width, height)
        cells, tile = self._cells, self._tile
        transform = stretched(width, height, columns * tile, rows * tile)
        tiles = rows * columns
        # (tile row, tile column, row, column) -> row by row over all tiles
        places = torch.arange(tiles * cells**2).view(rows, columns, cells, cells).transpose(1, 2).flatten()
        if tiles == 1:
            return Layout((cells, cells), transform, places, cells**2)
        whole = stretched(width, height, tile, tile)
        small = torch.arange(cells**2)
        if self.whole_first:
            places += cells**2
        else:
            small += tiles * cells**2
        view = View((cells, cells), whole, small)
        return Layout((rows * cells, columns * cells), transform, places, (tiles + 1) * cells**2, view)

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        least, most = self._setting("min_patches"), self._setting("max_patches")
        if not self._setting("crop_to_patches") or most <= 1:
            return 1, 1
        columns, rows = self._best_tiles(width, height, least, most)
        return rows, columns

    def _best_tiles(self, width: int, height: int, least: int, most: int) -> tuple[int, int]:
        """Columns and rows of `least` to `most` tiles, by the processor's own function."""
        choose = sys.modules[type(self.processor.image_processor).__module__].get_optimal_tiled_canvas
        columns, rows = choose((height, width), (self._tile, self._tile), least, most)
        return columns, rows

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        if self.around is None:
            return super().prompt_places(input_ids)
        first, last = ((input_ids == id).nonzero()[0, 0] for id in self.tokenizer.convert_tokens_to_ids([*self.around]))
        places = torch.arange(len(input_ids))
        return places[(places <= first) | (places >= last)]


class InternVL(Tiled):
    """`InternVLForConditionalGeneration`, in transformers' own layout (the hub's ids that end in -hf)."""

    family = "InternVLForConditionalGeneration"

    @property
    def _step(self) -> int:
        config = self.model.config
        return int(config.vision_config.patch_size[0] / config.downsample_ratio)


class QianfanOCR(InternVL):
    """`QianfanOCRForConditionalGeneration`."""

    family = "QianfanOCRForConditionalGeneration"


class AyaVision(Tiled):
    """`AyaVisionForConditionalGeneration`."""

    family = "AyaVisionForConditionalGeneration"
    around = ("<|START_OF_IMG|>", "<|END_OF_IMG|>")

    def finish(self, logits: Tensor) -> Tensor:
        return self._finish(logits)

    @cached_property
    def _finish(self) -> Callable[[Tensor], Tensor]:
        return found_finish(self)  # there are versions of its class that leave Cohere's factor out

    @property
    def _step(self) -> int:
        config = self.model.config
        return int(config.vision_config.patch_size * config.downsample_factor)


class Ovis2(Tiled):
    """`Ovis2ForConditionalGeneration`, whose patches are mixtures of a vocabulary of its tower."""

    family = "Ovis2ForConditionalGeneration"
    whole_first = True
    around = ("<IMG_START>", "<IMG_END>")

    @property
    def _step(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.hidden_stride)

    def _best_tiles(self, width: int, height: int, least: int, most: int) -> tuple[int, int]:
        processor = self.processor.image_processor
        if not processor.use_covering_area_grid:
            return super()._best_tiles(width, height, least, most)
        choose = sys.modules[type(processor).__module__].get_min_tile_covering_grid
        columns, rows = choose((height, width), self._tile, most)
        return columns, rows
