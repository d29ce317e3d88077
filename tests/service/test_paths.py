"""Where a service keeps its caches and images is nobody's business: no answer and no page of any address tells."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from PIL import Image

from vlq.query.schema import LensSpec
from vlq.service.app import create_app
from vlq.service.pages import compare, layers, token
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run

SECRET = "kept-in-7f3a"
"""A part of the path of all caches and images."""

QUERIES = [
    "first_layer('dog')",
    "compare('one', 'two', first_layer('dog'))",
    "compare('one', 'two', readings('dog'))",
    "compare('two', 'one', images())",
    "compare('one', 'coarse', readings('dog'))",
    "compare('one', 'two', first_layer('dgo'))",
    "compare('one', 'three', first_layer('dog'))",
    "compare('three', 'one', first_layer('dog'))",
    "compare('one', 'tuned', first_layer('dog'))",
    "images()",
    "images().select(image, uri)",
    "images(uri == 'x')",
    "tokens('')",
    "locate('dog')",
    "defaults()",
]

COMPARED = [
    "",
    "images=0,1&runs=one,two",
    "images=0,1&runs=one,coarse",
    "a=images()&b=first_layer('dog')",
    "a=compare('one','two',images())&b=images(uri=='x')",
]

STATEMENTS = [
    "SELECT * FROM images",
    "SELECT * FROM readings",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_settings()",
    "SELECT nothing FROM images",
    "SELECT * FROM read_parquet('x')",
    "EXPLAIN SELECT * FROM images",
    "SELECT filename FROM images",
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths") / SECRET
    folder.mkdir()
    files = [folder / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        Image.new("RGB", (112, 112), (90, 90, 90 + i)).save(file)
    columns: dict[str, Any] = {
        "uri": [file.as_uri() for file in files],
        "sha256": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        "label": ["beach", "snow", "grass"] * 2,
    }
    run = make_run(model=str(folder / "models" / "llava"))
    make_cache(folder / "one", run, images=6, columns=columns, failed=[2])
    make_cache(folder / "two", replace(run, read_layers=(0, 2, 4)), images=6, columns=columns, seed=3)
    make_cache(folder / "coarse", replace(run, grid=(1, 2)), images=6, columns=columns, seed=4)
    lens = LensSpec("tuned", sha256="ab" * 32, source=str(folder / "lenses" / "mine"))
    make_cache(folder / "tuned", replace(run, lens=lens), images=6, columns=columns, seed=5)
    files[3].unlink()
    files[4].write_bytes(b"no picture")
    return folder


NAMES = ("one", "two", "coarse", "tuned")


@pytest.fixture(scope="module")
def site(kept: Path) -> Iterator[tuple[FastAPI, httpx2.Client]]:
    app = create_app(Settings({name: str(kept / name) for name in NAMES}, intervene=True))
    with running(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield app, client


def requests() -> dict[str, list[tuple[str, str, Any]]]:
    """Of each route what is asked: method, address, body."""

    def get(*addresses: str) -> list[tuple[str, str, Any]]:
        return [("GET", address, None) for address in addresses]

    def post(address: str, *bodies: Any) -> list[tuple[str, str, Any]]:
        return [("POST", address, body) for body in bodies]

    asked = [{"query": query} for query in QUERIES]
    forms = [{"query": query, "format": form} for query in QUERIES for form in ("csv", "jsonl", "arrow")]
    images, views = ("0", "1", "2", "3", "4", "999"), ("table", "images", "chart")
    states = [f"q={quote(query)}&view={view}" for query in QUERIES for view in views]
    narrower, parts = ({"condition": "uri == 'x'"}, {"images": [0]}), ("probabilities", "examples", "map", "together")
    site_of_images = [f"/one/images/{id}" for id in images]
    return {
        "/v1/query": post("/v1/query", *asked, *forms, {"query": QUERIES[0], "format": "svg"})
        + get(*(f"/v1/query?query={quote(query)}" for query in QUERIES)),
        "/v1/check": post("/v1/check", *asked, {"query": "first_layer('do", "typing": True}),
        "/v1/explain": post("/v1/explain", *asked),
        "/v1/sql": get("/v1/sql") + post("/v1/sql", *({"statement": statement} for statement in STATEMENTS)),
        "/v1/corpora": get("/v1/corpora"),
        "/v1/info": get("/v1/info", "/v1/info?corpus=two", "/v1/info?corpus=tuned", "/v1/info?corpus=no"),
        "/v1/language": get("/v1/language"),
        "/v1/complete": post("/v1/complete", {"text": "first_layer('d"}, {"text": "images(u"}),
        "/v1/facets": post("/v1/facets", *asked),
        "/v1/narrow": post("/v1/narrow", *({"query": "images()", **more} for more in narrower)),
        "/v1/images/{id}": get(*(f"/v1/images/{id}" for id in images)),
        "/v1/images/{id}/lens": get(*(f"/v1/images/{id}/lens" for id in images), "/v1/images/0/lens?format=json"),
        "/v1/images/{id}/page": get(*(f"/v1/images/{id}/page" for id in images)),
        "/v1/images/{id}/pixels": get(*(f"/v1/images/{id}/pixels" for id in images)),
        "/v1/images/{id}/ablation": [  # whose model, that of a made-up run, is nowhere
            ("POST", f"/v1/images/{id}/ablation", {"patches": [0], "target": "dog"}) for id in images
        ],
        "/v1/tokens": get("/v1/tokens?q=do"),
        "/v1/tokens/{id}": get("/v1/tokens/0", "/v1/tokens/99999"),
        **{f"/v1/tokens/{{id}}/{part}": get(f"/v1/tokens/0/{part}") for part in parts},
        "/v1/layers/agreement": get("/v1/layers/agreement"),
        "/v1/layers/changes": get("/v1/layers/changes?before=0&after=1"),
        "/v1/runs": get("/v1/runs") + post("/v1/runs", {"images": "x"}),
        **{f"/v1/runs/{{id}}{part}": get(f"/v1/runs/x{part}") for part in ("", "/log")},
        "/v1/runs/{id}/cancel": post("/v1/runs/x/cancel", None),
        "/healthz": get("/healthz"),
        "/metrics": get("/metrics"),
        "/static/{digest}/{path:path}": get("/static/x/x"),
        "/login": get("/login") + post("/login", {}),
        "/": get("/"),
        "/docs": get("/docs"),
        "/{name}/": get(*(f"/{name}/" for name in (*NAMES, "no")), *(f"/one/?{state}" for state in states)),
        "/{name}/answer": get(*(f"/one/answer?{state}" for state in states)),
        "/{name}/facets": get(*(f"/one/facets?q={quote(query)}" for query in QUERIES)),
        "/{name}/images/{id:path}": get(*site_of_images, "/one/images/nobody.png"),
        "/{name}/tokens": get("/one/tokens?q=do", "/one/tokens"),
        "/{name}/tokens/{id:path}": get("/one/tokens/0", "/one/tokens/99999", "/one/tokens/dog"),
        "/{name}/layers": get("/one/layers", "/two/layers", "/tuned/layers"),
        "/{name}/random": get("/one/random"),
        "/{name}/tokens/{id}/{panel}": get(*(f"/one/tokens/0/{panel.name}" for panel in token.PANELS)),
        "/{name}/layers/{panel}": get(*(f"/two/layers/{panel.name}" for panel in layers.PANELS)),
        "/{name}/compare/{panel}": get(
            *(f"/one/compare/{panel.name}?{state}" for panel in compare.PAIR for state in COMPARED[1:3]),
            *(f"/one/compare/{panel.name}?{state}" for panel in compare.SETS for state in COMPARED[3:]),
        ),
        "/{name}/compare": get(*(f"/one/compare?{state}" for state in COMPARED)),
    }


OF_BROKEN: list[tuple[str, str, Any]] = [
    *(("GET", f"/v1/{path}", None) for path in ("info", "images/0", "images/0/lens")),
    *(("GET", f"/one/{path}", None) for path in ("", "layers", "tokens/0", "images/0", "facets?q=images()")),
    *(("GET", f"/one/?q={query}", None) for query in QUERIES[:2]),
    *(("POST", "/v1/query", {"query": query}) for query in (QUERIES[0], "readings('dog', min_prob=0.1)")),
    ("POST", "/v1/sql", {"statement": "SELECT * FROM images"}),
]


def told(client: httpx2.Client, asked: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str]]:
    """What is answered, in whichever form, to each address."""
    for method, address, body in asked:
        answer = client.request(method, address, json=body)
        text = answer.content.decode("latin-1") + str(answer.headers)
        yield f"{method} {address} {body}: {answer.status_code}", unquote(text)


def test_no_address_tells_where_things_are_kept(site: tuple[FastAPI, httpx2.Client], kept: Path) -> None:
    app, client = site
    asked = requests()
    routers = [part.original_router for part in app.routes if hasattr(part, "original_router")]
    routes = {route.path for router in routers for route in router.routes if isinstance(route, APIRoute)}
    assert routes >= {"/v1/query", "/{name}/compare", *app.openapi()["paths"]}
    leaks, statuses = [], []
    for path in sorted(routes):
        for address, text in told(client, asked[path]):
            statuses.append(int(address[-3:]))
            if SECRET in text:
                at = text.index(SECRET)
                leaks.append(f"{address}: {text[max(0, at - 80) : at + 60]!r}")
    assert leaks == []
    assert statuses.count(200) > len(routes)  # most of them are answered


def test_no_error_tells_it_either(kept: Path, tmp_path: Path) -> None:
    """Of a cache of which some is gone, some is no longer what it was."""
    folder = tmp_path / SECRET
    for broken in ("shards", "index", "commits", "vocabulary", "plans"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        app = create_app(Settings({name: str(folder / name) for name in NAMES}))
        for file in sorted(folder.glob(f"one/**/{broken}*/**/*")) + sorted(folder.glob(f"one/{broken}*")):
            if file.is_file():
                file.write_bytes(b"broken") if broken == "index" else file.unlink()
        with running(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
            for address, text in told(client, OF_BROKEN):
                assert SECRET not in text, (broken, address, text[max(0, text.index(SECRET) - 200) :][:400])


def test_a_cache_that_is_called_as_its_folder_tells_nothing_either(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept)
    with running(create_app(Settings({"one": "one"}))) as url, httpx2.Client(base_url=url, timeout=60) as client:
        asked: list[tuple[str, str, Any]] = [
            ("GET", "/v1/images/0", None),
            ("GET", "/v1/info", None),
            ("POST", "/v1/query", {"query": "images(uri == '0.png')"}),
            ("POST", "/v1/sql", {"statement": "SELECT uri FROM images"}),
            ("POST", "/v1/explain", {"query": "images()"}),
        ]
        for address, text in told(client, asked):
            assert address.endswith("200")
            assert SECRET not in text, address
