"""The lenses that need nothing but the model, against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlq.query.errors import ModelError
from vlq.query.schema import LensSpec
from vlq.workers.lens import Lens
from vlq.workers.lenses import on, plain, unembed_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from ...synthetic import make_run
from ..models import checks
from ..models.tiny import make_paligemma
from ..runs import PROMPT
from . import exact

# PaliGemmaProcessor makes NumPy arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

EXPECTED: dict[str, Callable[[LensModel, np.ndarray], np.ndarray]] = {
    "logit": exact.logit,
    "head": exact.head,
    "nearest": exact.nearest,
}


@torch.inference_mode()
def logits_of(model: LensModel, kind: str, layer: int, states: np.ndarray) -> torch.Tensor:
    run = make_run(lens=on(model, LensSpec(kind)))
    return unembed_of(model, run)(layer, torch.from_numpy(states).to(model.dtype))


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_layer(model: LensModel, kind: str) -> None:
    states = exact.states_of(model, checks.noise(50, 40, seed=1))
    expected = EXPECTED[kind](model, states)
    for layer, values in enumerate(expected):
        found = torch.log_softmax(logits_of(model, kind, layer, states[layer]).double(), -1)
        np.testing.assert_allclose(found.numpy(), values, atol=1e-4)
    # They are different lenses, at the last layer, too.
    others = [EXPECTED[other](model, states[-1]) for other in EXPECTED if other != kind]
    assert all(np.abs(other - expected[-1]).max() > 0.1 for other in others)


def test_text_is_nearest_to_itself_where_it_enters(model: LensModel) -> None:
    states = exact.states_of(model, checks.noise(50, 40, seed=1))[0, 16:]  # behind the patches
    assert logits_of(model, "nearest", 0, states).argmax(-1).tolist() == list(model.prompt_ids)


def test_gemma_scales_what_enters_and_no_cosine_changes(tmp_path: Path) -> None:
    model = load(str(make_paligemma(tmp_path / "model")))
    states: list[torch.Tensor] = []
    batch = [model.encode(checks.noise(64, 64))]
    image, place = model.places(batch, ("prompt",))
    model.forward(batch, lambda layer, hidden: states.append(hidden[image, place].clone()))
    found = logits_of(model, "nearest", 0, states[0].numpy())
    assert found.argmax(-1).tolist() == list(model.prompt_ids)
    assert found.amax(-1).numpy() == pytest.approx(model.width**0.5, rel=1e-5)  # cosines of 1


def test_a_soft_cap_stays_without_the_norm(tmp_path: Path) -> None:
    model = load(str(make_paligemma(tmp_path / "model", second=True)))
    cap = model.model.config.get_text_config().final_logit_softcapping
    states = np.random.default_rng(0).normal(size=(5, model.width)) * 100
    plain_logits = states @ model.lm_head.weight.detach().double().numpy().T  # type: ignore[operator, union-attr]
    assert np.abs(plain_logits).max() > cap
    found = logits_of(model, "head", 1, states)
    np.testing.assert_allclose(found.numpy(), cap * np.tanh(plain_logits / cap), atol=1e-4)


def test_a_zero_embedding_is_nearest_to_nothing(tiny_model: Path) -> None:
    model = load(str(tiny_model), prompt=PROMPT)
    padded = [3, model.vocabulary_size - 1]
    with torch.no_grad():
        model.model.get_input_embeddings().weight[padded] = 0
    states = exact.states_of(model, checks.noise(50, 40, seed=1))[2]
    run = make_run(lens=on(model, LensSpec("nearest")), vocabulary_size=model.vocabulary_size)
    k = model.vocabulary_size
    readings = Lens(unembed_of(model, run), k, 7).read(2, torch.from_numpy(states).float(), torch.ones(1, len(states)))
    assert readings.token[:, -2:].tolist() == [padded] * len(states)  # ties go to the lower id
    for values in (readings.logprob, readings.lse, readings.entropy, readings.mass):
        assert torch.isfinite(values).all()
    with np.errstate(invalid="ignore"):
        kept = np.delete(exact.cosines(model, states), padded, -1) * np.sqrt(model.width)
    probabilities = np.exp(exact.log_softmax(kept))
    expected = -(probabilities * np.log(probabilities)).sum(-1)
    np.testing.assert_allclose(readings.entropy.numpy(), expected, atol=1e-3)


def test_a_zero_state_is_as_near_to_each_token(model: LensModel) -> None:
    logits = logits_of(model, "nearest", 0, np.zeros((1, model.width)))
    assert logits.tolist() == [[0.0] * model.vocabulary_size]


def test_embeddings_that_are_not_the_heads(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "input_embedding", property(lambda self: self.lm_head.weight[1:]))
    with pytest.raises(ModelError, match=r"has \d+ input embeddings, but \d+ rows in its head"):
        plain.nearest(model, 1.0)


@pytest.mark.parametrize("kind", EXPECTED)
def test_half_precision(tiny_model: Path, kind: str) -> None:
    model = load(str(tiny_model), prompt=PROMPT, dtype="bfloat16")
    states = torch.randn(40, model.width, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = torch.log_softmax(logits_of(model, kind, 1, states.double().numpy()).double(), -1)
    expected = EXPECTED[kind](model, states.double().numpy())
    # A few steps of bfloat16 at the size of the logits.
    np.testing.assert_allclose(found.numpy(), expected, atol=0.02 * (1 + np.ptp(expected)))


def test_what_follows_from_the_model(model: LensModel) -> None:
    for kind in ("logit", "head"):
        assert on(model, LensSpec(kind)) == LensSpec(kind)
    nearest = on(model, LensSpec("nearest"))
    assert nearest == LensSpec("nearest")
    assert nearest.temperature == pytest.approx(1 / np.sqrt(32))
    assert on(model, replace(nearest, temperature=None)) == nearest
    assert [str(LensSpec("head")), str(nearest)] == ["head", "nearest (cosines divided by 0.177)"]
