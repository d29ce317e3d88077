"""Columns that came with the images and are called as those of answers are: they tell nothing of readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import vlq
from vlq.query.client.local import LocalCorpus
from vlq.service.app import create_app
from vlq.service.facets import facets
from vlq.service.pages import answers
from vlq.service.settings import Settings

from ..synthetic import make_cache, make_run

OBJECTS = [[{"label": "dog", "box": [0.0, 0.0, 50.0, 50.0], "mask_rle": None}]] * 4

CALLED_SO: dict[str, list[Any]] = {
    "layer": [100, -5, 2, None],
    "token": [10**9, -1, 3, None],
    "text": list("abcd"),
    "patch": [99, 0, 1, None],
    "patches": [["a", "b"], [], None, ["c"]],
    "layer_of_cake": [1, 2, 3, 4],
    "area": [100.0, 200.0, 300.0, 400.0],
    "prob": [2.0, 3.0, 4.0, 5.0],
    "censored": ["yes", "no", None, ""],
    "objects": OBJECTS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("called so")
    make_cache(folder, make_run(shard_size=4), images=4, columns=CALLED_SO)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> LocalCorpus:
    corpus = vlq.open(folder)
    assert isinstance(corpus, LocalCorpus)
    return corpus


def shown(corpus: LocalCorpus, query: str, view: str) -> answers.Shown:
    return answers.answer(corpus, query, view, None, lambda _: "one")


@pytest.mark.parametrize(
    "query", ["images()", "images().sort(layer)", "images().group([image, layer, patch, area]).count()"]
)
def test_a_table_of_images_has_neither_their_layers_nor_units(corpus: LocalCorpus, query: str) -> None:
    found = shown(corpus, query, "table")
    assert {head.unit for head in found.heads if head.name in CALLED_SO} == {""}
    links = {cell.link for line in found.lines for cell in line.cells if cell.kind == "image"}
    assert all(link is not None and link.isdecimal() for link in links)
    assert not any(cell.kind == "token" for line in found.lines for cell in line.cells)
    assert not any(note.startswith("Censored") for note in found.notes)


def test_texts_of_images_are_no_pieces(corpus: LocalCorpus) -> None:
    heads = [head.name for head in shown(corpus, "images()", "table").heads]
    assert {"token", "text"} <= {*heads}


@pytest.mark.parametrize("query", ["images()", "images().select([image, layer])", "prominence()"])
def test_images_have_no_strips_of_their_own_layers(corpus: LocalCorpus, query: str) -> None:
    cards = shown(corpus, query, "images").cards
    assert len(cards) == 4
    for card in cards:
        assert card.link.partition("?")[0].isdecimal()
        assert "layer" not in card.link
        assert card.strip == ()
        assert "layer" not in card.said
        assert (card.outlines != ()) == (query == "prominence()" and "patch" in card.said)


def test_an_answers_own_columns_mean_what_they_did(corpus: LocalCorpus) -> None:
    found = shown(corpus, "first_layer('dog')", "table")
    layers = [row["layer"] for row in corpus.query("first_layer('dog')").rows]
    links = [cell.link or "" for line in found.lines for cell in line.cells if cell.kind == "image"]
    assert [f"layer={layer}&" in link for layer, link in zip(layers, links, strict=True)] == [True] * len(layers)
    assert {head.name: head.unit for head in found.heads}["logprob"] == "nats"


def test_only_the_share_of_patches_is_called_so(corpus: LocalCorpus) -> None:
    said = {
        query: {facet.column: facet.said for facet in facets(corpus, query)}.get("area")
        for query in ("images()", "readings('dog')", "locate('dog')")
    }
    assert said == {"images()": "", "readings('dog')": "", "locate('dog')": "share of the image's patches"}


@pytest.mark.parametrize("query", ["readings('dog').select([image, patch, censored])", "images()"])
def test_who_calls_a_column_censored_has_no_edges(corpus: LocalCorpus, query: str) -> None:
    result = corpus.query(query)
    assert len(result) > 0
    assert not result.is_censored
    assert "Censored:" not in repr(result)


def test_compared_caches_have_columns_of_images_too(folder: Path, corpus: LocalCorpus) -> None:
    query = f"compare({str(folder)!r}, {str(folder)!r}, images())"
    for view in ("table", "images"):
        assert shown(corpus, query, view).total == 4
    (card, *_) = shown(corpus, query, "images").cards
    assert (card.said, card.outlines, card.strip) == ("", (), ())


def test_nothing_fails_on_the_page(folder: Path) -> None:
    with TestClient(create_app(Settings({"one": str(folder)})), base_url="http://127.0.0.1") as client:
        for query in ("images()", "prominence()", "readings('dog')", "images().group([image, patch]).count()"):
            for view in ("table", "images", "chart"):
                assert client.get("/one/", params={"q": query, "view": view}).status_code == 200, (query, view)
