"""PaliGemma, of both generations: a SigLIP tower, a linear projector, Gemma or Gemma 2. One fixed grid per image."""

from __future__ import annotations

from torch import Tensor

from vlq.workers.models.llava import Llava
from vlq.workers.models.parts import soft_capped


class PaliGemma(Llava):
    """`PaliGemmaForConditionalGeneration`.

    Gemma scales the text's embeddings before its first block, and layer 0 is what enters it. The image and the prompt
    see each other in both directions. Gemma 2 caps its logits softly; so does the lens, at every layer.
    """

    family = "PaliGemmaForConditionalGeneration"
    template = "{image}answer en {question}"

    def finish(self, logits: Tensor) -> Tensor:
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else soft_capped(logits, cap)

    def position_ids(self, mask: Tensor) -> Tensor:
        return mask.cumsum(-1)  # counted from 1
