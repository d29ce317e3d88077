"""Qwen's models from Qwen2-VL on: images keep their shape, so each has a grid of its own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vlq.workers.models.base import LensModel
from vlq.workers.models.merged import Merged


class Qwen2VL(Merged):
    """`Qwen2VLForConditionalGeneration`. A patch is what the decoder sees: 2 x 2 of the tower's patches, merged."""

    family = "Qwen2VLForConditionalGeneration"
    image_text: ClassVar[str | None] = "<|vision_start|><|image_pad|><|vision_end|>"


class Qwen25VL(Qwen2VL):
    """`Qwen2_5_VLForConditionalGeneration`, which differs in its tower."""

    family = "Qwen2_5_VLForConditionalGeneration"


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`, which adds features of the tower's middle to the patches behind early blocks.

    Such a layer's states hold what was added: they are those that enter the next block. `output_hidden_states` of
    transformers returns them without.
    """

    family = "Qwen3VLForConditionalGeneration"


class Qwen3VLMoe(Qwen3VL):
    """`Qwen3VLMoeForConditionalGeneration`."""

    family = "Qwen3VLMoeForConditionalGeneration"


class Qwen35(Qwen2VL):
    """`Qwen3_5ForConditionalGeneration`, most of whose blocks attend in time linear in the sequence's length.

    They do so by chunks of 64 tokens, in which exponents of up to a thousand are added up in float32. Padding moves the
    chunks' edges, and with them what is rounded.
    """

    family = "Qwen3_5ForConditionalGeneration"
    own_noise = 5e-4


class Qwen35Moe(Qwen35):
    """`Qwen3_5MoeForConditionalGeneration`."""

    family = "Qwen3_5MoeForConditionalGeneration"


class Exaone45(Qwen2VL):
    """`Exaone4_5_ForConditionalGeneration`, with Qwen2.5-VL's tower. Its patches are numbered as words are."""

    family = "Exaone4_5_ForConditionalGeneration"
    image_text = None

    def position_ids(self, mask: Tensor) -> Tensor | None:
        return LensModel.position_ids(self, mask)
