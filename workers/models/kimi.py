"""Kimi K2.5: an image keeps its size, or is scaled down, and is filled up to whole cells at its right and below."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from vlq.query.errors import ModelError
from vlq.query.image.pictures import MAX_ASPECT
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Layout


class KimiK25(LensModel):
    """`Kimi_K25ForConditionalGeneration`. A cell is `merge_size` x `merge_size` of the tower's patches; each shows some
    of the image."""

    family = "Kimi_K25ForConditionalGeneration"
    image_text = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        # The processor counts whole patches of the tower along each side, and there is less than one more. Along the
        # shorter side there are so many at least where an image is scaled down:
        short = max(1.0, math.sqrt(images.max_patches / MAX_ASPECT) - 1)
        cells = (short + 1) * (images.max_patches / short + 1) / images.merge_size**2
        rounded_up = (math.sqrt(cells * MAX_ASPECT) + 1) * (math.sqrt(cells / MAX_ASPECT) + 1)
        return int(min(rounded_up, math.ceil(images.size["max_height"] / images.merge_size) ** 2))

    def layout(self, width: int, height: int) -> Layout:
        images, vision = self.processor.image_processor, self.model.config.vision_config
        merged, size = images.merge_size, images.patch_size
        own = (*vision.merge_kernel_size, vision.patch_size)
        if own != (merged, merged, size) or not images.do_resize:
            raise ModelError(
                f"{self.family}: the processor merges {merged} x {merged} patches of {size} pixels, the model "
                f"{own[0]} x {own[1]} of {own[2]}.",
                "The processor's settings (patch_size, merge_size, do_resize) do not fit the model.",
            )
        navit_resize = sys.modules[type(images).__module__].navit_resize
        (resized_height, resized_width), (full_height, full_width) = navit_resize(
            height, width, size, merged, images.max_patches, images.size["max_height"]
        )
        transform = stretched(width, height, resized_width, resized_height)
        side = merged * size
        return Layout(
            (full_height // side, full_width // side), replace(transform, width=full_width, height=full_height)
        )
