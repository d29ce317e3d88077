"""Inkling: an image keeps its size, and is filled up to whole patches at its right and below."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlq.query.image.pictures import BadImage
from vlq.query.schema import MOST_POSITIONS
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Encoded, Layout


class Inkling(LensModel):
    """`InklingForConditionalGeneration`, without a tower: a patch is made of its own pixels alone.

    It is given no sound. The processor puts one more patch at each row's end where the last one is full; it shows
    nothing of the image.
    """

    family = "InklingForConditionalGeneration"
    image_text = "<|content_image|><|unused_200054|>"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        text = model.config.get_text_config()
        if text.unpadded_vocab_size is not None:  # the class leaves out the logits of the head's last rows
            model.lm_head.weight = nn.Parameter(model.lm_head.weight[: text.unpadded_vocab_size], requires_grad=False)
        super().__init__(model, processor, prompt)

    def finish(self, logits: Tensor) -> Tensor:
        divisor: float = self.model.config.get_text_config().logits_mup_width_multiplier
        return logits / divisor

    @property
    def most_patches(self) -> int:
        return MOST_POSITIONS  # the processor has no bound

    @property
    def _side(self) -> int:
        return int(self.processor.image_processor.size["height"])

    def layout(self, width: int, height: int) -> Layout:
        side = self._side
        resized_width, resized_height = self._resized(width, height)
        rows, columns = math.ceil(resized_height / side), math.ceil(resized_width / side)
        transform = stretched(width, height, resized_width, resized_height)
        every = torch.arange(rows * (resized_width // side + 1)).view(rows, -1)
        return Layout(
            (rows, columns),
            replace(transform, width=columns * side, height=rows * side),
            every[:, :columns].flatten(),
            every.numel(),
        )

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        images, longest = self.processor.image_processor, max(width, height)
        if images.rescale_image_frac is None:
            return width, height
        wanted = longest * images.rescale_image_frac
        if (most := images.rescale_image_max_upscaled_long_edge) is not None:
            wanted = min(wanted, max(most, longest))
        ratio = wanted / longest
        return math.floor(width * ratio + 0.5), math.floor(height * ratio + 0.5)

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        if (count := math.prod(self.layout(*image.size).grid)) > MOST_POSITIONS:
            raise BadImage(
                f"{self.family}: an image of {image.width} x {image.height} has {count:,} patches; VLQ reads "
                f"{MOST_POSITIONS:,} at most."
            )
        found, floor = super()._encode(image, prompt), self.model.config.get_text_config().log_scaling_n_floor
        if floor is not None and found.length >= floor:
            raise BadImage(
                f"{self.family}: an image of {image.width} x {image.height} and its prompt are {found.length:,} "
                f"tokens. From {floor:,} on attention goes by a token's column, which padding moves."
            )
        return found
