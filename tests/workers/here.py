"""Runs without Ray, for tests of what is read and not of where: a model comes to one of Ray's workers after seconds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import TypeVar

import pyarrow as pa
import pytest
from ray import cloudpickle

from vlq.query.cli import main
from vlq.query.schema import Run
from vlq.workers.machine import cpu_count
from vlq.workers.pool import Watch
from vlq.workers.queue import Failure
from vlq.workers.worker import Description, Setup, ShardWorker, load_model, packed

T = TypeVar("T")


def sent(value: T) -> T:
    """What arrives of it in another process."""
    arrived: T = pickle.loads(cloudpickle.dumps(value))
    return arrived


class Worker(ShardWorker):
    def start(self) -> Description:
        self._model, description = load_model(self._setup)
        return description


class PoolHere:
    """In a job's place of a `Pool`: one worker, to which one shard after another goes. What it raises ends the run."""

    def __init__(self, address: str | None = None) -> None:
        assert address is None

    def __enter__(self) -> PoolHere:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def gpus(self) -> int:
        return 0

    def cpus(self) -> int:
        return cpu_count()

    def start(self, setup: Setup, most: Callable[[], int], shards: int | None = None) -> Description:
        assert most() > 0
        self._worker = Worker(sent(setup))
        return sent(self._worker.start())

    def extract(
        self, url: str, run: Run, shards: Sequence[int], rows: Callable[[int], pa.Table], watch: Watch
    ) -> list[Failure]:
        watch.workers(1, 0)
        for shard in shards:
            watch.done(sent(self._worker.extract(url, run.to_bytes(), shard, packed(rows(shard)))))
        return []


@contextmanager
def without_ray() -> Iterator[None]:
    """While it lasts, runs have their worker in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlq.workers.job.Pool", PoolHere)
        yield


def printed(*arguments: object) -> str:
    """What a command prints that is run here. Raises AssertionError with what it said if it fails."""
    out, said = io.StringIO(), io.StringIO()
    with without_ray(), redirect_stdout(out), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code, said.getvalue()
    return out.getvalue()
