"""Answers combined, chosen and ordered equal the same done by hand to the answers themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers.asked import Asked
from vlq.query.answers.result import Result
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, QueryError, UnknownName

from ...examples import examples
from ...synthetic import WORDS, make_cache
from ..corpora import COMPARE

IMAGES = 24
FAILED = [5, 6]
LABELS = ["beach", "grass", 'it\'s "snow"', None]


def columns() -> dict[str, list[Any]]:
    """Image columns of several types, by image."""
    return {
        "label": [LABELS[i % 4] for i in range(IMAGES)],
        "weight": [i / 8 if i % 5 else None for i in range(IMAGES)],
        "indoors": [i % 3 == 0 for i in range(IMAGES)],
        "words": [["dog", "cat"][: i % 3] for i in range(IMAGES)],
        "objects": [
            [{"label": WORDS[(i + j) % 5], "box": [0.0, 0.0, 1.0, 1.0]} for j in range(i % 3)] for i in range(IMAGES)
        ],
        "layer": list(range(IMAGES)),  # a table's own column goes before an image's of the same name
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, images=IMAGES, failed=FAILED, columns=columns())
    return vlq.open(str(folder))


def layers(result: Result) -> dict[int, int]:
    """The layer of each image that has one."""
    return {row["image_id"]: row["layer"] for row in result.rows}


def ids(result: Result) -> list[int]:
    return [row["image_id"] for row in result.rows]


# --- comparison, logic, arithmetic -----------------------------------------------------------------------------


@pytest.mark.parametrize("sign", COMPARE)
def test_comparisons_are_of_images_in_which_both_are_read(corpus: Corpus, sign: str) -> None:
    left, right = corpus.first_layer("rock", min_prob=0.38), corpus.first_layer("cat")
    a, b = layers(left), layers(right)
    both = a.keys() & b.keys()
    expected = {i for i in both if COMPARE[sign](a[i], b[i])}
    result = corpus.query(f"first_layer('rock', min_prob=0.38) {sign} first_layer('cat')")
    assert set(ids(result)) == expected
    assert 0 < len(expected) < len(both) < IMAGES - len(FAILED)
    assert [(row["layer_1"], row["layer_2"]) for row in result.rows] == [(a[i], b[i]) for i in ids(result)]
    assert result.summary == {"images": IMAGES - len(FAILED), "compared": len(both), "matched": len(expected)}
    assert result.columns == ["image", "layer_1", "layer_2", "image_id"]
    python = COMPARE[sign](left, right)
    assert isinstance(python, Asked)
    assert python.rows == result.rows


def test_a_chain_holds_where_each_of_its_comparisons_does(corpus: Corpus) -> None:
    a, b = layers(corpus.first_layer("rock")), layers(corpus.first_layer("cat"))
    result = corpus.query("1 <= first_layer('rock') < first_layer('cat') <= 3")
    assert set(ids(result)) == {i for i in a.keys() & b.keys() if 1 <= a[i] < b[i] <= 3}
    assert [row["layer_1"] for row in result.rows] == [a[i] for i in ids(result)]


def test_a_chain_is_of_images_for_which_all_of_it_is_known(corpus: Corpus) -> None:
    """Also where a row has no value, and where the rest of the chain does not hold."""
    a, b = layers(corpus.first_layer("rock")), layers(corpus.query("divergence_layer('patch', min_share=0.2)"))
    known = {i for i in a if b[i] is not None}
    chain = "9 < first_layer('rock') < divergence_layer('patch', min_share=0.2)"
    assert known < a.keys() <= b.keys()
    assert corpus.query(chain).summary == {"images": IMAGES - len(FAILED), "compared": len(known), "matched": 0}
    assert set(ids(corpus.query(f"not ({chain})"))) == known


def test_keys_are_the_same_in_any_order(corpus: Corpus) -> None:
    around, everywhere = "neighbours('rock')", "defaults('patch', unit='position', share=1)"
    a, b = (
        {(row["layer"], row["token"]): row["share"] for row in corpus.query(text).rows} for text in (around, everywhere)
    )
    for text, first in ((f"{around} - {everywhere}", a), (f"{everywhere} - {around}", b)):
        second = b if first is a else a
        rows = corpus.query(text).rows
        expected = {key: first[key] - second[key] for key in a.keys() & b.keys()}
        assert {(row["layer"], row["token"]): row["value"] for row in rows} == pytest.approx(expected)
        assert len(rows) == len(expected) > 0


def test_rows_of_several_keys_are_no_layers(corpus: Corpus) -> None:
    for text in (
        "neighbours('rock') > 0",
        "overlap('rock', 'cat') * 2",
        "first_layer('rock').group([label, layer]).count() > 0",
    ):
        result = corpus.query(text)
        assert f"{len(result.rows)} rows" in result.headline
    assert "for which it can be said" in corpus.query("divergence() > 0").headline
    assert "5 layers" in corpus.query("divergence() > 0").headline


def test_cells_without_rows_are_known_in_any_order_of_the_keys(corpus: Corpus) -> None:
    counts, exact = "readings('rock').group([patch, layer, image]).count()", "not {} >= rank('rock')"
    in_order = corpus.query(exact.format("readings('rock').group([image, layer, patch]).count()"))
    assert corpus.query(exact.format(counts)).summary == in_order.summary
    held = corpus.query(f"{exact.format(counts)} or rank('rock') > 4")
    whole = corpus.query("rank('rock') > 4")
    assert held.summary["matched"] == whole.summary["matched"] > 0


def test_rows_come_in_the_order_of_their_values_and_names(corpus: Corpus) -> None:
    rows = corpus.query("first_layer('rock') != first_layer('cat')").rows
    assert rows == sorted(rows, key=lambda row: (row["layer_1"], row["layer_2"], row["image"]))


def unknown_and(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def unknown_not(a: bool | None) -> bool | None:
    return None if a is None else not a


def test_logic_knows_what_it_does_not_know(corpus: Corpus) -> None:
    a, b, c = (layers(corpus.first_layer(word)) for word in ("rock", "cat", "ear"))

    def before(x: dict[int, int], y: dict[int, int], i: int) -> bool | None:
        return x[i] < y[i] if i in x and i in y else None

    rock_cat = {i: before(a, b, i) for i in range(IMAGES)}
    ear_cat = {i: before(c, b, i) for i in range(IMAGES)}
    both = {i: unknown_and(rock_cat[i], ear_cat[i]) for i in range(IMAGES)}
    either = {i: unknown_not(unknown_and(unknown_not(rock_cat[i]), unknown_not(ear_cat[i]))) for i in range(IMAGES)}
    first, second = "(first_layer('rock') < first_layer('cat'))", "(first_layer('ear') < first_layer('cat'))"
    for text, expected in [
        (f"{first} and {second}", both),
        (f"{first} or {second}", either),
        (f"not {first}", {i: unknown_not(value) for i, value in rock_cat.items()}),
        (f"not ({first} and {second})", {i: unknown_not(value) for i, value in both.items()}),
    ]:
        result = corpus.query(text)
        assert set(ids(result)) == {i for i, value in expected.items() if value}
        known = sum(value is not None for value in expected.values())
        assert (result.summary["compared"], result.summary["matched"]) == (known, len(result.rows))
    python = (corpus.first_layer("rock") < corpus.first_layer("cat")) & ~(
        corpus.first_layer("ear") < corpus.first_layer("cat")
    )
    assert set(ids(python)) == {i for i in range(IMAGES) if unknown_and(rock_cat[i], unknown_not(ear_cat[i]))}


def test_differences(corpus: Corpus) -> None:
    a, b = layers(corpus.first_layer("rock")), layers(corpus.last_layer("cat"))
    result = corpus.query("last_layer('cat') - first_layer('rock')")
    expected = {i: b[i] - a[i] for i in a.keys() & b.keys()}
    assert {row["image_id"]: row["value"] for row in result.rows} == expected
    assert min(expected.values()) < 0
    ordered = sorted(expected.values())
    summary = result.summary
    assert (summary["min"], summary["max"], summary["matched"]) == (ordered[0], ordered[-1], len(ordered))
    assert summary["median"] == (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    assert {row["value"] for row in corpus.query("first_layer('rock') * 2 / 4").rows} == {a[i] / 2 for i in a}
    assert set(ids(corpus.query("(last_layer('cat') - first_layer('rock')) > 2"))) == {
        i for i, value in expected.items() if value > 2
    }


def test_by_0_nothing_is_divided(corpus: Corpus) -> None:
    a, b = layers(corpus.last_layer("rock")), layers(corpus.first_layer("rock"))
    expected = {i: a[i] / b[i] for i in a if b[i]}
    assert 0 < len(expected) < len(a)
    text = "last_layer('rock') / first_layer('rock')"
    result = corpus.query(text)
    assert {row["image_id"]: row["value"] for row in result.rows} == expected
    assert (result.summary["matched"], result.summary["max"]) == (len(expected), max(expected.values()))
    more = corpus.query(f"{text} > 1")
    assert (more.summary["compared"], more.summary["matched"]) == (len(expected), sum(n > 1 for n in expected.values()))
    assert len(corpus.query("first_layer('rock') / 0")) == 0
    for condition in ("logprob / (layer - layer) < 1", "not (logprob / (layer - layer) < 1)"):
        assert len(corpus.query(f"first_layer('rock').where({condition})")) == 0


def test_what_is_never_read_counts_as_after_if_one_says_so(corpus: Corpus) -> None:
    rare = "first_layer('rock', min_prob=0.38, missing='never')"
    a = {row["image_id"]: row["layer"] for row in corpus.query(rare).rows}
    good = [i for i in range(IMAGES) if i not in FAILED]
    assert sorted(a) == good
    never = {i for i, layer in a.items() if layer is None}
    without = layers(corpus.query("first_layer('rock', min_prob=0.38)"))
    assert {i: layer for i, layer in a.items() if layer is not None} == without
    assert 0 < len(never) < len(good)
    assert corpus.query(rare).summary == corpus.query("first_layer('rock', min_prob=0.38)").summary
    b = layers(corpus.first_layer("cat"))
    after = corpus.query(f"first_layer('cat') < {rare}")
    assert set(ids(after)) == {i for i in b if i in never or b[i] < a[i]}
    assert after.summary["compared"] == len(b)
    # A difference from never is no number.
    assert set(ids(corpus.query(f"{rare} - first_layer('cat')"))) == (set(good) - never) & set(b)
    indoors = corpus.query("first_layer('rock', min_prob=0.38, missing='never', images=indoors)")
    assert set(ids(indoors)) == {i for i in good if columns()["indoors"][i]}
    with pytest.raises(BadArgument, match="missing: goes with by='image'"):
        corpus.query("first_layer('rock', missing='never', by='patch')")


def test_by_patch_the_patches_are_compared(corpus: Corpus) -> None:
    a = {(row["image_id"], row["patch"]): row["layer"] for row in corpus.first_layer("rock", by="patch").rows}
    b = {(row["image_id"], row["patch"]): row["layer"] for row in corpus.first_layer("cat", by="patch").rows}
    result = corpus.query("first_layer('rock', by='patch') < first_layer('cat', by='patch')")
    found = {(row["image_id"], row["patch"]) for row in result.rows}
    assert found == {key for key in a.keys() & b.keys() if a[key] < b[key]}
    assert "patch" in result.headline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "first_layer('rock') < first_layer('cat', by='patch')",
            "first_layer('rock') has a row for each image, first_layer('cat', by='patch') for each image and patch.",
        ),
        ("first_layer('rock') and first_layer('cat')", "first_layer('rock') is nothing that holds or does not."),
        ("not first_layer('rock')", "first_layer('rock') is nothing that holds or does not."),
        ("(first_layer('rock') < 2) + 1", "first_layer('rock') < 2 has no single value for each row."),
        ("first_layer('rock') in first_layer('cat')", "Answers have no `in`."),
        ("first_layer('rock') < 'cat'", "'cat' asks nothing by itself."),
        ("layer < 3", "layer asks nothing by itself."),
        ("1 < 2", "1 < 2 asks nothing."),
    ],
)
def test_what_cannot_be_combined(corpus: Corpus, text: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        corpus.query(text)
    assert caught.value.message == message


def test_answers_have_no_truth_value(corpus: Corpus) -> None:
    with pytest.raises(BadArgument, match="no truth value"):
        bool(corpus.first_layer("rock") < corpus.first_layer("cat"))
    with pytest.raises(BadArgument, match="two corpora"):
        _ = corpus.first_layer("rock") < vlq.open(corpus.cache.url).first_layer("cat")


# --- where, sort, limit, select, sample ------------------------------------------------------------------------

CONDITIONS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("layer <= 1", lambda row: row["layer"] <= 1),
    ("label == 'beach'", lambda row: row["label"] == "beach"),
    ("label != 'beach'", lambda row: row["label"] is not None and row["label"] != "beach"),
    ("label == None", lambda row: row["label"] is None),
    ("label != None and layer > 0", lambda row: row["label"] is not None and row["layer"] > 0),
    ("label in ['beach', 'grass']", lambda row: row["label"] in ("beach", "grass")),
    ("label == 'it\\'s \"snow\"'", lambda row: row["label"] == 'it\'s "snow"'),
    ("not (weight < 1)", lambda row: row["weight"] is not None and not row["weight"] < 1),
    ("0.5 <= weight < 2", lambda row: row["weight"] is not None and 0.5 <= row["weight"] < 2),
    ("weight * 2 - 1 > 1", lambda row: row["weight"] is not None and row["weight"] * 2 - 1 > 1),
    ("indoors", lambda row: row["indoors"]),
    ("indoors == False or label == 'grass'", lambda row: not row["indoors"] or row["label"] == "grass"),
    ("'dog' in words", lambda row: "dog" in row["words"]),
    ("'cat' not in words", lambda row: "cat" not in row["words"]),
    ("'rock' in objects", lambda row: "rock" in [item["label"] for item in row["objects"]]),
    ("'ea' in label", lambda row: row["label"] is not None and "ea" in row["label"]),
    ("'-1' in image", lambda row: "-1" in row["image"]),
    ("image_id >= 3", lambda row: row["image_id"] >= 3),
    ("logprob > -1.5", lambda row: row["logprob"] > -1.5),
    ("width == 112", lambda row: True),
    ("7 in patches", lambda row: 7 in row["patches"]),
    ("not censored", lambda row: not row["censored"]),
]


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_where(corpus: Corpus, condition: str, holds: Callable[[dict[str, Any]], Any]) -> None:
    own = columns()
    rows = corpus.query("first_layer('rock')").rows
    result = corpus.query(f"first_layer('rock').where({condition})")
    expected = []
    for row in rows:
        known = {name: values[row["image_id"]] for name, values in own.items()} | row
        if holds(known):
            expected.append(row)
    assert result.rows == expected
    assert expected
    assert result.summary["matched"] == len(expected)
    assert result.headline.endswith(f"(where {result.node.get('condition')})")  # type: ignore[attr-defined]


def test_a_tables_own_columns_have_types_too(corpus: Corpus) -> None:
    rows = corpus.images().rows
    expected = [row for row in rows if "rock" in [item["label"] for item in row["objects"]]]
    assert corpus.query("images().where('rock' in objects)").rows == expected
    assert 0 < len(expected) < len(rows)


def test_where_in_python(corpus: Corpus) -> None:
    col = vlq.col
    result = corpus.first_layer("rock").where((col("layer") <= 1) & (col("label") == "beach"))
    assert result.rows == corpus.query("first_layer('rock').where(layer <= 1 and label == 'beach')").rows


def test_images_narrow_the_corpus(corpus: Corpus) -> None:
    result = corpus.query("first_layer('rock', images=label == 'beach')")
    beach = [i for i, label in enumerate(columns()["label"]) if label == "beach" and i not in FAILED]
    everywhere = corpus.first_layer("rock").rows
    assert result.rows == [row for row in everywhere if row["image_id"] in beach]
    assert result.summary["images"] == len(beach)
    assert f"of {len(beach)} images" in result.headline
    python = corpus.first_layer("rock", images=vlq.col("label") == "beach")
    assert python.summary == result.summary
    both = corpus.query("first_layer('rock', images=indoors) < first_layer('cat', images=indoors)")
    assert both.summary["images"] == sum(indoors for i, indoors in enumerate(columns()["indoors"]) if i not in FAILED)


@examples(30)
@given(by=st.sampled_from(["layer", "logprob", "image", "label"]), descending=st.booleans(), count=st.integers(1, 30))
def test_sort_and_limit(corpus: Corpus, by: str, descending: bool, count: int) -> None:
    rows = corpus.first_layer("rock").rows
    own = columns() | {"label": [label or "" for label in columns()["label"]]}

    def key(row: dict[str, Any]) -> Any:
        return (row | {"label": own["label"][row["image_id"]]})[by]

    # Stable: what was the order before comes after. What is missing comes last either way.
    known = sorted((row for row in rows if key(row) != ""), key=key, reverse=descending)
    if descending:
        groups: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        known = [row for value in sorted((v for v in groups if v != ""), reverse=True) for row in groups[value]]
    expected = (known + [row for row in rows if key(row) == ""])[:count]
    result = corpus.first_layer("rock").sort(by, descending).limit(count)
    assert result.rows == expected
    assert result.summary == corpus.first_layer("rock").summary
    assert len(corpus.first_layer("rock").limit(count).where(vlq.col("layer") >= 0).rows) == min(count, len(rows))


def test_select(corpus: Corpus) -> None:
    result = corpus.query("first_layer('rock').select([image, layer, label, 'words'])")
    own = columns()
    expected = [
        {
            "image": row["image"],
            "layer": row["layer"],
            "label": own["label"][row["image_id"]],
            "words": own["words"][row["image_id"]],
        }
        for row in corpus.first_layer("rock").rows
    ]
    assert result.rows == expected
    assert result.arrow().column_names == ["image", "layer", "label", "words"]
    assert "rock: read in" in str(result)


@pytest.mark.parametrize("between", ["", ".sort(layer)", ".limit(5)", ".where(layer >= 1).select(image)"])
def test_what_is_asked_of_selected_columns_is_summed_up_as_of_all(corpus: Corpus, between: str) -> None:
    whole = between.replace(".select(image)", "")
    for ask in ("first_layer('rock')", "divergence_layer()", "readings('rock')"):
        selected = corpus.query(f"{ask}.select([image]){between}.where(layer <= 3)")
        other = corpus.query(f"{ask}{whole}.where(layer <= 3)")
        assert selected.summary == other.summary
        assert [row["image"] for row in selected.rows] == [row["image"] for row in other.rows]
        assert selected.columns == ["image"]


def test_a_sample_is_the_same_for_the_same_seed(corpus: Corpus) -> None:
    rows = corpus.first_layer("cat").rows
    one, again, other = (corpus.query(f"first_layer('cat').sample(6, seed={seed})").rows for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == 6
    assert [row for row in rows if row in one] == one  # in the order of the whole


def test_one_number_is_said_as_one(corpus: Corpus) -> None:
    (row,) = (difference := corpus.query("first_layer('rock').mean() - first_layer('cat').mean()")).rows
    assert row["value"] == row["mean_1"] - row["mean_2"]
    assert difference.headline.startswith(f"{difference.query}: {row['value']:g}, in a corpus of ")


def test_methods_of_conditions(corpus: Corpus) -> None:
    text = "(first_layer('rock') < first_layer('cat'))"
    whole = corpus.query(text)
    assert corpus.query(f"{text}.limit(2)").rows == whole.rows[:2]
    assert corpus.query(f"{text}.limit(2)").summary == whole.summary
    beach = {i for i, label in enumerate(columns()["label"]) if label == "beach"}
    where = corpus.query(f"{text}.where(label == 'beach' and layer_1 >= 0)")
    assert ids(where) == [i for i in ids(whole) if i in beach]


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        ("first_layer('rock').where(lable == 'a')", UnknownName, "There is no column lable.", "lable"),
        ("first_layer('rock').where(label == beach)", UnknownName, "There is no column beach.", "beach"),
        ("first_layer('rock').where(label == 3)", BadArgument, "label == 3 compares a text with a number.", "3"),
        ("first_layer('rock').where(weight < 'a')", BadArgument, "weight < 'a' compares a number with a text.", "'a'"),
        ("first_layer('rock').where(layer)", BadArgument, None, "layer"),
        ("first_layer('rock').where(label < None)", BadArgument, "None has no order.", "None"),
        ("first_layer('rock').where('a' in weight)", BadArgument, "weight holds no items.", "weight"),
        ("first_layer('rock').where(label + 1 > 2)", BadArgument, "label is no number.", "label"),
        ("first_layer('rock').where(3 in objects)", BadArgument, "3 in objects compares a number with a text.", "3"),
        (
            "first_layer('rock').where('a' in patches)",
            BadArgument,
            "'a' in patches compares a text with a number.",
            "'a'",
        ),
        ("first_layer('rock').where(patches == 3)", BadArgument, "patches == 3 compares a list with a number.", "3"),
        ("first_layer('rock').where(label in ['a', 3])", BadArgument, "label == 3 compares a text with a number.", "3"),
        ("neighbours('rock').where(piece < 3)", BadArgument, "piece < 3 compares a text with a number.", "3"),
        ("first_layer('rock').sort(lair)", UnknownName, "There is no column lair.", "lair"),
        ("first_layer('rock').select([3])", BadArgument, None, "3"),
        ("first_layer('rock').limit(0)", BadArgument, "count: expected a whole number of at least 1. Got 0.", "0"),
        ("first_layer('rock', images=lable == 'a')", UnknownName, "There is no column lable.", "lable"),
        ("first_layer('rock', images='beach')", BadArgument, None, "'beach'"),
    ],
)
def test_mistakes_are_pointed_at(
    corpus: Corpus, text: str, kind: type[QueryError], message: str | None, marked: str
) -> None:
    with pytest.raises(kind) as caught:
        corpus.query(text)
    if message is not None:
        assert caught.value.message == message
    start, end = caught.value.span or (0, 0)
    assert text[start:end] == marked
