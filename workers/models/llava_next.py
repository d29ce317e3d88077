"""LLaVA-NeXT and those like it: an image is cut into tiles, as many as its size and shape ask for."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.query.schema import Transform
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Layout, View
from vlq.workers.models.tiles import GraniteDocling


class LlavaNext(LensModel):
    """`LlavaNextForConditionalGeneration`.

    The image, resized to fit one of `image_grid_pinpoints` and padded to it, is cut into tiles; the tower sees each of
    them, and a small view of the whole image. The sequence has the small view first; then the tiles' patches, put
    together row by row, without the rows or columns that show only padding, and a newline at each row's end. `patch` is
    the grid of the tiles together. The small view and the newlines are no patches; but of an image so long that
    nothing of its tiles is left, the small view is all there is, and is the grid.
    """

    family = "LlavaNextForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        images, wrong = processor.image_processor, "The processor's settings do not fit the model."
        if {*dict(images.size).values(), *dict(images.crop_size or {}).values()} != {self._tile}:
            raise ModelError(
                f"{self.family}: expected tiles of {self._tile} x {self._tile} pixels. "
                f"Got size {dict(images.size)} and crop_size {dict(images.crop_size or {})}.",
                wrong,
            )
        theirs = [list(point) for point in model.config.image_grid_pinpoints]
        if theirs != self._points:
            raise ModelError(f"{self.family}: expected image_grid_pinpoints {theirs}. Got {self._points}.", wrong)
        if any(side % self._tile for point in theirs for side in point):
            raise ModelError(
                f"{self.family}: expected image_grid_pinpoints in whole tiles of {self._tile} pixels. Got {theirs}."
            )

    @property
    def most_patches(self) -> int:
        return max(height * width for height, width in self._points) // self._tile**2 * self._cells**2

    @property
    def _tile(self) -> int:
        """Pixels along a tile's side."""
        return int(self.model.config.vision_config.image_size)

    @property
    def _cells(self) -> int:
        """Patches along a tile's side."""
        return self._tile // self._patch

    @property
    def _patch(self) -> int:
        return int(self.model.config.vision_config.patch_size)

    @property
    def _points(self) -> list[list[int]]:
        """Heights and widths, of which the best is taken."""
        return [list(point) for point in self.processor.image_processor.image_grid_pinpoints]

    def layout(self, width: int, height: int) -> Layout:
        from transformers.image_processing_utils import select_best_resolution

        canvas_height, canvas_width = select_best_resolution((height, width), self._points)
        tiles_y, tiles_x = canvas_height // self._tile, canvas_width // self._tile
        bare_y, bare_x = _bare(tiles_y * self._cells, tiles_x * self._cells, width, height)
        seen_y, seen_x = tiles_y * self._cells - 2 * bare_y, tiles_x * self._cells - 2 * bare_x
        small = self._cells**2
        side, scale = self._cells * self._patch, self._tile
        whole = Transform(scale / width, scale / height, 0.0, 0.0, side, side)
        view = View((self._cells, self._cells), whole, torch.arange(small))
        if not seen_y or not seen_x:
            return Layout(view.grid, whole, view.places, small + seen_y)
        resized_width, resized_height = _fitted(canvas_width, canvas_height, width, height)
        scale_x, offset_x = self._axis(tiles_x, resized_width / width, (canvas_width - resized_width) // 2, bare_x)
        scale_y, offset_y = self._axis(tiles_y, resized_height / height, (canvas_height - resized_height) // 2, bare_y)
        transform = Transform(scale_x, scale_y, offset_x, offset_y, seen_x * self._patch, seen_y * self._patch)
        rows, columns = self._resampled(seen_y, seen_x)
        places = small + torch.arange(rows * (columns + 1)).view(rows, columns + 1)
        return Layout((rows, columns), transform, places[:, :-1].flatten(), small + places.numel(), view)

    def _axis(self, tiles: int, scale: float, before: int, bare: int) -> tuple[float, float]:
        """Scale and offset to where the first cell that is left begins at 0, and each is as long as a patch.

        `before` is the padding in front of the image, in pixels; `bare`, the cells left out there. Where patches do not
        fill a tile, its last pixels are seen by none. Over several tiles that is spread out: no cell is then off by
        more than half of it.
        """
        pitch = self._tile / self._cells if tiles > 1 else self._patch  # pixels from cell to cell
        start = (self._patch - pitch) * self._cells / 2
        unit = self._patch / pitch
        return scale * unit, (before - start) * unit - bare * self._patch

    def _resampled(self, rows: int, columns: int) -> tuple[int, int]:
        """The grid that the decoder sees of so many rows and columns."""
        return rows, columns


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration`, which reads images as LLaVA-NeXT does."""

    family = "LlavaNextVideoForConditionalGeneration"


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`: as `LlavaNext`, but too large a grid is resampled to a smaller one."""

    family = "LlavaOnevisionForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        ratio = processor.vision_aspect_ratio
        if ratio != model.config.vision_aspect_ratio:
            raise ModelError(
                f"{self.family}: expected vision_aspect_ratio {model.config.vision_aspect_ratio}. Got {ratio}.",
                "The processor's settings do not fit the model.",
            )
        if not re.fullmatch(r"anyres_max_\d+", ratio):
            raise ModelError(
                f"{self.family}: expected a vision_aspect_ratio such as anyres_max_9. Got {ratio}.",
                "The model's class knows no other.",
            )

    @property
    def most_patches(self) -> int:
        return min(super().most_patches, int(FEWER_FROM**2 * self._most_tiles * self._cells**2))

    @property
    def _most_tiles(self) -> int:
        """From anyres_max_9."""
        return int(self.processor.vision_aspect_ratio.rsplit("_", 1)[-1])

    def _resampled(self, rows: int, columns: int) -> tuple[int, int]:
        ratio = math.sqrt(rows * columns / (self._most_tiles * self._cells**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > FEWER_FROM else (rows, columns)


class Granite4Vision(LlavaNext):
    """`Granite4VisionForConditionalGeneration`: as `LlavaNext`, of patches that are several of the tower's.

    A patch is what its own of the tower's patches hold, and what a Q-Former adds to that of the window of some patches
    that it is in. There is one Q-Former for each of several layers, at which what it makes is added to the residual
    stream. In front of the first of these layers, mostly 0, patches hold nothing.
    """

    family = "Granite4VisionForConditionalGeneration"
    finish = GraniteDocling.finish

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        size, rate = super()._patch, self.model.config.downsample_rate
        if size % Fraction(rate):
            raise ModelError(
                f"{self.family}: {rate} of the tower's patches of {size} pixels are no patches of whole pixels."
            )

    @property
    def _cells(self) -> int:
        return int(self._tile // super()._patch * Fraction(self.model.config.downsample_rate))

    @property
    def _patch(self) -> int:
        return int(super()._patch / Fraction(self.model.config.downsample_rate))

    def entering(self, arguments: dict[str, Any]) -> dict[int, tuple[Tensor, Tensor]]:
        mask, features = arguments.pop("vision_mask", None), arguments.pop("deepstack_features", None)
        if mask is None:
            return {}
        places = mask[0, :, 0].nonzero()[:, 0]
        return {layer: (places, added) for layer, added in features.items()}


FEWER_FROM = 1.1
"""Resampled is what has more cells than its most tiles have by this factor, squared."""


def _bare(rows: int, columns: int, width: int, height: int) -> tuple[int, int]:
    """Rows and columns that are left out at each side, of an image padded to the canvas's shape."""
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _fitted(canvas_width: int, canvas_height: int, width: int, height: int) -> tuple[int, int]:
    """An image's width and height, resized to fit a canvas."""
    scale_x, scale_y = canvas_width / width, canvas_height / height
    if scale_x < scale_y:
        return canvas_width, min(math.ceil(height * scale_x), canvas_height)
    return min(math.ceil(width * scale_y), canvas_width), canvas_height
