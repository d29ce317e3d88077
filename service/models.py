"""Models that a service loads to intervene in: one at a time, on a thread of its own, which no query waits for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

from fastapi import Request

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import Busy, CacheMismatch, LimitReached, ModelError
from vlq.service.settings import Settings

if TYPE_CHECKING:
    from vlq.workers.intervene.single import LoadedModel

T = TypeVar("T")

LOG = logging.getLogger("uvicorn.error")

NOTICE = 0.1
"""Seconds until it is noticed that a turn takes too long, or that nobody waits for it any more."""


class Turn:
    """One request's turn at the model."""

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.state: Literal["waiting", "loading", "running"] = "waiting"
        self.began = 0.0  # to run, with the model there
        self.stopped = False

    def is_stopped(self) -> bool:
        return self.stopped


class Models:
    """The model of the corpus that was asked last, and whose turn it is. It is loaded when it is first wanted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loaded: tuple[str, LoadedModel] | None = None  # by its run's digest
        self._turns: set[Turn] = set()

    def close(self) -> None:
        for turn in [*self._turns]:
            turn.stopped = True
        self._thread.shutdown(cancel_futures=True)

    async def ask(
        self, request: Request, corpus: LocalCorpus, work: Callable[[LoadedModel, Callable[[], bool]], T]
    ) -> T:
        """What some work gives that a corpus' model does, in its turn. It is told how to find out that it is to stop.

        Raises Busy if too many wait already, or if the turn has not come, or the model is not loaded, after the time
        of a question; loading goes on. LimitReached if the work takes longer than that, or who asked has gone.
        """
        if len(self._turns) > self._settings.waiting:
            raise Busy("Too many interventions are waiting.", "Ask again in a moment.")
        turn, seconds = Turn(), self._settings.timeout
        self._turns.add(turn)

        def answer() -> T:
            if turn.stopped:
                raise LimitReached("Nobody waited for the answer any more.")
            model = self._model(corpus, turn)
            turn.began, turn.state = time.monotonic(), "running"
            return work(model, turn.is_stopped)

        future = asyncio.get_running_loop().run_in_executor(self._thread, answer)
        future.add_done_callback(lambda done: self._end(turn, done))
        try:
            while not (await asyncio.wait({future}, timeout=NOTICE))[0]:
                if await request.is_disconnected():
                    raise LimitReached("Nobody waited for the answer any more.")
                now = time.monotonic()
                if turn.state == "running":
                    if now - turn.began > seconds:
                        raise LimitReached(f"It was stopped after {seconds:g} seconds.", "vlq serve --timeout sets it.")
                elif now - turn.asked > seconds:
                    what = "still being loaded" if turn.state == "loading" else "at work for others"
                    raise Busy(f"The model is {what}.", "Ask again in a moment.")
            return await future
        finally:
            turn.stopped = True

    def _end(self, turn: Turn, done: asyncio.Future[T]) -> None:
        self._turns.discard(turn)
        if not done.cancelled():
            done.exception()  # which nobody may wait for any more

    def _model(self, corpus: LocalCorpus, turn: Turn) -> LoadedModel:
        """The model of a corpus, which is loaded unless it is the one that is there. Raises ModelError."""
        run = corpus.cache.run
        if self._loaded is None or self._loaded[0] != run.digest:
            turn.state = "loading"
            self._loaded = None  # both may not fit
            try:
                from vlq.workers.intervene.single import LoadedModel

                self._loaded = run.digest, LoadedModel(run, corpus.cache.url, self._settings.models)
            except (ModelError, CacheMismatch, ModuleNotFoundError) as error:
                LOG.warning("The model of %s cannot be loaded: %s", corpus.cache.url, error)
                raise ModelError(
                    f"The model of this corpus, {corpus.cache.model}, cannot be loaded here.",
                    "It is looked for where --model says and where the run had it, and must be the same one; more says "
                    "the service's log.",
                ) from error
        return self._loaded[1]
