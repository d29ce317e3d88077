"""What tiny models are made of: tokenizers with a family's own tokens, and random weights."""

from __future__ import annotations

from typing import Any

import torch

from ..conftest import make_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""A decoder's settings."""


def tokenizer_with(*specials: str) -> Any:
    """`make_tokenizer`'s, with more special tokens and without a name for any."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend = make_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in specials])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def set_weights(model: Any, seed: int = 0) -> None:
    """Norms that are no ones; words told apart; a tower whose patches hardly mix."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        tower = "visual" in name or "vision" in name
        if "norm" in name and "bias" not in name:
            torch.nn.init.uniform_(parameter, 0.2, 3.0)
        elif "lm_head" in name or "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif tower and "attn" in name:
            torch.nn.init.normal_(parameter, std=0.002)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
