"""An image's readings as one binary object: what a page draws from, in an application or in a file.

It is a safetensors file (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the
header, and the arrays, little-endian:

    token    (k, layer, position) uint16, or uint32 where there are so many: numbers of `ids`, of the best token first;
             where nothing was read the number behind the last
    prob     (k, layer, position) float16: probabilities over the whole vocabulary
    entropy  (layer, position) float16, in nats
    ids      (tokens,) uint32: every token that is read anywhere in it, ascending

The header's `__metadata__` has, as JSON texts: `about` (image, site, layers, k) and `texts`, for each of `ids` what is
shown of it, and its piece if that is something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage
from vlq.query.language.tokens import Token, Vocabulary
from vlq.service.answers import Part, Parts

DTYPES = {"uint16": "U16", "uint32": "U32", "float16": "F16"}
"""What safetensors calls them."""

SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
"""A probability that is stored as nothing less: what is read is never impossible."""


@dataclass(frozen=True)
class Readings:
    """What an image's positions at a site decode to. Layers and patches that were not read hold `Run.no_id`
    and NaN."""

    site: str
    token: np.ndarray  # (layer, position, k) ids, best first
    logprob: np.ndarray  # (layer, position, k) float32
    entropy: np.ndarray  # (layer, position) float32


def readings_of(corpus: LocalCorpus, image: OneImage, site: str, k: int) -> Readings:
    """An image's readings at a site of `Run.positions`, the k best tokens of each at most."""
    cache = corpus.cache
    commit = cache.snapshot().commit_of(image.number)
    stored, own = cache.run.stored_at(site)
    counts = {"patch": image.patches, "prompt": len(image.prompt_ids), "answer": len(image.answer_ids), "last": 1}
    count = counts[site]
    names = [f"{stored}/{name}" for name in ("token", "logprob", "entropy")]
    found = cache.values_of(commit, names, image.number)
    token, logprob, entropy = (array[:, own][:, :count] for array in found)
    return Readings(site, token[..., :k], logprob[..., :k].astype(np.float32), entropy)


def lens_bytes(corpus: LocalCorpus, image: OneImage, site: str, k: int) -> bytes:
    """The binary object of an image's readings at a site."""
    return lens_parts(corpus, image, site, k).whole


def lens_parts(corpus: LocalCorpus, image: OneImage, site: str, k: int) -> Parts:
    """The same in parts, as they are compressed."""
    run = corpus.cache.run
    found = readings_of(corpus, image, site, k)
    ids, numbers = numbered(found.token, run.no_id, run.vocabulary_size)
    planes = np.moveaxis(numbers, -1, 0)
    prob = np.moveaxis(np.maximum(np.exp(found.logprob), SMALLEST), -1, 0).astype(np.float16)
    about = {
        "image": image.number,
        "site": site,
        "grid": image.grid if site == "patch" else None,
        "layers": run.layers,
        "read": list(run.read_layers),
        "k": planes.shape[0],
    }
    texts = _texts(corpus.vocabulary)
    shown = [texts[id] for id in ids.tolist()]
    arrays = {"token": planes, "prob": prob, "entropy": found.entropy.astype(np.float16), "ids": ids.astype("uint32")}
    return safetensors(arrays, {"about": about, "texts": shown})


def numbered(token: np.ndarray, no_id: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids below `size` that there are, ascending, and each one's number among them; of `no_id`, which is `size` or
    more, the one behind. Numbers are uint16, or uint32 where there are so many."""
    known = np.minimum(token, token.dtype.type(min(size, no_id)))
    there = np.zeros(size + 1, bool)
    there[known] = True
    ids = np.flatnonzero(there[:size])
    number = np.full(size + 1, len(ids), np.uint16 if len(ids) < 0xFFFF else np.uint32)
    number[ids] = np.arange(len(ids))
    return ids, number[known]


def safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Parts:
    """The parts of a file of the arrays, in their order; metadata as JSON texts."""
    header: dict[str, Any] = {
        "__metadata__": {
            name: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for name, value in metadata.items()
        }
    }
    data, start = [], 0
    for name, array in arrays.items():
        part = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": DTYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(part)],
        }
        data.append(Part(part, repeats=array.dtype.kind != "f"))
        start += len(part)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return Parts([Part(len(text).to_bytes(8, "little") + text), *data])


class _Texts(dict[int, str | list[str]]):
    """What is told of each token of a vocabulary, as far as it was asked for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, id: int) -> str | list[str]:
        self[id] = found = described(self._vocabulary.token(id))
        return found


@lru_cache(maxsize=16)
def _texts(vocabulary: Vocabulary) -> _Texts:
    return _Texts(vocabulary)


def described(token: Token) -> str | list[str]:
    """What is shown of a token, and its piece if that is something else."""
    text = shown(token)
    return text if token.piece in (text, None) else [text, token.piece]


def shown(token: Token) -> str:
    """The token's text with a mark for each space in front; its piece where that says more, else its number."""
    if token.piece is None:
        return str(token.id)
    text = token.text
    if not text or not text.strip() or "�" in text or not text.isprintable():
        return token.piece
    return "▁" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" ")
