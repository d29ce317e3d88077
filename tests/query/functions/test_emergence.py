"""emergence equals counting in the arrays, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.query.errors import BadArgument, UnknownToken

from ...synthetic import WORDS
from ..corpora import (
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    layer_choices,
    layers_of,
    of_case,
    one_or_list,
    reading_arguments,
    shapes,
    sites,
    snapshot,
    token_ids,
    with_patches,
)

EAR = len(WORDS)
"""The piece "ear" inside of words; the word is another token."""


@SETTINGS
@given(name=shapes, data=st.data())
def test_equals_brute_force(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    at = of_case(case, data.draw(sites()))
    sets = data.draw(st.lists(token_ids(case), min_size=1, max_size=3, unique_by=tuple))
    arguments = data.draw(st.composite(reading_arguments)(case, at)) | {"layers": data.draw(layer_choices(case.run))}
    result = case.corpus.emergence([one_or_list(ids) for ids in sets], at=at, **asked(arguments))

    expected: list[dict[str, Any]] = []
    tokens = {}
    for ids in sets:
        label = ", ".join(case.pieces[id][0] or str(id) for id in ids)
        hit = case.hits(at, ids, arguments)
        seen = np.zeros(len(hit), bool)
        so_far = []
        for layer in layers_of(arguments["layers"], case.run):
            read = hit[:, layer].any(-1)
            new = read & ~seen
            seen |= read
            so_far.append((layer, int(seen.sum())))
            row = {"token": label, "layer": layer, "images": read.sum(), "new": new.sum(), "so_far": seen.sum()}
            counted = {"patch": {"patches": hit[:, layer].sum()}, "last": {}}
            expected.append(row | counted.get(at, {"positions": hit[:, layer].sum()}))
        matched = so_far[-1][1]
        half = [layer for layer, n in so_far if n >= matched / 2]
        first = [layer for layer, n in so_far if n]
        tokens[label] = {
            "matched": matched,
            "half": half[0] if matched else None,
            "first": first[0] if matched else None,
        }
    assert result.rows == expected
    images = {"images": case.chosen(arguments["images"], at).sum()}
    assert result.summary == images | {"tokens": tokens} | with_patches(case, arguments)
    assert result.headline


def test_items_of_a_list_stand_side_by_side(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus

    def labels(text: str) -> list[str]:
        return list(dict.fromkeys(row["token"] for row in corpus.query(text).rows))

    assert labels("emergence('dog')") == ["dog"]
    assert labels("emergence(['ear', 'dog', ['rock', 'tree'], 'dog'])") == ["ear", "dog", "rock, tree"]
    assert labels("emergence(matching('^[dt]'))") == ["matching('^[dt]')"]
    assert labels(f"emergence([{EAR}, 'ear', 'dog'])") == [f"ear ({EAR})", "ear (4)", "dog"]
    assert [*corpus.query(f"emergence(['ear', {EAR}])").summary["tokens"]] == ["ear (4)", f"ear ({EAR})"]
    together = corpus.query("emergence(['ear', ['rock', 'tree']])").rows
    assert together == corpus.query("emergence('ear')").rows + corpus.query("emergence([['rock', 'tree']])").rows
    pieces = [token["piece"] for token in corpus.query("emergence(['tree', ['rock', 'dog']])").tokens]
    assert pieces == ["▁tree", "▁dog", "▁Dog", "▁rock"]


def test_the_rest_of_the_language_applies(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    rows = corpus.emergence(["cat", "ear"]).rows
    assert corpus.query("emergence(['cat', 'ear']).where(token == 'ear' and layer > 2)").rows == [
        row for row in rows if row["token"] == "ear" and row["layer"] > 2
    ]
    assert corpus.query("emergence(['cat', 'ear']).limit(3)").rows == rows[:3]


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("emergence(['cat', 'ear', 13], rank=2, min_patches=2)")
    tokens = result.summary["tokens"]
    cat, ear = tokens["cat"], tokens["ear"]
    assert result.headline.startswith(
        f"cat: read in {cat['matched']} of 8 images by the last layer, half of them by layer {cat['half']}; "
        f"ear: in {ear['matched']}, half by layer {ear['half']}; w0: in "
    )
    assert result.headline.endswith(" (rank 1 to 2, at least 2 patches a layer)")
    assert corpus.query("emergence('cat', layers=(1, 3))").headline.endswith(" (layers 1 to 3)")
    assert " of 8 images by layer 3, half" in corpus.query("emergence('cat', layers=(1, 3))").headline
    never = corpus.query("emergence(['cat', 'ear'], min_prob=1.0)")
    assert never.headline == "cat: read in none of 8 images; ear: in none (probability at least 1)"
    assert "; and 2 tokens more" in corpus.query("emergence([0, 1, 2, 3, 4, 5, 6, 7])").headline
    assert corpus.query("emergence('cat', at='last')").headline.startswith("cat: read at the last prompt token in ")


def test_what_is_not_stored_is_said_once(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    assert corpus.query("emergence(['cat', 'ear'], min_prob=0.1)").notes == []
    (note,) = corpus.query("emergence(['dog', ['cat', 'ear'], 'rock'], min_prob=0.1)").notes
    assert "Of the 2 tokens only those among" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emergence([])", "token: expected a word, a piece such as '▁dog', a token id, a list of these"),
        ("emergence('cat', min_patches=13)", "min_patches: with at='patch' a layer has 12 positions. Got 13."),
        ("emergence('cat', rank=5)", "rank: this cache holds the 4 best tokens of a reading. Got 5."),
        ("emergence(['cat', 'dgo'])", "'dgo' is no word of this vocabulary."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises((BadArgument, UnknownToken)) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message.startswith(message)


def test_sql(cases: dict[str, Case]) -> None:
    text = "emergence(['dog', 'ear'], layers=(1, 3))"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "emergence.sql").read_text()
