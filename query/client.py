"""The Python side: open a cache and ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from vlq.query import builders
from vlq.query.cache import Cache, default_url
from vlq.query.engine import Engine
from vlq.query.errors import VlqError
from vlq.query.functions.compare import first_cache
from vlq.query.limits import Limits
from vlq.query.mistakes.elsewhere import ALONE
from vlq.query.nodes import Call, Literal, Node
from vlq.query.parse import parse
from vlq.query.result import Result, check_corpus

if TYPE_CHECKING:
    from vlq.query.annotate import Annotated
    from vlq.query.joined import JoinedArrays
    from vlq.query.sql import SqlAnswer
    from vlq.query.tokens import Vocabulary


def open(url: str | None = None) -> Corpus:
    """The corpus cached at a URL; by default at `$VLQ_CACHE`, else the demo's.

    Raises NoCache, NewerFormat, OlderFormat.
    """
    return Corpus(Cache.open(url or default_url()))


def ask(query: str, url: str | None = None) -> Result:
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


Arguments = ParamSpec("Arguments")


def _asking(build: Callable[Arguments, Call]) -> Callable[Concatenate[Corpus, Arguments], Result]:
    """A function of the language as a method: the node that `build` gives, asked of the corpus."""

    @wraps(build)
    def ask(corpus: Corpus, /, *positional: Arguments.args, **named: Arguments.kwargs) -> Result:
        check_corpus(corpus, *positional, *named.values())
        return corpus.query(build(*positional, **named))

    return ask


class Corpus:
    """A cached corpus of images. Its functions are the language's, bound to it: each returns a `Result`."""

    def __init__(self, cache: Cache, beside: Corpus | None = None) -> None:
        """`beside` is a corpus that is asked together with this one."""
        self.cache = cache
        self.engine: Engine = Engine() if beside is None else beside.engine
        self._opened: dict[str, Corpus] | None = {} if beside is None else beside._opened

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The lens' vocabulary."""
        return self.engine.vocabulary(self.cache)

    def query(self, query: str | Node) -> Result:
        """The answer to a query, given as text or as a node. Raises QueryError.

        A comparison of two caches is asked of the first that it names.
        """
        node, text = (parse(query), query) if isinstance(query, str) else (query, None)
        named = first_cache(node)
        if named is None or named.value == self.cache.url:
            return Result(self, node, text)
        with _pointing_at(named, text):
            first = self.other(str(named.value))
        return Result(first, node, text)

    def other(self, url: str) -> Corpus:
        """The corpus of another cache, opened once.

        Raises NoCache, NewerFormat, OlderFormat, and BadArgument if none may be.
        """
        if self._opened is None:
            raise ALONE.error()
        if url not in self._opened:
            self._opened[url] = Corpus(Cache.open(url), beside=self)
        return self._opened[url]

    def alone(self) -> Corpus:
        """The same corpus, but no query can open another cache."""
        corpus = Corpus(self.cache)
        corpus._opened = None
        return corpus

    first_layer = _asking(builders.first_layer)
    last_layer = _asking(builders.last_layer)
    peak_layer = _asking(builders.peak_layer)
    readings = _asking(builders.readings)
    rank = _asking(builders.rank)
    prob = _asking(builders.prob)
    top = _asking(builders.top)
    emergence = _asking(builders.emergence)
    defaults = _asking(builders.defaults)
    divergence = _asking(builders.divergence)
    divergence_layer = _asking(builders.divergence_layer)
    overlap = _asking(builders.overlap)
    precursors = _asking(builders.precursors)
    neighbours = _asking(builders.neighbours)
    locate = _asking(builders.locate)
    answer = _asking(builders.answer)
    images = _asking(builders.images)
    tokens = _asking(builders.tokens)

    def compare(self, b: str | Corpus, query: str | Node) -> Result:
        """The same question asked of two caches, their answers side by side.

        This one is `a`; the other is given by its URL, or opened.
        """
        url = b.cache.url if isinstance(b, Corpus) else b
        return self.query(builders.compare(self.cache.url, url, parse(query) if isinstance(query, str) else query))

    def sql(
        self,
        statement: str,
        *,
        timeout: float = Limits.timeout,
        memory: int | str = Limits.memory,
        temp: int | str = Limits.temp,
        max_rows: int = Limits.max_rows,
        threads: int | None = Limits.threads,
    ) -> SqlAnswer:
        """What a SELECT over the tables of `vlq.query.views` gives, run in a process of its own within limits.

        Raises SqlMistake if it is no such statement, LimitReached if it was stopped: see `vlq.query.limits`.
        """
        from vlq.query.sql import ask

        return ask(self.cache, statement, Limits(timeout, memory, temp, max_rows, threads))

    def annotate(self, table: Any, *, on: str | None = None, replace: bool = False) -> Annotated:
        """Join a table's columns to the images, in the cache itself: see `vlq.query.annotate.annotate`."""
        from vlq.query.annotate import annotate

        return annotate(self.cache, table, on=on, replace=replace)

    def info(self) -> dict[str, Any]:
        """Model, prompt, layers, grid, k, images, errors, size and the index's state."""
        return self.cache.info()

    @property
    def zarr(self) -> JoinedArrays:
        """The readings of all shards, each array as one along its image axis, read when sliced."""
        from vlq.query.joined import JoinedArrays

        return JoinedArrays(self.cache)

    def __repr__(self) -> str:
        run, snapshot = self.cache.run, self.cache.snapshot()
        return f"<Corpus {self.cache.url}: {snapshot.images} images, {run.model}, {run.layers} layers>"
