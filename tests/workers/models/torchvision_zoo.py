"""The same as `zoo` of families whose images transformers processes with torchvision alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from ..conftest import PADDED, make_tokenizer
from .zoo import (
    CODES,
    PATCH,
    cells_apart,
    ids,
    make,
    minicpm,
    named,
    pixels,
    save,
    small,
    tokenizer_with,
)


def llama4(folder: Path, to_max: bool = False, tempered_from: int = 512) -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells; blocks that see chunks, and one that sees all."""
    image = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>")
    tokenizer = tokenizer_with(*image, "<|tile_x_separator|>", "<|tile_y_separator|>")
    text = {
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "no_rope_layers": [1, 0, 1],
        "attention_chunk_size": 64,
        "floor_scale": tempered_from,
        "moe_layers": [1],
        "intermediate_size_mlp": 64,
    }
    vision = {
        "image_size": 32,
        "patch_size": 4,
        "num_attention_heads": 2,
        "intermediate_size": 128,  # what the pixel shuffle makes of 32
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    }
    model = make("Llama4", tokenizer, text, vision, **ids(tokenizer, image_token_index="<|patch|>"))
    images = transformers.Llama4ImageProcessor(
        size={"height": 32, "width": 32}, max_patches=6, resize_to_max_canvas=to_max
    )
    return save(folder, model, tokenizer, images, "Llama4Processor", "<|image|>", {"patch_size": 4})


def cohere2_vision(folder: Path) -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells."""
    tokens = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tokenizer = named(**tokens)
    text = {"logit_scale": 0.5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    vision = {"image_size": 32, "patch_size": 4, "vision_use_head": False}
    its = ids(tokenizer, image_token_id="<|IMG_PATCH|>")
    model = make("Cohere2Vision", tokenizer, text, vision, alignment_intermediate_size=64, **its)
    images = transformers.Cohere2VisionImageProcessor(size={"height": 32, "width": 32}, max_patches=6, patch_size=4)
    return save(folder, model, tokenizer, images, "Cohere2VisionProcessor", "<|IMG_PATCH|>")


def lfm2_vl(folder: Path, thumbnail: bool = True) -> Path:
    """Cells of 8 pixels, 6 to 24 of a small image; tiles of 32 pixels."""
    names = {"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    names["image_thumbnail"] = "<|img_thumbnail|>"
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = named(**names, **{f"tile_{i}": token for i, token in enumerate(tiles)})
    text = {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}
    vision = {"patch_size": 4, "num_patches": 64, "vision_use_head": False}
    its = ids(tokenizer, image_token_id="<image>")
    model = make("Lfm2Vl", tokenizer, text, vision, downsample_factor=2, **its)
    images = transformers.Lfm2VlImageProcessor(
        encoder_patch_size=4, tile_size=32, min_image_tokens=6, max_image_tokens=24, max_tiles=6,
        use_thumbnail=thumbnail,
    )  # fmt: skip
    return save(folder, model, tokenizer, images, "Lfm2VlProcessor", "<image>")


def perception_lm(folder: Path, kind: str = "thumb+tile") -> Path:
    """Tiles of 32 pixels, 8 x 8 patches and 4 x 4 cells."""
    tokenizer = named(image_token="<|image|>", video_token="<|video|>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.PerceptionLMConfig(
        vision_config=transformers.TimmWrapperConfig(
            architecture="vit_pe_core_large_patch14_336",
            do_pooling=False,
            initializer_range=0.02,
            model_args={
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "img_size": [32, 32],
                "patch_size": [4, 4],
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": [8, 8],
            },
        ),
        text_config=transformers.LlamaConfig(
            **sizes, vocab_size=len(tokenizer) + PADDED, num_hidden_layers=3, head_dim=16, pad_token_id=0
        ),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        tie_word_embeddings=False,
        **ids(tokenizer, image_token_id="<|image|>", video_token_id="<|video|>"),
    )
    model = transformers.PerceptionLMForConditionalGeneration(config)
    images = transformers.PerceptionLMImageProcessor(tile_size=32, max_num_tiles=6, vision_input_type=kind)
    settings = {"patch_size": 4, "pooling_ratio": 2}
    return save(
        folder, model, tokenizer, images, "PerceptionLMProcessor", "<|image|>", settings, "PerceptionLMVideoProcessor"
    )


def molmo2(folder: Path, pooled: tuple[int, int] = (2, 2), margins: tuple[int, int] = (2, 1)) -> Path:
    """Crops of 36 pixels and 9 x 9 patches, of which up to 3 are shown twice; the head has no rows for an image's
    tokens."""
    names = ("im_patch", "im_col", "im_start", "low_res_im_start", "frame_start", "im_end", "frame_end", "im_low")
    rows = len(make_tokenizer())
    tokenizer = tokenizer_with(*(f"<{name}>" for name in names), "<|image|>", "<|video|>")
    tokenizer.pad_token = "<unk>"
    its = ids(
        tokenizer,
        image_patch_id="<im_patch>",
        image_start_token_id="<im_start>",
        low_res_image_start_token_id="<low_res_im_start>",
        image_end_token_id="<im_end>",
        frame_start_token_id="<frame_start>",
        frame_end_token_id="<frame_end>",
    )
    assert min(its.values()) >= rows
    text = {"vocab_size": rows, "additional_vocab_size": 16, "rope_scaling_layers": [1]}
    vision = {"image_size": [36, 36], "patch_size": 4, "num_position_embeddings": 81, "num_hidden_layers": 3}
    sizes = {"num_key_value_heads": 2, "head_dim": 16, "num_attention_heads": 2, "hidden_size": 32}
    adapter = {"vision_feature_layer": [0, 2], "text_hidden_size": 32, "intermediate_size": 64}
    config = small("Molmo2Config", tokenizer, text, vision, adapter_config=sizes | adapter, **its)
    model = transformers.Molmo2ForConditionalGeneration(config)
    images = transformers.Molmo2ImageProcessor(
        size={"height": 36, "width": 36}, patch_size=4, max_crops=6, overlap_margins=[*margins], pooling_size=[*pooled]
    )
    return save(folder, model, tokenizer, images, "Molmo2Processor", "<|image|>", videos="Molmo2VideoProcessor")


def gemma4_unified(folder: Path) -> Path:
    """Cells of 8 pixels, up to 70; an image sees itself both ways in two of three blocks."""
    names = {"image_token": "<|image|>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = named(**names, audio_token="<audio>", boa_token="<boa>", eoa_token="<eoa>")
    text = {"layer_types": ["sliding_attention"] * 2 + ["full_attention"], "final_logit_softcapping": 20.0}
    text |= {"per_layer_config": {2: {"head_dim": 16}}}
    vision = {"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 32, "output_proj_dims": 32}
    its = ids(tokenizer, image_token_id="<|image|>")
    model = make("Gemma4Unified", tokenizer, text, {}, vision_config=vision, **its)
    for layer in model.model.language_model.layers:
        layer.layer_scalar.fill_(0.7)
    images = transformers.Gemma4UnifiedImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return save(
        folder, model, tokenizer, images, "Gemma4UnifiedProcessor", "<|image|>", videos="Gemma4UnifiedVideoProcessor"
    )


def inkling(folder: Path, tempered_from: int | None = None) -> Path:
    """Patches of 15 pixels; the head has rows that no token goes by."""
    tokenizer = tokenizer_with("<|unused_200054|>", "<|unused_200053|>", "<|content_image|>", "<|content_audio_input|>")
    text = {
        "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 2),
        **dict.fromkeys(("swa_head_dim", "sliding_window_size", "rel_extent"), 16),
        "d_rel": 4,
        "log_scaling_n_floor": tempered_from,
        "unpadded_vocab_size": len(tokenizer) + 2,
        "logits_mup_width_multiplier": 2.0,
    }
    vision = {"patch_size": 15, "n_layers": 4, "text_hidden_size": 32}  # with other layers it is large
    sound = {"n_mel_bins": 4, "mel_vocab_size": 4, "text_hidden_size": 32}
    its = ids(tokenizer, image_token_id="<|unused_200054|>", audio_token_id="<|unused_200053|>")
    model = make("Inkling", tokenizer, text, vision, audio_config=sound, **its)
    images = transformers.InklingImageProcessor(size={"height": 15, "width": 15})
    return save(folder, model, tokenizer, images, "InklingProcessor", "<|content_image|><|unused_200054|>")


def kimi_k25(folder: Path) -> Path:
    """Cells of 8 pixels, about 40 and 12 along a side at most."""
    tokens = ["<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>"]
    tokenizer = tokenizer_with(*tokens, "<|kimi_k25_video_placeholder|>")
    text = dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim", "v_head_dim"), 16)
    text |= dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "head_dim"), 8)
    vision = {"patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8, "num_hidden_layers": 2}
    its = ids(tokenizer, image_token_id="<|media_pad|>", video_token_id="<|kimi_k25_video_placeholder|>")
    model = make("Kimi_K25", tokenizer, text, vision, projection_hidden_size=32, **its)
    images = transformers.Kimi_K25ImageProcessor(
        patch_size=4, merge_size=2, max_patches=160, size={"max_height": 24, "max_width": 24}
    )
    image = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"
    return save(folder, model, tokenizer, images, "Kimi_K25Processor", image, videos="Kimi_K25VideoProcessor")


def minicpm_ocr(folder: Path, **settings: Any) -> Path:
    return minicpm(folder, "MiniCPMOcr", "MiniCPMOcrImageProcessor", "4x", **settings)


def minimax_m3_vl(folder: Path) -> Path:
    tokens = ["]<]start of image[>[", "]<]image[>[", "]<]end of image[>[", "]<]video[>["]
    tokenizer = tokenizer_with(*tokens)
    its = ids(tokenizer, image_token_id=tokens[1], video_token_id=tokens[3])
    text = {"layer_types": None, "mlp_layer_types": None}
    config = small("MiniMaxM3VLConfig", tokenizer, text, PATCH | {"image_size": 32}, **its)
    model = transformers.MiniMaxM3SparseForConditionalGeneration(config)
    images = transformers.MiniMaxM3VLImageProcessor(patch_size=4, merge_size=2, size=pixels(12, 48))
    return save(folder, model, tokenizer, images, "MiniMaxM3VLProcessor", tokens[1], videos="MiniMaxM3VLVideoProcessor")


def fast_vlm(folder: Path) -> Path:
    """256 x 256 pixels, halved six times to 4 x 4 patches. It needs timm."""
    tokenizer = tokenizer_with()
    stages = {"layers": [1] * 5, "embed_dims": [32] * 5}
    vision = transformers.TimmWrapperConfig(
        architecture="fastvit_mci3", hidden_size=64, label_names=[], model_args={"inference_mode": True} | stages
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.FastVlmConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**sizes, vocab_size=len(tokenizer) + PADDED, num_hidden_layers=3),
        tie_word_embeddings=False,
        **ids(tokenizer, image_token_index="<image>"),
    )
    model = transformers.FastVlmForConditionalGeneration(config)
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 256, "width": 256})
    save(folder, model, tokenizer, images, "LlavaProcessor", "<image>", {"patch_size": 64})
    see_what_is_below(model.model.vision_tower)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def see_what_is_below(tower: torch.nn.Module) -> None:
    """Give convolutions what is at their own place, of 2 x 2 the mean where they halve, and a little of all around."""
    for module in tower.modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        weight, size = module.weight, module.kernel_size[0]
        own = torch.ones(weight.shape[:2]) if module.groups > 1 else torch.randn(weight.shape[:2])
        own = own[..., None, None] / weight.shape[1] ** 0.5
        torch.nn.init.normal_(weight, std=0.1 / size if size > 1 else 0)
        middle = slice(size // 2, size // 2 + module.stride[0])
        weight[..., middle, middle] += own / module.stride[0] ** 2
    for name, parameter in tower.named_parameters():
        if "gamma" in name:
            parameter.fill_(0.5)
        elif "token_mixer" in name and parameter.ndim == 2:  # attention
            torch.nn.init.normal_(parameter, std=0.002)


def step3p7(folder: Path) -> Path:
    """Tiles of 32 pixels and 2 x 2 cells, or a view of 48 pixels and 3 x 3."""
    tokens = ["<im_patch>", "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"]
    tokenizer = tokenizer_with(*tokens)
    text = {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "share_expert_dim": 32,
        "sliding_window": 16,
    }
    vision = {"image_size": 48, "patch_size": 4, "max_position_embeddings": 144, "num_hidden_layers": 2}
    model = make("Step3p7", tokenizer, text, vision, **ids(tokenizer, image_token_id="<im_patch>"))
    images = transformers.Step3p7ImageProcessor(
        size={"height": 48, "width": 48}, patch_size=32, max_image_size=96, vision_patch_size=4
    )
    save(folder, model, tokenizer, images, "Step3p7Processor", "<im_patch>")
    for convolution in (model.model.vision_model.downsampler1, model.model.vision_model.downsampler2):
        convolution.weight.data[:, :, 0] = convolution.weight.data[..., 0] = 0  # they reach over a cell's edges there
    model.save_pretrained(folder)
    return folder


def apertus1p5(folder: Path) -> Path:
    """Cells of 8 pixels, 12 to 48 of an image; the head has no rows for codes of images and of sound."""
    tokens = {
        "image_token": "<|image|>",
        "audio_token": "<|audio|>",
        "boi_token": "<|img_start|>",
        "eoi_token": "<|img_end|>",
        "image_wrapper_token": "<|img_token_start|>",
        "eol_token": "<|img_end_of_row|>",
        "boa_token": "<|audio_start|>",
        "eoa_token": "<|audio_end|>",
    }
    rows = len(named(**tokens))
    codes = {f"code_{code}": f"<|visual token {code}|>" for code in range(CODES)}
    tokenizer = named(**tokens, **codes)
    first, sound = tokenizer.convert_tokens_to_ids("<|visual token 0|>"), 8
    assert first == rows
    vision = {"channel_multiplier": [1, 1, 1, 1], "base_channels": 64, "num_res_blocks": 1, "attn_resolutions": []}
    vision |= {"codebook_size": CODES, "embed_dim": 4, "latent_channels": 3}
    audio = {"num_filters": 2, "hidden_size": 32, "codebook_dim": 32, "num_lstm_layers": 1, "codebook_size": sound}
    model = make(
        "Apertus1p5",
        tokenizer,
        {"vocab_size": first + CODES + sound, "output_vocab_size": rows},
        vision,
        audio_config={"model_type": "wavtokenizer_encoder"} | audio,
        image_token_offset=first,
        audio_token_offset=first + CODES,
        **ids(tokenizer, image_token_id="<|image|>", audio_token_id="<|audio|>"),
    )
    images = transformers.Apertus1p5ImageProcessor(
        spatial_factor=8, size={"min_pixels": 12 * 64, "max_pixels": 48 * 64}
    )
    save(folder, model, tokenizer, images, "Apertus1p5Processor", "<|image|>")
    cells_apart(model, model.model.vision_tokenizer, range(first, first + CODES)).save_pretrained(folder)
    return folder


def unlimited_ocr(folder: Path, cut: bool = True, **settings: Any) -> Path:
    """Tiles of 32 pixels and 4 x 4 cells, and a view of 48 pixels and 6 x 6."""
    tokenizer = tokenizer_with("<image>")
    kinds = {"mlp_layer_types": ["dense", "sparse", "sparse"], "layer_types": ["reference_sliding_attention"] * 3}
    sam = {"patch_size": 2, "image_size": 32, "window_size": 4, "global_attn_indexes": [1], "num_hidden_layers": 2}
    sam |= {"hidden_size": 32, "output_channels": 32, "downsample_channels": [32, 32], "mlp_dim": 64}
    encoder = {"image_size": 16, "patch_size": 4, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_attention_heads": 2}
    vision = {"sam_config": sam | heads, "encoder_config": encoder | heads}
    model = make("UnlimitedOcr", tokenizer, kinds, vision, **ids(tokenizer, image_token_id="<image>"))
    images = transformers.UnlimitedOcrImageProcessor(
        size={"height": 48, "width": 48}, tile_size=32, max_patches=6, crop_to_patches=cut, **settings
    )
    own = {"patch_size": 2, "downsample_ratio": 4}
    save(folder, model, tokenizer, images, "UnlimitedOcrProcessor", "<image>", own)
    tower = model.model.vision_tower.sam_encoder
    for convolution in (tower.proj.conv1, tower.proj.conv2):
        convolution.weight.data[:, :, 0] = convolution.weight.data[..., 0] = 0  # they reach over a cell's edges there
    centre = tower.neck.conv2.weight.data[..., 1, 1].clone()
    tower.neck.conv2.weight.data.zero_()[..., 1, 1] = centre
    model.save_pretrained(folder)
    return folder


def muse(folder: Path, name: str = "MuseGlimmer", text: Mapping[str, Any] | None = None) -> Path:
    """Cells of 8 pixels, up to 48."""
    names = ("patch", "image_start", "image_end", "video", "vid_frame_separator", "vid_start", "vid_end", "audio")
    tokenizer = tokenizer_with(*(f"<|{name}|>" for name in names))
    its = ids(tokenizer, image_token_id="<|patch|>", video_token_id="<|video|>")
    more: dict[str, Any] = {"final_logit_softcapping": 5.0, "output_multiplier": 0.5, "layer_rope_theta": None}
    vision = {"patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64}
    vision |= {"layer_types": ["window_attention", "full_attention"], "num_hidden_layers": 2}
    sound: dict[str, Any] = {}
    if name == "MuseSpark":
        its |= ids(tokenizer, audio_token_id="<|audio|>")
        sizes = {"patch_sizes": [4], "hidden_sizes": [16], "depths": [1], "num_hidden_layers": 1}
        sound = {"audio_config": sizes | {"out_hidden_size": 32}}
    model = make(name, tokenizer, more | dict(text or {}), vision, out_hidden_size=128, **sound, **its)
    images = transformers.MuseGlimmerImageProcessor(patch_size=4, merge_size=2, max_image_tokens=48)
    videos = "MuseGlimmerVideoProcessor"
    return save(folder, model, tokenizer, images, f"{name}Processor", "<|patch|>", videos=videos)


def nemotron_h_omni(folder: Path) -> Path:
    """Cells of 8 pixels, 12 to 48; blocks with a state, of attention, of experts, and without."""
    tokenizer = tokenizer_with("<image>", "<video>", "<so_embedding>", "<img>", "</img>")
    text = {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        **dict.fromkeys(("ssm_state_size", "mamba_head_dim", "chunk_size"), 16),
        "mamba_num_heads": 4,
        "n_groups": 2,
        "moe_shared_expert_intermediate_size": 32,
    }
    vision = {"patch_size": 4, "image_size": 32, "max_img_size": 64, "num_hidden_layers": 2}
    vision |= {"patch_dim": 48, "video_patch_dim": 96}
    config = small(
        "NemotronH_Omni_Reasoning_V3_Config",
        tokenizer,
        text,
        vision,
        audio_config=None,
        vision_hidden_size=32,
        **ids(tokenizer, image_token_id="<image>"),
    )
    model = transformers.NemotronH_Omni_Reasoning_V3(config)
    images = transformers.NemotronH_Omni_Reasoning_V3ImageProcessor(
        patch_size=4, min_num_patches=48, max_num_patches=192
    )
    name = "NemotronH_Omni_Reasoning_V3"
    return save(folder, model, tokenizer, images, f"{name}Processor", "<image>", videos=f"{name}VideoProcessor")


MAKERS: dict[str, Callable[[Path], Path]] = {
    "apertus1p5": apertus1p5,
    "cohere2_vision": cohere2_vision,
    "gemma4_unified": gemma4_unified,
    "inkling_mm_model": inkling,
    "kimi_k25": kimi_k25,
    "lfm2_vl": lfm2_vl,
    "lfm2_vl-plain": partial(lfm2_vl, thumbnail=False),
    "llama4": llama4,
    "llama4-max": partial(llama4, to_max=True),
    "minicpm_ocr": minicpm_ocr,
    "minimax_m3_vl": minimax_m3_vl,
    "molmo2": molmo2,
    "molmo2-odd": partial(molmo2, pooled=(3, 2), margins=(1, 1)),
    "muse_glimmer": muse,
    "muse_spark": partial(
        muse, name="MuseSpark", text={"mlp_layer_types": ["dense", "sparse", "sparse"], "moe_hidden_size": 16}
    ),
    "nemotron_h_omni": nemotron_h_omni,
    "perception_lm": perception_lm,
    "step3p7": step3p7,
    "unlimited_ocr": unlimited_ocr,
}
