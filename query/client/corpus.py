"""A corpus that can be asked: what a cache here and one behind a service have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from operator import index
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from vlq.query.answers.answer import Answer
from vlq.query.answers.asked import Asked, check_corpus, question
from vlq.query.client.view import ImageView
from vlq.query.errors import NotFound
from vlq.query.language import builders
from vlq.query.language.nodes import Call, Node, col
from vlq.query.language.parse import parse
from vlq.query.limits import Limits
from vlq.query.mistakes.elsewhere import IMAGE

if TYPE_CHECKING:
    from vlq.query.cache.annotate import Annotated
    from vlq.query.cache.reader import Cache

Arguments = ParamSpec("Arguments")


def _asking(build: Callable[Arguments, Call]) -> Callable[Concatenate[Corpus, Arguments], Asked]:
    """A function of the language as a method: the node that `build` gives, asked of the corpus."""

    @wraps(build)
    def ask(corpus: Corpus, /, *positional: Arguments.args, **named: Arguments.kwargs) -> Asked:
        check_corpus(corpus, *positional, *named.values())
        return corpus.query(build(*positional, **named))

    # What notebooks show of a method: without `self` they would take the first argument for it.
    built = signature(build)
    self = Parameter("self", Parameter.POSITIONAL_ONLY)
    shown = built.replace(parameters=[self, *built.parameters.values()], return_annotation="Asked")
    ask.__signature__ = shown  # type: ignore[attr-defined]
    ask.__doc__ = f"{build.__doc__}\n\n`vlq help {build.__name__}` says what each argument means."
    return ask


class Corpus(ABC):
    """A cached corpus of images. Its functions are the language's, bound to it: each returns an answer (`Asked`)."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is."""

    @abstractmethod
    def query(self, query: str | Node | Asked) -> Asked:
        """The answer to a query, given as text, as a node, or as what another corpus was asked. Raises QueryError.

        A comparison of two caches is asked of the first that it names.
        """

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
    effect = _asking(builders.effect)
    prominence = _asking(builders.prominence)
    images = _asking(builders.images)
    tokens = _asking(builders.tokens)

    def compare(self, b: str | os.PathLike[str] | Corpus, query: str | Node | Asked) -> Asked:
        """The same question asked of two caches, their answers side by side.

        This one is `a`; the other is given by its path or URL, or opened.
        """
        other = b.url if isinstance(b, Corpus) else os.fspath(b)
        node = parse(query) if isinstance(query, str) else question(query)
        return self.query(builders.compare(self.url, other, node))

    def sql(
        self,
        statement: str,
        *,
        timeout: float = Limits.timeout,
        memory: int | str = Limits.memory,
        temp: int | str = Limits.temp,
        max_rows: int = Limits.max_rows,
        threads: int | None = Limits.threads,
    ) -> Answer:
        """What a SELECT over the tables of `vlq.query.sql.views` gives, run in a process of its own within limits.

        Raises SqlMistake if it is no such statement, LimitReached if it was stopped: see `vlq.query.limits`.
        """
        return self._selected(statement, Limits(timeout, memory, temp, max_rows, threads))

    @abstractmethod
    def _selected(self, statement: str, limits: Limits) -> Answer:
        """What `sql` gives."""

    @abstractmethod
    def sql_tables(self) -> str:
        """The tables that `sql` reads, and their columns, as `vlq sql` prints them."""

    def image(self, image: builders.Image) -> ImageView:
        """An image by its number or its name: notebooks show its page, `.save("image.html")` writes it.

        Raises NotFound if there is none with readings, or several have the name; BadArgument if it is neither.
        """
        if isinstance(image, str):
            column = "image"
        elif hasattr(image, "__index__") and not isinstance(image, bool):
            column, image = "image_id", index(image)  # whatever counts rows, as pandas' own numbers
        else:
            raise IMAGE.error(got=image)
        found = self.images().where(col(column) == image).sort("image_id").rows
        if not found:
            raise NotFound(f"There is no image {image!r} with readings.", "The images and their numbers: images()")
        if len(found) > 1:
            numbers = ", ".join(str(row["image_id"]) for row in found[:5]) + (", …" if len(found) > 5 else "")
            raise NotFound(f"{len(found)} images are called {image!r}: {numbers}.", "Give the number of one.")
        return ImageView(self, found[0]["image_id"], found[0]["image"])

    @abstractmethod
    def _image_file(self, number: int, **bounds: int) -> str:
        """The page of an image as one HTML file, within `most` and `side` of `vlq.service.pages.image_file`."""

    @abstractmethod
    def annotate(self, table: Any, *, on: str | None = None, replace: bool = False) -> Annotated:
        """Join a table's columns to the images, in the cache itself: see `vlq.query.cache.annotate.annotate`."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Model, prompt, layers, grid, k, images, errors, size and the index's state."""

    @property
    @abstractmethod
    def cache(self) -> Cache:
        """The cache itself, for who reads its records. Raises ServiceError of a service's corpus."""

    @abstractmethod
    def __reduce__(self) -> tuple[object, ...]:
        """Another process opens it anew."""

    @property
    @abstractmethod
    def zarr(self) -> Mapping[str, Any]:
        """The readings of all shards, each array as one along its image axis, read when sliced."""
