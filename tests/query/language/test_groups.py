"""Groups and their numbers equal plain Python over what is read straight from the arrays."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, QueryError, UnknownName
from vlq.query.language.parse import parse

from ...brute import picked_layers
from ...synthetic import make_cache
from ..corpora import SETTINGS, SNAPSHOTS, Case, asked, one_or_list, reading_arguments, shapes, snapshot, token_ids

Row = dict[str, Any]

NUMBERS: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


def first_layers(case: Case, ids: Sequence[int], arguments: Row, missing: bool) -> list[Row]:
    """Rows of first_layer by brute force; with `missing` those of images that never read it too, without values."""
    given = {name: arguments[name] for name in ("rank", "min_prob", "min_patches")}
    if (places := arguments["patches"]) is not None:
        given["patches"] = places.mask
    chosen = case.chosen(arguments["images"])
    found = [row for row in picked_layers(case.sites["patch"], ids, **given) if chosen[row["image"]]]
    if missing:
        never = set(np.flatnonzero(chosen)) - {row["image"] for row in found}
        found += [{"image": int(i), "layer": None, "logprob": None, "positions": []} for i in never]
    return found


GROUPS: dict[str, Callable[[Case, Row], list[Any]]] = {
    "label": lambda case, row: [case.labels[row["image"]]],
    "layer": lambda case, row: [row["layer"]],
    "image": lambda case, row: [case.names[row["image"]]],
    "width": lambda case, row: [case.pixels[0]],
    "objects": lambda case, row: sorted({item["label"] for item in case.objects[row["image"]]}),
    "patches": lambda case, row: row["positions"] or [None],
}
"""The groups that a row belongs to, by a column."""


def grouped(case: Case, rows: list[Row], by: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for key in itertools.product(*(GROUPS[name](case, row) for name in by)):
            found.setdefault(key, []).append(row)
    return found


def in_order(keys: list[tuple[Any, ...]]) -> bool:
    """Whether keys ascend, what is missing last."""
    return keys == sorted(keys, key=lambda key: [(part is None, part) for part in key])


@SETTINGS
@given(shape=shapes, data=st.data())
def test_numbers_of_groups(cases: dict[str, Case], shape: str, data: st.DataObject) -> None:
    case = cases[shape]
    ids, arguments = data.draw(token_ids(case)), reading_arguments(data.draw, case)
    by = data.draw(st.lists(st.sampled_from(list(GROUPS)), max_size=2, unique=True))
    method = data.draw(st.sampled_from(["count", *NUMBERS]))
    column = data.draw(st.sampled_from([None, "layer", "logprob"]))
    missing = data.draw(st.booleans())
    table = vlq.first_layer(one_or_list(ids), missing="never" if missing else None, **asked(arguments))
    node = table.group(by) if by else table
    node = node.count() if method == "count" else getattr(node, method)(column)
    result = case.corpus.query(node)

    rows = first_layers(case, ids, arguments, missing)
    expected = grouped(case, rows, by) if by else {(): rows}
    keys = [tuple(row[name] for name in by) for row in result.rows]
    assert set(keys) == expected.keys()
    assert in_order(keys)
    for key, row in zip(keys, result.rows, strict=True):
        assert row["count"] == len(expected[key])
        if method == "count":
            continue
        values = [row[column or "layer"] for row in expected[key] if row[column or "layer"] is not None]
        assert row["missing"] == len(expected[key]) - len(values)
        assert row[method] == (pytest.approx(NUMBERS[method](values), abs=1e-4) if values else None)
    assert result.summary["rows"] == sum(map(len, expected.values()))
    assert result.headline


@SETTINGS
@given(shape=shapes, data=st.data())
def test_a_histogram_has_every_layer(cases: dict[str, Case], shape: str, data: st.DataObject) -> None:
    case = cases[shape]
    ids, arguments = data.draw(token_ids(case)), reading_arguments(data.draw, case)
    by = data.draw(st.sampled_from([[], ["label"], ["objects"], ["label", "width"]]))
    missing = data.draw(st.booleans())
    table = vlq.first_layer(one_or_list(ids), missing="never" if missing else None, **asked(arguments))
    result = case.corpus.query((table.group(by) if by else table).histogram())

    rows = first_layers(case, ids, arguments, missing)
    expected: dict[tuple[Any, ...], int] = {}
    for key, members in (grouped(case, rows, by) if by else {(): rows}).items():
        expected |= {(*key, layer): 0 for layer in case.run.read_layers}
        expected |= {(*key, layer): n for layer, n in Counter(row["layer"] for row in members).items()}
    assert {tuple(row[name] for name in (*by, "layer")): row["count"] for row in result.rows} == expected
    assert in_order([tuple(row[name] for name in (*by, "layer")) for row in result.rows])
    never = sum(n for (*_, layer), n in expected.items() if layer is None)
    assert (result.summary["missing"], result.summary["rows"]) == (never, sum(expected.values()))


# --- bins ------------------------------------------------------------------------------------------------------


def columns_of_numbers() -> dict[str, list[float | None]]:
    """Image columns whose bins are hard to get right."""
    rng = np.random.default_rng(0)
    scales = {f"scale{i}": (rng.normal(0, 10.0**i, 40) + 10.0**i).tolist() for i in (-9, -3, -1, 0, 2, 7)}
    tenths = {f"tenths{i}": (rng.integers(-30, 70, 40) * 10.0**-i).tolist() for i in (1, 2, 5)}
    return (
        scales
        | tenths
        | {
            "whole": rng.integers(-3, 4, 40).tolist(),
            "far": rng.integers(100, 5000, 40).tolist(),
            "same": [0.3] * 40,
            "widths": [112] * 40,
            "zero": [0.0] * 40,
            "large": [1e200] * 40,
            "huge": [1e300, -1e300, 1.5e306, 8e306, -8e306, None, 0.0, sys.float_info.max] * 5,
            "holes": [None, 0.25, math.nan, math.inf, -math.inf, 0.75, 1e301, 0.5] * 5,
            "none": [None, math.nan] * 20,
        }
    )


def round_edges(values: list[float], bins: int) -> list[float]:
    """The edges of the bins, exactly: the smallest size with which there are enough of them."""
    least, most = min(values), max(values)
    whole = all(value == round(value) for value in values)
    first = math.floor(math.log10((most - least) / bins)) - 1 if most > least else 0
    if most == least:
        first = math.floor(math.log10(max(1, 1e-12 * abs(most))))
    for power in range(max(first, 0) if whole else first, first + 9):
        for digit in (1, 2, 5):
            size = digit * Fraction(10) ** power
            start = Fraction(least) // size - 1
            edges = [float((start + i) * size) for i in range(bins + 4)]
            inside = [edge for edge, after in itertools.pairwise(edges) if after > least and edge <= most]
            if edges[-1] > most and len(inside) <= bins:
                return [*inside, edges[edges.index(inside[-1]) + 1]]
    raise AssertionError("no size is large enough")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("numbers")
    make_cache(folder, images=40, columns=columns_of_numbers())
    return vlq.open(str(folder))


@pytest.mark.parametrize("bins", [2, 3, 10, 20, 57, 1000])
@pytest.mark.parametrize("column", columns_of_numbers())
def test_bins_lie_between_round_numbers(numbers: Corpus, column: str, bins: int) -> None:
    rows = numbers.images().histogram(column, bins=bins).rows
    own = columns_of_numbers()[column]
    values = [value for value in own if value is not None and abs(value) <= sys.float_info.max / 2]
    counted = [row for row in rows if row["low"] is not None]
    assert sum(row["count"] for row in rows if row["low"] is None) == len(own) - len(values)
    if not values:
        assert not counted
        return
    edges = round_edges(values, bins)
    assert [row["low"] for row in counted] == edges[:-1]
    assert [row["high"] for row in counted] == edges[1:]
    within = [sum(low <= value < high for value in values) for low, high in itertools.pairwise(edges)]
    assert [row["count"] for row in counted] == within
    assert len(counted) <= bins


@pytest.mark.parametrize("bins", [2, 20, 1000])
def test_bins_of_the_largest_numbers(tmp_path: Path, bins: int) -> None:
    """Their edges are finite, and so is what lies between the least and the greatest of them."""
    most = sys.float_info.max / 2
    make_cache(tmp_path, images=4, columns={"x": [most, -most, 1.0, sys.float_info.max]})
    *rows, beyond = vlq.open(str(tmp_path)).images().histogram("x", bins=bins).rows
    assert beyond == {"low": None, "high": None, "count": 1}
    assert len(rows) <= bins
    for row in rows:
        assert -math.inf < row["low"] < row["high"] < math.inf
        assert row["count"] == sum(row["low"] <= value < row["high"] for value in (most, -most, 1.0))


@pytest.mark.parametrize("bins", [2, 20])
@pytest.mark.parametrize(
    "values", [[2**53 + 2 * i + 1 for i in range(9)], [10**18 + (10**13 + 7) * i for i in range(9)]]
)
def test_whole_numbers_between_those_of_double(tmp_path: Path, values: list[int], bins: int) -> None:
    """A bin's rows are those of its ends, which a facet names, however large they are."""
    make_cache(tmp_path, images=len(values), columns={"id": values})
    corpus = vlq.open(str(tmp_path))
    rows = corpus.images().histogram("id", bins=bins).rows
    for row in rows:
        low, high = int(row["low"]), int(row["high"])
        assert row["count"] == sum(low <= value < high for value in values)
        assert row["count"] == len(corpus.query(f"images().where({low} <= id < {high})").rows)
    assert sum(row["count"] for row in rows) == len(values)


def test_bins_are_the_same_in_every_group(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    whole = corpus.query("readings('cat', rank=4).histogram(logprob)").rows
    rows = corpus.query("readings('cat', rank=4).group(label).histogram(logprob)").rows
    labels = {row["label"] for row in rows}
    assert len(labels) == 3
    bins = [(row["low"], row["high"]) for row in whole]
    for label in labels:
        assert [(row["low"], row["high"]) for row in rows if row["label"] == label] == bins
    totals = [sum(row["count"] for row in rows if row["low"] == low) for low, _ in bins]
    assert totals == [row["count"] for row in whole]
    assert sum(totals) == len(corpus.query("readings('cat', rank=4)").rows)


# --- groups as tables ------------------------------------------------------------------------------------------

IMAGES = 24
LABELS = ["beach", "grass", None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    own: dict[str, list[Any]] = {
        "label": [LABELS[i % 3] for i in range(IMAGES)],
        "indoors": [[True, False, None][i % 3] for i in range(IMAGES)],
        "words": [[["dog", "cat", "dog"], [], None][i % 3] for i in range(IMAGES)],
        "boxes": [[[float(i)]] * 2 for i in range(IMAGES)],
        # Names that the SQL of groups uses itself, or that SQL reserves.
        "count": [i % 2 for i in range(IMAGES)],
        "value": [i % 4 for i in range(IMAGES)],
        "part1": [i % 5 for i in range(IMAGES)],
        "order": [i % 2 for i in range(IMAGES)],
        'a "b" c': [f"{i % 2}" for i in range(IMAGES)],
    }
    make_cache(folder, images=IMAGES, columns=own)
    return vlq.open(str(folder))


def medians(corpus: Corpus, word: str) -> dict[str | None, float]:
    """By label the median first layer, by hand."""
    found: dict[str | None, list[int]] = {}
    for row in corpus.first_layer(word).rows:
        found.setdefault(LABELS[row["image_id"] % 3], []).append(row["layer"])
    return {label: statistics.median(layers) for label, layers in found.items()}


def test_groups_compare_and_combine_the_one_without_a_label_too(corpus: Corpus) -> None:
    rock, cat = (corpus.first_layer(word).group("label").median() for word in ("rock", "cat"))
    a, b = medians(corpus, "rock"), medians(corpus, "cat")
    assert a.keys() == b.keys() == {*LABELS}
    difference = rock - cat
    assert {row["label"]: row["value"] for row in difference.rows} == {label: a[label] - b[label] for label in a}
    for result, holds in [
        (rock <= cat, {label for label in a if a[label] <= b[label]}),
        ((rock <= cat) & (rock >= 0), {label for label in a if a[label] <= b[label]}),
        ((rock > cat) | ~(rock > 100), {*a}),
        ((rock < 0) | (cat < 0) | (rock >= 0), {*a}),
    ]:
        assert {row["label"] for row in result.rows} == holds
        assert result.summary["compared"] == 3
    assert (rock <= cat).columns == ["label", "median_1", "median_2"]


def test_a_group_on_one_side_only_is_not_compared(corpus: Corpus) -> None:
    table = vlq.first_layer("rock")
    beach = table.where(vlq.col("label") == "beach").group("label").count()
    result = corpus.query(table.group("label").count() - beach)
    assert [(row["label"], row["value"]) for row in result.rows] == [("beach", 0)]
    either = corpus.query((beach > 0) | (table.group("label").count() > 0))
    assert {row["label"] for row in either.rows} == {*LABELS}


def test_groups_of_several_columns_compare(corpus: Corpus) -> None:
    rock, cat = (corpus.readings(word).group(["label", "layer"]).count() for word in ("rock", "cat"))
    a, b = ({(row["label"], row["layer"]): row["count"] for row in result.rows} for result in (rock, cat))
    both = {key: a[key] - b[key] for key in a.keys() & b.keys()}
    assert {label for label, _ in both} == {*LABELS}
    assert {(row["label"], row["layer"]): row["value"] for row in (rock - cat).rows} == both


def test_groups_are_sorted_cut_and_chosen(corpus: Corpus) -> None:
    counts = corpus.first_layer("rock").group([vlq.col("label"), "layer"]).count()
    rows = counts.rows
    assert len(rows) > 5
    assert counts.sort("count", descending=True).limit(2).rows == sorted(rows, key=lambda row: -row["count"])[:2]
    assert counts.where(vlq.col("count") > 1).rows == [row for row in rows if row["count"] > 1]
    assert counts.select("count").rows == [{"count": row["count"]} for row in rows]
    assert counts.sample(3, seed=1).rows == counts.sample(3, seed=1).rows != counts.sample(3, seed=2).rows
    again = counts.group("label").max()
    assert [row["max"] for row in again.rows] == [
        max(row["count"] for row in rows if row["label"] == label) for label in LABELS
    ]
    assert counts.limit(1).summary == counts.summary


def test_groups_by_image_are_by_number(corpus: Corpus) -> None:
    readings = corpus.readings("rock")
    counts = readings.group("image").count()
    assert {row["image_id"]: row["count"] for row in counts.rows} == Counter(row["image_id"] for row in readings.rows)
    assert all(row["image"].endswith(f"-{row['image_id']}.png") for row in counts.rows)
    # It has a row for each image, so it goes with what has one too, and knows the images' columns.
    beach = counts.where(vlq.col("label") == "beach") - corpus.first_layer("rock")
    assert {row["image_id"] % 3 for row in beach.rows} == {0}


@pytest.mark.parametrize("name", ["count", "value", "part1", "order", 'a "b" c'])
def test_columns_of_any_name_make_groups(corpus: Corpus, name: str) -> None:
    every = corpus.images().rows
    expected = Counter(row[name] for row in every)
    taken = "count_2" if name == "count" else "count"
    for method in ("count", "mean"):
        table = corpus.images().group(name)
        result = table.count() if method == "count" else table.mean("width")
        assert {row[name]: row[taken] for row in result.rows} == expected
        assert result.summary["rows"] == IMAGES
        assert result.sort(name).rows == result.rows
        assert len(result.sample(1).limit(1).rows) == 1
    combined = corpus.images().group(name).count() + corpus.images().group(name).count()
    value = "value_2" if name == "value" else "value"
    assert {row[name]: row[value] for row in combined.rows} == {key: 2 * n for key, n in expected.items()}
    histogram = corpus.images().group(name).histogram("part1")
    assert sum(row[taken] for row in histogram.rows) == IMAGES


CALLED = ["Count", "MEAN", "mean_1", "value_2", "holds", "HIGH", "Layer", "difference", "mean_a"]
"""Columns of images that are called as columns of answers are, but for the case in which some are written."""


@pytest.mark.parametrize("name", CALLED)
def test_columns_that_are_called_as_those_of_answers(tmp_path: Path, name: str) -> None:
    own = [i % 3 for i in range(IMAGES)]
    make_cache(tmp_path, images=IMAGES, columns={name: own, "Count_2": [0] * IMAGES, "number": [*range(IMAGES)]})
    corpus = vlq.open(str(tmp_path))
    counts, means = corpus.images().group(name).count(), corpus.images().group(name).mean("number")
    numbers = {key: statistics.fmean(i for i in range(IMAGES) if own[i] == key) for key in range(3)}
    for table, expected in [
        (counts, dict(Counter(own))),
        (means, numbers),
        (means - 1, {key: number - 1 for key, number in numbers.items()}),
        (means - counts, {key: number - own.count(key) for key, number in numbers.items()}),
        (means >= means, numbers),
        ((means >= means) & ~(means > means), numbers),
        (corpus.compare(str(tmp_path), vlq.images().group(name).mean("number")), numbers),
        (corpus.images().group([name, "Count_2"]).count(), dict(Counter(own))),
    ]:
        assert len({column.lower() for column in table.columns}) == len(table.columns)
        ends = 2 if "Count_2" in table.columns else 1  # of its keys; what stands for a row is behind them
        assert {row[name]: row[table.columns[ends]] for row in table.rows} == expected
        assert table.headline
    assert (means >= means).summary["matched"] == 3
    assert corpus.compare(str(tmp_path), vlq.images().group(name).mean("number")).summary["median"] == 0
    bins = corpus.images().group(name).histogram("number")
    assert sum(row[bins.columns[-1]] for row in bins.rows) == IMAGES


def test_a_column_of_the_answer_beside_one_of_images_that_differs_in_case(tmp_path: Path) -> None:
    make_cache(tmp_path, images=IMAGES, columns={"Layer": [i % 3 for i in range(IMAGES)]})
    dogs = vlq.open(str(tmp_path)).first_layer("dog")
    both = dogs.group(["layer", "Layer"]).count()
    assert both.columns == ["layer", "Layer_2", "count"]
    expected = Counter((row["layer"], row["image_id"] % 3) for row in dogs.rows)
    assert {(row["layer"], row["Layer_2"]): row["count"] for row in both.rows} == expected
    by_layer = dogs.group("Layer").histogram()
    assert by_layer.columns == ["Layer", "layer_2", "count"]
    assert sum(row["count"] for row in by_layer.rows) == len(dogs.rows)


def test_lists(corpus: Corpus) -> None:
    counts = corpus.images().group("words").count()
    assert {row["words"]: row["count"] for row in counts.rows} == {"dog": 8, "cat": 8, None: 16}
    assert counts.notes == ["By words a row counts once in the group of each of its items."]
    assert counts.headline == "images() by words: 3 groups; most in no words (16), fewest in cat and dog (8)"


def test_nan_is_no_item_of_a_list(tmp_path: Path) -> None:
    lists = [[1.5, math.nan], [math.nan], [], None, [math.inf, 1.5, 1.5]]
    make_cache(tmp_path, images=len(lists), columns={"numbers": lists})
    corpus = vlq.open(str(tmp_path))
    counts = corpus.images().group("numbers").count()
    assert {row["numbers"]: row["count"] for row in counts.rows} == {1.5: 2, math.inf: 1, None: 3}
    assert [row["image_id"] for row in corpus.query("images(1.5 in numbers)").sort("image_id").rows] == [0, 4]


def test_truth_counts_as_1_and_0(corpus: Corpus) -> None:
    row = corpus.images().mean("indoors").rows[0]
    assert row == {"mean": 0.5, "count": 24, "missing": 8}
    assert [row["indoors"] for row in corpus.images().group("indoors").count().rows] == [False, True, None]
    assert corpus.images().group("indoors").count().headline.endswith("8 in each")


def test_the_mean_of_a_condition_is_the_share_for_which_it_holds(corpus: Corpus) -> None:
    condition = corpus.query("first_layer('rock') < first_layer('cat')")
    compared = corpus.query("first_layer('rock') - first_layer('cat')").rows
    holds: dict[str | None, list[bool]] = {}
    for row in compared:
        holds.setdefault(LABELS[row["image_id"] % 3], []).append(row["value"] < 0)
    assert 0 < len(condition.rows) < len(compared)
    shares = condition.group("label").mean()
    assert {row["label"]: row["mean"] for row in shares.rows} == pytest.approx(
        {label: sum(found) / len(found) for label, found in holds.items()}
    )
    assert condition.mean().rows[0]["mean"] == pytest.approx(len(condition.rows) / len(compared))
    assert condition.count().rows == [{"count": len(condition.rows)}]
    # For which it cannot be said is no part of the share: one of the two is known to be true.
    either = corpus.query("(first_layer('rock') < first_layer('cat')) or (first_layer('sky', min_prob=0.3) < 3)")
    row = either.mean().rows[0]
    assert row["count"] - row["missing"] == either.summary["compared"]
    assert row["mean"] == pytest.approx(len(either.rows) / either.summary["compared"])
    assert condition.group("label").median("layer_1").rows


def test_failed_images_and_no_rows(tmp_path: Path) -> None:
    make_cache(tmp_path, images=6, failed=[0, 3], columns={"label": ["a", "b", "c"] * 2})
    corpus = vlq.open(str(tmp_path))
    assert {row["label"]: row["count"] for row in corpus.images().group("label").count().rows} == {"b": 2, "c": 2}
    nothing = corpus.first_layer("dog", min_prob=1.0)
    assert nothing.count().rows == [{"count": 0}]
    assert nothing.median().rows == [{"median": None, "count": 0, "missing": 0}]
    assert nothing.group("label").median().rows == nothing.histogram("logprob").rows == []
    assert {row["count"] for row in nothing.histogram().rows} == {0}
    assert nothing.group("label").median().headline == "dog (probability at least 1) by label: 0 images"
    assert nothing.histogram().headline == "dog (probability at least 1): 0 images"


# --- in words --------------------------------------------------------------------------------------------------


def test_the_sentence(corpus: Corpus) -> None:
    found = medians(corpus, "ear")
    low, high = min(found.values()), max(found.values())
    assert low < high
    first, last = ([label or "no label" for label in LABELS if found[label] == value] for value in (low, high))
    rows = len(corpus.first_layer("ear").rows)
    grouped = corpus.first_layer("ear").group("label").median()
    assert grouped.headline == (
        f"ear by label: {rows} images in 3 groups; median first layer earliest in {' and '.join(first)} ({low:g}), "
        f"latest in {' and '.join(last)} ({high:g})"
    )
    assert grouped.where(vlq.col("label") == "beach").headline.endswith(" (where label == 'beach')")
    one = corpus.first_layer("rock", images=vlq.col("label") == "beach").group("label").max()
    value = one.rows[0]["max"]
    assert one.headline.endswith(f" images in 1 group; greatest first layer {value} in beach")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("images().group(label).count()", "images() by label: 24 images in 3 groups; 8 in each"),
        (
            "images().group(order).mean(value)",
            "images() by order: 24 images in 2 groups; mean value lowest in order 0 (1), highest in order 1 (2)",
        ),
        ("images().group([label, indoors]).count()", "images() by label and indoors: 24 images in 3 groups; 8 in each"),
        ("images().group(part1).min(value)", "images() by part1: 24 images in 5 groups; least value 0 in each"),
        ("images().count()", "images(): 24 images"),
        ("images().median(value)", "images(): 24 images, median value 1.5"),
        ("images().mean(indoors)", "images(): 24 images (8 without a value left out), mean indoors 0.5"),
        ("images().histogram(value)", "images(): 24 images; value is most often 0 (6)"),
        ("images().histogram(image_id, bins=5)", "images(): 24 images; image_id is most often 0 to 5 (5)"),
        ("images().histogram(indoors)", "images(): 24 images, 8 of them without a value; indoors is most often 0 (8)"),
        ("images().group(words).histogram(value)", "images() by words: 3 groups; value is most often 0 (8)"),
    ],
)
def test_sentences(corpus: Corpus, text: str, sentence: str) -> None:
    assert corpus.query(text).headline == sentence


def test_what_is_infinite_is_in_no_bin_and_is_not_said_to_have_no_value(tmp_path: Path) -> None:
    scores = [1.0, 2.0, math.inf, -math.inf, None, math.nan, 5.0, 9.0]
    make_cache(tmp_path, images=8, columns={"score": scores})
    images = vlq.open(str(tmp_path)).images()
    found = images.histogram("score", bins=4)
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    bins = [(row["low"], row["high"], row["count"]) for row in found.rows]
    assert bins == [
        (0, 5, sum(score < 5 for score in finite)),
        (5, 10, sum(score >= 5 for score in finite)),
        (None, None, 4),
    ]
    assert found.headline == "images(): 8 images, 4 of them without a finite value; score is most often 0 to 5 (2)"
    mean = images.mean("score")
    assert mean.headline == f"images(): 8 images (4 without a finite value left out), mean score {sum(finite) / 4:g}"


def test_decimals_are_numbers(tmp_path: Path) -> None:
    """The middle of two has a digit more than either; the least and the greatest are what they were."""
    prices = [Decimal("1.10"), Decimal("2.25"), None, Decimal("-0.05")]
    make_cache(tmp_path, images=4, columns={"price": prices, "pair": [0, 0, 0, 1]})
    images = vlq.open(str(tmp_path)).images()
    medians = images.group("pair").median("price").rows
    assert [(row["pair"], row["median"]) for row in medians] == [(0, 1.675), (1, -0.05)]
    assert images.min("price").rows[0]["min"] == prices[3]
    assert images.max("price").rows[0]["max"] == prices[1]
    assert images.max("price").headline == "images(): 4 images (1 without a value left out), greatest price 2.25"
    assert repr(images.max("price").summary["high"]) == "2.25"


def test_decimals_of_many_digits(tmp_path: Path) -> None:
    prices = [Decimal("12345678901234567890123456789012345.678"), Decimal("0.001")]
    make_cache(tmp_path, images=2, columns={"price": prices})
    result = vlq.open(str(tmp_path)).images().max("price")
    assert result.rows[0]["max"] == prices[0]
    assert result.headline == "images(): 2 images, greatest price 1.23457e+34"


def test_what_groups_are_called(tmp_path: Path) -> None:
    """What is false, what is not known, and a text that is empty are three groups, and have a name each."""
    columns = {"bright": [True, None, None, False, False, None], "text": ["", "", "", "a", "a", None]}
    make_cache(tmp_path, images=6, columns=columns)
    images = vlq.open(str(tmp_path)).images()
    counts = images.group("bright").count().headline
    assert counts == "images() by bright: 6 images in 3 groups; most in no bright (3), fewest in bright (1)"
    assert images.group("bright").mean("image_id").summary["low_groups"] == ["bright"]
    assert images.group("bright").max("image_id").summary["high_groups"] == ["no bright"]
    assert images.where(vlq.col("bright") != True).group("bright").count().summary["low_groups"] == ["not bright"]  # noqa: E712
    assert images.group("text").count().summary["high_groups"] == ["''"]


def test_what_the_layers_are_called(corpus: Corpus) -> None:
    assert "median peak layer" in corpus.peak_layer("rock").group("label").median().headline
    where = corpus.first_layer("rock", rank=2).where(vlq.col("layer") > 0).mean().headline
    assert where.startswith("rock (rank 1 to 2) where layer > 0: ")
    assert ", mean first layer " in where
    never = corpus.first_layer("rock", min_prob=0.38, missing="never").histogram().headline
    assert " without a value; first layer is most often " in never


def test_numbers_of_numbers_are_named_by_both(corpus: Corpus) -> None:
    medians = corpus.first_layer("rock").group("label").median()
    again = medians.median()
    (row,) = again.rows
    assert again.headline == (
        f"rock by label: {len(medians.rows)} groups, median of the median first layers {row['median']:g}"
    )
    assert ", mean count " in corpus.readings("rock").group("image").count().mean().headline


def test_the_columns_that_tell_nothing_are_not_shown(corpus: Corpus) -> None:
    assert "missing" not in str(corpus.first_layer("rock").group("label").median())
    assert "missing" in str(corpus.first_layer("rock", min_prob=0.38, missing="never").group("label").median())


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        ("first_layer('rock').group(lable).count()", UnknownName, "There is no column lable.", "lable"),
        ("first_layer('rock').group([]).count()", BadArgument, None, "[]"),
        ("first_layer('rock').group(3).count()", BadArgument, None, "3"),
        (
            "first_layer('rock').group(transform).count()",
            BadArgument,
            "transform has no values to group by.",
            "transform",
        ),
        ("first_layer('rock').mean(label)", BadArgument, "label is no number.", "label"),
        ("first_layer('rock').mean(patches)", BadArgument, "patches is no number.", "patches"),
        (
            "first_layer('rock').mean([layer])",
            BadArgument,
            "column: expected a column. Got [layer].",
            "[layer]",
        ),
        ("first_layer('rock').histogram(bins=1)", BadArgument, None, "1"),
        ("first_layer('rock').histogram(logprob, bins=1001)", BadArgument, None, "1001"),
        ("images().median()", BadArgument, "The rows have no single value.", "images().median()"),
        (
            "first_layer('rock').group(label).count() < first_layer('rock').group(words).count()",
            BadArgument,
            "first_layer('rock').group(label).count() has a row for each label, "
            "first_layer('rock').group(words).count() for each words.",
            "first_layer('rock').group(words).count()",
        ),
        (
            "emergence('rock') < neighbours('rock')",
            BadArgument,
            "token is a text in emergence('rock'), and a number in neighbours('rock').",
            "neighbours('rock')",
        ),
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


@pytest.mark.parametrize("more", ["", ".limit(2)", ".group(layer).count()", " < 3"])
def test_groups_alone_are_no_answer(corpus: Corpus, more: str) -> None:
    grouped = "first_layer('rock').group(label)"
    with pytest.raises(BadArgument) as caught:
        print(corpus.query(grouped + more))
    assert caught.value.message == "first_layer('rock').group('label') has groups, but no rows.".replace(
        "'label'", "label"
    )
    assert "append .count(), .mean(), .median()" in (caught.value.hint or "")
    assert caught.value.span == (0, len(grouped))
    with pytest.raises(BadArgument):
        _ = corpus.first_layer("rock").group("label").rows


def test_a_column_is_named_where_rows_have_no_value(corpus: Corpus) -> None:
    with pytest.raises(BadArgument) as caught:
        corpus.query("(first_layer('rock') < first_layer('cat')).median()")
    assert caught.value.hint == "Name a column: .median(layer_1)"


def test_python_and_text_are_the_same(corpus: Corpus) -> None:
    col = vlq.col
    pairs = [
        (vlq.first_layer("dog").group(col("label")).median(), "first_layer('dog').group(label).median()"),
        (
            vlq.first_layer("dog").group(["label", "layer"]).count(),
            "first_layer('dog').group(['label', 'layer']).count()",
        ),
        (vlq.first_layer("dog").mean(col("logprob")), "first_layer('dog').mean(logprob)"),
        (vlq.first_layer("dog").histogram(col("logprob"), bins=9), "first_layer('dog').histogram(logprob, bins=9)"),
        (vlq.first_layer("dog").histogram(bins=20), "first_layer('dog').histogram()"),
    ]
    for node, text in pairs:
        assert parse(text).equals(node)
        assert str(node) == text
        assert corpus.query(text).rows == corpus.query(node).rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("group", "first_layer('cat', images=label != 'snow').group([label, objects]).median()"),
        ("group_share", "(first_layer('cat') < first_layer('rock')).group(label).mean()"),
        ("histogram", "first_layer('cat').group(label).histogram()"),
        ("histogram_bins", "first_layer('cat').histogram(logprob)"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / f"{name}.sql").read_text()
