"""Models without an adapter of their own: which are read, and which are refused and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AyaVisionForConditionalGeneration, VipLlavaForConditionalGeneration

from vlq.query.errors import ModelError
from vlq.workers.models import FAMILIES, load
from vlq.workers.models.base import LensModel
from vlq.workers.models.generic import Generic

from . import checks
from .tiny import make_aya_vision, make_gemma3, make_vipllava
from .zoo import deepseek_vl, pp_chart2table

SIZES = [(64, 64), (90, 40), (37, 80), (200, 150)]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "vipllava": make_vipllava,
    "gemma3": make_gemma3,
    "aya_vision": lambda folder: make_aya_vision(folder, most=1),  # one tile, so one grid
    "deepseek_vl": deepseek_vl,
}


@pytest.fixture(scope="module", autouse=True)
def without_adapter() -> Iterator[None]:
    """Aya Vision has an adapter of its own; without, it has what is tried here: a factor of the logits, and tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(FAMILIES, "aya_vision")
        yield


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, without_adapter: None) -> LensModel:
    torch.set_num_threads(1)
    assert request.param not in FAMILIES
    return checks.loaded(MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param))


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    assert isinstance(model, Generic)
    assert type(model.model).__name__.endswith("ForConditionalGeneration")
    checks.norms_are_not_ones(model)
    checks.reads_what_the_model_reads(model, [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)])


@pytest.mark.parametrize("size", [(64, 64), (180, 70), (70, 180), (24, 30)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    assert model.grid == (4, 4)
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_a_class_by_another_name(tmp_path: Path) -> None:
    """GOT-OCR 2 as PP-Chart2Table. Its tower's convolutions mix neighbours: where patches are is left to the checks."""
    model = checks.loaded(pp_chart2table(tmp_path / "model"))
    assert isinstance(model, Generic)
    assert model.grid == (4, 4)
    checks.norms_are_not_ones(model)
    checks.reads_what_the_model_reads(model, [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)])
    # Its processor has no name for what stands for an image in the prompt; a cache's prompt is read again all the same.
    again = checks.asked(model, model.prompt)
    assert again.prompt == model.prompt
    assert again.prompt_ids == model.prompt_ids


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError, match="There is no adapter for models of type") as caught:
        load(str(folder))
    assert "VLQ has adapters for these model types: " in str(caught.value.hint)
    assert " idefics3, inkling_mm_model, internvl, " in str(caught.value.hint)
    return caught.value


def test_tiles_are_refused(tmp_path: Path) -> None:
    error = refused(make_aya_vision(tmp_path / "model"))
    # 64 x 64 is cut into four tiles and 96 x 48 into eight; and a view of the whole.
    assert "one square number of image positions in every image. Got [80, 144, " in error.message


def test_a_processor_that_does_otherwise_than_its_settings_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPImageProcessorPil

    whole = CLIPImageProcessorPil.center_crop

    def from_the_corner(self: Any, image: Any, size: Any, **options: Any) -> Any:
        return image[:, : size.height, : size.width] if image.shape[1] >= size.height else whole(self, image, size)

    folder = make_vipllava(tmp_path / "model")
    load(str(folder))
    monkeypatch.setattr(CLIPImageProcessorPil, "center_crop", from_the_corner)
    assert "96 x 48 is not resized and cropped as the processor's settings say" in refused(folder).message


@pytest.mark.parametrize("order", ["by columns", "mirrored", "mixed"])
def test_positions_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

    whole = VipLlavaMultiModalProjector.forward

    def shuffled(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        found = whole(self, hidden)  # (image, patch, d)
        if order == "by columns":
            return found.view(-1, 4, 4, found.shape[-1]).transpose(1, 2).flatten(1, 2)
        if order == "mirrored":
            return found.view(-1, 4, 4, found.shape[-1]).flip(2).flatten(1, 2)
        # As a resampler's: each position is of the whole image.
        weights = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        return weights @ found

    folder = make_vipllava(tmp_path / "model")
    monkeypatch.setattr(VipLlavaMultiModalProjector, "forward", shuffled)
    assert "its image positions are not a grid of 4 x 4, row by row" in refused(folder).message


@pytest.mark.parametrize("applied", [False, True])
def test_a_factor_of_the_logits_is_applied_if_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    """Aya's configuration has one (0.5), and its class leaves it out; another version may not."""
    folder = make_aya_vision(tmp_path / "model", most=1)
    if applied:
        monkeypatch.setattr(AyaVisionForConditionalGeneration, "forward", times(0.5, AyaVisionForConditionalGeneration))
    model = load(str(folder))
    checks.reads_what_the_model_reads(model, [checks.noise(50, 40)])
    hidden = torch.randn(3, 32)
    with torch.inference_mode():
        head = model.lm_head(model.final_norm(hidden))
        torch.testing.assert_close(model.unembed(hidden), head * (0.5 if applied else 1))


def test_logits_that_are_made_otherwise_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_vipllava(tmp_path / "model")
    monkeypatch.setattr(VipLlavaForConditionalGeneration, "forward", times(2, VipLlavaForConditionalGeneration))
    assert "the lens at the last layer differs from the model's logits" in refused(folder).message


def times(factor: float, kind: Any) -> Callable[..., Any]:
    """A class's `forward`, with its logits times a factor."""
    whole = kind.forward

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        found = whole(self, *args, **options)
        found.logits = found.logits * factor
        return found

    return forward


def test_an_encoder_and_a_decoder_are_refused(tmp_path: Path) -> None:
    folder = make_vipllava(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    assert "not a causal decoder" in refused(folder).message
