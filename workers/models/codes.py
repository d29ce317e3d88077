"""Images as tokens of the decoder's own vocabulary: each cell of an image is the nearest of a codebook's entries."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Encoded, Layout
from vlq.workers.models.llava import Llava
from vlq.workers.models.merged import most_resized
from vlq.workers.transfer import to_device


class Coded(LensModel):
    """A model whose tokenizer of images (a VQ-VAE) gives a token for each cell of an image."""

    @torch.no_grad()
    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = super().batch([replace(image, values={}) for image in images])
        ids = batch["input_ids"]
        # One by one: of codes that are as near the last bits choose, and these may depend on what is beside an image.
        codes = torch.cat([self.codes(image) for image in images])
        return batch | {"input_ids": ids.masked_scatter(ids == self.image_token_id, codes.to(ids))}

    @property
    def tower(self) -> Any:
        """What gives the codes."""
        return self.model.model.vqmodel

    @property
    def cell(self) -> int:
        """The side of what a code stands for, in pixels of the model's input."""
        return int(2 ** (len(self.tower.config.channel_multiplier) - 1))

    def codes(self, image: Encoded) -> Tensor:
        """(image position,) the tokens of an image."""
        values = {name: to_device(given, self.device) for name, given in image.values.items()}
        values["pixel_values"] = values["pixel_values"].to(next(self.tower.parameters()).dtype)
        found: Tensor | list[Tensor] = self.model.model.get_image_tokens(**values)
        return found[0] if isinstance(found, list) else found.flatten()


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


class Resized(Coded):
    """A model whose images keep their shape. Within an image its size is written, and rows end with a token."""

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        images = processor.image_processor
        if not images.do_resize or images.spatial_factor % self.cell or self._side != self.cell:
            raise ModelError(
                f"{self.family}: the processor resizes images to multiples of {images.spatial_factor} pixels and has a "
                f"token for each {self._side}, the model has a code for each {self.cell}.",
                "The processor's settings (do_resize, spatial_factor) do not fit the model.",
            )

    @property
    @abstractmethod
    def around(self) -> tuple[str, str]:
        """The tokens around an image."""

    @property
    @abstractmethod
    def _side(self) -> int:
        """Of what the processor has a token for, in pixels."""

    @property
    @abstractmethod
    def _pixels(self) -> tuple[int, int]:
        """The least and the most of a resized image."""

    @property
    def most_patches(self) -> int:
        return most_resized(*(pixels / self.cell**2 for pixels in self._pixels))

    def layout(self, width: int, height: int) -> Layout:
        images = self.processor.image_processor
        resize = sys.modules[type(images).__module__].smart_resize
        model_height, model_width = resize(height, width, images.spatial_factor, *self._pixels)
        transform = stretched(width, height, model_width, model_height)
        return Layout((model_height // self.cell, model_width // self.cell), transform)

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        first, last = ((input_ids == id).nonzero()[0, 0] for id in self.tokenizer.convert_tokens_to_ids([*self.around]))
        places = torch.arange(len(input_ids))
        return places[(places <= first) | (places >= last)]


class Emu3(Resized):
    """`Emu3ForConditionalGeneration`. What ends a row is told of as a code is."""

    family = "Emu3ForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        # It would take an image that is one or three pixels high for one with its channels in front.
        processor.images_kwargs = {**getattr(processor, "images_kwargs", {}), "input_data_format": "channels_last"}
        super().__init__(model, processor, prompt)

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.text_model  # type: ignore[no-any-return]

    @property
    def around(self) -> tuple[str, str]:
        return self.processor.image_start_token, self.processor.image_end_token

    @property
    def _side(self) -> int:
        return int(self.processor.downsample_ratio)

    @property
    def _pixels(self) -> tuple[int, int]:
        return self.processor.image_processor.min_pixels, self.processor.image_processor.max_pixels

    def layout(self, width: int, height: int) -> Layout:
        found = super().layout(width, height)
        rows, columns = found.grid
        every = torch.arange(rows * (columns + 1)).view(rows, columns + 1)
        return replace(found, patches=every[:, :columns].flatten(), count=every.numel())


class Apertus(Resized):
    """`Apertus1p5ForConditionalGeneration`, whose tower computes in float32 whatever the model does. It is given no
    sound."""

    family = "Apertus1p5ForConditionalGeneration"

    @property
    def tower(self) -> Any:
        return self.model.model.vision_tokenizer

    @property
    def around(self) -> tuple[str, str]:
        return self.processor.boi_token, self.processor.eoi_token

    @property
    def _side(self) -> int:
        return int(self.processor.image_processor.spatial_factor)

    @property
    def _pixels(self) -> tuple[int, int]:
        size = self.processor.image_processor.size
        return size["min_pixels"], size["max_pixels"]
