"""divergence_layer equals following each image's top-1 token from layer to layer."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument

from ..corpora import LABELS, SETTINGS, SNAPSHOTS, Case, asked, layer_choices, layers_of, shapes, snapshot
from .test_divergence import certain, from_sums, made_of


def brute(case: Case, at: str, min_share: float, layers: Any, images: str | None) -> list[dict[str, Any]]:
    chosen = np.flatnonzero(case.chosen(images, at)).tolist()
    top1 = case.sites[at].token[..., 0]  # (image, layer, position)
    window = layers_of(layers, case.run)
    said: dict[int, list[int]] = {}  # by image: a token for each layer of the window
    for image in chosen:
        said[image] = []
        for layer in window:
            ids = Counter(top1[image, layer][case.at(at)[image]].tolist())
            said[image].append(min(ids, key=lambda id: (-ids[id], id)))
    counts = [Counter(tokens[place] for tokens in said.values()) for place in range(len(window))]
    rows = []
    for image in chosen:
        is_default = [
            counts[place][token] > 1 and Fraction(counts[place][token], len(chosen)) >= Fraction(str(min_share))
            for place, token in enumerate(said[image])
        ]
        place = len(window)
        while place > 0 and not is_default[place - 1]:
            place -= 1
        layer = window[place] if place < len(window) else None
        token = said[image][min(place, len(window) - 1)]
        rows.append(
            {
                "image": case.names[image],
                "layer": layer,
                "token": token,
                "piece": case.pieces[token][0],
                "share": counts[min(place, len(window) - 1)][token] / len(chosen),
                "censored": layer == window[0] and window[0] > 0,
                "image_id": image,
            }
        )
    return sorted(rows, key=lambda row: (row["layer"] is None, row["layer"] or 0, row["image"]))


@SETTINGS
@given(
    name=shapes,
    at=st.sampled_from(["patch", "last", "last", "prompt"]),
    min_share=st.sampled_from([0.1, 0.125, 0.2, 0.25, 0.3, 0.375, 0.5, 0.6, 1.0])
    | st.integers(1, 1000).map(lambda n: n / 1000),
    images=st.sampled_from([None, None, *LABELS]),
    data=st.data(),
)
def test_equals_brute_force(
    cases: dict[str, Case], name: str, at: Any, min_share: float, images: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    layers = data.draw(layer_choices(case.run))
    given = {"min_share": min_share, "layers": layers, **asked({"images": images})}
    result = case.corpus.divergence_layer(at, **given)
    expected = brute(case, at, min_share, layers, images)
    corpus = ("corpus_layer", "corpus_rise")
    assert [{key: row[key] for key in row if key not in corpus} for row in result.rows] == expected

    found = [row["layer"] for row in expected if row["layer"] is not None]
    histogram = {layer: found.count(layer) for layer in layers_of(layers, case.run)}
    ends = Counter(row["token"] for row in expected if row["layer"] is None)
    summary = result.summary
    assert (summary["images"], summary["matched"]) == (len(expected), len(found))
    assert summary["histogram"] == histogram
    assert (summary["min"], summary["max"]) == (min(found, default=None), max(found, default=None))
    assert summary["median"] == (median(found) if found else None)
    assert summary["never"] == ends.total()
    if ends:
        token = min(ends, key=lambda token: (-ends[token], token))
        assert summary["still"] == {"token": token, "piece": case.pieces[token][0]}
    assert result.headline

    one = case.corpus.divergence_layer(at, by="corpus", **given)
    assert len(one.rows) == bool(expected)
    rise = rises(case, at, layers) if images is None else {}
    for row in one.rows:
        assert (row["images"], row["median"]) == (len(found), median(found) if found else None)
        assert one.summary["histogram"] == histogram
        steepest = max(rise, key=lambda layer: rise[layer], default=None)
        assert row["layer"] == steepest
        assert row["rise"] == (None if steepest is None else pytest.approx(rise[steepest], abs=1e-6))
        assert {tuple(row[key] for key in corpus) for row in result.rows} == {(row["layer"], row["rise"])}
        for answer in (one, result):
            assert (answer.summary["corpus_layer"], answer.summary["corpus_rise"]) == (row["layer"], row["rise"])


def rises(case: Case, at: str, layers: Any) -> dict[int, float]:
    """By how much the divergence rises at each layer of the window where it does."""
    if at == "prompt":
        return {}
    _, divergence = from_sums(case.corpus.cache.url, at, case.good)
    window = layers_of(layers, case.run)
    rise = {at: divergence[at] - divergence[below] for below, at in pairwise(case.run.read_layers) if at in window}
    return {layer: value for layer, value in rise.items() if value > 0}


def test_from_which_layer_on(tmp_path: Path) -> None:
    """Three of five say 3, then it differs; one comes back to what two say; one always differs."""
    tokens = [
        [3, 3, 5, 6],
        [3, 3, 3, 7],
        [3, 4, 4, 8],
        [9, 5, 4, 4],
        [8, 6, 6, 4],
        [0, 0, 0, 0],  # failed
    ]
    p = certain(tokens)
    p[5] = np.nan
    corpus = made_of(tmp_path, p)
    found = {row["image"]: (row["layer"], row["token"], row["share"]) for row in corpus.divergence_layer().rows}
    assert found == {
        "0.png": (2, 5, 0.2),
        "1.png": (2, 3, 0.2),
        "2.png": (3, 8, 0.2),
        "3.png": (None, 4, 0.4),
        "4.png": (None, 4, 0.4),
    }
    # Three of five are enough for two thirds never, and at the first layer alone for 0.6.
    found = {row["image"]: row["layer"] for row in corpus.divergence_layer(min_share=0.6).rows}
    assert found == {"0.png": 1, "1.png": 1, "2.png": 1, "3.png": 0, "4.png": 0}
    found = {row["image"]: row["layer"] for row in corpus.divergence_layer(min_share=0.61).rows}
    assert set(found.values()) == {0}

    # Up to layer 2, one more never comes to differ; from layer 2, what was before is not looked at.
    rows = corpus.divergence_layer(layers=(0, 2)).rows
    assert [row["image"] for row in rows if row["layer"] is None] == ["2.png", "3.png"]
    rows = corpus.divergence_layer(layers=(2, 3)).rows
    assert [(row["image"], row["censored"]) for row in rows if row["layer"] == 2] == [("0.png", True), ("1.png", True)]
    assert not any(row["censored"] for row in rows if row["layer"] != 2)


def test_it_compares_with_what_has_a_row_for_each_image(tmp_path: Path) -> None:
    # Token 2 is "cat": read at layer 1 in image 0, at 2 in image 1, where each comes to differ at 1 and 3.
    corpus = made_of(tmp_path, certain([[3, 2, 2, 2], [3, 3, 2, 4], [3, 3, 2, 5], [3, 3, 3, 3], [3, 3, 3, 3]]))
    layers = {row["image"]: row["layer"] for row in corpus.divergence_layer(min_share=0.4).rows}
    assert layers == {"0.png": 3, "1.png": 3, "2.png": 3, "3.png": None, "4.png": None}
    before = corpus.query("first_layer('cat', at='last') < divergence_layer(min_share=0.4)")
    assert [(row["image"], row["layer_1"], row["layer_2"]) for row in before.rows] == [
        ("0.png", 1, 3),
        ("1.png", 2, 3),
        ("2.png", 2, 3),
    ]
    # 'sky' (6) is never read; of the two images that never differ nothing can be said, unless never counts as after.
    known = corpus.query("last_layer(3, at='last') < divergence_layer(min_share=0.4)")
    assert (known.summary["compared"], known.summary["matched"]) == (3, 3)
    known = corpus.query("last_layer(3, at='last') < divergence_layer(min_share=0.4, missing='never')")
    assert (known.summary["compared"], known.summary["matched"]) == (5, 5)
    differences = corpus.query("divergence_layer(min_share=0.4) - first_layer('cat', at='last')").rows
    assert [row["value"] for row in differences] == [1, 1, 2]
    rows = corpus.divergence_layer(min_share=0.4).where(vlq.col("layer") < vlq.col("corpus_layer")).rows
    assert rows == []


def test_the_note_names_the_defaults(cases: dict[str, Case]) -> None:
    """The query that it gives lists just the tokens that no image decodes to from its layer on."""
    corpus = cases["several shards"].corpus
    for text in ("divergence_layer(min_share=0.25)", "divergence_layer('patch', images=label == 'beach')"):
        result = corpus.query(text)
        note = next(note for note in result.notes if note.startswith("Image-specific"))
        listed = corpus.query(note.rpartition("decode to: ")[2])
        defaults = {(row["layer"], row["token"]) for row in listed.rows}
        assert defaults
        never = [row for row in result.rows if row["layer"] is None]
        assert all((corpus.cache.run.layers - 1, row["token"]) in defaults for row in never)
        assert not {(row["layer"], row["token"]) for row in result.rows} & defaults


def test_the_sentence(tmp_path: Path) -> None:
    p = certain([[3, 3, 5, 6], [3, 3, 3, 7], [3, 4, 4, 8], [9, 5, 4, 4], [8, 6, 6, 4]])
    corpus = made_of(tmp_path, p)
    result = corpus.divergence_layer()
    rise = corpus.divergence().rows[1]["rise"]
    assert result.headline == (
        "The last prompt token becomes image-specific in 3 of 5 images, median layer 2, earliest 2; "
        "the other 2 end with a default, most often ▁ear (4); "
        f"the corpus' divergence rises most at layer 1 (by {rise:.2g} nats)"
    )
    assert result.notes[:-1] == [
        "Image-specific: from this layer on the image decodes to no default. Defaults are tokens that at least 0.1 of "
        "the images, and at least two, decode to: defaults('last', share=1).where(share >= 0.1 and count > 1)"
    ]
    assert corpus.divergence_layer(by="corpus").headline == (
        "The last prompt token becomes image-specific in 3 of 5 images, median layer 2, earliest 2; "
        f"the corpus' divergence rises most at layer 1 (by {rise:.2g} nats)"
    )
    window = corpus.divergence_layer(layers=(0, 2))
    assert "the other 2 end with a default, most often ▁ear (4); " in window.headline
    assert "Whether it stays so beyond layer 2 was not looked at." in window.notes
    assert (
        corpus.divergence_layer(layers=3)
        .where(vlq.col("token") == 4)
        .headline.startswith(
            "The last prompt token becomes image-specific in none of 5 images (layer 3); "
            "2 end with a default, most often ▁ear (4)"
        )
    )
    same = made_of(tmp_path / "same", certain([[3], [3]])).divergence_layer()
    assert same.headline == (
        "The last prompt token becomes image-specific in none of 2 images; they end with a default, "
        "most often ▁rock (3)"
    )
    part = corpus.query("divergence_layer(images=image == '0.png')")
    assert part.headline == (
        "The last prompt token becomes image-specific in 1 of 1 image (images with image == '0.png'), "
        "median layer 0, earliest 0"
    )
    assert part.notes[-2] == (
        "The divergence of a part of the images is not known: probabilities are summed over all of them."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divergence_layer(min_share=10)", "min_share: expected a share above 0 and up to 1. Got 10."),
        ("divergence_layer(by='patch')", "by: expected 'image' or 'corpus'. Got 'patch'."),
        ("divergence_layer(by='corpus', missing='never')", "missing: goes with by='image'."),
        (
            "divergence_layer() < divergence()",
            "divergence_layer() has a row for each image, divergence() for each layer.",
        ),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("divergence_layer", "divergence_layer(layers=(1, 3))"),
        ("divergence_layer_corpus", "divergence_layer('patch', by='corpus')"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / f"{name}.sql").read_text()
