"""overlap equals set arithmetic over the arrays' patches."""

from __future__ import annotations

from collections import Counter
from math import dist
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq.workers.indexing.postings
from vlq.query.cache.reader import Cache, Snapshot
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument

from ...synthetic import WORDS, make_cache
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


def brute(case: Case, a: list[int], b: list[int], arguments: dict[str, Any]) -> list[dict[str, Any]]:
    hits = [case.hits("patch", ids, arguments) for ids in (a, b)]
    rows = []
    for image, layer in np.argwhere(hits[0].any(-1) & hits[1].any(-1)).tolist():
        p, q = (set(np.flatnonzero(hit[image, layer]).tolist()) for hit in hits)
        columns = case.grids[image][1]
        distance = min(dist(divmod(i, columns), divmod(j, columns)) for i in p for j in q)
        rows.append(
            {
                "image": case.names[image],
                "layer": layer,
                "both": len(p & q),
                "either": len(p | q),
                "iou": len(p & q) / len(p | q),
                "distance": pytest.approx(distance),
                "patches": sorted(p & q),
                "image_id": image,
            }
        )
    return sorted(rows, key=lambda row: (row["image"], row["layer"]))


@SETTINGS
@given(name=shapes, data=st.data())
def test_equals_brute_force(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    a, b = data.draw(token_ids(case)), data.draw(token_ids(case))
    arguments = data.draw(st.composite(reading_arguments)(case)) | {"layers": data.draw(layer_choices(case.run))}
    result = case.corpus.overlap(one_or_list(a), one_or_list(b), **asked(arguments))
    expected = brute(case, a, b, arguments)
    assert result.rows == expected

    summary = result.summary
    assert summary["images"] == case.chosen(arguments["images"]).sum()
    assert with_patches(case, arguments).items() <= summary.items()
    assert summary["matched"] == len({row["image"] for row in expected})
    assert summary["shared"] == len({row["image"] for row in expected if row["both"]})
    layers = Counter(row["layer"] for row in expected)
    assert {layer: n for layer, n in summary["histogram"].items() if n} == layers
    if expected:
        assert summary["iou"] == median(row["iou"] for row in expected)
        assert summary["largest_iou"] == max(row["iou"] for row in expected)
        assert summary["distance"] == median(row["distance"] for row in result.rows)
    assert result.headline


def test_all_stored_ranks_count_by_default(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    assert corpus.overlap("cat", "ear").rows == corpus.overlap("cat", "ear", rank=4).rows
    assert corpus.overlap("cat", "ear").notes == []
    first = corpus.overlap("cat", "ear", rank=1)
    assert {row["both"] for row in first.rows} == {0}
    assert min(row["distance"] for row in first.rows) >= 1
    assert first.notes == ["At rank 1 a patch reads one token only, so none is shared; a higher rank= counts more."]
    assert corpus.query("overlap('cat', ['cat', 'ear'], rank=1)").notes == []


def test_the_rest_of_the_language_applies(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    rows = corpus.overlap("cat", "ear").rows
    assert corpus.query("overlap('cat', 'ear').where(both >= 1 and either < 6)").rows == [
        row for row in rows if row["both"] >= 1 and row["either"] < 6
    ]
    more = corpus.query("overlap('cat', 'ear') > overlap('cat', 'dog')")
    iou = {(row["image_id"], row["layer"]): row["iou"] for row in rows}
    other = {(row["image_id"], row["layer"]): row["iou"] for row in corpus.overlap("cat", "dog").rows}
    assert {(row["image_id"], row["layer"]) for row in more.rows} == {
        key for key in iou.keys() & other.keys() if iou[key] > other[key]
    }


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("overlap('cat', 'ear', layers=(1, 3))")
    found = result.summary
    distance = round(found["distance"], 2)
    assert result.headline == (
        f"cat and ear (rank 1 to 4, layers 1 to 3): read at the same layer in {found['matched']} of 8 images, by the "
        f"same patch in {found['shared']}; median distance {distance:g} patch{'es' * (distance != 1)}, "
        f"median IoU {found['iou']:.2f}, largest {found['largest_iou']:.2f}"
    )
    never = corpus.query("overlap('cat', 'ear', min_prob=1.0)")
    assert never.headline.endswith("(rank 1 to 4, probability at least 1): read at the same layer in none of 8 images")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overlap('cat')", "b is missing."),
        ("overlap('cat', 'ear', rank=5)", "rank: this cache holds the 4 best tokens of a reading. Got 5."),
        ("overlap('cat', 'ear', min_patches=13)", "min_patches: with this grid a layer has 12 positions. Got 13."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


@pytest.mark.here("how an index is cut into blocks")
def test_what_is_read_more_often_is_looked_for_in_the_images_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlq.workers.indexing.postings, "ROW_GROUP", 16)
    make_cache(tmp_path, images=12)
    corpus = LocalCorpus(Cache.open(str(tmp_path)))
    blocks = [corpus.cache.snapshot().blocks("patch_topk", [token]) for token in range(len(WORDS))]
    seldom, often = blocks.index(min(blocks)), blocks.index(max(blocks))
    assert 0 < blocks[seldom] < blocks[often]
    answers = {}
    for text, token in ((f"overlap({often}, {seldom})", "$token_2"), (f"overlap({seldom}, {often})", "$token")):
        answers[text] = corpus.query(text)
        sql = answers[text].statement.sql
        assert sql.count("SELECT DISTINCT image FROM read_parquet($patch_topk)") == 1
        assert f"SELECT DISTINCT image FROM read_parquet($patch_topk) WHERE token = {token}\n" in sql
    assert all(answer.rows for answer in answers.values())
    monkeypatch.setattr(Snapshot, "blocks", lambda *_: 0)
    for text, answer in answers.items():
        assert LocalCorpus(Cache.open(str(tmp_path))).query(text).rows == answer.rows


def test_sql(cases: dict[str, Case]) -> None:
    text = "overlap('cat', 'ear', min_prob=0.5)"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "overlap.sql").read_text()
