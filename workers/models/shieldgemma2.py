"""ShieldGemma 2: a Gemma 3 that is asked whether an image violates a policy."""

from __future__ import annotations

from typing import Any

from vlq.query.errors import ModelError
from vlq.workers.models.generic import Generic


class ShieldGemma2(Generic):
    """`ShieldGemma2ForImageClassification`, which keeps two logits of a whole model's, those of Yes and No: that model
    is read. A question is a policy, which the chat template puts the rest of the prompt around."""

    family = "ShieldGemma2ForImageClassification"

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        if hasattr(model, "yes_token_index"):
            if getattr(model, "hf_quantizer", None) or getattr(model, "hf_device_map", None):
                raise ModelError(
                    f"{self.family} is read neither quantised nor from several GPUs.",
                    "Leave --quantize and --device-map out.",
                )
            model = model.model
        super().__init__(model, processor, prompt)
