"""Images as tokens of the decoder's own vocabulary: each cell of an image is the nearest of a codebook's entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.models.llava import Llava


class Coded(LensModel):
    """A model whose tokenizer of images (a VQ-VAE) gives a token for each cell of an image."""

    @torch.no_grad()
    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = super().batch(images)
        pixels, ids = batch.pop("pixel_values"), batch["input_ids"]
        # One by one: of codes that are as near the last bits choose, and these may depend on what is beside an image.
        codes = torch.cat([self.codes(pixels[row], image) for row, image in enumerate(images)])
        batch["input_ids"] = ids.masked_scatter(ids == self.image_token_id, codes.to(ids))
        return batch

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
    def cell(self) -> int:
        return int(2 ** (len(self.model.config.vq_config.channel_multiplier) - 1))

    @property
    def decoder(self) -> nn.Module:
        return self.model.model  # type: ignore[no-any-return]

    def run_decoder(self, batch: Mapping[str, Tensor]) -> None:
        rest = {name: values for name, values in batch.items() if name != "input_ids"}
        embeds = self.model.get_input_embeddings()(batch["input_ids"])
        self.model.model(inputs_embeds=embeds, **rest, use_cache=False)

    def finish(self, logits: Tensor) -> Tensor:
        return logits.index_fill_(-1, self._never, torch.finfo(self.dtype).min)
