"""Runs and studies without Ray, for tests of what they find: a model comes to one of Ray's workers after seconds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import pytest
from ray import cloudpickle

from vlq.query.cli import main
from vlq.workers.machine import cpu_count
from vlq.workers.pool import Begin, Pool, Watch
from vlq.workers.queue import Failure
from vlq.workers.worker import Description, Setup, ShardWorker, load_model

T = TypeVar("T")


def sent(value: T) -> T:
    """What arrives of it in another process."""
    arrived: T = pickle.loads(cloudpickle.dumps(value))
    return arrived


class Worker(ShardWorker):
    def start(self) -> Description:
        self._model, description = load_model(self._setup)
        return description


class Method:
    """Of a worker here: what `remote` gives has ended already."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def remote(self, *arguments: object) -> Any:
        return sent(self._method(*sent(arguments)))


class Actor:
    """A worker here, as a pool's `begin` sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._worker, name))


class PoolHere(Pool):
    """In a job's place of a `Pool`: one worker, to which one shard after another goes. What it raises ends the run."""

    def __init__(self, address: str | None = None) -> None:
        assert address is None

    def __enter__(self) -> PoolHere:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def end(self) -> None:
        pass

    def gpus(self) -> int:
        return 0

    def cpus(self) -> int:
        return cpu_count()

    def start(self, setup: Setup, most: Callable[[], int], shards: int | None = None) -> Description:
        assert most() > 0
        self._worker = Worker(sent(setup))
        return sent(self._worker.start())

    def work(self, shards: Sequence[int], begin: Begin, watch: Watch) -> list[Failure]:
        watch.workers(1, 0)
        for shard in shards:
            watch.done(begin(Actor(self._worker), shard))
        return []


@contextmanager
def without_ray() -> Iterator[None]:
    """While it lasts, runs and studies have their worker in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlq.workers.job.Pool", PoolHere)
        patch.setattr("vlq.workers.intervene.job.Pool", PoolHere)
        yield


def printed(*arguments: object) -> str:
    """What a command prints that is run here. Raises AssertionError with what it said if it fails."""
    out, said = io.StringIO(), io.StringIO()
    with without_ray(), redirect_stdout(out), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code, said.getvalue()
    return out.getvalue()
