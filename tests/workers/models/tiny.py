"""Tiny models with random weights, one of each family, saved with their processors as a user's folder holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..conftest import PADDED, make_tokenizer


def tokenizer_with(tokens: dict[str, str]) -> Any:
    """conftest's tokenizer with a family's own tokens, by the names that its processor knows them by."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens.values())})
    tokenizer._set_model_specific_special_tokens(special_tokens=tokens)
    return tokenizer


def text_config(kind: Any, tokenizer: Any, layers: int = 3, **more: Any) -> Any:
    return kind(
        vocab_size=len(tokenizer) + PADDED,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        pad_token_id=0,
        **more,
    )


def vision_config(kind: Any, **more: Any) -> Any:
    return kind(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **more)


def randomise(model: Any, seed: int = 0, plus_one: bool = False, tower: Sequence[str] = ("vision_tower",)) -> Any:
    """Norms far from ones (Gemma's are 1 + weight), a head that decides, a tower whose patches keep to themselves."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        in_tower = any(part in name for part in tower)
        if "norm" in name and not in_tower and "bias" not in name:
            low, high = (-0.8, 2.0) if plus_one else (0.2, 3.0)
            torch.nn.init.uniform_(parameter, low, high)
        elif "lm_head" in name or "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif in_tower and ("out_proj" in name or "projection_layer" in name):
            torch.nn.init.normal_(parameter, std=0.001)
        elif in_tower and "patch_embedding" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_paligemma(folder: Path, second: bool = False, size: int = 32) -> Path:
    from transformers import (
        Gemma2Config,
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    tokenizer = make_tokenizer()
    images = SiglipImageProcessorPil(size={"height": size, "width": size})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)  # adds <loc0000> and so on to the tokenizer
    if second:
        # Soft caps so low, and a window so narrow, that without them the readings would be others.
        more = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0, "sliding_window": 8}
        text = text_config(Gemma2Config, tokenizer, query_pre_attn_scalar=16, **more)
    else:
        text = text_config(GemmaConfig, tokenizer)
    config = PaliGemmaConfig(
        vision_config=vision_config(SiglipVisionConfig, image_size=32, patch_size=8, vision_use_head=False),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=text.vocab_size,
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    randomise(PaliGemmaForConditionalGeneration(config), plus_one=True).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
