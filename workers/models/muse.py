"""Muse Glimmer and Muse Spark: images keep their shape and are scaled down to so many patches; logits are capped."""

from __future__ import annotations

from torch import Tensor

from vlq.workers.models.base import LensModel
from vlq.workers.models.merged import Merged, most_resized
from vlq.workers.models.parts import soft_capped


class MuseGlimmer(Merged):
    """`MuseGlimmerForConditionalGeneration`. Patches are numbered as words are."""

    family = "MuseGlimmerForConditionalGeneration"

    def finish(self, logits: Tensor) -> Tensor:
        text = self.model.config.get_text_config()
        return soft_capped(logits * text.output_multiplier, text.final_logit_softcapping)

    @property
    def most_patches(self) -> int:
        return most_resized(1, self.processor.image_processor.max_image_tokens)

    @property
    def _merges(self) -> int:
        return int(self.model.config.vision_config.merge_size)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        most = self.processor.image_processor.max_image_tokens
        model_height, model_width = self._smart_resize(height, width, self._side, most)
        return model_width, model_height

    def position_ids(self, mask: Tensor) -> Tensor | None:
        return LensModel.position_ids(self, mask)


class MuseSpark(MuseGlimmer):
    """`MuseSparkForConditionalGeneration`. It is given no sound."""

    family = "MuseSparkForConditionalGeneration"
