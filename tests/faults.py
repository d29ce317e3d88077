"""A proxy before an S3 server that behaves as servers and networks do on a bad day, by a seed."""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .serving import serving

FAULTS = ("500", "503", "slow down", "reset", "silence", "cut short", "answer lost", "slow")
"""
500, 503, slow down   the server answers so and does nothing
reset                 the connection is reset before anything is done
silence               nothing is ever answered, nothing is done
cut short             half of the answer, then the connection ends
answer lost           what was asked for is done, and the connection is reset instead of the answer
slow                  the answer comes after a moment
"""


@dataclass
class Faults:
    """What goes wrong: `share` of the requests, each in one of the ways of `kinds`; listings lag by `lag` seconds."""

    share: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    seed: int = 0
    lag: float = 0.0
    silence: float = 3.0  # seconds; clients should give up before
    always: str | None = None  # one fault for every request
    statuses: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # by method: what is always answered
    expires: int | None = None  # after so many requests the credentials are refused as expired
    happened: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)  # by method, LIST for listings

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._put: dict[str, float] = {}

    def draw(self, kind: str) -> str | None:
        with self._lock:
            self.requests[kind] += 1
            fault = self.always
            if fault is None and self._random.random() < self.share:
                fault = self._random.choice(self.kinds)
            if fault is not None:
                self.happened[fault] += 1
        return fault

    def refusal(self, method: str) -> tuple[int, str] | None:
        """What the server answers a request that it refuses, whoever asks."""
        if self.expires is not None and self.requests.total() > self.expires:
            return 400, "ExpiredToken"
        return self.statuses.get(method)

    def written(self, path: str) -> None:
        with self._lock:
            self._put[path] = time.monotonic()

    def lagging(self, bucket: str, listing: bytes) -> bytes:
        """A listing without what was put a moment ago."""
        if not self.lag:
            return listing
        with self._lock:
            young = {path for path, when in self._put.items() if time.monotonic() - when < self.lag}

        def kept(match: re.Match[bytes]) -> bytes:
            key = re.search(rb"<Key>(.*?)</Key>", match[0])
            hidden = key is not None and f"/{bucket}/{key[1].decode()}" in young
            if hidden:
                with self._lock:
                    self.happened["lagging listing"] += 1
            return b"" if hidden else match[0]

        return re.sub(rb"<Contents>.*?</Contents>", kept, listing, flags=re.DOTALL)


@contextmanager
def faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy to the server at `endpoint`."""
    target = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer's body would wait until its head is acknowledged: 40 ms

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            split = urlsplit(self.path)
            listing = self.command == "GET" and ("list-type" in parse_qs(split.query))
            fault = faults.draw("LIST" if listing else self.command)
            if refusal := faults.refusal(self.command):
                self._refuse(*refusal)
            elif fault in ("500", "503", "slow down"):
                code = {"500": "InternalError", "503": "ServiceUnavailable", "slow down": "SlowDown"}[fault]
                self._refuse(500 if fault == "500" else 503, code)
            elif fault == "reset":
                self._reset()
            elif fault == "silence":
                time.sleep(faults.silence)
                self._reset()
            else:
                status, headers, data = self._forward(body)
                if self.command == "PUT" and status == 200:
                    faults.written(unquote(split.path))
                if listing and status == 200:
                    data = faults.lagging(split.path.strip("/"), data)
                if fault == "answer lost":
                    self._reset()
                    return
                if fault == "slow":
                    time.sleep(0.1)
                self._answer(status, headers, data, len(data) // 2 if fault == "cut short" else None)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(target, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():  # the host, too, which is signed
                    connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                return response.status, response.getheaders(), response.read()
            finally:
                connection.close()

        def _refuse(self, status: int, code: str) -> None:
            data = f"<Error><Code>{code}</Code><Message>on a bad day</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else data, None)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: int | None) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data[:cut])
            if cut is not None:
                self.wfile.flush()
                self._reset()

        def _reset(self) -> None:
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            with suppress(OSError):
                self.connection.close()

        def log_message(self, *message: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # the other side may be gone, or this one closed
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def shutdown_request(self, request: Any) -> None:
            with suppress(OSError):
                super().shutdown_request(request)

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server) as url:
        yield url
