"""Images as tokens of the decoder's own vocabulary: which, and what the lens makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from vlq.query.errors import ModelError
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import check

from . import checks, zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return zoo.chameleon(tmp_path_factory.mktemp("models") / "chameleon")


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return checks.loaded(folder)


@torch.inference_mode()
def test_tokens_of_images_are_in_the_sequence_and_have_no_probability(model: LensModel) -> None:
    """At each layer: the others' logits are norm and head, as if these were not there."""
    encoded = model.encode(checks.noise(60, 40))
    vocabulary = model.tokenizer.get_vocab()
    codes = torch.tensor([id for piece, id in vocabulary.items() if piece.startswith("IMGIMG")])
    assert len(codes) == zoo.CODES
    in_sequence = model.batch([encoded])["input_ids"][0]
    assert {*in_sequence[encoded.sites["patch"]].tolist()} <= {*codes.tolist()}
    assert torch.equal(in_sequence[encoded.sites["prompt"]], torch.tensor(model.prompt_ids))
    lens = logit_lens(model, 5, 64)

    def visit(layer: int, hidden: torch.Tensor) -> None:
        logits = model.model.lm_head(model.model.model.norm(hidden[0]))
        logits[:, codes] = -torch.inf
        expected = torch.log_softmax(logits.double(), -1)
        found = lens.read(layer, hidden[0], torch.ones(1, len(hidden[0])))
        checks.are_the_best(found.token.numpy(), found.logprob.numpy(), expected.numpy())
        entropy = torch.special.entr(expected.exp()).sum(-1)
        torch.testing.assert_close(found.entropy.double(), entropy, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.mass[0].double(), expected.exp().sum(0), atol=1e-4, rtol=0)

    model.forward([encoded], visit)


def test_logits_may_be_differentiated(model: LensModel) -> None:
    """As those of a lens that is trained are, behind some that nobody wants gradients of."""
    hidden = torch.randn(3, model.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.inference_mode():
        expected = model.unembed(hidden)
    logits = model.finish(model.lm_head(model.final_norm(hidden)))
    assert torch.equal(logits, expected)
    (gradient,) = torch.autograd.grad(torch.logsumexp(logits, -1).sum(), hidden)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0


def test_a_lens_that_is_not_the_models_is_told(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest number there is does not count as a large logit, of which much would be noise."""
    own = model.unembed
    check(model)
    monkeypatch.setattr(model, "unembed", lambda hidden: own(hidden + 0.1))
    with pytest.raises(ModelError, match="the lens at the last layer differs from the model's logits"):
        check(model)


@pytest.mark.parametrize("size", [(64, 64), (180, 70), (70, 180), (24, 30), (30, 24)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    assert model.grid == (4, 4)
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_codes_do_not_depend_on_what_is_beside_an_image(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch is rounded otherwise than an image alone, as on a GPU, another code may be the nearest."""
    own = model.model.model.get_image_tokens
    monkeypatch.setattr(
        model.model.model, "get_image_tokens", lambda pixel_values: own(pixel_values) + len(pixel_values) - 1
    )
    images = [model.encode(checks.noise(60, 40, seed=i)) for i in range(3)]
    together = model.batch(images)["input_ids"]
    assert torch.equal(together, torch.cat([model.batch([image])["input_ids"] for image in images]))


def test_a_question_ends_as_the_processor_has_it_and_a_whole_prompt_as_it_is(folder: Path, model: LensModel) -> None:
    image = checks.noise(60, 40)
    its = AutoProcessor.from_pretrained(folder, backend="pil")
    for prompt, text in (("What is the dog", "<image>What is the dog"), (None, "<image>What is in this image?")):
        expected = its(images=image, text=text, return_tensors="pt")
        found = model.encode(image, model.full_prompt(model.processor, prompt))
        assert torch.equal(found.tokens["input_ids"], expected["input_ids"][0])
        assert torch.equal(found.values["pixel_values"], expected["pixel_values"])
    whole = "What is <image> this"
    expected = its(images=image, text=whole, return_for_text_completion=True, return_tensors="pt")
    found = model.encode(image, whole)
    assert torch.equal(found.tokens["input_ids"], expected["input_ids"][0])
    assert model.tokenizer.convert_ids_to_tokens(found.tokens["input_ids"][-1].item()) == "▁this"


def test_a_long_prompt_in_front_is_run_once(folder: Path) -> None:
    prompt = "What is the main object in this image? " * 2 + "<image> What is this?"
    model = load(str(folder), prompt=prompt, answer=True)
    assert model.prefix is not None
    with torch.no_grad():
        model.lm_head.weight[model.image_token_id] = 0  # type: ignore[index]
    images = [checks.noise(60, 40), checks.noise(30, 70)]
    checks.reads_what_the_model_reads(model, images)
    checks.answers_what_the_model_answers(model, images)


def test_a_processor_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = zoo.chameleon(tmp_path / "model")
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_seq_length": 36}))
    with pytest.raises(ModelError, match="36 image positions in the prompt, but 16 for a grid of 4 x 4"):
        load(str(folder))


# --- Emu3: rows that end with a token -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emu3(tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    return checks.loaded(zoo.emu3(tmp_path_factory.mktemp("models") / "emu3"))


def test_rows_end_and_sizes_are_written_beside_patches_and_prompt(emu3: LensModel) -> None:
    encoded = emu3.encode(checks.noise(64, 24), "What is <image> this")
    rows, columns = encoded.grid
    assert (rows, columns) == (3, 8)
    pieces = emu3.tokenizer.convert_ids_to_tokens(emu3.batch([encoded])["input_ids"][0].tolist())
    first = pieces.index("<|image token|>") + 1
    for row in range(rows):
        start = first + row * (columns + 1)
        assert all(piece.startswith("<|visual token") for piece in pieces[start : start + columns])
        assert pieces[start + columns] == "<|extra_200|>"
        assert encoded.sites["patch"][row * columns :][:columns].tolist() == [*range(start, start + columns)]
    prompt = emu3.tokenizer.convert_ids_to_tokens(encoded.tokens["input_ids"][encoded.sites["prompt"]].tolist())
    assert prompt == ["<s>", "▁What", "▁is", "▁", "<|image start|>", "<|image end|>", "▁", "▁this"]


def test_a_question_has_the_tokens_of_its_template(emu3: LensModel) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is the dog"}]
    messages = [{"role": "user", "content": content}]
    text = emu3.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    image = checks.noise(60, 40)
    expected = emu3.processor(images=image, text=text, return_tensors="pt")
    assert torch.equal(emu3.encode(image, "What is the dog").tokens["input_ids"], expected["input_ids"][0])


def test_codes_of_an_image_do_not_see_what_fills_it_up(emu3: LensModel) -> None:
    """Beside a larger image it is filled up with zeros, which the tower would take for a part of it."""
    small, large = emu3.encode(checks.noise(40, 24)), emu3.encode(checks.noise(90, 120))
    together = emu3.batch([large, small])["input_ids"]
    assert torch.equal(together[1, -small.length :], emu3.batch([small])["input_ids"][0])
    inputs = checks.inputs_of(emu3, checks.noise(40, 24))
    codes = emu3.model.model.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
    places = small.tokens["input_ids"] == emu3.image_token_id
    assert torch.equal(together[1, -small.length :][places], codes.long())


@pytest.mark.parametrize("size", [(30, 1), (30, 3), (3, 30), (1, 1)], ids=str)
def test_images_a_pixel_or_three_high(emu3: LensModel, size: tuple[int, int]) -> None:
    """Which look like channels of others."""
    image, images = checks.noise(*size), emu3.processor.image_processor
    encoded = emu3.encode(image)
    width, height = encoded.transform.width, encoded.transform.height
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) / 255
    expected = ((resized - images.image_mean) / images.image_std).transpose(2, 0, 1)
    np.testing.assert_allclose(encoded.values["pixel_values"][0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (200, 70), (70, 180), (24, 30), (41, 27)], ids=str)
def test_patches_of_images_that_keep_their_shape(emu3: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(emu3, checks.noise(*size))


@pytest.mark.parametrize("settings", [{"do_resize": False}, {"spatial_factor": 12}], ids=str)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = zoo.emu3(tmp_path / "model")
    path = folder / "processor_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"image_processor": saved["image_processor"] | settings}))
    with pytest.raises(ModelError, match="the model has a code for each 8"):
        load(str(folder))
