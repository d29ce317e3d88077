"""answer equals a look at each image's own answer; and its tokens are positions as others are."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument

from ...synthetic import WORDS, make_cache, make_run
from ..corpora import LABELS, SETTINGS, SNAPSHOTS, Case, asked, one_or_list, snapshot

TEXTS = [*WORDS, "ear", "dog"]


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["with answers"]


def probability(id: int, place: int) -> float:
    """As the synthetic corpora have it."""
    return float(np.exp(np.float32(-(id + place) / 8)))


@SETTINGS
@given(
    ids=st.lists(st.integers(0, 14), min_size=1, max_size=3, unique=True),
    images=st.sampled_from([None, None, *LABELS]),
)
def test_equals_a_look_at_each_answer(cases: dict[str, Case], ids: list[int], images: str | None) -> None:
    case = cases["with answers"]
    result = case.corpus.answer(one_or_list(ids), **asked({"images": images}))
    expected = []
    for image in np.flatnonzero(case.chosen(images, "answer")).tolist():
        answer = case.answers[image]
        places = [place for place, id in enumerate(answer) if id in ids]
        if places:
            row = {"image": case.names[image], "answer": " ".join(TEXTS[id] for id in answer), "position": places[0]}
            expected.append(row | {"prob": pytest.approx(probability(answer[places[0]], places[0])), "image_id": image})
    assert result.rows == sorted(expected, key=lambda row: row["image"])
    summary = result.summary
    assert (summary["images"], summary["matched"]) == (case.chosen(images, "answer").sum(), len(expected))
    assert summary["median_prob"] == (median(row["prob"] for row in result.rows) if expected else None)
    assert result.headline


def test_the_word_that_an_answer_begins_with_has_no_space_before_it(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("patch", "answer"), answer=3, grid=(1, 1), layers=1), images=64)
    corpus: Any = vlq.open(str(tmp_path))
    answers = {row["image_id"]: row["answer_ids"] for row in corpus.sql("SELECT image_id, answer_ids FROM images").rows}
    dog, inside = [0, 1], TEXTS.index("dog", 2)

    def places(first: list[int], later: list[int]) -> dict[int, int]:
        """Where an answer holds one of these ids, its first token being one of those."""
        held = {
            image: [place for place, id in enumerate(ids) if id in (later if place else first)]
            for image, ids in answers.items()
        }
        return {image: found[0] for image, found in held.items() if found}

    def found(*arguments: Any, **more: Any) -> dict[int, int]:
        return {row["image_id"]: row["position"] for row in corpus.answer(*arguments, **more).rows}

    assert found("dog") == places([*dog, inside], dog)
    assert places([*dog, inside], dog).keys() > places(dog, dog).keys()
    assert places([*dog, inside], [*dog, inside]).keys() > places([*dog, inside], dog).keys()
    assert found("dog", pieces=True) == places([*dog, inside], [*dog, inside])
    assert found(["dog", inside]) == found("dog", pieces=True)
    assert found("▁dog") == found(0) == places([0], [0])
    assert [token["id"] for token in corpus.answer("dog").tokens] == [*dog, inside]


def test_every_answer(case: Case) -> None:
    result = case.corpus.answer()
    rows = {row["image_id"]: row for row in result.rows}
    assert set(rows) == set(np.flatnonzero(case.good))
    for image, row in rows.items():
        ids = case.answers[image]
        assert (row["answer"], row["tokens"]) == (" ".join(TEXTS[id] for id in ids), len(ids))
        each = [probability(id, place) for place, id in enumerate(ids)]
        assert row["prob"] == pytest.approx(np.prod(each), rel=1e-5)
    assert any(not ids for ids in case.answers)
    texts = [row["answer"] for row in result.rows]
    most = min(set(texts), key=lambda text: (-texts.count(text), text))
    assert result.summary["most"] == [most, texts.count(most)]
    assert result.headline == (
        f"Answers of 9 images: {len(set(texts))} different, most often {most!r} ({texts.count(most)})"
    )


def test_sentences(case: Case) -> None:
    holding = [image for image in np.flatnonzero(case.good) if {0, 1} & {*case.answers[image]}]
    assert case.corpus.answer("dog").headline.startswith(f"dog: in the answer of {len(holding)} of 9 images, median")
    assert case.corpus.answer(15).headline == "15: in the answer of none of 9 images"
    assert case.corpus.query("answer('dog', images=label == 'nowhere')").headline == (
        "dog (images with label == 'nowhere'): in the answer of none of 0 images"
    )


def test_images_by_their_answers(case: Case) -> None:
    """What an image answered is one of its columns."""
    holding = {
        image for image in np.flatnonzero(case.good).tolist() if "cat" in [TEXTS[i] for i in case.answers[image]]
    }
    assert holding
    result = case.corpus.query("images('cat' in answer)")
    assert {row["image_id"] for row in result.rows} == holding
    assert {row["answer"] for row in result.rows} == {
        " ".join(TEXTS[id] for id in case.answers[image]) for image in holding
    }
    by_id = case.corpus.query("readings('dog', images=2 in answer_ids)")
    assert {row["image_id"] for row in by_id.rows} <= holding
    assert by_id.summary["images"] == len(holding)
    with_and_without = case.corpus.query("first_layer('dog', against='cat' in answer)").summary
    assert (with_and_without["images"], with_and_without["against"]["images"]) == (len(holding), 9 - len(holding))


def test_positions_of_answers_differ_in_number(case: Case) -> None:
    for image in np.flatnonzero(case.good).tolist():
        rows = case.corpus.top(image, at="answer", rank=2).rows
        count = len(case.answers[image])
        token = case.sites["answer"].token[image, :, :count, :2]
        assert [row["token"] for row in rows] == token.reshape(-1).tolist()
        with pytest.raises(BadArgument, match=f"has the positions 0 to {count - 1}. Got {count}."):
            case.corpus.top(image, at="answer", patch=count)
    result = case.corpus.prob("dog", at="answer", missing="bound")
    assert len(result.rows) == sum(len(case.answers[i]) for i in np.flatnonzero(case.good)) * case.run.layers


def test_sql(case: Case) -> None:
    text = "answer('dog', images=label == 'beach')"
    assert snapshot(case.corpus.query(text), text) == (SNAPSHOTS / "answer.sql").read_text()


def test_tables_of_sql(case: Case) -> None:
    rows = case.corpus.sql("SELECT token, image_id, layer, position FROM answer_readings WHERE rank = 1").rows
    assert len(rows) == sum(len(case.answers[i]) for i in np.flatnonzero(case.good)) * case.run.layers
    texts = case.corpus.sql("SELECT image_id, answer FROM images WHERE answer IS NOT NULL").rows
    assert len(texts) == case.good.sum()


@pytest.mark.parametrize("text", ["answer('dog')", "answer()", "first_layer('dog', at='answer')"])
def test_a_model_that_was_not_asked(tmp_path: Path, text: str) -> None:
    make_cache(tmp_path, make_run(), images=2)
    with pytest.raises(BadArgument, match="at: this cache has readings at patch, prompt, last only") as caught:
        vlq.open(str(tmp_path)).query(text)
    assert "--answer 8" in str(caught.value.hint)


def test_a_corpus_that_answers_nothing(tmp_path: Path) -> None:
    run = make_run(at=("patch", "answer"), answer=2)
    make_cache(tmp_path, run, images=3, failed=[0, 1, 2])
    corpus: Any = vlq.open(str(tmp_path))
    assert corpus.answer().headline == "Answers: none, of 0 images"
    assert corpus.first_layer("dog", at="answer").rows == []
