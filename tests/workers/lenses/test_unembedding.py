"""Logits that NumPy makes of states are those that the model makes of them, and their ranks too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vlq.query.cache.unembed import Recipe, Unembedding, rounded, tensors_in
from vlq.query.errors import CorruptCache, ModelError
from vlq.query.schema import LENSES, LensSpec, Run, digest_of, unembed_key
from vlq.query.store import open_store
from vlq.workers.lenses import on, unembed_of, unembedding
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from ...synthetic import make_run
from ..conftest import make_model
from ..models import checks, test_idefics3, test_qwen_vl, tiny, zoo

# transformers' own, of the SigLIP processor.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava": make_model,
    "llava_next": tiny.make_llava_next,
    "llava_onevision": tiny.make_llava_onevision,
    "paligemma": tiny.make_paligemma,
    "paligemma2": lambda folder: tiny.make_paligemma(folder, second=True),
    "internvl": tiny.make_internvl,
    "vipllava": tiny.make_vipllava,
    "gemma3": tiny.make_gemma3,
    "chameleon": zoo.chameleon,
    "aya_vision": lambda folder: tiny.make_aya_vision(folder, most=1),
    **{
        kind: lambda folder, kind=kind: test_qwen_vl.make_model(folder, kind)  # type: ignore[misc]
        for kind in test_qwen_vl.KINDS
    },
    **{
        kind: lambda folder, kind=kind: test_idefics3.make_model(folder, kind)  # type: ignore[misc]
        for kind in test_idefics3.NAMES
    },
}

NOISE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""By how much logits may differ, in proportion to the largest: of half precision that is 4 units in the last place."""


def run_of(model: LensModel, kind: str = "logit") -> Run:
    run = make_run(
        dtype=str(model.dtype).removeprefix("torch."), keep="residual", layers=model.layers, width=model.width
    )
    return replace(run, lens=on(model, LensSpec(kind, sha256="a" if kind == "tuned" else None)))


def states_of(model: LensModel) -> list[Tensor]:
    """By layer the states at the patches and the prompt of an image, each (position, d)."""
    batch = [model.encode(checks.noise(64, 64))]
    image, place = model.places(batch, ("patch", "prompt"))
    found: list[Tensor] = []
    model.forward(batch, lambda layer, hidden: found.append(hidden[image, place].clone()))
    return found


def agrees(model: LensModel, run: Run, own: Callable[[int, Tensor], Tensor], twin: Unembedding) -> None:
    """At every layer, of an image's states: logits of all tokens and of some, and what ranks follow of them."""
    assert twin.vocabulary_size == model.vocabulary_size
    ids = [0, 7, model.vocabulary_size - 1]
    for layer, states in enumerate(states_of(model)):
        expected = own(layer, states).double().numpy()
        directions = twin.directions(layer, states.float().numpy())
        found = twin.logits(directions, slice(None))
        written = expected > torch.finfo(model.dtype).min  # the others are as low as can be
        noise = NOISE[run.dtype] * np.abs(expected[written]).max()
        np.testing.assert_allclose(found[written], expected[written], rtol=0, atol=noise)
        np.testing.assert_allclose(found[~written], expected[~written], rtol=0.01)
        np.testing.assert_allclose(twin.logits(directions, ids), expected[:, ids], rtol=0, atol=noise)
        ranks = twin.ranks(directions, ids)
        before = [(expected > expected[:, id, None] + 2 * noise).sum(1) for id in ids]
        beside = [(expected >= expected[:, id, None] - 2 * noise).sum(1) for id in ids]
        assert (np.stack(before, 1) < ranks).all()
        assert (ranks <= np.stack(beside, 1)).all()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", NOISE)
@pytest.mark.parametrize("family", MAKERS)
def test_every_family(family: str, dtype: str, tmp_path: Path) -> None:
    model = load(str(MAKERS[family](tmp_path / family)), dtype=dtype)
    checks.norms_are_not_ones(model)
    run = run_of(model)
    data, own = unembedding.to_bytes(model, run), unembed_of(model, run)
    assert data == unembedding.to_bytes(model, run)
    unembedding.check(model, run, data, own)
    agrees(model, run, own, Unembedding.of(np.frombuffer(data, np.uint8), "here"))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", NOISE)
@pytest.mark.parametrize("kind", LENSES)
def test_every_lens(kind: str, dtype: str, tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")), dtype=dtype)
    model.input_embedding[3] = 0  # which is nowhere near
    run = run_of(model, kind)
    data = unembedding.to_bytes(model, run)
    if kind != "tuned":
        own = unembed_of(model, run)
        unembedding.check(model, run, data, own)
        agrees(model, run, own, Unembedding.of(np.frombuffer(data, np.uint8), "here"))
        return
    unembedding.check(model, run, data, None)
    translators = {layer: unembedding._made_up(model, layer) for layer in range(1, model.layers - 1)}
    files = {layer: np.frombuffer(one.to_bytes(), np.uint8) for layer, one in translators.items()}
    read = {layer: tensors_in(file, "there")[0] for layer, file in files.items()}

    def tuned(layer: int, hidden: Tensor) -> Tensor:
        return model.unembed(translators[layer](hidden) if layer in translators else hidden)

    agrees(model, run, tuned, Unembedding.of(np.frombuffer(data, np.uint8), "here", read.get))


class Strange(nn.Module):
    """Divides by the mean of the absolute values, which is no norm that is known."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, 1e-6

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states / (states.abs().mean(-1, keepdim=True) + 1e-6)


class Doubled(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


def give_norm(model: LensModel, norm: nn.Module) -> None:
    """Another final norm, in place of the one that was seen when the model was loaded."""
    model.decoder.norm = norm
    vars(model).pop("_norm", None)


def strange_norm(model: LensModel) -> None:
    give_norm(model, Strange(model.final_norm))


def changed_norm(model: LensModel) -> None:
    model.final_norm.register_forward_hook(lambda norm, given, found: found * 1.001)


def no_norm(model: LensModel) -> None:
    give_norm(model, nn.Identity())


def doubled_head(model: LensModel) -> None:
    model.lm_head.__class__ = Doubled


def squared(model: LensModel) -> None:
    model.finish = lambda logits: logits.square()  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (strange_norm, "What differs is the norm in front of the head (Strange)."),
        (changed_norm, "What differs is the norm in front of the head (LlamaRMSNorm)."),
        (no_norm, "LayerNorm with weights. The norm in front of the head is Identity."),
        (doubled_head, "What differs is the head (Doubled)."),
        (squared, "What differs is what the model makes of its head's output."),
    ],
)
def test_what_is_not_known_is_refused(harm: Callable[[LensModel], None], said: str, tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")))
    harm(model)
    run = run_of(model)
    with pytest.raises(ModelError) as error:
        unembedding.check(model, run, unembedding.to_bytes(model, run), unembed_of(model, run))
    assert error.value.message.startswith("LlavaForConditionalGeneration: --keep residual makes logits of states by")
    assert error.value.message.endswith(said)
    assert "--track" in (error.value.hint or "")


FINISHES: dict[str, Callable[[Tensor], Tensor]] = {
    "final_logit_softcapping": lambda logits: torch.tanh(logits / 3) * 3,
    "logit_scale": lambda logits: logits * 3,
    "logits_scaling": lambda logits: logits / 3,
}


@pytest.mark.parametrize("name", FINISHES)
def test_layer_norms_heads_with_a_bias_and_finishes(name: str, tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")))
    torch.manual_seed(0)
    norm = nn.LayerNorm(model.width, eps=1e-3)
    give_norm(model, norm)
    head = nn.Linear(model.width, model.vocabulary_size)
    for weight in (norm.weight, norm.bias, head.bias, head.weight):
        nn.init.uniform_(weight, -2, 2)
    model.model.set_output_embeddings(head)
    setattr(model.model.config.get_text_config(), name, 3.0)
    model.finish = FINISHES[name]  # type: ignore[method-assign]
    run = run_of(model)
    with torch.inference_mode():
        data, own = unembedding.to_bytes(model, run), unembed_of(model, run)
        unembedding.check(model, run, data, own)
        agrees(model, run, own, Unembedding.of(np.frombuffer(data, np.uint8), "here"))


def test_rounding_is_torchs() -> None:
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 4096)
    values = torch.cat([values, torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 7e4, float("inf")])])
    for dtype in NOISE:
        expected = values.to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(rounded(values.numpy(), dtype), expected)


def test_ranks_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    head, states = rng.integers(-2, 3, (203, 4)).astype("f4"), rng.integers(-3, 4, (57, 4)).astype("f4")
    order = np.argsort(-(states @ head.T), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1) + 1
    for block in (1, 40, 300, 2**23):
        monkeypatch.setattr("vlq.query.cache.unembed.BLOCK", block)
        found = Unembedding(Recipe("float32"), {"head.weight": head}).ranks(states, range(0, 203, 7))
        assert np.array_equal(found, ranks[:, ::7])


def test_it_is_put_once_and_again_if_it_is_lost(tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")))
    run = run_of(model)
    data = unembedding.to_bytes(model, run)
    key = unembed_key(digest_of(data))
    run = replace(run, checksums={key: digest_of(data)})
    store = open_store(str(tmp_path / "cache"), create=True)
    for _ in range(2):
        unembedding.put_missing(model, run, store)
        assert [entry.key for entry in store.list()] == [key]
    store.delete(key)
    with torch.inference_mode():
        model.lm_head.weight += 1  # type: ignore[operator]
    with pytest.raises(CorruptCache, match="this model gives another one"):
        unembedding.put_missing(model, run, store)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40, Image.new("L", (9, 9)).tobytes()]
)
def test_files_of_something_else(data: bytes) -> None:
    with pytest.raises(CorruptCache):
        Unembedding.of(np.frombuffer(data, np.uint8), "here")
