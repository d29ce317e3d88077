"""Training a tuned lens: what it brings nearer, measured by numpy in float64, and what it leaves alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlq.query.errors import InputError
from vlq.workers.corpus import list_images
from vlq.workers.lenses import train as training
from vlq.workers.lenses.train import Options, Trained, chosen, train
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from ..conftest import save_images
from ..models.tiny import make_llava_next, make_paligemma
from . import exact

IMAGES = 24
OPTIONS = Options(steps=120, holdout=0.25, positions_per_image=1000)


def rows(images: Path) -> list[dict[str, Any]]:
    return list_images(str(images)).to_pylist()


def quiet(what: str, done: int, of: int) -> None:
    pass


@pytest.fixture(scope="module")
def trained(model: LensModel, images: Path) -> Trained:
    return train(model, rows(images), OPTIONS, quiet)


def same(one: Trained, other: Trained) -> bool:
    return one.metrics == other.metrics and all(
        torch.equal(translator.weight, other.translators[layer].weight)
        and torch.equal(translator.bias, other.translators[layer].bias)
        for layer, translator in one.translators.items()
    )


def test_it_brings_layers_nearer_to_the_last(model: LensModel, images: Path, trained: Trained, tmp_path: Path) -> None:
    """At images that it has not seen, and by as much as it says of those that were held out."""
    for layer, translator in trained.translators.items():
        (tmp_path / f"layer-{layer:04d}.safetensors").write_bytes(translator.to_bytes())
    order = np.random.default_rng(OPTIONS.seed).permutation(IMAGES)
    held_out = [sorted(images.iterdir())[number] for number in order[: trained.held_out]]
    fresh = sorted(save_images(tmp_path / "fresh", 6, seed=5).iterdir())
    assert (trained.trained_on, trained.held_out) == (18, 6)
    for some in (held_out, fresh):
        found = [figures(model, tmp_path, image) for image in exact.opened(some)]
        before, after = (np.concatenate(each, -1) for each in zip(*found, strict=True))  # (layer, position)
        assert sorted(trained.translators) == [0, 1, 2]
        for layer in range(3):
            assert after[layer].mean() < 0.8 * before[layer].mean()
        assert (before[3], after[3]) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
        if some is held_out:
            is_patch = np.arange(before.shape[1]) % (before.shape[1] // len(some)) < 16
            for layer, sites in enumerate(trained.metrics):
                for site, mask in (("patch", is_patch), ("prompt", ~is_patch)):
                    figure = sites[site]
                    assert figure.positions == mask.sum()
                    assert figure.logit == pytest.approx(before[layer, mask].mean(), abs=1e-4)
                    assert figure.tuned == pytest.approx(after[layer, mask].mean(), abs=1e-4)
                overall = trained.overall(layer)
                assert overall.logit == pytest.approx(before[layer].mean(), abs=1e-4)
                assert overall.positions == before.shape[1]


def figures(model: LensModel, folder: Path, image: Any) -> tuple[np.ndarray, np.ndarray]:
    """(layer, position) how far the logit lens is from the last layer, and the tuned lens in a folder."""
    states = exact.states_of(model, image)
    target = exact.logit(model, states[-1])
    lenses = exact.logit(model, states), exact.tuned(model, folder, states)
    before, after = (np.stack([exact.divergence(target, layer) for layer in lens]) for lens in lenses)
    return before, after


def test_the_seed_decides(model: LensModel, images: Path) -> None:
    options = replace(OPTIONS, steps=5, positions_per_image=6)
    one = train(model, rows(images), options, quiet)
    assert same(one, train(model, rows(images), options, quiet))
    assert not same(one, train(model, rows(images), replace(options, seed=1), quiet))


def test_nothing_is_learned_from_what_is_held_out(model: LensModel, images: Path, tmp_path: Path) -> None:
    """Other pictures in their place change the figures, and no weight."""
    options = replace(OPTIONS, steps=5)
    before = train(model, rows(images), options, quiet)
    shutil.copytree(images, tmp_path / "images")
    others = sorted(save_images(tmp_path / "others", 6, seed=9).iterdir())
    order = np.random.default_rng(OPTIONS.seed).permutation(IMAGES)
    for number, other in zip(order[:6], others, strict=True):
        shutil.copy(other, tmp_path / "images" / f"{number:04d}.png")
    after = train(model, rows(tmp_path / "images"), options, quiet)
    assert after.metrics != before.metrics
    assert same(replace(after, metrics=before.metrics), before)


def test_a_buffer_that_does_not_hold_all(model: LensModel, images: Path) -> None:
    """It is filled several times, and never beyond its size; every image is learned from once."""
    seen: list[int] = []

    def watch(what: str, done: int, of: int) -> None:
        if what == "reading images" and done == of:
            seen.append(of)

    of_image = 4 * 32 * 4 * 10  # layers, d, bytes, positions
    options = replace(OPTIONS, positions_per_image=10, buffer=5 * of_image + 1)
    found = train(model, rows(images), options, watch)
    assert seen == [5, 5, 5, 3]
    assert sorted(found.translators) == [0, 1, 2]


def test_a_layer_that_got_worse_is_left_alone(
    model: LensModel, images: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = training.Learner.translator

    def worse(self: training.Learner, model: LensModel) -> Any:
        made = wanted(self, model)
        if torch.equal(made.weight, trained.translators[1].weight):
            made.bias.add_(100)
        return made

    monkeypatch.setattr(training.Learner, "translator", worse)
    found = train(model, rows(images), OPTIONS, quiet)
    assert sorted(found.translators) == [0, 2]
    assert found.overall(1).tuned > found.overall(1).logit
    assert asdict(found.overall(0)) == asdict(trained.overall(0))


def test_a_lens_that_diverged_is_none(model: LensModel, images: Path) -> None:
    found = train(model, rows(images), replace(OPTIONS, steps=30, lr=1e30), quiet)
    assert not found.translators


def test_images_that_cannot_be_read(model: LensModel, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    for number in (3, 4):
        (tmp_path / "images" / f"{number:04d}.png").write_bytes(b"no image")
    found = train(model, rows(tmp_path / "images"), replace(OPTIONS, steps=3), quiet)
    assert sorted(found.failed) == ["0003.png: not an image", "0004.png: not an image"]
    assert found.trained_on + found.held_out == IMAGES - 2
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 18 images could be read"):
        train(model, rows(tmp_path / "images"), replace(OPTIONS, steps=3), quiet)
    with pytest.raises(InputError, match="one image is not enough"):
        train(model, rows(images)[:1], OPTIONS, quiet)


MODELS: dict[str, Callable[[Path], Path]] = {
    "paligemma2": lambda folder: make_paligemma(folder, second=True),  # which caps its logits
    "llava_next": make_llava_next,  # grids of their own
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of PaliGemmaProcessor
@pytest.mark.parametrize("family", MODELS)
def test_other_families(tmp_path: Path, family: str) -> None:
    model = load(str(MODELS[family](tmp_path / "model")))
    found = train(model, rows(save_images(tmp_path / "images", 8)), replace(OPTIONS, steps=60), quiet)
    for layer in range(model.layers - 1):
        assert found.overall(layer).tuned < found.overall(layer).logit


def test_positions_are_chosen_as_evenly_as_sites_have_them() -> None:
    sites = {"patch": torch.arange(100, 700), "prompt": torch.arange(9)}
    rng = np.random.default_rng(0)
    for wanted, expected in ((1, (1, 0)), (8, (4, 4)), (32, (23, 9)), (609, (600, 9)), (10_000, (600, 9))):
        picked = chosen(sites, wanted, rng)
        assert (len(picked["patch"]), len(picked["prompt"])) == expected
        for site, places in picked.items():
            assert set(places.tolist()) <= set(sites[site].tolist())
            assert len(set(places.tolist())) == len(places)
    assert len({tuple(chosen(sites, 8, rng)["patch"].tolist()) for _ in range(9)}) == 9
