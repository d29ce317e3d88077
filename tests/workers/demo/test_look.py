"""An image looked at by itself answers as it does among the demo's others, which a run has cached."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import vlq
from vlq.query.client.corpus import Corpus
from vlq.workers.demo.dialogues import MAIN_PROMPT

SCENE = "scene-010.png"

QUERIES = (
    "first_layer('dog', images=image == '{scene}')",
    "peak_layer(['dog', 'grass'], rank=20, images=image == '{scene}')",
    "first_layer('dog', min_prob=0.5, by='patch', images=image == '{scene}')",
    "readings('dog', min_prob=0.5, layers=8, images=image == '{scene}')",
    "rank('dog', layers=(6, 8), images=image == '{scene}')",
    "top('{scene}', at='last', rank=3)",
    "answer(images=image == '{scene}')",
)


@pytest.fixture(scope="module")
def looked(demo_cache: Path) -> Corpus:
    return vlq.look(demo_cache.parent / "scenes" / SCENE, prompt=MAIN_PROMPT, answer=4)


def alike(a: Any, b: Any) -> bool:
    """Equal, but for what batching may change in float32."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


@pytest.mark.parametrize("query", QUERIES)
def test_it_answers_as_the_cache_does(looked: Corpus, demo_cache: Path, query: str) -> None:
    cached = vlq.open(str(demo_cache)).query(query.format(scene=SCENE)).rows
    found = looked.query(query.format(scene=SCENE)).rows
    assert cached
    assert len(found) == len(cached)
    for one, other in zip(found, cached, strict=True):
        assert one.keys() == other.keys()
        assert one["image_id"] == 0
        assert all(alike(one[name], other[name]) for name in one if name != "image_id"), (one, other)
