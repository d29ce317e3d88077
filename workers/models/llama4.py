"""LLaMA 4: tiles, which an image does not fill, and a small view of the whole behind them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlq.query.image.pictures import BadImage
from vlq.workers.models.base import stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.parts import hook_once
from vlq.workers.models.tiles import Tiled


class Llama4(Tiled):
    """`Llama4ForConditionalGeneration`. An image is put into the upper left of its tiles; cells that show padding
    alone are no patches."""

    family = "Llama4ForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        # Transformers 5.24 passes on what only the tower has as a part of the decoder's output, and fails without.
        hook_once(model.language_model, _with_image_outputs)
        super().__init__(model, processor, prompt)

    @property
    def around(self) -> tuple[str, str]:
        return self.processor.start_of_img_token, self.processor.end_of_img_token

    @property
    def decoder(self) -> nn.Module:
        return self.model.language_model.model  # type: ignore[no-any-return]

    def run_decoder(self, batch: Mapping[str, Tensor]) -> None:
        self.model(**batch, use_cache=False, logits_to_keep=1)

    @property
    def most_patches(self) -> int:
        return int(self.processor.image_processor.max_patches) * self._cells**2

    @property
    def _step(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size / vision.pixel_shuffle_ratio)

    def layout(self, width: int, height: int) -> Layout:
        (canvas_height, canvas_width), (resized_height, resized_width) = self._sizes(width, height)
        tile, step = self._tile, self._step
        rows, columns = math.ceil(resized_height / step), math.ceil(resized_width / step)
        transform = replace(
            stretched(width, height, resized_width, resized_height), width=columns * step, height=rows * step
        )
        every = self._joined(canvas_height // tile, canvas_width // tile)
        places, count = every[:rows, :columns].flatten(), every.numel()
        if not self._shown_again(count // self._cells**2):
            return Layout((rows, columns), transform, places, count)
        view = View((self._cells,) * 2, stretched(width, height, tile, tile), count + torch.arange(self._cells**2))
        return Layout((rows, columns), transform, places, count + self._cells**2, view)

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        found, text = super()._encode(image, prompt), self.model.config.get_text_config()
        if text.attn_temperature_tuning and found.length >= text.floor_scale:
            raise BadImage(
                f"{self.family}: an image of {image.width} x {image.height} and its prompt are {found.length:,} "
                f"tokens. From {text.floor_scale:,} on attention goes by a token's column, which padding moves: "
                "lower max_patches in the processor's settings, or shorten the prompt."
            )
        return found

    def _sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heights and widths of the tiles together, and of the resized image, by the processor's own functions."""
        images = self.processor.image_processor
        own = sys.modules[type(images).__module__]
        canvases = torch.tensor(own.find_supported_resolutions(images.max_patches, images.size))
        canvas = own.get_best_fit((height, width), canvases, images.resize_to_max_canvas).tolist()
        bounds = canvas
        if not images.resize_to_max_canvas:  # what is smaller than a tile grows to one, and all else does not grow
            bounds = [min(max(side, self._tile), most) for side, most in zip((height, width), canvas, strict=True)]
        resized = own.get_max_res_without_distortion((height, width), tuple(bounds))
        return (canvas[0], canvas[1]), (max(int(resized[0]), 1), max(int(resized[1]), 1))


def _with_image_outputs(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
