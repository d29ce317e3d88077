"""first_layer, last_layer and peak_layer equal brute force over the Zarr arrays, for random corpora and queries."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument

from ...brute import Site, picked_layers, read_site
from ...examples import examples
from ...synthetic import WORDS, make_cache, make_run
from ..corpora import ids_of, most_of

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"

SHAPES = {
    "several shards": {"run": {}, "images": 10, "failed": [3, 4]},
    "one patch, one layer more": {"run": {"grid": (1, 1), "layers": 2, "k": 3}, "images": 5},
    "the whole vocabulary stored": {"run": {"grid": (2, 2), "layers": 4, "k": len(WORDS) + 6}, "images": 6, "seed": 2},
    "only the best": {"run": {"grid": (5, 3), "layers": 9, "k": 1}, "images": 7, "seed": 3},
    "half precision": {"run": {"grid": (2, 3), "layers": 6, "k": 5, "dtype": "float16"}, "images": 9, "seed": 4},
    "wide ids, not compacted": {
        "run": {"grid": (3, 2), "layers": 7, "k": 6, "vocabulary_size": 70_000},
        "images": 6,
        "seed": 5,
        "seal": False,
    },
    "answers, and grids of their own": {
        "run": {"at": ("patch", "prompt", "answer"), "answer": 3, "grid": None, "patches": 9, "layers": 5},
        "images": 9,
        "seed": 6,
        "failed": [7],
    },
    "prompts of their own": {
        "run": {"prompt_column": "question", "prompt_ids": (), "grid": (1, 2), "layers": 5},
        "images": 9,
        "seed": 7,
        "failed": [2],
    },
}


@dataclass
class Case:
    corpus: Corpus
    sites: dict[str, Site]
    names: list[str]
    failed: list[int]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {}
    for name, shape in SHAPES.items():
        folder = tmp_path_factory.mktemp("cache")
        options: dict[str, Any] = dict(shape)
        run = make_run(**options.pop("run"))
        make_cache(folder, run, **options)
        shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
        prompts = ids_of(folder, "prompt_ids") if run.prompt_column else None
        sites = {site: read_site(folder, shards, site, most_of(run, site), prompts) for site in run.positions}
        names = [f"{(i * 7919) % 1000:03d}-{i}.png" for i in range(options["images"])]
        made[name] = Case(vlq.open(str(folder)), sites, names, options.get("failed", []))
    return made


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, str, list[int], dict[str, Any]]:
    """Which layer, a shape, token ids and arguments that fit it."""
    pick = draw(st.sampled_from(["first", "first", "last", "peak"]))
    name = draw(st.sampled_from(list(SHAPES)))
    run = make_run(**SHAPES[name]["run"])  # type: ignore[arg-type]
    size = min(run.vocabulary_size, len(WORDS) + 6)
    ids = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3, unique=True))
    arguments: dict[str, Any] = {"rank": draw(st.integers(1, run.k))}
    arguments["min_prob"] = draw(st.none() | st.floats(0.001, 1))
    layer = st.integers(0, run.layers - 1)
    window = st.tuples(layer, layer).map(lambda pair: tuple(sorted(pair)))
    arguments["layers"] = draw(st.none() | layer | window | st.lists(layer, min_size=1, max_size=4))
    arguments["at"] = draw(st.sampled_from([*run.positions]))
    arguments["by"] = draw(
        st.sampled_from(["image", "patch", "corpus"] if arguments["at"] == "patch" else ["image", "corpus"])
    )
    positions = 1 if arguments["by"] == "patch" else run.positions[arguments["at"]]
    arguments["min_patches"] = draw(st.integers(1, min(3, positions)))
    if pick != "peak":
        arguments["min_run"] = draw(st.integers(1, min(3, len(counted(arguments["layers"], run.layers)))))
    return pick, name, ids, arguments


def counted(layers: Any, count: int) -> list[int]:
    match layers:
        case None:
            return list(range(count))
        case int():
            return [layers]
        case tuple():
            return list(range(layers[0], layers[1] + 1))
    return sorted(set(layers))


@examples(250)
@given(question=questions())
def test_equals_brute_force(cases: dict[str, Case], question: tuple[str, str, list[int], dict[str, Any]]) -> None:
    pick, name, ids, arguments = question
    case = cases[name]
    ask = getattr(case.corpus, f"{pick}_layer")
    result = ask(ids if len(ids) > 1 else ids[0], **arguments)
    run = case.corpus.cache.run
    layers = counted(arguments["layers"], run.layers)
    expected = picked_layers(
        case.sites[arguments["at"]],
        ids,
        pick,
        rank=arguments["rank"],
        min_prob=arguments["min_prob"],
        layers=layers,
        min_patches=arguments["min_patches"],
        min_run=arguments.get("min_run", 1),
        by="patch" if arguments["by"] == "patch" else "image",
    )
    expected.sort(key=lambda row: (row["layer"], case.names[row["image"]], row["positions"]))
    images = len(case.names) - len(case.failed)
    histogram = Counter(row["layer"] for row in expected)
    assert result.summary == {
        "images": images,
        "matched": len({row["image"] for row in expected}),
        "min": min(histogram, default=None),
        "median": median(histogram.elements()) if histogram else None,
        "max": max(histogram, default=None),
        "histogram": {layer: histogram[layer] for layer in layers},
    }
    if arguments["by"] == "corpus" and expected:
        (row,) = result.rows
        assert row["images"] == histogram[row["layer"]]
        assert row["histogram"] == histogram
        order = {
            "first": lambda row: row["layer"],
            "last": lambda row: -row["layer"],
            "peak": lambda row: -row["logprob"],
        }
        expected = sorted(expected, key=order[pick])[:1]
    assert len(result.rows) == len(expected)
    for row, wanted in zip(result.rows, expected, strict=True):
        assert row["image"] == case.names[wanted["image"]]
        assert row["image_id"] == wanted["image"]
        assert row["layer"] == wanted["layer"]
        assert row["patches"] == (wanted["positions"] if arguments["at"] == "patch" else [])
        assert row.get("positions", wanted["positions"]) == wanted["positions"]
        assert row["logprob"] == pytest.approx(min(0, wanted["logprob"]), abs=1e-6)
        below = row["layer"] == layers[0] > 0
        above = row["layer"] == layers[-1] < run.layers - 1
        assert row["censored"] == {"first": below, "last": above, "peak": below or above}[pick]
        if arguments["by"] == "patch":
            assert [row["patch"]] == wanted["positions"]


def test_rows_are_what_the_issue_names(cases: dict[str, Case]) -> None:
    result = cases["several shards"].corpus.query("first_layer(token='dog')")
    assert result.columns == ["image", "layer", "patches", "logprob", "censored", "image_id"]
    assert [token["piece"] for token in result.tokens] == ["▁dog", "▁Dog"]
    assert result.rows == sorted(result.rows, key=lambda row: (row["layer"], row["image"]))


def test_text_and_python_ask_the_same(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    text = corpus.query("first_layer(token=['dog', 'cat'], rank=2, layers=(1, 3), by='patch')")
    python = corpus.first_layer(["dog", "cat"], rank=2, layers=(1, 3), by="patch")
    node = corpus.query(vlq.first_layer(["dog", "cat"], rank=2, layers=(1, 3), by="patch"))
    assert text.rows == python.rows == node.rows
    assert text.node.equals(python.node)


def test_arrow_pandas_and_rows_agree(cases: dict[str, Case]) -> None:
    result = cases["several shards"].corpus.first_layer("cat")
    assert result.arrow().to_pylist() == result.rows
    assert list(result.df()["layer"]) == [row["layer"] for row in result.rows]
    assert len(result) == len(result.rows)


def test_the_smallest_table_is_read(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus

    def tables(text: str) -> tuple[str, ...]:
        return tuple(corpus.query(text).statement.tables)

    assert tables("first_layer('cat')") == ("patch_top1", "images")
    assert tables("first_layer('cat', min_patches=2, min_run=2, layers=(1, 3))") == ("patch_top1", "images")
    assert tables("first_layer('cat', at='last')") == ("last_top1", "images")
    for more in ("rank=2", "min_prob=0.5", "by='patch'"):
        assert tables(f"first_layer('cat', {more})") == ("patch_topk", "images")
    assert corpus.query("first_layer('cat')").statement.tables["patch_top1"] == {WORDS.index("cat")}
    assert tables("first_layer('dog')") == ("patch_topk", "images")  # two ids: their probabilities add up


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first_layer('cat', by='patch', at='last')", "by='patch' goes with at='patch', not with at='last'."),
        ("first_layer('cat', at='last', min_patches=2)", "min_patches: with at='last' a layer has 1 position. Got 2."),
        ("first_layer('cat', min_patches=13)", "min_patches: with at='patch' a layer has 12 positions. Got 13."),
        ("first_layer('cat', by='patch', min_patches=2)", "min_patches: with by='patch' a row has 1 position. Got 2."),
        ("first_layer('cat', layers=(1, 2), min_run=3)", "min_run: 2 layers can be looked at. Got 3."),
        ("first_layer('cat', rank=5)", "rank: this cache holds the 4 best tokens of a reading. Got 5."),
    ],
)
def test_arguments_that_do_not_fit(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message
    start, end = caught.value.span or (0, 0)
    assert text[start:end] in text.partition("(")[2]


def test_a_site_that_was_not_cached(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("patch",)), images=2)
    with pytest.raises(BadArgument, match=r"at: this cache has readings at patch only\. Got 'last'\."):
        vlq.open(str(tmp_path)).query("first_layer('cat', at='last')")


def test_what_is_not_stored_is_said(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    assert corpus.first_layer("dog").notes == []
    assert corpus.first_layer("cat", min_prob=0.1).notes == []
    (note,) = corpus.first_layer(["dog", "cat"], min_prob=0.1).notes
    assert "3 tokens" in note
    assert "add at most 0.5" in note  # two of them unstored, each with at most a quarter


def test_the_bound_on_what_is_not_stored_holds(cases: dict[str, Case]) -> None:
    # Of the whole vocabulary's readings, what a cache of k = 3 would not store is within the stated bound.
    site = cases["the whole vocabulary stored"].sites["patch"]
    ids, k = [0, 1, 2, 3], 3
    rank, total = site.cells(ids)
    _, stored = Site(site.token[..., :k], site.logprob[..., :k]).cells(ids)
    counted_cells = rank <= k
    assert (total - stored)[counted_cells].max() <= (len(ids) - 1) / k
    assert (total - stored)[counted_cells].max() > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("top1", "first_layer('cat')"),
        ("run_in_a_window", "first_layer('cat', layers=(1, 3), min_run=2, min_patches=2)"),
        ("probability", "first_layer('cat', rank=2, min_prob=0.5)"),
        ("set_by_patch", "first_layer('dog', by='patch')"),
        ("corpus", "first_layer('cat', at='last', by='corpus')"),
        ("last", "last_layer('cat', layers=(1, 3), min_run=2)"),
        ("peak", "peak_layer('cat')"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    corpus = cases["several shards"].corpus
    statement = corpus.query(text).statement
    values = "\n".join(f"-- ${key} = {value}" for key, value in statement.parameters.items())
    expected = (SNAPSHOTS / f"layer_{name}.sql").read_text()
    assert f"-- {text}\n{values}\n{statement.sql}\n" == expected


def test_every_value_is_a_parameter(cases: dict[str, Case]) -> None:
    corpus = cases["half precision"].corpus
    text = "first_layer([3, 4], rank=4, min_prob=0.123, layers=[2, 4], min_patches=3, min_run=2)"
    statement = corpus.query(text).statement
    assert set(map(str, statement.parameters.values())) == {
        "3", "4", "0.123", "[2, 4]", "2", "1"
    }  # fmt: skip
    numbers = set(re.findall(r"(?<![\w$])[0-9.]+", statement.sql))
    assert numbers == {"0"}  # of `least(..., 0)` and `$lowest > 0`


def test_explain_shows_tokens_sql_files_and_plan(cases: dict[str, Case]) -> None:
    text = cases["several shards"].corpus.query("first_layer('dog', rank=2)").explain()
    assert "▁dog (0), ▁Dog (1)" in text
    assert "$token = 0, $token_2 = 1, $rank = 2" in text
    assert "token IN ($token, $token_2)" in text
    assert re.search(r"\$patch_topk: index/\w+/patch_topk-000.parquet, [\d,]+ bytes", text)
    assert "READ_PARQUET" in text
