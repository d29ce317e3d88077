"""Lenses that need nothing but the model: logit, head, nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel
from vlq.workers.models.parts import product

if TYPE_CHECKING:
    from vlq.workers.lenses import Unembed

BELOW = -2.0
"""The cosine that stands for a token whose embedding is zero: lower than any."""


def logit(model: LensModel) -> Unembed:
    """The model's own norm and head, at every layer (nostalgebraist 2020)."""

    def unembed(layer: int, hidden: Tensor) -> Tensor:
        return model.unembed(hidden)

    return unembed


def head(model: LensModel) -> Unembed:
    """The model's head without the norm in front of it, at the last layer as at every other."""

    def unembed(layer: int, hidden: Tensor) -> Tensor:
        return model.finish(product(hidden, model.lm_head))

    return unembed


def nearest(model: LensModel, temperature: float) -> Unembed:
    """The cosine of a state to each token's input embedding, divided by a temperature.

    A state that is zero has the cosine 0 to each. Raises ModelError if the embeddings are not those of the head's ids.
    """
    embedding = model.input_embedding
    if len(embedding) != model.vocabulary_size:
        raise ModelError(
            f"{type(model.model).__name__} has {len(embedding):,} input embeddings, but {model.vocabulary_size:,} rows "
            "in its head: the nearest embedding need not be a token.",
            "Use another --lens.",
        )
    scale, floor = scales(embedding, temperature)
    embeddings = linear(embedding)

    def unembed(layer: int, hidden: Tensor) -> Tensor:
        directions = normalize(hidden.float(), dim=-1).to(hidden.dtype)
        cosines = product(directions, embeddings).float().mul_(scale)
        return cosines if floor is None else cosines.add_(floor)

    return unembed


def scales(embedding: Tensor, temperature: float) -> tuple[Tensor, Tensor | None]:
    """What products with (vocabulary, d) embeddings are multiplied by, and what is added to them, to be cosines divided
    by a temperature: each (vocabulary,) float32."""
    norms = torch.linalg.vector_norm(embedding, dim=-1, dtype=torch.float32)
    is_zero = norms == 0
    scale = torch.where(is_zero, 0, 1 / (temperature * norms))
    return scale, is_zero * (BELOW / temperature) if bool(is_zero.any()) else None


def linear(weight: Tensor) -> nn.Linear:
    """The layer that multiplies with a weight (out, in), which it shares."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made
