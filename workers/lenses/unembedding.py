"""What a cache needs beside the residual stream that it keeps: the run's lens as weights and a recipe, by which
`vlq.query.cache.unembed` makes logits without the model.

Models differ in what their norms round, and configurations name steps that some models leave out: what a module does is
found by trying. In the end NumPy's logits are held against the lens' own, or there is no such cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product as combined

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from vlq.query.cache.unembed import METADATA, Recipe, Unembedding, tensors_in
from vlq.query.errors import CorruptCache, ModelError
from vlq.query.schema import Run, digest_of
from vlq.query.store import Store, put
from vlq.workers.lenses import plain, tuned
from vlq.workers.models.base import LensModel
from vlq.workers.models.parts import product

TRIED = 16
"""Random states of each size with which it is tried."""

TOKENS = 1024
"""About so many tokens, from all over the vocabulary, whose logits are compared."""

SIZES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Standard deviations of their numbers: at the small ones a norm's eps shows."""

NOISE = 16
"""So many units in the last place of the largest logit may be a difference of nothing but the order of sums."""

INSTEAD = "Run without --keep residual, or keep chosen words: --track dog,ear"


def to_bytes(model: LensModel, run: Run) -> bytes:
    """The weights and the recipe of a run's lens, as a safetensors file. Raises ModelError."""
    head: nn.Module = model.lm_head
    rounds = model.dtype != torch.float32 and (run.device == "cpu" or type(head) is not nn.Linear)
    recipe = Recipe(run.dtype, rounds_products=rounds)
    if run.lens.kind == "nearest":
        assert run.lens.temperature is not None
        scale, floor = plain.scales(model.input_embedding, run.lens.temperature)
        weights = {"head.weight": model.input_embedding, "head.scale": scale}
        weights |= {} if floor is None else {"head.floor": floor}
        recipe = replace(recipe, norm="length", rounds_products=model.dtype != torch.float32 and run.device == "cpu")
    else:
        weights = _vectors("head", head) | _floor(model)
        recipe = _with_finish(model, recipe)
        if run.lens.kind != "head":
            recipe = _with_norm(model, recipe)
            weights |= _vectors("norm", model.final_norm)
    tensors = {name: weight.detach().contiguous().cpu() for name, weight in weights.items()}
    return save(tensors, {METADATA: recipe.to_json()})


def put_missing(model: LensModel, run: Run, store: Store) -> None:
    """Put what a run's record names for its states, if it is not there. Raises ModelError, CorruptCache."""
    key = run.unembed
    if key is None or any(entry.key == key for entry in store.list(key)):
        return
    data = to_bytes(model, run)
    if digest_of(data) != run.checksums[key]:
        raise CorruptCache(f"{key} is missing from {store.url}, and this model gives another one.", "Run: vlq repair")
    put(store, key, data)


# --- trying ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def check(model: LensModel, run: Run, data: bytes, unembed: Callable[[int, Tensor], Tensor] | None) -> None:
    """Raises ModelError unless NumPy's logits are those of a run's lens: at layers of every kind, of random states of
    several sizes. A tuned lens, whose translators are not there yet (None), is tried with made-up ones.
    """
    found = np.frombuffer(data, np.uint8)
    last = model.layers - 1
    translators = {}
    if unembed is None:
        translators = {layer: _made_up(model, layer) for layer in {0, last // 2} - {last}}
        unembed = tuned.unembed(model, translators)
    by_numpy = {layer: tensors_in(np.frombuffer(one.to_bytes(), np.uint8), "")[0] for layer, one in translators.items()}
    twin = Unembedding.of(found, "", by_numpy.get)
    ids = range(0, twin.vocabulary_size, max(1, twin.vocabulary_size // TOKENS))
    for layer in sorted({0, last // 2, last}):
        for states in _states(model, layer):
            own = unembed(layer, states).double().cpu().numpy()
            directions = twin.directions(layer, states.float().cpu().numpy())
            off = _off(model, own[:, ids], twin.logits(directions, ids))
            if off is not None:
                raise ModelError(
                    f"{type(model.model).__name__}: --keep residual makes logits of states by NumPy, and these differ "
                    f"from the lens' at layer {layer} by {off.difference:.3g}, of states around "
                    f"{float(states.float().std()):.3g}; the noise of {run.dtype} explains {off.noise:.3g}. What "
                    f"differs is {_culprit(model, run, twin, states, ids)}.",
                    INSTEAD,
                )


@dataclass(frozen=True)
class Off:
    """By how much numbers differ, and by how much they may."""

    difference: float
    noise: float


def _off(model: LensModel, own: np.ndarray, found: np.ndarray) -> Off | None:
    """In what two arrays differ that should be equal; numbers too large for the dtype are not compared. What is as low
    as can be, as a token's logit that is never written, must be so in both."""
    lowest = torch.finfo(model.dtype).min
    finite = np.isfinite(own) & (own > lowest)
    if not finite.any():
        return None
    noise = NOISE * torch.finfo(model.dtype).eps * max(float(np.abs(own[finite]).max()), 1e-30)
    difference = float(np.abs(own - found)[finite | (own == lowest) & (found > lowest / 2)].max())
    return None if difference <= noise else Off(difference, noise)


def _culprit(model: LensModel, run: Run, twin: Unembedding, states: Tensor, ids: Sequence[int]) -> str:
    """The first step after which states or logits are not the same."""
    given = states.float().cpu().numpy()
    if run.lens.kind in ("logit", "tuned"):
        normed = model.final_norm(states)
        if _off(model, normed.double().cpu().numpy(), twin._normed(given)):
            return f"the norm in front of the head ({type(model.final_norm).__name__})"
        states, given = normed, normed.float().cpu().numpy()
    if run.lens.kind == "nearest":
        return "the cosine"
    bare = Unembedding(replace(twin.recipe, finish=None), twin._weights)
    if _off(model, product(states, model.lm_head).double().cpu().numpy()[:, ids], bare.logits(given, ids)):
        return f"the head ({type(model.lm_head).__name__})"
    return "what the model makes of its head's output"


def _states(model: LensModel, seed: int) -> Iterator[Tensor]:
    """(TRIED, d) random states of each size; a few of a state's numbers are far larger than the others, as they are in
    trained models."""
    generator = torch.Generator().manual_seed(seed)
    for size in SIZES:
        states = torch.randn(TRIED, model.width, generator=generator) * size
        states[:, :: max(1, model.width // 3)] *= 20
        yield states.to(model.device, model.dtype)


def _made_up(model: LensModel, seed: int) -> tuned.Translator:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(model.width, model.width, generator=generator) / model.width**0.5
    return tuned.Translator(
        weight.to(model.device, model.dtype), torch.randn(model.width, generator=generator).to(model.device)
    )


# --- recipes ---------------------------------------------------------------------------------------------------


def _vectors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's weight and bias, as far as it has them."""
    found = {kind: getattr(module, kind, None) for kind in ("weight", "bias")}
    return {f"{name}.{kind}": tensor for kind, tensor in found.items() if isinstance(tensor, Tensor)}


@torch.inference_mode()
def _floor(model: LensModel) -> dict[str, Tensor]:
    """What puts tokens that a model never writes below all others, if there are any."""
    own = model.finish(torch.zeros(model.vocabulary_size, device=model.device, dtype=model.dtype)).float()
    never = own == torch.finfo(model.dtype).min
    return {"head.floor": own * never} if never.any() else {}


@torch.inference_mode()
def _with_norm(model: LensModel, recipe: Recipe) -> Recipe:
    """The recipe with the norm that is nearest to the model's."""
    norm = model.final_norm
    eps = next((getattr(norm, name) for name in ("variance_epsilon", "eps", "epsilon") if hasattr(norm, name)), None)
    vectors = _vectors("norm", norm)
    if eps is None or "norm.weight" not in vectors:
        raise ModelError(
            f"{type(model.model).__name__}: --keep residual makes logits of states by NumPy, which knows RMSNorm and "
            f"LayerNorm with weights. The norm in front of the head is {type(norm).__name__}.",
            INSTEAD,
        )
    tensors = {**vectors, "head.weight": torch.zeros(1, model.width, dtype=model.dtype)}
    weights, _ = tensors_in(np.frombuffer(save({k: v.cpu() for k, v in tensors.items()}), np.uint8), "")
    recipe = replace(recipe, eps=float(eps))
    some = [
        replace(recipe, norm="rms", plus_one=plus_one, rounds_first=rounds_first)
        for plus_one, rounds_first in combined((False, True), repeat=2)
    ]
    tried = [(states.float().cpu().numpy(), norm(states).float().cpu().numpy()) for states in _states(model, 0)]

    def error(candidate: Recipe) -> float:
        found = Unembedding(candidate, weights)
        return sum(float(np.abs(found._normed(states) - own).mean()) for states, own in tried)

    return min([*some, replace(recipe, norm="layer")], key=error)


@torch.inference_mode()
def _with_finish(model: LensModel, recipe: Recipe) -> Recipe:
    """The recipe with what the model makes of its head's output."""
    config = model.model.config.get_text_config()
    named = {"cap": "final_logit_softcapping", "scale": "logit_scale", "divide": "logits_scaling"}
    some = [
        replace(recipe, finish=finish, value=float(value))
        for finish, name in named.items()
        if (value := getattr(config, name, None))
    ]
    if not some:
        return recipe
    identity = {"head.weight": np.eye(1, dtype=np.float32)}
    logits = (torch.randn(1024, generator=torch.Generator().manual_seed(0)) * 20).to(model.device, model.dtype)
    own = model.finish(logits.clone()).float().cpu().numpy()
    given = logits.float().cpu().numpy()[:, None]

    def error(candidate: Recipe) -> float:
        return float(np.abs(Unembedding(candidate, identity).logits(given, [0])[:, 0] - own).max())

    return min([recipe, *some], key=error)
