"""LLaVA 1.5: a CLIP-like vision tower, an MLP projector, a language model. One fixed square grid per image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vlq.query.schema import Transform
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Layout


class Llava(LensModel):
    """`LlavaForConditionalGeneration`, with CLIP's image processor (resize, crop) or LLaVA's (pad, resize, crop)."""

    family = "LlavaForConditionalGeneration"

    @property
    def grid(self) -> tuple[int, int]:
        return self.layout(64, 64).grid

    def layout(self, width: int, height: int) -> Layout:
        transform = processor_transform(self.processor.image_processor, width, height)
        rows, columns = transform.height // self.cell, transform.width // self.cell
        # The tower sees nothing of what is left at the right and at the bottom.
        seen = replace(transform, width=columns * self.cell, height=rows * self.cell)
        places = torch.arange(rows * columns) + self._in_front
        return Layout((rows, columns), seen, places, len(places) + self._in_front)

    @property
    def cell(self) -> int:
        """The side of what one image position shows, in pixels of the model's input."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def _in_front(self) -> int:
        """Positions before the patches: of CLIP's class token, say, where the model takes all that its tower gives."""
        takes_all = getattr(self.processor, "vision_feature_select_strategy", None) == "full"
        return int(self.processor.num_additional_image_tokens) if takes_all else 0


def processor_transform(processor: Any, width: int, height: int) -> Transform:
    """The coordinates' path through an image processor that may pad to a square, resize and crop at the centre.

    Follows transformers' integer arithmetic: sizes are cut off, not rounded, and crops begin at whole pixels.
    """
    pad_x = pad_y = 0
    if getattr(processor, "do_pad", False):
        side = max(width, height)
        pad_x, pad_y = (side - width) // 2, (side - height) // 2
        width = height = side
    resized_width, resized_height = width, height
    if processor.do_resize:
        resized_width, resized_height = _resized(processor.size, width, height)
    left = top = 0
    model_width, model_height = resized_width, resized_height
    if processor.do_center_crop:
        model_width, model_height = processor.crop_size["width"], processor.crop_size["height"]
        left, top = (resized_width - model_width) // 2, (resized_height - model_height) // 2
    scale_x, scale_y = resized_width / width, resized_height / height
    return Transform(scale_x, scale_y, pad_x * scale_x - left, pad_y * scale_y - top, model_width, model_height)


def _resized(size: Any, width: int, height: int) -> tuple[int, int]:
    """Width and height after the processor's resize."""
    if size["shortest_edge"]:
        short, long = min(width, height), max(width, height)
        edge = size["shortest_edge"]
        scaled = int(edge * long / short)
        return (edge, scaled) if width <= height else (scaled, edge)
    return size["width"], size["height"]
