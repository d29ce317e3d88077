"""precursors equals going through each patch's layers in the arrays, with fractions, and drawing images anew."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
import vlq.query.cache.cells
import vlq.query.statistics.contrast
from vlq.query.client.corpus import Corpus
from vlq.query.errors import QueryError
from vlq.query.schema import RUN, VOCABULARY, Head, head_key
from vlq.query.store import open_store
from vlq.workers.shard import write_shard

from ...synthetic import image_table, make_cache, make_run, parquet, random_readings, vocabulary_table
from ..corpora import (
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    layer_choices,
    layers_of,
    one_or_list,
    reading_arguments,
    shapes,
    snapshot,
    token_ids,
)

Shares = dict[int, tuple[Fraction, Fraction]]
"""By image the share of the patches that have the token before them, and the share of the others."""

Firsts = dict[int, dict[int, int | None]]
"""By image and patch a layer."""


def first_layers(case: Case, ids: list[int], arguments: dict[str, Any], layers: Any) -> Firsts:
    """By image and patch the layer that first reads the token: -1 if that does not count, None if it never does."""
    hit = case.hits("patch", ids, arguments)  # (image, layer, patch)
    counted = layers_of(layers, case.run)
    firsts: Firsts = {}
    for image in np.flatnonzero(hit.any((1, 2))).tolist():
        firsts[image] = {}
        for patch in np.flatnonzero(case.there[image]).tolist():
            reads = hit[image, :, patch]
            first = int(reads.argmax()) if reads.any() else None
            firsts[image][patch] = first if first is None or first in counted else -1
    return firsts


def shares_of(top1: np.ndarray, firsts: Firsts, layer: int) -> dict[int, tuple[list[int], list[int]]]:
    """By image what the patches read that have the token before them, and what those read that never read it."""
    found = {}
    for image, patches in firsts.items():
        read = top1[image, layer].tolist()
        coming = [read[patch] for patch, first in patches.items() if first is not None and first > layer]
        others = [read[patch] for patch, first in patches.items() if first is None]
        if coming and others:
            found[image] = coming, others
    return found


def brute(
    case: Case, ids: list[int], arguments: dict[str, Any], layers: Any, min_images: int, per_layer: int
) -> list[dict[str, Any]]:
    firsts = first_layers(case, ids, arguments, layers)
    top1 = case.sites["patch"].token[..., 0]
    population = sorted(shares_of(top1, firsts, case.run.read_layers[0]))
    rows = []
    for layer in case.run.read_layers:
        read = shares_of(top1, firsts, layer)
        of_layer = []
        for token in {id for coming, _ in read.values() for id in coming}:
            images = sum(token in coming for coming, _ in read.values())
            if images < min_images:
                continue
            pairs: Shares = {
                image: tuple(Fraction(group.count(token), len(group)) for group in groups)  # type: ignore[misc]
                for image, groups in read.items()
            }
            share, others = (sum(pair[i] for pair in pairs.values()) / len(pairs) for i in (0, 1))
            piece, text = case.pieces[token]
            low, high = interval({image: a - b for image, (a, b) in pairs.items()}, population)
            of_layer.append(
                {
                    "layer": layer,
                    "token": token,
                    "piece": piece,
                    "text": text,
                    "images": images,
                    "patches": sum(coming.count(token) for coming, _ in read.values()),
                    "share": share,
                    "others": others,
                    "difference": share - others,
                    "low": low,
                    "high": high,
                    "compared": len(read),
                }
            )
        rows += sorted(of_layer, key=lambda row: (-row["difference"], row["token"]))[:per_layer]
    rows.sort(key=lambda row: (-row["difference"], row["layer"], row["token"]))
    inexact = ("share", "others", "difference", "low", "high")
    return [row | {name: pytest.approx(float(row[name]), abs=1e-9) for name in inexact} for row in rows]


@cache
def draws(count: int) -> np.ndarray:
    """(resample, draw): the place of the image that is drawn."""
    return np.random.default_rng(0).integers(0, count, (1000, count))


def interval(differences: dict[int, Fraction], population: list[int]) -> tuple[float, float]:
    """The mean difference of the drawn images, where there is one; of 1,000 such means the middle 95%."""
    value = np.array([float(differences.get(image, "nan")) for image in population])[draws(len(population))]
    there = ~np.isnan(value)
    some = there.any(1)
    means = np.where(there, value, 0).sum(1)[some] / there.sum(1)[some]
    ordered = sorted(means.tolist())

    # The smallest that so many in a thousand of the means are not above.
    return tuple(min(x for i, x in enumerate(ordered, 1) if 1000 * i >= tail * len(ordered)) for tail in (25, 975))


@SETTINGS
@given(
    name=shapes,
    min_images=st.sampled_from([1, 1, 2, 5]),
    per_layer=st.sampled_from([1, 3, 100]),
    in_parts=st.booleans(),
    data=st.data(),
)
def test_equals_brute_force(
    cases: dict[str, Case], name: str, min_images: int, per_layer: int, in_parts: bool, data: st.DataObject
) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(reading_arguments)(case)) | {"min_patches": 1, "patches": None}
    layers = data.draw(layer_choices(case.run))
    given_arguments = {key: value for key, value in asked(arguments).items() if key not in ("min_patches", "patches")}
    result = case.corpus.precursors(
        one_or_list(ids), layers=layers, min_images=min_images, per_layer=per_layer, **given_arguments
    )
    expected = brute(case, ids, arguments, layers, min_images, per_layer)
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:  # as where images are many, and do not fit into memory
            patch.setattr(vlq.query.statistics.contrast, "MANY", 1)
            patch.setattr(vlq.query.cache.cells, "PART_BYTES", 500)
            patch.setattr(vlq.query.statistics.contrast, "AT_ONCE", 40)
        assert result.rows == expected

    summary = result.summary
    assert summary["images"] == case.chosen(arguments["images"]).sum()
    assert summary["matched"] == len({row["token"] for row in expected})
    assert summary["compared"] == max((row["compared"] for row in expected), default=0)
    if expected:
        late = max(row["layer"] for row in expected if row["compared"] >= summary["compared"] / 2)
        led = next(row for row in expected if row["layer"] == late)
        assert {name: summary[name] for name in ("layer", "token", "share", "low")} == {
            name: led[name] for name in ("layer", "token", "share", "low")
        }
    assert result.headline


# --- by hand ---------------------------------------------------------------------------------------------------


def corpus_of(folder: Path, *images: list[str]) -> Corpus:
    """A corpus whose images read, layer by layer, one letter's id in each of four patches: 'a' is 0, 'b' is 1."""
    top1 = np.array([[[ord(letter) - ord("a") for letter in layer] for layer in image] for image in images])
    run = make_run(grid=(2, 2), layers=top1.shape[1], k=1, at=("patch",), shard_size=len(images))
    store = open_store(str(folder), create=True)
    store.create(VOCABULARY, parquet(vocabulary_table(run.vocabulary_size)))
    store.create(RUN, run.to_bytes())
    store.create(head_key(1), Head(1, "plans/none.parquet", 1, len(images), False, None).to_bytes())
    readings = random_readings(run, len(images), np.random.default_rng(0))
    readings["patch/token"][...] = top1[..., None]
    readings["patch/top1"][...] = top1
    write_shard(store, run, 0, 0, readings, image_table([f"{i}.png" for i in range(len(images))], 0, [], run))
    return vlq.open(str(folder))


def rows_of(corpus: Corpus, **arguments: Any) -> list[tuple[Any, ...]]:
    names = ("layer", "token", "images", "patches", "share", "others", "difference", "compared")
    rows = corpus.precursors(0, min_images=1, **arguments).rows
    return sorted(tuple(round(row[name], 9) for name in names) for row in rows)


def test_an_image_counts_once_however_many_patches_it_has(tmp_path: Path) -> None:
    # Before 'a', three patches of the first image read b, and one of the second image reads c.
    corpus = corpus_of(tmp_path, ["bbbc", "aaac"], ["cddb", "addb"])
    assert rows_of(corpus) == [
        (0, 1, 1, 3, 0.5, round(1 / 6, 9), round(1 / 3, 9), 2),
        (0, 2, 1, 1, 0.5, 0.5, 0.0, 2),
    ]
    assert [row["token"] for row in corpus.precursors(0, min_images=1, per_layer=1).rows] == [1]
    assert corpus.precursors(0, min_images=2).rows == []
    # Of the two images each mean is of the one, of the other, or of both: 1, -1/3, or 1/3.
    (row,) = corpus.precursors(0, min_images=1, per_layer=1).rows
    assert (row["low"], row["high"]) == (pytest.approx(-1 / 3), 1)


def test_a_patch_counts_until_it_first_reads_the_token(tmp_path: Path) -> None:
    # The first patch reads 'a' at layer 1 and again at 3, with b in between, which is not before it.
    corpus = corpus_of(tmp_path, ["cdee", "adee", "bdee", "aaee"])
    before = [(0, 2, 1, 1, 0.5, 0.0, 0.5, 1), (0, 3, 1, 1, 0.5, 0.0, 0.5, 1)]
    assert rows_of(corpus) == [*before, (1, 3, 1, 1, 1.0, 0.0, 1.0, 1), (2, 3, 1, 1, 1.0, 0.0, 1.0, 1)]
    # One that first reads it at a layer that isn't asked for neither comes to read it nor is one of the others.
    assert rows_of(corpus, layers=1) == [(0, 2, 1, 1, 1.0, 0.0, 1.0, 1)]
    assert rows_of(corpus, layers=[0, 2]) == []
    assert [row[:2] for row in rows_of(corpus, layers=(2, 3))] == [(0, 3), (1, 3), (2, 3)]


def test_images_without_others_are_left_out(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["bcde", "aaaa"], ["bccc", "accc"], ["aaaa", "cccc"])
    assert rows_of(corpus) == [(0, 1, 1, 1, 1.0, 0.0, 1.0, 1)]


def test_equal_differences_show_the_lower_ids(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["dcbe", "aaae"], ["cbde", "aaae"])
    assert [row["token"] for row in corpus.precursors(0, min_images=1, per_layer=2).rows] == [1, 2]


# --- the rest --------------------------------------------------------------------------------------------------


def test_the_same_question_has_the_same_answer(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    text = "precursors('cat', min_images=1)"
    assert corpus.query(text).rows == corpus.query(text).rows
    assert corpus.query(text).rows


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("precursors('cat', layers=(2, 4), min_images=2)")
    found = result.summary
    low, high = 100 * found["low"], 100 * found["high"]
    assert result.headline == (
        f"Patches that come to read cat (layers 2 to 4), in {found['compared']} of 8 images: shortly before, at layer "
        f"{found['layer']}, {found['share']:.1%} of them read {found['piece']} ({found['token']}), against "
        f"{found['others']:.1%} of those that never come to (difference {100 * found['difference']:.1f} points, 95% "
        f"interval {low:.1f} to {high:.1f})"
    )
    assert "not what leads to what" in result.notes[-2]
    assert "over 1,000 resamples of the images" in result.notes[-1]
    never = corpus.query("precursors('cat', min_images=8)")
    assert never.headline == "Patches that come to read cat: nothing is read before it in 8 images or more, of 8 images"
    assert corpus.query("precursors('cat', layers=0)").rows == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precursors('cat', min_images=0)", "min_images: expected a whole number of at least 1. Got 0."),
        ("precursors('cat', per_layer=0)", "per_layer: expected a whole number of at least 1. Got 0."),
        (
            "precursors('cat', layers=5)",
            "layers: there is no layer 5. This cache has the layers 0 (the embedding) to 4.",
        ),
        ("precursors('cat', at='last')", "at is no argument of precursors."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


def test_a_cache_without_patches(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("prompt",)), images=2)
    with pytest.raises(QueryError, match=r"at: this cache has readings at prompt, last only\. Got 'patch'\."):
        vlq.open(str(tmp_path)).query("precursors('cat')")


def test_explain_shows_what_is_asked_and_read_first(cases: dict[str, Case]) -> None:
    text = cases["several shards"].corpus.query("precursors('cat')").explain()
    first, last = text.split("of which before is made; and then")
    assert "min(layer) AS layer" in first
    assert "$patch_top1: index/" in first
    assert "$patch_cells: index/" in first
    assert "FROM before" in last


def test_sql(cases: dict[str, Case]) -> None:
    text = "precursors('cat', min_images=2)"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "precursors.sql").read_text()
