"""The server: uvicorn, with an end to the patience for clients that send their requests drop by drop."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIME = 10.0
"""Seconds until the head of a request is here whole. Bodies have a limit of their own: `vlq.service.guard`."""

HEAD_BYTES = 64 * 1024
"""Of the head of a request at most."""

TOO_LARGE = "The head of the request is too large."

MOST_CONNECTIONS = 1_000
"""More are sent away."""


class Protocol(HttpToolsProtocol):
    """HTTP/1.1, where a connection that has not sent the head of a request in time is closed, and a large head refused.

    uvicorn ends connections that are silent between two requests, but waits for ever for the rest of one, however long.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: asyncio.TimerHandle | None = None
        self._head = -1  # bytes that came while a head was not whole; below 0 there is none

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()  # a request is being answered
        elif self._late is None:
            self._expect()
        if self._head >= 0:
            self._head += len(data)
            if self._head > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        self._head = -1
        # The parser makes a refusal of what is raised here.
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            raise ValueError(TOO_LARGE)
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._late = self.loop.call_later(HEADER_TIME, self._shed)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _shed(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.abort()


def server(app: FastAPI, host: str, port: int, **more: Any) -> uvicorn.Server:
    """A server of an application, ready to run."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Protocol,
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            server_header=False,
            timeout_graceful_shutdown=10,
            timeout_keep_alive=75,  # longer than proxies and clients keep theirs: who closes first loses nothing
            **more,
        )
    )
