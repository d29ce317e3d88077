"""Whether a batch of the largest images fits is tried before a run begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.largest import largest_size, trouble_with_largest

from .test_answers import MAKERS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    return load(str(MAKERS["llava_next"](tmp_path_factory.mktemp("models") / "next")))


@pytest.mark.parametrize("family", ["internvl", "idefics3", "llava_next", "llava_onevision", "qwen2_vl"])
def test_the_largest_image_has_about_the_most_patches(tmp_path: Path, family: str) -> None:
    torch.set_num_threads(1)
    model = load(str(MAKERS[family](tmp_path / family)))
    size = largest_size(model)
    patches = math.prod(model.layout(*size).grid)
    others = [(200, 200), (640, 480), (480, 640), (1500, 1000), (300, 900)]
    assert all(math.prod(model.layout(*other).grid) <= patches for other in others)
    assert 0.6 * model.most_patches < patches <= model.most_patches  # the most is a bound, which shapes need not reach
    assert size[0] * size[1] < 200 * 200  # not an image that is scaled down to that


@pytest.mark.parametrize("answer", [False, True])
def test_what_is_said_where_it_does_not_fit(model: LensModel, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    assert trouble_with_largest(model, 2, answer) is None
    batches = []

    def out_of_memory(images: list[Any], *rest: Any) -> None:
        batches.append([image.grid for image in images])
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "answer" if answer else "forward", out_of_memory)
    told = trouble_with_largest(model, 3, answer)
    assert batches == [[(8, 8)] * 3]  # four tiles of 4 x 4
    assert told is not None
    assert told.startswith("A batch of 3 images of 64 patches, about the most that the processor makes of one, ")
    assert "--batch-size" in told


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_own_word(tmp_path: Path) -> None:
    model = load(str(MAKERS["llava_next"](tmp_path / "next")), device="cuda", check_images=2)
    assert trouble_with_largest(model, 2) is None
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        assert "does not fit into the GPU's memory" in (trouble_with_largest(model, 64) or "")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trouble_with_largest(model, 2) is None


def test_where_all_images_are_alike_they_were_tried(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(tiny_model))
    monkeypatch.delattr(LensModel, "forward")
    assert trouble_with_largest(model, 8) is None
