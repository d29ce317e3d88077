"""The demo's LLaVA: its configuration, its random start, its processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vlq.workers.demo.scenes import GRID, PATCH, SIDE
from vlq.workers.demo.tokenizer import make_tokenizer

WIDTH = 128
LAYERS = 8
PADDING = 64
"""The head's rows are a multiple of this, beyond the tokenizer, as LLaVA-1.5's 32,064 are."""


def ramp(layer: int) -> float:
    """From 0.1 at the decoder's first block to 1 at its last.

    It scales what a block adds to the residual stream at the start (of attention, values and output alike), and its
    learning rate. So late blocks do most of the work, and words emerge in the middle instead of at once.
    """
    return 0.1 + 0.9 * layer / (LAYERS - 1)


def make_processor() -> Any:
    """CLIP's image processing at the scenes' own size, and the tokenizer; prompts as LLaVA-1.5 spells them."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        images,
        make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_model(tokenizer: Any, seed: int) -> Any:
    """A `LlavaForConditionalGeneration` at its random start, in float32."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=-(-(len(tokenizer) + 1) // PADDING) * PADDING,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    decoder = model.model.language_model
    with torch.no_grad():
        nn.init.normal_(decoder.embed_tokens.weight, std=1.0)
        nn.init.normal_(model.lm_head.weight, std=0.25)
        for layer, block in enumerate(decoder.layers):
            for name, weight in block.named_parameters():
                if weight.ndim == 2:
                    # The usual 0.02 is little at a width of 128.
                    nn.init.normal_(weight, std=WIDTH**-0.5)
                if any(part in name for part in ("v_proj", "o_proj", "down_proj")):
                    weight *= ramp(layer)
    return model
