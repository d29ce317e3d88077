"""MiniCPM-V and MiniCPM-OCR: large images are cut into slices of one shape, with a view of the whole before them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.merged import most_resized
from vlq.workers.models.qwen_vl import Qwen35


class MiniCPMV46(LensModel):
    """`MiniCPMV4_6ForConditionalGeneration`, with Qwen3.5's decoder. A cell is 4 x 4 of the tower's patches, or 2 x 2
    (`downsample_mode`). Of an image that is not cut there is the view of the whole alone."""

    family = "MiniCPMV4_6ForConditionalGeneration"
    own_noise = Qwen35.own_noise

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        cells = (images.scale_resolution / self._step) ** 2
        return most_resized(cells, cells) * (max(1, images.max_slice_nums) if images.slice_mode else 1)

    @property
    def _step(self) -> int:
        """Pixels along a cell's side."""
        images = self.processor.image_processor
        return int(images.patch_size) * (2 if images.downsample_mode == "4x" else 4)

    def layout(self, width: int, height: int) -> Layout:
        images, step = self.processor.image_processor, self._step
        how = (images.scale_resolution, images.patch_size, images.downsample_mode)
        if not images.do_resize:
            raise ModelError(
                f"{self.family}: the processor does not resize images, so they do not divide into patches.",
                "Set do_resize in the processor's settings.",
            )
        slices = images.slice_mode and images.get_sliced_grid((height, width), images.max_slice_nums, how[0])
        whole_height, whole_width = images.find_best_resize(
            (height, width), *how, allow_upscale=not slices and self._scales_up
        )
        whole = stretched(width, height, whole_width, whole_height)
        small = whole_height // step, whole_width // step
        if not slices:
            return Layout(small, whole)
        rows, columns = slices
        full_height, full_width = images.get_refine_size((height, width), slices, *how, allow_upscale=True)
        grid, before = (full_height // step, full_width // step), math.prod(small)
        places = before + torch.arange(math.prod(grid)).view(rows, columns, grid[0] // rows, grid[1] // columns)
        return Layout(
            grid,
            stretched(width, height, full_width, full_height),
            places.transpose(1, 2).flatten(),
            before + len(places.flatten()),
            View(small, whole, torch.arange(before)),
        )

    @property
    def _scales_up(self) -> bool:
        """Whether an image that is not cut is scaled up."""
        return True

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        """Without what is between an image's slices, and the tokens around them, which go by whether it is cut."""
        images = (input_ids == self.image_token_id).nonzero()[:, 0]
        places = torch.arange(len(input_ids))
        return places[(places < images[0] - 1) | (places > images[-1] + 1)]

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        found = super()._encode(image, prompt)
        # (1, channel, side, patches and side) -> the last axis first: along it images are joined.
        return replace(found, values={**found.values, "pixel_values": found.values["pixel_values"].transpose(0, -1)})

    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        found = super().batch(images)
        return found | {"pixel_values": found["pixel_values"].transpose(0, -1)}


class MiniCPMV47(MiniCPMV46):
    """`MiniCPMV4_7ForConditionalGeneration`, which numbers a patch by its row and column."""

    family = "MiniCPMV4_7ForConditionalGeneration"

    def position_ids(self, mask: Tensor) -> None:
        return None


class MiniCPMOcr(MiniCPMV46):
    """`MiniCPMOcrForConditionalGeneration`."""

    family = "MiniCPMOcrForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        if processor.image_processor.small_image_upsize == "adaptive":
            raise ModelError(
                f"{self.family}: the processor scales each slice by what it shows, so that they make no grid together.",
                'Set small_image_upsize to "always" in the processor\'s settings.',
            )
        super().__init__(model, processor, prompt)

    @property
    def _scales_up(self) -> bool:
        return bool(self.processor.image_processor.small_image_upsize == "always")
