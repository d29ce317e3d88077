"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a grid for each image, merged patches, features added between blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.query.image.pictures import MAX_ASPECT
from vlq.workers.models.base import LensModel

from ..conftest import PADDED
from . import checks
from .parts import TEXT, set_weights, tokenizer_with

PATCH, MERGED = 4, 2
"""A patch of the tower in pixels, and how many of them are one of the decoder's, on each axis."""

SIDE = PATCH * MERGED

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

# Scaled up, as they are, scaled down.
SIZES = [(30, 20), (14, 40), (48, 40), (64, 64), (300, 200), (120, 300)]

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>ASSISTANT:{% endif %}"
)


def make_model(folder: Path, kind: str, *, least: int = 12, most: int = 48) -> Path:
    """A Qwen of a model_type, in files as on the hub; an image has about `least` to `most` patches."""
    import transformers

    specials = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizer_with(*specials)
    ids = dict(zip(specials, tokenizer.convert_tokens_to_ids(specials), strict=True))
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = TEXT | {"vocab_size": len(tokenizer) + PADDED, "max_position_embeddings": 4096, "rope_parameters": rope}
    vision = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGED, "temporal_patch_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":
        # Windows of two by two of the decoder's patches, which the tower reads in an order of its own.
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "window_size": 16}
        vision |= {"fullatt_block_indexes": [1]}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 16}
        vision |= {"deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": 16}
        rope["mrope_interleaved"] = True
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    config = getattr(transformers, f"{names[kind]}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{names[kind]}ForConditionalGeneration")(config)
    set_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = transformers.Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGED, temporal_patch_size=2).to_dict()
    least, most = least * SIDE**2, most * SIDE**2
    if kind == "qwen3_vl":
        saved |= {"size": {"shortest_edge": least, "longest_edge": most}}
        saved |= {"image_processor_type": "Qwen2VLImageProcessorFast"}
    else:
        del saved["size"]
        saved |= {"min_pixels": least, "max_pixels": most, "image_processor_type": "Qwen2VLImageProcessor"}
    saved["processor_class"] = f"{names[kind]}Processor"
    (folder / "preprocessor_config.json").write_text(json.dumps(saved))
    videos = {name: value for name, value in saved.items() if name != "image_processor_type"}
    videos["video_processor_type"] = f"{'Qwen3VL' if kind == 'qwen3_vl' else 'Qwen2VL'}VideoProcessor"
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    return checks.loaded(make_model(tmp_path_factory.mktemp("model") / request.param, request.param))


def with_deepstack(model: LensModel, inputs: Mapping[str, Tensor], states: list[Tensor]) -> None:
    """The states behind the first blocks, and what the tower adds to them before the next one."""
    if model.family != "Qwen3VLForConditionalGeneration":
        return
    tower = model.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    patches = inputs["input_ids"] == model.model.config.image_token_id
    assert len(tower.deepstack_features) == 2
    for layer, (features,) in enumerate(tower.deepstack_features, 1):
        states[layer] = states[layer].clone()
        states[layer][patches] += features
        assert float(features.abs().max()) > 0.1


def test_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=seed) for seed, size in enumerate(SIZES)]
    assert len({model.encode(image).length for image in images}) > 3  # so that most are padded
    checks.reads_what_the_model_reads(model, images, with_deepstack)


@pytest.mark.parametrize("size", SIZES)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_an_images_grid_is_the_processors(model: LensModel) -> None:
    assert model.grid is None
    for size in SIZES:
        encoded = model.encode(checks.noise(*size))
        _, rows, columns = model.processor(images=checks.noise(*size), text=model.prompt)["image_grid_thw"][0]
        assert encoded.grid == (rows // 2, columns // 2)
        assert (encoded.transform.width, encoded.transform.height) == (columns * SIDE // 2, rows * SIDE // 2)


def test_the_prompt_is_its_text(model: LensModel) -> None:
    text = model.tokenizer.decode(model.prompt_ids, skip_special_tokens=False)
    assert "image_pad" not in text
    assert text.index("<|vision_start|>") < text.index("image") < text.index("ASSISTANT:")
    written = model.full_prompt(model.processor, "See <image> there")
    assert written == "See <|vision_start|><|image_pad|><|vision_end|> there"


@pytest.mark.parametrize(("least", "most"), [(1, 4), (12, 48), (40, 41), (100, 4000)])
def test_no_image_has_more_patches_than_the_most(tmp_path: Path, least: int, most: int) -> None:
    model = checks.loaded(make_model(tmp_path, "qwen2_vl", least=least, most=most))
    rng = np.random.default_rng(0)
    largest = 0
    for _ in range(3000):
        shorter = int(rng.integers(1, 500))
        longer = int(shorter * math.exp(rng.uniform(0, math.log(MAX_ASPECT))))
        size = (shorter, longer) if rng.random() < 0.5 else (longer, shorter)
        largest = max(largest, math.prod(model.layout(*size).grid))
    assert largest <= model.most_patches
    assert largest > model.most_patches / 2


def edited(folder: Path, **changes: object) -> Path:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_size": 1}, "merges 1 x 1 patches of 4 pixels, the model 2 x 2 of 4"),
        ({"patch_size": 8}, "patches of 8 pixels, the model 2 x 2 of 4"),
        ({"do_resize": False}, "does not resize"),
        ({"max_pixels": 2**23}, "131,072 patches; VLQ reads 65,535 at most"),
        ({"image_processor_type": "NoSuchProcessor"}, "processor of .* cannot be loaded"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = edited(make_model(tmp_path, "qwen2_5_vl"), **changes)
    with pytest.raises(ModelError, match=message) as caught:
        checks.loaded(folder)
    assert caught.value.hint


def test_a_folder_saved_by_a_newer_library(tmp_path: Path) -> None:
    # One file holds the settings of images, and of videos.
    old = make_model(tmp_path / "old", "qwen2_5_vl")
    expected = checks.loaded(old).encode(checks.noise(50, 40))
    images, videos = (
        json.loads((old / file).read_text()) for file in ("preprocessor_config.json", "video_preprocessor_config.json")
    )
    for file in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json"):
        (old / file).unlink()
    parts = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": images, "video_processor": videos}
    (old / "processor_config.json").write_text(json.dumps(parts))
    found = checks.loaded(old, prompt="<|vision_start|><image><|vision_end|>What is this?").encode(checks.noise(50, 40))
    assert found.grid == expected.grid
    assert torch.equal(found.values["pixel_values"], expected.values["pixel_values"])
