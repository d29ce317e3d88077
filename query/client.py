"""The Python side: open a cache and ask it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from vlq.query import builders
from vlq.query.cache import Cache, default_url
from vlq.query.engine import Engine
from vlq.query.limits import Limits
from vlq.query.nodes import Call, Node
from vlq.query.parse import parse
from vlq.query.result import Result, check_corpus

if TYPE_CHECKING:
    from vlq.query.annotate import Annotated
    from vlq.query.joined import JoinedArrays
    from vlq.query.sql import SqlAnswer
    from vlq.query.tokens import Vocabulary


def open(url: str | None = None) -> Corpus:
    """The corpus cached at a URL; by default at `$VLQ_CACHE`, else the demo's. Raises NoCache, NewerFormat."""
    return Corpus(Cache.open(url or default_url()))


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

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.engine = Engine()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The lens' vocabulary."""
        return self.engine.vocabulary(self.cache)

    def query(self, query: str | Node) -> Result:
        """The answer to a query, given as text or as a node. Raises QueryError."""
        if isinstance(query, str):
            return Result(self, parse(query), query)
        return Result(self, query)

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
    images = _asking(builders.images)
    tokens = _asking(builders.tokens)

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
