"""Idefics3 and SmolVLM: tiles put together into one grid, tokens between tiles, patches merged by pixel shuffle."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlq.query.errors import ModelError
from vlq.query.image.pictures import MAX_ASPECT
from vlq.workers.models.base import LensModel

from ..conftest import PADDED
from . import checks
from .parts import TEXT, set_weights, tokenizer_with

TILE, PATCH, MERGED = 24, 4, 2
"""Pixels of a tile and of a tower's patch; how many of these are one of the decoder's, on each axis."""

SIDE = TILE // PATCH // MERGED

NAMES = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}

TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}:{% for c in m.content %}{% if c.type == 'image' %}"
    "<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# Rows and columns of tiles by the size of an image.
TILES = {(72, 72): (3, 3), (200, 90): (2, 3), (30, 40): (3, 3), (35, 140): (3, 1), (400, 30): (1, 3), (20, 30): (3, 2)}


def make_model(folder: Path, kind: str, longest: int = 3 * TILE, **settings: Any) -> Path:
    """A model of a model_type, in files as on the hub; `settings` are the image processor's."""
    import transformers

    specials = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>"]
    specials += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tokenizer_with(*specials)
    vision = {"image_size": TILE, "patch_size": PATCH, "hidden_size": 32, "intermediate_size": 64}
    config = getattr(transformers, f"{NAMES[kind]}Config")(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer) + PADDED, "pad_token_id": 0},
        vision_config=vision | {"num_hidden_layers": 2, "num_attention_heads": 2},
        scale_factor=MERGED,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{NAMES[kind]}ForConditionalGeneration")(config)
    set_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = getattr(transformers, f"{NAMES[kind]}ImageProcessorPil")(
        size={"longest_edge": longest}, max_image_size={"longest_edge": TILE}
    )
    names = {"image_processor_type": f"{NAMES[kind]}ImageProcessor", "processor_class": f"{NAMES[kind]}Processor"}
    write(folder / "preprocessor_config.json", images.to_dict() | names | settings)
    write(folder / "processor_config.json", {"image_seq_len": SIDE**2, "processor_class": f"{NAMES[kind]}Processor"})
    if kind == "smolvlm":
        videos = images.to_dict() | {"video_processor_type": "SmolVLMVideoProcessor", "fps": 1, "num_frames": 64}
        write(folder / "video_preprocessor_config.json", videos)
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    return folder


def write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values))


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    return checks.loaded(make_model(tmp_path_factory.mktemp("model") / request.param, request.param))


def test_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=seed) for seed, size in enumerate(TILES)]
    assert len({model.encode(image).length for image in images}) > 2  # so that most are padded
    checks.reads_what_the_model_reads(model, images)


@pytest.mark.parametrize("size", TILES)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size))


@pytest.mark.parametrize("size", TILES)
def test_tiles_make_one_grid(model: LensModel, size: tuple[int, int]) -> None:
    rows, columns = TILES[size]
    encoded = model.encode(checks.noise(*size))
    assert encoded.grid == (rows * SIDE, columns * SIDE)
    # The token in front of a tile tells its place; inside a tile patches go row by row.
    tokens = model.tokenizer.convert_ids_to_tokens(encoded.tokens["input_ids"].tolist())
    places = []
    for row in range(rows * SIDE):
        for column in range(columns * SIDE):
            start = tokens.index(f"<row_{row // SIDE + 1}_col_{column // SIDE + 1}>") + 1
            places.append(start + row % SIDE * SIDE + column % SIDE)
    assert encoded.sites["patch"].tolist() == places
    assert {tokens[place] for place in places} == {"<image>"}
    assert tokens.count("<image>") == (rows * columns + 1) * SIDE**2


def test_the_prompt_is_its_text(model: LensModel) -> None:
    text = model.tokenizer.decode(model.prompt_ids, skip_special_tokens=False)
    assert not any(part in text for part in ("<image>", "<row_", "global", "fake"))
    assert text.count("\n") == 1  # the template's
    assert text.index("im_start") < text.index("image") < text.index("ssistant:")
    for size in TILES:
        encoded = model.encode(checks.noise(*size))
        assert tuple(encoded.tokens["input_ids"][encoded.sites["prompt"]].tolist()) == model.prompt_ids


@pytest.mark.parametrize("kind", NAMES)
def test_an_image_of_one_tile(tmp_path: Path, kind: str) -> None:
    model = checks.loaded(make_model(tmp_path, kind, longest=TILE))
    images = [checks.noise(*size) for size in [(64, 64), (90, 40), (20, 50)]]
    assert model.grid is None
    assert {model.encode(image).grid for image in images} == {(SIDE, SIDE)}
    assert "<global-img>" in model.tokenizer.decode(model.encode(images[0]).tokens["input_ids"])
    checks.reads_what_the_model_reads(model, images)
    for image in images:
        checks.patches_are_where_they_say(model, image)


@pytest.mark.parametrize("kind", NAMES)
def test_a_processor_that_does_not_split(tmp_path: Path, kind: str) -> None:
    model = checks.loaded(make_model(tmp_path, kind, do_image_splitting=False))
    images = [checks.noise(*size) for size in [(64, 64), (90, 40), (20, 50)]]
    assert model.grid == (SIDE, SIDE)
    assert model.most_patches == SIDE**2
    checks.reads_what_the_model_reads(model, images)
    for image in images:
        checks.patches_are_where_they_say(model, image)


def test_smolvlms_own_processor_makes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import SmolVLMProcessor
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # a package that it wants; for videos alone
    monkeypatch.setattr(SmolVLMProcessor, "get_attributes", classmethod(lambda cls: ["image_processor", "tokenizer"]))
    model = checks.loaded(make_model(tmp_path, "smolvlm"))
    parts = (model.processor.image_processor, model.processor.tokenizer)
    own = SmolVLMProcessor(*parts, None, image_seq_len=SIDE**2)
    for size in TILES:
        expected = own(images=checks.noise(*size), text=model.prompt, return_tensors="pt")
        found = model.encode(checks.noise(*size))
        assert torch.equal(found.tokens["input_ids"], expected["input_ids"][0])
        assert found.values.keys() == expected.keys() - {"input_ids", "attention_mask"}
        for name, values in found.values.items():
            assert torch.equal(values, expected[name])


@pytest.mark.parametrize("longest", [TILE, 25, 41, 50, 71, 95, 3 * TILE])
def test_grids_are_the_processors(tmp_path: Path, longest: int) -> None:
    model = checks.loaded(make_model(tmp_path, "idefics3", longest=longest))
    rng = np.random.default_rng(longest)
    largest = 0
    for i in range(60):
        shorter = int(rng.integers(1, 40))
        longer = shorter if i == 0 else int(shorter * math.exp(rng.uniform(0, math.log(MAX_ASPECT))))
        width, height = (shorter, longer) if rng.random() < 0.5 else (longer, shorter)
        found = model.processor.image_processor(checks.noise(width, height), return_row_col_info=True)
        rows, columns = max(found["rows"][0][0], 1), max(found["cols"][0][0], 1)
        assert model.layout(width, height).grid == (rows * SIDE, columns * SIDE)
        assert found["pixel_values"].shape[-2:] == (TILE, TILE)
        largest = max(largest, rows * columns * SIDE**2)
    assert largest == model.most_patches  # that of a square


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("processor_config.json", {"image_seq_len": 4}, "image positions in the prompt, but"),
        ("preprocessor_config.json", {"max_image_size": {"longest_edge": 2 * TILE}}, "image positions in the prompt"),
        ("preprocessor_config.json", {"do_resize": False}, "does not resize images to a longest edge"),
        ("preprocessor_config.json", {"size": {"height": 64, "width": 64}}, "does not resize images to a longest edge"),
        ("preprocessor_config.json", {"size": {"longest_edge": 4000}}, "patches; VLQ reads 65,535 at most"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    folder = make_model(tmp_path, "smolvlm")
    write(folder / file, json.loads((folder / file).read_text()) | changes)
    with pytest.raises(ModelError, match=message) as caught:
        checks.loaded(folder)
    assert caught.value.hint
