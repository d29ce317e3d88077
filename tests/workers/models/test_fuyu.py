"""Fuyu: what its processor makes of an image and a text, and rows that end with a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from vlq.query.errors import ModelError
from vlq.query.image.geometry import patch_box
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from . import checks, zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return zoo.fuyu(tmp_path_factory.mktemp("models") / "fuyu")


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return checks.loaded(folder)


def unfolded(image: Any, patch_size: Any) -> torch.Tensor:
    """Patches (1, patch, row and column and channel), as transformers cuts them if there is torchvision."""
    side = patch_size.height
    columns = torch.nn.functional.unfold(torch.as_tensor(image), side, stride=side)  # (1, channel and pixel, patch)
    return columns.reshape(1, 3, side, side, -1).permute(0, 4, 2, 3, 1).flatten(2)


SIZES = [(64, 64), (96, 64), (97, 30), (30, 65), (500, 300), (8, 8), (20, 13), (5, 90)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_processor_makes_what_transformers_own_does(
    folder: Path, model: LensModel, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = transformers.FuyuProcessor.from_pretrained(folder, backend="pil")
    own.image_processor.patchify_image = unfolded  # which fails with Pillow
    # Fuyu's tokenizer begins every text with a piece, which is taken away in front of an image.
    call = type(own.tokenizer).__call__

    def begun(self: Any, text: str, **options: Any) -> Any:
        return call(self, f"<unk>{text}" if text.startswith("|SPEAKER|") else text, **options)

    monkeypatch.setattr(type(own.tokenizer), "__call__", begun)
    image = checks.noise(*size)
    expected = own(images=image, text="What is the dog\n", return_legacy_image_output=False, return_tensors="pt")
    found = model.encode(image, "What is the dog")
    assert torch.equal(found.tokens["input_ids"], expected["input_ids"][0])
    assert torch.equal(found.values["pixel_values"], expected["pixel_values"].reshape(-1, 192))


def test_an_image_is_where_the_prompt_has_it(model: LensModel) -> None:
    found = model.encode(checks.noise(20, 12), "What is <image> this")
    tokens = model.tokenizer.convert_ids_to_tokens(found.tokens["input_ids"].tolist())
    row = ["|SPEAKER|"] * 3 + ["|NEWLINE|"]
    assert tokens == ["▁What", "▁is", "▁", *row, *row, "<s>", "▁", "▁this"]
    assert found.sites["patch"].tolist() == [3, 4, 5, 7, 8, 9]
    assert found.sites["prompt"].tolist() == [0, 1, 2, 11, 12, 13]


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (200, 50), (60, 150), (41, 27), (300, 301)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size), 1)


def test_the_last_patches_end_with_the_image(model: LensModel) -> None:
    encoded = model.encode(checks.noise(41, 27))
    assert encoded.grid == (4, 6)
    assert patch_box(encoded.transform, (41, 27), (4, 6), 0) == (0, 0, 8, 8)
    assert patch_box(encoded.transform, (41, 27), (4, 6), 23) == (40, 24, 41, 27)
    half = model.encode(checks.noise(192, 128))  # scaled by a half
    assert half.grid == (8, 12)
    assert patch_box(half.transform, (192, 128), (8, 12), 13) == (16, 16, 32, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": {"height": 16, "width": 16}},
        {"size": {"height": 60, "width": 96}},
        {"do_pad": False},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = zoo.fuyu(tmp_path / "model")
    path = folder / "processor_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"image_processor": saved["image_processor"] | settings}))
    with pytest.raises(ModelError, match="the processor fits images into"):
        load(str(folder))
