"""The tuned lens: an affine map for each layer in front of the model's norm and head, which brings its states to where
the last layer's are (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor

from vlq.query.errors import CorruptCache, ModelError
from vlq.query.schema import Run, digest_of
from vlq.query.store import Store
from vlq.workers.lenses.plain import linear
from vlq.workers.models.base import LensModel
from vlq.workers.models.parts import product

if TYPE_CHECKING:
    from vlq.workers.lenses import Unembed


class Translator:
    """h -> h + A h + b, of one layer.

    `weight` is A (d, d), in the dtype of the states; `bias` is b (d,), float32. The sum is taken in float32 and rounded
    once, so that zeros change nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight
        self.bias = bias
        self._linear = linear(weight)

    def __call__(self, states: Tensor) -> Tensor:
        """Of (n, d) states, in their dtype."""
        return product(states, self._linear).float().add_(states).add_(self.bias).to(states.dtype)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save({"weight": self.weight.contiguous().cpu(), "bias": self.bias.contiguous().cpu()})

    @classmethod
    def from_bytes(cls, data: bytes, model: LensModel) -> Translator:
        """A stored one, on the model's device. Raises ModelError if it is of states of another width."""
        tensors, width = load(data), model.width
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (width, width), "bias": (width,)}:
            raise ModelError(f"A translator of the tuned lens has {shapes}; the model's states have {width} numbers.")
        weight = tensors["weight"].to(model.device, model.dtype)
        return cls(weight, tensors["bias"].to(model.device, torch.float32))


def unembed(model: LensModel, translators: Mapping[int, Translator]) -> Unembed:
    """The model's norm and head behind the translators, by layer. The last layer, and any other without one, is read as
    by the logit lens."""

    def unembed(layer: int, hidden: Tensor) -> Tensor:
        translate = translators.get(layer)
        return model.unembed(hidden if translate is None else translate(hidden))

    return unembed


def stored(model: LensModel, run: Run, store: Store) -> dict[int, Translator]:
    """The translators that a run's cache holds, of the layers that it reads. Raises CorruptCache, ModelError."""
    found = {}
    for layer, key in sorted(run.translators.items()):
        if layer not in run.read_layers:
            continue
        try:
            data = store.read(key)
        except FileNotFoundError as error:
            raise CorruptCache(f"{key} is missing from {store.url}.", "Run: vlq repair") from error
        if digest_of(data) != run.checksums[key]:
            raise CorruptCache(f"{key} in {store.url} is not what was written.", "Run: vlq repair")
        found[layer] = Translator.from_bytes(data, model)
    return found
