"""rank and prob equal what the arrays tell of every position, and what can be told of it by its bounds."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import vlq
from vlq.query.answers import result as result_module
from vlq.query.answers.answer import FORMATS
from vlq.query.answers.render import save
from vlq.query.answers.result import Result
from vlq.query.errors import BadArgument
from vlq.query.language.nodes import Node

from ...examples import examples
from ...synthetic import WORDS, make_cache, make_run
from ..corpora import (
    COMPARE,
    LABELS,
    SETTINGS,
    SNAPSHOTS,
    Case,
    Places,
    asked,
    covered,
    layer_choices,
    layers_of,
    of_case,
    one_or_list,
    places_of,
    shapes,
    snapshot,
    token_ids,
    with_patches,
)

SITES = st.sampled_from(["patch", "patch", "patch", "prompt", "last", "answer"])


@dataclass
class Told:
    """What can be told of each cell (image, layer, position): the stored value, and between what the truth lies.

    NaN where a cell was not asked for, or nothing is stored.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


EVERYWHERE = {"layers": None, "images": None, "patches": None}


def told(case: Case, site: str, function: str, ids: list[int], arguments: dict[str, Any]) -> Told:
    token, logprob = case.sites[site].token, case.sites[site].logprob
    images, layers, positions, k = token.shape
    probability = np.exp(logprob.astype(np.float64))
    # Of an image's layer: the most that the last stored token has, and the most that is left, rounded up.
    there = case.at(site)
    kth = probability[..., -1].max(-1, initial=0, where=there[:, None])
    least = np.exp(logprob.astype(np.float64) * (1 + np.finfo(logprob.dtype).eps)).sum(-1)
    left = np.ceil(np.maximum(1 - least, 0).max(-1, initial=0, where=there[:, None]) * 2**16) / 2**16
    found = Told(*(np.full((images, layers, positions), np.nan) for _ in range(3)))
    chosen, counted = case.chosen(arguments["images"], site), layers_of(arguments["layers"], case.run)
    places = arguments["patches"]
    for cell in np.ndindex(images, layers, positions):
        if not chosen[cell[0]] or not there[cell[0], cell[2]] or cell[1] not in counted:
            continue
        if places is not None and not places.mask[cell[0], cell[2]]:
            continue
        if {*ids} <= {*case.sites[site].tracked}:
            every = [case.sites[site].tracked[id] for id in ids]
            value = min(rank[cell] for rank, _ in every)
            if function == "prob":
                value = min(1, fsum(np.exp(np.float64(logprob[cell])) for _, logprob in every))
            found.value[cell] = found.low[cell] = found.high[cell] = value
            continue
        ranks = [rank for rank in range(k) if token[cell][rank] in ids]
        if function == "rank":
            found.value[cell] = ranks[0] + 1 if ranks else np.nan
            found.low[cell] = ranks[0] + 1 if ranks else k + 1
            found.high[cell] = ranks[0] + 1 if ranks else case.run.vocabulary_size - len(ids) + 1
            continue
        stored = [probability[cell][rank] for rank in ranks]
        others = len(ids) - len(ranks)
        most = min(others * min([kth[cell[:2]], *stored]), left[cell[:2]])
        if not ranks:
            most = min(most, others / (others + k))
        found.value[cell] = fsum(stored) if stored else np.nan
        found.low[cell] = min(fsum(stored), 1)
        found.high[cell] = min(fsum(stored) + most, 1)
    return found


def rows_of(case: Case, site: str, table: Result) -> dict[tuple[int, ...], dict[str, Any]]:
    """The rows by cell."""
    place = {"patch": "patch", "last": None}.get(site, "position")
    found = {(row["image_id"], row["layer"], row[place] if place else 0): row for row in table.rows}
    assert len(found) == len(table.rows)
    assert all(row["image"] == case.names[row["image_id"]] for row in table.rows)
    return found


def cells(of: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(map(int, cell)) for cell in np.argwhere(of)]


def narrowing(draw: st.DrawFn, case: Case, site: str = "patch") -> dict[str, Any]:
    return {
        "layers": draw(layer_choices(case.run)),
        "images": draw(st.sampled_from([None, None, *LABELS])),
        "patches": draw(st.none() | st.composite(places_of)(case)) if site == "patch" else None,
    }


@SETTINGS
@given(name=shapes, site=SITES, function=st.sampled_from(["rank", "prob"]), all_cells=st.booleans(), data=st.data())
def test_equals_brute_force(
    cases: dict[str, Case], name: str, site: str, function: str, all_cells: bool, data: st.DataObject
) -> None:
    case = cases[name]
    site = of_case(case, site)
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(narrowing)(case, site))
    expected = told(case, site, function, ids, arguments)
    ask = getattr(case.corpus, function)
    missing = "bound" if all_cells else None
    result = ask(one_or_list(ids), at=site, missing=missing, **asked(arguments))
    stored = ~np.isnan(expected.value)
    found = rows_of(case, site, result)
    assert sorted(found) == cells(~np.isnan(expected.low) if all_cells else stored)
    for cell, row in found.items():
        if function == "rank":
            assert (row["rank"], row["at_least"]) == (
                expected.value[cell] if stored[cell] else None,
                expected.low[cell],
            )
        else:
            value = pytest.approx(min(expected.value[cell], 1), abs=1e-12) if stored[cell] else None
            assert (row["prob"], row["at_most"]) == (value, pytest.approx(expected.high[cell], abs=1e-12))
    order = [(row["layer"], row["image"]) for row in result.rows]
    assert order == sorted(order)

    summary = result.summary
    stored &= case.sites[site].cells(ids)[0] <= case.run.k
    assert summary["stored"] == stored.sum()
    places = arguments["patches"]
    of_each = (places is not None and places.by_image) or not case.at(site)[case.good].all()
    assert summary["readings"] == (None if of_each else (~np.isnan(expected.low)).sum())
    assert with_patches(case, arguments).items() <= summary.items()
    assert summary["matched"] == stored.any((1, 2)).sum()
    assert {layer: n for layer, n in summary["histogram"].items() if n} == {
        layer: n for layer, n in enumerate(stored.sum((0, 2))) if n
    }
    if stored.any():
        values = np.minimum(expected.value[stored], 1) if function == "prob" else expected.value[stored]
        assert summary[f"median_{function}"] == pytest.approx(np.median(values))
        assert summary[f"best_{function}"] == pytest.approx(values.max() if function == "prob" else values.min())
    assert result.headline


def test_the_truth_lies_within_the_bounds(tmp_path: Path) -> None:
    """The same readings kept with fewer and with all tokens: what the one bounds, the other one knows."""
    size = len(WORDS) + 6
    for name, k in (("few", 4), ("all", size)):
        make_cache(tmp_path / name, make_run(k=k), images=6, failed=[2], seed=7)
    few, whole = (vlq.open(str(tmp_path / name)) for name in ("few", "all"))
    for ids in ([0], [3, 9], [1, 5, 8, 14], list(range(size))):
        for function in ("rank", "prob"):
            ask = {corpus: getattr(corpus, function)(one_or_list(ids), missing="bound").rows for corpus in (few, whole)}
            assert len(ask[few]) == len(ask[whole]) == 5 * 5 * 12
            for bounded, known in zip(ask[few], ask[whole], strict=True):
                assert all(bounded[key] == known[key] for key in ("image", "layer", "patch"))
                if function == "rank":
                    assert known["rank"] == known["at_least"]
                    assert known["rank"] == bounded["rank"] or known["rank"] > 4
                else:
                    assert known["prob"] == known["at_most"]
                    assert (bounded["prob"] or 0) - 1e-6 <= known["prob"] <= bounded["at_most"] + 1e-6
    assert whole.rank(0).notes == whole.prob(0).notes == []


# --- comparisons: what the bounds decide is decided ------------------------------------------------------------

Truth = np.ndarray  # (image, layer, position): 1 holds, 0 does not, NaN cannot be said


def compare(sign: str, a: Told, b: Told) -> Truth:
    """By going through the possibilities: it holds if it does for both ends of both, and for none it does not."""
    holds = np.full(a.low.shape, np.nan)
    for cell in cells(~np.isnan(a.low) & ~np.isnan(b.low)):
        if sign in ("==", "!="):
            apart = a.high[cell] < b.low[cell] or b.high[cell] < a.low[cell]
            same = a.low[cell] == a.high[cell] == b.low[cell] == b.high[cell]
            if apart or same:
                holds[cell] = COMPARE[sign](a.low[cell], b.low[cell])
            continue
        ends = [COMPARE[sign](x, y) for x in (a.low[cell], a.high[cell]) for y in (b.low[cell], b.high[cell])]
        if all(ends) or not any(ends):
            holds[cell] = ends[0]
    return holds


def both(a: Truth, b: Truth) -> Truth:
    return np.where((a == 0) | (b == 0), 0, np.where(np.isnan(a) | np.isnan(b), np.nan, 1))


def opposite(a: Truth) -> Truth:
    return 1 - a


def unclear(a: Told, b: Told) -> np.ndarray:
    """Where two sums are as near as rounding can make them without being equal."""
    gaps = [np.abs(x - y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return np.any([(gap > 0) & (gap < 1e-12) for gap in gaps], axis=0)


def holds_for(case: Case, site: str, result: Result, expected: Truth, doubtful: np.ndarray) -> None:
    found = np.zeros(expected.shape, bool)
    for cell in rows_of(case, site, result):
        found[cell] = True
    assert ((found == (expected == 1)) | doubtful).all()
    assert result.summary["matched"] == found.sum()
    assert abs(result.summary["compared"] - (~np.isnan(expected)).sum()) <= doubtful.sum()


@SETTINGS
@given(
    name=shapes,
    site=SITES,
    function=st.sampled_from(["rank", "prob"]),
    sign=st.sampled_from(list(COMPARE)),
    flipped=st.booleans(),
    data=st.data(),
)
def test_held_against_a_number(
    cases: dict[str, Case], name: str, site: str, function: str, sign: str, flipped: bool, data: st.DataObject
) -> None:
    case = cases[name]
    site = of_case(case, site)
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(narrowing)(case, site))
    number = data.draw(st.integers(0, 20) if function == "rank" else st.floats(0, 0.6).map(lambda x: round(x, 3)))
    left = told(case, site, function, ids, arguments)
    right = Told(*(np.full(left.low.shape, float(number)) for _ in range(3)))
    table: Node = getattr(vlq, function)(one_or_list(ids), at=site, **asked(arguments))
    node = COMPARE[sign](number, table) if flipped else COMPARE[sign](table, number)
    expected = compare(sign, right, left) if flipped else compare(sign, left, right)
    holds_for(case, site, case.corpus.query(node), expected, unclear(left, right))


@examples(25)
@given(name=shapes, site=SITES, functions=st.tuples(*[st.sampled_from(["rank", "prob", "prob"])] * 2), data=st.data())
def test_held_against_each_other_and_joined(
    cases: dict[str, Case], name: str, site: str, functions: tuple[str, str], data: st.DataObject
) -> None:
    case = cases[name]
    site = of_case(case, site)
    signs = st.sampled_from(list(COMPARE))
    conditions, truths, doubts = [], [], []
    # The two may ask for other layers and images: what one did not ask for cannot be said.
    arguments = data.draw(st.composite(narrowing)(case, site))
    for function in functions:
        if data.draw(st.integers(0, 4)) == 0:
            arguments = data.draw(st.composite(narrowing)(case, site)) | {"patches": arguments["patches"]}
        sets = [data.draw(token_ids(case)) for _ in range(2)]
        a, b = (told(case, site, function, ids, arguments) for ids in sets)
        nodes = [getattr(vlq, function)(one_or_list(ids), at=site, **asked(arguments)) for ids in sets]
        sign = data.draw(signs)
        condition: Node = COMPARE[sign](*nodes)
        truth = compare(sign, a, b)
        if data.draw(st.booleans()):
            condition, truth = ~condition, opposite(truth)
        holds_for(case, site, case.corpus.query(condition), truth, unclear(a, b))
        conditions.append(condition)
        truths.append(truth)
        doubts.append(unclear(a, b))
    doubtful = doubts[0] | doubts[1]
    holds_for(case, site, case.corpus.query(conditions[0] & conditions[1]), both(*truths), doubtful)
    either = opposite(both(opposite(truths[0]), opposite(truths[1])))
    holds_for(case, site, case.corpus.query(conditions[0] | conditions[1]), either, doubtful)


@examples(40)
@given(
    name=shapes,
    function=st.sampled_from(["rank", "prob"]),
    sign=st.sampled_from(list("+-*/")),
    moved=st.sampled_from([0.0, 0.05, 0.1, 0.3, 2.5]),
    number=st.floats(-1, 1).map(lambda x: round(x, 3)),
    data=st.data(),
)
def test_calculated(
    cases: dict[str, Case], name: str, function: str, sign: str, moved: float, number: float, data: st.DataObject
) -> None:
    case = cases[name]
    arguments = data.draw(st.composite(narrowing)(case))
    sets = [data.draw(token_ids(case)) for _ in range(2)]
    a, b = (told(case, "patch", function, ids, arguments) for ids in sets)
    # What is divided by is moved, so that it is on either side of 0 or on both.
    b = Told(b.value - moved, b.low - moved, b.high - moved)
    calculate = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = calculate(a.value, b.value)
        ends = [calculate(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
        expected = Told(value, np.min(ends, 0), np.max(ends, 0))
    if sign == "/":
        divides = (b.low > 0) | (b.high < 0)
        expected = Told(value, *(np.where(divides, end, np.nan) for end in (expected.low, expected.high)))
    nodes = [getattr(vlq, function)(one_or_list(ids), **asked(arguments)) for ids in sets]
    node = calculate(nodes[0], nodes[1] - moved)
    result = case.corpus.query(node)
    known = ~np.isnan(expected.low) & (~np.isnan(a.value) | ~np.isnan(b.value))
    found = rows_of(case, "patch", result)
    assert sorted(found) == cells(known)
    for cell, row in found.items():
        if np.isnan(value[cell]):
            assert row["value"] is None
        else:
            assert row["value"] == pytest.approx(value[cell], abs=1e-12, rel=1e-7)
        assert row["at_least"] == pytest.approx(expected.low[cell], abs=1e-12, rel=1e-7)
        assert row["at_most"] == pytest.approx(expected.high[cell], abs=1e-12, rel=1e-7)
    assert result.summary["matched"] == (known & ~np.isnan(value)).sum()

    other = Told(*(np.full(value.shape, number) for _ in range(3)))
    holds_for(case, "patch", case.corpus.query(node > number), compare(">", expected, other), unclear(expected, other))


def test_beside_readings_only_what_they_have_is_compared(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    read = {(row["image_id"], row["layer"], row["patch"]) for row in case.corpus.readings("cat", layers=(1, 3)).rows}
    ranks = told(case, "patch", "rank", [0], EVERYWHERE | {"layers": (2, 4)})
    result = case.corpus.query("readings('cat', layers=(1, 3)) < 0 * rank(0, layers=(2, 4))")
    assert set(rows_of(case, "patch", result)) == {cell for cell in read if cell[1] >= 2}
    assert result.summary["compared"] == len(result.rows)
    either = case.corpus.query("readings('cat', layers=(1, 3)) < 0 or rank(0, layers=(2, 4)) > 4")
    unstored = set(cells(ranks.low > 4))
    assert set(rows_of(case, "patch", either)) == read | unstored
    # Where the one is false and the other was not asked for, it cannot be said.
    assert either.summary["compared"] == len(read | unstored)


def test_beside_readings_elsewhere(cases: dict[str, Case]) -> None:
    """What is asked of some patches says nothing of others, though another table has rows there."""
    case = cases["several shards"]
    places = Places("dog", covered(case, "dog"))
    read = {(row["image_id"], row["layer"], row["patch"]) for row in case.corpus.readings("cat").rows}
    inside = {cell for cell in read if places.mask[cell[0], cell[2]]}
    ranks = told(case, "patch", "rank", [0], EVERYWHERE | {"patches": places})
    unstored = set(cells(ranks.low > 4))
    assert inside & unstored
    assert read - inside
    compared = case.corpus.query("readings('cat') < 0 * rank(0, patches='dog')")
    assert set(rows_of(case, "patch", compared)) == inside
    either = case.corpus.query("readings('cat') < 0 or rank(0, patches='dog') > 4")
    assert set(rows_of(case, "patch", either)) == read | unstored
    assert case.corpus.query("(readings('cat') < 0 or rank(0, patches='dog') > 4).count()").rows == [
        {"count": len(read | unstored)}
    ]
    # Where the one is false, and the other has no row or was not asked for, it cannot be said.
    assert either.summary["compared"] == len(read | unstored)
    share = case.corpus.query("(not (readings('cat') < 0 and rank(0, patches='dog') > 4)).mean()").rows
    holds = len(inside) - len(inside & unstored)
    false = len(set(cells(ranks.high <= 4)) - inside)
    assert share[0]["mean"] == pytest.approx((holds + false) / (len(inside) + false))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("rank(0, patches='dog') < rank(1)", "rank(1)"),
        ("rank(0) < rank(1, patches=[1, 2])", "rank(1, patches=[1, 2])"),
        ("prob(0, patches=[1]) + prob(1, patches=[1, 2]) < 1", "prob(1, patches=[1, 2])"),
        ("rank(0, patches='cat') < 3 or not (rank(1, patches='dog') < 3)", "not (rank(1, patches='dog') < 3)"),
    ],
)
def test_other_patches(cases: dict[str, Case], text: str, at: str) -> None:
    with pytest.raises(BadArgument, match="are not of the same patches") as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.span is not None
    assert text[slice(*caught.value.span)] == at
    assert caught.value.hint == "Give both the same patches=."


def test_chosen_rows_are_all_that_is_known(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    stored = case.corpus.query("rank(0, layers=2).where(rank <= 2)")
    expected = told(case, "patch", "rank", [0], EVERYWHERE | {"layers": 2}).value <= 2
    assert sorted(rows_of(case, "patch", stored)) == cells(expected)
    compared = case.corpus.query("rank(0, layers=2).where(rank <= 2) > 1")
    assert compared.summary["compared"] == expected.sum()
    every = case.corpus.query("rank(0, layers=2, missing='bound').where(at_least > 2)")
    assert len(every.rows) == case.good.sum() * 12 - expected.sum()
    assert case.corpus.query("(rank(0, layers=2) > 2).limit(7)").summary["matched"] == len(every.rows)
    assert len(case.corpus.query("(rank(0, layers=2) > 2).limit(7)").rows) == 7
    labelled = case.corpus.query("(rank(0, layers=2) > 2).where(label == 'beach')")
    beach = {cell for cell in rows_of(case, "patch", every) if case.labels[cell[0]] == "beach"}
    assert set(rows_of(case, "patch", labelled)) == beach
    first = case.corpus.query("prob(0, layers=2).sort(prob, descending=True).limit(1).select([image, prob])")
    assert first.rows[0]["prob"] == pytest.approx(case.corpus.prob(0, layers=2).summary["best_prob"])


PARTS = ["label", "layer", "patch"]


def part_of(case: Case, shape: tuple[int, ...], by: str | None) -> np.ndarray:
    """(image, layer, position): the group that each cell is in."""
    values = {None: np.zeros((1, 1, 1), int), "label": np.array(case.labels, object)[:, None, None]}
    values |= {"layer": np.arange(shape[1])[None, :, None], "patch": np.arange(shape[2])[None, None]}
    return np.broadcast_to(values[by], shape)


def parted(part: np.ndarray, inside: np.ndarray, values: np.ndarray) -> dict[Any, np.ndarray]:
    """The values of the cells inside, by their groups."""
    return {group: values[inside & (part == group)] for group in dict.fromkeys(part[inside].tolist())}


def wheres(draw: st.DrawFn, case: Case, shape: tuple[int, ...]) -> tuple[Node | None, np.ndarray, bool]:
    """A condition on columns, for which cells it holds, and whether it looks at their positions."""
    layer, patch = (part_of(case, shape, by) for by in ("layer", "patch"))
    beach = part_of(case, shape, "label") == "beach"
    n = draw(st.integers(0, 4))
    every: list[tuple[Node | None, np.ndarray, bool]] = [
        (None, np.ones(shape, bool), False),
        (vlq.col("label") == "beach", beach, False),
        ((vlq.col("layer") >= n) | (vlq.col("label") == "beach"), (layer >= n) | beach, False),
        (vlq.col("patch") <= n, patch <= n, True),
        (~(vlq.col("patch") == n) & (vlq.col("label") != "beach"), (patch != n) & ~beach, True),
    ]
    return draw(st.sampled_from(every))


@examples(25)
@given(
    name=shapes,
    function=st.sampled_from(["rank", "prob"]),
    sign=st.sampled_from(["<", ">="]),
    by=st.sampled_from([None, *PARTS]),
    data=st.data(),
)
def test_groups_count_positions_where_nothing_is_stored(
    cases: dict[str, Case], name: str, function: str, sign: str, by: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    ids, arguments = data.draw(token_ids(case)), data.draw(st.composite(narrowing)(case))
    number = float(data.draw(st.sampled_from([1, 2, 4] if function == "rank" else [0.05, 0.17, 0.31])))
    left = told(case, "patch", function, ids, arguments)
    assume(not unclear(left, Told(*(np.full(left.low.shape, number) for _ in range(3)))).any())
    truth = compare(sign, left, Told(*(np.full(left.low.shape, number) for _ in range(3))))
    where, inside, by_place = data.draw(st.composite(wheres)(case, truth.shape))
    cells = parted(part_of(case, truth.shape, by), inside & ~np.isnan(left.low), truth)
    node: Node = COMPARE[sign](getattr(vlq, function)(one_or_list(ids), **asked(arguments)), number)
    node = node if where is None else node.where(where)
    groups = node if by is None else node.group(by)
    with pytest.MonkeyPatch.context() as patch:
        if not by_place and by != "patch":  # nothing needs to be listed
            patch.setattr(result_module, "LISTED_CELLS", 0)
        counts, shares, layers = (
            case.corpus.query(of).rows for of in (groups.count(), groups.mean(), groups.histogram("layer"))
        )
    expected = {group: (of == 1).sum() for group, of in cells.items()}
    if by is None:
        assert [row["count"] for row in counts] == [sum(expected.values())]
    else:
        assert {row[by]: row["count"] for row in counts} == {group: n for group, n in expected.items() if n}
    if by is None and not cells:
        assert shares == [{"mean": None, "count": 0, "missing": 0}]
    else:
        assert len(shares) == len(cells)
    for row in shares if cells else ():
        of = cells[0 if by is None else row[by]]
        known = of[~np.isnan(of)]
        # A position that is known and undecided counts as missing, be it stored or not.
        assert (row["count"], row["missing"]) == (of.size, of.size - known.size)
        assert row["mean"] == (pytest.approx(known.mean()) if known.size else None)
    held = inside & (truth == 1)
    part, layer = (part_of(case, truth.shape, of).astype(object) for of in (by, "layer"))
    bin = "layer_2" if by == "layer" else "layer"
    assert {(row[by] if by else 0, row[bin]): row["count"] for row in layers if row["count"]} == Counter(
        zip(part[held].tolist(), layer[held].tolist(), strict=True)
    )
    assert case.corpus.query(node).summary == {
        "images": case.chosen(arguments["images"]).sum(),
        "compared": sum((~np.isnan(of)).sum() for of in cells.values()),
        "matched": sum(expected.values()),
    }


@examples(25)
@given(name=shapes, function=st.sampled_from(["rank", "prob"]), by=st.sampled_from([None, *PARTS]), data=st.data())
def test_groups_of_bounds(
    cases: dict[str, Case], name: str, function: str, by: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    ids, arguments = data.draw(token_ids(case)), data.draw(st.composite(narrowing)(case))
    left = told(case, "patch", function, ids, arguments)
    where, inside, by_place = data.draw(st.composite(wheres)(case, left.low.shape))
    column, values = data.draw(
        st.sampled_from([(function, left.value), ("at_least", left.low), ("at_most", left.high)]).filter(
            lambda bound: bound[0] != ("at_most" if function == "rank" else "at_least")
        )
    )
    if function == "prob":
        values = np.minimum(values, 1)
    cells = parted(part_of(case, values.shape, by), inside & ~np.isnan(left.low), values)
    node: Node = getattr(vlq, function)(one_or_list(ids), missing="bound", **asked(arguments))
    node = node if where is None else node.where(where)
    groups = node if by is None else node.group(by)
    for number, of_values in (("mean", np.mean), ("median", np.median), ("min", np.min), ("max", np.max)):
        with pytest.MonkeyPatch.context() as patch:
            if not by_place and by != "patch" and number != "median":
                patch.setattr(result_module, "LISTED_CELLS", 0)
            rows = case.corpus.query(getattr(groups, number)(column)).rows
        assert len(rows) == (1 if by is None else len(cells))
        for row in rows if cells else ():
            of = cells[0 if by is None else row[by]]
            known = of[~np.isnan(of)]
            assert (row["count"], row["missing"]) == (of.size, of.size - known.size)
            assert row[number] == (pytest.approx(of_values(known), abs=1e-12) if known.size else None)


def test_patches_where_nothing_is_stored(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    ranks = told(case, "patch", "rank", [0], EVERYWHERE | {"layers": 2})
    token = case.sites["patch"].token[..., 0]
    for text, inside in (
        ("rank(0, layers=2) > 4", ranks.low > 4),
        ("rank(0, layers=2)", ~np.isnan(ranks.value)),
        ("rank(0, layers=2, missing='bound')", ~np.isnan(ranks.low)),
    ):
        hits = (token == 2) & inside[:, 2][:, None] & case.good[:, None, None]
        expected = {
            (image, int(np.flatnonzero(hits[image].any(1))[0])) for image in np.flatnonzero(hits.any((1, 2))).tolist()
        }
        rows = case.corpus.query(f"first_layer(2, patches={text})").rows
        assert {(row["image_id"], row["layer"]) for row in rows} == expected != set()


def test_what_looks_at_positions_lists_them(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases["several shards"]
    every = int(case.good.sum()) * 5 * 12
    for most, fails in ((every, False), (every - 1, True)):
        monkeypatch.setattr(result_module, "LISTED_CELLS", most)
        for text in (
            "(rank(0) > 4).group(patch).count()",
            "(rank(0) <= 4).group(patch).mean()",
            "(rank(0) > 4).mean(patch)",
            "(rank(0) > 4).where(patch < 3).count()",
            "(rank(0) > 4).histogram(patch)",
            "(rank(0) > 4).limit(3).count()",
            "rank(0, missing='bound').median(at_least)",
        ):
            if fails:
                with pytest.raises(BadArgument, match=f"lists up to {every:,} positions") as caught:
                    _ = case.corpus.query(text).rows
                assert (
                    caught.value.hint
                    == "Narrow it with layers= or images=. Numbers and shares of all: .count(), .mean()"
                )
            else:
                assert case.corpus.query(text).rows
    # The summary of rows that are cut is of all of them.
    with pytest.raises(BadArgument, match=f"lists up to {every:,} positions"):
        _ = case.corpus.query("(rank(0) > 4).limit(1)").headline


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("rank(0) > 4", 5),
        ("not (prob(0, layers=(1, 3)) > 0.5)", 3),
        ("rank(0, layers=2, missing='bound')", 1),
        ("(rank(0) > 4).where(layer == 1)", 5),
        ("rank(0, patches='dog') > 4", 5),
        ("rank(0, patches=[3, 4], missing='bound')", 5),
    ],
)
def test_too_many_rows_are_not_listed(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, layers: int
) -> None:
    case = cases["several shards"]
    positions = {"'dog'": covered(case, "dog")[case.good].sum(), "[3,": case.good.sum() * 2}
    most = layers * int(next((n for part, n in positions.items() if f"patches={part}" in text), case.good.sum() * 12))
    ways: list[Callable[[Result], object]] = [
        lambda result: result.rows,
        lambda result: result.arrow(),
        lambda result: result.df(),
        lambda result: result.polars(),
        *(partial(save, form=form, path=str(tmp_path / f"answer.{form}")) for form in FORMATS),
    ]
    monkeypatch.setattr(result_module, "LISTED_CELLS", most)
    assert len(case.corpus.query(text).rows) == case.corpus.query(text).arrow().num_rows > 12
    monkeypatch.setattr(result_module, "LISTED_CELLS", most - 1)
    for way in ways:
        with pytest.raises(
            BadArgument, match=f"lists up to {most:,} positions where nothing is stored; at most {most - 1}"
        ):
            way(case.corpus.query(text))
    assert not list(tmp_path.iterdir())


def test_what_lists_nothing_may_be_asked_of_any_corpus(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_module, "LISTED_CELLS", 0)
    for text in ("rank(0)", "prob(0) > 0.25", "rank(0) <= 3", "rank(0) < rank(1)", "prob(0) - prob(1)"):
        assert cases["several shards"].corpus.query(text).rows


def test_in_words(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    expected = told(case, "patch", "rank", [0], EVERYWHERE | {"layers": 2}).value
    stored, images = (~np.isnan(expected)).sum(), case.good.sum()
    result = case.corpus.rank("▁dog", layers=2)
    assert result.headline == (
        f"▁dog (layer 2): among the 4 best in {stored} of {images * 12} readings, "
        f"in {(~np.isnan(expected)).any((1, 2)).sum()} of {images} images; "
        f"median rank there {np.nanmedian(expected):g}, best {np.nanmin(expected):g}"
    )
    assert result.notes == ["Where ▁dog is not among a reading's 4 best, its rank is above 4."]
    assert case.corpus.prob("dog").notes == [
        "Where dog is not among a reading's 4 best, its probability is at most 0.333, often far less: missing='bound' "
        "lists the bounds. Of its 2 tokens those that are among them add up; at_most adds the most of the others."
    ]
    assert case.corpus.prob("▁dog", missing="bound").notes == [
        "Where ▁dog is not among a reading's 4 best, its probability is at most 0.2."
    ]
    never = case.corpus.prob("▁dog", layers=0, at="last").headline
    assert never.startswith("▁dog (layer 0): among the 4 best at the last prompt token in ")
    only = cases["only the best"].corpus
    assert only.rank(15, at="last", layers=0).headline == (
        "15 (layer 0): among the 1 best at the last prompt token in none of 9 readings of 9 images"
    )
    mask = covered(case, "dog")
    inside = told(case, "patch", "rank", [0], EVERYWHERE | {"patches": Places("dog", mask)}).value
    assert case.corpus.rank("▁dog", patches="dog").headline == (
        f"▁dog (patches of objects labelled 'dog'): among the 4 best in {(~np.isnan(inside)).sum()} readings, "
        f"in {(~np.isnan(inside)).any((1, 2)).sum()} of {images} images; median rank there {np.nanmedian(inside):g}, "
        f"best {np.nanmin(inside):g}; {(mask.any(1) & case.good).sum()} have such patches"
    )
    assert case.corpus.rank(15, patches=[1, 3], layers=0, images=vlq.col("image") == case.names[0]).headline == (
        f"15 (layer 0, patches 1, 3, images with image == '{case.names[0]}'): among the 4 best "
        "in none of 2 readings of 1 image"
    )
    shown = str(case.corpus.rank("▁dog", layers=2)).splitlines()[3].split()
    assert shown == ["image", "layer", "patch", "rank"]
    shown = str(case.corpus.rank("▁dog", layers=2, missing="bound")).splitlines()[3].split()
    assert shown == ["image", "layer", "patch", "rank", "at_least"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rank", "rank('dog', layers=2)"),
        ("prob", "prob('dog', missing='bound')"),
        ("prob_compared", "prob('▁dog', layers=2) > prob('cat', layers=2)"),
        ("prob_at_patches", "(prob('▁dog', patches='dog') > 0.5).count()"),
        ("rank_at_patches", "(rank('▁dog', patches=[1, 2]) < rank('cat', patches=[1, 2])).where(patch > 1)"),
        ("prob_share", "(prob('▁dog') > 0.5).where(layer >= 2).group(label).mean()"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    assert snapshot(cases["several shards"].corpus.query(text), text) == (SNAPSHOTS / f"{name}.sql").read_text()
