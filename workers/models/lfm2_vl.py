"""LFM2-VL: images that keep their shape; large ones are cut into tiles, with a view of the whole behind them."""

from __future__ import annotations

import math

import torch
from PIL import Image

from vlq.query.image.pictures import BadImage
from vlq.workers.models.base import stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.merged import most_resized
from vlq.workers.models.tiles import Tiled


class Lfm2Vl(Tiled):
    """`Lfm2VlForConditionalGeneration`. An image that is not large keeps its shape, and is resized to whole cells, as
    the view of a large one is."""

    family = "Lfm2VlForConditionalGeneration"

    @property
    def around(self) -> tuple[str, str] | None:
        processor = self.processor
        return (processor.image_start_token, processor.image_end_token) if processor.use_image_special_tokens else None

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        whole = most_resized(images.min_image_tokens, images.max_image_tokens)
        return max(whole, images.max_tiles * self._cells**2 if images.do_image_splitting else 0)

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.processor.image_processor.tile_size,) * 2

    @property
    def _step(self) -> int:
        config = self.model.config
        return int(config.vision_config.patch_size * config.downsample_factor)

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        view, images = self.layout(*image.size).view, self.processor.image_processor
        if view is not None and math.prod(view.grid) * images.downsample_factor**2 > images.max_num_patches:
            raise BadImage(
                f"{self.family}: the whole of an image of {image.width} x {image.height} is {math.prod(view.grid)} "
                "patches, more than the processor puts beside its tiles."
            )
        return super()._encode(image, prompt)

    def layout(self, width: int, height: int) -> Layout:
        images, step = self.processor.image_processor, self._step
        sizes = {
            "height": height,
            "width": width,
            "downsample_factor": images.downsample_factor,
            "max_image_tokens": images.max_image_tokens,
            "encoder_patch_size": images.encoder_patch_size,
        }
        whole_width, whole_height = images.smart_resize(**sizes, min_image_tokens=images.min_image_tokens)
        whole = stretched(width, height, whole_width, whole_height)
        grid = whole_height // step, whole_width // step
        large = images._is_image_too_large(**sizes, max_pixels_tolerance=images.max_pixels_tolerance)
        if not (large and images.do_image_splitting and images.max_tiles > 1):
            return Layout(grid, whole)
        columns, rows, *_ = images._get_grid_layout(height, width, images.min_tiles, images.max_tiles, self._tile)
        places, tiled = self._joined(rows, columns).flatten(), (rows * self._cells, columns * self._cells)
        transform = stretched(width, height, columns * self._tile, rows * self._tile)
        if not images.use_thumbnail:
            return Layout(tiled, transform, places)
        count = len(places)
        view = View(grid, whole, count + torch.arange(math.prod(grid)))
        return Layout(tiled, transform, places, count + math.prod(grid), view)
