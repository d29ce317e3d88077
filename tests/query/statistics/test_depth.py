"""What changes from layer to layer, against loops over the arrays."""

from __future__ import annotations

from collections import Counter

import pytest

from vlq.query.client.local import LocalCorpus
from vlq.query.statistics import depth

from ..corpora import SHAPES, Case

pytestmark = pytest.mark.here("the figures of the layers page, which a service makes of the cache itself")


def positions(case: Case, site: str) -> list[tuple[int, list[int]]]:
    """Of each position its image, and what it decodes to at every layer."""
    there = case.at(site)
    return [
        (image, case.sites[site].token[image, :, position, 0].tolist())
        for image in range(len(case.names))
        for position in range(there.shape[1])
        if case.good[image] and there[image, position]
    ]


@pytest.mark.parametrize("site", depth.SITES)
@pytest.mark.parametrize("name", SHAPES)
def test_agreement(cases: dict[str, Case], name: str, site: str) -> None:
    case = cases[name]
    assert isinstance(case.corpus, LocalCorpus)
    layers = [*case.run.read_layers]
    read = positions(case, site)
    found = depth.agreement(case.corpus, site)
    assert (found.positions, found.layers) == (len(read), tuple(layers))
    for at, layer in enumerate(layers):
        assert found.agree[at] == sum(ids[layer] == ids[layers[-1]] for _, ids in read)
        assert found.settled[at] == sum({ids[on] for on in layers[at:]} == {ids[layers[-1]]} for _, ids in read)
    assert found.first(1.0) in layers
    assert found.first(0.0) == layers[0]
    assert found.agree[-1] == len(read)


@pytest.mark.parametrize("site", depth.SITES)
@pytest.mark.parametrize("name", SHAPES)
def test_changes(cases: dict[str, Case], name: str, site: str) -> None:
    case = cases[name]
    assert isinstance(case.corpus, LocalCorpus)
    layers = [*case.run.read_layers]
    read = positions(case, site)
    for before, after in ((layers[0], layers[-1]), (layers[-1], layers[len(layers) // 2])):
        found = depth.changes(case.corpus, site, before, after)
        assert found.positions == len(read)
        assert found.kept == sum(ids[before] == ids[after] for _, ids in read)
        counts = [Counter(ids[layer] for _, ids in read) for layer in (before, after)]
        images = [Counter(id for _, id in {(image, ids[layer]) for image, ids in read}) for layer in (before, after)]
        moved = {id for id in counts[0] | counts[1] if counts[0][id] != counts[1][id]}
        assert {one.token for one in found.tokens} == moved
        for one in found.tokens:
            assert (one.before, one.after) == (counts[0][one.token], counts[1][one.token])
            assert (one.images_before, one.images_after) == (images[0][one.token], images[1][one.token])
        assert [abs(one.gained) for one in found.tokens] == sorted(
            (abs(one.gained) for one in found.tokens), reverse=True
        )
        flows = Counter((ids[before], ids[after]) for _, ids in read)
        in_images = Counter((a, b) for _, a, b in {(image, ids[before], ids[after]) for image, ids in read})
        assert {(one.source, one.target): (one.positions, one.images) for one in found.flows} == {
            way: (count, in_images[way]) for way, count in flows.items() if way[0] != way[1]
        }
