"""Fuyu: no tower. Patches of an image's pixels are projected into the decoder, and rows end with a token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import BatchFeature
from transformers.models.fuyu.processing_fuyu import BEGINNING_OF_ANSWER_STRING

from vlq.query.errors import ModelError
from vlq.query.schema import Transform
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Layout


class FuyuProcessor(transformers.FuyuProcessor):
    """What transformers' class of this name makes of an image and a text, by Pillow, with which that of 5.24 fails.

    The image may be anywhere in the text, which is taken as it is: that class puts it in front, and behind the text the
    token that begins an answer.
    """

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        (image,), (prompt,) = (given if isinstance(given, list) else [given] for given in (images, text))
        found = self.image_processor(image)
        (pixels,), (height,), (width,) = (
            found[name][0] for name in ("images", "image_unpadded_heights", "image_unpadded_widths")
        )
        side = self.image_processor.patch_size["height"]
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        patches = pixels[:, : rows * side, : columns * side].reshape(-1, rows, side, columns, side)
        values = np.ascontiguousarray(patches.transpose(1, 3, 2, 4, 0)).reshape(rows * columns, -1)
        row = [self.image_token_id] * columns + [self.image_newline_id]
        # The tokenizer's own beginning of a sequence stands behind the image.
        whole = [*row * rows, self.tokenizer.convert_tokens_to_ids("<s>")]
        before, _, behind = prompt.partition(self.image_token)
        ids = torch.tensor([[*self._ids(before), *whole, *self._ids(behind)]])
        return BatchFeature(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.from_numpy(values)}
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


class Fuyu(LensModel):
    """`FuyuForCausalLM`. An image that is too large is scaled down, and any is filled up to whole patches at the right
    and at the bottom."""

    family = "FuyuForCausalLM"
    template = "{image}{question}\n" + BEGINNING_OF_ANSWER_STRING

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        images, side = processor.image_processor, model.config.patch_size
        sizes = images.patch_size["height"], images.patch_size["width"], images.size["height"], images.size["width"]
        if sizes[:2] != (side, side) or sizes[2] % side or sizes[3] % side or not (images.do_resize and images.do_pad):
            raise ModelError(
                f"{self.family}: the processor fits images into {sizes[2]} x {sizes[3]} pixels in patches of "
                f"{sizes[0]} x {sizes[1]}, the model's are of {side} x {side}.",
                "The processor's settings (patch_size, size, do_resize, do_pad) do not fit the model.",
            )
        super().__init__(model, processor, prompt)

    @property
    def _side(self) -> int:
        """Of a patch, in pixels."""
        return int(self.model.config.patch_size)

    @property
    def most_patches(self) -> int:
        size = self.processor.image_processor.size
        return int(size["height"] // self._side * (size["width"] // self._side))

    def layout(self, width: int, height: int) -> Layout:
        size = self.processor.image_processor.size
        resized_width, resized_height = width, height
        if width > size["width"] or height > size["height"]:
            scale = min(size["height"] / height, size["width"] / width)
            resized_width, resized_height = int(width * scale), int(height * scale)
        rows, columns = math.ceil(resized_height / self._side), math.ceil(resized_width / self._side)
        scale_x, scale_y = resized_width / width, resized_height / height
        return Layout((rows, columns), Transform(scale_x, scale_y, 0.0, 0.0, columns * self._side, rows * self._side))

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        ends = self.processor.image_newline_id  # rows, not the image
        places: Tensor = ((input_ids != self.image_token_id) & (input_ids != ends)).nonzero()[:, 0]
        return places
