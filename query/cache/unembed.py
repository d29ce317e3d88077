"""Logits of a residual stream that was kept, by NumPy: what a run's lens does to its states, without the model.

A cache that keeps states holds once what makes logits of them (`Run.unembed`): a safetensors file of weights, in the
run's dtype, with a `Recipe` of what is done with them. A tuned lens' translators lie beside it. In half precision
numbers are rounded where the model rounds them, so that logits agree with those that were read to the last bit or two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlq.query.errors import CorruptCache

BLOCK = 2**23
"""Numbers of one block of states, of weights or of logits, at most: 32 MiB in float32."""

METADATA = "unembed"
"""What the file's metadata call the recipe."""

BELOW_ALL = 1e-12
"""What a length is at least, for a state that is zero."""

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}

Tensors = Mapping[str, np.ndarray]
"""Weights by name. What NumPy knows no bfloat16, the 16 bits of which are here as uint16."""


@dataclass(frozen=True)
class Recipe:
    """Norm, head, finish: how logits are made of a state."""

    dtype: str  # of states and weights: float32, bfloat16, float16
    norm: str | None = None  # rms; layer; length, which makes it 1 and needs no weights
    eps: float = 0.0  # of rms and layer
    plus_one: bool = False  # of rms: its weight is 1 + what is stored (Gemma)
    rounds_first: bool = False  # of rms: to `dtype` before it is weighted, too (Llama)
    rounds_products: bool = False  # to `dtype`: a CPU does, a GPU leaves them in float32
    finish: str | None = None  # cap: tanh(x / value) * value; scale: x * value; divide: x / value
    value: float = 1.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Unembedding:
    """Makes logits of states, as `Recipe` says.

    `weights` are `norm.weight` and `norm.bias` (d,), `head.weight` (vocabulary, d), `head.bias` (vocabulary,), and
    `head.scale` and `head.floor` (vocabulary,), by which logits are multiplied and what is added to them; only the
    head's weight is always there. `translators` gives a layer's, if it has any: `weight` (d, d) and `bias` (d,).
    """

    def __init__(
        self, recipe: Recipe, weights: Tensors, translators: Callable[[int], Tensors | None] = lambda layer: None
    ) -> None:
        self.recipe = recipe
        self._weights = weights
        self._translators = translators
        self._head = weights["head.weight"]
        self._vectors = {name: floats(values) for name, values in weights.items() if values.ndim == 1}

    @classmethod
    def of(
        cls,
        data: np.ndarray,
        where: str,
        translators: Callable[[int], Tensors | None] = lambda layer: None,
    ) -> Unembedding:
        """Of a file's bytes, as uint8. Raises CorruptCache."""
        weights, metadata = tensors_in(data, where)
        try:
            return cls(Recipe(**json.loads(metadata[METADATA])), weights, translators)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptCache(f"{where} does not say how logits are made: {error}.", "Run: vlq verify") from error

    @property
    def width(self) -> int:
        return int(self._head.shape[1])

    @property
    def vocabulary_size(self) -> int:
        return int(self._head.shape[0])

    def directions(self, layer: int, states: np.ndarray) -> np.ndarray:
        """(n, d) float32: what the head is applied to, of a layer's (n, d) un-normed states."""
        found = states.astype(np.float32)
        translator = self._translators(layer)
        if translator is not None:
            moved = self._product(found, floats(translator["weight"]))
            found = self._round(moved + found + floats(translator["bias"]))
        return self._normed(found)

    def logits(self, directions: np.ndarray, ids: Sequence[int] | slice) -> np.ndarray:
        """(n, ids) float32: the logits of some tokens."""
        ids = ids if isinstance(ids, slice) else list(ids)
        found = self._product(directions, floats(self._head[ids]))
        if (bias := self._vectors.get("head.bias")) is not None:
            found = self._round_product(found + bias[ids])
        if (scale := self._vectors.get("head.scale")) is not None:
            found *= scale[ids]
        if (floor := self._vectors.get("head.floor")) is not None:
            found += floor[ids]
        value, done = np.float32(self.recipe.value), self._round_product
        match self.recipe.finish:
            case "cap":
                return done(done(np.tanh(done(found / value))) * value)
            case "scale":
                return done(found * value)
            case "divide":
                return done(found / value)
        return found

    def ranks(self, directions: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """(n, ids) int64 from 1: how many tokens a full sort has up to each of these, ties by the lower id.

        It takes all of the head, block by block.
        """
        size = max(1, BLOCK // self.width)
        parts = [self._ranks(directions[i : i + size], ids) for i in range(0, len(directions), size)]
        return np.concatenate([np.zeros((0, len(ids)), np.int64), *parts])

    def _ranks(self, directions: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        own = self.logits(directions, ids)
        ranks = np.ones(own.shape, np.int64)
        size = max(1, BLOCK // max(self.width, len(directions)))
        for start in range(0, self.vocabulary_size, size):
            found = self.logits(directions, slice(start, start + size))
            for at, id in enumerate(ids):
                before, after = (min(max(end - start, 0), found.shape[1]) for end in (id, id + 1))
                ranks[:, at] += np.count_nonzero(found[:, :before] >= own[:, at, None], axis=1)
                ranks[:, at] += np.count_nonzero(found[:, after:] > own[:, at, None], axis=1)
        return ranks

    # Steps.

    def _normed(self, states: np.ndarray) -> np.ndarray:
        recipe, vectors, eps = self.recipe, self._vectors, np.float32(self.recipe.eps)
        match recipe.norm:
            case "rms":
                found = states / np.sqrt(np.mean(states * states, -1, keepdims=True) + eps)
                weight = vectors["norm.weight"] + np.float32(recipe.plus_one)
                return self._round((self._round(found) if recipe.rounds_first else found) * weight)
            case "layer":
                found = states - states.mean(-1, keepdims=True)
                found = found / np.sqrt(np.mean(found * found, -1, keepdims=True) + eps) * vectors["norm.weight"]
                bias = vectors.get("norm.bias")
                return self._round(found if bias is None else found + bias)
            case "length":
                length = np.sqrt(np.sum(states * states, -1, keepdims=True))
                return self._round(states / np.maximum(length, np.float32(BELOW_ALL)))
        return states

    def _product(self, states: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return self._round_product(states @ weight.T)

    def _round_product(self, values: np.ndarray) -> np.ndarray:
        return self._round(values) if self.recipe.rounds_products else values

    def _round(self, values: np.ndarray) -> np.ndarray:
        return rounded(values, self.recipe.dtype)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers as a dtype has them, to the nearest and of two such to the even one."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def floats(values: np.ndarray) -> np.ndarray:
    """Weights as float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def tensors_in(data: np.ndarray, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Weights and metadata of a safetensors file's bytes, as uint8, of which nothing is copied. Raises CorruptCache.

    Source: https://github.com/huggingface/safetensors#format
    """
    try:
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(data[8:start].tobytes())
        metadata = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            tensors[name] = data[start + first : start + end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if start + sum(end - first for first, end in (entry["data_offsets"] for entry in header.values())) != data.size:
            raise ValueError("its weights are more or fewer bytes than it has")
        return tensors, metadata
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCache(f"{where} is no file of weights that VLQ reads: {error}.", "Run: vlq verify") from error


def mapped(path: str) -> np.ndarray:
    """A file's bytes, which the system reads when they are used."""
    return np.asarray(np.memmap(path, np.uint8, "r"))
