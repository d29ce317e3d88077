"""Conditions on images that compare answers: `images=first_layer('ear') < first_layer('dog')`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import QueryError
from vlq.query.language.registry import functions

from ..corpora import COMPARE, LABELS, SETTINGS, SHAPES, Case


def first_layers(case: Case, id: int) -> list[int | None]:
    """Of each image the first layer at which a patch's best token is this one."""
    top1 = case.sites["patch"].token[..., 0]  # (image, layer, patch)
    found: list[int | None] = []
    for image in range(len(case.names)):
        layers = np.flatnonzero((top1[image] == id)[:, case.there[image]].any(1)) if case.good[image] else []
        layers = [int(layer) for layer in layers if layer in case.run.read_layers]
        found.append(layers[0] if layers else None)
    return found


@SETTINGS
@given(
    name=st.sampled_from([*SHAPES]),
    ids=st.lists(st.integers(0, 11), min_size=2, max_size=2, unique=True),
    sign=st.sampled_from([*COMPARE]),
    bound=st.integers(0, 5),
    label=st.sampled_from(LABELS),
)
def test_equals_a_look_at_each_image(
    cases: dict[str, Case], name: str, ids: list[int], sign: str, bound: int, label: str
) -> None:
    case = cases[name]
    a, b = (first_layers(case, id) for id in ids)

    def names(known: list[bool | None]) -> list[str]:
        return [case.names[image] for image in np.flatnonzero(case.good) if known[image]]

    def found(condition: str) -> list[str]:
        rows = case.corpus.query(f"images({condition})").rows
        assert [row["image_id"] for row in rows] == [row["image_id"] for row in rows if case.good[row["image_id"]]]
        return sorted(row["image"] for row in rows)

    said = [None if None in pair else COMPARE[sign](*pair) for pair in zip(a, b, strict=True)]
    early = [None if layer is None else layer <= bound for layer in a]
    text = f"first_layer({ids[0]}) {sign} first_layer({ids[1]})"
    assert found(text) == sorted(names(said))
    # What cannot be said is neither.
    assert found(f"not {text}") == sorted(names([None if one is None else not one for one in said]))
    both = [one and case.labels[image] == label for image, one in enumerate(early)]
    assert found(f"first_layer({ids[0]}) <= {bound} and label == '{label}'") == sorted(names(both))
    either = [one or case.labels[image] == label for image, one in enumerate(early)]
    assert found(f"first_layer({ids[0]}) <= {bound} or label == '{label}'") == sorted(names(either))


CONDITION = "first_layer('rock', rank=3) <= first_layer('dog', rank=3, missing='never') and label != 'snow'"


CALLS = {
    "first_layer": "first_layer('tree', rank=3",
    "last_layer": "last_layer('tree', by='patch'",
    "peak_layer": "peak_layer('tree'",
    "readings": "readings(['tree', 'cat']",
    "emergence": "emergence(['tree', 'cat']",
    "defaults": "defaults('patch', unit='position'",
    "divergence": "divergence('patch'",
    "divergence_layer": "divergence_layer('patch'",
    "precursors": "precursors('tree', min_images=1",
    "neighbours": "neighbours('tree'",
    "overlap": "overlap('tree', 'dog', rank=3",
    "locate": "locate('tree'",
    "rank": "rank('tree'",
    "prob": "prob('tree', missing='bound'",
    "prominence": "prominence(['tree', 'dog']",
    "answer": "answer('tree'",
}


def test_all_that_takes_images_is_tried() -> None:
    takes = {one.name for one in functions().values() if one.is_table and one.parameter("images") is not None}
    assert takes == {*CALLS, "effect"}  # which needs studies


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function_is_of_the_images_for_which_it_holds(cases: dict[str, Case], call: str) -> None:
    """As if they were named."""
    for name in ("grids of their own", "with answers"):
        if call.startswith("answer") and name != "with answers":
            continue
        corpus = cases[name].corpus
        held = [row["image"] for row in corpus.query(f"images({CONDITION})").rows]
        assert 0 < len(held) < len(cases[name].names)
        by_answers, by_names = (corpus.query(f"{call}, images={text})") for text in (CONDITION, f"image in {held}"))
        assert by_answers.rows == by_names.rows
        assert by_answers.summary == by_names.summary
        assert {token["piece"] for token in by_answers.tokens} >= {"▁rock", "▁dog"}


def test_held_against_the_images_for_which_it_is_false(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    a, b = (first_layers(case, case.corpus.vocabulary.by_word(word, False)[0]) for word in ("rock", "cat"))
    known = [None if None in pair else pair[0] <= pair[1] for pair in zip(a, b, strict=True)]
    summary = case.corpus.query("first_layer('tree', against=first_layer('rock') <= first_layer('cat'))").summary
    assert summary["images"] == sum(one is True for one in known)
    assert summary["against"]["images"] == sum(one is False for one in known)
    assert summary["unknown"] == sum(known[image] is None for image in np.flatnonzero(case.good))
    narrower = case.corpus.query(
        "first_layer('tree', images=first_layer('cat') >= 1, against=first_layer('rock') <= first_layer('cat'))"
    ).summary
    late = [layer is not None and layer >= 1 for layer in b]
    assert narrower["images"] == sum(one is True and is_late for one, is_late in zip(known, late, strict=True))


def test_by_what_is_counted_of_each_image(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    (rock,) = case.corpus.vocabulary.by_word("rock", pieces=False)
    counts = ((case.sites["patch"].token[..., 0] == rock).sum((1, 2)) * case.good).tolist()
    most = max(counts)
    found = case.corpus.query(f"images(readings('rock').group(image).count() >= {most})").rows
    assert {row["image_id"] for row in found} == {image for image, count in enumerate(counts) if count == most}
    assert 0 < len(found) < sum(count > 0 for count in counts)


def test_in_python(cases: dict[str, Case]) -> None:
    corpus: Corpus = cases["several shards"].corpus
    text = corpus.query("images(first_layer('rock') < 3 and label == 'beach')").rows
    assert corpus.images((vlq.first_layer("rock") < 3) & (vlq.col("label") == "beach")).rows == text
    asked = corpus.first_layer("rock") < corpus.first_layer("cat")
    assert corpus.images(asked).rows == corpus.query("images(first_layer('rock') < first_layer('cat'))").rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("first_layer('dog', by='patch') < 3", "a row for each image and patch, and not for each image"),
        ("emergence('dog') > 3", "a row for each token and layer, and not for each image"),
        ("first_layer('dog') < label", "label asks nothing by itself"),
        ("first_layer('dog') < 'beach'", "asks nothing"),
        ("'dog' in first_layer('dog')", "holds no items"),
        ("first_layer('dog', against=label == 'beach') < 3", "cannot be combined"),
    ],
)
def test_what_says_nothing_of_images(cases: dict[str, Case], condition: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        cases["several shards"].corpus.query(f"images({condition})")
