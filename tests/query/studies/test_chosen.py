"""Which patches of which images a study takes equals brute force, however they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument, QueryError, UnknownToken
from vlq.query.language.nodes import Node
from vlq.query.studies.chosen import CHOSEN, Written, chosen, labelled, numbered, target_of, tokens_of

from ...synthetic import WORDS, make_cache, make_run
from ..corpora import LABELS, SETTINGS, Case, places_of, shapes

pytestmark = pytest.mark.here


def written(argument: Any) -> Written:
    """As the command line takes it."""
    if isinstance(argument, Node):
        return Written.of(f"  {argument}")
    if isinstance(argument, str):
        return labelled(argument)
    return numbered(argument) if isinstance(argument, list) else Written.of(str(argument))


@SETTINGS
@given(name=shapes, data=st.data())
def test_chosen_patches_are_those_of_brute_force(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    places = data.draw(st.composite(places_of)(case))
    # What is true of an image, and what is named by number, need not have been read.
    assume(case.read is None or isinstance(places.argument, Node))
    label = data.draw(st.sampled_from([None, *LABELS]))
    limit = data.draw(st.none() | st.integers(1, 4))
    there = np.zeros_like(places.mask)
    for image, (rows, columns) in enumerate(case.grids):
        there[image, : rows * columns] = case.good[image]
    mask = places.mask & there & (np.array(case.labels) == label if label else case.good)[:, None]
    images = None if label is None else Written.of(f"label == {label!r}")
    if not mask.any():
        with pytest.raises(BadArgument, match="nothing is to be taken"):
            chosen(case.corpus, written(places.argument), images, limit)
        return
    found = chosen(case.corpus, written(places.argument), images, limit)
    assert found.schema == CHOSEN
    expected = [(int(i), np.flatnonzero(mask[i]).tolist()) for i in np.flatnonzero(mask.any(1))][:limit]
    assert [(row["image_id"], row["patches"]) for row in found.to_pylist()] == expected
    for row in found.to_pylist():
        assert row["image"] == case.names[row["image_id"]]
        assert (row["rows"], row["columns"]) == case.grids[row["image_id"]]
        assert (row["prompt"] is not None) == (case.run.prompt_column is not None)
        assert len(row["sha256"]) == 64


@pytest.mark.parametrize(
    ("prompt", "asked", "open_"),
    [
        ("USER: <image>\nWhat is it? ASSISTANT:", None, False),
        ("USER: <image>\nWhat is it? ASSISTANT: ", None, True),
        ("<|user|><image>What is it?<|assistant|>\n", None, True),
        ("<|user|><image>What is it?<|assistant|>\n", "What else?", True),  # the same template's
        ("<|user|><image>What is it?<|assistant|>\n", "USER: <image>\nWhat else? ASSISTANT:", False),
        ("USER: <image>\nWhat is it? ASSISTANT:", "<image>What else?\n", True),
    ],
)
def test_where_an_answer_begins_words_may_have_no_space_before_them(
    tmp_path: Path, prompt: str, asked: str | None, open_: bool
) -> None:
    make_cache(tmp_path, make_run(prompt=prompt))
    corpus: Any = vlq.open(str(tmp_path))
    found = target_of(corpus, Written.word("dog"), asked)
    spelled = [(row["token"], row["text"] or "") for row in corpus.sql("SELECT token, text FROM tokens").rows]
    words = [id for id, text in spelled if text.lower() == " dog"]
    pieces = [id for id, text in spelled if text.lower() == "dog"]
    assert found.anywhere == {*words}
    assert [*found.only_first] == (pieces if open_ else [])
    assert [*found.ids] == sorted(words + (pieces if open_ else []))
    assert min(len(words), len(pieces)) > 0


def test_a_target_is_read_as_queries_read_it(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", make_run())
    corpus: Any = vlq.open(str(tmp_path / "cache"))

    def ids(text: str) -> tuple[int, ...]:
        return tokens_of(corpus, Written.word(text)).ids

    dogs = tuple(i for i, word in enumerate(WORDS) if word.lower() == "dog")
    assert ids("dog") == ids(" Dog ") == ids("'dog'") == dogs
    assert ids("['dog', 'cat']") == (*dogs, WORDS.index("cat"))
    assert ids("3") == (3,)
    assert ids("matching('^ro')") == (WORDS.index("rock"),)
    assert str(Written.word("dog")) == str(Written.word("'dog'")) == "'dog'"
    with pytest.raises(UnknownToken, match="dgo") as caught:
        ids("dgo")
    assert caught.value.span == (0, 3)


def test_what_chooses_no_patches(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", make_run())
    corpus: Any = vlq.open(str(tmp_path / "cache"))
    for text, message in {
        "first_layer('dog')": "expected a row for each image and patch",
        "[0, 12]": "there is no patch 12",
        "None": "No patches are named",
        "dog": "needs quotes|is not quoted|quote",
        "'dog'": "a label needs a column `objects`",
    }.items():
        with pytest.raises(QueryError, match=message):
            chosen(corpus, Written.of(text))
    with pytest.raises(QueryError, match="nowhere"):
        chosen(corpus, Written.of("[0]"), Written.of("nowhere == 1"))
