"""Images with prompts of their own are read, and answered, as by a model that has each as its one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from vlq.query.errors import ModelError
from vlq.query.schema import IMAGE_COLUMNS, Run
from vlq.workers.corpus import list_images
from vlq.workers.extract import read_shard
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import check
from vlq.workers.worker import Setup, describe_run

from ..conftest import save_images
from . import checks
from .test_answers import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(60, 40), (30, 70), (200, 120), (64, 64)]
SHORT, LONG = "dog?", "What is the main object in this image? What is the main dog?"
PROMPTS = [SHORT, LONG, "<image> is this the cat:", SHORT]


@pytest.mark.parametrize("family", MAKERS)
def test_each_image_is_asked_its_own(tmp_path: Path, family: str) -> None:
    torch.set_num_threads(1)
    model = load(str(MAKERS[family](tmp_path / family)), answer=True, questions=(SHORT, LONG))
    with torch.no_grad():  # random weights would answer with the image's own token, and that cannot be read anew
        model.lm_head.weight[model.image_token_id] = 0  # type: ignore[index]
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    encoded = [model.encode(*pair) for pair in zip(images, PROMPTS, strict=True)]
    assert len({len(one.sites["prompt"]) for one in encoded}) > 1
    read = checks.read(model, images, PROMPTS)
    answers = model.answer(encoded, 4, lambda layer, hidden: None)
    types = 1 if family.startswith("paligemma") else 0
    for image, prompt, found, answer in zip(images, PROMPTS, read, answers, strict=True):
        alone = checks.asked(model, prompt)
        expected = checks.of_the_model(alone, image)
        # What Qwen3's decoder adds behind its first blocks the states that its class returns do not tell.
        told = slice(-1, None) if family == "qwen3_vl" else slice(None)
        for (token, logprob), values in list(zip(found, expected, strict=True))[told]:
            checks.are_the_best(token.numpy(), logprob.numpy(), values)
        ids, logprobs = checks.answered(alone, image, 4, types)
        assert list(answer.ids) == ids
        assert answer.logprobs == tuple(pytest.approx(logprob, abs=checks.NATS) for logprob in logprobs)


def test_padding_that_is_seen_is_found_when_a_model_is_loaded(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checks.loaded(tiny_model)
    check(model, questions=(SHORT, LONG))
    whole = model.batch

    def unmasked(images: Any) -> dict[str, torch.Tensor]:
        hidden = ("attention_mask", "position_ids")
        return {name: values for name, values in whole(images).items() if name not in hidden}

    monkeypatch.setattr(model, "batch", unmasked)
    check(model)  # all prompts are as long, and nothing is padded
    with pytest.raises(ModelError, match="differs from the model's logits"):
        check(model, questions=(SHORT, LONG))


def test_prompts_that_cannot_be_read(tiny_model: Path) -> None:
    model = checks.loaded(tiny_model)
    with pytest.raises(ModelError, match="names the image 2 times"):
        model.encode(checks.noise(60, 40), "<image> or <image>?")
    with pytest.raises(ModelError, match="ends with the image"):
        model.encode(checks.noise(60, 40), "What is this? <image>")


# --- a shard of them -------------------------------------------------------------------------------------------

IMAGES = 7
QUESTIONS = [SHORT, LONG, SHORT, "<image> or <image>", "What is this?", LONG, SHORT]
BROKEN, UNASKED = 2, 3


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt="{question}", questions=(SHORT, LONG))


@pytest.fixture(scope="module")
def run(tiny_model: Path, model: LensModel) -> Run:
    sites = ("patch", "prompt")
    setup = Setup(
        str(tiny_model), "{question}", 5, sites, "cpu", "auto", 1, 3, IMAGES,
        prompt_column="question", questions=(SHORT, LONG),
    )  # fmt: skip
    return describe_run(setup, model, "0" * 64)


@pytest.fixture(scope="module")
def shard(
    model: LensModel, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, np.ndarray], pa.Table]]:
    folder = save_images(tmp_path_factory.mktemp("prompts"), IMAGES)
    (folder / f"{BROKEN:04d}.png").write_bytes(b"")
    rows = list_images(str(folder)).append_column("question", pa.array(QUESTIONS))
    with ThreadPoolExecutor(2) as decoders:
        yield folder, *read_shard(model, lens_of(model, run), run, rows, decoders)


def test_the_run(run: Run) -> None:
    assert (run.prompt, run.prompt_ids, run.prompt_column) == ("USER: <image>\n{question} ASSISTANT:", (), "question")
    assert run.shard_size == IMAGES
    assert Run.from_bytes(run.to_bytes(), "run.json") == run


def test_readings_sums_and_table(
    model: LensModel, run: Run, shard: tuple[Path, dict[str, np.ndarray], pa.Table]
) -> None:
    folder, arrays, table = shard
    assert table.column_names == [*IMAGE_COLUMNS, "prompt_ids", "question"]
    rows = table.to_pylist()
    assert [row["error"] for row in rows] == [
        {BROKEN: "empty file", UNASKED: "The prompt names the image 2 times."}.get(i) for i in range(IMAGES)
    ]
    last = np.zeros((run.layers, run.vocabulary_size))
    longest = len(checks.asked(model, LONG).prompt_ids)
    assert arrays["prompt/top1"].shape == (IMAGES, run.layers, longest)
    assert arrays["last/top1"].shape == (IMAGES, run.layers, 1)
    for number, row in enumerate(rows):
        if row["error"]:
            assert row["prompt_ids"] is None
            assert (arrays["last/top1"][number] == run.no_id).all()
            continue
        alone = checks.asked(model, QUESTIONS[number])
        assert tuple(row["prompt_ids"]) == alone.prompt_ids
        length = len(alone.prompt_ids)
        for layer, values in enumerate(checks.of_the_model(alone, Image.open(folder / row["image"]))):
            for site, own in (("patch", values[:16]), ("prompt", values[16:]), ("last", values[-1:])):
                token, logprob = (arrays[f"{site}/{name}"][number, layer, : len(own)] for name in ("token", "logprob"))
                checks.are_the_best(token, logprob, own)
                p = np.exp(own)
                entropy = arrays[f"{site}/entropy"][number, layer, : len(own)]
                np.testing.assert_allclose(entropy, -(p * own).sum(-1), atol=checks.NATS)
            assert (arrays["prompt/top1"][number, layer, length:] == run.no_id).all()
            last[layer] += np.exp(values[-1])
    np.testing.assert_allclose(arrays["sum/last"], last, atol=1e-4)


def test_prompts_that_are_alike_are_made_once(model: LensModel) -> None:
    one, other = (model.encode(checks.noise(60, 40, seed=i), SHORT) for i in range(2))
    assert one.sites is other.sites
    assert one.tokens is other.tokens
    assert not torch.equal(one.values["pixel_values"], other.values["pixel_values"])
    assert one.sites is not model.encode(checks.noise(60, 40), LONG).sites
