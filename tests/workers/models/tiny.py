"""Tiny models with random weights, one of each family, saved with their processors as a user's folder holds them."""

from __future__ import annotations

import json
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
        if ("norm" in name or ".ln_" in name) and not in_tower and "bias" not in name:
            low, high = (-0.8, 2.0) if plus_one else (0.2, 3.0)
            torch.nn.init.uniform_(parameter, low, high)
        elif "lm_head" in name or "embed_tokens" in name or "wte" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif in_tower and ("out_proj" in name or "projection_layer" in name):
            torch.nn.init.normal_(parameter, std=0.001)
        elif in_tower and "patch_embedding" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_llava(folder: Path, text: Any = None, strategy: str = "default", **settings: Any) -> Path:
    """4 x 4 patches of 8 pixels, with a decoder of this configuration's class; `settings` are the model's."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=vision_config(CLIPVisionConfig, image_size=32, patch_size=8),
        text_config=text_config(text or LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=False,
        **settings,
    )
    randomise(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy=strategy, num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def make_paligemma(folder: Path, second: bool = False, size: int = 32) -> Path:
    """4 x 4 patches of 8 pixels, and what is left of the size."""
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
        vision_config=vision_config(SiglipVisionConfig, image_size=size, patch_size=8, vision_use_head=False),
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


def make_llava_next(folder: Path, points: list[list[int]] | None = None) -> Path:
    """Tiles of 32 pixels and 4 x 4 patches."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    tokenizer = make_tokenizer()
    points = points or [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    config = LlavaNextConfig(
        vision_config=vision_config(CLIPVisionConfig, image_size=32, patch_size=8),
        text_config=text_config(LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=points,
        tie_word_embeddings=False,
    )
    randomise(LlavaNextForConditionalGeneration(config)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    images = LlavaNextImageProcessorPil(**size, image_grid_pinpoints=points)
    LlavaNextProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def make_llava_onevision(folder: Path, patch: int = 8) -> Path:
    """Tiles of 36 pixels, of which 4 x 4 patches leave 4 pixels; up to 4 x 4 tiles, resampled to what 4 have."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = tokenizer_with({"image_token": "<image>", "video_token": "<video>"})
    points = [[36 * rows, 36 * columns] for rows in range(1, 5) for columns in range(1, 5)]
    config = LlavaOnevisionConfig(
        vision_config=vision_config(SiglipVisionConfig, image_size=36, patch_size=patch, vision_use_head=False),
        text_config=text_config(Qwen2Config, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points,
        vision_aspect_ratio="anyres_max_4",
        tie_word_embeddings=False,
    )
    randomise(LlavaOnevisionForConditionalGeneration(config)).save_pretrained(folder)
    images = LlavaOnevisionImageProcessorPil(size={"height": 36, "width": 36}, image_grid_pinpoints=points)
    settings = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_4",
        "image_token": "<image>",
        "video_token": "<video>",
    }
    save_processor(folder, tokenizer, images, settings, "LlavaOnevisionVideoProcessor")
    return folder


def save_processor(folder: Path, tokenizer: Any, images: Any, settings: dict[str, Any], video: str) -> None:
    """As the hub's folders are whose processor takes videos, too. That class cannot be made here: it wants torchvision,
    which is no need of ours."""
    kind = settings["processor_class"]
    tokenizer.save_pretrained(folder)
    of_images = images.to_dict() | {
        "image_processor_type": type(images).__name__.removesuffix("Pil"),
        "processor_class": kind,
    }
    of_videos = {"video_processor_type": video, "processor_class": kind, "size": dict(images.size)}
    (folder / "preprocessor_config.json").write_text(json.dumps(of_images, default=dict))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(of_videos))
    (folder / "processor_config.json").write_text(json.dumps(settings))


def make_internvl(folder: Path, most: int = 6) -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells; up to six of them."""
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration, Qwen2Config
    from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

    tokens = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer = tokenizer_with({f"{name}_token": token for name, token in tokens.items()})
    config = InternVLConfig(
        vision_config=vision_config(InternVLVisionConfig, image_size=32, patch_size=4),
        text_config=text_config(Qwen2Config, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    randomise(InternVLForConditionalGeneration(config)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    images = GotOcr2ImageProcessorPil(size=size, crop_to_patches=False, max_patches=most)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 16}
    save_processor(folder, tokenizer, images, settings, "InternVLVideoProcessor")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<IMG_CONTEXT>{{ '\\n' }}"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    return folder


def make_vipllava(folder: Path) -> Path:
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaProcessor,
        VipLlavaConfig,
        VipLlavaForConditionalGeneration,
    )

    tokenizer = make_tokenizer()
    config = VipLlavaConfig(
        vision_config=vision_config(CLIPVisionConfig, image_size=32, patch_size=8),
        text_config=text_config(LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-1, -2],
        tie_word_embeddings=False,
    )
    randomise(VipLlavaForConditionalGeneration(config)).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def make_gemma3(folder: Path) -> Path:
    """8 x 8 patches, pooled to 4 x 4."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    tokens = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_with(tokens)
    ids = {
        name.replace("token", "token_index"): tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()
    }
    more = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    config = Gemma3Config(
        vision_config=vision_config(SiglipVisionConfig, image_size=32, patch_size=4, vision_use_head=False),
        text_config=text_config(Gemma3TextConfig, tokenizer, query_pre_attn_scalar=16, **more),
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
        **ids,
    )
    model = randomise(Gemma3ForConditionalGeneration(config), plus_one=True)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    model.save_pretrained(folder)
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    Gemma3Processor(images, tokenizer, image_seq_length=16).save_pretrained(folder)
    return folder


def make_aya_vision(folder: Path, most: int = 12) -> Path:
    """Tiles of 32 pixels, and 8 x 8 patches in 4 x 4 cells."""
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        Cohere2Config,
        GotOcr2ImageProcessorPil,
        SiglipVisionConfig,
    )

    names = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tokenizer = tokenizer_with({f"token_{i}": name for i, name in enumerate(names)})
    tokenizer.pad_token = "</s>"
    config = AyaVisionConfig(
        vision_config=vision_config(SiglipVisionConfig, image_size=32, patch_size=4, vision_use_head=False),
        text_config=text_config(Cohere2Config, tokenizer, logit_scale=0.5, eos_token_id=2),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        tie_word_embeddings=False,
    )
    randomise(AyaVisionForConditionalGeneration(config)).save_pretrained(folder)
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=most)
    AyaVisionProcessor(images, tokenizer, patch_size=4, img_size=32, downsample_factor=2).save_pretrained(folder)
    return folder
