"""Images of which some patches were read: what is peculiar to them. That all else holds, the random corpora show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.client.local import Corpus
from vlq.query.client.one import one_image
from vlq.query.errors import QueryError
from vlq.query.info import as_text

from .. import synthetic
from ..synthetic import make_cache, make_run
from .corpora import Case

NOTE = "Some patches of each image were read (vlq run --patches objects): the others match nothing and count nowhere."


@pytest.fixture(params=["some patches", "some patches of grids of their own"])
def case(cases: dict[str, Case], request: pytest.FixtureRequest) -> Case:
    return cases[request.param]


def test_the_corpus_has_all_kinds(case: Case) -> None:
    """Images of which nothing, something and everything was read; nothing else is in the arrays."""
    assert case.read is not None
    shares = {
        len(case.read[image]) / (case.grids[image][0] * case.grids[image][1])
        for image in np.flatnonzero(case.good).tolist()
    }
    assert {0, 1} < shares
    token = case.sites["patch"].token[..., 0][:, list(case.run.read_layers)]
    assert ((token == case.run.no_id) == ~case.there[:, None]).all()


def test_images_of_which_none_was_read_do_not_count(case: Case) -> None:
    corpus, some = case.corpus, case.chosen(None)
    assert 0 < some.sum() < case.good.sum()
    for result in (corpus.first_layer("cat"), corpus.readings("cat"), corpus.prob("cat", missing="bound")):
        assert result.summary["images"] == some.sum()
    never = corpus.first_layer("cat", missing="never")
    assert {row["image_id"] for row in never.rows} == {*np.flatnonzero(some).tolist()}
    every = corpus.query("rank('cat') > 0")
    assert every.summary["images"] == some.sum()
    assert every.summary["compared"] == case.there.sum() * len(case.run.read_layers)
    # Of text all images are asked, and so they are where not all that is asked is of patches.
    for text in ("first_layer('cat', at='last')", "first_layer('cat') < first_layer('dog', at='last')", "images()"):
        assert corpus.query(text).summary["images"] == case.good.sum()


def test_it_is_noted_once(case: Case) -> None:
    corpus, url = case.corpus, case.corpus.cache.url
    for text in (
        "first_layer('cat')", "precursors('cat')", "overlap('cat', 'dog')", "divergence('patch')", "defaults('patch')",
        "top(0)", "first_layer('cat') < last_layer('dog')", "first_layer('cat').where(layer > 1)", "locate('cat')",
        f"compare({url!r}, {url!r}, first_layer('cat'))", "first_layer('cat', patches=[0, 1])",
    ):  # fmt: skip
        assert corpus.query(text).notes.count(NOTE) == 1, text
    for text in ("first_layer('cat', at='last')", "images()", "tokens('cat', at='last')", "defaults('prompt')"):
        assert NOTE not in corpus.query(text).notes


def test_one_image(case: Case) -> None:
    assert case.read is not None
    for image in np.flatnonzero(case.good).tolist():
        rows, columns = case.grids[image]
        assert one_image(case.corpus, image).patches_read == tuple(case.read[image])
        assert [row["patch"] for row in case.corpus.top(image, layers=0).rows] == case.read[image]
        for patch in range(rows * columns):
            found = case.corpus.top(image, layers=0, patch=patch).rows
            assert [row["patch"] for row in found] == [patch] * (patch in case.read[image])
        with pytest.raises(QueryError, match=f"patch: at='patch' has the positions 0 to {rows * columns - 1}"):
            case.corpus.top(image, patch=rows * columns)


def test_sql_tells_which(case: Case) -> None:
    rows = case.corpus.sql("SELECT patches_read FROM images ORDER BY image_id").rows
    assert [row["patches_read"] or [] for row in rows] == case.read


def test_info(case: Case) -> None:
    info = case.corpus.cache.info()
    some = {"of": "objects", "images": case.chosen(None).sum(), "patches": case.there.sum()}
    assert info["patches_read"] == some
    told = f"; read are those of objects, {some['patches']} in {some['images']} images"
    assert told in as_text(info)
    assert "patches_read" not in info["columns"]


def test_another_cache_has_all_of_them(tmp_path: Path) -> None:
    corpora = {}
    for name, column in (("some", "objects"), ("all", None)):
        make_cache(tmp_path / name, make_run(patches_column=column), images=9)
        corpora[name] = vlq.open(str(tmp_path / name))
    some, whole = corpora["some"], corpora["all"]
    assert NOTE not in whole.first_layer("cat").notes
    assert whole.cache.info()["patches_read"] is None
    urls = f"{some.cache.url!r}, {whole.cache.url!r}"
    result = some.query(f"compare({urls}, readings('cat'))")
    assert "Of each image's patches those of objects were read in a, all in b." in result.notes
    assert f"In a: {NOTE}" in result.notes
    read = sum(bool(row["n"]) for row in some.sql("SELECT len(patches_read) AS n FROM images").rows)
    assert (result.summary["images"], result.summary["only_b"]) == (read, 9 - read)


@pytest.fixture(params=[True, False])
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Corpus:
    """Of no image any patch was read, in an index and without one."""
    monkeypatch.setattr(synthetic, "random_patches", lambda run, grids, seed: [[] for _ in grids])
    make_cache(tmp_path, make_run(patches_column="objects"), images=6, failed=[2], seal=request.param)
    return vlq.open(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "first_layer('cat')", "first_layer('cat', missing='never')", "peak_layer('cat', by='patch')",
        "last_layer('cat', by='corpus')", "readings('cat')", "top(0)", "emergence(['cat', 'dog'])",
        "emergence('cat', against=image == 'x')", "defaults('patch')", "divergence('patch')",
        "divergence_layer('patch')", "divergence_layer('patch', by='corpus')", "precursors('cat', min_images=1)",
        "neighbours('cat')", "overlap('cat', 'dog')", "overlap('cat', 'dog', against=image == 'x')", "locate('cat')",
        "rank('cat', missing='bound')", "prob(['cat', 'dog'], missing='bound')", "rank('cat') <= 3",
        "first_layer('cat') < first_layer('dog')", "first_layer('cat', patches=[0, 1])", "readings('cat').histogram()",
        "first_layer('cat').group(layer).count()",
    ],
)  # fmt: skip
def test_nothing_is_read_and_everything_can_be_asked(nothing: Corpus, text: str) -> None:
    result = nothing.query(text)
    assert all(not any(row.get(name) for name in ("images", "patches", "count")) for row in result.rows)
    assert result.summary.get("images", 0) == 0
    assert result.headline


def test_text_is_read_nevertheless(nothing: Corpus) -> None:
    assert nothing.first_layer("cat", at="last").summary["images"] == 5
    assert nothing.divergence("last").rows[0]["divergence"] is not None
    assert [row["error"] for row in nothing.sql("SELECT error FROM images").rows].count(None) == 5
