"""Who is let in, and what becomes of requests that are too large, too slow, too many, or mean something else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from fastapi import FastAPI

import vlq
from vlq.query.errors import Busy, InputError, LimitReached, NotAllowed, ServiceError
from vlq.service.app import create_app
from vlq.service.command import check_address, token
from vlq.service.guard import COOKIE, ticket_of
from vlq.service.names import name_of, named
from vlq.service.settings import Settings

from ..doors import running
from ..faults import Faults, faulty
from ..synthetic import make_cache
from ..workers.here import printed
from .conftest import Site

READER, OPERATOR = "the readers' token", "the operators' token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    make_cache(folder, images=6)
    return folder


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[str]:
    settings = Settings({"one": str(folder)}, READER, OPERATOR, hosts=("127.0.0.1",))
    with running(create_app(settings)) as url:
        yield url


# --- tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {READER}x"}, 401),
        ({"Authorization": f"Basic {READER}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer é".encode()}, 401),
        ({"Cookie": f"{COOKIE}={READER}"}, 401),  # a browser keeps no token
        ({"Cookie": f"{COOKIE}=; ; ="}, 401),
        ({"Cookie": f"{COOKIE}={ticket_of('another')}"}, 401),
        ({"Authorization": f"Bearer {READER}"}, 200),
        ({"Authorization": f"bearer {OPERATOR}"}, 200),
        ({"Cookie": f"a=b; {COOKIE}={ticket_of(READER)}"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/corpora", "/v1/images/0", "/openapi.json", "/metrics", "/docs", "/one/"])
def test_tokens(guarded: str, headers: dict[str, Any], status: int, path: str) -> None:
    answer = httpx2.get(guarded + path, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["kind"] == "not-allowed"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_token(guarded: str) -> None:
    assert httpx2.get(f"{guarded}/healthz").status_code == 200


def test_the_client_has_a_token(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowed) as caught:
        vlq.open(guarded)
    assert caught.value.message == "This service wants a token."
    with pytest.raises(NotAllowed, match="not the token"):
        vlq.open(guarded, token="wrong")
    assert len(vlq.open(guarded, token=READER).images()) == 6
    monkeypatch.setenv("VLQ_TOKEN", READER)
    assert len(vlq.open(guarded).images()) == 6


def test_a_browser_is_asked_for_the_token(guarded: str) -> None:
    page = {"Accept": "text/html"}
    with httpx2.Client(base_url=guarded) as browser:
        sent = browser.get("/one/?q=images()", headers=page)
        assert sent.status_code == 303
        assert sent.headers["location"] == f"/login?next={quote('/one/?q=images()', safe='')}"
        form = browser.get(sent.headers["location"], headers=page)
        assert form.status_code == 200
        wrong = browser.post("/login", data={"token": "wrong", "next": "/one/"}, headers=page)
        assert wrong.status_code == 401
        assert COOKIE not in browser.cookies
        right = browser.post("/login", data={"token": READER, "next": "/one/?q=images()"}, headers=page)
        assert (right.status_code, right.headers["location"]) == (303, "/one/?q=images()")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert READER not in cookie
        assert browser.get("/v1/corpora").status_code == 200
        for elsewhere in (
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            "\\\\x",
        ):
            answer = browser.post("/login", data={"token": READER, "next": elsewhere}, headers=page)
            assert answer.headers["location"] == "/"


def test_other_names_are_not_answered(guarded: str) -> None:
    """As where a page of another site has its own name point at this machine."""
    port = urlsplit(guarded).port
    for host, status in (
        (f"127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("evil.example", 400),
        (f"evil.example:{port}", 400),
    ):
        answer = httpx2.get(f"{guarded}/v1/corpora", headers={"Host": host, "Authorization": f"Bearer {READER}"})
        assert answer.status_code == status


def test_pages_of_others_read_nothing_unless_told(site: Site, folder: Path) -> None:
    asked = {"Origin": "https://other.example"}
    assert "access-control-allow-origin" not in site.client.get("/v1/corpora", headers=asked).headers
    settings = Settings({"one": str(folder)}, READER, origins=("https://other.example",))
    preflight = {**asked, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}
    with running(create_app(settings)) as url:
        allowed = httpx2.options(f"{url}/v1/query", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://other.example"
        other = httpx2.options(f"{url}/v1/query", headers={**preflight, "Origin": "https://third.example"})
        assert "access-control-allow-origin" not in other.headers


def test_what_browsers_are_told(site: Site) -> None:
    for path in ("/v1/corpora", "/v1/nothing", "/one/"):
        headers = site.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


# --- paths -----------------------------------------------------------------------------------------------------

OUTSIDE = (
    "/v1/images/..%2f..%2fetc%2fpasswd/pixels",
    "/v1/images/0%00/pixels",
    "/v1/images/0/pixels?side=16&uri=file:///etc/passwd",
    "/static/../guard.py",
    "/static/..%2fguard.py",
    "/static/%2e%2e/guard.py",
    "/static//etc/passwd",
    "/static/..\\guard.py",
    "/../../etc/passwd",
    "/one/images/..%2f..%2f",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_outside(site: Site, path: str) -> None:
    """The path is sent as it is: clients would tidy it up."""
    with socket.create_connection(("127.0.0.1", urlsplit(site.url).port or 0)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400", b"307")  # to the same with a slash behind it
    for secret in (b"root:", b"hmac", b"compare_digest"):
        assert secret not in answer


# --- size and time ---------------------------------------------------------------------------------------------


def test_large_bodies_are_shed(site: Site) -> None:
    answer = site.client.post("/v1/query", json={"query": "x" * (2**20 + 1)})
    assert (answer.status_code, answer.json()["kind"]) == (413, "bad-request")

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    # The connection may be closed before all was sent, which would take for ever.
    with suppress(httpx2.TransportError):
        assert site.client.post("/v1/query", content=endless()).status_code == 413
    assert site.query("images()").status_code == 200


def test_200_slow_clients_keep_nobody_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.service.server.HEADER_TIME", 3.0)
    settings = Settings({"one": str(folder)}, body_time=3.0)
    with running(create_app(settings)) as url:
        address = ("127.0.0.1", urlsplit(url).port or 0)
        slow = [socket.create_connection(address) for _ in range(200)]
        try:
            begun = time.monotonic()
            half = b"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            for i, connection in enumerate(slow):
                connection.sendall(half if i % 2 else half + b"Content-Length: 400\r\n\r\n{")
            took = []
            while time.monotonic() - begun < 2:
                asked = time.monotonic()
                assert httpx2.post(f"{url}/v1/query", json={"query": "images()"}).status_code == 200
                took.append(time.monotonic() - asked)
                for connection in slow[1::20]:
                    connection.sendall(b"x: y\r\n")  # a drop more
            assert sorted(took)[len(took) // 2] < 1.5  # and not until the others' time is over
            closed = 0
            for i, connection in enumerate(slow):
                connection.settimeout(10)
                try:
                    answer = connection.recv(65536)
                except ConnectionResetError:
                    answer = b""
                closed += answer == b"" if i % 2 else answer.startswith(b"HTTP/1.1 408")
            assert closed == 200
        finally:
            for connection in slow:
                connection.close()


@pytest.mark.parametrize("piece", [1_000, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_has_a_size(site: Site, piece: int, end: bytes) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 70_000 + end
    with socket.create_connection((urlsplit(site.url).hostname, urlsplit(site.url).port or 0), 10) as connection:
        with suppress(ConnectionError):  # it may be closed before all is sent
            for start in range(0, len(head), piece):
                connection.sendall(head[start : start + piece])
        with suppress(ConnectionResetError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
            assert connection.recv(65536) == b""
    short = {"X-Long": "x" * 60_000}
    with httpx2.Client() as kept:
        assert [kept.get(f"{site.url}/healthz", headers=short).status_code for _ in range(3)] == [200, 200, 200]


def test_a_question_has_its_time(folder: Path) -> None:
    with running(create_app(Settings({"one": str(folder)}, timeout=0.2))) as url:
        query = "readings(matching('.'), rank=4)"
        slow = "SELECT count(*) FROM range(100000000) a, range(1000) b"
        answer = httpx2.post(f"{url}/v1/sql", json={"statement": slow}, timeout=20)
        assert (answer.status_code, answer.json()["kind"]) == (400, "limit")
        assert httpx2.post(f"{url}/v1/query", json={"query": query}, timeout=20).status_code in (200, 400)


def test_a_query_is_stopped(site: Site) -> None:
    """In the engine that serves: one that would take days ends after its time."""
    from vlq.query.deadline import Deadline
    from vlq.query.language.compile import Statement

    corpus = site.corpus
    endless = Statement("SELECT count(*) AS n FROM range(1000000000) a, range(1000) b", {}, {})
    with pytest.raises(LimitReached, match=r"stopped after 0\.3 seconds"), corpus.engine.within(Deadline(0.3)):
        corpus.engine.rows(endless, corpus.cache.snapshot())
    assert corpus.engine.rows(Statement("SELECT 1 AS n", {}, {}), corpus.cache.snapshot())[1] == [(1,)]


def test_too_many_questions_are_sent_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings({"one": str(folder)}, at_once=1, waiting=2))
    served, gate = app.state.served, threading.Event()
    usual = served.corpora["one"].query

    def slow(query: Any) -> Any:
        gate.wait(20)
        return usual(query)

    monkeypatch.setattr(served.corpora["one"], "query", slow)
    monkeypatch.setattr("vlq.query.client.remote.FIRST_WAIT", 0.01)
    with running(app) as url:
        statuses: list[int] = []

        def one() -> None:
            statuses.append(httpx2.post(f"{url}/v1/check", json={"query": "images()"}, timeout=30).status_code)

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        while served.waiting < 3:
            time.sleep(0.01)
        refused = httpx2.post(f"{url}/v1/check", json={"query": "images()"})
        assert (refused.status_code, refused.json()["kind"]) == (429, "busy")
        assert refused.headers["retry-after"] == "1"
        assert httpx2.get(f"{url}/healthz").status_code == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 3


def test_images_and_look_ups_do_not_wait_for_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings({"one": str(folder)}, at_once=1))
    corpus, gate = app.state.served.corpora["one"], threading.Event()
    usual = corpus.query
    monkeypatch.setattr(corpus, "query", lambda query: gate.wait(20) and usual(query))
    with running(app) as url:
        statuses: list[int] = []

        def one() -> None:
            statuses.append(httpx2.post(f"{url}/v1/check", json={"query": "images()"}, timeout=30).status_code)

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        while app.state.served.waiting < 2:
            time.sleep(0.01)
        images = ("/v1/images/0", "/v1/images/0/lens", "/v1/images/1/lens?k=1&format=json")
        for path in ("/v1/tokens/3", "/v1/tokens?q=d", *images):
            assert httpx2.get(url + path).status_code == 200
        assert (app.state.served.waiting, statuses) == (2, [])
        gate.set()
        for thread in threads:
            thread.join()
        assert statuses == [200, 200]


def test_a_busy_service_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings({"one": str(folder)}, at_once=1, waiting=0))
    monkeypatch.setattr("vlq.query.client.remote.LONGEST_WAIT", 0.05)
    with running(app) as url:
        corpus = vlq.open(url)
        app.state.served.waiting = 1
        with pytest.raises(Busy):
            corpus.images()
        threading.Timer(0.06, lambda: setattr(app.state.served, "waiting", 0)).start()
        assert len(corpus.images()) == 6


def test_who_is_gone_is_not_answered(folder: Path) -> None:
    app = create_app(Settings({"one": str(folder)}, at_once=1))
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000) b"
    corpus = app.state.served.corpora["one"]

    def query(text: str) -> Any:
        from vlq.query.language.compile import Statement

        corpus.engine.rows(Statement(endless, {}, {}), corpus.cache.snapshot())

    corpus.query = query
    with running(app) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/check", json={"query": "images()"}, timeout=0.5)
        begun = time.monotonic()
        while app.state.served.waiting and time.monotonic() - begun < 30:
            time.sleep(0.02)
        assert app.state.served.waiting == 0


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError) as caught:
            vlq.open(url)
    assert caught.value.message.startswith(f"{url} cannot be reached")
    assert caught.value.hint == "Is `vlq serve` running there?"


def test_what_is_lost_on_the_way_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.query.client.remote.FIRST_WAIT", 0.01)
    expected = site.corpus.readings("dog")
    faults = Faults(kinds=("reset", "cut short", "answer lost", "503"), seed=3)
    with faulty(site.url, faults) as url:
        corpus = vlq.open(f"{url}/one")
        faults.share = 0.25
        for _ in range(10):
            found = corpus.readings("dog")
            assert (found.rows, found.headline) == (expected.rows, expected.headline)
            assert corpus.info()["images"] == 12
        assert faults.happened.keys() == {*faults.kinds}
        faults.share = 0.0
        first, found = corpus.first_layer("dog"), corpus.readings("dog")
        for fault in ("cut short", "answer lost"):
            faults.always = fault
            for ask in (lambda: found.rows, first.plot, first.explain, corpus.info, lambda: vlq.open(url)):
                with pytest.raises(ServiceError, match="cannot be reached"):
                    ask()


def test_questions_share_a_connection(site: Site) -> None:
    with patch("socket.create_connection", wraps=socket.create_connection) as connect:
        corpus = vlq.open(site.url)
        for word in ("dog", "cat", "rock"):
            assert corpus.readings(word).rows == site.corpus.readings(word).rows
        assert corpus.sql("SELECT 1 AS n").rows == [{"n": 1}]
    assert connect.call_count == 1


@pytest.mark.parametrize("url", ["https://", "http://[::1"])
def test_no_url(url: str) -> None:
    with pytest.raises(ServiceError, match="is no URL: ") as caught:
        vlq.open(url)
    assert caught.value.hint == "Such as http://127.0.0.1:8765/demo"


# --- the command's options -------------------------------------------------------------------------------------


def test_names_of_caches() -> None:
    assert named(["/data/coco/cache", "s3://bucket/runs/llava?region=x", "mine=/data/coco/cache"]) == {
        "coco": "/data/coco/cache",
        "llava": "s3://bucket/runs/llava?region=x",
        "mine": "/data/coco/cache",
    }
    assert name_of("../my scenes/") == "my-scenes"
    with pytest.raises(InputError, match="Two caches are called coco"):
        named(["/a/coco", "/b/coco"])
    with pytest.raises(InputError, match="cannot be called v1"):
        named(["v1=/a"])


def test_caches_are_served_as_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As arguments, by the option, or both."""
    for name in ("coco", "scenes"):
        make_cache(tmp_path / name, images=1)
    coco, scenes = (str(tmp_path / name) for name in ("coco", "scenes"))
    made: list[FastAPI] = []

    def server(app: FastAPI, *_: object, **__: object) -> Mock:
        made.append(app)
        return Mock()

    monkeypatch.setattr("vlq.service.server.server", server)
    for given, served in (
        ([coco], {"coco": coco}),
        ([f"mine={scenes}", coco], {"mine": scenes, "coco": coco}),
        (["--cache", coco], {"coco": coco}),
        ([coco, "--cache", f"mine={scenes}"], {"coco": coco, "mine": scenes}),
    ):
        printed("serve", *given, "--port", 0)
        assert made.pop().state.served.settings.caches == served


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1, port {port}, cannot be listened on") as caught:
            check_address("127.0.0.1", port)
    assert caught.value.hint is not None
    assert "--port 0" in caught.value.hint
    check_address("127.0.0.1", port)
    check_address("127.0.0.1", 0)
    with pytest.raises(InputError, match="port 80, cannot be listened on"):
        check_address("no.such.host.invalid", 80)


def test_token_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME", "from the environment")
    assert token(None, "SOME") == "from the environment"
    file = tmp_path / "token"
    with pytest.raises(InputError, match="cannot be read"):
        token(file, "SOME")
    file.write_text("\n")
    with pytest.raises(InputError, match="holds no token"):
        token(file, "SOME")
    file.write_text("secret\n")
    assert token(file, "SOME") == "secret"
