"""Pixtral's tower: images keep their shape, and rows end with a token of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers.image_utils import ChannelDimension
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size
from transformers.processing_utils import ImagesKwargs, ProcessorMixin, TextKwargs

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel, longest_edge, stretched
from vlq.workers.models.encoded import Layout
from vlq.workers.models.paligemma import PaliGemma
from vlq.workers.models.parts import hook_once


class PixtralProcessor(ProcessorMixin):
    """What transformers' class of this name makes of an image and a text, without torchvision.

    An image's token becomes rows of them: [IMG_BREAK] is behind each, and [IMG_END] behind the last one.
    """

    text_kwargs = TextKwargs(return_tensors="pt")
    images_kwargs = ImagesKwargs(return_tensors="pt")

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **others: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_token_id = image_token, tokenizer.convert_tokens_to_ids(image_token)
        self.image_break_token, self.image_end_token = image_break_token, image_end_token

    @property
    def side(self) -> int:
        """Of what one image token shows, in pixels of the resized image."""
        return self.patch_size * self.spatial_merge_size

    def _process_images(self, images: Any, **options: Any) -> Any:
        return super()._process_images(images, **options | {"patch_size": self.side})

    def replace_image_token(self, image_inputs: Any, image_idx: int, **options: Any) -> str:
        height, width = image_inputs["image_sizes"][image_idx]
        row = self.image_token * (int(width) // self.side)
        return self.image_break_token.join([row] * (int(height) // self.side)) + self.image_end_token


class Pixtral(LensModel):
    """A model with Pixtral's tower.

    An image that is too large is scaled down to fit the processor's `longest_edge`; its sides are then rounded up to
    whole patches. Rows end with a token that is neither patch nor prompt.
    """

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        config = model.config
        own = config.vision_config.patch_size * self._merged(config)
        if own != (theirs := processor.patch_size * processor.spatial_merge_size):
            raise ModelError(
                f"{self.family}: the processor's patches are of {theirs} pixels, the model's of {own}.",
                "The processor's settings (patch_size, spatial_merge_size) do not fit the model.",
            )
        self._side = int(own)
        super().__init__(model, processor, prompt)

    def _merged(self, config: Any) -> int:
        """So many of the tower's patches are along a patch's side."""
        return int(getattr(config, "spatial_merge_size", 1))

    @property
    def most_patches(self) -> int:
        return int(math.ceil(longest_edge(self) / self._side) ** 2)

    def layout(self, width: int, height: int) -> Layout:
        pixels = np.broadcast_to(np.uint8(0), (height, width, 3))  # takes no memory
        model_height, model_width = get_resize_output_image_size(
            pixels, longest_edge(self), self._side, ChannelDimension.LAST
        )
        transform = stretched(width, height, model_width, model_height)
        return Layout((model_height // self._side, model_width // self._side), transform)

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        ends = self.tokenizer.convert_tokens_to_ids(self.processor.image_break_token)  # rows, not the image
        places: Tensor = ((input_ids != self.image_token_id) & (input_ids != ends)).nonzero()[:, 0]
        return places


class LlavaPixtral(Pixtral):
    """`LlavaForConditionalGeneration` with Pixtral's tower (Pixtral-12B)."""

    family = "LlavaForConditionalGeneration"


class Mistral3(Pixtral):
    """`Mistral3ForConditionalGeneration` (Mistral Small 3.1, Ministral 3): 2 x 2 of the tower's patches are merged."""

    family = "Mistral3ForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        hook_once(model.model.multi_modal_projector, _behind_an_axis)


class MistralLarge4(Mistral3):
    """`MistralLarge4ForConditionalGeneration`, which caps its logits softly."""

    family = "MistralLarge4ForConditionalGeneration"
    finish = PaliGemma.finish


class LightOnOcr(Pixtral):
    """`LightOnOcrForConditionalGeneration`, without tokens at the rows' ends."""

    family = "LightOnOcrForConditionalGeneration"


def _behind_an_axis(module: nn.Module, args: tuple[Any, ...], patches: Tensor) -> Tensor:
    """Patches (patch, d) as (1, patch, d): the model's class squeezes the first axis, and fails where that is of one
    patch, as of an icon alone."""
    return patches[None] if patches.ndim == 2 else patches
