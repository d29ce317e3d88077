"""A tiny LLaVA with random weights, and folders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlq.workers.pool import Pool

from .here import printed, without_ray
from .runs import Vlq, run_of
from .web import Server

WORDS = ["USER", ":", "ASSISTANT", "What", "is", "in", "this", "image", "?", "the", "main", "object", "dog", "cat"]
PADDED = 8
"""Rows of lm_head beyond the tokenizer."""

IMAGES = 62
"""Of `images`, in shards of two; the sixth is broken."""


def make_tokenizer() -> Any:
    """LLaMA-like pieces: '▁dog' begins a word, 'dog' goes on with one, '<0x0A>' is a byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "<0x0A>"]
    pieces += [f"▁{word}" for word in WORDS] + [*dict.fromkeys("".join(WORDS)), "▁", "dog", "ear"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece in ("<s>", "</s>", "<image>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )


def make_model(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 3,
    width: int = 32,
    size: Any = None,
    crop: bool = True,
    pad: bool = False,
) -> Path:
    """Saves a random `LlavaForConditionalGeneration` of a 4 x 4 grid whose norms' weights are random too."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaImageProcessorPil,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer) + PADDED,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.2, 3.0)
        elif "lm_head" in name or "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    kind = LlavaImageProcessorPil if pad else CLIPImageProcessorPil
    options = {"do_pad": True} if pad else {}
    images = kind(
        size=size or {"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=crop, **options
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)  # so small a model is slower with more, on a busy machine by far
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def save_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Random images of several sizes, named so that their order is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        width, height = rng.integers(20, 90, 2)
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[[int], Path]:
    return lambda count: save_images(tmp_path / "images", count)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `undisturbed`."""
    folder = save_images(tmp_path_factory.mktemp("job") / "images", IMAGES)
    (folder / "0005.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def undisturbed(tiny_model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache made by one worker, in this process, that nobody disturbed."""
    cache = tmp_path_factory.mktemp("job") / "cache"
    out = printed(*run_of(tiny_model, images, cache, "--workers", "1"))
    assert "61 images read, 1 could not be" in out
    assert "0005.png: empty file" in out
    assert "vlq \"first_layer(token='dog')\"" in out
    return cache


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Ray for several runs: a run that finds it started leaves it so."""
    with Pool():
        yield


@pytest.fixture
def no_ray() -> Iterator[None]:
    """Runs have their worker in this process."""
    with without_ray():
        yield


@pytest.fixture
def vlq(capsys: pytest.CaptureFixture[str]) -> Vlq:
    """Runs a command here; its exit code, stdout and stderr."""
    from vlq.query.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        return (code if isinstance(code, int) else 0), *capsys.readouterr()

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server of images, of which a link that fails is tried again at once."""
    monkeypatch.setattr("vlq.workers.images.BACK_OFF", (0.0, 0.0, 0.0))
    found = Server()
    yield found
    found.stop()
