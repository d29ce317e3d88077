"""Images as tokens of the decoder's own vocabulary: each cell of an image is the nearest of a codebook's entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.emu3.image_processing_emu3 import smart_resize

from vlq.query.errors import ModelError
from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Encoded, Layout
from vlq.workers.models.llava import Llava
from vlq.workers.models.merged import most_resized


class Coded(LensModel):
    """A model whose tokenizer of images (a VQ-VAE) gives a token for each cell of an image."""

    @torch.no_grad()
    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = super().batch(images)
        pixels, ids = batch["pixel_values"], batch["input_ids"]
        # One by one: of codes that are as near the last bits choose, and these may depend on what is beside an image.
        codes = torch.cat([self.codes(pixels[row], image) for row, image in enumerate(images)])
        batch["input_ids"] = ids.masked_scatter(ids == self.image_token_id, codes.to(ids))
        return {name: values for name, values in batch.items() if name not in images[0].values}

    @property
    def cell(self) -> int:
        """The side of what a code stands for, in pixels of the model's input."""
        return int(2 ** (len(self.model.config.vq_config.channel_multiplier) - 1))

    def codes(self, pixels: Tensor, image: Encoded) -> Tensor:
        """(image position,) the tokens of an image's pixels (channel, row, column), which may be filled up."""
        return self.model.model.get_image_tokens(pixels[None]).flatten()  # type: ignore[no-any-return]


class Chameleon(Coded, Llava):
    """`ChameleonForConditionalGeneration`. It never writes an image's token: those have no probability, at every layer.

    A question ends with the token behind which the model answers, as its processor has it; a whole prompt does not.
    """

    family = "ChameleonForConditionalGeneration"
    template = "{image}{question}"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        processor.return_for_text_completion = True  # it puts nothing behind a prompt
        super().__init__(model, processor, prompt)
        self._never = torch.tensor(model.model.vocabulary_mapping.image_tokens, device=self.device)  # (token,)

    @classmethod
    def full_prompt(cls, processor: Any, prompt: str | None) -> str:
        found = super().full_prompt(processor, prompt)
        is_whole = prompt is not None and (PLACEHOLDER in prompt or processor.image_token in prompt)
        return found if is_whole else f"{found}{processor.tokenizer.sep_token or ''}"

    @property
    def decoder(self) -> nn.Module:
        return self.model.model  # type: ignore[no-any-return]

    def run_decoder(self, batch: Mapping[str, Tensor]) -> None:
        rest = {name: values for name, values in batch.items() if name != "input_ids"}
        embeds = self.model.get_input_embeddings()(batch["input_ids"])
        self.model.model(inputs_embeds=embeds, **rest, use_cache=False)

    def finish(self, logits: Tensor) -> Tensor:
        return logits.index_fill_(-1, self._never, torch.finfo(self.dtype).min)


class Emu3(Coded):
    """`Emu3ForConditionalGeneration`. An image keeps its shape, and rows of its codes end with a token."""

    family = "Emu3ForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        # It would take an image that is one or three pixels high for one with its channels in front.
        processor.images_kwargs = {**getattr(processor, "images_kwargs", {}), "input_data_format": "channels_last"}
        super().__init__(model, processor, prompt)
        images = processor.image_processor
        if not images.do_resize or images.spatial_factor % self.cell or processor.downsample_ratio != self.cell:
            raise ModelError(
                f"{self.family}: the processor resizes images to multiples of {images.spatial_factor} pixels and has a "
                f"token for each {processor.downsample_ratio}, the model has a code for each {self.cell}.",
                "The processor's settings (do_resize, spatial_factor) do not fit the model.",
            )

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.text_model  # type: ignore[no-any-return]

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        return most_resized(images.min_pixels / self.cell**2, images.max_pixels / self.cell**2)

    def layout(self, width: int, height: int) -> Layout:
        images = self.processor.image_processor
        model_height, model_width = smart_resize(
            height, width, images.spatial_factor, images.min_pixels, images.max_pixels
        )
        rows, columns = model_height // self.cell, model_width // self.cell
        every = torch.arange(rows * (columns + 1)).view(rows, columns + 1)
        transform = stretched(width, height, model_width, model_height)
        return Layout((rows, columns), transform, every[:, :columns].flatten(), every.numel())

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        # Within an image its size is written, and rows end.
        around = self.tokenizer.convert_tokens_to_ids(
            [self.processor.image_start_token, self.processor.image_end_token]
        )
        first, last = ((input_ids == id).nonzero()[0, 0] for id in around)
        places = torch.arange(len(input_ids))
        return places[(places <= first) | (places >= last)]

    def codes(self, pixels: Tensor, image: Encoded) -> Tensor:
        sizes = image.values["image_sizes"]  # (1, 2) height, width
        height, width = sizes[0].tolist()
        return self.model.model.get_image_tokens(pixels[None, :, :height, :width], sizes)  # type: ignore[no-any-return]
