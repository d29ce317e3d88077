"""Two sets of images, against loops over the arrays; intervals against a bootstrap that draws image by image."""

from __future__ import annotations

import numpy as np
import pytest

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadRequest
from vlq.query.statistics import sets

from ..corpora import Case

CASES = ["several shards", "grids of their own", "some layers", "with answers", "some patches"]
PAIRS = [
    ("images(label == 'beach')", "images(label == 'grass')"),
    ("readings('dog', rank=2)", "first_layer('cat')"),
    ("images()", "images(label == 'snow')"),
]

pytestmark = pytest.mark.here("the figures of the page of two sets, which a service makes of the cache itself")


def ids(case: Case, query: str) -> set[int]:
    """From the rows that a client gets."""
    return {row["image_id"] for row in case.corpus.query(query).rows}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pair", PAIRS)
def test_sets(cases: dict[str, Case], name: str, pair: tuple[str, str]) -> None:
    case = cases[name]
    corpus = case.corpus
    assert isinstance(corpus, LocalCorpus)
    a, b = (sets.image_set(corpus.query(query)) for query in pair)
    for one, query in ((a, pair[0]), (b, pair[1])):
        assert one.images == ids(case, query)
        rows = corpus.query(query).rows
        if one.by_layer is None:
            assert "layer" not in corpus.query(query).columns
        else:
            expected: dict[int, set[int]] = {}
            for row in rows:
                expected.setdefault(row["layer"], set()).add(row["image_id"])
            assert one.by_layer == expected
    images = int(case.good.sum())
    counted = sets.sizes(a.images, b.images, images)
    assert (counted.a, counted.b, counted.of_a, counted.of_b) == (len(a.images), len(b.images), images, images)
    layer = case.run.read_layers[-1]
    top1 = case.sites["patch"].token[:, layer, :, 0]
    has = {
        id: {
            image
            for image in range(len(case.names))
            if case.good[image] and (top1[image][case.there[image]] == id).any()
        }
        for id in {int(id) for id in np.unique(top1[case.there & case.good[:, None]])}
    }
    found = sets.tokens(corpus, a.images, b.images, layer, 1000)
    readable = {*np.flatnonzero(case.chosen(None)).tolist()}
    if not a.images & readable or not b.images & readable:
        assert found == []
        return
    assert all((one.of_a, one.of_b) == (len(a.images & readable), len(b.images & readable)) for _, one in found)
    assert {id: (one.a, one.b) for id, one in found} == {
        id: (len(images & a.images), len(images & b.images)) for id, images in has.items()
    }
    sizes = [abs(one.difference or 0) for _, one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert found[:2] == sets.tokens(corpus, a.images, b.images, layer, 2)


def test_intervals() -> None:
    """As if images were drawn one by one, 4,000 times, with the sets' overlap kept."""
    images, a, b = 60, frozenset(range(30)), frozenset(range(20, 45))
    has = np.isin(np.arange(images), [*range(12), *range(22, 40), 50])
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, images, (4000, images))
    in_a, in_b = (np.isin(drawn, [*one]) for one in (a, b))
    counted = sets.sizes(a, b, images)
    expected = np.quantile(in_b.mean(1) - in_a.mean(1), [0.025, 0.975])
    assert counted.difference == pytest.approx(-5 / 60)
    assert counted.interval == pytest.approx(expected, abs=0.03)
    with np.errstate(invalid="ignore"):
        shares = [(has[drawn] & inside).sum(1) / inside.sum(1) for inside in (in_a, in_b)]
    kinds = [(side, [image for image in range(images) if (image in a) + 2 * (image in b) == side]) for side in range(4)]
    of = np.array([len(members) for _, members in kinds])
    found = sets._difference(np.array([has[members].sum() for _, members in kinds]), of, images)
    assert found == pytest.approx(np.quantile(shares[1] - shares[0], [0.025, 0.975]), abs=0.04)


def test_what_is_no_set(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    assert isinstance(corpus, LocalCorpus)
    with pytest.raises(BadRequest, match="no rows by image"):
        sets.image_set(corpus.query("defaults()"))
