"""A lens: residual stream -> what it decodes to.

With the logit lens that is softmax(lm_head(norm(h))), read at every position: the k best tokens, their
log-probabilities over the full vocabulary, the logsumexp of the logits, the entropy, and the probabilities summed over
positions (nostalgebraist, "interpreting GPT: the logit lens", 2020). Logits exist for one block of positions at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from vlq.workers.top import top

BLOCK_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Logits of one block at most: 32 MiB in float32 on a CPU, and 1 GiB to keep a GPU busy."""

BLOCK_POSITIONS = {"cpu": 320, "cuda": 2**20}
"""Positions of one block at most: on a CPU, more make the matrix product no faster and leave the cores' caches."""


@dataclass(frozen=True)
class Readings:
    """What n positions decode to."""

    token: Tensor  # (n, k) integers, best first, ties by the lower id
    logprob: Tensor  # (n, k) float32, nats
    lse: Tensor  # (n,) float32
    entropy: Tensor  # (n,) float32, nats
    mass: Tensor  # (sums, vocabulary) float32: probabilities, weighted and summed over positions


def default_block(vocabulary_size: int, device: str) -> int:
    """How many positions a block holds at most, for a vocabulary and a device kind."""
    return max(16, min(BLOCK_POSITIONS[device], BLOCK_LOGITS[device] // vocabulary_size))


class Lens:
    """Reads hidden states.

    `unembed` maps a layer and its (n, d) states to (n, vocabulary) logits. `block` bounds n; being part of what decides
    the last bits of a result, it is recorded with a run.
    """

    def __init__(self, unembed: Callable[[int, Tensor], Tensor], k: int, block: int) -> None:
        self._unembed = unembed
        self._k = k
        self._block = block

    @torch.inference_mode()
    def read(self, layer: int, hidden: Tensor, weights: Tensor) -> Readings:
        """Readings of a layer's un-normed states.

        `hidden` is (n, d); `weights` (sums, n) says how much of each position's probabilities goes into each sum.
        """
        blocks = -(-len(hidden) // self._block)
        size = -(-len(hidden) // blocks)  # all alike: a short one would use the device badly
        parts = [
            reduce(self._unembed(layer, states), self._k, share)
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
        )


def reduce(logits: Tensor, k: int, weights: Tensor) -> Readings:
    """Readings of (n, vocabulary) logits, whose memory may be used for something else meanwhile."""
    if triton_works(logits.device):
        from vlq.workers.kernels import reduce as reduce_by_kernels

        return Readings(*reduce_by_kernels(logits.float().contiguous(), k, weights))
    # Half precision leaves so few distinct values that ties are the rule.
    ties_are_rare = logits.dtype == torch.float32
    logits = logits.float()
    values, token = top(logits, k, ties_are_rare)
    # The exponentials are taken once, for logsumexp, entropy and sums alike.
    highest = values[:, :1]
    exponential = (logits - highest).exp_()
    total = exponential.sum(-1)
    lse = highest[:, 0] + total.log()
    # H = lse - E[logit]; the logits are not needed after this and lend their memory.
    entropy = (lse - logits.mul_(exponential).sum(-1) / total).clamp_(min=0)
    return Readings(token, values - lse[:, None], lse, entropy, (weights / total) @ exponential)


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
