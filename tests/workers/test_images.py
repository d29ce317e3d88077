"""Web servers that do not give an image: their shard's failure, or the image's own where that was asked for."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vlq.query.image.pictures import BadImage, Unfetched
from vlq.query.schema import Run
from vlq.workers import images
from vlq.workers.extract import decode_ahead, read_decoded
from vlq.workers.images import DeadLink, fetching
from vlq.workers.job import given_up
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.queue import Failure
from vlq.workers.worker import Setup, describe_run

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"

NOWHERE = "http://127.0.0.1:1"


class Server:
    """/N is a status, /later the third time, /forever has no end, and all else an image of its own colour."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                asked[name] += 1
                status = 503 if name == "later" and asked[name] < 3 else int(name) if name.isdigit() else 200
                self.send_response(status)
                self.end_headers()
                try:
                    self.wfile.write(picture(name))
                    while name == "forever":
                        self.wfile.write(bytes(2**16))
                except OSError:  # who asked has gone
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def picture(name: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (24, 24), (len(name) * 40, ord(name[0]), 90)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(images, "BACK_OFF", (0.0, 0.0, 0.0))
    found = Server()
    yield found
    found.stop()


def test_dead_links(server: Server) -> None:
    """What refuses is asked once, what may be another's fault four times."""
    fetched = fetching(skip_dead_links=True)
    assert fetched(f"{server.url}/a.png") == picture("a.png")
    assert fetched(f"{server.url}/later") == picture("later")
    for status, tries in ((401, 1), (403, 1), (451, 1), (408, 4), (429, 4), (500, 4), (503, 4)):
        with pytest.raises(DeadLink, match=f"^not fetched: {status}") as caught:
            fetched(f"{server.url}/{status}")
        assert server.asked[str(status)] == tries
        assert caught.value.was_answered is (tries == 1)
    with pytest.raises(BadImage, match=r"^file not found$"):
        fetched(f"{server.url}/404")
    with pytest.raises(DeadLink, match=r"^not fetched: Cannot connect") as caught:
        fetched(f"{NOWHERE}/a.png")
    assert not caught.value.was_answered


def test_only_links_are_skipped(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/away/a.png", f"parquet://image/0::file://{tmp_path}/away.parquet"):
        with pytest.raises(OSError, match="away"):
            fetching(skip_dead_links=True)(uri)


def test_whose_links_are_not_skipped_is_told_how_they_are(server: Server) -> None:
    with pytest.raises(Unfetched, match=r"/403 cannot be read: 403 Forbidden") as caught:
        fetching(skip_dead_links=False)(f"{server.url}/403")
    error = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker
    assert "--skip-dead-links" in (given_up([Failure(0, error, 4)]).hint or "")


def test_a_stream_without_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.query.image.pictures.MAX_BYTES", 2**20)
    with pytest.raises(BadImage, match="too large"):
        fetching(skip_dead_links=False)(f"{server.url}/forever")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


@pytest.fixture(scope="module")
def run(tiny_model: Path, model: LensModel) -> Run:
    return describe_run(
        Setup(str(tiny_model), PROMPT, 5, ("patch", "prompt"), "cpu", "auto", 1, 4, 32), model, "0" * 64
    )


def read(model: LensModel, run: Run, uris: list[str]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    rows = pa.table({"image_id": range(len(uris)), "shard": [0] * len(uris), "image": uris, "uri": uris})
    with ThreadPoolExecutor(4) as decoders:
        ahead = decode_ahead(model, run, rows, decoders, fetching(skip_dead_links=True))
        arrays, table = read_decoded(model, lens_of(model, run), run, rows, ahead)
    return arrays, table.to_pylist()


def test_a_shard_is_read_without_its_dead_links(server: Server, model: LensModel, run: Run) -> None:
    names = ["a", "403", "b", "cc", "500", "d", "404", "later"]
    uris = [f"{server.url}/{name}" for name in names] + [f"{NOWHERE}/a"]
    arrays, table = read(model, run, uris)
    good = [0, 2, 3, 5, 7]
    alone, others = read(model, run, [uris[row] for row in good])
    assert [row["error"] and row["error"][:17] for row in table] == [
        *(None, "not fetched: 403 ", None, None, "not fetched: 500 ", None, "file not found", None),
        "not fetched: Cann",
    ]
    for row, other in zip(good, others, strict=True):
        assert table[row]["sha256"] == other["sha256"]
    for name, values in alone.items():
        assert np.array_equal(arrays[name] if name.startswith("sum/") else arrays[name][good], values), name


def test_a_shard_of_which_no_server_tells_anything_is_not_skipped(server: Server, model: LensModel, run: Run) -> None:
    """That is the network, not the images."""
    uris = [f"{NOWHERE}/a", f"{NOWHERE}/b", f"{server.url}/500"]
    with pytest.raises(OSError, match=r"^not one of 3 web servers' images arrived; .*/a: not fetched: Cannot connect"):
        read(model, run, uris)
    _, table = read(model, run, [*uris, f"{server.url}/403"])
    assert all(row["error"].startswith("not fetched: ") for row in table)
