"""Tracked tokens, all logits, and residuals: whatever is asked is answered as if every token were stored."""

from __future__ import annotations

from typing import Any

import pytest

import vlq
from vlq.query.client.corpus import Corpus

from ..synthetic import WORDS, make_cache, make_run

SIZE = len(WORDS) + 6
TRACKED = (0, 1, 3, 4, 12)
"""Both of 'dog', 'rock' and 'ear', and one that begins no word."""

SHAPES: dict[str, dict[str, Any]] = {
    "one grid": {},
    "all logits": {"keep": "all"},
    "all logits of some layers, grids of their own": {
        "grid": None,
        "patches": 9,
        "read_layers": (0, 2, 3),
        "keep": "all",
    },
    "residuals": {"keep": "residual"},
    "residuals of some layers, grids of their own": {
        "grid": None,
        "patches": 9,
        "read_layers": (0, 2, 3),
        "keep": "residual",
    },
    "residuals, answers, prompts of their own": {
        "at": ("patch", "prompt", "answer"),
        "answer": 3,
        "prompt_column": "question",
        "prompt_ids": (),
        "keep": "residual",
    },
    "half precision": {"dtype": "float16"},
    "grids of their own, some layers": {"grid": None, "patches": 11, "read_layers": (0, 2, 3)},
    "answers": {"at": ("patch", "prompt", "answer"), "answer": 3},
}


@pytest.fixture(scope="module", params=SHAPES)
def corpora(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Corpus]:
    """The same readings, kept with three tokens and those that are tracked, and with all of them."""
    folder, found = tmp_path_factory.mktemp("tracked"), []
    for name, kept in (
        ("few", {"k": 3, "tracked": TRACKED, "tracked_pieces": tuple(map(str, TRACKED))}),
        ("whole", {"k": SIZE}),
    ):
        columns = {"label": ["beach", "snow", "grass"] * 3}
        shape = dict(SHAPES[request.param])
        if keep := shape.pop("keep", None):
            kept = {"k": 3, "keep": keep} if name == "few" else kept | {"width": 4 if keep == "residual" else 0}
        run = make_run(**shape, **kept)
        make_cache(folder / name, run, images=9, failed=[2], seed=11, columns=columns, seal=name == "whole")
        found.append(vlq.open(str(folder / name)))
    return found[0], found[1]


QUERIES = [
    "readings('dog', rank=9)",
    "readings([0, 4], rank=16)",
    "readings([0, 4], rank=2, min_prob=0.1)",
    "readings(3, rank=2, at='last')",
    "first_layer('rock', rank=8)",
    "first_layer('rock', rank=8, by='patch', min_prob=0.02)",
    "first_layer('dog', min_prob=0.15)",
    "last_layer(['dog', 'rock'], rank=3, min_prob=0.3, min_patches=2)",
    "peak_layer(['dog', 'ear'], rank=12, layers=(0, 3))",
    "peak_layer('ear', rank=16, at='prompt')",
    "emergence(['dog', 'rock', ['ear', 12]], rank=7, min_prob=0.01)",
    "emergence('rock', rank=7, against=label == 'snow')",
    "locate('rock', rank=5)",
    "overlap('rock', 'ear', rank=6)",
    "overlap('dog', 'ear', min_prob=0.05, rank=3)",
    "neighbours('rock', rank=4)",
    "precursors('rock', rank=4, min_images=1)",
    "first_layer('ear', rank=6, patches=readings('rock', rank=5))",
    "first_layer('ear', patches=[1, 2], rank=6)",
    "first_layer(['dog', 'ear'], patches=[1, 2], rank=2, min_prob=0.2)",
    "readings('rock', rank=10).group(label).count()",
    "prob('dog') > prob('rock')",
    "prob('dog') < 0.01",
    "rank('rock') > 9",
    "(rank('rock') > 9) and not (prob('ear') <= 0.02)",
    "(rank('rock') == rank('ear')).group(label).mean()",
    "rank(12, at='prompt') <= 5",
    "prob('dog') - prob('ear')",
    "prob('rock', patches=[0, 3]).group(layer).mean()",
    "prob('rock').histogram()",
    "rank('dog', missing='bound')",
    "rank(['rock', 'ear'], at='last')",
    "prob(['rock', 'ear', 'dog'])",
    "first_layer(0, rank=5, at='answer')",
    "prob('dog', at='answer') >= 0.05",
]


def place(row: dict[str, Any]) -> list[Any]:
    """What a row is of."""
    keys = ("token", "image_id", "layer", "patch", "position", "label", "low")
    return [str(row[key]).zfill(9) for key in keys if key in row]


def alike(a: Any, b: Any) -> bool:
    """Whether two rows are the same but for the last digits of float32."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    return a == pytest.approx(b, rel=1e-5, abs=1e-6) if isinstance(a, float) else a == b


@pytest.mark.parametrize("query", QUERIES)
def test_as_if_all_were_stored(corpora: tuple[Corpus, Corpus], query: str) -> None:
    few, whole = corpora
    if "answer" in query and not few.cache.run.answer:
        pytest.skip("not asked for answers")
    found, expected = few.query(query), whole.query(query)
    beside = {"rank", "at_least", "at_most"}  # of prob the rank is told where it is known everywhere
    rows, same = (
        [{name: row[name] for name in row if name not in beside} for row in a.rows] for a in (expected, found)
    )
    if few.cache.run.keeps_all:  # whose log-probabilities are differences of rounded numbers
        same, rows = (sorted(found, key=place) for found in (same, rows))
        assert len(same) == len(rows)
        assert all(alike(*pair) for pair in zip(same, rows, strict=True))
    else:
        assert same == rows
    if "rank(" in query or "readings" in query:
        ranks = [[row.get("rank") for row in sorted(answer.rows, key=place)] for answer in (found, expected)]
        assert ranks[0] == ranks[1]
    notes = [note for note in found.notes if "exact at every" not in note and "not complete" not in note]
    assert notes == expected.notes or not query.startswith(("prob", "rank"))
    assert found.headline
    assert rows


def test_the_sentence_says_what_tells(corpora: tuple[Corpus, Corpus]) -> None:
    few, _ = corpora
    if few.cache.run.keeps_all:
        source, what = {
            "all": ("all kept", "All logits are kept"),
            "residual": ("residuals kept", "The residual stream is kept"),
        }[few.cache.run.keep]
        answer = few.query("prob(['rock', 'cat'])")
        assert answer.summary["source"] == source
        assert answer.headline.startswith(f"rock, cat: {source}; among the 3 best in ")
        assert few.query("rank('cat', at='last')").notes[0].startswith(f"{what}: the rank of cat is exact at")
        return
    for name, what in (("prob", "probability"), ("rank", "rank")):
        answer = few.query(f"{name}('rock')")
        assert answer.summary["source"] == "tracked"
        assert answer.headline.startswith("rock: tracked; among the 3 best in ")
        assert f"rock is tracked: its {what} is exact at every reading, and each has a row." in answer.notes
        other = few.query(f"{name}('cat')")
        assert other.summary["source"] == "the 3 best"
        assert "tracked" not in other.headline + " ".join(other.notes)
        # Of a set of which one is not tracked the k best tell.
        assert few.query(f"{name}(['rock', 'cat'])").summary["source"] == "the 3 best"
