"""Queries made narrower: what their nodes become, and what the corpus then counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import vlq
from vlq.query.client.local import LocalCorpus
from vlq.query.engine import Engine
from vlq.query.language.parse import parse
from vlq.service import narrow
from vlq.service.facets import facets

from ..synthetic import make_cache
from .conftest import Site


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("first_layer('dog')", "first_layer('dog').where(layer == 3)"),
        ("first_layer('dog').sort(logprob).limit(5)", "first_layer('dog').where(layer == 3).sort(logprob).limit(5)"),
        ("first_layer('dog').where(rank < 2)", "first_layer('dog').where(rank < 2 and layer == 3)"),
        (
            "first_layer('dog').where(a == 1 or b == 2).limit(5)",
            "first_layer('dog').where((a == 1 or b == 2) and layer == 3).limit(5)",
        ),
        (
            "first_layer('ear') < first_layer('dog')",
            "(first_layer('ear') < first_layer('dog')).where(layer == 3)",
        ),
        ("readings('dog').group(layer).count()", "readings('dog').group(layer).count().where(layer == 3)"),
        ("readings('dog').limit(9).where(rank < 2)", "readings('dog').limit(9).where(rank < 2 and layer == 3)"),
    ],
)
def test_a_condition_more(query: str, expected: str) -> None:
    found = narrow.narrowed(parse(query), parse("layer == 3"))
    assert str(found) == expected
    assert str(parse(expected)) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("first_layer('dog')", "first_layer('dog', images=image_id in [2, 5])"),
        ("first_layer('dog', images=image_id in [1])", "first_layer('dog', images=image_id in [2, 5])"),
        (
            "first_layer('dog', images=label == 'a', pieces=True).limit(3)",
            "first_layer('dog', images=label == 'a' and image_id in [2, 5], pieces=True).limit(3)",
        ),
        ("images()", "images(image_id in [2, 5])"),
        ("images().group(label).count()", "images(image_id in [2, 5]).group(label).count()"),
        (
            "(first_layer('ear') < first_layer('dog')).where(image_id in [1] and layer_1 < 3).limit(3)",
            "(first_layer('ear') < first_layer('dog')).where(layer_1 < 3 and image_id in [2, 5]).limit(3)",
        ),
        ("top(3).limit(9)", "top(3).where(image_id in [2, 5]).limit(9)"),
    ],
)
def test_other_images(query: str, expected: str) -> None:
    assert str(narrow.of_set(parse(query), [2, 5])) == expected


def test_order_and_groups() -> None:
    node = parse("first_layer('dog').where(layer < 3)")
    up, down = narrow.ordered(node, "logprob", False), narrow.ordered(node, "logprob", True)
    assert str(up) == "first_layer('dog').where(layer < 3).sort(logprob)"
    assert str(down) == "first_layer('dog').where(layer < 3).sort(logprob, descending=True)"
    assert [narrow.order(one) for one in (node, up, down)] == [None, ("logprob", False), ("logprob", True)]
    assert str(narrow.ordered(up, "layer", False)) == "first_layer('dog').where(layer < 3).sort(layer)"
    assert str(narrow.ordered(down, "logprob", None)) == str(node)
    assert narrow.order(parse("first_layer('dog').sort([layer, logprob])")) is None
    grouped = narrow.grouped(down, "label", "median")
    assert str(grouped) == "first_layer('dog').where(layer < 3).group(label).median()"
    assert str(narrow.grouped(grouped, "layer", "count")) == "first_layer('dog').where(layer < 3).group(layer).count()"


def test_columns_that_python_cannot_name() -> None:
    node = parse("images()")
    for column in ("my col", "class", "ﬁgure", "a'); drop", "<b>"):
        ordered, grouped = narrow.ordered(node, column, True), narrow.grouped(node, column, "count")
        assert str(parse(str(ordered))) == str(ordered) == f"images().sort(col({column!r}), descending=True)"
        assert narrow.order(ordered) == (column, True)
        assert str(parse(str(grouped))) == str(grouped) == f"images().group(col({column!r})).count()"


def test_what_was_chosen_can_be_taken_back() -> None:
    def chosen(query: str) -> list[tuple[str, str]]:
        return [(part.text, str(part.query)) for part in narrow.chosen(parse(query))]

    assert chosen(
        "first_layer('dog', images=label == 'a' and image_id in [1, 2]).where(layer < 3).sort(layer).limit(4)"
    ) == [
        ("images: label == 'a'", "first_layer('dog', images=image_id in [1, 2]).where(layer < 3).sort(layer).limit(4)"),
        ("images: a set of 2", "first_layer('dog', images=label == 'a').where(layer < 3).sort(layer).limit(4)"),
        ("layer < 3", "first_layer('dog', images=label == 'a' and image_id in [1, 2]).sort(layer).limit(4)"),
        ("sort(layer)", "first_layer('dog', images=label == 'a' and image_id in [1, 2]).where(layer < 3).limit(4)"),
        ("limit(4)", "first_layer('dog', images=label == 'a' and image_id in [1, 2]).where(layer < 3).sort(layer)"),
    ]
    assert chosen("readings('dog').where(rank < 2).group(layer).count().sort(count)") == [
        ("rank < 2", "readings('dog').group(layer).count().sort(count)"),
        ("group(layer).count()", "readings('dog').where(rank < 2)"),
    ]
    assert chosen("readings('dog').histogram(logprob).limit(2)") == [("histogram(logprob)", "readings('dog')")]
    assert chosen("readings('dog')") == []


# --- over the API ----------------------------------------------------------------------------------------------


def test_a_query_is_narrowed(site: Site) -> None:
    def post(**values: Any) -> Any:
        return site.client.post("/v1/narrow", json=values)

    found = post(query="first_layer( 'dog' )", condition="layer <= 2 and label == 'a'", images=[0, 2, 3]).json()
    assert found == {"query": "first_layer('dog', images=image_id in [0, 2, 3]).where(layer <= 2 and label == 'a')"}
    assert post(query="images()").json() == {"query": "images()"}
    wrong = post(query="first_layer('dog')", condition="laier == 2")
    assert (wrong.status_code, wrong.json()["kind"]) == (400, "unknown-name")
    assert post(query="defaults()", condition="first_layer('dog')").status_code == 400
    assert post(query="tokens('')", images=[1]).status_code == 400  # its rows are of no images


@pytest.mark.parametrize(
    "query",
    [
        "first_layer('dog', min_patches=3)",
        "first_layer('dog', min_patches=3).where(layer == 1).sort(logprob).limit(2)",
        "first_layer('dog', min_patches=3, missing='never')",
        "readings(['cat', 'dog'], rank=2).where(label == 'a')",
        "locate('cat', rank=3)",
        "top(3)",
        "defaults(share=1)",
        "emergence(['dog', 'cat'])",
        "images()",
        "divergence_layer(images=label == 'a')",
        "first_layer('ear', min_patches=2) <= first_layer('dog', min_patches=2)",
        "compare('one', 'one', first_layer('dog', min_patches=3))",
    ],
)
def test_facets_say_what_the_corpus_counts(site: Site, query: str) -> None:
    """Each bar's query gives so many rows (or, of images, asks so many) as the bar says; what is chosen is said."""
    found = site.client.post("/v1/facets", json={"query": query}).json()["facets"]
    assert found
    rows = site.query(query).json()
    for facet in found:
        assert sum(bar["count"] for bar in facet["bars"]) > 0
        for bar in facet["bars"]:
            assert (bar["query"] is None) <= (bar["count"] == 0 or bar["label"] == "none")
            if bar["query"] is None:
                continue
            answer = site.query(bar["query"]).json()
            if bar["chosen"]:
                assert answer["total"] >= rows["total"]
            elif facet["counts"] == "images":
                given = bar["query"].partition("images=")[2].partition(")")[0]
                assert site.query(f"images({given})").json()["total"] == bar["count"]
            elif ".limit(" not in query:
                assert answer["total"] == bar["count"], (facet["column"], bar)
            else:
                assert answer["total"] == min(2, bar["count"])
    columns = [facet["column"] for facet in found]
    assert len(columns) == len({*columns})


def test_facets_of_a_column_with_a_condition_show_its_other_values(site: Site) -> None:
    every = site.query("first_layer('dog', min_patches=3)").json()["rows"]
    assert {row["layer"] for row in every} > {1}
    found = site.client.post("/v1/facets", json={"query": "first_layer('dog', min_patches=3).where(layer == 1)"}).json()
    layers = next(facet for facet in found["facets"] if facet["column"] == "layer")
    assert {bar["low"]: bar["count"] for bar in layers["bars"] if bar["count"]} == {
        layer: sum(row["layer"] == layer for row in every) for layer in {row["layer"] for row in every}
    }
    assert [bar["label"] for bar in layers["bars"] if bar["chosen"]] == ["1"]
    assert found["chosen"] == [{"text": "layer == 1", "query": "first_layer('dog', min_patches=3)"}]


def test_tokens_are_counted_each_by_itself(site: Site) -> None:
    """`dog` is the tokens 0 and 1, with case folded."""
    top1 = site.arrays["patch/top1"]  # (image, layer, patch); image 1 has failed
    good = np.arange(len(top1)) != 1

    def counted(query: str) -> dict[str, int]:
        found = site.client.post("/v1/facets", json={"query": query}).json()["facets"]
        bars = next((facet["bars"] for facet in found if facet["column"] == "token"), [])
        return {bar["query"]: bar["count"] for bar in bars}

    read = {id: top1[good] == id for id in (0, 1)}
    assert counted("readings('dog').where(layer > 2).limit(3)") == {
        f"readings({id}).where(layer > 2).limit(3)": int(read[id][:, 3:].sum()) for id in (0, 1)
    }
    many = {id: (read[id].sum(-1) >= 3).any(-1).sum() for id in (0, 1)}
    assert many[0] > 0 < many[1]
    assert counted("first_layer('dog', min_patches=3)") == {
        f"first_layer({id}, min_patches=3)": int(many[id]) for id in (0, 1)
    }
    for query in (
        "readings(0)",
        "rank('dog')",
        "first_layer('dog') < last_layer('dog')",
        "readings('dog').group(layer).count()",
    ):
        assert counted(query) == {}, query


def test_facets_of_numbers_that_are_none(tmp_path: Path) -> None:
    """What is missing, as NaN is, is one thing, and what is not finite another, which no condition finds."""
    scores = [0.25, None, float("nan"), float("inf"), 0.5, None, None, float("-inf"), 0.25]
    make_cache(tmp_path / "one", images=9, columns={"score": scores})
    corpus = vlq.open(str(tmp_path / "one"))
    assert isinstance(corpus, LocalCorpus)
    (found,) = (facet for facet in facets(corpus, "images()") if facet.column == "score")
    assert sum(bar.count for bar in found.bars) == 9
    (none,) = (bar for bar in found.bars if bar.label == "none")
    (others,) = (bar for bar in found.bars if bar.label == "others")
    assert (none.count, others.count, others.query) == (4, 2, None)
    for bar in found.bars:
        if bar.query is not None:
            assert len(corpus.query(bar.query)) == bar.count


def test_facets_of_the_largest_numbers(tmp_path: Path) -> None:
    """Round numbers around those of 64 bits have more bits than a query holds."""
    signed = pa.array([2**63 - 1, -(2**63), 0, 5, None, 2**53 + 1], pa.int64())
    unsigned = pa.array([2**64 - 1, 0, 1, None, 2**63, 7], pa.uint64())
    columns: dict[str, Any] = {"signed": signed, "unsigned": unsigned}
    make_cache(tmp_path / "one", images=6, columns=columns)
    corpus = vlq.open(str(tmp_path / "one"))
    assert isinstance(corpus, LocalCorpus)
    found = {facet.column: facet.bars for facet in facets(corpus, "images()")}
    for name, least in (("signed", 0), ("unsigned", 2)):
        bars = [bar for bar in found[name] if bar.count]
        assert sum(bar.count for bar in bars) == 6
        unsaid = [bar for bar in bars if bar.query is None and bar.label != "none"]
        assert sum(bar.count for bar in unsaid) == least  # what is beyond 2**63 cannot be asked for
        for bar in bars:
            if bar.query is not None:
                assert len(corpus.query(bar.query)) == bar.count
            assert len(bar.label) < 24


@pytest.mark.parametrize("columns", [1, 12])
def test_facets_are_one_question_however_many_columns_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """And names that columns of answers have, too, are no trouble. What columns a table has is asked once."""
    names = ["Count", "answer", "layer", "value", "two words", *(f"c{i}" for i in range(7))][:columns]
    given: dict[str, list[Any]] = {
        name: [*"abcabc"] if i % 2 else [0.5, 1.5, 1.5, 2.0, None, 2.0] for i, name in enumerate(names)
    }
    make_cache(tmp_path / "one", images=6, columns=given)
    corpus = vlq.open(str(tmp_path / "one"))
    assert isinstance(corpus, LocalCorpus)
    asked: dict[str, int] = {"rows": 0, "_describe": 0}

    def counting(name: str) -> Callable[..., Any]:
        ask = getattr(Engine, name)

        def counted(*values: Any, **more: Any) -> Any:
            asked[name] += 1
            return ask(*values, **more)

        return counted

    for name in asked:
        monkeypatch.setattr(Engine, name, counting(name))
    found = facets(corpus, "images()")
    assert {*given} <= {facet.column for facet in found}
    for facet in found:
        if facet.column in given:
            values = given[facet.column]
            assert sum(bar.count for bar in facet.bars) == 6
            assert {bar.label: bar.count for bar in facet.bars}.get("a", 2) == 2
            assert [bar.count for bar in facet.bars if bar.label == "none"] == [1] * (None in values)
    assert asked["rows"] == 1
    described = asked["_describe"]
    facets(corpus, "images()")
    assert (asked["rows"], asked["_describe"]) == (2, described)
