"""The client's tests through the other door: what `vlq.open` opens is asked of a real server, over HTTP."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

import vlq.query.client.local
import vlq.service.served
from vlq.query.answers.asked import Asked, question
from vlq.query.cache.reader import Cache
from vlq.query.client.corpus import Corpus
from vlq.query.client.local import LocalCorpus
from vlq.query.client.remote import RemoteCorpus, RemoteResult, Service
from vlq.query.language.nodes import Node
from vlq.query.limits import Limits, size_of
from vlq.service.app import create_app
from vlq.service.server import server
from vlq.service.settings import Settings


@contextmanager
def running(app: FastAPI, **more: Any) -> Iterator[str]:
    """The URL of an application's server, on a thread of its own."""
    made: uvicorn.Server = server(app, "127.0.0.1", 0, log_level="warning", **more)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    while not made.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = made.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        made.should_exit = True
        thread.join()


class Through(RemoteCorpus):
    """A corpus behind the server. What no client of a service has, tests look up in the cache itself."""

    def __init__(self, service: Service, name: str, local: LocalCorpus) -> None:
        super().__init__(service, name)
        self.local = local

    def query(self, query: str | Node | Asked) -> ThroughResult:
        return ThroughResult(self, query if isinstance(query, str) else question(query))

    @property
    def url(self) -> str:
        return self.local.url  # under which the tests' own caches know each other

    @property
    def cache(self) -> Any:
        return self.local.cache

    def annotate(self, *arguments: Any, **named: Any) -> Any:
        return self.local.annotate(*arguments, **named)

    @property
    def zarr(self) -> Any:
        return self.local.zarr

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)


class ThroughResult(RemoteResult):
    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The service draws it, into a file if one is named; tests look at the parts of the same figure drawn here."""
        assert super().plot(path)._repr_mimebundle_()
        return self.corpus.local.query(self._text).plot()  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.corpus.local.query(self._text), name)  # type: ignore[attr-defined]


@contextmanager
def through_http() -> Iterator[None]:
    """While it lasts, `vlq.open` opens what a server of the tests' own serves."""
    numbers = itertools.count()
    usual, patience = vlq.query.client.local.open, vlq.service.served.LOOK_AGAIN
    vlq.service.served.LOOK_AGAIN = -1.0  # tests write to caches that are open
    app: FastAPI | None = None
    service: Service | None = None
    ending: Any = None

    def open(url: str | None = None, *, token: str | None = None) -> Corpus:
        nonlocal app, service, ending
        local = usual(url, token=token)
        assert isinstance(local, LocalCorpus)
        if app is None:
            app = create_app(Settings({"first": local.url}, temp=size_of("temp", Limits.temp)))
            ending = running(app)
            service = Service(ending.__enter__())
        assert service is not None
        name = f"c{next(numbers)}"
        # Unlike those that are served to others, tests' queries may open further caches.
        app.state.served.corpora[name] = LocalCorpus(Cache.open(local.url))
        return Through(service, name, local)

    vlq.query.client.local.open = open
    try:
        yield
    finally:
        vlq.query.client.local.open, vlq.service.served.LOOK_AGAIN = usual, patience
        if ending is not None:
            ending.__exit__(None, None, None)
