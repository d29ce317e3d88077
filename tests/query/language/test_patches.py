"""`patches=`: what counts at some patches only equals brute force over the arrays, whatever says which ones.

The tests of overlap, neighbours, locate, emergence and defaults draw patches, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument, QueryError, UnknownName
from vlq.query.language.compile import Derived
from vlq.query.language.parse import parse
from vlq.query.schema import Transform

from ...brute import picked_layers
from ...synthetic import make_cache, make_run
from ..corpora import (
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    layer_choices,
    layers_of,
    one_or_list,
    places_of,
    reading_arguments,
    shapes,
    snapshot,
    token_ids,
    with_patches,
)


@SETTINGS
@given(pick=st.sampled_from(["first", "last", "peak"]), name=shapes, data=st.data())
def test_layers(cases: dict[str, Case], pick: str, name: str, data: st.DataObject) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(reading_arguments)(case)) | {"layers": data.draw(layer_choices(case.run))}
    by = data.draw(st.sampled_from(["image", "patch", "corpus"]))
    if by == "patch":
        arguments["min_patches"] = 1
    result = getattr(case.corpus, f"{pick}_layer")(one_or_list(ids), by=by, **asked(arguments))

    mask = np.tile(case.chosen(arguments["images"])[:, None], (1, case.run.positions["patch"]))
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
    assert result.summary["matched"] == len({row["image"] for row in expected})
    assert with_patches(case, arguments).items() <= result.summary.items()
    assert result.headline
    if by == "corpus":
        layers = [row["layer"] for row in expected]
        assert result.rows == [] or result.rows[0]["histogram"] == {layer: layers.count(layer) for layer in layers}
        return
    found = {(row["image_id"], row.get("patch")): (row["layer"], row["patches"]) for row in result.rows}
    assert found == {
        (row["image"], row["positions"][0] if by == "patch" else None): (row["layer"], row["positions"])
        for row in expected
    }
    logprobs = {(row["image_id"], tuple(row["patches"])): row["logprob"] for row in result.rows}
    for row in expected:
        logprob = logprobs[row["image"], tuple(row["positions"])]
        assert logprob == pytest.approx(min(0, row["logprob"]), abs=1e-6)


@SETTINGS
@given(name=shapes, data=st.data())
def test_readings(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    ids = data.draw(token_ids(case))
    arguments = data.draw(st.composite(reading_arguments)(case)) | {"layers": data.draw(layer_choices(case.run))}
    del arguments["min_patches"]
    result = case.corpus.readings(one_or_list(ids), **asked(arguments))
    hit = case.hits("patch", ids, arguments | {"min_patches": 1})
    found = [(row["image_id"], row["layer"], row["patch"]) for row in result.rows]
    assert sorted(found) == [tuple(cell) for cell in np.argwhere(hit).tolist()]
    assert with_patches(case, arguments).items() <= result.summary.items()


@SETTINGS
@given(name=shapes, data=st.data())
def test_top(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    places = data.draw(st.composite(places_of)(case))
    image = data.draw(st.sampled_from(np.flatnonzero(case.good).tolist()))
    layer = case.run.read_layers[0]
    rows = case.corpus.top(image, layers=layer, patches=places.argument).rows
    assert [row["patch"] for row in rows] == np.flatnonzero(places.mask[image]).tolist()
    token = case.sites["patch"].token[image, layer, :, 0]
    assert [row["token"] for row in rows] == token[places.mask[image]].tolist()


# --- labels ----------------------------------------------------------------------------------------------------


def covered(folder: Path, *objects: tuple[str, Any], **options: Any) -> list[int]:
    """The patches of 'dog', of one image in a grid of 2 rows and 4 columns with these objects."""
    boxes = [{"label": label, "box": box} for label, box in objects]
    labels = [{"label": "dog", "box": [0.0, 0.0, 0.0, 0.0]}]  # of a second image, so that there always is one
    make_cache(folder, make_run(grid=(2, 4), layers=1), images=2, columns={"objects": [boxes, labels]}, **options)
    return [row["patch"] for row in vlq.open(str(folder)).query("top(0, patches='dog')").rows]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        # Images are 112 x 112 pixels: a patch has 28 x 56.
        ([("dog", [0.0, 0.0, 14.0, 56.0])], [0]),  # exactly one half
        ([("dog", [0.0, 0.0, 13.9, 56.0])], []),
        ([("dog", [0.0, 0.0, 28.0, 28.0])], [0]),
        ([("dog", [14.0, 0.0, 98.0, 112.0])], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([("dog", [15.0, 0.0, 98.0, 112.0])], [1, 2, 3, 5, 6, 7]),
        ([("dog", [30.0, 10.0, 54.0, 50.0])], [1]),
        ([("Dog", [0.0, 0.0, 28.0, 56.0]), ("cat", [28.0, 0.0, 56.0, 56.0])], [0]),
        ([("dog", [0.0, 0.0, 28.0, 56.0]), ("dog", [84.0, 56.0, 112.0, 112.0])], [0, 7]),
        ([("dog", [0.0, 0.0, 10.0, 56.0]), ("dog", [18.0, 0.0, 28.0, 56.0])], []),  # each of them less than one half
        ([("dog", [-50.0, -50.0, 500.0, 60.0])], [0, 1, 2, 3]),
        ([("dog", [200.0, 0.0, 300.0, 112.0])], []),
        ([("dog", [56.0, 56.0, 28.0, 0.0])], []),  # turned inside out
        ([("dog", [27.0, 55.0, 1.0, 1.0])], []),
        ([("dog", [float("nan"), 0.0, 28.0, 56.0])], []),
        ([("dog", [0.0, 0.0, float("nan"), 56.0])], []),
        ([("dog", None)], []),
        ([(None, [0.0, 0.0, 28.0, 56.0])], []),
        ([], []),
    ],
)
def test_an_objects_patches_are_covered_by_half(tmp_path: Path, objects: Any, expected: list[int]) -> None:
    assert covered(tmp_path, *objects) == expected


def test_padding_is_no_part_of_a_patch(tmp_path: Path) -> None:
    # 100 x 28 pixels in the middle of 112: the upper patches show rows 42 to 56, the first and last column less.
    transform = Transform(1.0, 1.0, 6.0, 42.0, 112, 112)
    options = {"transform": transform, "pixels": (100, 28)}
    assert covered(tmp_path / "a", ("dog", [0.0, 0.0, 100.0, 7.0]), **options) == [0, 1, 2, 3]
    assert covered(tmp_path / "b", ("dog", [0.0, 0.0, 11.0, 28.0]), **options) == [0, 4]
    assert covered(tmp_path / "c", ("dog", [0.0, 0.0, 10.9, 28.0]), **options) == []


def test_labels_need_objects(cases: dict[str, Case], tmp_path: Path) -> None:
    corpus = cases["several shards"].corpus
    with pytest.raises(BadArgument, match="no image has an object labelled 'dgo'") as caught:
        corpus.query("first_layer('cat', patches='dgo')")
    assert caught.value.hint == "Did you mean 'dog'?"
    with pytest.raises(BadArgument) as caught:
        corpus.query("first_layer('cat', patches='zebra')")
    assert caught.value.hint == "Patches that read a token are asked for: patches=locate('zebra')"
    make_cache(tmp_path, images=2, columns={"objects": [["dog"], ["cat"]]})
    with pytest.raises(BadArgument, match="a label needs a column `objects` of labels and boxes"):
        vlq.open(str(tmp_path)).query("first_layer('cat', patches='dog')")


# --- sub-queries -----------------------------------------------------------------------------------------------

NESTED = [
    "first_layer('ear', patches=locate('dog'))",
    "first_layer('ear', patches=locate('dog', patches=readings('cat', rank=3)).where(row >= 1), by='patch')",
    "first_layer('ear', patches=first_layer('cat', by='patch') < first_layer('dog', by='patch'))",
    "first_layer('ear', patches=not first_layer('cat', by='patch') < first_layer('dog', by='patch'))",
    "first_layer('ear', patches=readings('dog', layers=2).where(logprob > -2.0).limit(5))",
    "emergence(['ear', 'cat'], patches=top(0, layers=1, rank=2).where(token == 2))",
    "first_layer('ear', patches=locate('dog')) < first_layer('cat', patches=locate('dog'))",
]


@pytest.mark.parametrize("text", NESTED)
def test_a_query_in_a_query_is_one_statement(cases: dict[str, Case], text: str) -> None:
    node = parse(text)
    assert str(node) == text
    assert parse(str(node)).equals(node)
    result = cases["several shards"].corpus.query(text)
    statement = result.statement.sql
    assert "MATERIALIZED" in statement
    assert ";" not in statement
    assert result.arrow().to_pylist() == result.rows
    assert result.headline
    assert "mask" in result.explain()


def test_the_rows_of_the_inner_query_decide(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    inner = corpus.query("readings('dog', layers=2, rank=4).where(logprob > -2.0).limit(7)").rows
    places = {(row["image_id"], row["patch"]) for row in inner}
    text = "readings('cat', rank=4, patches=readings('dog', layers=2, rank=4).where(logprob > -2.0).limit(7))"
    every = corpus.query("readings('cat', rank=4)").rows
    expected = [row for row in every if (row["image_id"], row["patch"]) in places]
    assert corpus.query(text).rows == expected != []
    before = corpus.query("first_layer('cat', by='patch') < first_layer('dog', by='patch')").rows
    places = {(row["image_id"], row["patch"]) for row in before}
    text = "readings('ear', rank=4, patches=first_layer('cat', by='patch') < first_layer('dog', by='patch'))"
    every = corpus.query("readings('ear', rank=4)").rows
    assert corpus.query(text).rows == [row for row in every if (row["image_id"], row["patch"]) in places] != []


def test_the_same_patches_are_found_once(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    both = "first_layer('ear', patches=locate('dog')) < first_layer('cat', patches=locate({}))"
    assert corpus.query(both.format("'dog'")).statement.sql.count("bitstring_agg") == 1
    assert corpus.query(both.format("'rock'")).statement.sql.count("bitstring_agg") == 2
    assert corpus.query("emergence(['ear', 'cat', 'sky'], patches=2)").statement.sql.count("bitstring_agg") == 1


def test_inner_images_do_not_narrow_the_outer_ones_otherwise(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    text = "readings('cat', rank=4, patches=readings('dog', rank=4, images=label == 'beach'))"
    result = case.corpus.query(text)
    assert {case.labels[row["image_id"]] for row in result.rows} == {"beach"}
    assert result.summary["images"] == case.good.sum()
    assert result.summary["with_patches"] <= sum(case.labels[i] == "beach" for i in np.flatnonzero(case.good))


def test_python_takes_nodes_and_answers(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    text = corpus.query("first_layer('cat', rank=4, patches=locate('dog', layer=2))")
    by_node = corpus.first_layer("cat", rank=4, patches=vlq.locate("dog", layer=2))
    by_answer = corpus.first_layer("cat", rank=4, patches=corpus.locate("dog", layer=2))
    assert text.node.equals(by_node.node)
    assert text.node.equals(by_answer.node)
    assert text.node.equals(vlq.first_layer("cat", rank=4, patches=corpus.locate("dog", layer=2)))
    assert text.rows == by_answer.rows != []
    with pytest.raises(BadArgument, match="two corpora"):
        corpus.first_layer("cat", patches=vlq.open(corpus.cache.url).locate("dog"))


def test_tokens_and_notes_of_both_are_named(cases: dict[str, Case]) -> None:
    result = cases["several shards"].corpus.query("first_layer('cat', patches=locate(['ear', 'nose'], min_prob=0.1))")
    assert [token["piece"] for token in result.tokens] == ["▁cat", "▁ear", "▁nose"]
    assert [note.partition(" ")[0] for note in result.notes] == ["Of", "The"]  # the bound, and how the layer is chosen


def test_the_smallest_table_is_read(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus

    def tables(text: str) -> set[str]:
        statement = corpus.query(text).statement
        derived = [loaded.source for loaded in statement.loaded.values() if isinstance(loaded, Derived)]
        return {table for part in (statement, *derived) for table in part.tables} - {"images"}

    for function in ("emergence('cat', {})", "locate('cat', {})", "overlap('cat', 'ear', rank=1, {})"):
        assert tables(function.format("patches=[1, 2]")) == {"patch_top1"}
        assert tables(function.format("patches=locate('rock')")) == {"patch_top1"}
    assert tables("first_layer('cat', patches=[1, 2])") == {"patch_topk"}  # a posting's best may be another patch
    assert tables("defaults('patch', patches=[1, 2])") == {"patch_top1", "vocabulary"}


def test_deep_nesting_is_answered(cases: dict[str, Case]) -> None:
    text = "locate('cat', rank=4, layer=1)"
    for _ in range(40):
        text = f"locate('cat', rank=4, layer=1, patches={text})"
    corpus = cases["several shards"].corpus
    assert [row["patches"] for row in corpus.query(text).rows] == [
        row["patches"] for row in corpus.query("locate('cat', rank=4, layer=1)").rows
    ]


# --- in words --------------------------------------------------------------------------------------------------


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("first_layer('cat', rank=4, patches='dog')")
    found = result.summary
    assert result.headline == (
        f"cat (rank 1 to 4, patches of objects labelled 'dog'): read in {found['matched']} of 8 images, median first "
        f"layer {found['median']:g}, earliest {found['min']}; {found['with_patches']} have such patches"
    )
    assert corpus.query("first_layer('cat', patches=3)").headline.startswith("cat (patch 3): read in ")
    assert corpus.query("first_layer('cat', patches=[3, 1])").headline.startswith("cat (patches 1, 3): read in ")
    assert "(patches 0, 1, 2, 3, 4, 5, 6, 7 and 3 more)" in corpus.first_layer("cat", patches=list(range(11))).headline
    assert corpus.query("first_layer('cat', min_prob=1.0, patches=locate('dog'))").headline.startswith(
        "cat (probability at least 1, patches of locate('dog')): read in none of 8 images; "
    )


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        (
            "first_layer('ear', patches=first_layer('cat'))",
            BadArgument,
            "patches: expected a row for each image and patch. first_layer('cat') has a row for each image.",
            "first_layer('cat')",
        ),
        (
            "first_layer('ear', patches=emergence('cat'))",
            BadArgument,
            "patches: expected a row for each image and patch. emergence('cat') has a row for each token and layer.",
            "emergence('cat')",
        ),
        (
            "first_layer('ear', patches=readings('cat', at='prompt'))",
            BadArgument,
            "patches: expected a row for each image and patch. readings('cat', at='prompt') has a row for each image "
            "and layer and position.",
            "readings('cat', at='prompt')",
        ),
        (
            "first_layer('ear', patches=first_layer('cat', by='corpus'))",
            BadArgument,
            "patches: expected a row for each image and patch. first_layer('cat', by='corpus') has a row for each "
            "corpus.",
            "first_layer('cat', by='corpus')",
        ),
        (
            "first_layer('ear', patches=12)",
            BadArgument,
            "patches: there is no patch 12. This grid of 3 x 4 has the patches 0 to 11.",
            "12",
        ),
        (
            "first_layer('ear', patches=[0, -1])",
            BadArgument,
            "patches: there is no patch -1. This grid of 3 x 4 has the patches 0 to 11.",
            "-1",
        ),
        ("first_layer('ear', patches=dog)", UnknownName, "patches: dog is not quoted.", "dog"),
        ("first_layer('ear', patches=(1, 2))", BadArgument, None, "(1, 2)"),
        ("first_layer('ear', patches=[])", BadArgument, None, "[]"),
        ("first_layer('ear', patches=[1, 'dog'])", BadArgument, None, "'dog'"),
        ("first_layer('ear', patches=True)", BadArgument, None, "True"),
        ("first_layer('ear', patches=1.0)", BadArgument, None, "1.0"),
        ("first_layer('ear', patches=label == 'beach')", QueryError, None, "label"),
        ("first_layer('ear', patches=matching('dog'))", QueryError, "matching('dog') asks nothing by itself.", None),
        ("first_layer('ear', patches=locate('dgo'))", QueryError, "'dgo' is no word of this vocabulary.", "'dgo'"),
        (
            "first_layer('ear', patches=[1], at='last')",
            BadArgument,
            "patches: goes with at='patch', not with at='last'.",
            "[1]",
        ),
        ("defaults(patches=[1])", BadArgument, "patches: goes with at='patch', not with at='last'.", "[1]"),
        (
            "first_layer('ear', patches=[1, 2, 1], min_patches=3)",
            BadArgument,
            "min_patches: with these patches= a layer has 2 positions. Got 3.",
            "3",
        ),
        (
            "first_layer('ear', patches=readings('cat', against=label == 'beach'))",
            BadArgument,
            "patches: readings('cat', against=label == 'beach') is held against other images.",
            "readings('cat', against=label == 'beach')",
        ),
    ],
)
def test_mistakes(
    cases: dict[str, Case], text: str, kind: type[QueryError], message: str | None, marked: str | None
) -> None:
    with pytest.raises(kind) as caught:
        cases["several shards"].corpus.query(text)
    assert message is None or caught.value.message == message
    start, end = caught.value.span or (0, 0)
    assert marked is None or text[start:end] == marked
    assert str(caught.value)


def test_a_cache_without_patches(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("prompt",)), images=2)
    corpus = vlq.open(str(tmp_path))
    with pytest.raises(BadArgument, match=r"this cache has readings at prompt, last only"):
        corpus.query("first_layer('cat', patches=[1])")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("of_a_location", "first_layer('cat', patches=locate('ear'))"),
        ("by_number", "emergence('cat', patches=[1, 5], min_patches=2)"),
        ("of_a_label", "defaults('patch', patches='dog')"),
        ("of_a_condition", "locate('cat', patches=first_layer('ear', by='patch') < 2)"),
    ],
)
def test_sql(cases: dict[str, Case], name: str, text: str) -> None:
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / f"patches_{name}.sql").read_text()
