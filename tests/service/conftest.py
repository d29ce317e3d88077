"""A corpus of random readings whose images are there, and its service on a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run
from .browser import chromium

__all__ = ["chromium"]


@dataclass
class Site:
    """What the tests ask, and what it is asked over."""

    url: str
    app: FastAPI
    corpus: LocalCorpus  # the first one
    arrays: dict[str, np.ndarray]
    client: httpx2.Client

    def query(self, query: str, **more: Any) -> Any:
        return self.client.post("/v1/query", json={"query": query, **more})


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("served")
    _, _, arrays = make_cache(folder / "one", images=12, failed=[1], columns={"label": list("abababababab")})
    make_cache(folder / "two", make_run(grid=(2, 3), k=3), images=5, seed=8)
    app = create_app(Settings({"one": str(folder / "one"), "two": str(folder / "two")}))
    with running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield Site(url, app, LocalCorpus(Cache.open(str(folder / "one"))), arrays, client)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a few of the demo's scenes, which its model read and answered: the images lie beside it."""
    from vlq.workers.demo.dialogues import MAIN_PROMPT
    from vlq.workers.demo.manifest import write_scenes
    from vlq.workers.demo.scenes import DEMO, compose

    from ..workers.here import printed

    folder = tmp_path_factory.mktemp("scenes")
    images = write_scenes(folder / "images", [compose(DEMO, number) for number in range(8)])
    model = Path(vlq.__file__).parent / "workers" / "demo" / "model"
    asked = {"model": model, "cache": folder / "cache", "prompt": MAIN_PROMPT, "answer": 4, "k": 5, "shard-size": 4}
    more = {"at": "patch,prompt", "workers": 1, "device": "cpu"}
    printed("run", images, *(f"--{name}={value}" for name, value in {**asked, **more}.items()))
    return folder / "cache"


def picture(path: Path, size: tuple[int, int], seed: int = 0) -> str:
    """A picture of random pixels; what its file hashes to."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
