"""The shipped model, and the demo's own cache: the one that `vlq demo` makes, in a folder of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from vlq.workers.demo.command import make_cache

from ..here import without_ray

MODEL = Path(__file__).parents[3] / "workers" / "demo" / "model"


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all processes that share the tests, the first one makes it; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own in the session's
    cache = base / "vlq" / "demo" / "cache"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.parent / "lock"), without_ray():
        make_cache(str(cache))  # which goes on with what is there
    return cache
