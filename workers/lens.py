"""A lens: residual stream -> what it decodes to.

With the logit lens that is softmax(lm_head(norm(h))), read at every position: the k best tokens, their
log-probabilities over the full vocabulary, the logsumexp of the logits, the entropy, and the probabilities summed over
positions (nostalgebraist, "interpreting GPT: the logit lens", 2020). Logits exist for one block of positions at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from vlq.workers.top import FEW_THREADS, top

BLOCK_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Logits of one block at most: 32 MiB in float32 on a CPU, and 1 GiB to keep a GPU busy."""

BLOCK_POSITIONS = {"cpu": 320, "cuda": 2**20}
"""Positions of one block at most: on a CPU, more make the matrix product no faster and leave the cores' caches."""

PIECE_LOGITS = 2**19
"""So many logits of a block are read at once by each thread of a CPU: 2 MiB, so that they stay in its cache."""


@dataclass(frozen=True)
class Readings:
    """What n positions decode to."""

    token: Tensor  # (n, k) integers, best first, ties by the lower id
    logprob: Tensor  # (n, k) float32, nats
    lse: Tensor  # (n,) float32
    entropy: Tensor  # (n,) float32, nats
    mass: Tensor  # (sums, vocabulary) float32: probabilities, weighted and summed over positions
    tracked_logprob: Tensor  # (n, tracked) float32, nats: of the tokens that are tracked
    tracked_rank: Tensor  # (n, tracked) integers from 1: how many ids `token` would have up to this one, were k large
    logit: Tensor  # (n, vocabulary) float32; (n, 0) if they are not asked for


def default_block(vocabulary_size: int, device: str) -> int:
    """How many positions a block holds at most, for a vocabulary and a device kind."""
    return max(16, min(BLOCK_POSITIONS[device], BLOCK_LOGITS[device] // vocabulary_size))


class Lens:
    """Reads hidden states.

    `unembed` maps a layer and its (n, d) states to (n, vocabulary) logits. `block` bounds n; being part of what decides
    the last bits of a result, it is recorded with a run. `tracked` are ids whose readings are taken wherever they are;
    `whole` asks for all logits.
    """

    def __init__(
        self,
        unembed: Callable[[int, Tensor], Tensor],
        k: int,
        block: int,
        tracked: Sequence[int] = (),
        whole: bool = False,
    ) -> None:
        self._unembed = unembed
        self._k = k
        self._block = block
        self._tracked = tracked
        self._whole = whole

    @torch.inference_mode()
    def read(self, layer: int, hidden: Tensor, weights: Tensor) -> Readings:
        """Readings of a layer's un-normed states.

        `hidden` is (n, d); `weights` (sums, n) says how much of each position's probabilities goes into each sum.
        """
        blocks = -(-len(hidden) // self._block)
        size = -(-len(hidden) // blocks)  # all alike: a short one would use the device badly
        parts = [
            reduce(self._unembed(layer, states), self._k, share, self._tracked, self._whole)
            for states, share in zip(torch.split(hidden, size), torch.split(weights, size, 1), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return Readings(
            torch.cat([part.token for part in parts]),
            torch.cat([part.logprob for part in parts]),
            torch.cat([part.lse for part in parts]),
            torch.cat([part.entropy for part in parts]),
            torch.stack([part.mass for part in parts]).sum(0),
            torch.cat([part.tracked_logprob for part in parts]),
            torch.cat([part.tracked_rank for part in parts]),
            torch.cat([part.logit for part in parts]),
        )


def reduce(logits: Tensor, k: int, weights: Tensor, tracked: Sequence[int] = (), whole: bool = False) -> Readings:
    """Readings of (n, vocabulary) logits, whose memory may be used for something else meanwhile."""
    # Half precision leaves so few distinct values that ties are the rule.
    ties_are_rare = logits.dtype == torch.float32
    logits = logits.float()
    own, rank = known(logits, tracked)
    every = logits.clone() if whole else logits[:, :0].clone()
    if triton_works(logits.device):
        from vlq.workers.kernels import reduce as reduce_by_kernels

        token, logprob, lse, entropy, mass = reduce_by_kernels(logits.contiguous(), k, weights)
    else:
        token, logprob, lse, entropy, mass = reduce_by_torch(logits, k, weights, ties_are_rare)
    return Readings(token, logprob, lse, entropy, mass, own - lse[:, None], rank, every)


def reduce_by_torch(
    logits: Tensor, k: int, weights: Tensor, ties_are_rare: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Token, log-probability, logsumexp, entropy and mass, as `Readings` has them, of (n, vocabulary) float32 logits.

    On a CPU piece by piece, each of which stays in the cores' caches for all that is done with it.
    """
    n, width = logits.shape
    size = max(1, PIECE_LOGITS * torch.get_num_threads() // width) if logits.device.type == "cpu" else n
    mass = logits.new_zeros(len(weights), width)
    pieces = []
    for piece, share in zip(torch.split(logits, size), torch.split(weights, size, 1), strict=True):
        values, token = top(piece, k, ties_are_rare)
        probability = torch.softmax(piece, -1)
        total = probability.sum(-1)  # one, but for what a sum of many loses; it loses less than that of `softmax`
        lse = values[:, 0] - (probability.gather(1, token[:, :1])[:, 0] / total).log()
        entropy = (lse - row_products(piece, probability) / total).clamp_(min=0)  # H = lse - E[logit]
        mass.addmm_(share / total, probability)
        pieces.append((token, values - lse[:, None], lse, entropy))
    token, logprob, lse, entropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return token, logprob, lse, entropy, mass


def row_products(one: Tensor, other: Tensor) -> Tensor:
    """(n,) scalar products of the rows of two (n, d)."""
    if one.device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS:
        return torch.from_numpy(np.vecdot(one.numpy(), other.numpy()))  # which makes no array of single products
    products: Tensor = torch.linalg.vecdot(one, other)
    return products


def known(logits: Tensor, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and ranks of some ids, each (n, id), in (n, vocabulary) logits; ties go to the lower id.

    Ids stay on the host: to index by a tensor of them would make a GPU wait for it.
    """
    own = logits.new_empty(len(logits), len(ids))
    for at, id in enumerate(ids):
        own[:, at] = logits[:, id]
    if ids and logits.device.type == "cpu":
        return own, torch.from_numpy(ranks_by_row(logits.numpy(), own.numpy(), ids))
    rank = torch.empty(own.shape, dtype=torch.int32, device=logits.device)
    for at, id in enumerate(ids):
        before = (logits[:, :id] >= own[:, at, None]).sum(1, dtype=torch.int32)
        rank[:, at] = before + (logits[:, id + 1 :] > own[:, at, None]).sum(1, dtype=torch.int32) + 1
    return own, rank


def ranks_by_row(logits: np.ndarray, own: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """The ranks of `known`, by NumPy: a row stays in a core's cache, and counting takes an eighth of PyTorch's time."""
    rank = np.empty(own.shape, np.int32)
    for row, (values, wanted) in enumerate(zip(logits, own, strict=True)):
        for at, id in enumerate(ids):
            before = np.count_nonzero(values[:id] >= wanted[at])
            rank[row, at] = 1 + before + np.count_nonzero(values[id + 1 :] > wanted[at])
    return rank


@cache
def triton_works(device: torch.device) -> bool:
    """Whether kernels can be compiled for a device. PyTorch for NVIDIA's GPUs brings Triton along, which needs a C
    compiler; without either, plain PyTorch does the same in more time.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from vlq.workers.kernels import reduce as reduce_by_kernels

    try:
        reduce_by_kernels(torch.zeros(1, 64, device=device), 1, torch.ones(1, 1, device=device))
    except Exception as error:  # Triton raises nearly anything if its tools are missing
        first = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"Triton's kernels cannot be used ({first}): the lens is slower by plain PyTorch.", file=sys.stderr)
        return False
    return True
