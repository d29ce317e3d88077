"""Norms as kernels: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton is not on this platform")

from vlq.workers import norms
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from .conftest import make_model
from .models import checks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LensModel:
    model = load(str(make_model(tmp_path / "model")), device=DEVICE, dtype="float32")
    monkeypatch.setattr(norms, "triton_works", lambda device: True)
    return model


def quick(model: LensModel) -> list[nn.Module]:
    return [module for block in model.blocks for module in block.modules() if "forward" in module.__dict__]


def test_a_decoder_reads_the_same_with_quick_norms(model: LensModel) -> None:
    for module in quick(model):  # on a GPU they are so already
        del module.forward
    images = [checks.noise(64, 64, seed=seed) for seed in range(2)]
    expected = checks.read(model, images)
    norms.quicken(model)
    assert len(quick(model)) == 2 * len(model.blocks)
    for image, other in zip(checks.read(model, images), expected, strict=True):
        for (_, logprob), (_, before) in zip(image, other, strict=True):
            torch.testing.assert_close(logprob, before, atol=checks.NATS, rtol=0)


def test_gradients_and_other_dtypes_go_through_the_module(model: LensModel) -> None:
    norms.quicken(model)
    norm = quick(model)[0]
    states = torch.randn(2, 3, model.width, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def gradient(call: nn.Module | None) -> Tensor | None:
        own = states.clone().requires_grad_()
        given = norm(own) if call is None else type(norm).forward(norm, own)
        given.square().sum().backward()
        return own.grad

    torch.testing.assert_close(gradient(None), gradient(norm))
    with torch.no_grad():
        half = states.to(torch.bfloat16)
        assert torch.equal(norm(half), type(norm).forward(norm, half))


class Shifted(nn.Module):
    """A norm that no kernel is for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-5

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states * (states.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() + 0.1


def test_other_norms_stay(model: LensModel) -> None:
    for block in model.blocks:
        block.input_layernorm = Shifted(model.width).to(DEVICE)
        block.post_attention_layernorm = nn.LayerNorm(model.width).to(DEVICE)
    norms.quicken(model)
    assert quick(model) == []
