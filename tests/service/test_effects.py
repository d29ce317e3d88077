"""Effects of finished studies over HTTP: the same answers in every format, a chart, and a question to begin with."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pyarrow as pa
import pytest
from PIL import Image

import vlq
from vlq.query.answers.render import render
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..studies import finish, make_study, random_effects
from ..synthetic import make_cache

QUERY = "effect(readings('rock'), 'rock', combinations='regions')"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("studied")
    store, run, _ = make_cache(found, images=12, failed=[1])
    study = make_study(run, combinations="regions")
    finish(store, study, random_effects(study, [0, 2, 3, 5, 8], 12))
    return found


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    app = create_app(Settings({"one": str(folder)}))
    with running(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("more", ["", " > 1", ".where(gone)", ".group(gone).median(effect)"])
def test_every_format_says_the_same(folder: Path, client: httpx2.Client, more: str) -> None:
    query = QUERY + more
    here = vlq.open(str(folder)).query(query)
    found = client.post("/v1/query", json={"query": query}).json()
    assert (found["rows"], found["headline"]) == (here.rows, here.headline)
    assert found["notes"] == [note.replace(str(folder), "one") for note in here.notes]
    told = client.post("/v1/query", json={"query": query, "format": "csv"}).text
    assert told.splitlines() == render(here, "csv").splitlines()
    stream = client.post("/v1/query", json={"query": query, "format": "arrow"}).content
    assert pa.ipc.open_stream(stream).read_all().to_pylist() == here.rows


def test_prominence_and_sql(folder: Path, client: httpx2.Client) -> None:
    query = "prominence(['rock', 'dog']).where(first)"
    assert client.post("/v1/query", json={"query": query}).json()["rows"] == vlq.open(str(folder)).query(query).rows
    sql = 'SELECT "set", count(*) AS n FROM effects GROUP BY ALL ORDER BY ALL'
    stream = client.post("/v1/sql", json={"statement": sql}).content
    found = pa.ipc.open_stream(stream).read_all().to_pylist()
    assert found == vlq.open(str(folder)).sql(sql).rows
    assert len(found) == 6


def test_what_nobody_measured_is_said(client: httpx2.Client) -> None:
    answered = client.post("/v1/query", json={"query": "effect(readings('dog'), 'dog')"})
    assert answered.status_code == 400
    error = answered.json()
    assert error["message"].startswith("Nobody has measured what taking readings('dog') away does to 'dog'")
    assert error["hint"].startswith("Run: vlq ablate \"readings('dog')\" --target dog --cache one\n")


def test_the_page_asks_and_draws(client: httpx2.Client) -> None:
    page = html.unescape(client.get("/one", follow_redirects=True).text)
    assert "What does 'rock' lose without readings('rock')?" in page
    answered = client.get("/one/", params={"q": QUERY})
    assert "median effect on rock" in answered.text
    drawn = client.post("/v1/query", json={"query": QUERY, "format": "png"})
    with Image.open(io.BytesIO(drawn.content)) as picture:
        assert picture.width > 300
