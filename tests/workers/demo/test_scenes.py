"""Scenes say the truth about their pictures, and are the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlq.workers.demo import scenes as module
from vlq.workers.demo.manifest import write_scenes
from vlq.workers.demo.scenes import DEMO, EVALUATION, TRAINING, Split, compose
from vlq.workers.demo.words import BACKGROUNDS, CLASSES

SPLITS = pytest.mark.parametrize("split", [TRAINING, EVALUATION, DEMO], ids=["training", "evaluation", "demo"])


def opacity(split: Split, number: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """(row, column) from 0 to 1: how much of the background is hidden, found by changing it from black to white."""
    shown = []
    for grey in (0, 255):
        with monkeypatch.context() as patched:
            patched.setattr(
                module, "paint", lambda kind, side, rng, grey=grey: np.full((side, side, 3), grey, np.float32)
            )
            shown.append(compose(split, number).pixels.astype(float))
    hidden: np.ndarray = 1 - (shown[1] - shown[0]).mean(2) / 255
    return hidden


@SPLITS
def test_objects_are_in_their_boxes(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = 0
    for number in range(60):
        scene = compose(split, number)
        painted = opacity(split, number, monkeypatch) > 0.05
        inside = np.zeros((112, 112), bool)
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            assert 0 <= x0 < x1 <= 112
            assert 0 <= y0 < y1 <= 112
            inside[y0:y1, x0:x1] = True
        assert not (painted & ~inside).any()
        if len(scene.objects) == 1:  # nothing hides it: the box is the tightest there is
            alone += 1
            rows, columns = np.nonzero(painted)
            assert scene.objects[0].box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert alone > 5


@SPLITS
def test_coverage_is_what_is_seen(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        scene = compose(split, number)
        hidden = opacity(split, number, monkeypatch)
        seen = [[hidden[y : y + 14, x : x + 14].mean() for x in range(0, 112, 14)] for y in range(0, 112, 14)]
        assert scene.coverage.sum(0) == pytest.approx(np.array(seen), abs=0.01)
        assert ((scene.coverage >= 0.4).sum((1, 2)) >= 2).all()


@SPLITS
def test_what_is_said_of_a_scene(split: Split) -> None:
    labels, backgrounds, counts = set(), set(), set()
    for number in range(300):
        scene = compose(split, number)
        areas = {}
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            areas[placed.label] = max((x1 - x0) * (y1 - y0), areas.get(placed.label, 0))
            assert max(x1 - x0, y1 - y0) <= 64
            labels.add(placed.label)
        ranked = sorted(areas, key=lambda label: -areas[label])
        assert scene.main == ranked[0]
        assert all(areas[ranked[0]] >= 1.3 * areas[other] for other in ranked[1:])
        said = scene.caption.replace(" and ", ", ").split(", ")
        assert [part.split()[1] for part in said] == sorted(areas)
        assert all((part.split()[0] == "an") == (part.split()[1][0] in "aeiou") for part in said)
        backgrounds.add(scene.background)
        counts.add(len(scene.objects))
    assert labels == set(CLASSES)
    assert backgrounds == set(BACKGROUNDS)
    assert counts == {1, 2, 3, 4}


@SPLITS
def test_the_same_number_is_the_same_scene(split: Split) -> None:
    for number in (0, 7):
        one, other = compose(split, number), compose(split, number)
        assert (one.pixels == other.pixels).all()
        assert one.objects == other.objects
    assert (compose(split, 0).pixels != compose(split, 7).pixels).any()


def test_nothing_measured_was_trained_on() -> None:
    for split in (EVALUATION, DEMO):
        assert not set(split.angles) & set(TRAINING.angles)
        assert not set(split.sizes) & set(TRAINING.sizes)
    assert len({TRAINING.seed, EVALUATION.seed, DEMO.seed}) == 3


def test_files(tmp_path: Path) -> None:
    scenes = [compose(DEMO, number) for number in range(5)]
    path = write_scenes(tmp_path / "scenes", scenes)
    rows = pq.read_table(path).to_pylist()
    assert list(rows[0]) == ["image", "label", "main", "caption", "objects"]
    for row, scene in zip(rows, scenes, strict=True):
        with Image.open(path.parent / row["image"]) as image:
            assert (np.asarray(image) == scene.pixels).all()
        assert row["label"] == scene.background
        assert [(one["label"], tuple(one["box"]), one["mask_rle"]) for one in row["objects"]] == [
            (placed.label, placed.box, None) for placed in scene.objects
        ]
