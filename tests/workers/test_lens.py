"""The lens against a softmax over everything in float64, and ties against a stable sort."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlq.workers.lens import BLOCK_LOGITS, PIECE_LOGITS, Lens, default_block
from vlq.workers.top import GROUP, exact_top, numpy_top, top, torch_top


def clone(layer: int, hidden: torch.Tensor) -> torch.Tensor:
    """States that are logits themselves."""
    return hidden.clone()


def stable_order(logits: torch.Tensor) -> np.ndarray:
    """Ids from the highest logit down, equal ones in ascending order."""
    return np.argsort(-logits.double().numpy(), axis=-1, kind="stable")


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    vocabulary=st.sampled_from([3, 20, GROUP, GROUP + 1, 40 * GROUP, 40 * GROUP + 5]),
    k=st.integers(1, 5),
    levels=st.sampled_from([2, 30, 10**9]),
    block=st.integers(1, 8),
)
def test_readings_equal_a_full_softmax(seed: int, n: int, vocabulary: int, k: int, levels: int, block: int) -> None:
    k = min(k, vocabulary)
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy((rng.integers(0, levels, (n, vocabulary)) * (20 / levels)).astype(np.float32))
    weights = torch.from_numpy(rng.integers(0, 2, (2, n)).astype(np.float32))

    readings = Lens(clone, k, block).read(0, logits, weights)

    exact = torch.log_softmax(logits.double(), -1).numpy()
    order = stable_order(logits)[:, :k]
    assert np.array_equal(readings.token.numpy(), order)
    np.testing.assert_allclose(readings.logprob.numpy(), np.take_along_axis(exact, order, -1), atol=2e-5)
    np.testing.assert_allclose(readings.lse.numpy(), torch.logsumexp(logits.double(), -1).numpy(), atol=2e-5)
    np.testing.assert_allclose(readings.entropy.numpy(), -(np.exp(exact) * exact).sum(-1), atol=1e-4)
    np.testing.assert_allclose(readings.mass.numpy(), weights.double().numpy() @ np.exp(exact), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_wide_block_is_read_in_pieces(threads: int) -> None:
    """A vocabulary as wide as LLaVA's, where a softmax in float32 adds up most, in a block of several pieces."""
    logits = torch.randn(70, 32_064, generator=torch.Generator().manual_seed(6)) * 3
    weights = torch.rand(2, 70, generator=torch.Generator().manual_seed(7))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert PIECE_LOGITS * threads < logits.numel()
        readings = Lens(clone, 20, 70).read(0, logits, weights)
    finally:
        torch.set_num_threads(before)

    exact = torch.log_softmax(logits.double(), -1).numpy()
    order = stable_order(logits)[:, :20]
    assert np.array_equal(readings.token.numpy(), order)
    np.testing.assert_allclose(readings.logprob.numpy(), np.take_along_axis(exact, order, -1), atol=1e-5)
    np.testing.assert_allclose(readings.lse.numpy(), torch.logsumexp(logits.double(), -1).numpy(), atol=1e-5)
    np.testing.assert_allclose(readings.entropy.numpy(), -(np.exp(exact) * exact).sum(-1), atol=5e-5)
    np.testing.assert_allclose(readings.mass.numpy(), weights.double().numpy() @ np.exp(exact), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_tracked_tokens_equal_a_full_sort(levels: int, dtype: torch.dtype) -> None:
    """Whether they are among the k best or not; of equal ones the lower id is before the higher."""
    logits = torch.randint(-levels, levels + 1, (41, 300), generator=torch.Generator().manual_seed(4)) * (8 / levels)
    logits[3, 7:20] = torch.tensor([0.0, -0.0]).repeat(7)[:13]
    logits = logits.to(dtype)
    tracked = (0, 7, 8, 150, 299)
    readings = Lens(clone, 5, 16, tracked).read(0, logits, torch.ones(1, 41))
    rank = np.argsort(stable_order(logits), axis=-1)[:, list(tracked)] + 1
    assert np.array_equal(readings.tracked_rank.numpy(), rank)
    exact = torch.log_softmax(logits.double(), -1).numpy()[:, list(tracked)]
    np.testing.assert_allclose(readings.tracked_logprob.numpy(), exact, atol=1e-5)
    assert readings.tracked_logprob.dtype == torch.float32
    for row, at in np.argwhere(rank <= 5):  # the same bits as among the k best
        assert readings.token[row, rank[row, at] - 1] == tracked[at]
        assert readings.logprob[row, rank[row, at] - 1] == readings.tracked_logprob[row, at]


WAYS = {
    "numpy": numpy_top,
    "torch": partial(torch_top, ties_are_rare=True),
    "torch, ties expected": partial(torch_top, ties_are_rare=False),
    "keys": exact_top,
}


@pytest.mark.parametrize("vocabulary", [11, 50, 30 * GROUP, 100 * GROUP + 3])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("way", WAYS)
def test_ties_go_to_the_lower_id(vocabulary: int, levels: int, way: str) -> None:
    logits = torch.randint(-levels, levels + 1, (40, vocabulary), generator=torch.Generator().manual_seed(1)).float()
    values, token = WAYS[way](logits, 10)
    order = stable_order(logits)[:, :10]
    assert np.array_equal(token.numpy(), order)
    assert np.array_equal(values.numpy(), np.take_along_axis(logits.numpy(), order, -1))


@pytest.mark.parametrize("way", WAYS)
def test_the_two_zeros_tie(way: str) -> None:
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0, -2.0]])
    assert WAYS[way](logits, 3)[1].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("way", WAYS)
def test_infinities_have_their_place(way: str) -> None:
    logits = torch.full((2, 300), float("-inf"))
    logits[0, [7, 70]] = torch.tensor([float("inf"), 0.0])
    assert WAYS[way](logits, 4)[1].tolist() == [[7, 70, 0, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_number_is_survived(way: str) -> None:
    """It is reported later, with the image's name."""
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    expected = stable_order(logits)[:, :4]
    logits[1] = float("nan")
    found = WAYS[way](logits, 4)[1]
    assert np.array_equal(found[[0, 2]].numpy(), expected[[0, 2]])
    assert ((found >= 0) & (found < 300)).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    logits = torch.randint(-40, 40, (20, 3000), generator=torch.Generator().manual_seed(2)).float()
    try:
        torch.set_num_threads(threads)
        assert np.array_equal(top(logits, 10)[1].numpy(), stable_order(logits)[:, :10])
    finally:
        torch.set_num_threads(before)


def test_k_may_be_the_whole_vocabulary() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -5.0]])
    assert top(logits, 4)[1].tolist() == [[1, 2, 0, 3]]


def test_half_precision_logits_are_read_in_float32() -> None:
    logits = torch.randn(5, 5000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 8
    readings = Lens(clone, 20, 64).read(0, logits, torch.ones(1, 5))
    exact = torch.log_softmax(logits.double(), -1).numpy()
    order = stable_order(logits)[:, :20]
    assert np.array_equal(readings.token.numpy(), order)
    np.testing.assert_allclose(readings.logprob.numpy(), np.take_along_axis(exact, order, -1), atol=1e-4)


def test_never_more_logits_than_a_block() -> None:
    seen: list[int] = []

    def unembed(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return hidden.clone()

    Lens(unembed, 2, 7).read(0, torch.randn(30, 11), torch.ones(1, 30))
    assert max(seen) <= 7
    assert sum(seen) == 30


def test_default_block_shrinks_with_the_vocabulary() -> None:
    assert default_block(32_064, "cpu") * 32_064 <= BLOCK_LOGITS["cpu"]
    assert default_block(10**9, "cpu") >= 1
