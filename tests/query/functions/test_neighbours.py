"""neighbours equals walking around each patch of the arrays."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq.query.cache.cells
import vlq.query.functions.neighbours
from vlq.query.errors import QueryError

from ..corpora import (
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    layer_choices,
    one_or_list,
    reading_arguments,
    shapes,
    snapshot,
    token_ids,
    with_patches,
)


def brute(
    case: Case, ids: list[int], arguments: dict[str, Any], min_images: int, before: int = 0
) -> list[dict[str, Any]]:
    hit = case.hits("patch", ids, arguments)
    top1 = case.sites["patch"].token[..., 0]
    read: dict[tuple[int, int], list[int]] = defaultdict(list)  # (token, layer): an image for each adjacent patch
    adjacent: dict[int, int] = defaultdict(int)
    for image, layer in np.argwhere(hit.any(-1)).tolist():
        if layer - before not in case.run.read_layers:
            continue
        rows, columns = case.grids[image]
        of_token = hit[image, layer, : rows * columns].reshape(rows, columns)
        padded = np.pad(of_token, 1)
        for row in range(rows):
            for column in range(columns):
                if not case.there[image, row * columns + column]:
                    continue
                if padded[row : row + 3, column : column + 3].any() and not of_token[row, column]:
                    read[int(top1[image, layer - before, row * columns + column]), layer].append(image)
                    adjacent[layer] += 1
    found = []
    for (token, layer), images in read.items():
        if len(set(images)) >= min_images:
            piece, text = case.pieces[token]
            row = {"token": token, "layer": layer, "piece": piece, "text": text, "images": len(set(images))}
            share = len(images) / adjacent[layer]
            found.append(row | {"patches": len(images), "share": share, "adjacent": adjacent[layer]})
    return sorted(found, key=lambda row: (-row["images"], -row["patches"], row["token"], row["layer"]))


@SETTINGS
@given(
    name=shapes,
    min_images=st.sampled_from([1, 1, 2, 3]),
    before=st.sampled_from([0, 0, 1, 2]),
    part_bytes=st.sampled_from([500, 10**9]),
    data=st.data(),
)
def test_equals_brute_force(
    cases: dict[str, Case], name: str, min_images: int, before: int, part_bytes: int, data: st.DataObject
) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(reading_arguments)(case)) | {"layers": data.draw(layer_choices(case.run))}
    result = case.corpus.neighbours(one_or_list(ids), before=before, min_images=min_images, **asked(arguments))
    expected = brute(case, ids, arguments, min_images, before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vlq.query.cache.cells, "PART_BYTES", part_bytes
        )  # images that do not fit into memory come in parts
        patch.setattr(vlq.query.functions.neighbours, "AT_ONCE", 2 * part_bytes)  # and so do layers of many
        assert result.rows == expected

    summary = result.summary
    assert summary["images"] == case.chosen(arguments["images"]).sum()
    assert with_patches(case, arguments).items() <= summary.items()
    assert summary["matched"] == len({row["token"] for row in expected})
    assert summary["adjacent"] == sum({row["layer"]: row["adjacent"] for row in expected}.values())
    if expected:
        patches: dict[int, int] = defaultdict(int)
        for row in expected:
            patches[row["token"]] += row["patches"]
        most = min(patches, key=lambda token: (-patches[token], token))
        layers = {row["layer"]: row["images"] for row in expected if row["token"] == most}
        assert (summary["token"], summary["patches"]) == (most, patches[most])
        assert summary["most_images"] == max(layers.values())
        assert summary["most_images_layer"] == min(
            layer for layer, images in layers.items() if images == max(layers.values())
        )
    assert result.headline


def test_a_patch_counts_once_whatever_it_touches(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    ids = list(range(8))
    arguments = {"rank": 1, "min_prob": None, "min_patches": 1, "images": None}
    hit = case.hits("patch", ids, arguments)
    rows = case.corpus.neighbours(ids).rows
    assert all(row["token"] not in ids for row in rows)
    for layer in range(5):
        # Half of the patches read one of these, so that next to nothing is not adjacent.
        adjacent = {row["adjacent"] for row in rows if row["layer"] == layer}
        assert len(adjacent) == 1
        assert adjacent.pop() <= (~hit[case.good][:, layer]).sum()
        assert sum(row["share"] for row in rows if row["layer"] == layer) == pytest.approx(1)


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("neighbours('cat', layers=(1, 3), min_images=2)")
    found = result.summary
    assert result.headline == (
        f"Around cat (layers 1 to 3): of what 2 images or more read at a layer {found['piece']} ({found['token']}) "
        f"is read most, by {found['patches'] / found['adjacent']:.0%} of {found['adjacent']} adjacent patches, "
        f"all such layers together; most at layer {found['most_images_layer']}, in {found['most_images']} of 8 images"
    )
    every = corpus.query("neighbours('cat', layers=(1, 3))")
    found = every.summary
    assert every.headline == (
        f"Around cat (layers 1 to 3): {found['piece']} ({found['token']}) is read most, by "
        f"{found['patches'] / found['adjacent']:.0%} of {found['adjacent']} adjacent patches, all layers together; "
        f"most at layer {found['most_images_layer']}, in {found['most_images']} of 8 images"
    )
    earlier = corpus.query("neighbours('cat', layers=(1, 3), before=1)")
    assert earlier.headline.startswith("Around cat (layers 1 to 3), 1 layer before: ")
    assert {row["layer"] for row in earlier.rows} == {1, 2, 3}
    too_early = corpus.query("neighbours('cat', layers=(1, 3), before=4)")
    assert too_early.headline == "Around cat (layers 1 to 3), 4 layers before: nothing is read, of 8 images"
    never = corpus.query("neighbours('cat', min_images=8)")
    assert never.headline == "Around cat: nothing is read in 8 images or more, of 8 images"
    assert corpus.query("neighbours('cat', min_prob=1.0)").headline == (
        "Around cat (probability at least 1): nothing is read, of 8 images"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("neighbours('cat', min_images=0)", "min_images: expected a whole number of at least 1. Got 0."),
        ("neighbours('cat', before=-1)", "before: expected a whole number from 0. Got -1."),
        ("neighbours('cat', at='last')", "at is no argument of neighbours."),
        ("neighbours('cat', min_patches=13)", "min_patches: with this grid a layer has 12 positions. Got 13."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


def test_sql(cases: dict[str, Case]) -> None:
    text = "neighbours('cat', min_images=5)"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "neighbours.sql").read_text()
