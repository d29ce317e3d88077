"""top equals the stored arrays of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, QueryError

from ...brute import Site, read_site
from ...examples import examples
from ...synthetic import make_cache, make_run

IMAGES = 11
FAILED = [4]


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "still running"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, dict[str, Site]]:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, make_run(shard_size=3), images=IMAGES, failed=FAILED, seal=request.param)
    shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
    return vlq.open(str(folder)), {site: read_site(folder, shards, site) for site in ("patch", "prompt", "last")}


@examples(40)
@given(
    image=st.sampled_from([i for i in range(IMAGES) if i not in FAILED]),
    by_name=st.booleans(),
    layers=st.none() | st.integers(0, 4) | st.just((1, 3)) | st.just([0, 4]),
    patch=st.none() | st.integers(0, 11),
    rank=st.integers(1, 4),
    at=st.sampled_from(["patch", "last", "prompt"]),
)
def test_top(
    case: tuple[Corpus, dict[str, Site]],
    image: int,
    by_name: bool,
    layers: Any,
    patch: int | None,
    rank: int,
    at: Any,
) -> None:
    corpus, sites = case
    site = sites[at]
    patch = patch if at == "patch" else None
    name = f"{(image * 7919) % 1000:03d}-{image}.png"
    result = corpus.top(name if by_name else image, layers=layers, patch=patch, rank=rank, at=at)
    wanted = {type(None): range(5), int: [layers], tuple: range(1, 4), list: layers}[type(layers)]
    expected = [
        (layer, position, r + 1, int(site.token[image, layer, position, r]), site.logprob[image, layer, position, r])
        for layer in wanted
        for position in ([patch] if patch is not None else range(site.token.shape[2]))
        for r in range(rank)
    ]
    key = {"patch": "patch", "prompt": "position", "last": None}[at]
    found = [
        (row["layer"], row[key] if key else 0, row["rank"], row["token"], np.float32(row["logprob"]))
        for row in result.rows
    ]
    assert found == expected
    assert {row["image"] for row in result.rows} == {name}


def test_pieces_and_words(case: tuple[Corpus, dict[str, Site]]) -> None:
    corpus, sites = case
    result = corpus.top(2, layers=3)
    for row in result.rows:
        assert row["piece"] == corpus.vocabulary.token(row["token"]).piece
    best = sites["patch"].token[2, 3, :, 0].tolist()
    most = max(sorted(set(best), key=lambda id: str(corpus.vocabulary.token(id).piece or id)), key=best.count)
    piece = corpus.vocabulary.token(most).piece or str(most)
    assert result.headline.startswith(f"image 2: 12 readings; at layer 3 it reads {piece} {best.count(most)}, ")
    assert result.summary["best"][0] == [piece, best.count(most)]  # as JSON has it, of a service and here
    dogs = result.where(vlq.col("piece") == "▁dog")
    assert [row["patch"] for row in dogs.rows] == [i for i, id in enumerate(best) if id == 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top(4)", "There is no image 4 with readings."),  # it failed
        ("top(99)", "There is no image 99 with readings."),
        ("top('none.png')", "There is no image 'none.png' with readings."),
        ("top(none)", "image: none is not quoted."),
        ("top(True)", "image: expected an image's name, or its number. Got True."),
        ("top(0, patch=12)", "patch: at='patch' has the positions 0 to 11. Got 12."),
        ("top(0, patch=-1)", "patch: expected a number from 0. Got -1."),
        ("top(0, rank=5)", "rank: this cache holds the 4 best tokens of a reading. Got 5."),
    ],
)
def test_mistakes(case: tuple[Corpus, dict[str, Site]], text: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        case[0].query(text)
    assert caught.value.message == message


def test_a_name_that_two_images_have(tmp_path: Path) -> None:
    make_cache(tmp_path, images=3, names=["a.png", "b.png", "a.png"])
    with pytest.raises(BadArgument, match=r"2 images are named 'a\.png'") as caught:
        vlq.open(str(tmp_path)).top("a.png")
    assert caught.value.hint == "By number: 0, 2"
