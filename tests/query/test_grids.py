"""Images whose grids differ: what is peculiar to them. That every function holds, the random corpora show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.errors import QueryError
from vlq.query.image.geometry import patch_box
from vlq.query.info import as_text

from ..synthetic import make_cache, make_run
from .corpora import Case


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["grids of their own"]


def test_the_corpus_has_many_grids(case: Case) -> None:
    grids = {grid for grid, good in zip(case.grids, case.good, strict=True) if good}
    assert len(grids) >= 6
    assert len({rows * columns for rows, columns in grids}) >= 4
    assert max(rows * columns for rows, columns in grids) <= case.run.patches
    for site in ("token", "logprob"):
        values = getattr(case.sites["patch"], site)[..., 0]
        filled = values == case.run.no_id if site == "token" else np.isnan(values)
        assert (filled == ~(case.there & case.good[:, None])[:, None]).all()


def test_places_and_boxes(case: Case) -> None:
    rows = case.corpus.readings(list(range(8)), rank=3).rows
    assert {row["image_id"] for row in rows} == set(np.flatnonzero(case.good))
    for row in rows:
        grid = case.grids[row["image_id"]]
        assert (row["row"], row["col"]) == divmod(row["patch"], grid[1])
        assert row["box"] == pytest.approx(patch_box(case.transform, case.pixels, grid, row["patch"]))


def test_area_is_the_share_of_an_images_own_patches(case: Case) -> None:
    every = case.corpus.first_layer(["dog", "cat", "rock"], rank=2)
    areas = {row["image_id"]: len(row["patches"]) / np.prod(case.grids[row["image_id"]]) for row in every.rows}
    assert len({*areas.values()}) > 3
    some = sorted(areas.values())[len(areas) // 2]
    found = every.where(vlq.col("area") <= some)
    assert {row["image_id"] for row in found.rows} == {image for image, area in areas.items() if area <= some}
    assert found.max("area").rows[0]["max"] == pytest.approx(some)
    with pytest.raises(QueryError, match="There is no column area"):
        case.corpus.query("images().where(area < 1)")


def test_area_is_that_of_patches_where_images_have_an_area_too(tmp_path: Path) -> None:
    """As a table's own columns go before the images'. What is meant is said; and images= knows no patches."""
    make_cache(tmp_path, images=8, columns={"area": [100 * i for i in range(8)]})
    corpus = vlq.open(str(tmp_path))
    rows = corpus.first_layer("dog").rows
    areas = sorted({len(row["patches"]) / 12 for row in rows})
    assert len(areas) > 1
    large = corpus.query(f"first_layer('dog').where(area > {areas[0]})")
    assert [row["image"] for row in large.rows] == [row["image"] for row in rows if len(row["patches"]) / 12 > areas[0]]
    groups = corpus.query("first_layer('dog').group(area).count()")
    assert [row["area"] for row in groups.rows] == pytest.approx(areas)
    for result in (large, groups, corpus.query("first_layer('dog').sort('area')"), large.max("area")):
        assert len([note for note in result.notes if note.startswith("area is the share of")]) == 1
    for text in ("first_layer('dog', images=area >= 400)", "images(area >= 400)", "images().where(area >= 400)"):
        result = corpus.query(text)
        assert {row["image_id"] for row in result.rows} <= {4, 5, 6, 7}
        assert len(result) > 2
        assert not [note for note in result.notes if note.startswith("area is")]


def test_the_whole_table_of_an_image(case: Case) -> None:
    for image in np.flatnonzero(case.good).tolist():
        count = int(case.there[image].sum())
        rows = case.corpus.top(image, rank=2).rows
        token = case.sites["patch"].token
        assert [row["token"] for row in rows] == token[image, :, :count, :2].reshape(-1).tolist()
        with pytest.raises(QueryError, match=f"patch: at='patch' has the positions 0 to {count - 1}. Got {count}."):
            case.corpus.top(image, patch=count)


def test_patches_by_number_are_those_that_an_image_has(case: Case) -> None:
    last = case.run.patches - 1
    expected = case.good & case.there[:, 5]
    result = case.corpus.rank("dog", patches=5, missing="bound", layers=0)
    assert {row["image_id"] for row in result.rows} == set(np.flatnonzero(expected))
    assert result.summary["with_patches"] == expected.sum()
    with pytest.raises(QueryError, match=f"The largest of these grids may have the patches 0 to {last}."):
        case.corpus.readings("dog", patches=last + 1)


def test_every_cell_is_listed_once(case: Case) -> None:
    result = case.corpus.prob("dog", missing="bound")
    assert len(result.rows) == (case.there & case.good[:, None]).sum() * case.run.layers
    assert result.summary["readings"] is None
    compared = case.corpus.query("prob('dog') <= 1")
    assert f"holds for {len(result.rows)} of {len(result.rows)} readings" in compared.headline


def test_info(case: Case) -> None:
    info = case.corpus.cache.info()
    assert json.loads(json.dumps(info)) == info
    assert (info["grid"], info["patches"]) == (None, 14)
    assert "each image has its own, of at most 14 patches" in as_text(info)


def test_groups_of_patches_are_bars(case: Case) -> None:
    axes = case.corpus.readings([0, 1, 2]).group("patch").count().plot().axes[0]
    assert len(axes.patches) >= 8


def test_two_caches_are_compared_by_patch_where_grids_agree(tmp_path: Path) -> None:
    run = make_run(grid=None, patches=12)
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        make_cache(tmp_path / name, run, images=4, seed=seed)
    make_cache(tmp_path / "fixed", make_run(), images=4)
    corpus = vlq.open(str(tmp_path / "a"))
    same = corpus.query(f"compare({str(tmp_path / 'a')!r}, {str(tmp_path / 'same')!r}, readings('dog'))")
    assert [(row["logprob_a"], row["image"]) for row in same.rows] == [
        (row["logprob_b"], row["image"]) for row in same.rows
    ]
    assert same.rows
    for name in ("other", "fixed"):
        text = f"compare({str(tmp_path / 'a')!r}, {str(tmp_path / name)!r}, readings('dog'))"
        with pytest.raises(QueryError, match=r"The patches are not the same: \d+-\d.png has \d+ x \d+ in .*a, "):
            corpus.query(text)
        by_layer = text.replace("readings('dog')", "first_layer('dog')")
        assert corpus.query(by_layer).summary["images"] == 4
