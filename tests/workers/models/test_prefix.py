"""What a prompt has in front of its image is run once: everything is read as if it were run with each image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlq.query.schema import Run
from vlq.workers.extract import BatchReader, Read
from vlq.workers.lens import Lens
from vlq.workers.lenses import lens_of
from vlq.workers.models import load, prefix
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import share_prefix
from vlq.workers.models.encoded import Encoded
from vlq.workers.models.prefix import Prefix
from vlq.workers.worker import Setup, describe_run

from ..conftest import make_model
from . import checks, test_idefics3, test_qwen_vl, test_zoo, tiny, zoo

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPT = "USER: a dog on a beach beside a rock. <image>\nWhat is this? ASSISTANT:"

SIZES = [(64, 64), (96, 40), (35, 80)]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava": make_model,
    "llava_next": tiny.make_llava_next,
    "internvl": tiny.make_internvl,
    "vipllava": tiny.make_vipllava,
    "qwen2_vl": partial(test_qwen_vl.make_model, kind="qwen2_vl"),
    "qwen3_vl": partial(test_qwen_vl.make_model, kind="qwen3_vl"),
    "idefics3": partial(test_idefics3.make_model, kind="idefics3"),
    "glm4v": zoo.MERGED["glm4v"],
    "hyperclovax_vision_v2": zoo.ALIKE["hyperclovax_vision_v2"],  # whose decoder numbers an answer's tokens itself
    "qwen3_vl_moe": zoo.MERGED["qwen3_vl_moe"],
    "mistral3": zoo.PIXTRAL["mistral3"],
    "ovis2": zoo.ovis2,
}

WHOLE: dict[str, Callable[[Path], Path]] = {
    "aya_vision": tiny.make_aya_vision,  # windows
    "ernie4_5_vl_moe": zoo.MERGED["ernie4_5_vl_moe"],  # experts by position
    "gemma3": tiny.make_gemma3,  # an image's patches see one another
    "gemma4": zoo.gemma4,
    "paligemma": tiny.make_paligemma,  # so does all of the prompt
    "qwen3_5": zoo.MERGED["qwen3_5"],  # linear attention
    "lfm3_vl": zoo.ALIKE["lfm3_vl"],  # convolutions
}


def loaded(make: Callable[[Path], Path], folder: Path, **options: Any) -> LensModel:
    torch.set_num_threads(1)
    model = load(str(make(folder)), **{"prompt": PROMPT, "answer": True, **options})
    with torch.no_grad():  # random weights would answer with the image's own tokens, and these cannot be read anew
        model.lm_head.weight[model.image_token_id] = 0  # type: ignore[index]
        model.lm_head.weight[model.tokenizer.convert_tokens_to_ids("▁") :] = 0  # type: ignore[index]
    return model


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    return loaded(MAKERS[request.param], tmp_path_factory.mktemp("models") / request.param)


def images_of(model: LensModel) -> list[Encoded]:
    return [model.encode(checks.noise(*size, seed=i)) for i, size in enumerate(SIZES)]


def positions_run(model: LensModel, batch: Sequence[Encoded]) -> int:
    """How many positions of each sequence go through the decoder's first block."""
    counts: list[int] = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        counts.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    with model.blocks[0].register_forward_pre_hook(count, with_kwargs=True):
        model.forward(batch, lambda layer, hidden: None)
    (found,) = counts
    return found


def test_layers_and_answers_are_the_models_own(model: LensModel) -> None:
    """As its class in transformers gives them for the whole of each sequence."""
    batch, images = images_of(model), [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    found = model.prefix_of(batch)
    assert found is not None
    # All that is in front of the image, by the tokens themselves.
    assert all(model.image_token_id == one.tokens["input_ids"][found.length] for one in batch)
    assert positions_run(model, batch) == max(one.length for one in batch) - found.length
    amend = test_zoo.with_deepstack if "deepstack" in str(model.model.config.vision_config) else None
    checks.reads_what_the_model_reads(model, images, amend)
    checks.answers_what_the_model_answers(model, images, most=3)


def run_of(model: LensModel, folder: Path, **options: Any) -> Run:
    setup = Setup(str(folder), PROMPT, 5, ("patch", "prompt"), "cpu", "auto", 1, 8, 32)
    return describe_run(replace(setup, **options), model, "0" * 64)


def read(model: LensModel, run: Run, batch: Sequence[Encoded]) -> tuple[list[Read], dict[str, np.ndarray]]:
    reader = BatchReader(model, lens_of(model, run), run)
    found = reader.begin(batch, [""] * len(batch))()
    return found, reader.sums()


OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "prompt": {"at": ("prompt",)},
    "patch": {"at": ("patch",)},
    "answer": {"at": ("patch", "prompt", "answer"), "answer": 3},
    "layers": {"layers": (0, 2)},
    "residual": {"keep": "residual"},
    "all": {"keep": "all", "at": ("prompt",)},
}


@pytest.fixture(scope="module", params=["llava", "qwen3_vl", "idefics3"])
def cached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LensModel, Path]:
    folder = tmp_path_factory.mktemp("models") / request.param
    return loaded(MAKERS[request.param], folder), folder


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_stored_is_that_of_whole_sequences(
    cached: tuple[LensModel, Path], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = cached
    run, batch = run_of(model, folder, **OPTIONS[options]), images_of(model)
    found, sums = read(model, run, batch)
    monkeypatch.setattr(model, "prefix", None)
    whole, whole_sums = read(model, run, batch)
    for one, expected in zip(found, whole, strict=True):
        assert one.arrays.keys() == expected.arrays.keys()
        for name, values in expected.arrays.items():
            assert one.arrays[name].shape == values.shape
            assert one.arrays[name].dtype == values.dtype
            if name.endswith(("token", "top1", "tracked_rank")):
                assert (one.arrays[name] == values).mean() > 0.99
            else:
                np.testing.assert_allclose(one.arrays[name], values, atol=checks.NATS)
        if run.answer:
            assert one.answer is not None
            assert expected.answer is not None
            assert one.answer.ids == expected.answer.ids
    for name, values in whole_sums.items():
        np.testing.assert_allclose(sums[name], values, atol=1e-3)


def test_the_prefix_is_read_once(cached: tuple[LensModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = cached
    run, batch = run_of(model, folder), images_of(model)
    rows: list[int] = []
    own = Lens.read

    def counted(lens: Lens, layer: int, hidden: Tensor, weights: Tensor) -> Any:
        rows.append(len(hidden))
        return own(lens, layer, hidden, weights)

    monkeypatch.setattr(Lens, "read", counted)
    reader = BatchReader(model, lens_of(model, run), run)
    for _ in range(2):
        reader.begin(batch, [""] * len(batch))()
    assert model.prefix is not None
    in_front = sum(int((one.sites["prompt"] < model.prefix.length).sum()) for one in batch)
    every = sum(len(one.sites[site]) for one in batch for site in ("patch", "prompt"))
    assert sum(rows) == run.layers * (2 * (every - in_front) + model.prefix.length)


QUESTIONS = ["dog?", "What is the main object in this image? What is the main dog?", "a rock?"]


def test_images_that_are_asked_otherwise_begin_alike(tmp_path: Path) -> None:
    """Questions go behind the image, and differ in length, so that a batch of one grid is padded."""
    model = loaded(make_model, tmp_path / "model", prompt=None, questions=QUESTIONS[:2])
    image = checks.noise(64, 64)
    batch = [model.encode(image, question) for question in QUESTIONS]
    assert model.prefix_of(batch) is not None
    assert len({one.length for one in batch}) > 1
    for question, found in zip(QUESTIONS, checks.read(model, [image] * len(QUESTIONS), QUESTIONS), strict=True):
        expected = checks.of_the_model(checks.asked(model, question), image)
        for (token, logprob), values in zip(found, expected, strict=True):
            checks.are_the_best(token.numpy(), logprob.numpy(), values)


@pytest.mark.parametrize("options", [{"attention": "eager"}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_it_is_done_whatever_attention_and_dtype(tmp_path: Path, options: dict[str, Any]) -> None:
    """The checks at load hold readings and answers against those of whole sequences."""
    model = loaded(MAKERS["qwen2_vl"], tmp_path / "model", **options)
    batch = images_of(model)
    assert positions_run(model, batch) < max(one.length for one in batch)


# --- where it is not done ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WHOLE)
def test_whole_sequences_are_run_where_more_than_keys_and_values_counts(tmp_path: Path, family: str) -> None:
    assert loaded(WHOLE[family], tmp_path / family).prefix is None


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    return loaded(make_model, tmp_path_factory.mktemp("models") / "llava")


def test_a_batch_in_which_an_image_is_asked_otherwise_is_run_whole(llava: LensModel) -> None:
    image = checks.noise(64, 64)
    alike, other = llava.encode(image), llava.encode(image, "<image> is this the cat:")
    assert llava.prefix_of([alike, alike]) is llava.prefix
    assert llava.prefix_of([alike, other]) is None
    assert positions_run(llava, [alike, other]) == alike.length


def test_a_small_share_is_run_with_each_image(llava: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images_of(llava)
    assert llava.prefix is not None
    assert llava.prefix_of(batch)
    monkeypatch.setattr(prefix, "LEAST_SHARE", llava.prefix.length / batch[0].length + 1e-6)
    assert llava.prefix_of(batch) is None


def test_nothing_is_in_front_of_an_image_that_comes_first(tmp_path: Path) -> None:
    model = loaded(make_model, tmp_path / "model", prompt="<image> What is this?")
    assert int(model.encode(checks.noise(64, 64)).sites["patch"][0]) == 0
    assert model.prefix is None


def test_one_that_changes_readings_is_left_out(
    llava: LensModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right, tried = llava.prefix, images_of(llava)
    assert right is not None
    wrong = replace(right, kept=[(keys, values.roll(1, 2)) for keys, values in right.kept])
    monkeypatch.setattr(llava, "prefix", None)
    with caplog.at_level(logging.INFO, "vlq.workers"):
        monkeypatch.setattr(Prefix, "of", lambda *arguments: wrong)
        share_prefix(llava, tried)
    assert llava.prefix is None
    assert "differs from the model's logits" in caplog.text
    monkeypatch.setattr(Prefix, "of", lambda *arguments: right)
    share_prefix(llava, tried)
    assert llava.prefix is right


def test_answers_that_it_changes_leave_it_out(llava: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings are the same, and the answers' tokens find other keys and values cached."""
    right, tried = llava.prefix, images_of(llava)
    assert right is not None
    own = Prefix._cache

    def spoiled(one: Prefix, cache: Any, rows: int) -> Any:
        found = own(one, cache, rows)
        if cache is None:
            return found
        update = found.update

        def late(keys: Tensor, values: Tensor, block: int, *others: Any, **more: Any) -> Any:
            found.layers[block].values = found.layers[block].values * (1 if keys.shape[2] > 1 else 2)
            return update(keys, values, block, *others, **more)

        found.update = late
        return found

    monkeypatch.setattr(llava, "prefix", None)
    monkeypatch.setattr(Prefix, "of", lambda *arguments: right)
    monkeypatch.setattr(Prefix, "_cache", spoiled)
    share_prefix(llava, tried)
    assert llava.prefix is right
    monkeypatch.setattr(llava, "prefix", None)
    share_prefix(llava, tried, answer=True)
    assert llava.prefix is None


def test_columns_that_depend_on_the_batch_are_left_as_they_are(
    llava: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava, "prefix", None)
    monkeypatch.setattr(llava.model, "is_loaded_in_8bit", True, raising=False)
    share_prefix(llava, images_of(llava))
    assert llava.prefix is None
