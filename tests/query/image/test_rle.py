"""Masks of true objects: read as pycocotools reads them, and held against patches pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

import vlq
from vlq.query.errors import InputError
from vlq.query.image.geometry import patch_box
from vlq.query.image.rle import decoded, run_lengths
from vlq.query.schema import Transform

from ...synthetic import make_cache, make_run
from ..corpora import SNAPSHOTS, snapshot

SIZE = 24, 18  # (height, width)
GRID = 3, 4

TRANSFORMS = {
    "the whole image": Transform(6.0, 4.0, 0.0, 0.0, 108, 96),
    "cropped, patches not on pixels": Transform(5.0, 5.0, -7.0, 3.0, 76, 100),
    "padded": Transform(2.0, 2.0, 30.0, 24.0, 96, 96),
}


def lengths(mask: np.ndarray) -> list[int]:
    """The run lengths of a mask (row, column), counted one pixel at a time."""
    counts, last = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != last:
            counts.append(0)
        counts[-1] += 1
        last = pixel
    return counts


def text(mask: np.ndarray) -> str:
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert isinstance(found, bytes)
    return found.decode()


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask of a few boxes and some single pixels."""
    mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5])
    for _ in range(rng.integers(3)):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, end + 1, 2)) for end in (height, width))
        mask[top:bottom, left:right] ^= True
    return mask


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 90), width=st.integers(1, 700))
def test_reads_what_pycocotools_writes(seed: int, height: int, width: int) -> None:
    mask = blobs(np.random.default_rng(seed), height, width)
    assert run_lengths(text(mask)) == lengths(mask)
    size = [height, width]
    for rle in (
        text(mask),
        text(mask).encode(),
        lengths(mask),
        {"size": size, "counts": text(mask)},
        {"size": None, "counts": lengths(mask)},
    ):
        assert (decoded(rle, height, width) == mask).all()


@settings(deadline=None)
@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=120), max_size=12) | st.text(max_size=4))
def test_no_text_breaks_it(text: str) -> None:
    try:
        mask = decoded(text, 3, 5)
    except ValueError:
        return
    assert lengths(mask) == run_lengths(text) or 0 in run_lengths(text)


# --- held against patches --------------------------------------------------------------------------------------


def shared(transform: Transform, patch: int, mask: np.ndarray) -> float:
    """The part of a mask that a patch shows, in pixels."""
    x0, y0, x1, y1 = patch_box(transform, SIZE[::-1], GRID, patch)
    total = 0.0
    for row, column in np.argwhere(mask).tolist():
        total += max(0, min(y1, row + 1) - max(y0, row)) * max(0, min(x1, column + 1) - max(x0, column))
    return total


def make(folder: Path, objects: list[list[dict[str, Any]]], transform: Transform) -> Any:
    height, width = SIZE
    run = make_run(grid=GRID, layers=2)
    columns = {"objects": pa.array(objects)}
    _, _, arrays = make_cache(
        folder, run, images=len(objects), columns=columns, transform=transform, pixels=(width, height)
    )
    return vlq.open(str(folder)), arrays["patch/token"]


@pytest.mark.parametrize("form", ["text", "list", "struct"])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_masks_count_where_they_are_given(tmp_path: Path, name: str, form: str) -> None:
    rng, transform = np.random.default_rng(len(name) + len(form)), TRANSFORMS[name]
    write = {
        "text": text,
        "list": lengths,
        "struct": lambda mask: {"size": [*SIZE], "counts": text(mask)},
    }[form]
    masks: list[list[np.ndarray | None]] = []
    objects: list[list[dict[str, Any]]] = []
    for _ in range(8):
        masks.append([blobs(rng, *SIZE) if rng.random() < 0.6 else None for _ in range(3)])
        boxes = [[float(end) for end in np.concatenate(np.sort(rng.uniform(0, 18, (2, 2)), 1).T)] for _ in range(3)]
        objects.append(
            [
                {"label": label, "box": box, "mask_rle": None if mask is None else write(mask)}
                for label, box, mask in zip(["cat", "Cat", "rock"], boxes, masks[-1], strict=True)
            ]
        )
    corpus, token = make(tmp_path, objects, transform)
    rows = corpus.locate("cat", rank=2, layer=1).rows
    assert {row["iou"] is None for row in rows} == {False}
    full = np.ones(SIZE, bool)
    for row in rows:
        image, patches = row["image_id"], row["patches"]
        assert patches == np.flatnonzero((token[image, 1, :, :2] == 2).any(-1)).tolist()
        rows_of, columns_of = zip(*(divmod(patch, GRID[1]) for patch in patches), strict=True)
        x = ((np.mean(columns_of) + 0.5) * transform.width / GRID[1] - transform.offset_x) / transform.scale_x
        y = ((np.mean(rows_of) + 0.5) * transform.height / GRID[0] - transform.offset_y) / transform.scale_y
        ious, inside = [], []
        for item, mask in list(zip(objects[image], masks[image], strict=True))[:2]:
            if mask is None:
                a, b = row["box"] or [0, 0, 0, 0], item["box"]
                common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
                ious.append(common / (sum(areas) - common))
                inside.append(b[0] <= x <= b[2] and b[1] <= y <= b[3])
            else:
                common = sum(shared(transform, patch, mask) for patch in patches)
                either = sum(shared(transform, patch, full) for patch in patches) + mask.sum() - common
                ious.append(common / either if either else 0)
                pixel = int(np.floor(y)), int(np.floor(x))
                inside.append(all(0 <= at < end for at, end in zip(pixel, SIZE, strict=True)) and bool(mask[pixel]))
        assert row["iou"] == pytest.approx(max(ious), abs=1e-9)
        assert row["pointing"] == any(inside)

    expected = set()
    for image in range(len(objects)):
        for item, mask in list(zip(objects[image], masks[image], strict=True))[:2]:
            for patch in range(GRID[0] * GRID[1]):
                x0, y0, x1, y1 = patch_box(transform, SIZE[::-1], GRID, patch)
                a, b, c, d = item["box"]
                common = max(0, min(x1, c) - max(x0, a)) * max(0, min(y1, d) - max(y0, b))
                if mask is not None:
                    common = shared(transform, patch, mask)
                if common > 0 and common >= (x1 - x0) * (y1 - y0) / 2:
                    expected.add((image, patch))
    question = "rank('dog', layers=0, missing='bound', patches='cat')"
    assert {(row["image_id"], row["patch"]) for row in corpus.query(question).rows} == expected
    assert len(corpus.query(f"{question} < {question.replace('dog', 'cat')}").statement.loaded) == 1


def test_masks_without_boxes(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[:8] = True  # the upper row of patches
    corpus, _ = make(tmp_path, [[{"label": "cat", "mask_rle": text(mask)}]] * 3, TRANSFORMS["the whole image"])
    rows = corpus.query("rank('dog', layers=0, missing='bound', patches='CAT')").rows
    assert [row["patch"] for row in rows if row["image_id"] == 0] == [0, 1, 2, 3]
    for row in corpus.locate("cat", layer=0).rows:
        upper = sum(patch < 4 for patch in row["patches"])
        assert row["iou"] == pytest.approx(upper / (4 + len(row["patches"]) - upper))


PIXELS = SIZE[0] * SIZE[1]


@pytest.mark.parametrize(
    ("rle", "why"),
    [
        ("", f"its counts add up to 0, the image has {PIXELS} pixels"),
        ("3 4", "' ' is no part of run lengths"),
        ("P", "it ends within a number"),
        ("A", "its counts are no whole numbers from 0"),  # -15
        (lengths(np.ones((3, 3), bool)), f"its counts add up to 9, the image has {PIXELS} pixels"),
        ([PIXELS + 1, -1], "its counts are no whole numbers from 0"),
        ([10**15], f"its counts add up to 1,000,000,000,000,000, the image has {PIXELS} pixels"),
        (
            {"size": [18, 24], "counts": text(np.ones((18, 24), bool))},
            r"its size is \[18, 24\], the image's \[24, 18\]",
        ),
        ({"size": [24, 18], "counts": None}, "its counts are no whole numbers from 0"),
    ],
)
def test_what_is_no_mask(tmp_path: Path, rle: Any, why: str) -> None:
    counts: Any = text(np.ones((24, 18), bool))
    if isinstance(rle, dict):
        counts = {"size": [24, 18], "counts": counts}
    elif isinstance(rle, list):
        counts = lengths(np.ones((24, 18), bool))
    objects = [[{"label": "rock", "mask_rle": counts}], [{"label": "cat", "mask_rle": rle}]]
    corpus, _ = make(tmp_path, objects, TRANSFORMS["the whole image"])
    assert corpus.query("first_layer('dog', patches='rock')").rows is not None
    for question in ("locate('cat', rank=4)", "first_layer('dog', patches='cat')"):
        with pytest.raises(
            InputError, match=f"The mask_rle of an object 'cat' in .*1.png cannot be read: {why}"
        ) as caught:
            _ = corpus.query(question).rows
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("Expected COCO's run lengths (counts)")


@pytest.mark.parametrize(
    ("name", "question"),
    [("locate_masks", "locate('cat', layer=1)"), ("patches_of_masks", "first_layer('dog', patches='cat')")],
)
def test_sql(tmp_path: Path, name: str, question: str) -> None:
    item = {"label": "cat", "box": [0.0, 0.0, 1.0, 1.0], "mask_rle": text(np.ones(SIZE, bool))}
    corpus, _ = make(tmp_path, [[item]], TRANSFORMS["the whole image"])
    assert snapshot(corpus.query(question), question) == (SNAPSHOTS / f"{name}.sql").read_text()
