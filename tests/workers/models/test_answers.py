"""Answers: decoded greedily as the model itself would, with the lens at their tokens; for each family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from vlq.query.errors import ModelError
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import check_answers
from vlq.workers.models.encoded import Answer

from ..conftest import make_model
from . import checks, test_idefics3, test_qwen_vl, tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(60, 40), (30, 70), (200, 120)]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava": make_model,
    "llava_next": tiny.make_llava_next,
    "llava_onevision": tiny.make_llava_onevision,
    "internvl": tiny.make_internvl,
    "paligemma": tiny.make_paligemma,
    "paligemma2": partial(tiny.make_paligemma, second=True),
    "gemma3": tiny.make_gemma3,
    **{kind: partial(test_qwen_vl.make_model, kind=kind) for kind in test_qwen_vl.KINDS},
    "idefics3": partial(test_idefics3.make_model, kind="idefics3"),
}


@pytest.mark.parametrize("family", MAKERS)
def test_answers_are_the_models_own(tmp_path: Path, family: str) -> None:
    torch.set_num_threads(1)
    model = load(str(MAKERS[family](tmp_path / family)), answer=True)  # with what is checked of answers
    with torch.no_grad():  # random weights would answer with the image's own token, and that cannot be read anew
        model.lm_head.weight[model.image_token_id] = 0  # type: ignore[index]
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    # PaliGemma's prompt is seen in both directions, and what follows it in one: that is what the types tell it.
    checks.answers_what_the_model_answers(model, images, types=1 if family.startswith("paligemma") else 0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return checks.loaded(tiny_model)


def test_an_answer_ends_where_the_model_ends_it(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = [model.encode(checks.noise(*size, seed=i)) for i, size in enumerate(SIZES)]
    whole = model.answer(encoded, 6, lambda layer, hidden: None)
    assert {len(answer.ids) for answer in whole} == {6}
    # Whatever is answered third in the first image ends answers now.
    end = whole[0].ids[2]
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", end)
    monkeypatch.delitem(model.__dict__, "ends")
    ended = model.answer(encoded, 6, lambda layer, hidden: None)
    for before, after in zip(whole, ended, strict=True):
        length = before.ids.index(end) if end in before.ids else 6
        assert after.ids == before.ids[:length]
        assert after.states.shape[1] == length
        assert torch.allclose(after.states, before.states[:, :length], atol=1e-5)
    monkeypatch.delitem(model.__dict__, "ends")


def test_what_a_folder_says_of_sampling_is_of_no_account(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = [model.encode(checks.noise(60, 40))]
    (expected,) = model.answer(encoded, 6, lambda layer, hidden: None)
    settings: dict[str, Any] = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "min_new_tokens": 20}
    for name, value in settings.items():
        monkeypatch.setattr(model.model.generation_config, name, value)
    (found,) = model.answer(encoded, 6, lambda layer, hidden: None)
    assert found.ids == expected.ids


def test_the_prompt_is_read_as_without_an_answer(model: LensModel) -> None:
    encoded = [model.encode(checks.noise(*size, seed=i)) for i, size in enumerate(SIZES)]
    with_answer: list[torch.Tensor] = []
    without: list[torch.Tensor] = []
    model.answer(encoded, 3, lambda layer, hidden: with_answer.append(hidden.clone()))
    model.forward(encoded, lambda layer, hidden: without.append(hidden.clone()))
    assert len(with_answer) == len(without) == model.layers
    for a, b in zip(with_answer, without, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_answers_that_the_lens_does_not_lead_to_are_refused(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = [model.encode(checks.noise(60, 40))]
    check_answers(model, encoded)
    own = model.answer

    def shifted(*arguments: Any) -> list[Answer]:
        """The states of each token are those of the one before it."""
        return [replace(answer, states=answer.states.roll(1, 1)) for answer in own(*arguments)]

    monkeypatch.setattr(model, "answer", shifted)
    with pytest.raises(ModelError, match="not what the lens reads in front of them"):
        check_answers(model, encoded)
