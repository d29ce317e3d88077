"""One facade over vision-language models: what the lens needs, by the same names for every family.

A family's adapter says where its parts are and how its images become patches; checks at load see to it that what it
says is so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.query.schema import Transform

Pixels = Mapping[str, Tensor]
"""One preprocessed image: the model's image arguments, without a batch axis."""

Visit = Callable[[int, Tensor], None]
"""Called with a layer and its residual stream (image, sequence, d), which it must not keep or change."""

PLACEHOLDER = "<image>"
"""Where the image goes in a prompt, whatever a family's own token for it is."""

DEFAULT_QUESTION = "What is in this image?"


class LensModel(ABC):
    """A loaded model with one prompt.

    A family's subclass gives `blocks`, `final_norm`, `lm_head`, `grid`, `preprocess`, `transform` and `run_decoder`.
    """

    image_token_id: int

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = full_prompt(processor, prompt)
        self.image_token_id = int(model.config.image_token_id)
        self.input_ids = self._encode()  # (sequence,) on the CPU
        is_image = self.input_ids == self.image_token_id
        self.patch_positions = is_image.nonzero()[:, 0]  # (patch,), row-major over the grid
        self.prompt_positions = (~is_image).nonzero()[:, 0]

    # What a family says.

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The decoder's blocks, first to last."""

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""

    @property
    @abstractmethod
    def lm_head(self) -> nn.Module: ...

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the decoder sees of one image."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Pixels:
        """The model's input for an upright RGB image, on the CPU. Called from several threads."""

    @abstractmethod
    def transform(self, width: int, height: int) -> Transform:
        """What `preprocess` does to the coordinates of an image of this size."""

    @abstractmethod
    def run_decoder(self, input_ids: Tensor, pixels: Pixels) -> None:
        """One forward pass without the head, `input_ids` (image, sequence) and `pixels` with a batch axis."""

    # What follows for every family.

    @property
    def layers(self) -> int:
        """The embedding that enters the decoder, and each block's output."""
        return len(self.blocks) + 1

    @property
    def vocabulary_size(self) -> int:
        """Rows of lm_head; ids beyond the tokenizer have no text."""
        return int(self.lm_head.weight.shape[0])  # type: ignore[index]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's text tokens; the image's are left out."""
        return tuple(self.input_ids[self.prompt_positions].tolist())

    @property
    def device(self) -> torch.device:
        """Where the lens works; a model may be spread over several GPUs."""
        return self.lm_head.weight.device  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits of un-normed states (..., d), in the computation's dtype."""
        return self.lm_head(self.final_norm(hidden))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def forward(self, images: Sequence[Pixels], visit: Visit) -> None:
        """Run a batch; `visit` is called for each layer in order, with states that no final norm has touched.

        The norm belongs to the lens: at the last layer, too, it is applied by `unembed` and nowhere else.
        """
        input_ids = self.input_ids.to(self.device).expand(len(images), -1)

        def visit_here(layer: int, hidden: Tensor) -> None:
            visit(layer, hidden.to(self.device))

        handles = [self.blocks[0].register_forward_pre_hook(_on_input(visit_here), with_kwargs=True)]
        handles += [block.register_forward_hook(_on_output(visit_here, i + 1)) for i, block in enumerate(self.blocks)]
        try:
            self.run_decoder(input_ids, self.batch(images))
        finally:
            for handle in handles:
                handle.remove()

    def batch(self, images: Sequence[Pixels]) -> Pixels:
        """Images joined along a new first axis, on the model's device; floating-point values in its dtype."""
        joined = {}
        for name in images[0]:
            values = torch.stack([image[name] for image in images]).to(self.device, non_blocking=True)
            joined[name] = values.to(self.dtype) if values.is_floating_point() else values
        return joined

    def _encode(self) -> Tensor:
        blank = Image.new("RGB", (64, 64))
        encoded = self.processor(images=blank, text=self.prompt, return_tensors="pt")
        return encoded["input_ids"][0]  # type: ignore[no-any-return]


def full_prompt(processor: Any, prompt: str | None) -> str:
    """The whole text that the model is given, with the image's place in it.

    A prompt that has the placeholder is taken as it is. Any other is a question: it goes, after the image, into the
    processor's chat template, or without one into LLaVA's "USER: <image>\\n... ASSISTANT:". No prompt asks
    DEFAULT_QUESTION. Raises ModelError if there is more than one placeholder.
    """
    token = getattr(processor, "image_token", PLACEHOLDER)
    if prompt is not None:
        places = prompt.count(token) + (prompt.count(PLACEHOLDER) if token != PLACEHOLDER else 0)
        if places > 1:
            raise ModelError(f"The prompt names the image {places} times.", f"One {PLACEHOLDER} is read per prompt.")
        if places == 1:
            return prompt.replace(PLACEHOLDER, token)
    question = DEFAULT_QUESTION if prompt is None else prompt
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return f"USER: {token}\n{question} ASSISTANT:"


def _on_input(visit: Visit) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        visit(0, args[0] if args else kwargs["hidden_states"])

    return hook


def _on_output(visit: Visit, layer: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        visit(layer, output[0] if isinstance(output, tuple) else output)

    return hook


# --- checks at load --------------------------------------------------------------------------------------------


def check(model: LensModel, images: int = 1) -> None:
    """Run a batch of made-up images and compare the lens with the model. Raises ModelError.

    Checked: as many image positions as the grid has cells, a tokenizer no larger than the head, every layer seen once
    and in order, and at the last layer the model's own logits.
    """
    name = type(model.model).__name__
    cells = math.prod(model.grid)
    if len(model.patch_positions) != cells:
        raise ModelError(
            f"{name}: {len(model.patch_positions)} image positions in the prompt, but {cells} cells in {model.grid}.",
            "The processor's patch_size, vision_feature_select_strategy or num_additional_image_tokens do not fit.",
        )
    if len(model.tokenizer) > model.vocabulary_size:
        raise ModelError(
            f"{name}: the tokenizer has {len(model.tokenizer)} tokens, the head only {model.vocabulary_size}.",
            "This tokenizer belongs to another model.",
        )
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    batch = [model.preprocess(Image.fromarray(noise))] * images
    seen: list[int] = []
    last: list[Tensor] = []

    def visit(layer: int, hidden: Tensor) -> None:
        seen.append(layer)
        if layer == model.layers - 1:
            last.append(hidden.clone())

    model.forward(batch, visit)
    if seen != list(range(model.layers)):
        raise ModelError(f"{name}: expected layers 0 to {model.layers - 1} in order. Got {seen}.")
    check_last_layer(model, batch[:1], last[0][:1])


@torch.inference_mode()
def check_last_layer(model: LensModel, images: Sequence[Pixels], last: Tensor) -> None:
    """Raises ModelError unless the lens gives the model's own logits for the states after its last block."""
    input_ids = model.input_ids.to(model.device)[None]
    own = model.model(input_ids=input_ids, **model.batch(images)).logits[0].float()  # (sequence, vocabulary)
    lens = model.unembed(last[0]).float()
    # A few units in the last place of the largest logit.
    noise = 16 * torch.finfo(model.dtype).eps * float(own.abs().max().clamp(min=1))
    difference = float((own - lens).abs().max())
    best = own.argmax(-1, keepdim=True)
    shortfall = float((lens.amax(-1, keepdim=True) - lens.gather(1, best)).max())
    if not difference <= noise or not shortfall <= noise:
        raise ModelError(
            f"{type(model.model).__name__}: the lens at the last layer differs from the model's logits by "
            f"{difference:.3g}; the noise of {model.dtype} explains {noise:.3g}.",
            "The adapter misses a step between the last block and the logits.",
        )
