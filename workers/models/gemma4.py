"""Gemma 4: images keep their shape, and a patch is the mean of several of the tower's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Layout
from vlq.workers.models.paligemma import PaliGemma


class Gemma4(LensModel):
    """`Gemma4ForConditionalGeneration`.

    An image is scaled to as many patches as the processor's `max_soft_tokens` allows, at most, whatever its size.
    Logits are capped softly where the configuration says so.
    """

    family = "Gemma4ForConditionalGeneration"
    finish = PaliGemma.finish
    # Told a number, the last blocks would see the last token alone.
    generating: ClassVar[Mapping[str, Any]] = {"logits_to_keep": torch.tensor([-1])}

    @property
    def most_patches(self) -> int:
        return int(self.processor.image_processor.max_soft_tokens)

    def layout(self, width: int, height: int) -> Layout:
        processor, vision = self.processor.image_processor, self.model.config.vision_config
        merged, size = processor.pooling_kernel_size, processor.patch_size
        if (own := (vision.pooling_kernel_size, vision.patch_size)) != (merged, size) or not processor.do_resize:
            raise ModelError(
                f"{self.family}: the processor pools {merged} x {merged} patches of {size} pixels, the model "
                f"{own[0]} x {own[0]} of {own[1]}.",
                "The processor's settings (patch_size, pooling_kernel_size, do_resize) do not fit the model.",
            )
        model_height, model_width = get_aspect_ratio_preserving_size(
            height, width, size, processor.max_soft_tokens * merged**2, merged
        )
        transform = stretched(width, height, model_width, model_height)
        return Layout((model_height // (merged * size), model_width // (merged * size)), transform)


class Gemma4Unified(Gemma4):
    """`Gemma4UnifiedForConditionalGeneration`, without a tower: its decoder is shown the pixels of each patch."""

    family = "Gemma4UnifiedForConditionalGeneration"
