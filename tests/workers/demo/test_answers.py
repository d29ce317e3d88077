"""first_layer on the demo's cache: every token and every combination of arguments, against the Zarr arrays."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.client.corpus import Corpus

from ...brute import Site, picked_layers, read_site

CHOICES: dict[str, list[Any]] = {
    "rank": [1, 3, 20],
    "min_prob": [None, 0.05, 0.5],
    "layers": [None, 5, (3, 7), [2, 5, 6, 8]],
    "at": ["patch", "last"],
    "min_patches": [1, 3],
    "min_run": [1, 2],
    "by": ["image", "patch", "corpus"],
}
COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


def fits(arguments: dict[str, Any]) -> bool:
    """Whether the arguments go together."""
    if (arguments["at"] == "last" or arguments["by"] == "patch") and arguments["min_patches"] > 1:
        return False
    if arguments["layers"] == 5 and arguments["min_run"] > 1:
        return False
    return not (arguments["at"] == "last" and arguments["by"] == "patch")


@pytest.fixture(scope="module")
def corpus(demo_cache: Path) -> Corpus:
    return vlq.open(str(demo_cache))


@pytest.fixture(scope="module")
def sites(demo_cache: Path) -> dict[str, Site]:
    shards = sorted(str(path.parent.relative_to(demo_cache)) for path in demo_cache.glob("shards/*/zarr.json"))
    return {site: read_site(demo_cache, shards, site) for site in ("patch", "last")}


@pytest.fixture(scope="module")
def names(demo_cache: Path) -> list[str]:
    tables = [pq.read_table(path) for path in sorted(demo_cache.glob("images/*.parquet"))]
    return [name for table in tables for name in table["image"].to_pylist()]


def check(corpus: Corpus, site: Site, names: list[str], ids: list[int], arguments: dict[str, Any]) -> None:
    """Raises AssertionError if the answer differs from brute force."""
    layers = arguments["layers"]
    counted = {int: [layers], tuple: range(3, 8)}.get(type(layers), layers)
    given = {name: arguments[name] for name in ("rank", "min_prob", "min_patches", "min_run")}
    by = "patch" if arguments["by"] == "patch" else "image"
    expected = picked_layers(site, ids, layers=counted, by=by, **given)
    expected.sort(key=lambda row: (row["layer"], names[row["image"]], row["positions"]))
    rows = corpus.first_layer(ids if len(ids) > 1 else ids[0], **arguments).rows
    if arguments["by"] == "corpus" and expected:
        at = [row for row in expected if row["layer"] == expected[0]["layer"]]
        assert rows[0]["images"] == len(at)
        assert sum(rows[0]["histogram"].values()) == len(expected)
        expected = expected[:1]
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert (row["image"], row["layer"]) == (names[wanted["image"]], wanted["layer"])
        assert row["patches"] == (wanted["positions"] if arguments["at"] == "patch" else [])
        assert row["logprob"] == pytest.approx(min(0, wanted["logprob"]), abs=1e-5)


@pytest.mark.timeout(900)
def test_every_token(corpus: Corpus, sites: dict[str, Site], names: list[str]) -> None:
    chance = random.Random(0)
    fitting = [arguments for arguments in COMBINATIONS if fits(arguments)]
    for id in range(corpus.cache.run.vocabulary_size):
        simple = {**COMBINATIONS[0], "at": "patch", "by": "image"}
        for arguments in (simple, chance.choice(fitting)) if id % 3 == 0 else (simple,):
            check(corpus, sites[arguments["at"]], names, [id], arguments)


@pytest.mark.timeout(900)
def test_every_combination_of_arguments(corpus: Corpus, sites: dict[str, Site], names: list[str]) -> None:
    dogs = [token["id"] for token in corpus.first_layer("dog").tokens]
    behind = corpus.vocabulary.by_piece("▁behind")
    assert len(dogs) == 2
    assert behind is not None
    for number, arguments in enumerate(COMBINATIONS):
        if fits(arguments):
            check(corpus, sites[arguments["at"]], names, dogs, arguments)
            if number % 5 == 0:  # by which no choice's options come round
                check(corpus, sites[arguments["at"]], names, dogs[:1], arguments)
