"""Any other image-text-to-text model of transformers that shows its decoder a grid of patches of each image.

Nobody has looked at such a model: what an adapter would say of it is found out when it is loaded, by trying.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from propcache.api import cached_property
from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.query.image.geometry import patch_box
from vlq.workers.models.base import SAMPLES, LensModel
from vlq.workers.models.checks import noise
from vlq.workers.models.encoded import Encoded, Layout
from vlq.workers.models.llava import processor_transform
from vlq.workers.models.merged import Merged
from vlq.workers.models.parts import decoder_in, product, soft_capped

TRIED = ((64, 64), (96, 48), (60, 190), (700, 400))
"""Sizes of images that must all have as many patches; width, height."""

PIXELS_OFF = 1.5
"""By so much a pixel of the model's input may lie elsewhere than the processor's settings say."""

LARGER = 1.1
"""By this factor painted patches must change more than the others."""


class Found(LensModel):
    """A model without an adapter of its own, with a causal decoder. Its parts are found by transformers' common
    accessors; all else is checked as with every model."""

    family = "AutoModelForImageTextToText"
    always_masked = True

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        self._decoder = decoder_of(model)
        if self._image_token is None:
            raise ModelError("its configuration names no image token.")
        if "mm_token_type_ids" in signature(model.forward).parameters:  # which some processors leave out, if not told
            processor.return_mm_token_type_ids = True

    @property
    def _image_token(self) -> int | None:
        config = self.model.config
        named = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        return next((id for id in named if id is not None), None)

    @property
    def image_token_id(self) -> int:
        return int(self._image_token or 0)

    @property
    def decoder(self) -> nn.Module:
        return self._decoder

    def finish(self, logits: Tensor) -> Tensor:
        return self._finish(logits)

    @cached_property
    def _finish(self) -> Callable[[Tensor], Tensor]:
        return found_finish(self)

    def run_decoder(self, batch: Any) -> None:
        self.model.base_model(**batch, use_cache=False)


class Generic(Found):
    """A model that shows its decoder the same square grid of every image.

    That the processor resizes and crops as its settings say, and that the positions are the grid's cells row by row, is
    checked with made-up images.
    """

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        counts = [self._count(*size) for size in TRIED]
        side = math.isqrt(counts[0])
        if len(set(counts)) > 1 or side < 2 or side**2 != counts[0]:
            sizes = ", ".join(f"{width} x {height}" for width, height in TRIED)
            raise ModelError(f"expected one square number of image positions in every image. Got {counts} for {sizes}.")
        self._side = side

    def _count(self, width: int, height: int) -> int:
        found = self.processor(images=Image.new("RGB", (width, height)), text=self.prompt, return_tensors="pt")
        return int((found["input_ids"][0] == self.image_token_id).sum())

    @property
    def grid(self) -> tuple[int, int]:
        return self._side, self._side

    def layout(self, width: int, height: int) -> Layout:
        return Layout(self.grid, processor_transform(self.processor.image_processor, width, height))

    def encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        return self._encode(image, prompt)  # a processor may tell its image processor more than that knows by itself

    def check_more(self) -> None:
        check_transform(self)
        transform = self.transform(*TRIED[0])
        check_places(self, (transform.width, transform.height))


class GenericMerged(Found, Merged):
    """A model whose images keep their shape: its processor resizes and merges as Qwen2-VL's does.

    That the positions are the grid's cells row by row is checked with made-up images of several shapes.
    """

    def position_ids(self, mask: Tensor) -> Tensor | None:
        # What numbers patches by row and column counts for itself.
        return None if hasattr(self.model.base_model, "get_rope_index") else LensModel.position_ids(self, mask)

    def check_more(self) -> None:
        for size in TRIED[:3]:
            check_places(self, size)


def fits(processor: Any) -> type[Found]:
    """The class for a processor of a model without an adapter."""
    images = processor.image_processor
    resizes = hasattr(sys.modules[type(images).__module__], "smart_resize")
    return GenericMerged if resizes and "image_grid_thw" in images.model_input_names else Generic


@torch.inference_mode()
def found_finish(model: LensModel) -> Callable[[Tensor], Tensor]:
    """What a model does to its head's output, by trying: configurations name steps that some models leave out."""
    config = model.model.config.get_text_config()
    finishes: list[Callable[[Tensor], Tensor]] = [lambda logits: logits]
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        finishes.append(lambda logits: soft_capped(logits, cap))
    if factor := getattr(config, "logit_scale", None):  # Cohere
        finishes.append(lambda logits: logits.mul_(factor))
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        finishes.append(lambda logits: logits.div_(divisor))
    if len(finishes) == 1:
        return finishes[0]
    last: list[Tensor] = []
    image = model.encode(noise(*SAMPLES[0]))
    model.forward([image], lambda layer, hidden: last.append(hidden[0]) if layer == model.layers - 1 else None)
    own = model.model(**model.batch([image]), use_cache=False).logits[0]
    head = product(model.final_norm(last[0]), model.lm_head)
    return min(finishes, key=lambda finish: float((finish(head.clone()) - own).abs().max()))


def decoder_of(model: Any) -> nn.Module:
    """The module with the blocks and the norm behind them. Raises ModelError."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder or getattr(config, "is_encoder_decoder", False):
        raise ModelError("it is an encoder and a decoder, not a causal decoder.")
    return decoder_in(model.get_decoder())


def check_transform(model: LensModel) -> None:
    """Raises ModelError unless a processor's pixels lie where the transform says, for images of several shapes."""

    def pixels(image: Image.Image) -> np.ndarray:
        """(row, column, channel) of the model's input."""
        transform = model.transform(*image.size)
        expected = (3, transform.height, transform.width)
        every = [values for values in model.encode(image).values.values() if values.is_floating_point()]
        alike = (one for one in every if tuple(one.shape[-3:]) == expected and one.numel() == math.prod(expected))
        values = next(alike, None)
        if values is None:
            got = " and ".join(" x ".join(map(str, values.shape)) for values in every) or "none"
            raise ModelError(f"expected {' x '.join(map(str, expected))} pixel values of an image. Got {got}.")
        return values.float().reshape(expected).numpy().transpose(1, 2, 0)

    for width, height in TRIED:
        black, white = (pixels(Image.new("RGB", (width, height), (shade,) * 3)) for shade in (0, 255))
        # Colours tell coordinates: red is x, green is y.
        y, x = np.mgrid[0:height, 0:width] + 0.5
        colours = np.stack([x / width, y / height, np.zeros_like(x)], -1)
        seen = pixels(Image.fromarray((colours * 255).round().astype(np.uint8)))
        transform = model.transform(width, height)
        rows, columns = np.mgrid[0 : transform.height, 0 : transform.width] + 0.5
        original_x = (columns - transform.offset_x) / transform.scale_x
        original_y = (rows - transform.offset_y) / transform.scale_y
        margin_x, margin_y = 3 / transform.scale_x, 3 / transform.scale_y  # no edge or padding bleeds in
        inside = (original_x > margin_x) & (original_x < width - margin_x)
        inside &= (original_y > margin_y) & (original_y < height - margin_y)
        contrast = (white - black)[inside][:, :2]
        if not inside.any() or not (np.abs(contrast) > 1e-3).all():
            raise ModelError(f"of an image of {width} x {height} the processor leaves nothing to see.")
        found = (seen - black)[inside][:, :2] / contrast
        off_x = np.abs(found[:, 0] * width - original_x[inside]).max() * transform.scale_x
        off_y = np.abs(found[:, 1] * height - original_y[inside]).max() * transform.scale_y
        # One step of a colour is this many pixels of the model's input.
        step = max(transform.scale_x * width, transform.scale_y * height) / 255
        if max(off_x, off_y) > PIXELS_OFF + step:
            raise ModelError(
                f"an image of {width} x {height} is not resized and cropped as the processor's settings say: pixels "
                f"are off by {max(off_x, off_y):.1f}."
            )


def check_places(model: LensModel, size: tuple[int, int]) -> None:
    """Raises ModelError unless in an image of this size the image positions are the grid's cells, row by row.

    Half of the cells are painted over, and must change more than the others: for every bit of a row's number and of a
    column's, the half where it is set. A position that holds another cell, or all of the image, fails one.
    """
    layout = model.layout(*size)
    (rows, columns), transform = layout.grid, layout.transform
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 256, (2, rows, columns, 3))

    def painted(mask: np.ndarray) -> Image.Image:
        """Each cell in a colour of its own; where the mask (row, column) is set, in another one."""
        image = Image.new("RGB", size)
        draw = ImageDraw.Draw(image)
        for patch in range(rows * columns):
            row, column = divmod(patch, columns)
            box = patch_box(transform, size, (rows, columns), patch)
            draw.rectangle(box, fill=tuple(shades[int(mask[row, column]), row, column].tolist()))
        return image

    row, column = np.mgrid[0:rows, 0:columns]
    before = entering(model, painted(np.zeros((rows, columns), bool)))
    for axis, numbers in (("row", row), ("column", column)):
        for bit in range(int(numbers.max()).bit_length()):
            mask = (numbers >> bit) % 2 == 1
            change = (entering(model, painted(mask)) - before).norm(dim=-1).numpy().reshape(rows, columns)
            if not change[mask].mean() > LARGER * change[~mask].mean():
                raise ModelError(
                    f"its image positions are not a grid of {rows} x {columns}, row by row: painting over every other "
                    f"{2**bit} {axis}s changes the patches there by {change[mask].mean():.3g}, the others by "
                    f"{change[~mask].mean():.3g}."
                )


def entering(model: LensModel, image: Image.Image) -> Tensor:
    """What enters the decoder at each patch (patch, d), row by row."""
    encoded = model.encode(image)
    found: list[Tensor] = []
    places = encoded.sites["patch"].to(model.device)

    model.forward([encoded], lambda layer, hidden: found.append(hidden[0, places].float().cpu()), layers=[0])
    return found[0]
