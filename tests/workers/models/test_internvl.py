"""InternVL: tiles that are put together into one grid, the thumbnail, and cells of several patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vlq.query.errors import ModelError
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from . import checks
from .tiny import make_internvl

SIZES = [(64, 64), (90, 40), (37, 80), (200, 150), (20, 24), (300, 61)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_internvl(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return checks.loaded(folder)


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    assert len({model.encode(image).length for image in images}) >= 3  # some are padded
    checks.reads_what_the_model_reads(model, images)


@pytest.mark.parametrize("size", [(64, 64), (30, 30), (200, 70), (70, 200), (61, 33), (290, 300), (31, 90)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_tiles_and_the_thumbnail(model: LensModel) -> None:
    """Two tiles beside each other, then the thumbnail: the second tile's first row follows the first tile's."""
    encoded = model.encode(checks.noise(64, 32))
    assert encoded.grid == (4, 8)
    image = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()
    assert len(image) == 3 * 16
    assert encoded.sites["patch"].tolist()[:8] == [*image[:4], *image[16:20]]
    assert {*encoded.sites["patch"].tolist()} == {*image[:32]}
    assert model.encode(checks.noise(20, 20)).grid == (4, 4)  # one tile has no thumbnail
    assert model.encode(checks.noise(20, 20)).length == encoded.length - 32


def test_the_grid_of_every_size(model: LensModel) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(3), np.log(400), 2)))
        rows, columns = model.encode(checks.noise(width, height)).grid
        assert rows * columns <= model.most_patches == 6 * 16


def test_the_prompt(folder: Path, model: LensModel) -> None:
    assert model.prompt == "<IMG_CONTEXT>\nWhat is in this image? ASSISTANT:"
    tokens = model.tokenizer.convert_ids_to_tokens(model.prompt_ids)
    assert tokens.count("<img>") == tokens.count("</img>") == 1
    assert load(str(folder), prompt="<image> the dog").prompt == "<IMG_CONTEXT> the dog"


def test_one_tile_at_most(tmp_path: Path) -> None:
    model = load(str(make_internvl(tmp_path / "model", most=1)))
    assert model.most_patches == 16
    assert model.encode(checks.noise(90, 40)).grid == (4, 4)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "processor_config.json",
            {"image_seq_length": 9},
            "45 image positions in the prompt, but 80",
        ),
        ("preprocessor_config.json", {"size": {"height": 36, "width": 36}}, "square tiles of a multiple of 8 pixels"),
        ("preprocessor_config.json", {"size": {"height": 40, "width": 40}}, "image positions in the prompt, but"),
    ],
)
def test_processors_that_do_not_fit(tmp_path: Path, file: str, change: dict[str, object], message: str) -> None:
    path = make_internvl(tmp_path / "model") / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load(str(path.parent))
