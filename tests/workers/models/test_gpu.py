"""Tiny models on a GPU: the readings of a CPU, and in half precision those of the same states in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from vlq.query.cache.unembed import Unembedding
from vlq.workers.extract import read_shard
from vlq.workers.lenses import lens_of, logit_lens, plain, tuned, unembedding
from vlq.workers.lenses import unembed_of as lens_unembed
from vlq.workers.lenses.train import Options, train
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.worker import Setup, describe_run

from ...synthetic import make_run
from ..conftest import make_model, save_images
from . import checks, test_idefics3, test_qwen_vl
from .tiny import (
    make_gemma3,
    make_internvl,
    make_llava_next,
    make_llava_onevision,
    make_paligemma,
    make_vipllava,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODELS: dict[str, Callable[[Path], Path]] = {
    "llava": make_model,
    "llava_next": make_llava_next,
    "llava_onevision": make_llava_onevision,
    "qwen2_vl": lambda folder: test_qwen_vl.make_model(folder, "qwen2_vl"),
    "qwen2_5_vl": lambda folder: test_qwen_vl.make_model(folder, "qwen2_5_vl"),
    "qwen3_vl": lambda folder: test_qwen_vl.make_model(folder, "qwen3_vl"),
    "paligemma": make_paligemma,
    "paligemma2": lambda folder: make_paligemma(folder, second=True),
    "idefics3": lambda folder: test_idefics3.make_model(folder, "idefics3"),
    "smolvlm": lambda folder: test_idefics3.make_model(folder, "smolvlm"),
    "internvl": make_internvl,
    "generic: vipllava": make_vipllava,
    "generic: gemma3": make_gemma3,
}
SIZES = ((64, 64), (120, 50), (40, 90), (70, 100))
ANSWER = 3


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    from vlq.workers.corpus import list_images

    folder = save_images(tmp_path_factory.mktemp("images"), 11)
    (folder / "0003.png").write_bytes(b"no image")
    return list_images(str(folder))


def arrays_of(folder: Path, corpus: pa.Table, device: str) -> tuple[dict[str, np.ndarray], list[dict[str, object]]]:
    """Of a shard in batches of four, the last one of which is shorter."""
    model = load(str(folder), device=device, dtype="float32", answer=True, check_images=4)
    setup = Setup(str(folder), None, 5, ("patch", "prompt", "answer"), device, "float32", 1, 4, 32, answer=ANSWER)
    run = replace(describe_run(setup, model, "0" * 64), tracked=(4, 17), tracked_pieces=("a", "b"))
    with ThreadPoolExecutor(2) as decoders:
        arrays, table = read_shard(model, lens_of(model, run), run, corpus, decoders)
    return arrays, table.to_pylist()


def test_a_gpu_reads_what_a_cpu_reads(folder: Path, corpus: pa.Table) -> None:
    expected, rows = arrays_of(folder, corpus, "cpu")
    found, again = arrays_of(folder, corpus, "cuda")
    assert found.keys() == expected.keys()
    for one, other in zip(rows, again, strict=True):
        logprobs, others = one.pop("answer_logprobs"), other.pop("answer_logprobs")
        assert one == other
        assert logprobs is others is None or others == pytest.approx(logprobs, abs=checks.NATS)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype == values.dtype
        if name.endswith(("token", "top1", "rank")):
            # Ids may change places where they are as probable.
            assert (found[name] == values).mean() > 0.99
        else:
            np.testing.assert_allclose(found[name], values, atol=1e-3 if name.startswith("sum/") else checks.NATS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_as_float64_reads_the_same_states(folder: Path, dtype: str) -> None:
    """The head's products are added up in float32 and not rounded: only the final norm is of the model's dtype."""
    model = load(str(folder), device="cuda", dtype=dtype, check_images=len(SIZES))
    batch = [model.encode(checks.noise(*size, seed=seed)) for seed, size in enumerate(SIZES)]
    image, place = model.places(batch, ("patch", "prompt"))
    lens = logit_lens(model, checks.K, 64)
    errors: list[float] = []

    def visit(layer: int, hidden: torch.Tensor) -> None:
        states = hidden[image, place]
        found = lens.read(layer, states, torch.zeros(0, len(place), device="cuda"))
        exact = torch.log_softmax(in_float64(model, states), -1)
        best = exact.topk(checks.K).values
        errors.append(float((found.logprob - best).abs().max()))
        errors.append(float((exact.gather(1, found.token.long()) - best).abs().max()))

    model.forward(batch, visit)
    assert len(errors) == 2 * model.layers
    assert max(errors) < checks.NATS


def test_compiled_blocks_read_the_same(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    readings = []
    for compiled in (False, True):
        model = load(str(folder), device="cuda", dtype="float32", check_images=len(SIZES), compiled=compiled)
        readings.append(checks.read(model, [checks.noise(*size, seed=seed) for seed, size in enumerate(SIZES)]))
    for before, after in zip(*readings, strict=True):
        for (_, logprob), (_, other) in zip(before, after, strict=True):
            np.testing.assert_allclose(other.cpu(), logprob.cpu(), atol=checks.NATS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_norms_of_blocks_are_kernels_that_give_the_same(folder: Path, dtype: str) -> None:
    model = load(str(folder), device="cuda", dtype=dtype)
    quick = [module for block in model.blocks for module in block.modules() if "forward" in module.__dict__]
    assert quick
    for norm in quick:
        states = torch.randn(2, 7, model.width, generator=torch.Generator().manual_seed(0)).to("cuda", model.dtype)
        with torch.no_grad():
            found, expected = norm(states), type(norm).forward(norm, states)
        assert found.dtype == expected.dtype
        few = 4 * torch.finfo(model.dtype).eps * expected.double().abs()
        assert bool(((found.double() - expected.double()).abs() <= few).all())
        one, other = (states.clone().requires_grad_() for _ in range(2))
        norm(one).float().square().sum().backward()
        type(norm).forward(norm, other).float().square().sum().backward()
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lenses_read_as_float64_reads_the_same_states(tmp_path: Path, dtype: str) -> None:
    """Where they multiply with half precision, products are added up in float32 and not rounded."""
    model = load(str(make_model(tmp_path / "model")), device="cuda", dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(32, 32, generator=generator) * 0.2).to("cuda", model.dtype)
    bias = torch.randn(32, generator=generator).cuda()
    states = torch.randn(40, 32, generator=generator).to("cuda", model.dtype)
    exact, embedding, head = states.double(), model.input_embedding.double(), model.lm_head.weight.double()  # type: ignore[operator, union-attr]
    moved = (exact + exact @ weight.double().T + bias.double()).to(model.dtype)
    directions = (exact / exact.norm(dim=-1, keepdim=True)).to(model.dtype).double()
    step = torch.finfo(model.dtype).eps
    with torch.inference_mode():
        found = {
            "head": plain.head(model)(0, states),
            "nearest": plain.nearest(model, 32**-0.5)(0, states),
            "tuned": tuned.unembed(model, {0: tuned.Translator(weight, bias)})(0, states),
        }
        expected = {
            "head": exact @ head.T,
            "nearest": directions @ embedding.T / embedding.norm(dim=-1) * 32**0.5,
            "tuned": in_float64(model, moved),
        }
    for name, logits in found.items():
        assert logits.dtype == torch.float32
        # What is rounded once to the model's dtype, a state or a direction, may be rounded to the other side.
        atol = checks.NATS if name == "head" else checks.NATS + 4 * step * float(expected[name].abs().max())
        torch.testing.assert_close(logits.double(), expected[name], atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_logits_of_states_that_are_kept(folder: Path, dtype: str) -> None:
    """By NumPy they are those of a GPU, which does not round products."""
    model = load(str(folder), device="cuda", dtype=dtype)
    run = make_run(dtype=dtype, keep="residual", layers=model.layers, width=model.width, device="cuda")
    data = unembedding.to_bytes(model, run)
    unembedding.check(model, run, data, lens_unembed(model, run))
    twin = Unembedding.of(np.frombuffer(data, np.uint8), "")
    assert not twin.recipe.rounds_products
    states = torch.randn(40, model.width, generator=torch.Generator().manual_seed(0)).to("cuda", model.dtype)
    with torch.inference_mode():
        own = model.unembed(states).float().cpu().numpy()
    found = twin.logits(twin.directions(0, states.float().cpu().numpy()), slice(None))
    # A normed number may be rounded to the other side.
    np.testing.assert_allclose(found, own, rtol=0, atol=4 * torch.finfo(model.dtype).eps * np.abs(own).max())


def test_a_tuned_lens_is_trained_on_a_gpu(tmp_path: Path, corpus: pa.Table) -> None:
    model = load(str(make_model(tmp_path / "model")), device="cuda", dtype="bfloat16", check_images=4)
    options = Options(steps=60, batch_size=4, positions_per_image=20)
    found = train(model, corpus.to_pylist(), options, lambda what, done, of: None)
    for layer in range(model.layers - 1):
        assert found.overall(layer).tuned < found.overall(layer).logit
        assert found.translators[layer].weight.dtype == model.dtype


def in_float64(model: LensModel, states: torch.Tensor) -> torch.Tensor:
    """Logits of a layer's states: the model's norm, and then everything in float64."""
    head = model.lm_head
    logits = model.final_norm(states).double() @ head.weight.double().T  # type: ignore[operator, union-attr]
    return model.finish(logits)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()
