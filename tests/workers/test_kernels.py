"""The Triton kernels against a softmax over everything in float64: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not on this platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from vlq.workers import kernels  # noqa: E402
from vlq.workers.top import exact_top  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, of infinities

CASES = {
    "narrow": (5, 11, 5, 10**6),
    "k is the whole vocabulary": (3, 7, 7, 2),
    "the demo's": (7, 896, 20, 10**6),
    "many ties": (3, 5000, 20, 3),
    "all tied": (2, 5000, 20, 1),
    "a last group that is not full": (4, 4099, 20, 10**6),
    "LLaVA's": (2, 32_064, 20, 10**6),
    "more rows than one program sums": (130, 40, 1, 10**6),
    "the largest k": (1, 900, 255, 10**6),
}

if DEVICE == "cuda":  # which is quicker at it than an interpreter
    CASES |= {
        "Qwen's": (300, 152_064, 20, 10**6),
        "Gemma's": (300, 257_216, 20, 50),
        "a batch of LLaVA's": (4712, 32_064, 20, 10**6),
    }


@pytest.mark.parametrize("case", CASES)
def test_readings_equal_a_full_softmax(case: str) -> None:
    n, vocabulary, k, levels = CASES[case]
    rng = np.random.default_rng(len(case))
    logits = torch.from_numpy((rng.integers(0, levels, (n, vocabulary)) * (40 / levels) - 20).astype(np.float32))
    weights = torch.from_numpy(rng.integers(0, 2, (2, n)).astype(np.float32))

    token, logprob, lse, entropy, mass = (
        values.cpu().numpy() for values in kernels.reduce(logits.to(DEVICE), k, weights.to(DEVICE))
    )

    exact = torch.log_softmax(logits.double(), -1).numpy()
    order = np.argsort(-logits.double().numpy(), axis=-1, kind="stable")[:, :k]
    assert np.array_equal(token, order)
    np.testing.assert_allclose(logprob, np.take_along_axis(exact, order, -1), atol=2e-5)
    np.testing.assert_allclose(lse, torch.logsumexp(logits.double(), -1).numpy(), atol=2e-5)
    np.testing.assert_allclose(entropy, -(np.exp(exact) * exact).sum(-1), atol=2e-5)
    np.testing.assert_allclose(mass, weights.double().numpy() @ np.exp(exact), atol=1e-5)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_sums_bear_any_offset(shift: float) -> None:
    """Logits that lie far from zero, and rise block after block, so that what was summed is scaled down again."""
    logits = torch.linspace(-30, 30, 9000)[None] + shift
    _, _, lse, entropy, _ = kernels.reduce(logits.to(DEVICE), 1, torch.zeros(0, 1, device=DEVICE))
    exact = torch.log_softmax(logits.double(), -1)
    step = float(torch.finfo(torch.float32).eps) * max(30.0, abs(shift))
    assert abs(float(lse) - float(torch.logsumexp(logits.double(), -1))) < 4 * step
    assert abs(float(entropy) - float(-(exact.exp() * exact).sum())) < 1e-4


def test_the_two_zeros_tie() -> None:
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0, -2.0]], device=DEVICE)
    assert kernels.reduce(logits, 3, torch.zeros(0, 1, device=DEVICE))[0].tolist() == [[1, 2, 3]]


def test_what_is_no_finite_number_stays_in_its_row() -> None:
    """It is reported later, with the image's name."""
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    logits[1, 77], logits[2, 78] = float("nan"), float("inf")
    token, _, lse, *_ = kernels.reduce(logits.to(DEVICE), 20, torch.zeros(0, 4, device=DEVICE))
    assert not torch.isfinite(lse[1:3]).any()
    assert torch.isfinite(lse[[0, 3]]).all()
    assert torch.equal(token[[0, 3]].cpu().long(), exact_top(logits[[0, 3]], 20)[1])
    assert ((token >= 0) & (token < 5000)).all()


def test_minus_infinity_is_no_probability() -> None:
    """As of tokens that a model rules out."""
    logits = torch.full((1, 300), float("-inf"))
    logits[0, [7, 70]] = torch.tensor([0.0, 1.0])
    token, logprob, _, entropy, mass = kernels.reduce(logits.to(DEVICE), 3, torch.ones(1, 1, device=DEVICE))
    assert token.tolist() == [[70, 7, 0]]
    p = torch.softmax(torch.tensor([1.0, 0.0]).double(), 0)
    np.testing.assert_allclose(entropy.cpu(), [float(-(p * p.log()).sum())], atol=1e-6)
    np.testing.assert_allclose(mass[0, [70, 7, 0]].cpu(), [*p.tolist(), 0.0], atol=1e-6)
    assert logprob[0, 2] == float("-inf")


@pytest.mark.parametrize("k", [1, 5, 20, 255])
@pytest.mark.parametrize("width", [900, 32_064, 152_064, 257_216])
def test_groups_leave_little_to_look_at(width: int, k: int) -> None:
    size = kernels.group_size(width, k)
    assert size & (size - 1) == 0
    assert -(-width // size) + k * size < max(width, 10_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("plus_one", "rounds_first"), [(False, True), (True, False), (False, False)])
def test_norms_equal_their_formula(dtype: torch.dtype, plus_one: bool, rounds_first: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    states = (torch.randn(5, 300, generator=generator) * torch.logspace(-2, 2, 5)[:, None]).to(dtype)
    weight = torch.rand(300, generator=generator).to(dtype)
    exact = states.double() / (states.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    if rounds_first:
        exact = exact.to(dtype).double()
    exact = exact * (weight.double() + plus_one)
    found = kernels.rms_norm(
        states.to(DEVICE), weight.to(DEVICE), 1e-5, plus_one=plus_one, rounds_first=rounds_first
    ).cpu()
    assert found.dtype == dtype
    errors = (found.double() - exact).abs() / (torch.finfo(dtype).eps * exact.abs())  # in steps of the last bit
    assert errors.max() <= (3 if dtype is torch.float32 else 2)
    assert errors.mean() < (0.5 if DEVICE == "cuda" else 1)  # the interpreter rounds to bfloat16 by cutting off
