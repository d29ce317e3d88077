"""What the lens does on a GPU beside its matrix product, by Triton.

`reduce` does what `lens.reduce` does, and reads every logit twice. A row is a position's logits: `_scan` goes through
it once, for logsumexp, entropy and the highest of every few neighbouring ids; `_select` finds the k best among the k
groups with the highest maxima; `_sum` adds up probabilities over rows. `rms_norm` reads and writes each state once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = tl.constexpr(4096)
"""Logits of a row that are looked at together."""

ROWS = tl.constexpr(16)
COLUMNS = tl.constexpr(256)
"""Of the tile that is summed at a time."""

SPAN = 128
"""Rows whose probabilities one program adds up."""

FUSED = {"enable_fp_fusion": True}
"""Products and sums in one instruction: said here, because Triton's default is about to change."""

TAKEN = tl.constexpr(-(2**31))
"""Below what any number is ordered as."""

NO_ID = tl.constexpr(2**31 - 1)


def reduce(logits: Tensor, k: int, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`lens.reduce` of (n, vocabulary) float32 logits whose rows lie one behind another."""
    n, width = logits.shape
    group = group_size(width, k)
    groups = -(-width // group)
    maxima = logits.new_empty(n, groups)
    lse, entropy = logits.new_empty(n), logits.new_empty(n)
    token = logits.new_empty(n, k, dtype=torch.int32)
    logprob = logits.new_empty(n, k)
    _scan[(n,)](logits, maxima, lse, entropy, width, groups, group, num_warps=4, **FUSED)
    wide, some = triton.next_power_of_2(groups), triton.next_power_of_2(k)
    warps = max(1, max(wide, some * group) // 2048)  # one needs no barrier
    _select[(n,)](logits, maxima, lse, token, logprob, width, groups, k, wide, some, group, num_warps=warps, **FUSED)
    return token, logprob, lse, entropy, _summed(logits, lse, weights)


def _summed(logits: Tensor, lse: Tensor, weights: Tensor) -> Tensor:
    """(sums, vocabulary) probabilities, weighted and summed over rows."""
    (n, width), sums = logits.shape, len(weights)
    if sums == 0:
        return logits.new_zeros(0, width)
    parts = logits.new_empty(triton.cdiv(n, SPAN), sums, width)
    grid = (triton.cdiv(width, COLUMNS.value), len(parts))
    _sum[grid](logits, lse, weights, parts, n, width, SPAN, sums, triton.next_power_of_2(sums), num_warps=4, **FUSED)
    return parts.sum(0)


def rms_norm(states: Tensor, weight: Tensor, eps: float, *, plus_one: bool, rounds_first: bool) -> Tensor:
    """(n, d) states over their root mean square, times the weight; computed in float32 and given in the states' dtype.

    Gemma's weights are those beyond one. Llama rounds to the dtype before it multiplies by the weight.
    """
    n, width = states.shape
    found = torch.empty_like(states)
    block = triton.next_power_of_2(width)
    _norm[(n,)](states, weight, found, eps, width, plus_one, rounds_first, block, num_warps=8, **FUSED)
    return found


def group_size(width: int, k: int) -> int:
    """How many neighbouring ids make a group: as leaves the least to look at among groups, and then in k of them."""
    some = triton.next_power_of_2(k)
    sizes = (16, 32, 64, 128, 256)
    return min(sizes, key=lambda size: triton.next_power_of_2(-(-width // size)) + some * size)


@triton.jit  # type: ignore[untyped-decorator]
def _scan(logits, maxima, lse, entropy, width, groups, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one row: the maximum of each group, logsumexp and entropy."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * width
    maxima += row.to(tl.int64) * groups
    of_block: tl.constexpr = BLOCK // GROUP
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)  # exponentials, and those times their logits: both relative to the highest
    weighted = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < width
        values = tl.load(logits + at, mask=inside, other=float("-inf"))
        best = tl.max(tl.reshape(values, (of_block, GROUP)), 1)
        group = start // GROUP + tl.arange(0, of_block)
        tl.store(maxima + group, best, mask=group < groups)
        before = highest
        highest = tl.maximum(before, tl.max(best, 0))
        # H = log(sum e) - sum(e x) / sum(e) with x the distance to the highest; moving that shifts both sums.
        shift = tl.where(before == float("-inf"), 0.0, before - highest)
        scale = tl.exp(shift)
        distance = tl.where(inside, values - highest, float("-inf"))
        exponential = tl.exp(distance)
        weighted = scale * (weighted + shift * total) + tl.where(exponential == 0, 0.0, exponential * distance)
        total = scale * total + exponential
    whole = tl.sum(total, 0)
    tl.store(lse + row, highest + tl.log(whole))
    tl.store(entropy + row, tl.maximum(tl.log(whole) - tl.sum(weighted, 0) / whole, 0.0))


@triton.jit  # type: ignore[untyped-decorator]
def _norm(  # type: ignore[no-untyped-def]
    states, weight, found, eps, width, PLUS_ONE: tl.constexpr, ROUNDS_FIRST: tl.constexpr, WIDE: tl.constexpr
):
    """Of one row."""
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, WIDE)
    inside = at < width
    values = tl.load(states + row + at, mask=inside, other=0.0).to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    if ROUNDS_FIRST:
        values = values.to(found.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if PLUS_ONE:
        factor += 1.0
    tl.store(found + row + at, (values * factor).to(found.dtype.element_ty), mask=inside)


@triton.jit
def _ordered(values):  # type: ignore[no-untyped-def]
    """float32 values as int32 in the same order. The two zeros are equal."""
    bits = tl.where(values == 0, 0.0, values).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _best(keys, ids):  # type: ignore[no-untyped-def]
    """The highest key and the lowest of the ids that have it."""
    best = tl.max(keys, 0)
    return best, tl.min(tl.where(keys == best, ids, NO_ID), 0)


@triton.jit  # type: ignore[untyped-decorator]
def _select(  # type: ignore[no-untyped-def]
    logits, maxima, lse, token, logprob, width, groups, k, WIDE: tl.constexpr, SOME: tl.constexpr, GROUP: tl.constexpr
):
    """The k best of one row, ties going to the lower id.

    Any element outside the k groups with the highest maxima is at most as high as each of those; of groups with equal
    maxima the lower one, which is taken first, holds the lower ids.
    """
    row = tl.program_id(0)
    logits += row.to(tl.int64) * width
    token += row.to(tl.int64) * k
    logprob += row.to(tl.int64) * k
    group = tl.arange(0, WIDE)
    found = tl.load(maxima + row.to(tl.int64) * groups + group, mask=group < groups, other=0.0)
    keys = tl.where(group < groups, _ordered(found), TAKEN)
    slot = tl.arange(0, SOME)
    chosen = tl.full((SOME,), -1, tl.int32)
    for place in range(min(k, groups)):
        _, best = _best(keys, group)
        chosen = tl.where(slot == place, best, chosen)
        keys = tl.where(group == best, TAKEN, keys)
    tile = chosen[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = (chosen[:, None] >= 0) & (tile < width)
    values = tl.load(logits + tile, mask=inside, other=0.0)
    candidates = tl.reshape(tl.where(inside, _ordered(values), TAKEN), (SOME * GROUP,))
    ids = tl.reshape(tile, (SOME * GROUP,))
    whole = tl.load(lse + row)
    for place in range(k):
        key, id = _best(candidates, ids)
        candidates = tl.where(ids == id, TAKEN, candidates)
        value = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
        tl.store(token + place, id)
        tl.store(logprob + place, value - whole)


@triton.jit  # type: ignore[untyped-decorator]
def _sum(  # type: ignore[no-untyped-def]
    logits, lse, weights, parts, n, width, SPAN: tl.constexpr, sums: tl.constexpr, SUMS: tl.constexpr
):
    """Probabilities of SPAN rows, weighted and summed: one part of each of the sums, at COLUMNS ids."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * SPAN
    which = tl.arange(0, SUMS)
    added = tl.zeros((SUMS, COLUMNS), tl.float32)
    for start in range(first, min(first + SPAN, n), ROWS):
        row = start + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * width + column[None, :]
        values = tl.load(logits + at, mask=(row < n)[:, None] & (column < width)[None, :], other=float("-inf"))
        probability = tl.exp(values - tl.load(lse + row, mask=row < n, other=0.0)[:, None])
        share = tl.load(
            weights + which[:, None] * n + row[None, :], mask=(which < sums)[:, None] & (row < n)[None, :], other=0.0
        )
        added += tl.sum(share[:, :, None] * probability[None, :, :], 1)
    part = (tl.program_id(1) * sums + which).to(tl.int64)
    tl.store(
        parts + part[:, None] * width + column[None, :], added, mask=(which < sums)[:, None] & (column < width)[None, :]
    )
