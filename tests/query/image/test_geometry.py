"""Patch boxes against what real image processors do to painted images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

from vlq.query.image.geometry import patch_box
from vlq.workers.models.llava import processor_transform

pytestmark = pytest.mark.here("the arithmetic of patches")

SIDE, GRID = 64, (4, 4)
CELL = SIDE // 4
CROP = {"height": SIDE, "width": SIDE}

PROCESSORS = {
    "resize and crop": CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=CROP),
    "resize beyond the crop": CLIPImageProcessorPil(size={"shortest_edge": 80}, crop_size=CROP),
    "resize below the crop, which pads": CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=CROP),
    "squash": CLIPImageProcessorPil(size=CROP, do_center_crop=False),
    "pad to a square": LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=CROP, do_pad=True),
}


def painted(size: tuple[int, int], box: tuple[float, ...]) -> np.ndarray:
    """(height, width): how much of each pixel a box covers."""
    x0, y0, x1, y1 = box
    covered = [
        np.clip(np.minimum(np.arange(length) + 1, end) - np.maximum(np.arange(length), start), 0, 1)
        for length, start, end in ((size[0], x0, x1), (size[1], y0, y1))
    ]
    return np.outer(covered[1], covered[0])


def seen(processor: Any, white: np.ndarray) -> np.ndarray:
    """(row, column) of the model's input: how much of the white arrives there, from 0 to 1."""

    def values(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.repeat(np.round(pixels * 255).astype(np.uint8)[..., None], 3, -1))
        found = processor(image, return_tensors="np")["pixel_values"][0, 0]
        return np.asarray(found) * processor.image_std[0]

    return values(white) - values(np.zeros_like(white))


@pytest.mark.parametrize("name", PROCESSORS)
@settings(deadline=None, max_examples=40)
@given(width=st.integers(40, 260), height=st.integers(40, 260), patch=st.integers(0, 15))
def test_a_patch_sees_its_box_and_nothing_else(name: str, width: int, height: int, patch: int) -> None:
    processor, size = PROCESSORS[name], (width, height)
    box = patch_box(processor_transform(processor, width, height), size, GRID, patch)
    assert 0 <= box[0] <= box[2] <= width
    assert 0 <= box[1] <= box[3] <= height

    inside = np.zeros((SIDE, SIDE), bool)
    row, column = divmod(patch, 4)
    inside[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = True
    # An edge is as sharp as the coarser of both pixels.
    blur = int(np.ceil(max(1, SIDE / min(width, height)))) + 1
    away = [np.roll(inside, (dy, dx), (0, 1)) for dy in (-blur, blur) for dx in (-blur, blur)]
    deep, far = np.logical_and.reduce(away) & inside, ~np.logical_or.reduce([*away, inside])

    white = painted(size, box)
    assert seen(processor, white)[far].max(initial=0) < 0.2
    # What is white but for the box is dark in the patch, also where the patch sees padding.
    assert seen(processor, 1 - white)[deep].max(initial=0) < 0.2


def test_what_a_pad_adds_is_in_no_box() -> None:
    processor = PROCESSORS["pad to a square"]
    transform = processor_transform(processor, 200, 50)
    boxes = [patch_box(transform, (200, 50), GRID, patch) for patch in range(16)]
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    assert areas[:4] == areas[12:] == [0, 0, 0, 0]
    assert sum(areas) == pytest.approx(200 * 50)


def test_a_crop_shows_the_middle() -> None:
    transform = processor_transform(PROCESSORS["resize and crop"], 200, 100)
    assert patch_box(transform, (200, 100), GRID, 0) == pytest.approx((50, 0, 75, 25))
    assert patch_box(transform, (200, 100), GRID, 15) == pytest.approx((125, 75, 150, 100))
