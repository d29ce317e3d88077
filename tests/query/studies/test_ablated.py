"""A study's figures, from rows that are counted by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vlq.query.cache.studies import EFFECTS
from vlq.query.language.tokens import Token, TokenSet
from vlq.query.pointed import places
from vlq.query.schema import Study
from vlq.query.studies.ablated import as_text, query_of, subject, summary_of

STUDY = Study("r", "readings('rock')", "'rock'", (3,), "mean", 0, "regions", ("random", "register"), 2, 4, 0)
TOKENS = TokenSet("rock", (Token(3, "▁rock", " rock"),))


def row(image: int, name: str, effect: float, gone: bool | None, patches: int = 2) -> dict[str, object]:
    return {
        "image_id": image,
        "set": name,
        "kind": name.split()[0],
        "patches": list(range(patches)),
        "before": -1.0,
        "after": -1.0 - effect,
        "rank_before": 1,
        "rank_after": 4,
        "answer_before": "a rock",
        "answer": "a dog",
        "gone": gone,
    }


ROWS = [
    row(0, "all", 4.0, True),
    row(0, "random 0", 0.5, False),
    row(0, "random 1", 1.5, False),
    row(0, "region 1", 1.0, False, 1),
    row(0, "region 2", 3.0, True, 1),
    row(2, "all", 1.0, None, 4),
    row(2, "random 0", 2.0, None, 4),
    row(2, "random 1", 4.0, None, 4),
    row(5, "all", 2.0, False, 6),
    row(5, "random 0", 0.0, True, 6),
    row(5, "random 1", 0.0, False, 6),
    row(5, "register", 0.25, False, 1),
]
NAMES = {0: "zero.png", 2: "two.png", 5: "five.png"}


def summary() -> dict[str, object]:
    return summary_of(STUDY, TOKENS, pa.Table.from_pylist(ROWS, EFFECTS), NAMES)


def test_figures_are_those_of_the_rows() -> None:
    found = summary()
    kinds = found["kinds"]
    assert [*kinds] == ["all", "region", "random", "register"]
    figures = {
        kind: tuple(values[name] for name in ("images", "sets", "patches", "median", "held", "gone", "share"))
        for kind, values in kinds.items()
    }
    # Of an image's sets the mean counts once: random effects are 1.0, 3.0 and 0.0; words go in 0, - and a half.
    assert figures["all"] == (3, 3, 4, 2.0, 2, 1, 0.5)
    assert figures["random"] == (3, 6, 4, 1.0, 2, 0.5, 0.25)
    assert figures["region"] == (1, 2, 1, 2.0, 1, 0.5, 0.5)
    assert figures["register"] == (1, 1, 1, 0.25, 1, 0, 0.0)
    assert (found["images"], found["sets"], found["never_held"]) == (3, 12, 1)
    # 4 - 1, 1 - 3, 2 - 0
    assert (found["difference"]["images"], found["difference"]["median"]) == (3, 2.0)
    assert [example["image"] for example in found["examples"]] == ["zero.png", "five.png", "two.png"]
    assert found["examples"][0]["effect"] == 4.0


def test_intervals_are_those_of_drawn_images() -> None:
    """Of three images with effects 1, 2 and 4 the median of three draws is 1 with a chance of 7/27, 4 likewise."""
    found = summary()
    assert found["kinds"]["all"]["median_interval"] == [1.0, 4.0]
    assert found["kinds"]["register"]["median_interval"] == [0.25, 0.25]
    values = np.random.default_rng(3).normal(size=60)
    rows = [row(i, "all", float(value), True) for i, value in enumerate(values)]
    table = pa.Table.from_pylist(rows, EFFECTS)
    low, high = summary_of(STUDY, TOKENS, table, {i: str(i) for i in range(60)})["kinds"]["all"]["median_interval"]
    drawn = np.random.default_rng(9)
    medians = [np.median(drawn.choice(values, 60)) for _ in range(4000)]
    assert [low, high] == pytest.approx(np.percentile(medians, [2.5, 97.5]), abs=0.08)


def test_without_random_sets_or_answers_that_held_it() -> None:
    table = pa.Table.from_pylist([row(1, "all", 1.0, None)], EFFECTS)
    found = summary_of(STUDY, TOKENS, table, {1: "one.png"})
    assert found["difference"] is None
    assert (found["kinds"]["all"]["held"], found["kinds"]["all"]["share"]) == (0, None)
    text = as_text(found)
    assert "1 image whose answer never held the word" in text
    assert "random" not in text


def test_the_query_asks_for_the_same() -> None:
    assert query_of(STUDY) == "effect(ablate=readings('rock'), on='rock', combinations='regions')"
    other = Study("r", "[1, 2]", "'rock'", (3,), "zero", 1, "all", (), 0, 4, 0)
    assert query_of(other) == "effect(ablate=[1, 2], on='rock', mode='zero', buffer=1)"


def test_what_is_taken_in_words() -> None:
    assert subject("'rock'") == "Patches of objects labelled 'rock'"
    assert subject("[3, 7]") == "Patches 3, 7"
    assert subject("3") == "Patch 3"
    assert subject("locate('rock')") == "Patches of locate('rock')"


def test_text_for_a_person() -> None:
    text = as_text(summary())
    assert text.startswith("Patches of readings('rock') taken, the corpus' mean patch in their place: ")
    assert "▁rock (3)" in text
    assert "3 images, 12 sets of patches taken" in text
    assert "Chosen minus random, image by image: 2.00 nats (95% -2.00 to 3.00)" in text
    assert "zero.png  4.00    1 -> 4  'a rock'  'a dog'" in text


def test_names_stand_in_columns_whatever_they_hold() -> None:
    names = {0: "a\x1b[31m\tb.png", 2: "名前.png", 5: "five.png"}
    text = as_text(summary_of(STUDY, TOKENS, pa.Table.from_pylist(ROWS, EFFECTS), names))
    assert text.replace("\n", "").isprintable()
    lines = [line for line in text.splitlines() if "'a rock'" in line]
    assert len({places(line.partition("1 -> 4")[0]) for line in lines}) == 1
