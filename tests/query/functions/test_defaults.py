"""defaults equals counting the arrays' top-1 tokens, layer by layer."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument
from vlq.query.schema import COUNTS
from vlq.workers.indexing.index import WHOLE_TABLES

from ...synthetic import make_cache, make_run
from ..corpora import (
    LABELS,
    SETTINGS,
    SNAPSHOTS,
    Case,
    Places,
    asked,
    layer_choices,
    layers_of,
    of_case,
    places_of,
    shapes,
    sites,
    snapshot,
    with_patches,
)


def brute(
    case: Case, at: str, share: float, unit: str, layers: Any, images: str | None, places: Places | None
) -> list[dict[str, Any]]:
    top1 = case.sites[at].token[..., 0]  # (image, layer, position)
    counted = case.at(at) if places is None else places.mask
    rows = []
    for layer in layers_of(layers, case.run):
        counts: Counter[int] = Counter()
        for image in np.flatnonzero(case.chosen(images, at) & counted.any(1)):
            read = top1[image, layer][counted[image]].tolist()
            if unit == "position":
                counts.update(read)
            else:
                ids = Counter(read)
                counts[min(ids, key=lambda id: (-ids[id], id))] += 1
        so_far, total = 0, sum(counts.values())
        for id, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if Fraction(so_far, total) >= Fraction(str(share)):
                break
            so_far += n
            piece, text = case.pieces[id]
            row = {"layer": layer, "token": id, "piece": piece, "text": text, "count": n}
            rows.append(row | {"share": n / total, "cumulative": so_far / total})
    return rows


@SETTINGS
@given(
    name=shapes,
    at=sites(),
    share=st.sampled_from([0.1, 0.125, 0.25, 0.3, 0.5, 0.55, 0.75, 0.9, 1.0])
    | st.integers(1, 1000).map(lambda n: n / 1000),
    unit=st.sampled_from(["image", "position"]),
    images=st.sampled_from([None, None, *LABELS]),
    data=st.data(),
)
def test_equals_brute_force(
    cases: dict[str, Case], name: str, at: Any, share: float, unit: Any, images: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    at = of_case(case, at)
    layers = data.draw(layer_choices(case.run))
    places = data.draw(st.none() | st.composite(places_of)(case)) if at == "patch" else None
    arguments = {"images": images, "patches": places}
    result = case.corpus.defaults(at, share=share, unit=unit, layers=layers, **asked(arguments))
    expected = brute(case, at, share, unit, layers, images, places)
    assert result.rows == expected

    summary = result.summary
    assert summary["images"] == case.chosen(images, at).sum()
    assert with_patches(case, arguments).items() <= summary.items()
    assert summary["matched"] == len({row["token"] for row in expected})
    tokens = Counter(row["layer"] for row in expected)
    assert summary["histogram"] == {layer: tokens[layer] for layer in layers_of(layers, case.run)}
    if expected:
        leaders = [next(row for row in expected if row["layer"] == layer) for layer in tokens]
        leads = Counter(row["token"] for row in leaders)
        counts: Counter[int] = Counter()
        for row in leaders:
            counts[row["token"]] += row["count"]
        token = min(leads, key=lambda id: (-leads[id], -counts[id], id))
        assert summary["token"] == token
        assert summary["leads"] == leads[token]
        assert summary["last"] == max(row["layer"] for row in leaders if row["token"] == token)
        assert summary["share"] == median(row["share"] for row in leaders if row["token"] == token)
        assert summary["tokens"] == median(tokens.values())
    assert result.headline


def test_the_share_is_reached_and_no_more(cases: dict[str, Case]) -> None:
    # 8 images have readings: 3 of 8 is exactly 0.375, so a token that 3 decode to is enough.
    corpus = cases["several shards"].corpus
    for share in (0.125, 0.25, 0.375, 0.5):
        for layer in range(5):
            rows = corpus.defaults(share=share, layers=layer).rows
            assert rows[-1]["cumulative"] >= share
            assert rows[-1]["cumulative"] - rows[-1]["share"] < share


@pytest.mark.parametrize(
    ("name", "images", "table"),
    [
        ("several shards", "", "counts"),
        ("several shards", ", images=label == 'beach'", "patch_top1"),
        ("wide ids, not compacted", "", "patch_top1"),
    ],
)
def test_one_scan(cases: dict[str, Case], name: str, images: str, table: str) -> None:
    """Of the index's counts where all images of it count, else of what each of them reads."""
    statement = cases[name].corpus.query(f"defaults('patch', share=0.5{images})").statement
    assert statement.tables.keys() - {"images"} == {table, "vocabulary"}
    assert statement.sql.count(f"${table}") == 1


@pytest.mark.parametrize("query", ["defaults('patch')", "divergence('prompt', unit='position')", "tokens('')"])
def test_an_index_without_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    make_cache(tmp_path / "new", failed=[3])
    monkeypatch.delitem(WHOLE_TABLES, COUNTS)
    make_cache(tmp_path / "old", failed=[3])
    new, old = (vlq.open(str(tmp_path / age)).query(query) for age in ("new", "old"))
    assert (COUNTS in new.statement.tables, COUNTS in old.statement.tables) == (True, False)
    assert new.rows == old.rows


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("defaults(share=0.5, layers=(1, 3))")
    found = result.summary
    assert result.headline == (
        f"Defaults at the last prompt token of 8 images (layers 1 to 3): {found['piece']} ({found['token']}) leads at "
        f"{found['leads']} of 3 layers, up to layer {found['last']}, with a median {found['share']:.0%} of the images; "
        f"in the median layer {found['tokens']:g} tokens cover 50%"
    )
    assert found["tokens"] > 1
    assert corpus.query("defaults(images=image_id == 0)").headline.endswith("in the median layer 1 token covers 90%")
    assert "of the positions; " in corpus.query("defaults('patch', unit='position')").headline
    assert "of the images; " in corpus.query("defaults('last', unit='position')").headline
    (note,) = corpus.query("defaults('patch')").notes
    assert note.startswith("An image counts for the token that most of its patches decode to")
    assert corpus.query("defaults()").notes == []
    none = corpus.query("defaults(images=label == 'desert')")
    assert none.rows == []
    assert none.headline == "Defaults at the last prompt token of 0 images (images with label == 'desert'): none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults(share=0)", "share: expected a share above 0 and up to 1. Got 0."),
        ("defaults(share=90)", "share: expected a share above 0 and up to 1. Got 90."),
        ("defaults(share=None)", "share: expected a share above 0 and up to 1. Got None."),
        ("defaults(unit='patch')", "unit: expected 'image' or 'position'. Got 'patch'."),
        ("defaults('first')", "at: expected 'patch' or 'last' or 'prompt' or 'answer'. Got 'first'."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


def test_a_site_that_was_not_cached(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("patch",)), images=2)
    with pytest.raises(BadArgument, match=r"at: this cache has readings at patch only\. Got 'last'\."):
        vlq.open(str(tmp_path)).query("defaults()")


def test_sql(cases: dict[str, Case]) -> None:
    text = "defaults(layers=(1, 3))"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "defaults.sql").read_text()


def test_sql_by_image(cases: dict[str, Case]) -> None:
    text = "defaults('patch', images=label == 'beach')"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "defaults_by_image.sql").read_text()
