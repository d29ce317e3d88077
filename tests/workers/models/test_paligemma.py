"""PaliGemma of both generations: the soft caps, the prefix that sees itself, and left padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlq.query.errors import ModelError
from vlq.query.image.geometry import patch_box
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.worker import Setup, describe_run

from . import checks
from .tiny import make_paligemma

# PaliGemmaProcessor makes NumPy arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(64, 64), (90, 40), (37, 80), (200, 150)]


@pytest.fixture(scope="module", params=[False, True], ids=["gemma", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_paligemma(tmp_path_factory.mktemp("model"), second=request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return checks.loaded(folder)


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    checks.reads_what_the_model_reads(model, [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)])


def test_every_layers_logits_are_capped(model: LensModel) -> None:
    hidden = torch.randn(5, 32) * 100
    decoder = model.model.model.language_model
    with torch.inference_mode():
        plain = model.model.lm_head(decoder.norm(hidden))
        found = model.unembed(hidden)
    if decoder.config.model_type == "gemma2":
        torch.testing.assert_close(found, 3.0 * torch.tanh(plain / 3.0))
        assert float(plain.abs().max()) > 4
    else:
        torch.testing.assert_close(found, plain)


def test_layer_0_is_what_enters_the_decoder(model: LensModel) -> None:
    """The text's embeddings times sqrt(d); the patches' as the projector gives them."""
    encoded = model.encode(checks.noise(60, 40))
    seen: list[torch.Tensor] = []
    model.forward([encoded], lambda layer, hidden: seen.append(hidden[0].clone()) if layer == 0 else None)
    table = model.model.model.language_model.embed_tokens.weight
    with torch.inference_mode():
        text = table[torch.tensor(model.prompt_ids)] * 32**0.5
        patches = model.model.model.get_image_features(encoded.values["pixel_values"]).pooler_output[0]
    torch.testing.assert_close(seen[0][encoded.sites["prompt"]], text)
    torch.testing.assert_close(seen[0][encoded.sites["patch"]], patches)


def test_left_padding_changes_nothing(folder: Path, model: LensModel) -> None:
    """A longer prompt beside it in the batch pads this one; all of the prefix sees all of it, but no padding."""
    longer = load(str(folder), prompt="<image>" + "What is the main object? " * 5)
    image = checks.noise(50, 70)
    short, long = model.encode(image), longer.encode(image)
    assert long.length >= short.length + 5

    def states(batch: list[checks.Encoded]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        model.forward(batch, lambda layer, hidden: found.append(hidden[0, -short.length :].clone()))
        return found

    alone, padded = states([short]), states([short, long])
    assert len(alone) == model.layers
    for one, other in zip(alone, padded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_prefix_is_seen_in_both_directions(model: LensModel) -> None:
    """Another last token changes the first patch's readings."""
    encoded = model.encode(checks.noise(50, 50))
    changed = dict(encoded.tokens) | {"input_ids": encoded.tokens["input_ids"].clone()}
    changed["input_ids"][-1] += 1
    other = checks.Encoded(changed, encoded.values, encoded.sites, encoded.grid, encoded.transform, encoded.size)
    found: list[torch.Tensor] = []
    for one in (encoded, other):
        model.forward([one], lambda layer, hidden: found.append(hidden[0, 0].clone()) if layer == 1 else None)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(64, 64), (180, 70), (70, 180), (24, 30), (30, 24)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    assert model.grid == (4, 4)
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_patches_need_not_fill_the_tower(tmp_path: Path) -> None:
    model = checks.loaded(make_paligemma(tmp_path / "model", size=36))
    encoded = model.encode(checks.noise(72, 144))
    assert encoded.grid == (4, 4)
    # Four pixels at the right and at the bottom, which are eight and sixteen of the image, are in no patch.
    assert patch_box(encoded.transform, (72, 144), encoded.grid, 15) == (48, 96, 64, 128)
    checks.patches_are_where_they_say(model, checks.noise(72, 144))


def test_attention_is_eager_where_its_logits_are_capped_and_the_run_says_so(folder: Path, model: LensModel) -> None:
    capped = model.model.config.text_config.model_type == "gemma2"
    setup = Setup(str(folder), None, 5, ("patch", "prompt"), "cpu", "float32", 1, 2, 2)
    assert setup.attention == "auto"
    assert describe_run(setup, model, "").attention == ("eager" if capped else "sdpa")


def test_a_question_follows_the_image(folder: Path, model: LensModel) -> None:
    assert model.prompt == "<image>answer en What is in this image?"
    text = model.tokenizer.convert_ids_to_tokens(model.prompt_ids)
    assert text[0] == "<s>"
    assert text[-1] == "<0x0A>"
    assert load(str(folder), prompt="<image>What is the dog").prompt == "<image>What is the dog"


def test_a_processor_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make_paligemma(tmp_path / "other")
    settings = json.loads((other / "processor_config.json").read_text())
    settings["image_processor"]["size"] = {"height": 48, "width": 48}
    (other / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="16 image positions in the prompt, but 36 for a grid of 6 x 6"):
        load(str(other))
