"""The shipped model, and the demo's own cache: the one that `vlq demo` makes, in a folder of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlq.workers.demo.command import make_cache

MODEL = Path(__file__).parents[3] / "workers" / "demo" / "model"


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_cache(str(folder / "cache"))
    return folder / "cache"
