"""Models and images that the benchmarks read. Made once, and kept in the work folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

    from vlq.workers.models.base import LensModel

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


@dataclass(frozen=True)
class Case:
    """A model and the images that it is measured with."""

    name: str
    model: Path
    images: Path
    count: int
    batch_size: int
    shard_size: int


def small(work: Path, *, quick: bool) -> Case:
    """The project's own model and scenes. Where the model isn't trained yet, the same with random weights."""
    from vlq.workers.demo.architecture import make_model, make_processor
    from vlq.workers.demo.card import MODEL

    count = 256 if quick else 1280
    images = made(work / f"scenes-{count}", lambda folder: save_scenes(folder, count))
    if (MODEL / "config.json").exists():
        return Case("the demo's model", MODEL, images, count, 8, 32)

    def build(folder: Path) -> None:
        processor = make_processor()
        make_model(processor.tokenizer, seed=0).save_pretrained(folder)
        processor.save_pretrained(folder)

    model = made(work / "small-random-model", build)
    return Case("the demo's model with random weights", model, images, count, 8, 32)


def wide(work: Path, *, quick: bool) -> Case:
    """LLaVA's vocabulary (32,064) and grid (24 x 24) on a small decoder (4 layers of width 256), random weights."""
    count = 8 if quick else 32
    images = made(work / f"photos-{count}", lambda folder: save_photos(folder, count))
    model = made(work / "wide-random-model", build_wide)
    return Case("a wide vocabulary", model, images, count, 4, 4)


def build_wide(folder: Path, *, layers: int = 4, width: int = 256) -> None:
    """A random LLaVA whose head and grid are those of LLaVA-1.5."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from vlq.workers.demo.tokenizer import make_tokenizer

    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32_064,
            hidden_size=width,
            intermediate_size=688,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    llava_processor(tokenizer).save_pretrained(folder)


def llava_processor(tokenizer: Any) -> Any:
    """LLaVA-1.5's: 24 x 24 patches of 14 pixels."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava_7b(device: str, dtype: torch.dtype) -> LensModel:
    """LLaVA-1.5-7B in shape, with random weights that are made on the device, and the demo's tokenizer."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from vlq.workers.demo.tokenizer import make_tokenizer
    from vlq.workers.models.checks import check
    from vlq.workers.models.llava import Llava
    from vlq.workers.norms import quicken

    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=LlamaConfig(vocab_size=32_064, max_position_embeddings=4096, rms_norm_eps=1e-5),  # and 7B's
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            loaded = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model = Llava(loaded, llava_processor(tokenizer), PROMPT)
    quicken(model)  # as `load` does
    check(model, 8)
    return model


def save_scenes(folder: Path, count: int) -> None:
    """The demo's scenes, 112 x 112 PNGs."""
    from vlq.workers.demo.manifest import write_scenes
    from vlq.workers.demo.scenes import DEMO, compose

    write_scenes(folder, [compose(DEMO, number) for number in range(count)])


def save_photos(folder: Path, count: int) -> None:
    """Pictures as large as photographs on the web: 640 x 480 JPEGs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, filled by `make` if it isn't there yet. A half-filled one is never taken for it."""
    if not folder.exists():
        begun = folder.with_name(f"{folder.name}.begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        make(begun)
        begun.rename(folder)
    return folder
