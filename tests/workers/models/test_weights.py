"""How a model is loaded: how its attention is computed, and which of its weights are quantised."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.quantizers.quantizers_utils import should_convert_module

import vlq.workers.models.weights as weights
from vlq.query.errors import MissingExtra, ModelError
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.worker import Setup, describe_run

from ..conftest import make_model
from . import checks, tiny
from .test_answers import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(64, 64), (90, 40), (37, 80)]
IMAGES = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def edited(folder: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def alike(first: LensModel, second: LensModel, nats: float) -> bool:
    pairs = zip(checks.of_the_model(first, IMAGES[0]), checks.of_the_model(second, IMAGES[0]), strict=True)
    return all(np.abs(a - b).max() <= nats for a, b in pairs)


# --- attention -------------------------------------------------------------------------------------------------


def test_attention_is_as_asked_for_and_reads_the_same(tiny_model: Path) -> None:
    models = {attention: load(str(tiny_model), attention=attention) for attention in ("auto", "sdpa", "eager")}
    assert {name: model.attention for name, model in models.items()} == {
        "auto": "sdpa",
        "sdpa": "sdpa",
        "eager": "eager",
    }
    blocks = models["eager"].model.model.language_model.layers
    assert blocks[0].self_attn.config._attn_implementation == "eager"
    assert alike(models["auto"], models["eager"], checks.NATS)
    setup = Setup(str(tiny_model), None, 5, ("patch",), "cpu", "auto", 1, 2, 2)
    assert describe_run(setup, models["eager"], "").attention == "eager"


def test_attention_that_a_model_cannot_compute(tmp_path: Path) -> None:
    folder = str(tiny.make_paligemma(tmp_path / "model", second=True))
    with pytest.raises(ModelError, match=r"read with --attention sdpa: Gemma2Model does not support") as caught:
        load(folder, attention="sdpa")
    assert caught.value.hint == "Run with --attention auto."
    assert len(caught.value.message) < 300


def test_flash_attention_where_it_cannot_be(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**options: str) -> str:
        with pytest.raises((ModelError, MissingExtra)) as caught:
            load(str(tiny_model), attention="flash_attention_2", **options)  # type: ignore[arg-type]
        return str(caught.value)

    assert refused() == "Flash attention needs a GPU.\nRun with --attention auto."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "--dtype bfloat16" in refused(device="cuda", dtype="float32")
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    assert "needs flash-attn, which is not installed.\nRun: pip install flash-attn" in refused(device="cuda")
    # It may be there, and not be what transformers wants.
    monkeypatch.setattr(weights, "find_spec", lambda name: name)
    assert "cannot be read with --attention flash_attention_2: FlashAttention2" in refused(device="cuda")


# --- quantisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*MAKERS, "vipllava"])
def test_what_is_quantised_are_the_linear_layers_of_the_decoders_blocks(tmp_path: Path, family: str) -> None:
    torch.set_num_threads(1)
    folder = (MAKERS | {"vipllava": tiny.make_vipllava})[family](tmp_path / family)
    kept = weights.kept_as_stored(folder)
    model = load(str(folder))
    names = {id(module): name for name, module in model.model.named_modules()}
    linear = {names[id(module)] for module in model.model.modules() if isinstance(module, torch.nn.Linear)}
    inside = {names[id(module)] for block in model.blocks for module in block.modules()} & linear
    assert inside
    assert inside < linear
    assert {name for name in linear if should_convert_module(name, kept)} == inside


def test_what_is_missing_for_quantisation(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        load(str(tiny_model), quantize="4bit")
    assert str(caught.value) == (
        "Quantisation needs bitsandbytes and accelerate, which are not installed.\nRun: pip install 'vlq[quantized]'"
    )
    stored = edited(tiny_model, tmp_path / "bnb", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(MissingExtra, match=r"bnb, which is stored quantised, needs bitsandbytes"):
        load(str(stored))


def test_what_is_stored_quantised_is_not_quantised_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "check_quantizer", lambda what: None)
    stored = edited(tiny_model, tmp_path / "gptq", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match=r"gptq is stored quantised, by gptq\.") as caught:
        load(str(stored), quantize="8bit")
    assert caught.value.hint == "Leave --quantize out."


@needs_bitsandbytes
@pytest.mark.parametrize(("to", "dtype"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_a_quantised_model(tiny_model: Path, to: str, dtype: torch.dtype) -> None:
    plain, model = load(str(tiny_model)), load(str(tiny_model), quantize=to, answer=True)  # with the checks at load
    assert model.dtype == torch.float32
    stored = dict(plain.model.named_parameters())
    for name, parameter in model.model.named_parameters():
        if ".language_model.layers." in name and "norm" not in name:
            assert parameter.dtype == dtype
        else:
            assert torch.equal(parameter, stored[name])
    assert not alike(plain, model, 1e-2)
    setup = Setup(str(tiny_model), None, 5, ("patch",), "cpu", "auto", 1, 2, 2, quantize=to)
    run = describe_run(setup, model, "")
    assert (run.quantized, run.identity()["quantized"], run.dtype) == (to, to, "float32")
    assert run.versions["bitsandbytes"] == version("bitsandbytes")


@needs_bitsandbytes
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("to", weights.QUANTIZATIONS)
@pytest.mark.parametrize("device_map", [None, "auto"])
def test_a_quantised_model_on_a_gpu(tiny_model: Path, to: str, device_map: str | None) -> None:
    how = {"device": "cuda", "dtype": "bfloat16", "device_map": device_map}
    model = load(str(tiny_model), quantize=to, answer=True, check_images=4, **how)  # type: ignore[arg-type]
    assert (model.device.type, model.dtype) == ("cuda", torch.bfloat16)


@needs_bitsandbytes
def test_four_bits_are_nf4(tmp_path: Path) -> None:
    """The plain model with its weights rounded to 16 values times a scale for each 64 (Dettmers et al., 2023)."""
    folder = str(make_model(tmp_path / "model", width=64))
    values = torch.tensor([-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0])
    upper = [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
    values = torch.cat([values, torch.tensor(upper)])
    plain, model = load(folder), load(folder, quantize="4bit")
    for block in plain.blocks:
        for module in block.modules():
            if isinstance(module, torch.nn.Linear):
                rows = module.weight.data.reshape(-1, 64)
                scale = rows.abs().amax(1, keepdim=True)
                nearest = ((rows / scale)[..., None] - values).abs().argmin(-1)
                module.weight.data = (values[nearest] * scale).reshape(module.weight.shape)
    assert alike(plain, model, checks.NATS)


@needs_bitsandbytes
def test_four_bits_do_not_depend_on_the_batch(tiny_model: Path) -> None:
    model = load(str(tiny_model), quantize="4bit")
    together = checks.read(model, IMAGES)
    for image, batched in zip(IMAGES, together, strict=True):
        for (token, logprob), (other, others) in zip(checks.read(model, [image])[0], batched, strict=True):
            assert torch.equal(token, other)
            torch.testing.assert_close(logprob, others, atol=checks.NATS, rtol=0)


@needs_bitsandbytes
@pytest.mark.parametrize("to", weights.QUANTIZATIONS)
def test_half_precision_stays_half(tiny_model: Path, to: str) -> None:
    model = load(str(tiny_model), quantize=to, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    linear = model.model.model.language_model.layers[0].mlp.gate_proj
    assert getattr(linear, "compute_dtype", torch.bfloat16) == torch.bfloat16
