"""Conditions on image columns of every kind: an answer as Python gives it, or a mistake; never anything else."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument, VlqError
from vlq.query.language import compile

from ..synthetic import make_cache

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">=": operator.ge,
}

COLUMNS: dict[str, list[Any]] = {
    "text": ["a", "b", "a", "c"],
    "whole": [1, 2, 3, 4],
    "real": [0.5, 1.5, 2.5, 3.5],
    "truth": [True, False, True, False],
    "day": [date(2024, 1, 5), date(2024, 2, 29), date(2023, 12, 31), date(2024, 1, 6)],
    "moment": [
        datetime(2024, 1, 5, 10),
        datetime(2024, 2, 29),
        datetime(2023, 12, 31, 23, 59, 59),
        datetime(2024, 1, 6),
    ],
    "zoned": [datetime(2024, 1, 5, 10, i, tzinfo=UTC) for i in range(4)],
    "time": [time(10), time(10, 30), time(0), time(23, 59, 59, 5)],
    "bytes": [b"a", b"\xff", b"", b"b"],
    "texts": [["a"], ["a", "b"], ["b"], ["c"]],
    "times": [[time(10)], [], [time(0)], []],
    "deep": [[["a"]], [["a", "b"], []], [], [["c"]]],
    "struct": [{"a": i, "b": {"c": "x"}} for i in range(4)],
    "structs": [[{"a": i}] for i in range(4)],
}

LITERALS = ["3", "1.5", "'a'", "True", "None", "'2024-01-05'", "['a', 'b']", "('a', 3)", "-1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder: Path = tmp_path_factory.mktemp("kinds")
    make_cache(folder, images=4, columns=COLUMNS)
    return vlq.open(str(folder))


def found(corpus: Corpus, condition: str) -> list[int]:
    return sorted(row["image_id"] for row in corpus.query(f"images().where({condition}).select(['image_id'])").rows)


@pytest.mark.parametrize("column", [*COLUMNS, "grid", "transform"])
def test_every_condition_is_answered_or_a_mistake(corpus: Corpus, column: str) -> None:
    conditions = [f"{column} {sign} {literal}" for sign in (*OPERATORS, "in") for literal in LITERALS]
    conditions += [f"{literal} in {column}" for literal in LITERALS]
    conditions += [f"{column} {sign} {other}" for sign in OPERATORS for other in {*COLUMNS, column}]
    conditions += [column, f"not {column}", f"{column} + 1 > 2", f"-1 < {column} < 3", f"{column} / 0 > 1"]
    answered = []
    for condition in conditions:
        try:
            found(corpus, condition)
            answered.append(condition)
        except VlqError:
            pass
    assert f"{column} == None" in answered
    assert f"{column} == {column}" in answered
    assert len(answered) < len(conditions) // 2


@pytest.mark.parametrize(("column", "sign"), list(itertools.product(["day", "moment"], OPERATORS)))
@pytest.mark.parametrize("text", ["2024-01-05", "2024-02-29", "2024-01-05 10:00", "2024-01-05T10:00:00.5"])
def test_dates(corpus: Corpus, column: str, sign: str, text: str) -> None:
    """A date is written as a text."""
    condition = f"{column} {sign} '{text}'"
    if column == "day" and len(text) > 10:
        with pytest.raises(BadArgument, match="compares a date with a text"):
            found(corpus, condition)
        return
    moment = datetime.fromisoformat(text)
    values = COLUMNS[column] if column == "moment" else [datetime(d.year, d.month, d.day) for d in COLUMNS["day"]]
    assert found(corpus, condition) == [i for i, value in enumerate(values) if OPERATORS[sign](value, moment)]


@pytest.mark.parametrize("text", ["x", "2024", "2024-02-30", "2024-1-5", "05.01.2024", "20240105", "2024-01-05 25:00"])
@pytest.mark.parametrize("column", ["day", "moment"])
def test_what_is_no_date(corpus: Corpus, column: str, text: str) -> None:
    for condition in (f"{column} == '{text}'", f"{column} in ('2024-01-05', '{text}')"):
        with pytest.raises(BadArgument, match="compares a date with a text") as caught:
            found(corpus, condition)
        assert caught.value.hint == f"Did you mean {column} == '2024-01-31'?"
    with pytest.raises(BadArgument) as caught:
        found(corpus, f"'{text}' < {column}")
    assert caught.value.hint == f"Did you mean '2024-01-31' < {column}?"


ODD = ["my column", "class", "it's", "ﬁgure", "1st", 'a"b', "col('x')"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Columns that are no words of Python's, of which the image's number is the value."""
    folder: Path = tmp_path_factory.mktemp("odd")
    make_cache(folder, images=4, columns={name: list(range(4)) for name in ODD} | {"least": [-(2**63)] * 4})
    return vlq.open(str(folder))


@pytest.mark.parametrize("name", ODD)
def test_columns_that_are_no_words_are_named_in_quotes(odd: Corpus, name: str) -> None:
    text = f"images(col({name!r}) > 1)"
    assert {row["image_id"] for row in odd.query(text).rows} == {2, 3}
    assert [row[name] for row in odd.query(f"images().sort(col({name!r}), descending=True)").rows] == [3, 2, 1, 0]
    assert odd.query(f"images().group(col({name!r})).count().where(col({name!r}) <= 1)").summary["matched"] == 2
    asked = odd.images(vlq.col(name) > 1)
    assert {row["image_id"] for row in asked.rows} == {2, 3}
    assert str(asked.node) == text


def test_a_misspelled_one_is_offered_as_it_is_written(odd: Corpus) -> None:
    with pytest.raises(VlqError) as caught:
        odd.query("images(my_column == 3)")
    assert str(caught.value.hint).startswith("Did you mean col('my column')?")


def test_dates_of_python(corpus: Corpus) -> None:
    """They are what the language writes as texts; and what a set holds is in no order."""
    for column, given, then in (
        ("day", date(2024, 1, 5), date(2024, 1, 5)),
        ("moment", date(2024, 1, 5), datetime(2024, 1, 5)),
        ("moment", datetime(2024, 1, 5, 9, 30), datetime(2024, 1, 5, 9, 30)),
        ("moment", pd.Timestamp("2024-01-05 10:00"), datetime(2024, 1, 5, 10)),
    ):
        rows = corpus.images(vlq.col(column) > given).rows
        assert {row["image_id"] for row in rows} == {i for i, value in enumerate(COLUMNS[column]) if value > then}
    days = vlq.col("day").isin([date(2024, 1, 5), date(2024, 1, 6)])
    assert str(days) == "day in ['2024-01-05', '2024-01-06']"
    assert {row["image_id"] for row in corpus.images(days).rows} == {0, 3}
    assert str(vlq.col("text").isin({"b", "a", "c"})) == "text in ['a', 'b', 'c']"
    assert str(vlq.col("moment") < datetime(2024, 1, 5, 9, 30)) == "moment < '2024-01-05 09:30:00'"


def test_times_of_a_zone_of_python(corpus: Corpus) -> None:
    for row in corpus.images():
        later = [other["image_id"] for other in corpus.images() if other["zoned"] > row["zoned"]]
        assert sorted(again["image_id"] for again in corpus.images(vlq.col("zoned") > row["zoned"])) == sorted(later)
    with pytest.raises(BadArgument, match="compares a date with a text"):
        corpus.images(vlq.col("moment") > datetime(2024, 1, 5, tzinfo=UTC))


def test_values_of_rarer_kinds(corpus: Corpus) -> None:
    assert found(corpus, "zoned > '2024-01-05 12:01:00+02:00'") == [2, 3]
    assert found(corpus, "zoned >= '2024-01-05T10:03Z'") == [3]
    assert found(corpus, "time in ['10:30', '23:59:59.000005']") == [1, 3]
    assert found(corpus, "time < '10:30:00'") == [0, 2]
    assert found(corpus, "time in times") == [0, 2]
    assert found(corpus, "texts in deep") == [0, 1, 3]
    for condition, hint in {
        "zoned > 3": "Did you mean zoned > '2024-01-31 10:30:00+00:00'?",
        "time == 'noon'": "Did you mean time == '10:30:00'?",
        "zoned == time": None,
        "texts == times": None,
        "times in deep": None,
        "bytes == 1": None,
    }.items():
        with pytest.raises(BadArgument, match=" compares a ") as caught:
            corpus.query(f"images({condition})")
        assert caught.value.hint == hint, condition
    with pytest.raises(BadArgument, match=r"time is no number\."):
        corpus.query("images(time + 1 > 2)")


@pytest.mark.parametrize("empty", [None, math.nan])
@pytest.mark.parametrize("greatest", [math.inf, 3.5])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_nan_is_missing(tmp_path: Path, kind: pa.DataType, greatest: float, empty: float | None) -> None:
    """Where the greatest number is finite, or none is null, too, DuckDB takes a Parquet file for one without NaN."""
    values = [0.5, math.nan, empty, greatest, 2.5]
    make_cache(tmp_path, images=5, columns={"score": pa.array(values, kind)})
    known = [i for i, value in enumerate(values) if value is not None and not math.isnan(value)]
    for condition, holds in {
        "score > 1": lambda value: value > 1,
        "score != 0.5": lambda value: value != 0.5,
        "not (score < 1)": lambda value: not value < 1,
        "score * 2 > 1": lambda value: value * 2 > 1,
        "score not in [0.5]": lambda value: value != 0.5,
    }.items():
        expected = [i for i in known if holds(values[i])]
        corpus = vlq.open(str(tmp_path))  # whose first question is answered by the file, and later ones from memory
        assert found(corpus, condition) == expected
        assert sorted(row["image_id"] for row in corpus.query(f"images({condition})").rows) == expected
    assert found(vlq.open(str(tmp_path)), "score == None") == [1, 2]
    rows = vlq.open(str(tmp_path)).images().rows
    assert {row["image_id"]: row["score"] for row in rows} == {0: 0.5, 1: None, 2: None, 3: greatest, 4: 2.5}
    rows = vlq.open(str(tmp_path)).query("images().sort(score, descending=True)").rows
    assert [row["score"] for row in rows] == [greatest, 2.5, 0.5, None, None]
    groups = vlq.open(str(tmp_path)).query("first_layer([1, 2, 3], rank=3, missing='never').group(score).count()").rows
    assert [(row["score"], row["count"]) for row in groups] == [(0.5, 1), (2.5, 1), (greatest, 1), (None, 2)]


def test_none_among_items_is_what_is_empty(tmp_path: Path) -> None:
    values = ["a", None, "b", None]
    make_cache(tmp_path, images=4, columns={"label": values, "score": [math.nan, 1.5, None, 2.5]})
    corpus = vlq.open(str(tmp_path))
    for items in (["a", None], [None], ["c", None], ["a", "b"]):
        assert found(corpus, f"label in {items}") == [i for i in range(4) if values[i] in items]
        known = [i for i in range(4) if values[i] is not None or None in items]
        assert found(corpus, f"label not in {items}") == [i for i in known if values[i] not in items]
        assert len(corpus.images(vlq.col("label").isin(items)).rows) == len(found(corpus, f"label in {items}"))
    assert found(corpus, "score in [1.5, None]") == [0, 1, 2]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_unsigned_numbers_go_below_0(tmp_path: Path, kind: pa.DataType) -> None:
    """As width and height are, and layers and patches of readings."""
    a, b = [0, 200, 7, 30], [255, 3, 7, 31]
    make_cache(tmp_path, images=4, columns={"a": pa.array(a, kind), "b": pa.array(b, kind)})
    corpus = vlq.open(str(tmp_path))
    for condition, holds in {
        "a - b < 0": lambda a, b: a < b,
        "a - b - b < -7": lambda a, b: a - b - b < -7,
        "a - b < height - width": lambda a, b: a < b,
        "a * b * a > 500": lambda a, b: a * b * a > 500,
        "a / b > 1": lambda a, b: a > b,
    }.items():
        assert found(corpus, condition) == [i for i in range(4) if holds(a[i], b[i])], condition
        assert len(corpus.query(f"images({condition})").rows) == len(found(corpus, condition))
    if kind != pa.uint64():
        difference = corpus.query("images().group(image).min(a) - images().group(image).max(b)")
        assert {row["image_id"]: row["value"] for row in difference.rows} == {i: a[i] - b[i] for i in range(4)}


def test_layers_of_two_tokens_subtract(corpus: Corpus) -> None:
    last: dict[int, dict[int, int]] = {1: {}, 2: {}}
    for token, layers in last.items():
        for row in corpus.readings(token).rows:
            layers[row["image_id"]] = max(layers.get(row["image_id"], 0), row["layer"])
    expected = {i: last[1][i] - last[2][i] for i in last[1].keys() & last[2].keys()}
    assert min(expected.values()) < 0
    found = corpus.readings(1).group("image").max("layer") - corpus.readings(2).group("image").max("layer")
    assert {row["image_id"]: row["value"] for row in found.rows} == expected


@pytest.mark.parametrize("query", ["images(width * 9223372036854775807 > 1)", "rank(3) * 9223372036854775807"])
def test_numbers_that_become_too_large(odd: Corpus, query: str) -> None:
    for ask in (lambda: odd.query(query).rows, lambda: odd.query(query).arrow(), lambda: odd.query(query).summary):
        with pytest.raises(BadArgument, match="A number becomes too large on the way: Overflow in multiplication"):
            ask()


def test_a_histogram_of_the_least_number(odd: Corpus) -> None:
    (row,) = odd.query("images().histogram(least)").rows
    assert row["count"] == 4
    assert row["low"] <= -(2**63) < row["high"]


@pytest.mark.parametrize("column", [*COLUMNS, "grid", "transform", "patch", "patches", "logprob"])
def test_rows_of_patches_have_the_values_that_the_database_gives(corpus: LocalCorpus, column: str) -> None:
    """There may be millions of them, which are made another way than few, where the kinds of all columns allow it."""
    result = corpus.query(f"first_layer([1, 2, 3], rank=3, by='patch').select(['image_id', '{column}'])")
    names, expected = corpus.engine.rows(result.statement, result.snapshot)
    assert len(expected) > 4
    assert [tuple(row.items()) for row in result.rows] == [tuple(zip(names, row, strict=True)) for row in expected]
    kinds = [[type(value) for value in row.values()] for row in result.rows]
    assert kinds == [[type(value) for value in row] for row in expected]
    if column in COLUMNS:
        assert all(row[column] == COLUMNS[column][row["image_id"]] for row in result.rows)


@pytest.mark.here("a query longer than a service takes")
def test_thousands_of_names_are_listed(odd: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is held against few others: the time goes by their number, and not by its square."""
    held = []
    monkeypatch.setattr(compile, "_same", lambda a, b: held.append(a) or (type(a) is type(b) and a == b))
    names = [row["image"] for row in odd.images().rows]
    others = [f"other-{i}.png" for i in range(3_000)]
    found = odd.images(vlq.col("image").isin([*others, *names[1:], *others]))
    assert [row["image"] for row in found.rows] == names[1:]
    assert len(held) < 10 * len(others)
