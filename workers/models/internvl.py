"""InternVL: an image is cut into tiles, as many as its shape asks for; each cell of the grid is of several patches."""

from __future__ import annotations

from typing import Any

import torch

from vlq.query.errors import ModelError
from vlq.query.schema import Transform
from vlq.workers.models.base import Layout, LensModel, View


class InternVL(LensModel):
    """`InternVLForConditionalGeneration`, in transformers' own layout (the hub's ids that end in -hf).

    The image is stretched to whole tiles, rows and columns of them; the tower sees each, and, where there is more than
    one, a thumbnail of the whole image. 2 x 2 of its patches make one image position, and that is what `patch` counts
    here. The sequence has tile after tile, each row by row, and the thumbnail at the end. `patch` is the grid of the
    tiles together; the thumbnail's positions are no patches.
    """

    family = "InternVLForConditionalGeneration"

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
        config = self.model.config
        return int(config.vision_config.patch_size[0] / config.downsample_ratio)

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
        transform = Transform(columns * tile / width, rows * tile / height, 0.0, 0.0, columns * tile, rows * tile)
        tiles = rows * columns
        # (tile row, tile column, row, column) -> row by row over all tiles
        places = torch.arange(tiles * cells**2).view(rows, columns, cells, cells).transpose(1, 2).flatten()
        if tiles == 1:
            return Layout((cells, cells), transform, places, cells**2)
        whole = Transform(tile / width, tile / height, 0.0, 0.0, tile, tile)
        view = View((cells, cells), whole, tiles * cells**2 + torch.arange(cells**2))
        return Layout((rows * cells, columns * cells), transform, places, (tiles + 1) * cells**2, view)

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        least, most = self._setting("min_patches"), self._setting("max_patches")
        if not self._setting("crop_to_patches") or most <= 1:
            return 1, 1
        columns, rows = get_optimal_tiled_canvas((height, width), (self._tile, self._tile), least, most)
        return rows, columns
