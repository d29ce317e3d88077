"""Images that are cut into square tiles, as many as their shape asks for, and shown once more as a whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from propcache.api import cached_property
from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Encoded, Layout, View
from vlq.workers.models.generic import found_finish


class Tiled(LensModel):
    """A model whose image is stretched to whole tiles, rows and columns of them.

    The tower sees each tile, and, where there is more than one, a thumbnail of the whole image. Several of its patches
    make one image position, a cell. The sequence has tile after tile, each row by row, and the thumbnail before or
    behind them. `patch` is the grid of the tiles together; the thumbnail's positions are no patches.
    """

    whole_first: ClassVar[bool] = False
    """Whether the thumbnail is before the tiles."""

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        super().__init__(model, processor, prompt)
        height, width = self._sides
        if height != width or height % self._step:
            raise ModelError(
                f"{self.family}: expected square tiles of a multiple of {self._step} pixels. Got {height} x {width}.",
                "The processor's settings do not fit the model.",
            )

    @property
    def around(self) -> tuple[str, str] | None:
        """Tokens around an image, if there are more between its tiles: those are neither patches nor prompt."""
        return None

    @property
    def most_patches(self) -> int:
        return (int(self._setting("max_patches")) if self._setting("crop_to_patches") else 1) * self._cells**2

    @property
    def _sides(self) -> tuple[int, int]:
        """A tile's height and width in pixels, which are the same."""
        size = self.processor.image_processor.size
        return size["height"], size["width"]

    @property
    def _tile(self) -> int:
        """Pixels along a tile's side."""
        return self._sides[0]

    @property
    def _step(self) -> int:
        """Pixels along a cell's side."""
        raise NotImplementedError

    @property
    def _cells(self) -> int:
        """Cells along a tile's side."""
        return self._tile // self._step

    def _setting(self, name: str) -> Any:
        """As the processor gives it to its image processor, whose own it overrides."""
        own = getattr(self.processor.image_processor, name)
        return getattr(self.processor, "images_kwargs", {}).get(name, own)

    def layout(self, width: int, height: int) -> Layout:
        rows, columns = self._tiles(width, height)
        cells, tile = self._cells, self._tile
        transform = stretched(width, height, columns * tile, rows * tile)
        tiles, places = rows * columns, self._joined(rows, columns).flatten()
        if not self._shown_again(tiles):
            return Layout((cells, cells), transform, places, cells**2)
        whole = stretched(width, height, tile, tile)
        small = torch.arange(cells**2)
        if self.whole_first:
            places += cells**2
        else:
            small += tiles * cells**2
        view = View((cells, cells), whole, small)
        return Layout((rows * cells, columns * cells), transform, places, (tiles + 1) * cells**2, view)

    def _joined(self, rows: int, columns: int) -> Tensor:
        """(row, column) the places of so many tiles' cells, which have tile after tile, over all tiles."""
        cells = self._cells
        places = torch.arange(rows * columns * cells**2).view(rows, columns, cells, cells)
        return places.transpose(1, 2).reshape(rows * cells, columns * cells)

    def _shown_again(self, tiles: int) -> bool:
        """Whether there is a thumbnail beside so many tiles."""
        return tiles > 1

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        least, most = self._setting("min_patches"), self._setting("max_patches")
        if not self._setting("crop_to_patches") or most <= 1:
            return 1, 1
        columns, rows = self._best_tiles(width, height, least, most)
        return rows, columns

    def _best_tiles(self, width: int, height: int, least: int, most: int) -> tuple[int, int]:
        """Columns and rows of `least` to `most` tiles, by the processor's own function."""
        choose = sys.modules[type(self.processor.image_processor).__module__].get_optimal_tiled_canvas
        columns, rows = choose((height, width), (self._tile, self._tile), least, most)
        return columns, rows

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        if self.around is None:
            return super().prompt_places(input_ids)
        first, last = ((input_ids == id).nonzero()[0, 0] for id in self.tokenizer.convert_tokens_to_ids([*self.around]))
        places = torch.arange(len(input_ids))
        return places[(places <= first) | (places >= last)]


class InternVL(Tiled):
    """`InternVLForConditionalGeneration`, in transformers' own layout (the hub's ids that end in -hf)."""

    family = "InternVLForConditionalGeneration"

    @property
    def _step(self) -> int:
        config = self.model.config
        return int(config.vision_config.patch_size[0] / config.downsample_ratio)


class QianfanOCR(InternVL):
    """`QianfanOCRForConditionalGeneration`."""

    family = "QianfanOCRForConditionalGeneration"
    image_text = PLACEHOLDER


class AyaVision(Tiled):
    """`AyaVisionForConditionalGeneration`."""

    family = "AyaVisionForConditionalGeneration"

    @property
    def around(self) -> tuple[str, str]:
        return "<|START_OF_IMG|>", "<|END_OF_IMG|>"

    def finish(self, logits: Tensor) -> Tensor:
        return self._finish(logits)

    @cached_property
    def _finish(self) -> Callable[[Tensor], Tensor]:
        return found_finish(self)  # there are versions of its class that leave Cohere's factor out

    @property
    def _step(self) -> int:
        config = self.model.config
        return int(config.vision_config.patch_size * config.downsample_factor)


class Cohere2Vision(AyaVision):
    """`Cohere2VisionForConditionalGeneration` (Command A Vision)."""

    family = "Cohere2VisionForConditionalGeneration"

    @property
    def around(self) -> tuple[str, str]:
        return self.processor.boi_token, self.processor.eoi_token


class PerceptionLM(Tiled):
    """`PerceptionLMForConditionalGeneration`. A thumbnail is before the tiles, also where there is but one."""

    family = "PerceptionLMForConditionalGeneration"
    whole_first = True

    @property
    def most_patches(self) -> int:
        return (int(self.processor.image_processor.max_num_tiles) if self._shown_again(1) else 1) * self._cells**2

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.processor.image_processor.tile_size,) * 2

    @property
    def _step(self) -> int:
        return int(self.processor.patch_size * self.processor.pooling_ratio)

    def _shown_again(self, tiles: int) -> bool:
        return bool(self.processor.image_processor.vision_input_type == "thumb+tile")

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        images = self.processor.image_processor
        if not self._shown_again(1) or images.max_num_tiles <= 1:
            return 1, 1
        size = {"img_width": width, "img_height": height, "tile_size": self._tile}
        columns, rows = images._fit_image_to_canvas(**size) or images._find_closest_aspect_ratio(**size)
        return rows, columns

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        found = super()._encode(image, prompt)
        # (1, tile, ...) -> (tile, 1, ...): images differ in how many they have, and are joined along the first axis.
        return replace(found, values={name: values.transpose(0, 1) for name, values in found.values.items()})


class Ovis2(Tiled):
    """`Ovis2ForConditionalGeneration`, whose patches are mixtures of a vocabulary of its tower."""

    family = "Ovis2ForConditionalGeneration"
    whole_first = True

    @property
    def around(self) -> tuple[str, str]:
        return "<IMG_START>", "<IMG_END>"

    @property
    def _step(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.hidden_stride)

    def _best_tiles(self, width: int, height: int, least: int, most: int) -> tuple[int, int]:
        processor = self.processor.image_processor
        if not processor.use_covering_area_grid:
            return super()._best_tiles(width, height, least, most)
        choose = sys.modules[type(processor).__module__].get_min_tile_covering_grid
        columns, rows = choose((height, width), self._tile, most)
        return columns, rows


class GraniteDocling(Tiled):
    """`GraniteDoclingForConditionalGeneration`. By the processor's `fine_route` a patch has half the sides.

    Tokens of a tile's row and column and of line ends between tiles are neither patches nor prompt.
    """

    family = "GraniteDoclingForConditionalGeneration"

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.text_model  # type: ignore[no-any-return]

    def finish(self, logits: Tensor) -> Tensor:
        return logits.div_(self.model.config.text_config.logits_scaling)

    @property
    def most_patches(self) -> int:
        images = self.processor.image_processor
        return (max(images.max_patches, images.dense_max_patches) if images.crop_to_patches else 1) * self._cells**2

    @property
    def _step(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.scale_factor // (2 if self.processor.image_processor.fine_route else 1))

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        rows, columns = self.processor.image_processor.get_tile_grid(height, width)
        return rows, columns

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        around = torch.tensor([self.processor.fake_image_token_id, self.image_token_id])
        first, *_, last = torch.isin(input_ids, around).nonzero()[:, 0].tolist()
        if input_ids[last] == self.image_token_id:  # behind a tile that is alone is a line's end, and no such token
            end = self.tokenizer.encode("\n", add_special_tokens=False)
            if input_ids[last + 1 : last + 1 + len(end)].tolist() != end:
                raise ModelError(
                    "The line end that the processor puts behind a small image is one token with what follows.",
                    f"Have no line end behind the image: --prompt '{PLACEHOLDER}What is this?'",
                )
            last += len(end)
        places = torch.arange(len(input_ids))
        return places[(places < first) | (places > last)]
