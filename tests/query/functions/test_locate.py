"""locate equals what flood fill and patch_box find in the arrays."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers.render import render
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument
from vlq.query.image.geometry import Box, patch_box
from vlq.query.schema import RUN, VOCABULARY, Head, head_key
from vlq.query.store import open_store
from vlq.workers.shard import write_shard

from ...synthetic import image_table, make_cache, make_run, parquet, random_readings, vocabulary_table
from ..corpora import (
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    flood_fill,
    one_or_list,
    reading_arguments,
    shapes,
    snapshot,
    token_ids,
    with_patches,
)


def union(boxes: list[Box]) -> list[float] | None:
    """The smallest box around all that are not empty."""
    seen = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    if not seen:
        return None
    x0, y0, x1, y1 = zip(*seen, strict=True)
    return [min(x0), min(y0), max(x1), max(y1)]


def overlap(a: list[float] | None, b: list[float]) -> float:
    """Intersection over union of two boxes, the corners' coordinates ordered."""
    if a is None:
        return 0
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def brute(case: Case, ids: list[int], layer: int | None, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    hit = case.hits("patch", ids, arguments)
    if layer is None:
        layer = int(hit.any(-1).sum(0).argmax())
    found = []
    for image in np.flatnonzero(hit[:, layer].any(-1)).tolist():
        rows, columns = case.grids[image]
        patches = np.flatnonzero(hit[image, layer]).tolist()
        places = np.array([divmod(patch, columns) for patch in patches])
        row, column = places.mean(0)
        box = union([patch_box(case.transform, case.pixels, (rows, columns), patch) for patch in patches])
        # The centroid in the model's pixels, then in the original's.
        x = ((column + 0.5) * case.transform.width / columns - case.transform.offset_x) / case.transform.scale_x
        y = ((row + 0.5) * case.transform.height / rows - case.transform.offset_y) / case.transform.scale_y
        words = {(case.pieces[id][1] or "").strip().lower() for id in ids} - {""}
        true = [item["box"] for item in case.objects[image] if item["label"].lower() in words]
        found.append(
            {
                "image": case.names[image],
                "layer": layer,
                "patches": patches,
                "box": box and pytest.approx(box),
                "row": pytest.approx(row),
                "col": pytest.approx(column),
                "regions": flood_fill(patches, columns),
                "iou": pytest.approx(max(overlap(box, other) for other in true)) if true else None,
                "pointing": any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in true) if true else None,
                "image_id": image,
            }
        )
    return sorted(found, key=lambda row: row["image"])


@SETTINGS
@given(name=shapes, data=st.data())
def test_equals_brute_force(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    layer = data.draw(st.none() | st.sampled_from(case.run.read_layers))
    arguments = data.draw(st.composite(reading_arguments)(case))
    result = case.corpus.locate(one_or_list(ids), layer=layer, **asked(arguments))
    expected = brute(case, ids, layer, arguments)
    assert result.rows == expected

    summary = result.summary
    judged = [row for row in result.rows if row["iou"] is not None]
    assert summary["images"] == case.chosen(arguments["images"]).sum()
    assert with_patches(case, arguments).items() <= summary.items()
    assert summary["matched"] == len(expected)
    assert summary["judged"] == len(judged)
    if expected:
        assert summary["layer"] == expected[0]["layer"]
        assert summary["patches"] == median(len(row["patches"]) for row in expected)
        assert summary["regions"] == median(row["regions"] for row in expected)
    if judged:
        assert summary["iou"] == median(row["iou"] for row in judged)
        assert summary["pointing"] == np.mean([row["pointing"] for row in judged])
    assert result.headline


@pytest.mark.parametrize("share", [0.2, 0.5, 0.65, 1.0])
def test_regions_of_large_masks(tmp_path: Path, share: float) -> None:
    run = make_run(grid=(24, 24), layers=1, k=16)
    _, _, arrays = make_cache(tmp_path, run, images=4)
    token, logprob = arrays["patch/token"][:, 0], arrays["patch/logprob"][:, 0].astype(float)
    probability = np.where(token == 2, np.exp(logprob), 0).sum(-1)  # (image, patch), of the token 2
    least = float(np.quantile(probability, 1 - share))
    if share == 1:
        least = 1e-6
    rows = vlq.open(str(tmp_path)).locate(2, rank=16, min_prob=least).rows
    assert len(rows) == 4
    for row in rows:
        assert row["patches"] == np.flatnonzero(probability[row["image_id"]] >= least).tolist()
        assert row["regions"] == flood_fill(row["patches"], 24)
    if share == 1:
        assert [row["regions"] for row in rows] == [1, 1, 1, 1]


def test_a_winding_region_is_one(tmp_path: Path) -> None:
    # Every other row, joined at alternating ends: the longest way that a label may have to go.
    side = 9
    cells = [r * side + c for r in range(side) for c in range(side) if r % 2 == 0 or c == (side - 1) * (r % 4 == 1)]
    assert flood_fill(cells, side) == 1
    corpus = winding(tmp_path, side, cells)
    (row,) = corpus.locate(2).rows
    assert (row["patches"], row["regions"]) == (cells, 1)
    (other,) = corpus.locate(3).rows
    assert other["regions"] == flood_fill(other["patches"], side) == side // 2


def winding(folder: Path, side: int, cells: list[int]) -> Corpus:
    """A corpus of one image and layer, in which these patches read the token 2 and all others 3."""
    run = make_run(grid=(side, side), layers=1, k=1, at=("patch",))
    store = open_store(str(folder), create=True)
    store.create(VOCABULARY, parquet(vocabulary_table(run.vocabulary_size)))
    store.create(RUN, run.to_bytes())
    store.create(head_key(1), Head(1, "plans/none.parquet", 1, 1, False, None).to_bytes())
    readings = random_readings(run, 1, np.random.default_rng(0))
    token = np.full(side * side, 3)
    token[cells] = 2
    readings["patch/token"][...] = token[None, None, :, None]
    readings["patch/top1"][...] = token[None, None]
    write_shard(store, run, 0, 0, readings, image_table(["a.png"], 0, [], run))
    return vlq.open(str(folder))


def test_without_ground_truth(tmp_path: Path) -> None:
    make_cache(tmp_path, images=4, columns={"objects": ["dog", "cat", "dog", "cat"]})  # a column, but no boxes
    result = vlq.open(str(tmp_path)).locate("cat")
    assert {row["iou"] for row in result.rows} == {row["pointing"] for row in result.rows} == {None}
    assert result.summary["judged"] == 0
    assert "true object" not in result.headline
    header = render(result, "table").splitlines()[3].split()
    assert header == ["image", "layer", "patches", "box", "row", "col", "regions"]


def test_objects_without_a_place_are_no_truth(tmp_path: Path) -> None:
    placed = [0.0, 0.0, 112.0, 112.0]
    boxes = [[None], [[0.0, 0.0, float("nan"), 112.0]], [[1.0, 2.0, 3.0]], [None, placed], [placed]]
    objects = [[{"label": "dog", "box": box} for box in some] for some in boxes]
    make_cache(tmp_path, make_run(k=4), images=len(boxes), columns={"objects": objects})
    corpus = vlq.open(str(tmp_path))
    result = corpus.query("locate('dog', rank=4)")
    found = {row["image_id"]: (row["iou"] is None, row["pointing"]) for row in result.rows}
    assert found == {0: (True, None), 1: (True, None), 2: (True, None), 3: (False, True), 4: (False, True)}
    assert (result.summary["judged"], result.summary["pointing"]) == (2, 1.0)
    areas = {row["image_id"]: row["area"] for row in corpus.query("prominence('dog')").rows}
    assert areas == {0: None, 1: None, 2: None, 3: 1.0, 4: 1.0}


def test_the_images_own_columns_may_have_any_name(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["several shards"]
    own = {name: ["x"] * 10 for name in ("patch", "box", "row", "col", "shows", "regions", "truth", "layer")}
    make_cache(tmp_path, images=10, failed=[3, 4], columns=own | {"objects": case.objects})
    assert vlq.open(str(tmp_path)).locate("cat").rows == case.corpus.locate("cat").rows


def test_the_default_layer_is_said(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    counts = [len(corpus.locate("cat", layer=layer)) for layer in range(5)]
    best = counts.index(max(counts))
    result = corpus.locate("cat")
    assert result.rows == corpus.locate("cat", layer=best).rows
    assert result.notes == ["The layer is the one at which most images read it, the lowest of equal ones."]
    assert corpus.locate("cat", layer=best).notes == []
    found = result.summary
    assert result.headline.startswith(f"cat: read at layer {best} in {counts[best]} of 8 images, median ")
    assert f"in {found['judged']} with a true object, median IoU {found['iou']:.2f}, centroid inside" in result.headline
    assert corpus.locate("cat", layer=best).headline.startswith(f"cat (layer {best}): read in {counts[best]} of 8 ")


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    found = corpus.query("locate('sky', layer=1)").summary  # no object is labelled so
    assert found["judged"] == 0
    patches, parts = found["patches"], found["regions"]
    assert corpus.query("locate('sky', layer=1)").headline == (
        f"sky (layer 1): read in {found['matched']} of 8 images, median {patches:g} patch{'es' * (patches != 1)} "
        f"in {parts:g} region{'s' * (parts != 1)}"
    )
    assert corpus.query("locate('cat', min_prob=1.0)").headline == (
        "cat (probability at least 1): read in none of 8 images"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("locate('cat', layer=(1, 2))", "layer: expected a layer. Got (1, 2)."),
        ("locate('cat', layer=5)", "layer: there is no layer 5. This cache has the layers 0 (the embedding) to 4."),
        ("locate('cat', min_patches=13)", "min_patches: with this grid a layer has 12 positions. Got 13."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


def test_a_cache_without_patches(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("prompt",)), images=2)
    for text in ("locate('cat')", "overlap('cat', 'ear')", "neighbours('cat')"):
        with pytest.raises(BadArgument, match=r"at: this cache has readings at prompt, last only\. Got 'patch'\."):
            vlq.open(str(tmp_path)).query(text)


def test_sql(cases: dict[str, Case]) -> None:
    text = "locate('cat')"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "locate.sql").read_text()


def test_case_is_folded_in_labels_as_in_the_vocabulary(tmp_path: Path) -> None:
    """Small letters do not tell: of a final sigma, of an I with a dot there are several, and of ß there is SS."""
    words = ["σκύλος", "straße", "İstanbul"]
    others = ["ΣΚΎΛΟΣ", "STRASSE", "istanbul"]
    vocabulary = vocabulary_table(20).to_pydict()
    for id, word in enumerate([*words, *others], start=12):
        vocabulary["piece"][id], vocabulary["text"][id], vocabulary["word_start"][id] = f"▁{word}", f" {word}", True
    labels = [*words, *others, "σκύλοι"]
    objects = [[{"label": label, "box": [0.0, 0.0, 60.0, 60.0]}] for label in labels]
    make_cache(
        tmp_path,
        make_run(vocabulary_size=20, k=20),
        images=len(labels),
        columns={"objects": objects},
        vocabulary=pa.table(vocabulary, schema=vocabulary_table(20).schema),
    )
    corpus = vlq.open(str(tmp_path))
    for word in words:
        same = {id for id, label in enumerate(labels) if label.casefold() == word.casefold()}
        ids = {id for id in range(12, 18) if vocabulary["text"][id].strip().casefold() == word.casefold()}
        judged = {row["image_id"] for row in corpus.locate(word, rank=20).rows if row["iou"] is not None}
        assert judged == same
        assert corpus.first_layer(word, patches=word).summary["with_patches"] == len(same)
        assert {row["token"] for row in corpus.tokens(word).rows} == ids
        assert {token["id"] for token in corpus.first_layer(word).tokens} == ids
    rows = corpus.prominence().rows
    assert sorted(row["image_id"] for row in rows if row["area"] is not None) == [*range(len(labels))]
    assert len({row["object"] for row in rows}) == 5
