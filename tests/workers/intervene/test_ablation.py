"""What stands where patches were, what it is held against, and integrated gradients."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from vlq.query.image.geometry import patch_box
from vlq.workers.intervene.ablation import Moments, MomentSums, ablated, baseline_sets, integrated_gradients, measure
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.intervene.sets import PatchSet

from ..models import checks
from .test_prompted import model_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=["llava", "qwen3_vl", "paligemma2"])
def prompted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Prompted]:
    model = model_of(request.param, tmp_path_factory.mktemp("model"))
    return [Prompted(model, model.encode(checks.noise(60, 90, seed=seed))) for seed in range(3)]


def test_moments_are_numpys(prompted: list[Prompted]) -> None:
    sums = MomentSums()
    for one in prompted:
        sums.add(one.entering_patches())
    moments = sums.moments()
    for layer in moments.mean:
        every = torch.cat([one.entering_patches()[layer] for one in prompted]).double().numpy()
        assert moments.mean[layer].numpy() == pytest.approx(every.mean(0), abs=1e-6)
        assert moments.deviation[layer].numpy() == pytest.approx(every.std(0), abs=1e-5)


def test_what_stands_where_patches_were(prompted: list[Prompted]) -> None:
    one = prompted[0]
    sums = MomentSums()
    for other in prompted:
        sums.add(other.entering_patches())
    moments = sums.moments()
    taken = PatchSet("all", (1, 3))
    own = one.entering_patches()
    for mode in ("mean", "zero", "noise"):
        change = ablated(one, taken, moments, mode, [5, 0])
        for layer, states in {**change.replaced, **change.entering}.items():
            assert states[0].tolist() == one.patches[[1, 3]].tolist()
            if mode == "noise":
                both = ablated(one, PatchSet("all", (0, 1, 3)), moments, mode, [5, 0])
                beside = {**both.replaced, **both.entering}[layer][1]
                assert torch.equal(beside[1:], states[1])  # of each patch its own
                assert not torch.equal(states[1][0], states[1][1])
                assert not torch.equal(ablated(one, taken, moments, mode, [6, 0]).replaced[0][1], change.replaced[0][1])
            else:
                wanted = moments.mean[layer] if mode == "mean" else torch.zeros_like(moments.mean[layer])
                assert torch.equal(states[1], wanted.expand(2, -1))
        assert {*change.replaced, *change.entering} == {*own}


def test_taking_nothing_changes_nothing_to_the_bit(prompted: list[Prompted]) -> None:
    one = prompted[1]
    sums = MomentSums()
    sums.add(one.entering_patches())
    nothing, something = PatchSet("all", ()), PatchSet("more", (2,))
    plain, (first, second, third) = measure(
        one, [nothing, something, nothing], sums.moments(), Target((5,)), "mean", 3, [0]
    )
    assert first.outcome == plain == third.outcome == one.outcomes([Change()], [Target((5,))], 3)[0]
    assert second.outcome != plain


def test_gradients_are_those_of_small_steps_and_add_up(prompted: list[Prompted]) -> None:
    one, target = prompted[0], Target((5, 7))
    sums = MomentSums()
    for other in prompted:
        sums.add(other.entering_patches())
    moments, own = sums.moments(), one.entering_patches()
    with torch.no_grad():
        ends = [
            float(one.logprob_at(entering, target))
            for entering in (own, {layer: moments.mean[layer].expand_as(values) for layer, values in own.items()})
        ]
        # The plain run's is what is measured of it.
        assert ends[0] == pytest.approx(one.outcomes([Change()], [target])[0].logprob[0], abs=1e-4)

        # Brute force: the path in small steps, each patch alone moved on at each of them.
        def at(share: float, patch: int | None = None, more: float = 0.0) -> float:
            points = {}
            for layer, values in own.items():
                shares = torch.full((len(values), 1), share)
                if patch is not None:
                    shares[patch] += more
                points[layer] = moments.mean[layer] + shares * (values - moments.mean[layer])
            return float(one.logprob_at(points, target))

        wanted = []
        for patch in (0, 3):
            slopes = [(at((i + 0.5) / 16, patch, 1e-2) - at((i + 0.5) / 16, patch, -1e-2)) / 2e-2 for i in range(16)]
            wanted.append(np.mean(slopes))
    found = integrated_gradients(one, target, moments, 16)
    assert found[[0, 3]] == pytest.approx(wanted, rel=0.05, abs=0.02)
    assert integrated_gradients(one, target, moments, 200).sum() == pytest.approx(ends[0] - ends[1], rel=0.05, abs=0.05)


def test_what_sets_are_held_against(prompted: list[Prompted]) -> None:
    one = prompted[2]
    sums = MomentSums()
    sums.add(one.entering_patches())
    taken = PatchSet("all", (0, 1))
    found = baseline_sets(one, taken, ("random", "gradient"), 3, sums.moments(), Target((5,)), [1, 2])
    assert [other.name for other in found] == ["random 0", "random 1", "random 2", "gradient"]
    assert all(len(other.patches) == 2 for other in found)
    assert not {*found[0].patches, *found[1].patches, *found[2].patches} & {0, 1}
    scores = integrated_gradients(one, Target((5,)), sums.moments())
    assert {*found[3].patches} == {*np.argsort(scores)[-2:].tolist()}


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "internvl", "idefics3"])
def test_a_smaller_view_of_the_image_is_covered_too(family: str, tmp_path: Path) -> None:
    """What shows the same there as patches do is where their boxes cover it, and is where painting changes it."""
    model, rng, tried = model_of(family, tmp_path), np.random.default_rng(0), 0
    for size in ((120, 200), (200, 120), (150, 150)):
        image = checks.noise(*size, seed=1)
        before = Prompted(model, model.encode(image))
        encoded = before.image
        if encoded.view is None:
            continue
        view, patches = encoded.view, math.prod(encoded.grid)
        for _ in range(3):
            some = rng.choice(patches, rng.integers(1, patches), replace=False).tolist()
            boxes = [patch_box(encoded.transform, encoded.size, encoded.grid, patch) for patch in some]
            shares = []
            for cell in range(math.prod(view.grid)):
                x0, y0, x1, y1 = patch_box(view.transform, encoded.size, view.grid, cell)
                points = [
                    (x0 + (x1 - x0) * (i + 0.5) / 20, y0 + (y1 - y0) * (j + 0.5) / 20)
                    for i in range(20)
                    for j in range(20)
                ]
                inside = sum(any(a <= x < c and b <= y < d for a, b, c, d in boxes) for x, y in points)
                shares.append(inside / len(points))
            found = {*encoded.shown_again(some).tolist()}
            for cell, share in enumerate(shares):
                if abs(share - 0.5) > 0.06:
                    assert (int(view.places[cell]) in found) == (share > 0.5)
        cell = int(rng.integers(math.prod(view.grid)))
        x0, y0, x1, y1 = patch_box(view.transform, encoded.size, view.grid, cell)
        painted = image.copy()
        ImageDraw.Draw(painted).rectangle([round(x0), round(y0), round(x1) - 1, round(y1) - 1], "red")
        after = Prompted(model, model.encode(painted))
        change = (after.states([0])[0] - before.states([0])[0]).norm(dim=-1)[view.places]
        assert int(change.argmax()) == cell
        taken = ablated(before, PatchSet("all", tuple(range(patches))), _moments(before), "zero", [0])
        assert {*view.places.tolist()} <= {*taken.replaced[0][0].tolist()}
        assert len(encoded.shown_again([])) == 0
        tried += 1
    assert tried


def _moments(prompted: Prompted) -> Moments:
    sums = MomentSums()
    sums.add(prompted.entering_patches())
    return sums.moments()
