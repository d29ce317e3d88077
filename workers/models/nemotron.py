"""Nemotron 3 Nano Omni: images keep their shape, and most blocks of the decoder have a state in place of attention."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel, stretched
from vlq.workers.models.encoded import Layout
from vlq.workers.models.merged import most_resized


class NemotronHOmni(LensModel):
    """`NemotronH_Omni_Reasoning_V3`. An image is resized to between the processor's least and most patches. Each block,
    whether it attends, keeps a state or does neither, is a layer."""

    family = "NemotronH_Omni_Reasoning_V3"

    @property
    def decoder(self) -> nn.Module:
        return self.model.language_model.model  # type: ignore[no-any-return]

    @property
    def final_norm(self) -> nn.Module:
        return self.decoder.norm_f  # type: ignore[return-value]

    def run_decoder(self, batch: Mapping[str, Tensor]) -> None:
        self.model(**batch, use_cache=False, logits_to_keep=1)

    @property
    def most_patches(self) -> int:
        least, most = self._tower_patches
        return most_resized(least / self._merges**2, most / self._merges**2)

    @property
    def _merges(self) -> int:
        """So many of the tower's patches along a patch's side."""
        merges: int = round(1 / self.processor.image_processor.downsample_ratio)
        return merges

    @property
    def _tower_patches(self) -> tuple[int, int]:
        """The least and the most of the tower's patches of an image that is given alone."""
        images = self.processor.image_processor
        fitting = (images.max_model_len - 4) * self._merges**2
        most = min(fitting, images.max_num_patches) if images.max_num_patches else fitting
        return images.min_num_patches, max(most, images.min_num_patches)

    def layout(self, width: int, height: int) -> Layout:
        images, config, merges = self.processor.image_processor, self.model.config, self._merges
        size = images.patch_size
        if (own := (round(1 / config.downsample_ratio), config.vision_config.patch_size)) != (merges, size):
            raise ModelError(
                f"{self.family}: the processor merges {merges} x {merges} patches of {size} pixels, the model "
                f"{own[0]} x {own[0]} of {own[1]}.",
                "The processor's settings (patch_size, downsample_ratio) do not fit the model.",
            )
        choose = sys.modules[type(images).__module__].get_patch_grid_size
        rows, columns = choose(height, width, size, merges, *self._tower_patches)
        return Layout((rows // merges, columns // merges), stretched(width, height, columns * size, rows * size))
