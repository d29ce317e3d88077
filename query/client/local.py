"""The Python side: open a cache and ask it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.answers.asked import Asked, question
from vlq.query.answers.result import Result
from vlq.query.cache.reader import SERVICES, Cache, default_url
from vlq.query.client.corpus import Corpus
from vlq.query.engine import Engine
from vlq.query.errors import VlqError
from vlq.query.functions.compare import first_cache
from vlq.query.language.nodes import Literal, Node
from vlq.query.language.parse import parse
from vlq.query.limits import Limits
from vlq.query.mistakes.elsewhere import NOT_SERVED
from vlq.query.summary import count

if TYPE_CHECKING:
    from vlq.query.cache.annotate import Annotated
    from vlq.query.cache.joined import JoinedArrays
    from vlq.query.language.tokens import Vocabulary
    from vlq.query.sql.statement import SqlAnswer


def open(url: str | os.PathLike[str] | None = None, *, token: str | None = None) -> Corpus:
    """The corpus cached at a path or URL, or that a service at an http(s) URL answers for; by default the one at
    `$VLQ_CACHE`, else the demo's.

    `token` is what a service lets its readers in by; default `$VLQ_TOKEN`.

    Threads may share a corpus. Another process that it is passed to opens it anew: what is pickled is its URL, without
    the token. It needs no closing.

    Raises NoCache, NewerFormat, OlderFormat, ServiceError, Forked.
    """
    url = os.fspath(url) if url else default_url()
    if url.startswith(SERVICES):
        from vlq.query.client.remote import RemoteCorpus

        return RemoteCorpus.open(url, token)
    return LocalCorpus(Cache.open(url))


def ask(query: str, url: str | None = None) -> Asked:
    """The answer of the cache at a URL; by default of the one that the query names, else as `open` chooses."""
    named = first_cache(parse(query))
    if url or named is None:
        return open(url).query(query)
    with _pointing_at(named, query):
        corpus = open(str(named.value))
    return corpus.query(query)


@contextmanager
def _pointing_at(named: Literal, text: str | None) -> Iterator[None]:
    """Errors point at the place in the text where a cache is named."""
    try:
        yield
    except VlqError as error:
        span = None if text is None else named.span
        raise type(error)(error.message, error.hint, query=text, span=span) from error


@dataclass(frozen=True)
class Others:
    """The corpora that a query may name, by URL or name."""

    corpora: dict[str, LocalCorpus] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of a service's corpora, if no others are opened


class LocalCorpus(Corpus):
    """The corpus of a cache that is read in this process. Each of its functions returns a `Result`."""

    def __init__(self, cache: Cache | str, beside: LocalCorpus | None = None, engine: Engine | None = None) -> None:
        """`beside` is a corpus that is asked together with this one. A cache that is given by its URL is opened when it
        is first looked at."""
        self._cache = cache
        self._others: Others = Others() if beside is None else beside._others
        if engine is None and beside is not None:
            engine = beside.engine
        if engine is not None:
            self.engine = engine

    @cached_property
    def engine(self) -> Engine:
        """What its questions are asked of; several corpora may share one."""
        return Engine()

    @cached_property
    def cache(self) -> Cache:
        return Cache.open(self._cache) if isinstance(self._cache, str) else self._cache

    def __reduce__(self) -> tuple[object, ...]:
        # Opened where it is looked at: what fails while it is unpickled ends a pool's worker, and nobody is told.
        return LocalCorpus, (self.url,)

    @classmethod
    def served(cls, caches: Mapping[str, Cache], engine: Engine | None = None) -> dict[str, LocalCorpus]:
        """Corpora by name, which queries may name, too. No query can open another cache."""
        engine = engine or Engine()
        corpora = {name: cls(cache, engine=engine) for name, cache in caches.items()}
        for corpus in corpora.values():
            of_url = {other.url: other for other in corpora.values()}
            corpus._others = Others(of_url | corpora, tuple(corpora))
        return corpora

    @property
    def url(self) -> str:
        """Where it is: of a folder here its whole path, by which it is found from other folders, too."""
        here = self.cache.store.local_path("")
        return self.cache.url if here is None else os.path.normpath(here)

    @property
    def names(self) -> tuple[str, ...]:
        """What queries may call it: its URL, as it was given and whole, and where it is served its name."""
        return (self.cache.url, self.url, *(name for name in self._others.names if self._others.corpora[name] is self))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The lens' vocabulary."""
        return self.engine.vocabulary(self.cache)

    def query(self, query: str | Node | Asked) -> Result:
        node, text = (parse(query), query) if isinstance(query, str) else (question(query), None)
        named = first_cache(node)
        if named is None or named.value in self.names:
            return Result(self, node, text)
        with _pointing_at(named, text):
            first = self.other(str(named.value))
        return Result(first, node, text)

    def other(self, url: str) -> LocalCorpus:
        """The corpus of another cache, opened once.

        Raises NoCache, NewerFormat, OlderFormat, and BadArgument if none may be.
        """
        known = self._others
        if url not in known.corpora:
            if known.names:
                raise NOT_SERVED.error(known=", ".join(known.names))
            known.corpora[url] = LocalCorpus(Cache.open(url), beside=self)
        return known.corpora[url]

    def _selected(self, statement: str, limits: Limits) -> SqlAnswer:
        from vlq.query.sql.statement import ask

        return ask(self.cache, statement, limits)

    def sql_tables(self) -> str:
        from vlq.query.sql.views import listing

        return listing(self.cache.run)

    def _image_file(self, number: int, **bounds: int) -> str:
        from vlq import image_file  # of a room that this one knows nothing of

        return image_file(self, number, None, **bounds)

    def annotate(self, table: Any, *, on: str | None = None, replace: bool = False) -> Annotated:
        from vlq.query.cache.annotate import annotate

        return annotate(self.cache, table, on=on, replace=replace)

    def info(self) -> dict[str, Any]:
        return self.cache.info()

    @property
    def zarr(self) -> JoinedArrays:
        from vlq.query.cache.joined import JoinedArrays

        return JoinedArrays(self.cache)

    def __repr__(self) -> str:
        run, snapshot = self.cache.run, self.cache.snapshot()
        images, layers = count(snapshot.images, "image"), count(run.layers, "layer")
        return f"<Corpus {self.cache.url}: {images}, {run.model}, {layers}>"
