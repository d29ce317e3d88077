"""Translators, and the tuned lens that they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from vlq.query.errors import ModelError
from vlq.workers.lenses import plain, tuned
from vlq.workers.lenses.tuned import Translator
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from . import exact


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> LensModel:
    return load(str(tiny_model), dtype=request.param)


def states(model: LensModel, count: int = 30) -> torch.Tensor:
    return torch.randn(count, model.width, generator=torch.Generator().manual_seed(0)).to(model.dtype) * 3


def random_translator(model: LensModel, seed: int) -> Translator:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(model.width, model.width, generator=generator) * 0.2
    return Translator(weight.to(model.dtype), torch.randn(model.width, generator=generator))


@torch.inference_mode()
def test_zeros_change_nothing(model: LensModel) -> None:
    nothing = Translator(torch.zeros(model.width, model.width, dtype=model.dtype), torch.zeros(model.width))
    lens, logit = tuned.unembed(model, dict.fromkeys(range(3), nothing)), plain.logit(model)
    for layer in range(model.layers):
        assert torch.equal(lens(layer, states(model)), logit(layer, states(model)))


@torch.inference_mode()
def test_each_layer_has_its_own_and_the_last_none(model: LensModel) -> None:
    made = {layer: random_translator(model, layer) for layer in (0, 2)}
    lens = tuned.unembed(model, made)
    hidden = states(model)
    exactly = hidden.double().numpy()
    for layer in range(model.layers):
        moved = exactly
        if layer in made:
            translator = made[layer]
            moved = exactly @ translator.weight.double().numpy().T + exactly + translator.bias.double().numpy()
        found = torch.log_softmax(lens(layer, hidden).double(), -1).numpy()
        expected = exact.logit(model, moved)
        atol = 1e-4 if model.dtype == torch.float32 else 0.02 * np.ptp(expected)
        np.testing.assert_allclose(found, expected, atol=atol)


def test_bytes(model: LensModel) -> None:
    made = random_translator(model, 7)
    again = Translator.from_bytes(made.to_bytes(), model)
    assert torch.equal(again.weight, made.weight)
    assert torch.equal(again.bias, made.bias)
    assert again.weight.dtype == model.dtype
    assert again.to_bytes() == made.to_bytes()


def test_a_file_of_another_model(model: LensModel) -> None:
    for shape in ((model.width, 3), (3, 3)):
        with pytest.raises(ModelError, match="the model's states have 32 numbers"):
            Translator.from_bytes(save({"weight": torch.zeros(shape), "bias": torch.zeros(shape[1])}), model)
