"""The corpora that are served, and the turns in which questions are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, Literal, TypeVar

import duckdb
from fastapi import Request

from vlq.query.cache.copies import local_files
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.deadline import Deadline
from vlq.query.errors import Busy, NotFound, VlqError
from vlq.service.answers import Answers
from vlq.service.counts import counted, is_soon
from vlq.service.models import Models
from vlq.service.runs import Here, RayJobs, Runs
from vlq.service.settings import Settings

T = TypeVar("T")

LOOK_AGAIN = 30.0
"""Seconds until a sealed cache is looked at again: somebody may have annotated it."""

Kind = Literal["question", "image", "look-up"]
"""What is asked, by how long it may take."""

NOTICE = 0.25
"""Seconds until it is noticed that nobody waits for an answer any more."""


def load_libraries() -> None:
    """Load what is otherwise loaded by the first question that needs it, which would take a second longer."""
    import numpy as np
    import pyarrow as pa

    for name in ("cache.arrays", "cache.cells", "image.masks", "statistics.bootstrap", "statistics.contrast"):
        import_module(f"vlq.query.{name}")
    # Where pandas is installed, pyarrow loads it together with the first array of NumPy that it is given.
    pa.array(np.zeros(1))
    # By it DuckDB has Arrow leave out rows of a table that Python made, when that is joined with rows in memory.
    import_module("pyarrow.dataset")


@dataclass(frozen=True)
class Times:
    """What a question took, in milliseconds."""

    waited: float
    took: float


class Turns:
    """So many are answered at a time, who came first first."""

    def __init__(self, at_once: int, name: str) -> None:
        self.free = asyncio.Semaphore(at_once)
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)


class Served:
    """What all requests share. Raises as `Cache.open` does if a cache cannot be opened."""

    def __init__(self, settings: Settings, corpora: Mapping[str, LocalCorpus] | None = None) -> None:
        self.settings = settings
        self.corpora = corpora or LocalCorpus.served(
            {name: Cache.open(url, name) for name, url in settings.caches.items()}
        )
        self.engine = next(iter(self.corpora.values())).engine
        self.engine.limit(settings.memory)
        self.runs = Runs(Here() if settings.ray_jobs is None else RayJobs(settings.ray_jobs))
        self.models = Models(settings) if settings.intervene else None
        self.answers = Answers()
        self.waiting = 0
        self._turns = {
            "question": Turns(settings.at_once, "question"),
            "image": Turns(settings.at_once, "image"),
            "look-up": Turns(1, "look-up"),
        }
        self._kept: dict[tuple[str, Callable[..., Any]], tuple[str, Any]] = {}
        self._making = Lock()
        self._looked: dict[str, float] = {}

    def warm_up(self) -> None:
        """Do now, beside whoever asks already, what the first questions would wait for."""
        load_libraries()
        for corpus in self.corpora.values():
            # What is wrong with a cache is told to who asks it.
            with suppress(VlqError, OSError, duckdb.Error):
                if is_soon(corpus):
                    self.kept(corpus, counted).prepare()

    def close(self) -> None:
        for turns in self._turns.values():
            turns.threads.shutdown(cancel_futures=True)
        self.runs.launcher.close()
        if self.models is not None:
            self.models.close()

    def corpus(self, name: str | None) -> LocalCorpus:
        """The corpus of a name, by default the first one. Raises NotFound."""
        name = name or next(iter(self.corpora))
        if name not in self.corpora:
            raise NotFound(f"There is no corpus {name}.", f"There is {', '.join(self.corpora)}.")
        now = time.monotonic()
        if now - self._looked.setdefault(name, now) > LOOK_AGAIN:
            self._looked[name] = now
            self.corpora[name].cache.forget()
        return self.corpora[name]

    def add(self, name: str, url: str) -> None:
        """Serve another cache from now on."""
        if name not in self.corpora:
            caches = {known: corpus.cache for known, corpus in self.corpora.items()}
            self.corpora = LocalCorpus.served({**caches, name: Cache.open(url, name)}, self.engine)

    def name_of(self, corpus: LocalCorpus) -> str:
        names = (name for name, served in self.corpora.items() if served.cache is corpus.cache)
        return next(names, corpus.url)

    async def digest(self, corpus: LocalCorpus) -> str:
        """What names a corpus as it is now. Of a run that goes on its store is asked, which nobody else waits for."""
        if (sealed := corpus.cache.sealed) is not None:
            return sealed.digest
        return await asyncio.to_thread(lambda: corpus.cache.snapshot().digest)

    def about(self, name: str) -> dict[str, Any]:
        """A corpus in a few words."""
        cache = self.corpus(name).cache
        run, snapshot = cache.run, cache.snapshot()
        return {
            "name": name,
            "model": cache.model,
            "lens": run.lens.kind,
            "prompt": run.prompt,
            "layers": run.layers,
            "images": snapshot.images,
            "at": list(run.positions),
            "k": run.k,
            "complete": snapshot.sealed,
        }

    def kept(self, corpus: LocalCorpus, make: Callable[[LocalCorpus], T]) -> T:
        """What is made of a corpus, once as long as the cache stays as it is."""
        key, digest = (self.name_of(corpus), make), corpus.cache.snapshot().digest
        with self._making:
            if self._kept.get(key, ("", None))[0] != digest:
                self._kept[key] = digest, make(corpus)
            found: T = self._kept[key][1]
        return found

    @contextmanager
    def discreet(self) -> Iterator[None]:
        """Errors tell what caches are called, and not where they are."""
        try:
            yield
        except VlqError as error:
            raise type(error)(
                self.hidden(error.message), error.hint and self.hidden(error.hint), query=error.query, span=error.span
            ) from error

    def hidden(self, text: str) -> str:
        """A text without the places of caches, and of this machine's own files."""
        places = {str(local_files()): "vlq"}
        for name, corpus in self.corpora.items():
            if not corpus.cache.is_served:
                continue
            path = corpus.cache.store.local_path("")
            places |= {place.rstrip("/"): name for place in (corpus.url, path and str(path)) if place and "/" in place}
        for place in sorted(places, key=len, reverse=True):
            text = text.replace(place, places[place])
        return text

    async def ask(self, request: Request, work: Callable[[], T], kind: Kind = "question") -> tuple[T, Times]:
        """What some work gives that asks the corpora, in its turn, and what it took. What reads one image or looks
        something up, in some milliseconds, does not wait for questions: those may be about all images.

        Raises Busy if too many wait already, LimitReached if it takes too long or who asked has gone.
        """
        if self.waiting >= self.settings.waiting + self.settings.at_once:
            raise Busy("Too many questions are waiting.", "Ask again in a moment.")
        self.waiting += 1
        turns = self._turns[kind]
        begun = time.perf_counter()
        deadline = Deadline(self.settings.timeout)

        def answer() -> T:
            try:
                with self.engine.within(deadline), self.discreet():
                    return work()
            except StopIteration as error:  # which no future can hold: who waits for it would wait for ever
                raise RuntimeError("work ended like a generator") from error

        try:
            async with turns.free:
                started = time.perf_counter()
                future = asyncio.get_running_loop().run_in_executor(turns.threads, answer)
                while not (await asyncio.wait({future}, timeout=NOTICE))[0]:
                    if await request.is_disconnected():
                        deadline.stop()
                found = await future
        finally:
            self.waiting -= 1
        ended = time.perf_counter()
        return found, Times(1000 * (started - begun), 1000 * (ended - started))
