"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images keep their shape, so each has a grid of its own."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vlq.query.errors import ModelError
from vlq.query.pictures import MAX_ASPECT
from vlq.query.schema import Transform
from vlq.workers.models.base import Layout, LensModel


class Qwen2VL(LensModel):
    """`Qwen2VLForConditionalGeneration`. A patch is what the decoder sees: 2 x 2 of the tower's patches, merged.

    The image is resized to multiples of a patch's sides, to between `min_pixels` and `max_pixels`. Both are settings of
    the processor (`size` names them shortest_edge and longest_edge): they bound how many patches an image has.
    """

    family = "Qwen2VLForConditionalGeneration"
    image_text = "<|vision_start|><|image_pad|><|vision_end|>"

    @property
    def grid(self) -> None:
        return None

    @property
    def most_patches(self) -> int:
        low, high = (pixels / self._side**2 for pixels in self._pixels)
        # An elongated image is one patch high: scaled to `high` patches' pixels it is sqrt(aspect * high) patches long.
        # An image that is scaled up has its sides rounded up.
        up = (math.sqrt(low * MAX_ASPECT) + 1) * (math.sqrt(low / MAX_ASPECT) + 1)
        return math.floor(max(high, math.sqrt(high * MAX_ASPECT), up))

    @property
    def _side(self) -> int:
        """Of a patch, in pixels of the resized image."""
        vision, processor = self.model.config.vision_config, self.processor.image_processor
        merged, size = processor.merge_size, processor.patch_size
        if (own := (vision.spatial_merge_size, vision.patch_size)) != (merged, size):
            raise ModelError(
                f"{self.family}: the processor merges {merged} x {merged} patches of {size} pixels, the model "
                f"{own[0]} x {own[0]} of {own[1]}.",
                "The processor's settings (patch_size, merge_size) do not fit the model.",
            )
        return int(merged * size)

    @property
    def _pixels(self) -> tuple[int, int]:
        """The least and the most of a resized image."""
        size = self.processor.image_processor.size
        return size["shortest_edge"], size["longest_edge"]

    def layout(self, width: int, height: int) -> Layout:
        if not self.processor.image_processor.do_resize:
            raise ModelError(
                f"{self.family}: the processor does not resize images, so they do not divide into patches.",
                "Set do_resize in the processor's settings.",
            )
        low, high = self._pixels
        model_height, model_width = smart_resize(height, width, self._side, min_pixels=low, max_pixels=high)
        transform = Transform(model_width / width, model_height / height, 0.0, 0.0, model_width, model_height)
        return Layout((model_height // self._side, model_width // self._side), transform)

    def position_ids(self, mask: Tensor) -> None:
        """The model numbers a patch by its row and column."""


class Qwen25VL(Qwen2VL):
    """`Qwen2_5_VLForConditionalGeneration`, which differs in its tower."""

    family = "Qwen2_5_VLForConditionalGeneration"


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`, which adds features of the tower's middle to the patches behind early blocks.

    Such a layer's states hold what was added: they are those that enter the next block. `output_hidden_states` of
    transformers returns them without.
    """

    family = "Qwen3VLForConditionalGeneration"

    def entering(self, arguments: dict[str, Any]) -> dict[int, tuple[Tensor, Tensor]]:
        mask, values = arguments.pop("visual_pos_masks"), arguments.pop("deepstack_visual_embeds")
        places = mask[0].nonzero()[:, 0]
        return {layer: (places, added) for layer, added in enumerate(values or (), start=1)}
