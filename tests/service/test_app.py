"""The API on a real server."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import vlq
from vlq.query.client import Corpus
from vlq.service.app import create_app

from ..synthetic import make_cache


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, images=6, failed=[1])
    return vlq.open(str(folder))


@pytest.fixture(scope="module")
def address(corpus: Corpus) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(corpus), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def ask(url: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_an_answer_is_the_clients(address: str, corpus: Corpus) -> None:
    status, found = ask(f"{address}/v1/query", {"query": "first_layer(token='dog')"})
    assert status == 200
    expected = corpus.first_layer("dog")
    assert found["rows"] == expected.rows
    assert found["headline"] == expected.headline


def test_a_mistake_has_one_shape(address: str) -> None:
    status, found = ask(f"{address}/v1/query", {"query": "first_layer(token='dgo')"})
    assert status == 400
    assert found == {
        "kind": "unknown-token",
        "message": "'dgo' is no word of this vocabulary.",
        "hint": "Did you mean 'dog'?",
        "span": [18, 23],
    }


def test_other_caches_are_not_opened(address: str, corpus: Corpus, tmp_path: Path) -> None:
    make_cache(tmp_path)
    for a, b in ((corpus.cache.url, str(tmp_path)), (str(tmp_path), corpus.cache.url)):
        status, found = ask(f"{address}/v1/query", {"query": f"compare({a!r}, {b!r}, images())"})
        assert (status, found["message"]) == (400, "Other caches are not opened here.")
    assert corpus.compare(str(tmp_path), "images()").rows


def test_info_and_health(address: str, corpus: Corpus) -> None:
    assert ask(f"{address}/healthz") == (200, {"status": "ok"})
    status, found = ask(f"{address}/v1/info")
    assert (status, found["images"]) == (200, 6)
    assert found == corpus.info()


def test_questions_at_once(address: str, corpus: Corpus) -> None:
    expected = corpus.first_layer("cat", rank=2).rows
    answers: list[Any] = []

    def one() -> None:
        answers.append(ask(f"{address}/v1/query", {"query": "first_layer('cat', rank=2)"})[1]["rows"])

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 16
