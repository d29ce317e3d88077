"""What is known of one token over a corpus, against brute force over the arrays."""

from __future__ import annotations

from collections import Counter
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.local import LocalCorpus
from vlq.query.statistics import portrait
from vlq.query.statistics.portrait import BINS, RASTER, Wanted

from ...synthetic import WORDS, make_cache, make_run
from ..corpora import SETTINGS, SHAPES, Case

pytestmark = pytest.mark.here("the figures of the token page, which a service makes of the cache itself")


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, int, int, int | None, int]:
    """A case's name, and numbers that a rank, a token and a layer are made of."""
    layer = draw(st.none() | st.integers(0, 7))
    return (
        draw(st.sampled_from([*SHAPES])),
        draw(st.integers(0, 15)),
        draw(st.integers(1, 4)),
        layer,
        draw(st.integers(0, 9)),
    )


def made(case: Case, token: int, rank: int, layer: int | None) -> tuple[LocalCorpus, Wanted, np.ndarray, np.ndarray]:
    """What is asked, and by brute force where the token is read and how probably: (image, layer, patch)."""
    assert isinstance(case.corpus, LocalCorpus)
    run = case.run
    wanted = Wanted(token, min(rank, run.k), None if layer is None else run.read_layers[layer % len(run.read_layers)])
    site = case.sites["patch"]
    hit = (site.token == token) & (np.arange(run.k) < wanted.rank)
    hit &= case.good[:, None, None, None]
    probability = np.where(hit, np.exp(site.logprob.astype(np.float64)), 0).sum(-1)
    read = hit.any(-1)
    if wanted.layer is not None:
        read &= (np.arange(run.layers) == wanted.layer)[:, None]
    return case.corpus, wanted, read, probability


@SETTINGS
@given(asked())
def test_probabilities(cases: dict[str, Case], question: tuple[str, int, int, int | None, int]) -> None:
    name, *given, _ = question
    corpus, wanted, read, probability = made(cases[name], *given)
    expected = Counter(min(int(p * BINS), BINS - 1) for p in probability[read].tolist())
    assert portrait.by_probability(corpus, wanted) == [expected[bin] for bin in range(BINS)]


EDGES = [(0.0, 1.0), (0.02, 0.2), (0.1, 1.0), (0.3, 0.4), (0.0, 0.02, 0.1, 0.3, 1.0), (0.01, 0.05, 0.2)]


@SETTINGS
@given(asked(), st.sampled_from(EDGES), st.none() | st.integers(0, 3))
def test_examples(
    cases: dict[str, Case],
    question: tuple[str, int, int, int | None, int],
    edges: tuple[float, ...],
    seed: int | None,
) -> None:
    name, *given, most = question
    case = cases[name]
    corpus, wanted, read, probability = made(case, *given)
    bands = portrait.examples_of_bands(corpus, wanted, edges, most + 1, seed)
    assert len(bands) == len(edges) - 1
    for low, high, found in zip(edges, edges[1:], bands, strict=False):
        inside = read & (probability >= low) & ((probability < high) | (high == 1))
        expected = []
        for image in np.flatnonzero(inside.any((1, 2))).tolist():
            best = np.where(inside[image], probability[image], 0).max(-1)
            layer = int(best.argmax())
            patches = sorted(
                np.flatnonzero(inside[image, layer]).tolist(),
                key=lambda patch, p=probability[image, layer]: (-p[patch], patch),
            )
            expected.append((image, layer, patches, best.max()))
        if seed is None:
            expected.sort(key=lambda one: (-one[3], one[0]))
        else:
            expected.sort(key=lambda one: md5(f"{seed}/{low:g}/{one[0]}".encode()).hexdigest())
        assert found.images == len(expected)
        assert [(one.image, one.layer, list(one.patches)) for one in found.chosen] == [
            (image, layer, patches) for image, layer, patches, _ in expected[: most + 1]
        ]
        for one in found.chosen:
            assert one.name == case.names[one.image]
            assert one.grid == case.grids[one.image]
            assert one.size == case.pixels
            assert one.probabilities == pytest.approx(probability[one.image, one.layer, list(one.patches)])
        assert portrait.examples(corpus, wanted, low, high, most + 1, seed) == found


@SETTINGS
@given(asked())
def test_position_map(cases: dict[str, Case], question: tuple[str, int, int, int | None, int]) -> None:
    name, *given, _ = question
    case = cases[name]
    corpus, wanted, read, _ = made(case, *given)
    good = case.chosen(None)
    grids = [grid for grid, is_good in zip(case.grids, good, strict=True) if is_good]
    is_raster = len({*grids}) > 1
    # The grid of all, or of their rows and of their columns the middle one, the lower of two.
    rows, columns = (min(RASTER, sorted(sides)[(len(sides) - 1) // 2]) for sides in zip(*grids, strict=True))
    found, of = np.zeros((2, rows, columns), int)
    layers = [*case.run.read_layers] if wanted.layer is None else [wanted.layer]
    for image in np.flatnonzero(good):
        high, wide = case.grids[image]
        for patch in np.flatnonzero(case.there[image]).tolist():
            row, column = divmod(patch, wide)
            cell = int((row + 0.5) / high * rows + 1e-9), int((column + 0.5) / wide * columns + 1e-9)
            of[cell] += len(layers)
            found[cell] += read[image, layers, patch].sum()
    answer = portrait.position_map(corpus, wanted)
    assert (answer.rows, answer.columns, answer.is_raster) == (rows, columns, is_raster)
    assert answer.found == tuple(found.reshape(-1).tolist())
    assert answer.of == tuple(of.reshape(-1).tolist())


def test_a_large_grid_is_drawn_smaller(tmp_path: Any) -> None:
    from vlq.query.cache.reader import Cache

    run = make_run(grid=(2, 30), layers=2, k=2)
    _, _, arrays = make_cache(tmp_path, run, images=3)
    answer = portrait.position_map(LocalCorpus(Cache.open(str(tmp_path))), Wanted(0, 1, 1))
    assert (answer.rows, answer.columns, answer.is_raster) == (2, RASTER, True)
    assert sum(answer.of) == 3 * 60
    assert sum(answer.found) == np.count_nonzero(arrays["patch/top1"][:, 1] == 0)
    # Patch c of 30 has its centre at (c + 1/2) / 30 of the width.
    columns = [int((column + 0.5) / 30 * RASTER) for column in range(30)]
    assert answer.of == tuple(3 * columns.count(column) for _ in range(2) for column in range(RASTER))


@SETTINGS
@given(asked())
def test_together(cases: dict[str, Case], question: tuple[str, int, int, int | None, int]) -> None:
    name, *given, most = question
    case = cases[name]
    corpus, wanted, read, _ = made(case, *given)
    own = read.any((1, 2))
    top1 = case.sites["patch"].token[..., 0]
    layers = [*case.run.read_layers] if wanted.layer is None else [wanted.layer]
    there = case.there[:, None, :] & case.good[:, None, None]
    tokens = {int(id) for id in np.unique(top1[:, layers][np.broadcast_to(there, top1[:, layers].shape)])}
    expected = []
    for id in tokens - {wanted.token}:
        has = ((top1[:, layers] == id) & there).any((1, 2))
        both, all, mine = int((has & own).sum()), int(case.chosen(None).sum()), int(own.sum())
        if both:
            others = (int(has.sum()) - both) / (all - mine) if all > mine else None
            expected.append((both / mine - (others or 0), both, -id, int(has.sum()), mine, all))
    expected.sort(reverse=True)
    found = portrait.together(corpus, wanted, most + 1)
    assert [(one.both, one.id, one.images, one.reading, one.all) for one in found] == [
        (both, -id, images, mine, all) for _, both, id, images, mine, all in expected[: most + 1]
    ]


@SETTINGS
@given(asked())
def test_labels(cases: dict[str, Case], question: tuple[str, int, int, int | None, int]) -> None:
    name, *given, _ = question
    case = cases[name]
    corpus, wanted, read, _ = made(case, *given)
    own = read.any((1, 2))
    good = case.chosen(None)
    held = [{item["label"].lower() for item in objects} for objects in case.objects]
    expected = {}
    for label in {label for image, labels in enumerate(held) for label in labels if good[image]}:
        has = np.array([label in labels for labels in held]) & good
        expected[label] = int(has.sum()), int((has & own).sum()), int(own.sum()), int(good.sum())
    found = portrait.labels(corpus, wanted)
    assert found is not None
    assert {one.label: (one.images, one.both, one.reading, one.all) for one in found} == expected
    assert [one.difference for one in found] == sorted((one.difference for one in found), reverse=True)


def test_special_tokens(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    assert isinstance(corpus, LocalCorpus)
    pieces = [corpus.vocabulary.token(id).piece for id in range(len(corpus.vocabulary))]
    assert [id for id in range(len(pieces)) if portrait.is_special(corpus, id)] == [pieces.index("<s>")]
    assert len(WORDS) < pieces.index("<s>")


@pytest.mark.parametrize("site", ["patch", "last"])
def test_what_is_read_of_the_vocabulary(cases: dict[str, Case], site: str) -> None:
    for case in cases.values():
        assert isinstance(case.corpus, LocalCorpus)
        if site not in case.sites:
            continue
        top1 = case.sites[site].token[..., 0]
        expected: dict[int, tuple[int, int]] = {}
        for token in range(case.run.vocabulary_size):
            hit = (top1 == token) & case.good[:, None, None]
            if hit.any():
                expected[token] = int(hit.sum()), int(hit.any((1, 2)).sum())
        assert portrait.read_of(case.corpus, site) == expected


NAMES = ["count", "number", "band", "layer", "patches", "probabilities", "place", "name", "position", "label", "object"]
"""Columns of the images' own that are called as what is made of a token."""


def test_images_may_have_columns_of_any_name(tmp_path: Path) -> None:
    objects = [[{"label": "dog" if i % 2 else "cat", "box": [0.0, 0.0, 50.0, 50.0]}] for i in range(8)]
    columns = {name: [f"{name} {i % 3}" for i in range(8)] for name in NAMES}
    found = []
    for folder, own in (("plain", {}), ("named", columns)):
        make_cache(tmp_path / folder, images=8, failed=[3], columns={"objects": objects, **own})
        corpus = vlq.open(str(tmp_path / folder))
        assert isinstance(corpus, LocalCorpus)
        for wanted in (Wanted(0, 1, None), Wanted(3, 4, 2)):
            found.append(
                (
                    portrait.by_probability(corpus, wanted),
                    portrait.examples_of_bands(corpus, wanted, (0.0, 0.1, 0.3, 1.0), 8, 0),
                    portrait.position_map(corpus, wanted),
                    portrait.together(corpus, wanted, 8),
                    portrait.labels(corpus, wanted),
                )
            )
    assert found[:2] == found[2:]
    assert any(some.chosen for some in found[0][1])
