"""The API on a real server: what it answers is what the corpus answers."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import random
import re
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

import vlq
from vlq.query.answers.render import to_csv, to_jsonl
from vlq.query.client.local import ask
from vlq.query.client.one import one_image
from vlq.query.client.remote import RemoteCorpus
from vlq.query.engine import Engine
from vlq.query.errors import LimitReached, NotFound, ServiceError, UnknownToken, VlqError
from vlq.query.schema import COUNTS
from vlq.query.statistics.portrait import read_of
from vlq.service.answers import Answers, Kept, Packed, Part, Parts
from vlq.service.app import create_app
from vlq.service.command import serve
from vlq.service.counts import counted
from vlq.service.images import _found
from vlq.service.served import Served
from vlq.service.settings import Settings
from vlq.workers.indexing.index import WHOLE_TABLES

from ..doors import running
from ..synthetic import make_cache, make_run, vocabulary_table
from .conftest import Site


def test_an_answer_is_the_clients(site: Site) -> None:
    answer = site.query("first_layer(token='dog')").json()
    expected = site.corpus.first_layer("dog")
    assert answer["rows"] == expected.rows
    assert answer["headline"] == expected.headline
    assert (answer["query"], answer["corpus"], answer["total"]) == ("first_layer('dog')", "one", len(expected))
    assert answer["sql"] == expected.statement.sql
    assert not answer["truncated"]
    assert answer["cursor"] is None
    by_link = site.client.get("/v1/query", params={"query": "first_layer(token='dog')"}).json()
    assert {**by_link, "timing": None} == {**answer, "timing": None}


@pytest.mark.parametrize(
    "query", ["first_layer('dog')", "readings('cat', rank=4)", "defaults()", "images(label == 'z')"]
)
def test_formats(site: Site, query: str) -> None:
    expected = site.corpus.query(query)
    assert site.query(query, format="csv").text.rstrip("\n") == to_csv(expected)
    assert site.query(query, format="jsonl").text.rstrip("\n") == to_jsonl(expected)
    stream = site.query(query, format="arrow")
    table = pa.ipc.open_stream(stream.content).read_all()
    about = json.loads(table.schema.metadata[b"vlq"])
    assert table.replace_schema_metadata(None).equals(expected.arrow())
    assert about["headline"] == expected.headline
    assert about["total"] == len(expected)


def test_pictures(site: Site) -> None:
    for form, begin in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        answer = site.query("first_layer('dog')", format=form)
        assert answer.status_code == 200
        assert answer.content.startswith(begin)


@pytest.mark.parametrize("query", ["readings('cat', rank=4)", "first_layer('dog', rank=4)"])
@pytest.mark.parametrize("form", ["json", "arrow"])
def test_every_row_comes_once_by_cursors(site: Site, query: str, form: str) -> None:
    expected = site.corpus.query(query).rows
    found: list[Any] = []
    cursor, pages = None, 0
    while True:
        answer = site.query(query, format=form, limit=3, cursor=cursor)
        if form == "json":
            about = answer.json()
            rows = about["rows"]
        else:
            table = pa.ipc.open_stream(answer.content).read_all()
            about, rows = json.loads(table.schema.metadata[b"vlq"]), table.to_pylist()
        assert len(rows) == min(3, len(expected) - len(found))
        assert about["total"] == len(expected)
        found += rows
        cursor, pages = about["cursor"], pages + 1
        assert about["truncated"] == (cursor is not None)
        if cursor is None:
            break
    assert pages > 1
    assert found == expected


def test_a_cursor_is_of_one_answer(site: Site) -> None:
    cursor = site.query("readings('cat')", limit=1).json()["cursor"]
    for query, given in (("readings('dog')", cursor), ("readings('cat')", "nonsense"), ("readings('cat')", "é")):
        answer = site.query(query, cursor=given)
        assert (answer.status_code, answer.json()["kind"]) == (400, "bad-request")


@pytest.mark.parametrize("start", ["-1", str(2**63), str(10**40)])
@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_cursor_starts_where_rows_are(site: Site, start: str, form: str) -> None:
    cursor = site.query("readings('cat')", limit=1).json()["cursor"]
    of = base64.urlsafe_b64decode(cursor + "==").decode().partition(".")[2]
    made_up = base64.urlsafe_b64encode(f"{start}.{of}".encode()).decode()
    answer = site.query("readings('cat')", cursor=made_up, format=form)
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad-request")


def test_what_does_not_change_is_not_sent_again(site: Site) -> None:
    for path in (
        "/v1/query?query=first_layer('dog')",
        "/v1/images/0",
        "/v1/images/0/lens",
        "/v1/tokens/3",
        "/v1/tokens?q=d",
        "/v1/tokens/3/examples?seed=1",
        "/v1/tokens/3/map",
    ):
        first = site.client.get(path)
        tag = first.headers["etag"]
        again = site.client.get(path, headers={"If-None-Match": tag})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert again.headers["etag"] == tag
        weaker = site.client.get(path, headers={"If-None-Match": f'"x", {tag.removeprefix("W/")}'})
        assert weaker.status_code == 304
        assert site.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    tags = {site.client.get(f"/v1/images/0/lens?k={k}").headers["etag"] for k in (1, 2)}
    assert len(tags) == 2


def test_what_was_answered_is_answered_again(site: Site) -> None:
    asked = {"query": "peak_layer('dog')", "limit": 2}
    first, again = (site.client.post("/v1/query", json=asked) for _ in range(2))
    assert {**first.json(), "timing": None} == {**again.json(), "timing": None}
    assert first.headers["etag"] == again.headers["etag"]
    assert (first.json()["timing"]["took"] > 0, again.json()["timing"]["took"]) == (True, 0)
    with_tag = site.client.post("/v1/query", json=asked, headers={"If-None-Match": again.headers["etag"]})
    assert with_tag.status_code == 304


def test_parts_are_compressed_as_one() -> None:
    draw = random.Random(0)
    numbers = bytes(draw.randrange(60, 80) for _ in range(5_000))
    text = b"the same again and again, " * 400
    for parts in ([Part(text)], [Part(text), Part(numbers, False), Part(b""), Part(text)], [Part(numbers, False)]):
        made = Kept.of(Parts(parts), "tag")
        whole = b"".join(part.data for part in parts)
        assert made.is_compressed
        assert len(made.data) < 0.7 * len(whole)
        assert (made.body, gzip.decompress(made.data)) == (whole, whole)
        program = subprocess.run(["gzip", "-dc"], input=made.data, capture_output=True, check=True)
        assert (program.stdout, program.stderr) == (whole, b"")
    assert Kept.of(Parts([Part(b"a"), Part(b"b")]), "tag") == Kept(b"ab", "tag", False)


def test_one_beginning_has_several_ends() -> None:
    text = b"the same again and again, " * 400
    packed = Packed.of(Parts([Part(text)]))
    for end in (b"", b"an end", bytes(range(256)) * 4):
        whole = packed.ended(end)
        assert gzip.decompress(whole) == text + end
        assert subprocess.run(["gzip", "-dc"], input=whole, capture_output=True, check=True).stdout == text + end


def test_an_answer_is_compressed_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    usual = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *args, **more: begun.append(args) or usual(*args, **more))
    asked = {"query": "readings('dog')", "limit": 60}
    for _ in range(2):  # made, and kept
        with site.client.stream("POST", "/v1/query", json=asked, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join(answer.iter_raw())
        assert (answer.headers["content-encoding"], len(begun)) == ("gzip", 1)
        assert json.loads(gzip.decompress(raw))["rows"]


def test_an_image_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("vlq.service.images.one_image", lambda corpus, id: asked.append(id) or one_image(corpus, id))
    _found.cache_clear()
    for path in ("lens?k=1&format=json", "lens?k=2&format=json"):
        assert site.client.get(f"/v1/images/0/{path}").json()["image"] == 0
    assert asked == [0]


def test_few_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.service.answers.BESIDE", 3)
    monkeypatch.setattr("vlq.service.answers.MOST", 16)
    monkeypatch.setattr("vlq.service.answers.LARGEST", 6)
    answers = Answers()
    for key, answer in (("a", b"1234"), ("b", b"1234"), ("a", b"123"), ("c", b""), ("large", b"1234567")):
        answers.put(key, Kept.of(answer, "tag"))

    def kept(keys: str) -> list[bytes | None]:
        found = [answers.get(key) for key in keys]
        return [None if one is None else one.body for one in found]

    assert kept("abc") == [b"123", b"1234", b""]
    assert (answers.get("large"), answers.size) == (None, 16)
    answers.get("a")
    answers.put("d", Kept.of(b"12", "tag"))
    assert kept("abcd") == [b"123", None, b"", b"12"]
    assert answers.size == 3 + 0 + 2 + 3 * 3


@pytest.mark.parametrize("path", ["/v1/query?query=tokens('')", "/v1/images/0/lens?k=2", "/v1/tokens?q=&limit=40"])
def test_an_answer_is_the_same_however_it_is_sent(site: Site, path: str) -> None:
    """Made or kept, compressed or not."""
    sent = []
    for _ in range(2):
        for encoding in ("gzip", "identity"):
            with site.client.stream("GET", path, headers={"Accept-Encoding": encoding}) as answer:
                raw = b"".join(answer.iter_raw())
            assert answer.headers.get("content-encoding", "identity") == encoding
            assert "accept-encoding" in answer.headers["vary"].lower()
            assert int(answer.headers["content-length"]) == len(raw)
            body = gzip.decompress(raw) if encoding == "gzip" else raw
            assert len(body) > 1024
            sent.append(re.sub(rb'"timing":{[^}]*}', b"", body))
    assert sent.count(sent[0]) == 4


def test_what_changes_has_another_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.service.served.LOOK_AGAIN", -1.0)
    make_cache(tmp_path, images=4)
    with running(create_app(Settings({"one": str(tmp_path)}))) as url:
        first = httpx2.get(f"{url}/v1/query?query=images()")
        vlq.open(str(tmp_path)).annotate(pa.table({"image_id": [0, 1, 2, 3], "good": [True, False, True, True]}))
        again = httpx2.get(f"{url}/v1/query?query=images()", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 200
    assert "good" not in first.json()["columns"]
    assert "good" in again.json()["columns"]


def test_a_mistake_has_one_shape(site: Site) -> None:
    answer = site.query("first_layer(token='dgo')")
    assert answer.status_code == 400
    assert answer.json() == {
        "kind": "unknown-token",
        "message": "'dgo' is no word of this vocabulary.",
        "hint": "Did you mean 'dog'?",
        "span": [18, 23],
    }
    for found in (
        site.client.post("/v1/query", json={"query": 3}),
        site.client.post("/v1/query", json={"query": "images()", "fromat": "csv"}),
        site.client.post("/v1/query", content=b"{"),
        site.client.get("/v1/nothing"),
        site.client.delete("/v1/query"),
        site.client.get("/v1/images/999"),
        site.client.get("/v1/images/1/lens"),
        site.client.get("/v1/images/-1"),
        site.client.get("/v1/images/x"),
        site.client.get("/v1/tokens/99999999"),
        site.client.get("/v1/images/0/lens?site=answer"),
        site.client.get("/v1/info?corpus=three"),
    ):
        assert found.status_code in (400, 404, 405), found.url
        assert set(found.json()) == {"kind", "message", "hint", "span"}
        assert found.json()["message"]


def test_a_query_that_is_typed_may_be_unfinished(site: Site) -> None:
    """tests/query/language/test_typed.py has what is unfinished and what is not."""

    def checked(query: str, **values: object) -> dict[str, Any]:
        return dict(site.client.post("/v1/check", json={"query": query, **values}).json())

    begun, wrong = "first_layer('do", "first_layr('do"
    assert checked(begun)["kind"] == checked(begun, typing=False)["kind"] == "syntax"
    assert checked(begun, typing=True) == {**checked(begun), "kind": "unfinished"}
    assert checked(wrong)["span"] == [11, 12]
    assert (checked(wrong, typing=True)["kind"], checked(wrong, typing=True)["span"]) == ("unknown-name", [0, 10])
    assert checked("first_layer('dog')", typing=True) == checked("first_layer('dog')")


NINES = "9" * 5000
"""Python refuses to read such a number."""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/tokens?q={NINES[:200]}", 200),
        (f"/v1/tokens/{NINES}", 400),
        (f"/one/tokens/{NINES}", 404),
        (f"/one/tokens?q={NINES}", 200),
        (f"/one/tokens/5?layer={NINES}", 200),
        (f"/one/images/0?patch={NINES}", 200),
        (f"/one/compare?images={NINES}&layers={NINES}", 200),
    ],
)
def test_numbers_without_end(site: Site, path: str, status: int) -> None:
    assert site.client.get(path).status_code == status


@pytest.mark.parametrize(
    ("body", "kind", "message", "hint"),
    [
        ("{", "application/json", "The body is no JSON object.", "/docs"),
        ("[]", "application/json", "The body is no JSON object.", "/docs"),
        ("{}", "application/json", "query: Field required.", "/docs"),
        ('{"query": "images()"}', "text/plain", "A body is expected that is JSON.", "It came as text/plain"),
        ('{"query": "images()"}', None, "A body is expected that is JSON.", "without a Content-Type"),
    ],
)
def test_a_body_that_is_none(site: Site, body: str, kind: str | None, message: str, hint: str) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    told = site.client.post("/v1/query", content=body, headers=headers).json()
    assert told["message"] == message
    assert hint in told["hint"]


def test_who_follows_a_link_gets_a_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told to programs as JSON, to browsers as a page with a way on."""
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path, status, says in (
        ("/one/images/999", 404, "There is no image 999."),
        ("/one/images/x", 404, "There is no image "),
        ("/one/tokens/99999", 404, "There is no token 99999."),
        ("/three/", 404, "There is no corpus three."),
        ("/a/b/c/d", 404, "Not Found"),
    ):
        page, told = site.client.get(path, headers=browser), site.client.get(path)
        assert (page.status_code, told.status_code) == (status, status)
        assert page.headers["content-type"].startswith("text/html")
        assert says in page.text
        assert ('href="/one/"' in page.text) == path.startswith("/one/") or "corpora" in page.text
        assert says in told.json()["message"]
    assert site.client.get("/v1/images/999", headers=browser).json()["kind"] == "not-found"
    for end in ("", "%3C%2Fscript%3E"):
        injected = site.client.get(f"/one/tokens/%3Cscript%3Ealert(1){end}", headers=browser, follow_redirects=True)
        assert "<script>alert" not in injected.text
    assert "<script>alert" not in injected.text
    monkeypatch.setattr(Engine, "rows", lambda *_: 1 / 0)
    accident = site.client.get("/one/images/3", headers=browser)
    assert (accident.status_code, "Something went wrong here." in accident.text) == (500, True)
    assert "ZeroDivision" not in accident.text


def test_words_and_names_lead_to_pages(site: Site) -> None:
    """Somebody who types an address writes a word for a token, and an image's name for its number."""
    pieces = vocabulary_table(site.corpus.cache.run.vocabulary_size)["piece"].to_pylist()
    top1 = site.arrays["patch/top1"]
    spelled = [id for id, piece in enumerate(pieces) if piece is not None and piece.lower() == "▁dog"]
    assert len(spelled) > 1
    most = max(spelled, key=lambda id: ((top1 == id).any((1, 2)).sum(), (top1 == id).sum(), -id))
    name = site.corpus.images().rows[3]["image"]
    for path, to in (
        ("tokens/dog", f"tokens/{most}"),
        ("tokens/DOG?layer=2", f"tokens/{most}?layer=2"),
        *((f"tokens/{quote(piece)}", f"tokens/{pieces.index(piece)}") for piece in ("▁Dog", "▁dog", "<s>", "w0")),
        ("tokens/do", "tokens?q=do"),
        ("tokens/no%20such%3Fone%26", "tokens?q=no+such%3Fone%26"),
        (f"images/{quote(name)}?layer=1", f"images/{site.corpus.image(name).number}?layer=1"),
    ):
        answer = site.client.get(f"/one/{path}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/one/{to}"), path
        assert site.client.get(answer.headers["location"]).status_code == 200


def test_words_that_look_like_addresses_lead_to_their_tokens(tmp_path: Path) -> None:
    """And a number is an id, but a search for it finds the digits, too."""
    table = vocabulary_table(make_run().vocabulary_size)
    words = {4: "random", 5: "and/or", 6: "7", 7: "either/map", 8: "?q=#"}
    for name, space in (("piece", "▁"), ("text", " ")):
        values = table[name].to_pylist()
        for id, word in words.items():
            values[id] = f"{space}{word}"
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    make_cache(tmp_path / "words", images=4, vocabulary=table)
    app = create_app(Settings({"words": str(tmp_path / "words")}))
    with running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        for id, word in words.items():
            if not word.isdecimal():
                answer = client.get(f"/words/tokens/{quote(word, safe='')}")
                assert (answer.status_code, answer.headers["location"]) == (303, f"/words/tokens/{id}"), word
        found = [token["id"] for token in client.get("/v1/tokens", params={"q": "7"}).json()["tokens"]]
        assert found[:2] == [7, 6]
        assert {*found} == {7, *(id for id, text in enumerate(table["text"].to_pylist()) if "7" in (text or ""))}
        page = client.get("/words/tokens/4").text
        (random_one,) = re.findall(r'id="random" href="([^"]+)"', page)
        assert re.fullmatch(r"/words/tokens/\d+", client.get(random_one).headers["location"])


def test_an_accident_tells_nothing_of_the_machine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "rows", lambda *_: 1 / 0)
    answer = site.query("last_layer('dog')")
    assert answer.status_code == 500
    assert answer.json()["message"] == "Something went wrong here."
    assert "ZeroDivision" not in answer.text
    assert answer.headers["content-security-policy"]
    assert site.query("last_layer('dog')").status_code == 500  # the connection goes on


def test_other_caches_are_not_opened(site: Site, tmp_path: Path) -> None:
    make_cache(tmp_path)
    for a, b in (("one", str(tmp_path)), (str(tmp_path), "one")):
        answer = site.query(f"compare({a!r}, {b!r}, images())")
        assert (answer.status_code, answer.json()["message"]) == (400, "This service opens no other cache.")
        assert answer.json()["hint"].startswith("It has one, two.")
    assert site.query("compare('one', 'two', defaults())").status_code == 200


def test_corpora(site: Site) -> None:
    one, two = site.client.get("/v1/corpora").json()["corpora"]
    assert (one["name"], one["images"], two["name"], two["images"]) == ("one", 11, "two", 5)
    assert site.client.get("/v1/info", params={"corpus": "one"}).json() == {**site.corpus.info(), "cache": "one"}
    assert site.query("images()", corpus="two").json()["total"] == 5


def test_sql(site: Site) -> None:
    corpus = vlq.open(site.url)
    answer = corpus.sql("SELECT count(*) AS n FROM images")
    assert (answer.rows, answer.headline) == ([{"n": 12}], "1 row")
    assert corpus.sql_tables() == site.corpus.sql_tables()
    mistake = site.client.post("/v1/sql", json={"statement": "DROP TABLE images"})
    assert (mistake.status_code, mistake.json()["kind"]) == (400, "sql")


# --- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["patch", "prompt", "last"])
@pytest.mark.parametrize("k", [1, 3])
def test_readings_of_an_image(site: Site, where: str, k: int) -> None:
    """By safetensors' own reader, against the arrays that were written."""
    stored = "patch" if where == "patch" else "prompt"
    own = slice(-1, None) if where == "last" else slice(None)
    token = site.arrays[f"{stored}/token"][4][:, own, :k]
    logprob = site.arrays[f"{stored}/logprob"][4][:, own, :k]
    entropy = site.arrays[f"{stored}/entropy"][4][:, own]
    data = site.client.get(f"/v1/images/4/lens?site={where}&k={k}").content
    found = safetensors.numpy.load(data)
    assert np.array_equal(np.moveaxis(found["ids"][found["token"]], 0, -1), token)
    assert np.array_equal(np.moveaxis(found["prob"], 0, -1), np.exp(logprob.astype(np.float32)).astype(np.float16))
    assert np.array_equal(found["entropy"], entropy.astype(np.float16))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    texts = json.loads(header["texts"])
    for id, text in zip(found["ids"], texts, strict=True):
        piece = site.corpus.vocabulary.token(int(id)).piece
        assert (text[1] if isinstance(text, list) else text) == (str(id) if piece is None else piece)
    plain = site.client.get(f"/v1/images/4/lens?site={where}&k={k}&format=json").json()
    assert np.array_equal(plain["token"], token)
    assert np.allclose(plain["logprob"], logprob)


def test_an_image(site: Site) -> None:
    found = site.client.get("/v1/images/2").json()
    row = site.corpus.query("images().where(image_id == 2)").rows[0]
    assert (found["image"], found["columns"], found["error"]) == (row["image"], {"label": "a"}, None)
    assert (found["previous"], found["next"]) == (0, 3)
    boxes = {row["patch"]: row["box"] for row in site.corpus.query("top(2, layers=0)").rows if "box" in row}
    rows, columns = found["grid"]
    assert (len(found["x"]), len(found["y"])) == (columns + 1, rows + 1)
    for patch, box in boxes.items():
        row, column = divmod(patch, columns)
        assert box == [found["x"][column], found["y"][row], found["x"][column + 1], found["y"][row + 1]]
    failed = site.client.get("/v1/images/1").json()
    assert failed["error"]
    assert failed["grid"] is None


# --- tokens ----------------------------------------------------------------------------------------------------


def test_tokens(site: Site) -> None:
    read = site.arrays["patch/top1"]
    found = site.client.get("/v1/tokens", params={"q": ""}).json()["tokens"]
    assert len(found) == len(site.corpus.vocabulary)
    for token in found:
        assert token["readings"] == np.count_nonzero(read == token["id"])
        assert token["images"] == np.count_nonzero((read == token["id"]).any((1, 2)))
    assert [token["images"] for token in found] == sorted((token["images"] for token in found), reverse=True)
    dogs = site.client.get("/v1/tokens", params={"q": "DOG"}).json()["tokens"]
    assert dogs[0]["text"].strip().lower() == "dog"
    assert all("dog" in token["text"].lower() for token in dogs)
    one = site.client.get(f"/v1/tokens/{dogs[0]['id']}").json()
    assert {key: one[key] for key in dogs[0]} == dogs[0]
    counts = counted(site.corpus)
    assert one["next"] is None or counts[one["next"]].images >= one["images"]


def test_where_a_token_is_read(site: Site) -> None:
    """What is computed, tests/query/statistics/test_portrait.py holds against brute force; here it is served."""
    get = lambda name, **more: site.client.get(f"/v1/tokens/0/{name}", params=more).json()  # noqa: E731
    tokens, logprobs = site.arrays["patch/token"], site.arrays["patch/logprob"]
    for layer in (None, 3):
        at = slice(None) if layer is None else slice(layer, layer + 1)
        more = {} if layer is None else {"layer": layer}
        for rank in (1, 3):
            hit = tokens[:, at, :, :rank] == 0
            assert sum(get("probabilities", rank=rank, **more)["bins"]) == np.count_nonzero(hit)
            found = get("map", rank=rank, **more)
            assert found["found"] == hit.any(-1).sum((0, 1)).tolist()
            assert found["of"] == [11 * hit.shape[1]] * 12
        read = tokens[:, at, :, 0] == 0
        own = read.any((1, 2))
        company = get("together", count=1, **more)
        assert company["labels"] is None
        other = company["tokens"][0]
        assert other["reading"] == np.count_nonzero(own)
        assert other["both"] == np.count_nonzero(own & (tokens[:, at, :, 0] == other["id"]).any((1, 2)))
    best = np.where(tokens[..., 0] == 0, logprobs[..., 0], -np.inf).max((1, 2))
    chosen = get("examples", count=3)
    assert [one["image"] for one in chosen["examples"]] == sorted(range(12), key=lambda i: (-best[i], i))[:3]
    assert chosen["images"] == np.count_nonzero(np.isfinite(best))
    assert get("examples", seed=1) == get("examples", seed=1)
    assert site.client.get("/v1/tokens/0/map?layer=9").status_code == 400
    assert site.client.get("/v1/tokens/99999/map").status_code == 404


def test_from_layer_to_layer(site: Site) -> None:
    """By way of the service; tests/query/statistics/test_depth.py has the figures of all kinds of corpora."""
    good = np.arange(12) != 1
    for where in ("patch", "last"):
        read = site.arrays["patch/top1"] if where == "patch" else site.arrays["prompt/top1"][:, :, -1:]
        read = read[good]
        found = site.client.get("/v1/layers/agreement", params={"at": where}).json()
        assert found["positions"] == read[:, 0].size
        assert found["agree"] == (read == read[:, -1:]).sum((0, 2)).tolist()
        found = site.client.get("/v1/layers/changes", params={"at": where, "before": 1, "after": 4, "limit": 5}).json()
        assert found["kept"] == np.count_nonzero(read[:, 1] == read[:, 4])
        first = found["flows"][0]
        pairs = (read[:, 1] == first["source"]) & (read[:, 4] == first["target"])
        assert (first["positions"], first["images"]) == (np.count_nonzero(pairs), np.count_nonzero(pairs.any(-1)))
        assert len(found["tokens"]) == 5
    assert site.client.get("/v1/layers/changes?before=1&after=5").status_code == 400


def test_completion(site: Site) -> None:
    def ways(text: str) -> list[str]:
        return [way["text"] for way in site.client.post("/v1/complete", json={"text": text}).json()["candidates"]]

    assert "first_layer(" in ways("first_l")
    assert "first_layer('dog'" in ways("first_layer('do")
    assert "first_layer(['cat', 'dog'" in ways("first_layer(['cat', 'do")
    assert "images(label" in ways("images(la")
    assert ways("first_layer('dog').wh")[0] == "first_layer('dog').where("


def test_the_language_is_described(site: Site) -> None:
    language = site.client.get("/v1/language").json()
    names = [entry["name"] for entry in language["functions"]]
    assert "first_layer" in names
    assert {key: language["functions"][0]["arguments"][0][key] for key in ("name", "required")} == {
        "name": "token",
        "required": True,
    }


# --- the client ------------------------------------------------------------------------------------------------


FORKED = """
import os, sys
import vlq

corpus = vlq.open(sys.argv[1])
word = "cat" if (child := os.fork()) == 0 else "dog"
for _ in range(50):
    assert corpus.first_layer(word).tokens[0]["text"] == f" {word}"
assert child == 0 or os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_processes_that_were_forked_have_answers_of_their_own(site: Site) -> None:
    subprocess.run([sys.executable, "-c", FORKED, site.url], timeout=120, check=True)


def test_the_client_names_corpora(site: Site) -> None:
    assert vlq.open(site.url).info() == {**site.corpus.info(), "cache": "one"}
    two = vlq.open(f"{site.url}/two")
    assert isinstance(two, RemoteCorpus)
    assert (two.name, two.url) == ("two", f"{site.url}/two")
    assert len(two.images()) == 5
    with pytest.raises(NotFound) as caught:
        vlq.open(f"{site.url}/three")
    assert caught.value.hint == "It has one, two."
    with pytest.raises(NotFound, match="/one/images/0 is the address of no corpus"):
        vlq.open(f"{site.url}/one/images/0")


def test_a_comparison_names_corpora_by_their_addresses(site: Site, tmp_path: Path) -> None:
    """The service is asked by its own names for them. One of its corpora is not compared with a cache elsewhere."""
    one, two = vlq.open(site.url), vlq.open(f"{site.url}/two")
    # Both are made of the same images: the first five.
    expected = one.query("compare('one', 'two', first_layer('dog'))")
    assert len(expected) > 0
    text = f"compare('{site.url}/one', '{site.url}/two', first_layer('dog'))"
    for asked in (
        one.compare(two, "first_layer('dog')"),
        one.compare(f"{site.url}/two", "first_layer('dog')"),
        ask(text),
    ):
        assert (asked.query, asked.rows, asked.headline) == (expected.query, expected.rows, expected.headline)
    with pytest.raises(UnknownToken) as caught:
        ask(text.replace("dog", "dgo"))
    assert caught.value.query == "compare('one', 'two', first_layer('dgo'))"
    assert caught.value.query[slice(*(caught.value.span or ()))] == "'dgo'"
    make_cache(tmp_path)
    for mixed in (
        lambda: vlq.open(str(tmp_path)).compare(two, "images()"),
        lambda: one.compare(str(tmp_path), "images()"),
    ):
        with pytest.raises(VlqError, match=r"needs the cache itself|opens no other cache"):
            mixed()


def test_a_statement_takes_what_the_service_gives(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(site.app.state.served.settings, memory=2 * 10**8, most_rows=5, temp=2**30)
    corpus, large = vlq.open(site.url), "SELECT length(repeat('x', 2_000_000_000)) AS n"
    given = "This service gives a statement 30 seconds, {} and {} rows at most."
    for memory in ("200MB", 200_000_000):
        with pytest.raises(LimitReached) as caught:
            corpus.sql(large, memory=memory)
        assert caught.value.message == "The statement needs more than 200MB of memory."
        assert caught.value.hint.endswith("\n" + given.format("4GB of memory, no disk", "1,000,000"))
    monkeypatch.setattr(site.app.state.served, "settings", settings)
    with pytest.raises(LimitReached, match="needs more than 200MB of memory"):
        corpus.sql(large, memory="100GB")
    with pytest.raises(LimitReached, match="more than 5 rows") as caught:
        corpus.sql("SELECT 1 AS a FROM range(6)")
    assert caught.value.hint.endswith("\n" + given.format("200MB of memory, 1GiB of disk", "5"))


def test_what_needs_the_cache_itself_says_where_it_is(site: Site) -> None:
    one = vlq.open(site.url)
    for name, needs in {
        "annotate": lambda: one.annotate({"image": ["000-0.png"], "note": ["x"]}),
        "zarr": lambda: one.zarr,
        "cache": lambda: one.cache,  # type: ignore[attr-defined]
    }.items():
        with pytest.raises(ServiceError) as caught:
            needs()
        assert caught.value.message == f"{name} is not to be had through a service."
        assert caught.value.hint == "Open the cache of one itself: vlq.open, where its folder or bucket can be read."


def test_large_answers_come_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(site.app.state.served.settings, most_rows=21)
    monkeypatch.setattr(site.app.state.served, "settings", settings)
    monkeypatch.setattr("vlq.service.api.query.ROWS_AT_ONCE", 4)
    expected = site.corpus.readings("cat", rank=4)
    assert len(expected) > 2 * 21
    assert vlq.open(site.url).readings("cat", rank=4).rows == expected.rows
    assert vlq.open(site.url).readings("cat", rank=4).arrow().equals(expected.arrow())
    refused = site.query("readings('cat', rank=4)", format="csv")
    assert (refused.status_code, refused.json()["kind"]) == (400, "limit")


# --- what watches over it --------------------------------------------------------------------------------------


def test_health_and_metrics(site: Site) -> None:
    assert site.client.get("/healthz").json() == {"status": "ok"}
    before = _count(site.client.get("/metrics").text)
    site.client.get("/v1/images/0")
    assert _count(site.client.get("/metrics").text) == before + 1


def _count(text: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith("vlq_requests_total") and '/v1/images/{id}"' in line]
    return sum(float(line.split()[-1]) for line in lines if 'status="200"' in line)


def test_metrics_are_prometheus(site: Site) -> None:
    """Its own client reads them; what strangers call their methods does not make them more."""
    for method, status in (("PROPFIND", 405), ("BREW", 400), ("X" * 40, 400)):
        assert site.client.request(method, "/v1/info").status_code == status
    families = {family.name: family for family in text_string_to_metric_families(site.client.get("/metrics").text)}
    assert families["vlq_request_seconds"].type == "histogram"
    methods = {sample.labels["method"] for sample in families["vlq_requests"].samples}
    assert methods <= {"GET", "POST", "OPTIONS", "other"}
    assert "other" in methods


@pytest.mark.parametrize(
    "path", ["/", "/one/", "/healthz", "/v1/images/0", "/v1/info", "/v1/query?query=images()", "/no"]
)
def test_head(site: Site, path: str) -> None:
    whole, head = site.client.get(path), site.client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    for name in ("content-type", "etag", "location", "content-security-policy"):
        assert head.headers.get(name) == whole.headers.get(name)
    assert site.client.get("/healthz").json() == {"status": "ok"}  # the connection goes on


def test_answers_are_compressed(site: Site) -> None:
    with site.client.stream("GET", "/v1/language", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(raw)) == site.client.get("/v1/language").json()


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.1", True),
        ("GZIP", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *;q=1", False),
        ("*;q=0", False),
        ("identity", False),
        ("x-gzipped", False),
        ("gzip;q=much", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/language", "/v1/tokens?q=&limit=40"])
def test_compressed_to_whoever_takes_it(site: Site, path: str, accepted: str, taken: bool) -> None:
    """Of answers that are made anew, and of those that are kept compressed."""
    with site.client.stream("GET", path, headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert (answer.status_code, answer.headers.get("content-encoding")) == (200, "gzip" if taken else None)
    assert json.loads(gzip.decompress(raw) if taken else raw) == site.client.get(path).json()


def test_the_api_is_described_whole(site: Site) -> None:
    description = site.client.get("/openapi.json").json()
    validate(description)
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)
            for parameter in operation.get("parameters", []):
                assert not parameter["required"] or path.startswith("/v1/runs") or parameter["schema"].get("examples")


def test_the_examples_of_the_api_are_answered(site: Site) -> None:
    """Each operation with the examples of its parameters and its body; runs are started elsewhere."""
    description = site.client.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    asked = 0
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/runs"):
                continue
            url, parameters, body = path, {}, None
            for parameter in operation.get("parameters", []):
                name, examples = parameter["name"], parameter["schema"].get("examples", [])
                if parameter["in"] == "path":
                    url = url.replace(f"{{{name}}}", str(min(examples[0], 8)))  # the corpora here are small
                elif examples:
                    parameters[name] = examples[0]
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                fields = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
                body = {name: field["examples"][0] for name, field in fields.items() if field.get("examples")}
            answer = site.client.request(method, url, params=parameters, json=body)
            # The files of this corpus' images are not there, and no model is loaded here.
            expected = 404 if path.endswith(("/pixels", "/ablation")) else 200
            assert answer.status_code == expected, (method, url, answer.text[:200])
            asked += 1
    assert asked > 20


def test_questions_at_once(site: Site) -> None:
    expected = site.corpus.first_layer("cat", rank=2).rows
    answers: list[Any] = []

    def one() -> None:
        answers.append(httpx2.post(f"{site.url}/v1/query", json={"query": "first_layer('cat', rank=2)"}).json()["rows"])

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 16


def test_the_first_questions_load_no_libraries(tmp_path: Path) -> None:
    """What the pages ask, in a process that has just started to serve."""
    make_cache(tmp_path / "cache", images=4)
    script = f"""
import sys
from vlq.service.app import create_app
from vlq.service.pages import token
from vlq.service.served import Served, load_libraries
from vlq.service.settings import Settings
from vlq.query.statistics.portrait import Wanted

corpus = Served(Settings({{"one": {str(tmp_path / "cache")!r}}})).corpus("one")
load_libraries()
before = {{*sys.modules}}
for panel in (token.by_layer, token.probabilities, token.where, token.before, token.around, token.company):
    panel(corpus, Wanted(0))
print(*({{*sys.modules}} - before))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_tokens_are_counted_before_anybody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    usual = read_of
    monkeypatch.setattr(
        "vlq.service.counts.read_of", lambda corpus, site: asked.append(corpus.cache.called) or usual(corpus, site)
    )
    caches = {name: tmp_path / name for name in ("whole", "going on", "large", "damaged", "counted")}
    for number, (name, folder) in enumerate(caches.items()):
        with monkeypatch.context() as older:
            if name != "counted":
                older.delitem(WHOLE_TABLES, COUNTS)
            make_cache(folder, images=3 + number, seal=name != "going on")
    for path in (caches["damaged"] / "index").rglob("patch_top1*"):
        path.write_bytes(b"no Parquet")
    served = Served(Settings({name: str(folder) for name, folder in caches.items()}))
    sizes = {
        name: sum(file.size for file in corpus.cache.snapshot().stored("patch_top1"))
        for name, corpus in served.corpora.items()
    }
    monkeypatch.setattr("vlq.service.counts.SOON", sizes["whole"])
    served.corpora["damaged"].cache.snapshot()
    served.warm_up()
    assert sorted(asked) == ["counted", "whole"]  # where the index has the counts, whatever its size
    for name in [*asked]:
        corpus = served.corpora[name]
        assert served.kept(corpus, counted).found == read_of(corpus, "patch")
    assert sorted(asked) == ["counted", "whole"]
    monkeypatch.setattr("vlq.service.counts.SOON", 2**20)
    served.warm_up()  # what is damaged is told to who asks
    assert sorted(asked) == ["counted", "damaged", "large", "whole"]
    served.close()


def test_images_may_have_columns_of_any_name(tmp_path: Path) -> None:
    make_cache(tmp_path, images=3)
    vlq.open(str(tmp_path)).annotate(
        pa.table({"image_id": [0, 1, 2], "previous": [5, 6, 7], "following": ["a", "b", "c"]})
    )
    with running(create_app(Settings({"one": str(tmp_path)}))) as url:
        told = httpx2.get(f"{url}/v1/images/1").json()
    assert (told["previous"], told["next"]) == (0, 2)
    assert told["columns"] == {"previous": 6, "following": "b"}


def test_a_column_objects_may_hold_anything(tmp_path: Path) -> None:
    for name, values in {"texts": ["dog; cat"] * 3, "numbers": [2, 0, 1], "labels": [["dog"], [], ["cat"]]}.items():
        make_cache(tmp_path / name, images=3, columns={"objects": values})
    app = create_app(Settings({name: str(tmp_path / name) for name in ("texts", "numbers", "labels")}))
    with running(app) as url:
        for name in ("texts", "numbers", "labels"):
            for page in ("", "images/0", "tokens/dog", "tokens", "layers"):
                assert httpx2.get(f"{url}/{name}/{page}", follow_redirects=True).status_code == 200, (name, page)
            together = httpx2.get(f"{url}/v1/tokens/0/together", params={"corpus": name})
            assert together.status_code == 200, together.text


def test_what_is_loaded_is_not_searched_for_cycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that serves until its end; which takes tens of milliseconds while everybody waits."""
    make_cache(tmp_path, images=1)
    frozen: list[int] = []

    class Ended:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self) -> None:
            frozen.append(gc.get_freeze_count())

    monkeypatch.setattr("vlq.service.server.server", Ended)
    try:
        serve(cache=[str(tmp_path)], port=0)
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000
