"""Tiny models with random weights of families that are alike: what a configuration says by itself, made small."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import normalizers, pre_tokenizers

from ..conftest import PADDED
from .parts import tokenizer_with

SMALL = {
    **dict.fromkeys(("hidden_size", "embed_dim", "out_hidden_size", "projector_hidden_size", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "output_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "encoder_ffn_dim"), 32),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "encoder_layers"), 1),
    "num_hidden_layers": 3,
    "depth": 2,
    "num_position_embeddings": 16,
    "max_position_embeddings": 4096,
    "sliding_window": 16,
    "downsample_hidden_size": 8,
}
"""Sizes, by their names in configurations."""

DROPPED = ("transformers_version", "architectures", "dtype", "tie_word_embeddings")
"""Settings that no configuration is given."""

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
PARTIAL = ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
INTERLEAVED = ROPE | {"mrope_interleaved": True}

PATCH = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}

CODES = 256
"""Of images that are tokens of the vocabulary."""

TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def small(kind: str, tokenizer: Any, text: Mapping[str, Any], vision: Mapping[str, Any], **more: Any) -> Any:
    """A configuration of a class, made small, with these settings of its decoder, of its tower and of itself."""
    own = {"text_config": text, "vision_config": vision}

    def shrunk(values: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in values.items() if name not in DROPPED}
        found |= {name: size for name, size in SMALL.items() if isinstance(found.get(name), int)}
        found |= {name: found[name][:3] for name in ("layer_types", "mlp_layer_types") if found.get(name)}
        found |= {"vocab_size": len(tokenizer) + PADDED} if "vocab_size" in found else {}
        found |= {name: id for name, id in SPECIAL.items() if name in found}
        for name in [name for name in found if name.endswith("_config") and isinstance(found[name], dict)]:
            found[name] = shrunk(found[name]) | dict(own.get(name, {}))
        return found

    settings = shrunk(getattr(transformers, kind)().to_dict())
    del settings["model_type"]
    return getattr(transformers, kind)(**settings | more | {"tie_word_embeddings": False})


def ids(tokenizer: Any, **tokens: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def named(**tokens: str) -> Any:
    """A tokenizer that knows tokens by the names that a processor has for them."""
    tokenizer = tokenizer_with(*tokens.values())
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokens.values()]})
    tokenizer._set_model_specific_special_tokens(special_tokens=tokens)
    tokenizer.pad_token = "<unk>"
    return tokenizer


def random_weights(model: Any) -> Any:
    """Norms that are no ones; words told apart; a tower whose patches hardly mix."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        tower = "visual" in name or "vision" in name or "qformer" in name
        if "A_log" in name:  # so that what a linear attention forgets is rounded no more than all else
            torch.nn.init.uniform_(parameter, -4, -2)
        elif "q_norm" in name or "k_norm" in name:
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
        elif "norm" in name and "bias" not in name:
            torch.nn.init.uniform_(parameter, 0.2, 3.0)
        elif "lm_head" in name or "embed_tokens" in name or ("linear_attn" in name and parameter.ndim > 1):
            torch.nn.init.normal_(parameter, std=0.5)
        elif tower and ("attn" in name or "attention" in name):
            torch.nn.init.normal_(parameter, std=0.002)
        elif tower and "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.no_grad()
def cells_apart(model: Any, tower: Any, ids: Sequence[int]) -> Any:
    """A tokenizer of images whose codes are of a cell's own colours, and such as are alike enter the decoder alike.

    `ids` are the codes' tokens.
    """
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 1:
            if "time_conv" in name:
                parameter.fill_(4.0)  # so that the activation behind it leaves all as it is
            elif "conv_in" in name:
                parameter[1::2] = 10.0  # beside these a cell counts little in a norm's mean and variance
        elif "conv2" in name or "proj" in name:
            parameter *= 0.01
        elif "downsample" in name:  # what is added at the right and at the bottom is not seen
            parameter.zero_()[..., :2, :2] = torch.eye(len(parameter))[:, :, None, None] / 4
        elif "time_conv" in name or name.startswith("quant_conv"):  # the last frame, where it is
            parameter.zero_().flatten(2)[..., -1 - parameter.shape[-1] ** 2 // 2] = torch.eye(*parameter.shape[:2])
        elif parameter.shape[-1] == 3:
            centre = parameter[..., 1, 1].clone().normal_()
            parameter.zero_()[..., 1, 1] = centre
            if "conv_in" in name:
                parameter[1::2] = 0
    found: list[torch.Tensor] = []
    colours = torch.rand(CODES // 8, 3, 4, 4).mul(3).sub(1.5).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with tower.quantize.register_forward_pre_hook(lambda module, args: found.append(args[0])):
        tower.encode(colours, **({"image_sizes": [(32, 32)] * len(colours)} if "Emu3" in type(model).__name__ else {}))
    channels = found[0].shape[-3]
    codebook = found[0].reshape(-1, channels, 16).transpose(1, 2).reshape(-1, channels)[::2][:CODES]
    model.get_input_embeddings().weight[[*ids]] = (codebook - codebook.mean(0)) @ torch.randn(channels, 32)
    if isinstance(tower.quantize.embedding, torch.nn.Linear):  # so that the largest product is the nearest one's
        tower.quant_conv.bias[-1] = 1
        codebook[:, -1] = -codebook.square().sum(-1) / 2
    tower.quantize.embedding.weight.copy_(codebook)
    return model


def mapped_apart(model: Any) -> Any:
    """`cells_apart` of a model that has a map from codes to tokens."""
    return cells_apart(model, model.model.vqmodel, [model.model.vocabulary_mapping.img2bpe[i] for i in range(CODES)])


def save(
    folder: Path,
    model: Any,
    tokenizer: Any,
    images: Any,
    processor: str,
    image: str,
    settings: Mapping[str, Any] | None = None,
    videos: str | None = None,
) -> Path:
    """As a folder of the hub. `image` is what the chat template writes for one."""
    random_weights(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = images.to_dict() | {"processor_class": processor}
    files = {
        "preprocessor_config": saved | {"image_processor_type": type(images).__name__.removesuffix("Pil")},
        "processor_config": {"processor_class": processor, **(settings or {})},
    }
    if videos:
        files["video_preprocessor_config"] = saved | {"video_processor_type": videos}
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values, default=dict))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", image))
    return folder


def make(name: str, tokenizer: Any, text: Mapping[str, Any], vision: Mapping[str, Any], **more: Any) -> Any:
    config = f"{name}Config"
    return getattr(transformers, f"{name}ForConditionalGeneration")(small(config, tokenizer, text, vision, **more))


def pixels(least: int, most: int, side: int = 8, frames: int = 1) -> dict[str, int]:
    """Bounds of so many patches of a side."""
    return {"shortest_edge": least * side**2 * frames, "longest_edge": most * side**2 * frames}


# --- images that keep their shape ----------------------------------------------------------------------------------


def with_vision(start: str, image: str, end: str, video: str) -> tuple[Any, dict[str, int]]:
    """A tokenizer with the tokens around an image, for its patches and for a video's, and what a configuration has of
    them."""
    tokenizer = tokenizer_with(start, image, end, video)
    named = {"vision_start": start, "image": image, "vision_end": end, "video": video}
    return tokenizer, ids(tokenizer, **{f"{name}_token_id": token for name, token in named.items()})


def qwen(
    folder: Path,
    name: str,
    processor: str = "Qwen3VLProcessor",
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Path:
    tokens = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer, its = with_vision(*tokens)
    model = make(name, tokenizer, text or {}, PATCH | (vision or {}), **its)
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size=pixels(12, 48)
    )
    return save(folder, model, tokenizer, images, processor, "".join(tokens[:3]), videos="Qwen3VLVideoProcessor")


def cohere_compass(folder: Path) -> Path:
    tokens = ["<|VISION_START|>", "<|IMAGE_PAD|>", "<|VISION_END|>", "<|VIDEO_PAD|>"]
    tokenizer, its = with_vision(*tokens)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    text = {"layer_types": kinds, "rope_parameters": dict.fromkeys(kinds, ROPE)}
    model = make("CohereCompass", tokenizer, text, PATCH | DEEPSTACK, **its)
    images = transformers.CohereCompassImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(
        folder,
        model,
        tokenizer,
        images,
        "CohereCompassProcessor",
        "".join(tokens[:3]),
        videos="CohereCompassVideoProcessor",
    )


def cosmos3_edge(folder: Path) -> Path:
    tokens = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer, its = with_vision(*tokens)
    vision = {"patch_size": 4, "num_patches": 16, "spatial_merge_size": 2}
    model = make("Cosmos3Edge", tokenizer, {"rope_parameters": ROPE}, vision, **its)
    images = transformers.Cosmos3EdgeImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(
        folder,
        model,
        tokenizer,
        images,
        "Cosmos3EdgeProcessor",
        "".join(tokens[:3]),
        videos="Cosmos3EdgeVideoProcessor",
    )


def dots3_note(folder: Path) -> Path:
    tokens = ["<|img|>", "<|imgpad|>", "<|endofimg|>"]
    tokenizer = tokenizer_with(*tokens, "<|video_pad|>", "<|audio_comp_pad|>")
    rope = {"partial_rotary_factor": 0.5, "rope_type": "default", "rope_theta": 1e4}
    text = {
        "rope_parameters": {"indexed_attention": rope, "sliding_attention": rope},
        "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "v_head_dim", "index_head_dim"), 16),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
        "index_n_heads": 2,
        "per_layer_config": {},
    }
    vision = {
        "patch_size": 4,
        "num_hidden_layers": 2,
        "mlp_layer_types": ["dense", "sparse"],
        "num_local_experts": 2,
        **dict.fromkeys(("spatial_merge_size", "adapter_merge_size"), 2),
        **dict.fromkeys(("adapter_in_dim", "adapter_out_dim"), 32),
        "per_layer_config": {},
    }
    audio = dict.fromkeys(("hidden_size", "adapter_input_size", "adapter_out_dim"), 32)
    audio |= {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    its = ids(
        tokenizer, image_token_id="<|imgpad|>", video_token_id="<|video_pad|>", audio_token_id="<|audio_comp_pad|>"
    )
    model = make("Dots3Note", tokenizer, text, vision, audio_config=audio | {"head_dim": 16}, **its)
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=1, size=pixels(12, 48)
    )
    return save(folder, model, tokenizer, images, "Dots3NoteProcessor", "".join(tokens), videos="Qwen2VLVideoProcessor")


def qwen3_omni(folder: Path) -> Path:
    tokens = {"image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>"}
    around = {
        "vision_bos_token": "<vb>",
        "vision_eos_token": "<ve>",
        "audio_bos_token": "<ab>",
        "audio_eos_token": "<ae>",
    }
    tokenizer = named(**tokens, **around)
    its = ids(tokenizer, **{f"{name}_id": token for name, token in tokens.items()})
    its |= ids(tokenizer, vision_start_token_id="<vb>", vision_end_token_id="<ve>")
    text = {"rope_parameters": INTERLEAVED, "mlp_only_layers": [], "decoder_sparse_step": 1}
    model = make("Qwen3OmniMoeThinker", tokenizer, text, PATCH | {"deepstack_visual_indexes": [0, 1]}, **its)
    images = transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(
        folder,
        model,
        tokenizer,
        images,
        "Qwen3OmniMoeProcessor",
        "<vb><|image_pad|><ve>",
        videos="Qwen2VLVideoProcessor",
    )


def qwen25_omni(folder: Path) -> Path:
    tokens = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>"}
    around = {
        "vision_bos_token": "<vb>",
        "vision_eos_token": "<ve>",
        "audio_bos_token": "<ab>",
        "audio_eos_token": "<ae>",
    }
    tokenizer = named(**tokens, **around)
    its = ids(tokenizer, **{f"{name}_id": token for name, token in tokens.items()})
    its |= ids(tokenizer, vision_start_token_id="<vb>", vision_end_token_id="<ve>")
    vision = {"patch_size": 4, "spatial_merge_size": 2, "fullatt_block_indexes": [1], "window_size": 16}
    audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32, "output_dim": 32}
    model = make("Qwen2_5OmniThinker", tokenizer, {"rope_parameters": ROPE}, vision, audio_config=audio, **its)
    images = transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(
        folder, model, tokenizer, images, "Qwen2_5OmniProcessor", "<vb><|IMAGE|><ve>", videos="Qwen2VLVideoProcessor"
    )


def glm(
    folder: Path, name: str, kind: str = "Glm46V", rope: Mapping[str, Any] = ROPE, config: str | None = None
) -> Path:
    """`config` is that of the class, if it goes by another name."""
    tokens = ["<|begin_of_image|>", "<|image|>", "<|end_of_image|>"]
    videos = ["<|begin_of_video|>", "<|video|>", "<|end_of_video|>"]
    tokenizer = tokenizer_with(*tokens, *videos)
    its = {
        f"{what}{part}_token_id": tokenizer.convert_tokens_to_ids(token)
        for what, of in (("image", tokens), ("video", videos))
        for part, token in zip(("_start", "", "_end"), of, strict=True)
    }
    settings = small(
        config or f"{name}Config", tokenizer, {"rope_parameters": dict(rope)}, PATCH | {"image_size": 32}, **its
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(settings)
    # An image counts as two frames.
    own = config.removesuffix("Config") if config else kind
    images = getattr(transformers, f"{own}ImageProcessorPil")(
        patch_size=4, merge_size=2, temporal_patch_size=2, size=pixels(12, 48, frames=2)
    )
    return save(folder, model, tokenizer, images, f"{kind}Processor", "".join(tokens), videos="Glm4vVideoProcessor")


def ernie(folder: Path) -> Path:
    tokens = {
        f"{what}{part}_token": f"<|{what.upper()}_{'PLACEHOLDER' if not part else part[1:].upper()}|>"
        for what in ("image", "video")
        for part in ("_start", "", "_end")
    }
    tokenizer = named(**tokens)
    text = {
        "moe_intermediate_size": [32, 32],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "rope_parameters": ROPE | {"mrope_section": [3, 3, 2]},
    }
    its = ids(tokenizer, **{f"{name}_id": token for name, token in tokens.items()})
    model = make("Ernie4_5_VLMoe", tokenizer, text, PATCH, **its)
    images = transformers.Ernie4_5_VLMoeImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    image = "".join(tokens[name] for name in ("image_start_token", "image_token", "image_end_token"))
    return save(
        folder, model, tokenizer, images, "Ernie4_5_VLMoeProcessor", image, videos="Ernie4_5_VLMoeVideoProcessor"
    )


def paddleocr(folder: Path) -> Path:
    tokenizer = named(image_token="<|IMAGE_PLACEHOLDER|>")
    vision = PATCH | {"image_size": 32}
    its = ids(tokenizer, image_token_id="<|IMAGE_PLACEHOLDER|>")
    model = make("PaddleOCRVL", tokenizer, {"rope_parameters": ROPE}, vision, **its)
    images = transformers.PaddleOCRVLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=1, size=pixels(12, 48)
    )
    return save(folder, model, tokenizer, images, "PaddleOCRVLProcessor", "<|IMAGE_PLACEHOLDER|>")


def video_llama_3(folder: Path) -> Path:
    tokenizer = tokenizer_with("<|image_pad|>", "<|video_pad|>")
    its = ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
    model = make("VideoLlama3", tokenizer, {}, {"patch_size": 4}, **its)
    images = transformers.VideoLlama3ImageProcessorPil(patch_size=4, merge_size=1, size=pixels(12, 48, 4))
    return save(
        folder, model, tokenizer, images, "VideoLlama3Processor", "<|image_pad|>", videos="VideoLlama3VideoProcessor"
    )


def hunyuan_vl(folder: Path) -> Path:
    """Beside rows and columns, patches are numbered as words are, and by their image."""
    tokenizer = named(image_token="<image>", image_start_token="<hy_100>", image_end_token="<hy_101>")
    text = {"rope_parameters": ROPE | {"mrope_section": [2, 2, 2, 2]}, "head_dim": 16}
    vision = {"patch_size": 4, "spatial_merge_size": 2, "max_image_size": 32, "num_hidden_layers": 2}
    its = ids(tokenizer, image_token_id="<image>", im_start_id="<hy_100>", im_end_id="<hy_101>")
    model = make("HunYuanVL", tokenizer, text, vision, **its)
    images = transformers.HunYuanVLImageProcessorPil(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(folder, model, tokenizer, images, "HunYuanVLProcessor", "<hy_100><image><hy_101>")


LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "rope_parameters": INTERLEAVED | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
}
DEEPSTACK = {"deepstack_visual_indexes": [0, 1]}
WINDOWS = {"fullatt_block_indexes": [1], "window_size": 16}
SPARSE = {"mlp_only_layers": [], "decoder_sparse_step": 1}

MERGED: dict[str, Callable[[Path], Path]] = {
    "ernie4_5_vl_moe": ernie,
    "exaone4_5": partial(qwen, name="Exaone4_5_", processor="Exaone4_5_Processor"),
    "glm46v": partial(glm, name="Glm46V"),
    "glm4v": partial(glm, name="Glm4v", kind="Glm4v"),
    "glm4v_moe": partial(glm, name="Glm4vMoe", kind="Glm4v", rope=PARTIAL),
    "glm_ocr": partial(glm, name="GlmOcr"),
    "hunyuan_vl": hunyuan_vl,
    "paddleocr_vl": paddleocr,
    "qwen2_5_omni_thinker": qwen25_omni,
    "qwen3_5": partial(qwen, name="Qwen3_5", text=LINEAR),
    "qwen3_5_moe": partial(qwen, name="Qwen3_5Moe", text=LINEAR),
    "qwen3_vl_moe": partial(qwen, name="Qwen3VLMoe", text=SPARSE | {"rope_parameters": INTERLEAVED}, vision=DEEPSTACK),
    "video_llama_3": video_llama_3,
}
"""model_type -> maker, of those with an adapter of `merged` or `qwen_vl`."""

LARGE = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
"""What a large Gemma 4 does without."""

ALIKE: dict[str, Callable[[Path], Path]] = {
    "cohere_compass": cohere_compass,
    "cosmos3_edge": cosmos3_edge,
    "cosmos3_omni": partial(qwen, name="Cosmos3Omni", text={"rope_parameters": INTERLEAVED}, vision=DEEPSTACK),
    "dots3_note": dots3_note,
    "glmga": partial(glm, name="Glm46V", config="GlmgaConfig"),
    "hyperclovax_vision_v2": partial(
        qwen, name="HyperCLOVAXVisionV2", processor="HyperCLOVAXVisionV2Processor", vision=WINDOWS
    ),
    "lfm3_vl": partial(qwen, name="Lfm3Vl", processor="Lfm3VlProcessor", vision={"layer_types": None}),
    "qwen3_omni_moe_thinker": qwen3_omni,
}
"""The same of some that have none."""


# --- rows that end with a token -------------------------------------------------------------------------------------


def mistral3(folder: Path) -> Path:
    tokenizer = tokenizer_with("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    its = ids(tokenizer, image_token_index="[IMG]")
    vision = {"patch_size": 4, "image_size": 64}
    model = make("Mistral3", tokenizer, {"sliding_window": None}, vision, spatial_merge_size=2, **its)
    images = transformers.PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 64})
    return save(
        folder, model, tokenizer, images, "PixtralProcessor", "[IMG]", {"patch_size": 4, "spatial_merge_size": 2}
    )


def mistral_large4(folder: Path) -> Path:
    tokenizer = tokenizer_with("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    text = {
        "layer_types": ["indexed_attention"] * 3,
        "indexer_types": ["full"] * 3,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "no_rope_layers": [1, 0, 1],
        "kv_source_layers": [0, 1, 2],
        **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "v_head_dim", "qk_head_dim", "index_head_dim"), 16),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "head_dim"), 8),
        "index_n_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "final_logit_softcapping": 5.0,
    }
    vision = {"patch_size": 4, "image_size": 64}
    model = make(
        "MistralLarge4", tokenizer, text, vision, spatial_merge_size=2, **ids(tokenizer, image_token_index="[IMG]")
    )
    images = transformers.PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 64})
    return save(
        folder, model, tokenizer, images, "PixtralProcessor", "[IMG]", {"patch_size": 4, "spatial_merge_size": 2}
    )


def llava_pixtral(folder: Path) -> Path:
    tokenizer = tokenizer_with("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
    config = transformers.LlavaConfig(
        vision_config=transformers.PixtralVisionConfig(**sizes, num_hidden_layers=2, patch_size=8, image_size=64),
        text_config=transformers.MistralConfig(
            **sizes, vocab_size=len(tokenizer) + PADDED, num_hidden_layers=3, num_key_value_heads=2, sliding_window=None
        ),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        **ids(tokenizer, image_token_index="[IMG]"),
    )
    model = transformers.LlavaForConditionalGeneration(config)
    images = transformers.PixtralImageProcessorPil(patch_size=8, size={"longest_edge": 64})
    return save(
        folder, model, tokenizer, images, "PixtralProcessor", "[IMG]", {"patch_size": 8, "spatial_merge_size": 1}
    )


def lighton_ocr(folder: Path) -> Path:
    tokenizer = named(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    vision = {"patch_size": 4, "image_size": 64}
    model = make("LightOnOcr", tokenizer, {}, vision, spatial_merge_size=2, **ids(tokenizer, image_token_id="[IMG]"))
    images = transformers.PixtralImageProcessorPil(patch_size=8, size={"longest_edge": 64})
    return save(
        folder, model, tokenizer, images, "LightOnOcrProcessor", "[IMG]", {"patch_size": 4, "spatial_merge_size": 2}
    )


PIXTRAL: dict[str, Callable[[Path], Path]] = {
    "llava": llava_pixtral,
    "lighton_ocr": lighton_ocr,
    "mistral3": mistral3,
    "mistral_large4": mistral_large4,
}
"""model_type -> maker, of those with an adapter of `pixtral`."""


# --- tiles ----------------------------------------------------------------------------------------------------------


def ovis2(folder: Path, covering: bool = True) -> Path:
    tokens = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = tokenizer_with("<image>", "<IMG_ATOM>", *tokens)
    vision = {
        "image_size": 32,
        "patch_size": 4,
        "num_visual_indicator_tokens": len(tokens),
        "hidden_stride": 2,
        "vocab_size": 64,
        "num_hidden_layers": 2,
    }
    model = make(
        "Ovis2",
        tokenizer,
        {},
        vision,
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(tokens),
        **ids(tokenizer, image_token_id="<IMG_ATOM>"),
    )
    images = transformers.Ovis2ImageProcessorPil(
        size={"height": 32, "width": 32}, max_patches=6, crop_to_patches=True, use_covering_area_grid=covering
    )
    return save(folder, model, tokenizer, images, "Ovis2Processor", "<image>", {"image_seq_length": 16})


def qianfan(folder: Path) -> Path:
    tokenizer = named(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>")
    vision = {"image_size": [32, 32], "patch_size": [4, 4], "num_hidden_layers": 2}
    its = ids(tokenizer, image_token_id="<IMG_CONTEXT>")
    model = make("QianfanOCR", tokenizer, {}, vision, image_seq_length=16, **its)
    images = transformers.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6)
    return save(folder, model, tokenizer, images, "QianfanOCRProcessor", "<image>", {"image_seq_length": 16})


def granite_docling(folder: Path, fine: bool = False, most: int = 6) -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells, or 8 x 8. Lines end with a token of their own."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tokenizer_with("<fake_token_around_image>", "<global-img>", *tiles)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    vision = {"image_size": 32, "patch_size": 4, "scale_factor": 2, "deepstack_visual_indexes": [0, 1]}
    its = ids(tokenizer, image_token_id="<image>")
    router = 16 if fine else None
    model = make("GraniteDocling", tokenizer, {}, vision, density_router_hidden_size=router, **its)
    images = transformers.GraniteDoclingImageProcessorPil(
        size={"height": 32, "width": 32}, max_patches=most, fine_route=fine
    )
    return save(folder, model, tokenizer, images, "GraniteDoclingProcessor", "<image>", {"image_seq_len": 16})


def llava_next_video(folder: Path) -> Path:
    tokenizer = tokenizer_with("<image>", "<video>")
    points = [[32, 64], [64, 32], [64, 64]]
    its = ids(tokenizer, image_token_index="<image>", video_token_index="<video>")
    vision = {"image_size": 32, "patch_size": 8}
    model = make("LlavaNextVideo", tokenizer, {}, vision, image_grid_pinpoints=points, **its)
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=points
    )
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return save(
        folder,
        model,
        tokenizer,
        images,
        "LlavaNextVideoProcessor",
        "<image>",
        settings,
        videos="LlavaNextVideoVideoProcessor",
    )


def granite4_vision(folder: Path, rate: str = "2/4") -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells, of which windows of 2 x 2 make. Six features enter at six
    layers."""
    tokenizer = tokenizer_with()
    points = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    sizes = {"intermediate_size": 64, "num_attention_heads": 2}
    config = transformers.Granite4VisionConfig(
        vision_config=transformers.SiglipVisionConfig(
            **sizes, hidden_size=64, num_hidden_layers=3, image_size=32, patch_size=4, vision_use_head=False
        ),
        text_config=transformers.Granite4VisionTextConfig(
            **sizes, **SPECIAL, hidden_size=32, num_hidden_layers=6, num_key_value_heads=2,
            vocab_size=len(tokenizer) + PADDED, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5,
        ),
        qformer_config={"model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 64},
        downsample_rate=rate,
        deepstack_layer_map=[[-2, 1], [-1, 0]],
        spatial_target_layers=[2, 3, 4, 5],
        vision_feature_select_strategy="full",
        image_grid_pinpoints=points,
        tie_word_embeddings=False,
        **ids(tokenizer, image_token_index="<image>"),
    )  # fmt: skip
    model = transformers.Granite4VisionForConditionalGeneration(config)
    size = {"height": 32, "width": 32}
    images = transformers.LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=points)
    settings = {"patch_size": 4, "vision_feature_select_strategy": "full", "downsample_rate": rate}
    return save(folder, model, tokenizer, images, "Granite4VisionProcessor", "<image>", settings)


# --- Gemma 4 --------------------------------------------------------------------------------------------------------


def gemma4(folder: Path, **more: Any) -> Path:
    """Of its four blocks the last two use keys and values of the first two."""
    tokenizer = named(
        image_token="<|image|>",
        boi_token="<boi>",
        eoi_token="<eoi>",
        audio_token="<audio>",
        boa_token="<boa>",
        eoa_token="<eoa>",
    )
    size = len(tokenizer) + PADDED
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    kinds: Sequence[str] = ["sliding_attention", "full_attention"]
    settings: dict[str, Any] = {
        "vocab_size": size,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "global_head_dim": 16,
        "sliding_window": 16,
        "layer_types": [*kinds, *kinds],
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": size,
        "num_kv_shared_layers": 2,
        "final_logit_softcapping": 20.0,
        "tie_word_embeddings": False,
    }
    text = transformers.AutoConfig.for_model("gemma4_text", **sizes, **settings | more)
    vision = transformers.AutoConfig.for_model(
        "gemma4_vision", **sizes, num_hidden_layers=2, head_dim=16, patch_size=4, position_embedding_size=64,
        pooling_kernel_size=2,
    )  # fmt: skip
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        tie_word_embeddings=False,
        **ids(tokenizer, image_token_id="<|image|>"),
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        layer.layer_scalar.fill_(0.7)
    images = transformers.Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return save(folder, model, tokenizer, images, "Gemma4Processor", "<|image|>", videos="Gemma4VideoProcessor")


# --- no tower -------------------------------------------------------------------------------------------------------


def fuyu(folder: Path) -> Path:
    """Patches of 8 pixels, 8 x 12 at most."""
    tokenizer = tokenizer_with("|SPEAKER|", "|NEWLINE|", "<0x04>")
    config = transformers.FuyuConfig(
        text_config=transformers.PersimmonConfig(
            vocab_size=len(tokenizer) + PADDED,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            tie_word_embeddings=False,
            **SPECIAL,
        ),
        patch_size=8,
        **ids(tokenizer, image_token_id="|SPEAKER|"),
    )
    random_weights(transformers.FuyuForCausalLM(config)).save_pretrained(folder)
    sizes = {"size": {"height": 64, "width": 96}, "patch_size": {"height": 8, "width": 8}}
    transformers.FuyuProcessor(transformers.FuyuImageProcessorPil(**sizes), tokenizer).save_pretrained(folder)
    return folder


# --- codes ----------------------------------------------------------------------------------------------------------


def chameleon(folder: Path, **more: Any) -> Path:
    """4 x 4 cells of 8 pixels. Codes are written in letters, A for 0."""
    codes = ["IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z" for code in range(CODES)]
    tokenizer = tokenizer_with("<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *codes)
    tokenizer.add_special_tokens({"sep_token": "<reserved08706>", "pad_token": "<unk>"})
    vision = {"channel_multiplier": [1, 1, 1, 1], "base_channels": 64, "num_res_blocks": 1, "resolution": 32}
    config = transformers.ChameleonConfig(
        vocab_size=len(tokenizer) + PADDED,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocabulary_map=tokenizer.get_vocab(),
        vq_config=vision | {"num_embeddings": CODES, "embed_dim": 3, "latent_channels": 3},
        **more,
    )
    model = mapped_apart(random_weights(transformers.ChameleonForConditionalGeneration(config)))
    model.save_pretrained(folder)
    images = transformers.ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.ChameleonProcessor(images, tokenizer, image_seq_length=16).save_pretrained(folder)
    return folder


def emu3(folder: Path) -> Path:
    """Cells of 8 pixels, 12 to 48 of an image."""
    tokens = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    codes = {f"code_{code}": f"<|visual token {code:06d}|>" for code in range(CODES)}
    tokenizer = named(**tokens, eol_token="<|extra_200|>", **codes)
    vision = {"channel_multiplier": [1, 1, 1, 1], "base_channels": 64, "hidden_size": 64, "num_res_blocks": 1}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.Emu3Config(
        text_config=SPECIAL | text | {"num_key_value_heads": 2, "vocab_size": len(tokenizer) + PADDED},
        vq_config=vision | {"codebook_size": CODES, "embed_dim": 3, "latent_channels": 3, "attn_resolutions": []},
        vocabulary_map=tokenizer.get_vocab(),
    )
    model = mapped_apart(random_weights(transformers.Emu3ForConditionalGeneration(config)))
    images = transformers.Emu3ImageProcessor(min_pixels=12 * 64, max_pixels=48 * 64)
    model.save_pretrained(folder)
    template = TEMPLATE.replace("IMAGE", "<image>")
    transformers.Emu3Processor(images, tokenizer, chat_template=template).save_pretrained(folder)
    return folder


# --- slices ---------------------------------------------------------------------------------------------------------


def minicpm(
    folder: Path,
    name: str = "MiniCPMV4_6",
    images: str = "MiniCPMV4_6ImageProcessorPil",
    mode: str = "16x",
    **settings: Any,
) -> Path:
    """Slices of about 32 pixels on a side; cells of 8."""
    tokens = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    around = {
        "image_start": "<image>",
        "image_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "image_id_start": "<image_id>",
        "image_id_end": "</image_id>",
        "newline": "\n",
    }
    tokenizer = named(**tokens, **{f"{what}_token": token for what, token in around.items()})
    its = ids(tokenizer, **{f"{what}_id": token for what, token in {**tokens, **around}.items()})
    side = 4 if mode == "4x" else 2
    vision = {"patch_size": side, "image_size": 32, "num_hidden_layers": 3}
    text = LINEAR | {"layer_types": ["full_attention", "linear_attention", "full_attention"]}
    model = make(name, tokenizer, text, vision, insert_layer_id=1, downsample_mode=mode, patch_size=side, **its)
    made = getattr(transformers, images)(
        patch_size=side, scale_resolution=32, max_slice_nums=4, downsample_mode=mode, **settings
    )
    return save(folder, model, tokenizer, made, f"{name}Processor", "<|image_pad|>")


# --- one square grid ------------------------------------------------------------------------------------------------


def deepseek_vl(folder: Path) -> Path:
    tokenizer = named(image_token="<image_placeholder>")
    its = ids(tokenizer, image_token_id="<image_placeholder>")
    model = make("DeepseekVL", tokenizer, {}, {"image_size": 32, "patch_size": 8, "num_hidden_layers": 2}, **its)
    images = transformers.DeepseekVLImageProcessorPil(size={"height": 32, "width": 32})
    return save(
        folder, model, tokenizer, images, "DeepseekVLProcessor", "<image_placeholder>", {"num_image_tokens": 16}
    )


def pp_chart2table(folder: Path) -> Path:
    """GOT-OCR 2 by another name; 16 x 16 patches, which its tower makes 4 x 4 of."""
    tokenizer = tokenizer_with("<imgpad>", "<img>", "</img>")
    vision = {
        "image_size": 128,
        "patch_size": 8,
        "num_hidden_layers": 2,
        "output_channels": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
    }
    its = ids(tokenizer, image_token_id="<imgpad>")
    model = make("GotOcr2", tokenizer, {}, vision, image_seq_length=16, **its)
    images = transformers.PPChart2TableImageProcessorPil(size={"height": 128, "width": 128})
    save(folder, model, tokenizer, images, "PPChart2TableProcessor", "<img>" + "<imgpad>" * 16 + "</img>")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "pp_chart2table"}))
    return folder
