"""LLaVA-NeXT and those like it: tiles, padding, newlines, and grids resampled to fewer patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlq.query.errors import ModelError
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from . import checks
from .test_zoo import with_deepstack
from .tiny import make_llava_next, make_llava_onevision
from .zoo import granite4_vision

SIZES = [(64, 64), (90, 40), (37, 80), (200, 150), (20, 24), (300, 61)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {
        "next": make_llava_next(folder / "next"),
        "onevision": make_llava_onevision(folder / "onevision"),
        "granite": granite4_vision(folder / "granite"),
    }


@pytest.fixture(scope="module", params=["next", "onevision", "granite"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> LensModel:
    return checks.loaded(folders[request.param])


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    assert len({model.encode(image).length for image in images}) >= 3  # some are padded
    checks.reads_what_the_model_reads(model, images, amend_of(model))


def amend_of(model: LensModel) -> checks.Amend | None:
    return with_deepstack if "deepstack" in str(model.model.config) else None


@pytest.mark.parametrize(
    "size",
    [(64, 64), (128, 128), (200, 70), (70, 200), (61, 33), (300, 290), (290, 300), (31, 90), (24, 20), (130, 117)],
    ids=str,
)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_the_grid_of_every_size(model: LensModel) -> None:
    """What the processor counts fits the layout, or `encode` raises; and the boxes stay inside."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(3), np.log(400), 2)))
        encoded = model.encode(checks.noise(width, height))
        rows, columns = encoded.grid
        assert 1 <= rows * columns <= model.most_patches
        assert len(encoded.sites["patch"]) == rows * columns


@pytest.mark.parametrize("family", ["next", "granite"])
def test_newlines_and_the_small_view_are_no_patches(folders: dict[str, Path], family: str) -> None:
    model = load(str(folders[family]))
    encoded = model.encode(checks.noise(60, 60))  # 2 x 2 tiles
    assert encoded.grid == (8, 8)
    image = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0]
    assert len(image) == 16 + 8 * 9
    rest = sorted({*image.tolist()} - {*encoded.sites["patch"].tolist()})
    seen: list[torch.Tensor] = []
    model.forward([encoded], lambda layer, hidden: seen.append(hidden[0].clone()) if layer == 0 else None)
    newline = model.model.model.image_newline
    ends = [place for place in range(encoded.length) if torch.equal(seen[0][place], newline)]
    assert len(ends) == 8
    assert rest == [*image[:16].tolist(), *ends]
    assert {*ends}.isdisjoint(encoded.sites["prompt"].tolist())


def test_padding_is_left_out(folders: dict[str, Path]) -> None:
    """Of the four rows of 64 x 32 pixels; at both sides as many, and the image's own are rounded down."""
    model = load(str(folders["next"]))
    assert model.encode(checks.noise(64, 24)).grid == (4, 8)  # three rows
    assert model.encode(checks.noise(64, 20)).grid == (2, 8)  # two and a half
    assert model.encode(checks.noise(64, 16)).grid == (2, 8)
    assert model.encode(checks.noise(16, 64)).grid == (8, 2)


def test_the_small_view_is_the_grid_where_nothing_is_left_of_the_tiles(model: LensModel) -> None:
    for size in ((300, 4), (4, 300), (1, 900)):
        image = checks.noise(*size)
        encoded = model.encode(image)
        assert encoded.grid == (4, 4)
        checks.reads_what_the_model_reads(model, [image], amend_of(model))
    wide = model.encode(checks.noise(300, 4)).transform
    assert wide.offset_x == wide.offset_y == 0


def test_large_grids_are_resampled(folders: dict[str, Path]) -> None:
    """Two by four tiles have twice the patches of four tiles: each side is divided by the root of two, rounded down."""
    model = load(str(folders["onevision"]))
    assert model.encode(checks.noise(144, 72)).grid == (5, 11)
    assert model.encode(checks.noise(72, 72)).grid == (8, 8)
    assert model.most_patches == 77  # 1.21 times what four tiles have


@pytest.mark.parametrize(
    ("family", "file", "change", "message"),
    [
        ("next", "processor_config.json", {"patch_size": 16}, "image positions in the prompt, but"),
        ("next", "image_processor", {"image_grid_pinpoints": [[32, 64]]}, r"expected image_grid_pinpoints"),
        ("next", "image_processor", {"size": {"shortest_edge": 48}}, r"expected tiles of 32 x 32 pixels"),
        ("granite", "processor_config.json", {"downsample_rate": "1/4"}, "image positions in the prompt, but"),
        ("onevision", "processor_config.json", {"num_image_tokens": 25}, "image positions in the prompt, but"),
        ("onevision", "processor_config.json", {"vision_aspect_ratio": "anyres_max_9"}, "expected vision_aspect_ratio"),
        ("onevision", "preprocessor_config.json", {"size": {"height": 40, "width": 40}}, "expected tiles of 36 x 36"),
    ],
)
def test_processors_that_do_not_fit(
    tmp_path: Path, family: str, file: str, change: dict[str, Any], message: str
) -> None:
    makers = {"next": make_llava_next, "onevision": make_llava_onevision, "granite": granite4_vision}
    folder = makers[family](tmp_path / "model")
    path = folder / ("processor_config.json" if file == "image_processor" else file)
    settings = json.loads(path.read_text())
    (settings["image_processor"] if file == "image_processor" else settings).update(change)
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=message):
        load(str(folder))


def test_grids_that_are_not_of_whole_tiles(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"image_grid_pinpoints in whole tiles of 32 pixels\. Got \[\[48, 64\]\]"):
        load(str(make_llava_next(tmp_path / "model", points=[[48, 64]])))


def test_an_aspect_ratio_that_the_class_does_not_know(tmp_path: Path) -> None:
    folder = make_llava_onevision(tmp_path / "model")
    for file in ("config.json", "processor_config.json"):
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | {"vision_aspect_ratio": "pad"}))
    with pytest.raises(ModelError, match=r"a vision_aspect_ratio such as anyres_max_9\. Got pad"):
        load(str(folder))


def test_patches_that_are_not_of_whole_pixels(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="3/8 of the tower's patches of 4 pixels are no patches of whole pixels"):
        load(str(granite4_vision(tmp_path / "model", "3/8")))
