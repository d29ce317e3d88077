"""The k highest of each row of logits, ties going to the lower id."""

from __future__ import annotations

from math import isqrt
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

GROUP = 64
"""Neighbouring ids whose maximum is taken first where ties are the rule: most of a wide vocabulary is never sorted."""

LANES = 64
"""Of a multiple of so many groups a CPU finds the maxima and sorts them fastest: whole vectors, whole cache lines."""

FEW_THREADS = 2
"""Up to here NumPy on one core finds the highest logits faster than PyTorch on all of them."""

Integers = TypeVar("Integers", Tensor, np.ndarray)


def top(logits: Tensor, k: int, ties_are_rare: bool = True) -> tuple[Tensor, Tensor]:
    """The k highest of each row of (n, vocabulary) float32 logits and their ids, ties going to the lower id."""
    k = min(k, logits.shape[-1])
    if logits.device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS:
        return numpy_top(logits, k)
    return torch_top(logits, k, ties_are_rare)


def numpy_top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`top` on one core of a CPU, in a quarter of `torch.topk`'s time for narrow rows and half of it for wide ones.

    A row is cut into groups. Its k-th highest group maximum is no higher than its k-th highest element, so the
    elements from that up hold the k highest with all their ties. They are few, and are sorted by exact keys.
    """
    n, width = logits.shape
    # Three times as many groups as k leave few more candidates than k, and few maxima to sort.
    groups = min(width, -(-3 * k // LANES) * LANES)
    size = width // groups
    values = logits.numpy()
    # Ids that leave the same remainder make a group: the maxima are then over neighbouring memory.
    maxima = logits[:, : size * groups].view(n, size, groups).amax(1).numpy()
    maxima.sort(axis=1)
    at = np.flatnonzero(values >= maxima[:, groups - k, None])  # in the block as a whole
    row = at // width
    starts = np.searchsorted(row, np.arange(n + 1))
    counts = np.diff(starts)
    if counts.min() < k:  # there are NaNs
        return exact_top(logits, k)
    most = counts.max()
    keys = np.full(n * most, np.iinfo(np.int64).min)
    keys[np.arange(len(at)) + (np.arange(n) * most - starts[:-1])[row]] = _numpy_keys(np.take(values, at), at)
    keys = keys.reshape(n, most)
    keys.sort(axis=1)
    best = _low_word(keys[:, : -k - 1 : -1])
    ids = best - np.arange(0, n * width, width)[:, None]
    return torch.from_numpy(np.take(values, best)), torch.from_numpy(ids)


def _numpy_keys(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`_keys` of few elements, of which NumPy makes them in half of the time."""
    bits = (values + np.float32(0)).view(np.int32)
    keys: np.ndarray = (_ordered(bits).astype(np.int64) << 32) | (0xFFFFFFFF - ids)
    return keys


def torch_top(logits: Tensor, k: int, ties_are_rare: bool) -> tuple[Tensor, Tensor]:
    """`top` on any device.

    `torch.topk` orders ties as it likes. So it is asked for one more than k: where those k + 1 values differ, its
    ids are right, and the few rows where they do not are done again by exact keys.
    """
    if k == logits.shape[-1] or not ties_are_rare:
        return exact_top(logits, k)
    values, token = _loose_top(logits, k + 1)
    tied = (values[:, 1:] == values[:, :-1]).any(-1)
    values, token = values[:, :k].contiguous(), token[:, :k].contiguous()
    if tied.any():
        values[tied], token[tied] = exact_top(logits[tied], k)
    return values, token


def _loose_top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, in half of its time or less: ids are right where the values are distinct.

    Ids that leave the same remainder make a group. The k highest of a row lie in the k groups with the highest
    maxima, because any other group's elements are at most as high as each of those k maxima. Groups of such a size
    leave as many maxima as candidates to look at; the few ids that fill no group are candidates too.
    """
    n, width = logits.shape
    size = isqrt(width // k)
    if size < 3:
        return logits.topk(k)
    groups = width // size
    maxima = logits[:, : size * groups].view(n, size, groups).amax(1)  # over neighbouring memory, so it is fast
    best = maxima.topk(k, sorted=False).indices
    steps = torch.arange(0, size * groups, groups, device=logits.device)
    rest = torch.arange(size * groups, width, device=logits.device).expand(n, -1)
    candidates = torch.cat([(best[:, None] + steps[:, None]).flatten(1), rest], 1)
    values, at = logits.gather(1, candidates).topk(k)
    return values, candidates.gather(1, at)


def exact_top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row and their ids, by keys that no two elements share: the value, then the lower id."""
    width = logits.shape[-1]
    if width // GROUP < 2 * k:
        token = _low_word(_keys(logits, torch.arange(width, device=logits.device)).topk(k).values)
    else:
        maxima = _group_maxima(logits)
        # Of groups with equal maxima the lower one holds the lower ids.
        keys = _keys(maxima, torch.arange(maxima.shape[1], device=logits.device))
        candidates, found = _of_groups(logits, _low_word(keys.topk(k, sorted=False).values))
        token = _low_word(_keys(found, candidates).topk(k).values)
    return logits.gather(1, token), token


def _group_maxima(logits: Tensor) -> Tensor:
    """(n, groups): the highest of every GROUP neighbouring ids; the last group may be shorter."""
    n, width = logits.shape
    whole = width // GROUP
    maxima = logits[:, : whole * GROUP].view(n, whole, GROUP).amax(-1)
    if whole * GROUP == width:
        return maxima
    return torch.cat([maxima, logits[:, whole * GROUP :].amax(-1, keepdim=True)], 1)


def _of_groups(logits: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and logits of all elements of the chosen groups, both (n, chosen * GROUP); none beyond the vocabulary."""
    n, width = logits.shape
    ids = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=logits.device)).view(n, -1)
    beyond = ids >= width
    values = logits.gather(1, ids.clamp(max=width - 1)).masked_fill_(beyond, float("-inf"))
    return ids, values


def _keys(values: Tensor, ids: Tensor) -> Tensor:
    """int64 keys that order by the float32 value and, among equals, put the lower id above."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0: the two zeros are equal
    return (_ordered(bits).to(torch.int64) << 32) | (0xFFFFFFFF - ids)


def _ordered(bits: Integers) -> Integers:
    """The bits of float32 values as integers that are in the order of the values."""
    ordered: Integers = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered


def _low_word(keys: Integers) -> Integers:
    """The ids of keys."""
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)
