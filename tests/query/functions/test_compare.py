"""compare equals asking each cache alone and joining what they say by the images' names."""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers import result as result_module
from vlq.query.cache.reader import UNINDEXED
from vlq.query.client.corpus import Corpus
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument, NoCache, UnknownName, UnknownToken, VlqError
from vlq.query.schema import Run
from vlq.workers.models.vocabulary import vocabulary_hash

from ...brute import Site, picked_layers, read_site
from ...examples import examples
from ...synthetic import WORDS, edit_record, make_cache, make_run, vocabulary_table
from ..corpora import SETTINGS, SNAPSHOTS, snapshot

LABELS = ["beach", "grass"]


@dataclass
class Made:
    """A cache, and what its arrays hold."""

    corpus: Corpus
    url: str
    names: list[str]
    good: list[int]
    sites: dict[str, Site]

    @property
    def run(self) -> Run:
        return self.corpus.cache.run

    def ids(self, word: str) -> list[int]:
        """The word's tokens, read from the table itself."""
        vocabulary = self.corpus.vocabulary
        pieces = {vocabulary.token(id).piece: id for id in range(len(vocabulary))}
        return sorted(id for piece, id in pieces.items() if piece is not None and piece.lower() == f"▁{word}")

    def named(self, image: int) -> str:
        return self.names[image]


def other_vocabulary(size: int) -> pa.Table:
    """The same words under other ids: a few rows of something else come first."""
    table = vocabulary_table(size)
    pieces = [f"x{i}" for i in range(5)] + table["piece"].to_pylist()[: size - 5]
    return pa.table(
        {
            "id": table["id"],
            "piece": pieces,
            "text": [None if piece is None else piece.replace("▁", " ") for piece in pieces],
            "word_start": [piece is not None and piece.startswith("▁") for piece in pieces],
            "special": [piece == "<s>" for piece in pieces],
        }
    )


def make(folder: Path, name: str, names: list[str], failed: list[int], vocabulary: pa.Table, **run: Any) -> Made:
    options = {"vocabulary_hash": vocabulary_hash(vocabulary), "vocabulary_size": vocabulary.num_rows, "model": name}
    columns = {"label": [LABELS[len(image) % 2] for image in names]}
    seed = sum(map(ord, name))
    made = make_run(**options, **run)
    make_cache(
        folder / name,
        made,
        images=len(names),
        failed=failed,
        names=names,
        vocabulary=vocabulary,
        columns=columns,
        seed=seed,
    )
    shards = sorted(str(path.parent.relative_to(folder / name)) for path in (folder / name).glob("shards/*/zarr.json"))
    return Made(
        vlq.open(str(folder / name)),
        str(folder / name),
        names,
        [image for image in range(len(names)) if image not in failed],
        {site: read_site(folder / name, shards, site) for site in ("patch", "prompt", "last")},
    )


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Models that differ in depth and vocabulary, in the images that they were given, and in nothing."""
    folder = tmp_path_factory.mktemp("caches")
    names = [f"{'long-' * (i % 2)}{(i * 7919) % 1000:03d}.png" for i in range(16)]
    size = len(WORDS) + 8
    return {
        "small": make(folder, "small", names[:12], [3], vocabulary_table(size)),
        "deep": make(folder, "deep", names[::-1], [5, 12], other_vocabulary(size + 9), layers=8, k=3),
        "wide": make(
            folder, "wide", names[4:], [], vocabulary_table(size), grid=(2, 5), prompt="Say.", prompt_ids=(4,)
        ),
        "twin": make(folder, "twin", names[:12], [3], vocabulary_table(size)),
    }


pairs = st.tuples(
    st.sampled_from(["small", "deep", "wide", "twin"]), st.sampled_from(["small", "deep", "wide", "twin"])
)


def common(a: Made, b: Made) -> set[str]:
    return {a.named(image) for image in a.good} & {b.named(image) for image in b.good}


def layers_of(made: Made, word: str, **arguments: Any) -> dict[str, dict[str, Any]]:
    """picked_layers by the images' names."""
    rows = picked_layers(made.sites["patch"], made.ids(word), **arguments)
    return {made.named(row["image"]): row for row in rows}


@SETTINGS
@given(
    pair=pairs,
    word=st.sampled_from(["dog", "cat", "rock", "sky"]),
    min_prob=st.none() | st.floats(0.1, 0.5),
    rank=st.integers(1, 3),
    label=st.sampled_from([None, None, "beach"]),
    pick=st.sampled_from(["first", "last", "peak"]),
)
def test_a_row_for_each_image(
    caches: dict[str, Made],
    pair: tuple[str, str],
    word: str,
    min_prob: float | None,
    rank: int,
    label: str | None,
    pick: str,
) -> None:
    a, b = (caches[name] for name in pair)
    both = {name for name in common(a, b) if label is None or LABELS[len(name) % 2] == label}
    left, right = (layers_of(made, word, pick=pick, rank=rank, min_prob=min_prob) for made in (a, b))
    images = None if label is None else vlq.col("label") == label
    ask = getattr(vlq, f"{pick}_layer")
    result = a.corpus.compare(b.url, ask(word, rank=rank, min_prob=min_prob, images=images))
    found = {row["image"]: row for row in result.rows}
    assert len(found) == len(result.rows)
    assert found.keys() == both & (left.keys() | right.keys())
    for name, row in found.items():
        assert row["image_id"] == a.names.index(name)
        for side, rows in (("a", left), ("b", right)):
            layer = rows[name]["layer"] if name in rows else None
            assert row[f"layer_{side}"] == layer
            assert row[f"patches_{side}"] == (rows[name]["positions"] if name in rows else None)
            logprob = pytest.approx(rows[name]["logprob"], abs=1e-5) if name in rows else None
            assert row[f"logprob_{side}"] == logprob
            if a.run.layers != b.run.layers:
                made = a if side == "a" else b
                assert row[f"depth_{side}"] == (None if layer is None else layer / (made.run.layers - 1))
        known = name in left and name in right
        assert row["difference"] == (right[name]["layer"] - left[name]["layer"] if known else None)
    ordered = [row["difference"] for row in result.rows if row["difference"] is not None]
    assert ordered == sorted(ordered)
    assert all(row["difference"] is None for row in result.rows[len(ordered) :])
    assert ("depth_a" in result.columns) == (a.run.layers != b.run.layers)

    summary = result.summary
    asked = [
        {made.named(image) for image in made.good if label is None or LABELS[len(made.named(image)) % 2] == label}
        for made in (a, b)
    ]
    assert summary["images"] == len(both)
    assert (summary["only_a"], summary["only_b"]) == (len(asked[0] - asked[1]), len(asked[1] - asked[0]))
    assert summary["matched"] == len(ordered)
    assert summary["lower"] == sum(difference < 0 for difference in ordered)
    assert summary["same"] == ordered.count(0)
    assert summary["higher"] == sum(difference > 0 for difference in ordered)
    assert summary["median"] == (median(ordered) if ordered else None)
    for side, rows in (("a", left), ("b", right)):
        values = [rows[name]["layer"] for name in rows.keys() & both]
        assert summary[side] == {"matched": len(values), "median": median(values) if values else None}
    assert result.headline


@examples(30)
@given(pair=pairs, at=st.sampled_from(["patch", "last"]), word=st.sampled_from(["dog", "cat"]), layer=st.integers(0, 4))
def test_a_row_for_each_place(caches: dict[str, Made], pair: tuple[str, str], at: str, word: str, layer: int) -> None:
    a, b = (caches[name] for name in pair)
    query = f"rank('{word}', layers=(0, {layer}), at='{at}')"
    text = f"compare({a.url!r}, {b.url!r}, {query})"
    if at == "patch" and a.run.grid != b.run.grid:
        with pytest.raises(BadArgument, match="The patches are not the same") as caught:
            a.corpus.query(text)
        assert caught.value.span is not None
        assert text[slice(*caught.value.span)] == query
        return
    sides = []
    for made in (a, b):
        best, _ = made.sites[at].cells(made.ids(word))
        ranks = {}
        for image, row, position in np.argwhere(best <= made.run.k):
            if image in made.good and row <= layer:
                place = int(position) if at == "patch" else None
                ranks[made.named(image), int(row), place] = int(best[image, row, position])
        sides.append(ranks)
    expected = {
        key: (sides[0].get(key), sides[1].get(key))
        for key in sides[0].keys() | sides[1].keys()
        if key[0] in common(a, b)
    }
    result = a.corpus.query(text)
    found = {(row["image"], row["layer"], row.get("patch")): (row["rank_a"], row["rank_b"]) for row in result.rows}
    assert found == expected
    assert len(result.rows) == len(expected)
    assert result.summary["matched"] == sum(None not in ranks for ranks in expected.values())
    every = a.corpus.query(text.replace("at=", "missing='bound', at="))
    positions = a.run.positions[at]
    assert len(every.rows) == len(common(a, b)) * (layer + 1) * positions
    assert {row["at_least_a"] for row in every.rows if row["rank_a"] is None} <= {a.run.k + 1}
    assert every.summary == result.summary


@examples(30)
@given(pair=pairs, words=st.permutations(["dog", "cat", "rock"]), sign=st.sampled_from(["<", "<=", "=="]))
def test_conditions(caches: dict[str, Made], pair: tuple[str, str], words: list[str], sign: str) -> None:
    a, b = (caches[name] for name in pair)
    compare: Callable[[int, int], bool] = {"<": operator.lt, "<=": operator.le, "==": operator.eq}[sign]
    holds = []
    for made in (a, b):
        left, right = (layers_of(made, word) for word in words[:2])
        holds.append({n: compare(left[n]["layer"], right[n]["layer"]) for n in left.keys() & right.keys()})
    expected = {
        name: (holds[0].get(name), holds[1].get(name))
        for name in common(a, b)
        if holds[0].get(name) or holds[1].get(name)
    }
    result = a.corpus.query(
        f"compare({a.url!r}, {b.url!r}, first_layer('{words[0]}') {sign} first_layer('{words[1]}'))"
    )
    assert {row["image"]: (row["holds_a"], row["holds_b"]) for row in result.rows} == expected
    summary = result.summary
    assert summary["a"] == {"matched": sum(a is True for a, _ in expected.values())}
    assert summary["b"] == {"matched": sum(b is True for _, b in expected.values())}
    assert summary["matched"] == sum(a is b is True for a, b in expected.values())
    assert f"it holds for {summary['a']['matched']}" in result.headline


@examples(30)
@given(
    pair=pairs,
    at=st.sampled_from(["patch", "prompt", "last"]),
    word=st.sampled_from(["dog", "cat", "rock"]),
    condition=st.sampled_from(["rank({}) <= 2", "not (rank({}) <= 1)", "prob({}) > 0.3", "not (prob({}) > 0.2)"]),
    patches=st.sampled_from(["", ", patches=[0, 2, 3]"]),
)
def test_conditions_at_positions_where_nothing_is_stored(
    caches: dict[str, Made], pair: tuple[str, str], at: str, word: str, condition: str, patches: str
) -> None:
    """What bounds decide is decided on both sides, whether or not a row is there."""
    a, b = (caches[name] for name in pair)
    if (at == "patch" and a.run.grid != b.run.grid) or (at == "prompt" and a.run.prompt_ids != b.run.prompt_ids):
        return
    patches = patches if at == "patch" else ""
    query = condition.format(f"'{word}', at='{at}', layers=(0, 3){patches}")
    place = {"patch": ("patch",), "prompt": ("position",), "last": ()}[at]

    def cell(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in ("image", "layer", *place))

    # Each by itself lists where it holds, and where its opposite does; elsewhere it cannot be said.
    sides = []
    for made in (a, b):
        truths = {cell(row): True for row in made.corpus.query(query).rows}
        sides.append(truths | {cell(row): False for row in made.corpus.query(f"not ({query})").rows})
    expected = {
        key: (sides[0].get(key), sides[1].get(key))
        for key in sides[0].keys() | sides[1].keys()
        if key[0] in common(a, b) and (sides[0].get(key) or sides[1].get(key))
    }
    result = a.corpus.query(f"compare({a.url!r}, {b.url!r}, {query})")
    assert {cell(row): (row["holds_a"], row["holds_b"]) for row in result.rows} == expected
    assert len(result.rows) == len(expected)


@examples(30)
@given(pair=pairs, word=st.sampled_from(["dog", "cat", "rock"]))
def test_rows_of_no_image_count_what_each_cache_has(caches: dict[str, Made], pair: tuple[str, str], word: str) -> None:
    a, b = (caches[name] for name in pair)
    result = a.corpus.compare(b.url, vlq.emergence(word, at="last"))
    counts = []
    for made in (a, b):
        best, _ = made.sites["last"].cells(made.ids(word))
        read = (best[made.good] == 1).any(-1)  # (image, layer)
        counts.append(read.sum(0).tolist())
    deepest = max(a.run.layers, b.run.layers)
    expected = [tuple(n[layer] if layer < len(n) else None for n in counts) for layer in range(deepest)]
    assert [row["layer"] for row in result.rows] == list(range(deepest))
    assert [(row["images_a"], row["images_b"]) for row in result.rows] == expected
    for row, (left, right) in zip(result.rows, expected, strict=True):
        assert row["difference"] == (None if left is None or right is None else right - left)
    assert f"of {len(a.good)} and {len(b.good)} images, a has " in result.headline


def test_tables_of_one_row_and_of_no_value(caches: dict[str, Made]) -> None:
    a, b = caches["small"], caches["deep"]
    whole = a.corpus.compare(b.url, vlq.first_layer("dog", by="corpus"))
    assert "a has 1 row, b 1, both 1" in whole.headline
    (row,) = whole.rows
    for side, made in (("a", a), ("b", b)):
        (alone,) = made.corpus.first_layer("dog", by="corpus").rows
        assert {name: row[f"{name}_{side}"] for name in alone} == alone
    images = a.corpus.compare(b.url, vlq.images())
    assert {row["image"] for row in images.rows} == common(a, b)
    assert all(row["label_a"] == row["label_b"] == LABELS[len(row["image"]) % 2] for row in images.rows)
    assert images.headline == (
        "images() in small (a) and deep (b): 10 rows of 10 images in both caches; 1 image only in a; 4 images only in b"
    )
    locate = a.corpus.compare(b.url, "locate('dog', layer=1)").rows
    alone = {row["image"]: row for row in b.corpus.locate("dog", layer=1).rows}
    assert {row["image"]: row["box_b"] for row in locate if row["box_b"]} == {
        name: row["box"] for name, row in alone.items() if name in common(a, b)
    }


def test_tokens_are_those_of_each_vocabulary(caches: dict[str, Made]) -> None:
    a, b, twin = caches["small"], caches["deep"], caches["twin"]
    assert a.ids("dog") != b.ids("dog")
    result = a.corpus.compare(b.url, vlq.first_layer("dog"))
    assert [token["id"] for token in result.tokens] == a.ids("dog")
    named = ", ".join(f"{piece} ({id})" for piece, id in zip(("▁dog", "▁Dog"), b.ids("dog"), strict=True))
    assert f"The tokens of b: {named}." in result.notes
    assert not any("tokens of b" in note for note in a.corpus.compare(twin.url, vlq.first_layer("dog")).notes)
    # What is keyed by an id needs one vocabulary.
    same = a.corpus.compare(twin.url, "defaults(at='patch', unit='position')")
    alone = {(row["layer"], row["token"]): row for row in twin.corpus.defaults("patch", unit="position").rows}
    assert {key: row["count"] for key, row in alone.items()} == {
        (row["layer"], row["token"]): row["count_b"] for row in same.rows if row["count_b"] is not None
    }
    with pytest.raises(BadArgument, match="a row for each token id, and the vocabularies of the two caches differ"):
        a.corpus.compare(b.url, vlq.defaults())


def test_what_is_to_be_known(caches: dict[str, Made]) -> None:
    a, b, wide = caches["small"], caches["deep"], caches["wide"]
    notes = a.corpus.compare(b.url, vlq.first_layer("cat")).notes
    assert notes[:2] == [f"a: {a.url}, small", f"b: {b.url}, deep"]
    assert notes[-1] == (
        "a has layers 0 to 4, b 0 to 7: equal numbers are not equal depths; "
        "depth_a and depth_b are shares of the last layer."
    )
    notes = a.corpus.compare(wide.url, vlq.prob("cat", at="last")).notes
    assert notes[1] == f"b: {wide.url}, wide, prompt 'Say.'"
    k = a.corpus.compare(b.url, vlq.rank("cat")).notes
    assert k[-2:] == [
        "In a: Where cat is not among a reading's 4 best, its rank is above 4.",
        "In b: Where cat is not among a reading's 3 best, its rank is above 3.",
    ]


def test_an_unfinished_run_and_other_files_of_the_same_name(caches: dict[str, Made], tmp_path: Path) -> None:
    a = caches["small"]
    make_cache(tmp_path / "begun", make_run(), images=12, names=a.names, seal=False)
    assert a.corpus.compare(str(tmp_path / "begun"), "first_layer('dog')").notes[-1] == f"In b: {UNINDEXED}"
    make_cache(tmp_path / "changed", make_run(), images=12, names=a.names)
    (path,) = (tmp_path / "changed").glob("index/*/images-000.parquet")
    table = pq.read_table(path)
    digests = ["0" * 64 if i in (1, 5) else digest for i, digest in enumerate(table["sha256"].to_pylist())]
    pq.write_table(table.set_column(table.column_names.index("sha256"), "sha256", pa.array(digests)), path)
    (manifest,) = (tmp_path / "changed").glob("index/*.json")
    stored = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit_record(manifest, lambda record: record["tables"]["images"][0].update(stored))
    result = a.corpus.compare(str(tmp_path / "changed"), "first_layer('dog')")
    assert result.summary["changed"] == 2
    assert result.headline.endswith("1 image only in b; 2 images of the same name with other bytes")


# --- combined, in Python, from the command line ----------------------------------------------------------------


def test_it_is_asked_of_its_first_cache(caches: dict[str, Made]) -> None:
    a, b, wide = caches["small"], caches["deep"], caches["wide"]
    node = vlq.compare(a.url, b.url, vlq.first_layer("dog"))
    text = f"compare({a.url!r}, {b.url!r}, first_layer('dog'))"
    assert vlq.parse(text).equals(node)
    rows = a.corpus.query(node).rows
    for answer in (a.corpus.query(text), wide.corpus.query(text), wide.corpus.query(node), b.corpus.query(node)):
        assert answer.rows == rows
    assert a.corpus.compare(b.corpus, "first_layer('dog')").rows == rows
    # Answers that stem from one corpus combine.
    later = wide.corpus.query(text) > wide.corpus.query(f"compare({a.url!r}, {wide.url!r}, first_layer('dog'))")
    assert later.node.equals(vlq.parse(f"{text} > compare({a.url!r}, {wide.url!r}, first_layer('dog'))"))
    with pytest.raises(BadArgument, match="have the same first cache"):
        a.corpus.query(f"{text} > compare({b.url!r}, {a.url!r}, first_layer('dog'))")


def test_its_rows_are_chosen_ordered_and_combined(caches: dict[str, Made]) -> None:
    a, b = caches["small"], caches["deep"]
    result = a.corpus.compare(b.url, vlq.first_layer("rock"))
    rows = result.rows
    assert any(row["difference"] for row in rows)
    later = result.where(vlq.col("layer_b") > vlq.col("layer_a"))
    assert later.rows == [row for row in rows if None not in (row["layer_a"], row["layer_b"]) and row["difference"] > 0]
    assert later.summary["higher"] == later.summary["matched"] == len(later.rows) == result.summary["higher"]
    assert later.summary["images"] == result.summary["images"]
    beach = result.where(vlq.col("label") == "beach")
    assert beach.rows == [row for row in rows if LABELS[len(row["image"]) % 2] == "beach"]
    assert result.limit(2).rows == rows[:2]
    assert result.limit(2).summary == result.summary
    assert list(result.select(["image", "difference"]).rows[0]) == ["image", "difference"]
    assert {row["image"] for row in (result > 0).rows} == {row["image"] for row in later.rows}
    chosen = a.corpus.compare(b.url, "first_layer('rock').select([layer, label])")
    assert chosen.columns == [
        *("image", "layer_a", "layer_b", "depth_a", "depth_b", "difference", "label_a", "label_b", "image_id")
    ]
    assert "layer_a" in str(result)
    assert "censored_a" not in str(result)
    for table in (r"\$patch_top1", r"\$images", r"\$other\d_patch_top1", r"\$other\d_images"):
        assert re.search(rf"{table}: index/.*\.parquet, ", result.explain())


def test_groups_are_joined_by_what_parts_them_even_if_that_is_missing(caches: dict[str, Made], tmp_path: Path) -> None:
    a = caches["small"]
    for name, labels in (("some", [None, "beach", None]), ("numbers", [1, 2, 2])):
        columns = {"label": [labels[i % 3] for i in range(12)]}
        make_cache(tmp_path / name, make_run(), images=12, names=a.names, columns=columns, failed=[0])
    some = vlq.open(str(tmp_path / "some"))
    rows = some.compare(str(tmp_path / "some"), "images().group(label).count()").rows
    assert [(row["label"], row["count_a"], row["count_b"]) for row in rows] == [("beach", 4, 4), (None, 7, 7)]
    (row,) = [row for row in a.corpus.compare(some, "images().group(label).count()").rows if row["label"] is None]
    assert (row["count_a"], row["count_b"], row["difference"]) == (None, 7, None)
    with pytest.raises(BadArgument) as caught:
        some.compare(str(tmp_path / "numbers"), "images().group(label).count()")
    assert caught.value.message == f"label is a text in {tmp_path}/some, and a number in {tmp_path}/numbers."


def test_patches_and_tables_that_python_makes_are_of_each_cache(caches: dict[str, Made]) -> None:
    a, b = caches["small"], caches["twin"]
    for text in (
        "first_layer('dog', patches=rank('cat') <= 2)",
        "locate('dog', patches=[1, 2, 5])",
        "neighbours('dog', patches=readings('cat'))",
        "top(0, layers=1)",
    ):
        alone = [made.corpus.query(text) for made in (a, b)]
        keys = [
            name
            for name in ("image", "token", "layer", "patch", "rank")
            if name in a.corpus.compare(b.url, text).columns
        ]
        rows = a.corpus.compare(b.url, text).rows
        named = {*a.corpus.images().df()["image"]} & {*b.corpus.images().df()["image"]}
        for side, result in zip("ab", alone, strict=True):
            own = [name for name in result.columns if name not in (*keys, "image_id")]
            expected = {
                tuple(row[key] for key in keys): [row[name] for name in own]
                for row in result.rows
                if "image" not in row or row["image"] in named
            }
            found = {
                tuple(row[key] for key in keys): [row[f"{name}_{side}"] for name in own]
                for row in rows
                if any(row[f"{name}_{side}"] is not None for name in own)
            }
            assert found == expected != {}


def test_from_the_command_line(caches: dict[str, Made], capsys: pytest.CaptureFixture[str]) -> None:
    from vlq.query.cli import main

    a, b = caches["small"], caches["deep"]
    text = f"compare({a.url!r}, {b.url!r}, first_layer('dog'))"
    expected = a.corpus.query(text).headline
    for more in ([], ["--cache", b.url]):
        with pytest.raises(SystemExit) as ended:
            main([text, *more])
        assert not ended.value.code
        assert capsys.readouterr().out.startswith(expected)
    with pytest.raises(SystemExit) as ended:
        main(["compare('nowhere', 'x', images())"])
    assert ended.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[:3] == [
        "vlq: There is no cache at nowhere.",
        "  compare('nowhere', 'x', images())",
        "          ^^^^^^^^^",
    ]


def test_too_many_positions_are_not_listed(caches: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = caches["small"], caches["twin"]
    most = 2 * len(a.good) * 5 * 12
    monkeypatch.setattr(result_module, "LISTED_CELLS", most)
    assert a.corpus.compare(b.url, "rank('dog', missing='bound')").rows
    monkeypatch.setattr(result_module, "LISTED_CELLS", most - 1)
    with pytest.raises(BadArgument, match=f"up to {most:,} positions"):
        _ = a.corpus.compare(b.url, "rank('dog', missing='bound')").rows


NO_LAYER = "In A: layers: there is no layer 6. This cache has the layers 0 (the embedding) to 4."
NO_QUERY = "query: expected a query, such as first_layer('dog'). Got "


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        ("compare('nowhere', 'x', images())", NoCache, "There is no cache at nowhere.", "'nowhere'"),
        ("compare('A', 'nowhere', images())", NoCache, "There is no cache at nowhere.", "'nowhere'"),
        ("compare('A', 3, images())", BadArgument, "b: expected a cache's URL in quotes. Got 3.", "3"),
        ("compare('A', 'B', 'images()')", BadArgument, f"{NO_QUERY}'images()'.", "'images()'"),
        ("compare('A', 'B', layer)", BadArgument, f"{NO_QUERY}layer.", "layer"),
        ("compare('A', 'B', first_layer('dgo'))", UnknownToken, "In A: 'dgo' is no word of this vocabulary.", "'dgo'"),
        ("compare('A', 'B', first_layer('dog', layers=6))", BadArgument, NO_LAYER, "6"),
        ("compare('B', 'A', first_layer('dog', layers=6))", BadArgument, NO_LAYER, "6"),
        ("compare('A', 'B', images(lable == 3))", UnknownName, "In A: There is no column lable.", "lable"),
        ("compare('A', 'B', images().where(lable == 3))", UnknownName, "In A: There is no column lable.", "lable"),
        (
            "compare('A', 'B', first_layer('dog', against=label == 'beach'))",
            BadArgument,
            "against: first_layer('dog', against=label == 'beach') cannot be compared.",
            "first_layer('dog', against=label == 'beach')",
        ),
        (
            "compare('A', 'B', compare('A', 'B', images()))",
            BadArgument,
            "A comparison cannot be compared.",
            "compare('A', 'B', images())",
        ),
        (
            "compare('A', 'C', readings('dog', at='prompt'))",
            BadArgument,
            "The prompts differ, and so do their positions.",
            "readings('dog', at='prompt')",
        ),
    ],
)
def test_mistakes_are_pointed_at(
    caches: dict[str, Made],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    kind: type[VlqError],
    message: str,
    marked: str,
) -> None:
    folder = Path(caches["small"].url).parent
    for name, cache in (("A", "small"), ("B", "deep"), ("C", "wide")):
        link = folder / name
        if not link.exists():
            link.symlink_to(cache, target_is_directory=True)
    monkeypatch.chdir(folder)
    with pytest.raises(kind) as caught:
        caches["twin"].corpus.query(text)
    assert caught.value.message == message
    assert caught.value.query == text
    start, end = caught.value.span or (0, 0)
    assert text[start:end] == marked


def test_images_of_one_name(caches: dict[str, Made], tmp_path: Path) -> None:
    a = caches["small"]
    make_cache(tmp_path, make_run(), images=4, names=["one.png", "two.png", "one.png", "three.png"])
    with pytest.raises(BadArgument) as caught:
        a.corpus.compare(str(tmp_path), "first_layer('dog')")
    assert caught.value.message == f"Images are matched by name, and 2 of {tmp_path} are named 'one.png'."
    assert len(a.corpus.compare(str(tmp_path), "first_layer('dog', by='corpus')").rows) == 1


def test_a_service_opens_its_own_caches_alone(caches: dict[str, Made]) -> None:
    a, b = caches["small"], caches["deep"]
    served = LocalCorpus.served({"a": a.corpus.cache})["a"]
    assert served.first_layer("dog").rows == a.corpus.first_layer("dog").rows
    for first, second in ((a, b), (b, a)):
        with pytest.raises(BadArgument, match="opens no other cache"):
            served.query(f"compare({first.url!r}, {second.url!r}, first_layer('dog'))")
    both = LocalCorpus.served({"a": a.corpus.cache, "b": b.corpus.cache})
    expected = a.corpus.compare(b.url, "first_layer('dog')").rows
    for query in ("compare('a', 'b', first_layer('dog'))", f"compare('a', {b.url!r}, first_layer('dog'))"):
        for corpus in both.values():
            assert corpus.query(query).rows == expected


def test_sql(caches: dict[str, Made]) -> None:
    result = caches["small"].corpus.compare(caches["deep"].url, "first_layer('▁dog')")
    found = snapshot(result, "compare('small', 'deep', first_layer('▁dog'))")
    assert found == (SNAPSHOTS / "compare.sql").read_text()
