"""Images that keep their shape: each has a grid of its own, of patches that are several of the tower's, merged."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.query.image.pictures import MAX_ASPECT
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Layout


class Merged(LensModel):
    """A model whose image is resized to multiples of a patch's sides, to between the processor's least and most pixels.

    A patch is what the decoder sees: `merge_size` x `merge_size` of the tower's. The bounds are settings of the
    processor (`size` names them shortest_edge and longest_edge; older folders min_pixels and max_pixels): they say how
    many patches an image has.
    """

    @property
    def most_patches(self) -> int:
        return most_resized(*(pixels / self._side**2 for pixels in self._pixels))

    @property
    def _merges(self) -> int:
        """So many of the tower's patches along a patch's side, by the model's configuration."""
        return int(self.model.config.vision_config.spatial_merge_size)

    @property
    def _side(self) -> int:
        """Of a patch, in pixels of the resized image."""
        processor = self.processor.image_processor
        merged, size = processor.merge_size, processor.patch_size
        if (own := (self._merges, self.model.config.vision_config.patch_size)) != (merged, size):
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
        return size["shortest_edge"] // self._frames, size["longest_edge"] // self._frames

    @property
    def _frames(self) -> int:
        """So many frames an image is taken for, if its bounds are of all frames' pixels together; else 1."""
        return int(self.processor.image_processor.temporal_patch_size) if self._as_video else 1

    @property
    def _as_video(self) -> bool:
        return "num_frames" in signature(self._smart_resize).parameters

    @property
    def _smart_resize(self) -> Callable[..., tuple[int, int]]:
        """The function by which the processor chooses height and width."""
        found: Callable[..., tuple[int, int]] = sys.modules[
            type(self.processor.image_processor).__module__
        ].smart_resize
        return found

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that the processor chooses."""
        size = self.processor.image_processor.size
        bounds = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        if self._as_video:
            bounds |= {"num_frames": self._frames, "temporal_factor": self._frames}
        model_height, model_width = self._smart_resize(height=height, width=width, factor=self._side, **bounds)
        return model_width, model_height

    def layout(self, width: int, height: int) -> Layout:
        if not self.processor.image_processor.do_resize:
            raise ModelError(
                f"{self.family}: the processor does not resize images, so they do not divide into patches.",
                "Set do_resize in the processor's settings.",
            )
        model_width, model_height = self._resized(width, height)
        transform = stretched(width, height, model_width, model_height)
        return Layout((model_height // self._side, model_width // self._side), transform)

    def position_ids(self, mask: Tensor) -> Tensor | None:
        """The model numbers a patch by its row and column."""
        return None


def most_resized(low: float, high: float) -> int:
    """How many patches an image has at most that is resized to between the pixels of so many."""
    # An elongated image is one patch high: scaled to `high` patches' pixels it is sqrt(aspect * high) patches long.
    # An image that is scaled up has its sides rounded up.
    up = (math.sqrt(low * MAX_ASPECT) + 1) * (math.sqrt(low / MAX_ASPECT) + 1)
    return math.floor(max(high, math.sqrt(high * MAX_ASPECT), up))


class Glm4v(Merged):
    """`Glm4vForConditionalGeneration` (GLM-4.1V)."""

    family = "Glm4vForConditionalGeneration"
    image_text = "<|begin_of_image|><|image|><|end_of_image|>"


class Glm4vMoe(Glm4v):
    """`Glm4vMoeForConditionalGeneration` (GLM-4.5V)."""

    family = "Glm4vMoeForConditionalGeneration"


class Glm46V(Glm4v):
    """`Glm46VForConditionalGeneration` (GLM-4.6V)."""

    family = "Glm46VForConditionalGeneration"


class GlmOcr(Glm4v):
    """`GlmOcrForConditionalGeneration`."""

    family = "GlmOcrForConditionalGeneration"


class PaddleOCRVL(Merged):
    """`PaddleOCRVLForConditionalGeneration`."""

    family = "PaddleOCRVLForConditionalGeneration"
    image_text = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"


class Ernie45VLMoe(Merged):
    """`Ernie4_5_VLMoeForConditionalGeneration`, whose experts are some for text and some for images."""

    family = "Ernie4_5_VLMoeForConditionalGeneration"
    image_text = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"


class VideoLlama3(Merged):
    """`VideoLlama3ForConditionalGeneration`. Its patches are numbered as words are; the processor merges them."""

    family = "VideoLlama3ForConditionalGeneration"

    @property
    def _merges(self) -> int:
        return int(self.processor.image_processor.merge_size)

    def position_ids(self, mask: Tensor) -> Tensor | None:
        return LensModel.position_ids(self, mask)


class HunYuanVL(Merged):
    """`HunYuanVLForConditionalGeneration`. Before the image's rows, behind each of them and behind the last one is an
    image position that is no patch, of an embedding of its own."""

    family = "HunYuanVLForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        if "get_rope_index" not in vars(model.model):
            model.model.get_rope_index = _row_by_row(model.model.get_rope_index)

    @classmethod
    def image_text_of(cls, processor: Any) -> str:
        return f"{processor.image_start_token}{processor.image_token}{processor.image_end_token}"

    def layout(self, width: int, height: int) -> Layout:
        found = super().layout(width, height)
        rows, columns = found.grid
        places = 1 + torch.arange(rows * (columns + 1)).view(rows, columns + 1)
        return replace(found, patches=places[:, :-1].flatten(), count=places.numel() + 2)


def _row_by_row(number: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`get_rope_index` of each sequence by itself: the model's class numbers images through all of a batch, by which
    attention goes, so that an image would be read otherwise behind others."""

    def get_rope_index(
        input_ids: Tensor, mm_token_type_ids: Tensor, image_grid_thw: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        given = [input_ids, mm_token_type_ids, image_grid_thw, *([] if attention_mask is None else [attention_mask])]
        found = [number(*(values[None] for values in of_row)) for of_row in zip(*given, strict=True)]
        return torch.cat([positions for positions, _ in found], 1), torch.cat([delta for _, delta in found])

    return get_rope_index


class Qwen25OmniThinker(Merged):
    """`Qwen2_5OmniThinkerForConditionalGeneration`: what of Qwen2.5-Omni sees and writes. It is given no sound."""

    family = "Qwen2_5OmniThinkerForConditionalGeneration"
    always_masked = True  # without a mask it numbers patches as words
