"""`against=`: the figures of both sides equal brute force, their intervals literal resampling."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers.render import html, render
from vlq.query.errors import QueryError
from vlq.query.language.against import percent, share_intervals_sql
from vlq.query.language.compile import Compiler
from vlq.query.language.nodes import Call, Node
from vlq.query.language.parse import parse
from vlq.query.statistics.bootstrap import Group, contrast, ends, percentiles, share, share_difference, share_interval

from ...brute import picked_layers
from ...examples import examples
from ...synthetic import make_cache, make_run
from ..corpora import (
    LABELS,
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
)

FEWER = examples(40)

CONDITIONS: dict[str, Callable[[Case, int], bool | None]] = {
    "label == 'beach'": lambda case, i: case.labels[i] == "beach",
    "label != 'beach' or 'rock' in objects": lambda case, i: (
        case.labels[i] != "beach" or "rock" in [item["label"] for item in case.objects[i]]
    ),
    "'dog' in objects": lambda case, i: "dog" in [item["label"] for item in case.objects[i]],
    "bright": lambda case, i: case.bright[i],
    "not bright": lambda case, i: None if case.bright[i] is None else not case.bright[i],
    "width > 1": lambda case, i: True,
}
"""Conditions, and whether they hold of an image; None where that is unknown."""


def condition(text: str) -> Node:
    node = parse(f"images({text})")
    assert isinstance(node, Call)
    found = node.get("condition")
    assert found is not None
    return found


def sides(case: Case, text: str, images: str | None, site: str = "patch") -> dict[bool | None, np.ndarray]:
    """(image,): which of the chosen images are on which side."""
    holds = [CONDITIONS[text](case, i) for i in range(len(case.names))]
    chosen = case.chosen(images, site)
    return {side: chosen & np.array([value is side for value in holds]) for side in (True, False, None)}


def exact_interval(matched: int, images: int) -> list[float] | None:
    """The percentiles of a binomial share, in whole numbers."""
    if not images:
        return None
    below, every, ends = 0, images**images, []
    for n in range(images + 1):
        below += comb(images, n) * matched**n * (images - matched) ** (images - n)
        ends += [n / images] * sum(1000 * below >= tail * every for tail in (25, 975)[len(ends) :])
    return ends


@st.composite
def groups(draw: st.DrawFn, case: Case) -> tuple[str, dict[str, Any]]:
    """A condition, and what else is asked."""
    arguments = reading_arguments(draw, case) | {"layers": draw(layer_choices(case.run))}
    return draw(st.sampled_from(list(CONDITIONS))), arguments


# --- layers ----------------------------------------------------------------------------------------------------


def check_sides(
    summary: dict[str, Any], groups: list[np.ndarray], rows: list[list[dict[str, Any]]], layers: list[int]
) -> None:
    """Holds the figures of a summary against rows with an image and a layer, of one side and of the other."""
    medians, shares = [], []
    for found, group, expected in zip((summary, summary["against"]), groups, rows, strict=True):
        images, matched = int(group.sum()), len({row["image"] for row in expected})
        histogram = Counter(row["layer"] for row in expected)
        assert (found["images"], found["matched"]) == (images, matched)
        assert found["histogram"] == {layer: histogram[layer] for layer in layers}
        assert (found["min"], found["max"]) == (min(histogram, default=None), max(histogram, default=None))
        assert found["median"] == (median(histogram.elements()) if histogram else None)
        assert found["share"] == (matched / images if images else None)
        assert found["share_interval"] == exact_interval(matched, images)
        assert (found["median_interval"] is None) == (not histogram)
        medians.append(found["median"])
        shares.append(found["share"])
    apart = summary["difference"]
    assert apart["share"] == (None if None in shares else shares[0] - shares[1])
    assert apart["median"] == (None if None in medians else medians[0] - medians[1])
    assert (apart["share_interval"] is None) == (None in shares)
    assert (apart["median_interval"] is None) == (None in medians)


@SETTINGS
@given(pick=st.sampled_from(["first", "last", "peak"]), name=shapes, data=st.data())
def test_layers(cases: dict[str, Case], pick: str, name: str, data: st.DataObject) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    text, arguments = data.draw(groups(case))
    by = data.draw(st.sampled_from(["image", "image", "patch", "corpus"]))
    if by == "patch":
        arguments["min_patches"] = 1
    ask = getattr(case.corpus, f"{pick}_layer")
    result = ask(one_or_list(ids), by=by, against=condition(text), **asked(arguments))

    parts = sides(case, text, arguments["images"])
    rows = []
    for side in (True, False):
        mask = np.tile(parts[side][:, None], (1, case.run.positions["patch"]))
        if arguments["patches"] is not None:
            mask &= arguments["patches"].mask
        expected = picked_layers(
            case.sites["patch"],
            ids,
            pick,
            rank=arguments["rank"],
            min_prob=arguments["min_prob"],
            layers=layers_of(arguments["layers"], case.run),
            patches=mask,
            min_patches=arguments["min_patches"],
            by="patch" if by == "patch" else "image",
        )
        rows.append(expected)
    layers = layers_of(arguments["layers"], case.run)
    check_sides(result.summary, [parts[True], parts[False]], rows, layers)
    assert result.summary["unknown"] == parts[None].sum()
    if arguments["patches"] is not None and arguments["patches"].by_image:
        has = arguments["patches"].mask.any(1)
        assert result.summary["with_patches"] == (has & parts[True]).sum()
        assert result.summary["against"]["with_patches"] == (has & parts[False]).sum()
    if by != "corpus":
        assert Counter(row["image_id"] for row in result.rows) == Counter(row["image"] for row in rows[0])
    assert result.headline
    assert render(result, "table")


@FEWER
@given(name=shapes, data=st.data())
def test_readings(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    text, arguments = data.draw(groups(case))
    del arguments["min_patches"]
    result = case.corpus.readings(one_or_list(ids), against=condition(text), **asked(arguments))
    hit = case.hits("patch", ids, arguments | {"min_patches": 1})
    parts = sides(case, text, arguments["images"])
    rows = [
        [{"image": image, "layer": layer} for image, layer, _ in np.argwhere(hit & parts[side][:, None, None]).tolist()]
        for side in (True, False)
    ]
    check_sides(result.summary, [parts[True], parts[False]], rows, layers_of(arguments["layers"], case.run))
    assert (result.summary["readings"], result.summary["against"]["readings"]) == tuple(map(len, rows))
    assert Counter(row["image_id"] for row in result.rows) == Counter(row["image"] for row in rows[0])


@FEWER
@given(name=shapes, data=st.data())
def test_overlap(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    a, b = data.draw(token_ids(case)), data.draw(token_ids(case))
    text, arguments = data.draw(groups(case))
    result = case.corpus.overlap(one_or_list(a), one_or_list(b), against=condition(text), **asked(arguments))
    met = np.logical_and(*(case.hits("patch", ids, arguments).any(-1) for ids in (a, b)))  # (image, layer)
    parts = sides(case, text, arguments["images"])
    rows = [
        [{"image": image, "layer": layer} for image, layer in np.argwhere(met & parts[side][:, None]).tolist()]
        for side in (True, False)
    ]
    check_sides(result.summary, [parts[True], parts[False]], rows, layers_of(arguments["layers"], case.run))
    both = (case.hits("patch", a, arguments) & case.hits("patch", b, arguments)).any((1, 2))  # (image,)
    for side, said in zip((True, False), result.headline.split("; without: "), strict=True):
        shared = f", by the same patch in {(both & parts[side]).sum():,}; median distance "
        assert (shared in said) == (met.any(1) & parts[side]).any()


@FEWER
@given(
    name=shapes, function=st.sampled_from(["rank", "prob"]), missing=st.sampled_from([None, "bound"]), data=st.data()
)
def test_rank_and_prob(
    cases: dict[str, Case], name: str, function: str, missing: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    text, arguments = data.draw(groups(case))
    for argument in ("min_patches", "rank", "min_prob"):
        del arguments[argument]
    ask = getattr(case.corpus, function)
    result = ask(one_or_list(ids), missing=missing, against=condition(text), **asked(arguments))
    stored = case.hits("patch", ids, arguments | {"min_patches": 1, "rank": case.run.k, "min_prob": None})
    rank, probability = case.sites["patch"].cells(ids)
    parts = sides(case, text, arguments["images"])
    rows, layers = [], layers_of(arguments["layers"], case.run)
    for side, found in ((True, result.summary), (False, result.summary["against"])):
        of_side = stored & parts[side][:, None, None]
        rows.append([{"image": image, "layer": layer} for image, layer, _ in np.argwhere(of_side).tolist()])
        values = rank[of_side] if function == "rank" else np.minimum(probability[of_side], 1)
        assert found["stored"] == len(values)
        assert found[f"median_{function}"] == (pytest.approx(np.median(values)) if len(values) else None)
        cells = case.there[parts[side]]
        if arguments["patches"] is not None:
            cells = arguments["patches"].mask[parts[side]]
            assert found.get("with_patches") == (cells.any(1).sum() if arguments["patches"].by_image else None)
        if missing and side:
            assert len(result.rows) == cells.sum() * len(layers)
    check_sides(result.summary, [parts[True], parts[False]], rows, layers)
    assert result.summary["unknown"] == parts[None].sum()
    assert "; without: " in result.headline


# --- emergence -------------------------------------------------------------------------------------------------


@SETTINGS
@given(name=shapes, at=sites(), data=st.data())
def test_emergence(cases: dict[str, Case], name: str, at: Any, data: st.DataObject) -> None:
    case = cases[name]
    at = of_case(case, at)
    tokens = data.draw(st.lists(token_ids(case), min_size=1, max_size=2, unique_by=tuple))
    text = data.draw(st.sampled_from(list(CONDITIONS)))
    arguments = data.draw(st.composite(reading_arguments)(case, at)) | {"layers": data.draw(layer_choices(case.run))}
    asked_for = [one_or_list(ids) for ids in tokens]
    result = case.corpus.emergence(asked_for, at=at, against=condition(text), **asked(arguments))
    parts = sides(case, text, arguments["images"], at)
    layers = layers_of(arguments["layers"], case.run)
    rows = iter(result.rows)
    for ids, found in zip(tokens, result.summary["tokens"].items(), strict=True):
        label, summary = found
        other = result.summary["against"]["tokens"][label]
        read = case.hits(at, ids, arguments)[:, layers].any(-1)  # (image, layer)
        for place, layer in enumerate(layers):
            row = next(rows)
            assert (row["token"], row["layer"]) == (label, layer)
            for side, prefix in ((True, ""), (False, "against_")):
                images, group = int(parts[side].sum()), read[parts[side]]
                matched = int(group[:, place].sum())
                assert row[f"{prefix}images"] == matched
                assert row[f"{prefix}so_far"] == group[:, : place + 1].any(1).sum()
                assert row[f"{prefix}share"] == (matched / images if images else None)
                ends = exact_interval(matched, images) or [None, None]
                assert [row[f"{prefix}low"], row[f"{prefix}high"]] == ends
        shares = []
        for side, of_side in ((True, summary), (False, other)):
            images, came = int(parts[side].sum()), read[parts[side]].any(1)
            assert of_side["matched"] == came.sum()
            assert of_side["share"] == (came.sum() / images if images else None)
            assert of_side["share_interval"] == exact_interval(int(came.sum()), images)
            so_far = [read[parts[side]][:, : place + 1].any(1).sum() for place in range(len(layers))]
            first = [layer for layer, n in zip(layers, so_far, strict=True) if n]
            half = [layer for layer, n in zip(layers, so_far, strict=True) if n and n >= came.sum() / 2]
            assert (of_side["first"], of_side["half"]) == ((first[0], half[0]) if first else (None, None))
            shares.append(of_side["share"])
        assert summary["difference"]["share"] == (None if None in shares else shares[0] - shares[1])
    assert next(rows, None) is None
    assert result.summary["images"] == parts[True].sum()
    assert result.summary["against"]["images"] == parts[False].sum()
    assert result.summary["unknown"] == parts[None].sum()
    assert result.headline


# --- intervals -------------------------------------------------------------------------------------------------


def test_a_shares_interval_is_binomial() -> None:
    asked = [(matched, images) for images in range(1, 40) for matched in range(images + 1)]
    asked += [(1, 2000), (110, 2000), (1000, 2000), (1999, 2000), (12, 239)]
    expected = {(matched, images): exact_interval(matched, images) for matched, images in asked}
    assert {question: share_interval(*question) for question in asked} == expected
    assert share(0, 0) == {"share": None, "share_interval": None}
    # The same in SQL, which leaves out what has no width.
    compiler = Compiler()
    shares = "SELECT unnest($matched) AS matched, unnest($images) AS images"
    sql = share_intervals_sql(shares, compiler)
    matched, images = map(list, zip(*asked, strict=True))
    rows = duckdb.execute(sql, compiler.parameters | {"matched": matched, "images": images}).fetchall()
    inner = {question: ends for question, ends in expected.items() if 0 < question[0] < question[1]}
    assert {(matched, images): [low, high] for matched, images, low, high in rows} == inner


@pytest.mark.parametrize("count", [1, 2, 3, 39, 40, 41, 120, 999, 1000])
def test_an_interval_ends_at_figures_that_were_drawn(count: int) -> None:
    generator = np.random.default_rng(count)
    figures = generator.integers(0, 50, (4, count)) / 7
    figures[1, generator.random(count) < 0.3] = np.nan
    figures[2] = np.nan
    found = ends(figures)
    for row, (low, high) in zip(figures, found.T, strict=True):
        known = sorted(value for value in row if not np.isnan(value))
        expected = [
            min((x for x in known if 1000 * sum(y <= x for y in known) >= tail * len(known)), default=np.nan)
            for tail in (25, 975)
        ]
        assert [low, high] == pytest.approx(expected, abs=0, nan_ok=True)
        assert percentiles(row) == (expected if known else None)


def literally(images: list[list[int]], others: list[list[int]]) -> tuple[np.ndarray, ...]:
    """Share, median, and the differences of both, of images drawn with replacement one by one: (figure, resample)."""
    generator = np.random.default_rng(99)
    drawn = []
    for _ in range(5_000):
        figures = []
        for group in (images, others):
            chosen = [group[i] for i in generator.integers(len(group), size=len(group))]
            rows = [layer for image in chosen for layer in image]
            figures += [sum(bool(image) for image in chosen) / len(group), median(rows) if rows else np.nan]
        drawn.append([*figures, figures[0] - figures[2], figures[1] - figures[3]])
    return tuple(np.array(drawn).T)


def check_interval(interval: Any, drawn: np.ndarray) -> None:
    """Both ends are where 2.5% and 97.5% of what was drawn are not above, but for the luck of the draws."""
    drawn = drawn[~np.isnan(drawn)]
    for end, tail in zip(interval, (0.025, 0.975), strict=True):
        assert (drawn < end - 1e-9).mean() < tail + 0.016
        assert (drawn <= end + 1e-9).mean() > tail - 0.016


LAYERS = [2, 3, 4, 5, 6, 7]
GROUPS = {
    "one row an image": ([[5]] * 20 + [[4]] * 9 + [[7]] * 2 + [[]] * 4, [[6]] * 5 + [[3]] * 4 + [[]] * 40),
    "an even number": ([[3]] * 6 + [[6]] * 6, [[2]] * 3 + [[7]] * 3 + [[]] * 3),
    "rarely any": ([[5]] + [[]] * 8, [[5]] * 2 + [[6]] + [[]] * 30),
    "rows by patch": (
        [[5] * 12, [5, 6], [3] * 9, [], [2, 3, 4, 5, 6, 7], [4] * 4, [6] * 7, [], [7], [2] * 15],
        [[4], [4, 5], [6, 6, 6, 6], [], [], [7, 7], [3], [2, 7], [5] * 20],
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_intervals_are_those_of_images_drawn_one_by_one(name: str) -> None:
    made = []
    for images in GROUPS[name]:
        rows = [{"image_id": 7 * i, "layer": layer} for i, image in enumerate(images) for layer in image]
        by_rows = Group.by_rows(rows, LAYERS, len(images))
        made.append(by_rows)
        if all(len(image) <= 1 for image in images):
            counts = Counter(row["layer"] for row in rows)
            by_layer = Group.by_layer({layer: counts[layer] for layer in LAYERS}, len(images))
            assert by_layer.median == by_rows.median
            made[-1] = by_layer
    one, other = made
    drawn = literally(*GROUPS[name])
    *sides, apart = contrast(one, other)
    for group, found, images, (shares, medians) in zip(made, sides, GROUPS[name], (drawn[:2], drawn[2:4]), strict=True):
        assert found["share"] == sum(map(bool, images)) / len(images)
        assert group.median == median([layer for image in images for layer in image])
        check_interval(found["share_interval"], shares)
        check_interval(found["median_interval"], medians)
    check_interval(apart["share_interval"], drawn[4])
    check_interval(apart["median_interval"], drawn[5])
    assert contrast(one, other) == (*sides, apart)  # drawn from a fixed seed


def test_the_same_figure_of_the_same_images_has_the_same_interval(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(grid=(1, 3)), images=50, columns={"label": [LABELS[i % 3] for i in range(50)]})
    corpus = vlq.open(str(tmp_path))

    def asked(side: str) -> list[dict[str, Any]]:
        summaries = [
            corpus.query(f"{start}, layers=[1, 2, 3], against=label {side} 'beach')").summary
            for start in ("first_layer('dog'", "first_layer('dog', by='patch'", "readings('dog'", "emergence('dog'")
        ]
        # Of the one token that is asked for.
        return [{**found, **found["tokens"]["dog"]} if "tokens" in found else found for found in summaries]

    beach, elsewhere = asked("=="), asked("!=")
    shares = {(found["share"], *found["difference"]["share_interval"]) for found in beach}
    assert len(shares) == 1
    for here, there in zip(beach[:3], elsewhere[:3], strict=True):
        for one, other in ((here, there["against"]), (here["against"], there)):
            assert 0 < one["share"] < 1
            assert one["share_interval"] == other["share_interval"]
            assert one["median_interval"] == other["median_interval"]


def test_patches_of_one_image_are_no_independent_witnesses() -> None:
    # Two images of 50 rows each: were rows drawn, the median could hardly be anything but the one between.
    rows = [{"image_id": i, "layer": layer} for i, layer in enumerate((2, 7)) for _ in range(50)]
    group = Group.by_rows(rows, LAYERS, 2)
    assert [side["median_interval"] for side in contrast(group, group)[:2]] == [[2.0, 7.0]] * 2


def test_what_cannot_be_said_is_none() -> None:
    nobody, nothing = Group.by_layer({1: 0, 2: 0}, 0), Group.by_rows([], [1, 2], 5)
    assert contrast(nobody, nothing) == (
        {"share": None, "share_interval": None, "median_interval": None},
        {"share": 0.0, "share_interval": [0.0, 0.0], "median_interval": None},
        {"share": None, "share_interval": None, "median": None, "median_interval": None},
    )
    assert share_difference((0, 0), (1, 2)) == {"share": None, "share_interval": None}


# --- the rest of the language ----------------------------------------------------------------------------------


def test_where_narrows_both_sides_and_limit_none(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    text = "first_layer('cat', rank=2, against=label == 'beach')"
    whole = corpus.query(text)
    both = corpus.query("first_layer('cat', rank=2)").rows
    labels = cases["several shards"].labels
    assert whole.rows == [row for row in both if labels[row["image_id"]] == "beach"]
    assert corpus.query(f"{text}.limit(1)").summary == corpus.query(f"{text}.sort(logprob)").summary == whole.summary
    narrowed = corpus.query(f"{text}.where(layer >= 1)").summary
    others = [row for row in both if labels[row["image_id"]] != "beach" and row["layer"] >= 1]
    assert narrowed["against"]["matched"] == len(others) < whole.summary["against"]["matched"]
    assert narrowed["matched"] == sum(row["layer"] >= 1 for row in whole.rows)
    shares = corpus.query("emergence('cat', against=label == 'beach').where(share < against_share)").rows
    every = corpus.query("emergence('cat', against=label == 'beach')").rows
    assert shares == [row for row in every if row["share"] < row["against_share"]]
    assert 0 < len(shares) < len(every)


def test_never_read_is_no_layer(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    never = corpus.query("first_layer('cat', missing='never', layers=1, against=label == 'beach')")
    assert never.summary == corpus.query("first_layer('cat', layers=1, against=label == 'beach')").summary
    assert len(never.rows) == never.summary["images"] > never.summary["matched"]


def test_python_asks_the_same(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    text = corpus.query("first_layer('cat', against=label == 'beach')")
    assert corpus.first_layer("cat", against=vlq.col("label") == "beach").node.equals(text.node)


# --- what a person sees ----------------------------------------------------------------------------------------


def test_the_sentence_says_both(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("first_layer('cat', rank=2, images=label != 'snow', against=bright)")
    found = result.summary
    other = found["against"]
    low, high = other["share_interval"]
    assert found["unknown"] > 0
    assert result.headline == (
        f"cat (rank 1 to 2, images with label != 'snow', with bright): read in {found['matched']} of "
        f"{found['images']} image{'s' * (found['images'] != 1)}, median first layer {found['median']:g}, earliest "
        f"{found['min']}; without: in {other['matched']} of {other['images']} ({other['share']:.0%}, 95% interval "
        f"{low:.0%} to {high:.0%}), median {other['median']:g}; unknown for {found['unknown']} "
        f"image{'s' * (found['unknown'] != 1)}"
    )
    assert corpus.query("first_layer('cat', min_prob=1.0, against=label == 'beach')").headline == (
        "cat (probability at least 1, with label == 'beach'): read in none of 3 images; without: in none of 5"
    )
    assert corpus.query("first_layer('cat', against=width > 1)").headline.endswith("; without: there are no images")
    several = corpus.query("emergence(['cat', 'ear'], layers=(0, 1), against=label == 'beach')")
    cat, ear = several.summary["against"]["tokens"].values()
    for part, images in zip(several.headline.split("; "), (cat, ear), strict=False):
        assert f", without: in {images['matched']} of 5 ({images['share']:.0%}, 95% interval " in part
    assert several.headline.endswith(" (layers 0 to 1, with label == 'beach')")


def test_small_shares_are_not_nothing() -> None:
    assert [percent(share) for share in (0.0, 0.0015, 0.009, 0.01, 0.05, 1.0, -0.25, -0.004)] == [
        "0%", "0.1%", "0.9%", "1%", "5%", "100%", "-25%", "-0.4%",
    ]  # fmt: skip


def test_every_format_shows_both(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("first_layer('cat', rank=2, against=label == 'beach')")
    lines = render(result, "table").splitlines()
    assert lines[0] == result.headline
    start = next(i for i, line in enumerate(lines) if line.split()[:3] == ["images", "read", "share"])
    found, other = result.summary, result.summary["against"]
    for name, side, line in zip(("with", "without"), (found, other), lines[start + 1 : start + 3], strict=True):
        low, high = side["share_interval"]
        assert line.split()[:7] == [
            name, str(side["images"]), str(side["matched"]), f"{side['share']:.0%}", f"{low:.0%}", "to", f"{high:.0%}",
        ]  # fmt: skip
    assert lines[start + 3].split()[0] == "difference"
    at = lines.index("layer, without")
    counted = {int(line.split()[0]): int(line.split()[-1]) for line in lines[at + 1 :]}
    assert {layer: n for layer, n in counted.items() if n} == {layer: n for layer, n in other["histogram"].items() if n}
    page = html(result)
    assert "<td>without</td>" in page
    assert "layer, without" in page
    stored = json.loads(render(result, "json"))["summary"]
    assert stored["against"]["share_interval"] == other["share_interval"]
    assert stored["difference"] == found["difference"]
    for query in ("emergence('cat', against=label == 'beach')", "emergence('cat', against=label == 'beach').limit(3)"):
        emerged = corpus.query(query)
        rows = list(csv.DictReader(io.StringIO(render(emerged, "csv"))))
        assert [float(row["against_high"]) for row in rows] == [row["against_high"] for row in emerged.rows]
        assert emerged.arrow().to_pylist() == emerged.rows
        assert "against_share" in render(emerged, "table")
        assert "against_share" in html(emerged)
    plain = render(corpus.query("first_layer('cat')"), "table")
    assert "without" not in plain
    assert "difference" not in plain


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        (
            "first_layer('cat', against=bright) < first_layer('ear')",
            "against: first_layer('cat', against=bright) cannot be combined with another answer.",
            "first_layer('cat', against=bright)",
        ),
        (
            "first_layer('cat') - first_layer('ear', against=bright).where(layer > 1)",
            "against: first_layer('ear', against=bright).where(layer > 1) cannot be combined with another answer.",
            "first_layer('ear', against=bright).where(layer > 1)",
        ),
        ("first_layer('cat', against=lable == 'a')", "There is no column lable.", "lable"),
        ("first_layer('cat', against=layer > 3)", "There is no column layer here.", "layer"),
        (
            "first_layer('cat', against='beach')",
            "Expected a condition on columns, such as label == 'beach'. Got 'beach'.",
            "'beach'",
        ),
        ("locate('cat', against=bright)", "against is no argument of locate.", "against=bright"),
        ("defaults(against=bright)", "against is no argument of defaults.", "against=bright"),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str, marked: str) -> None:
    with pytest.raises(QueryError) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message
    start, end = caught.value.span or (0, 0)
    assert text[start:end] == marked


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("layers", "first_layer('cat', images=bright, against='dog' in objects)"),
        ("emergence", "emergence('cat', layers=(1, 3), against='dog' in objects)"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / f"against_{name}.sql").read_text()
