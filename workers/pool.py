"""Ray: workers that come and go, one task a shard, each tried a few times.

Only plan rows go out and small records come back; images, tensors and arrays never travel. A worker gets two shards
at a time, so that one is decoded or written while the other one is in the model.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vlq.query.errors import RunError, StoreError, VlqError
from vlq.query.schema import Run
from vlq.workers.machine import cpu_count
from vlq.workers.worker import Description, Done, Setup, ShardWorker

ATTEMPTS = 3
"""How often a shard is tried."""

FAILURES_IN_A_ROW = 12
"""Without a success between them, it is not the shards that are at fault."""

OBJECT_STORE = 100 * 2**20
"""Bytes of Ray's shared memory on this machine: records only."""


@dataclass
class Task:
    """A shard to read."""

    shard: int
    rows: pa.Table
    failures: int = 0


@dataclass
class Worker:
    """An actor and what it is busy with."""

    actor: Any
    ready: bool = False
    tasks: list[Task] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """A shard that was given up."""

    shard: int
    error: Exception


class Pool:
    """A context in which workers live: on a cluster that runs at `address`, else on this machine."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._workers: list[Worker] = []
        self._calls: dict[Any, tuple[Worker, Task | None]] = {}
        self._failures_in_a_row = 0
        self._model_loads = False  # whether any worker was ever ready
        self._started_ray = False

    # Ray itself.

    def __enter__(self) -> Pool:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if ray.is_initialized():
            return self
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address in (None, "local"):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    num_cpus=cpu_count(),
                    **quiet,
                )
            else:
                _knock(self._address)
                ray.init(address=self._address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = self._address or "on this machine"
            text = str(error).strip().splitlines()
            raise RunError(
                f"Ray cannot be reached or started ({where}): {text[0] if text else type(error).__name__}",
                "Check --ray-address, or leave it out to run on this machine. A cluster that asks for a token wants "
                "$RAY_AUTH_MODE=token and $RAY_AUTH_TOKEN here, too.",
            ) from error
        self._started_ray = True
        return self

    def __exit__(self, *raised: object) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()
        self._calls.clear()
        if self._started_ray:
            ray.shutdown()

    def gpus(self) -> int:
        """GPUs of the cluster."""
        import ray

        return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]

    def cpus(self) -> int:
        """Cores that the cluster gives to tasks."""
        import ray

        return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]

    def _largest_node(self) -> int:
        """Cores of the largest machine: what asks for more would wait for ever."""
        import ray

        return max(1, *(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]))  # type: ignore[no-untyped-call]

    # Workers.

    def start(self, setup: Setup, count: int) -> Description:
        """Make workers; returns what the first one to be ready says. Raises ModelError if it cannot load the model."""
        self._setup = setup
        for _ in range(count):
            self._add_worker()
        while True:
            worker, _, result = self._next()
            if isinstance(result, Description):
                worker.ready = self._model_loads = True
                return result
            self._lost(worker, result)

    def _add_worker(self) -> None:
        import ray

        actor: Any = ray.remote(ShardWorker)
        actor = actor.options(
            num_cpus=min(self._setup.threads, self._largest_node()),
            num_gpus=1 if self._setup.device == "cuda" else 0,
            max_concurrency=2,
            # A lost worker is replaced here, where failures are counted shard by shard.
            max_restarts=0,
            max_task_retries=0,
        )
        worker = Worker(actor.remote(self._setup))
        self._workers.append(worker)
        self._calls[worker.actor.start.remote()] = worker, None

    def _lost(self, worker: Worker, error: Any) -> None:
        """A worker died or could not load its model: another takes its place, unless that is hopeless."""
        if worker not in self._workers:
            return  # another of its calls has told already
        self._workers.remove(worker)
        self._count_failure(error)
        if isinstance(error, VlqError):
            raise error
        self._add_worker()

    def _count_failure(self, error: Exception) -> None:
        self._failures_in_a_row += 1
        # Where no worker ever came up, none will; one that works on shards may well take others down with it.
        if self._failures_in_a_row >= (FAILURES_IN_A_ROW if self._model_loads else ATTEMPTS):
            if isinstance(error, VlqError):
                raise error
            raise RunError(
                f"Workers fail again and again: {reason(error)}",
                "If memory is short, use fewer --workers or a smaller --batch-size. What is done is kept.",
            ) from error

    def _next(self) -> tuple[Worker, Task | None, Any]:
        """Wait for any call to end: its worker, its task (None: the start), and its result or exception."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        (call,), _ = ray.wait(list(self._calls), num_returns=1)
        worker, task = self._calls.pop(call)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            result = error.cause
        except RayError as error:
            result = error
        return worker, task, result

    # Shards.

    def extract(
        self, url: str, run: Run, tasks: Iterable[tuple[int, pa.Table]], done: Callable[[Done], None]
    ) -> list[Failure]:
        """Read and commit shards (number, plan rows); tells `done` of each. Returns those that were given up.

        A shard is tried ATTEMPTS times, after a failure alone on its worker, so that it cannot take another one down.
        Raises RunError if everything fails, ModelError if a worker holds another model.
        """
        from ray.exceptions import RayError

        waiting = deque(Task(shard, rows) for shard, rows in tasks)
        given_up: list[Failure] = []
        while waiting or any(worker.tasks for worker in self._workers):
            for worker in self._workers:
                self._fill(worker, waiting, url, run)
            worker, task, result = self._next()
            if isinstance(result, Description):
                self._check_same(run, result.run)
                worker.ready = self._model_loads = True
            elif isinstance(result, Done):
                worker.tasks.remove(task)  # type: ignore[arg-type]
                self._failures_in_a_row = 0
                done(result)
            elif task is None:
                self._lost(worker, result)
            else:
                worker.tasks.remove(task)
                task.failures += 1
                final = isinstance(result, VlqError) and not isinstance(result, StoreError)
                if final or task.failures == ATTEMPTS:
                    given_up.append(Failure(task.shard, result))
                else:
                    waiting.append(task)
                if isinstance(result, RayError):
                    self._lost(worker, result)
                elif not final:
                    self._count_failure(result)
        return sorted(given_up, key=lambda failure: failure.shard)

    def _fill(self, worker: Worker, waiting: deque[Task], url: str, run: Run) -> None:
        while worker.ready and waiting and len(worker.tasks) < 2:
            if worker.tasks and (waiting[0].failures or worker.tasks[0].failures):
                return
            task = waiting.popleft()
            worker.tasks.append(task)
            call = worker.actor.extract.remote(url, run, task.shard, task.rows, task.failures)
            self._calls[call] = worker, task

    def _check_same(self, run: Run, other: Run) -> None:
        differing = [name for name, value in run.identity().items() if other.identity()[name] != value]
        if differing:
            raise RunError(
                f"A worker holds another model than the others: {', '.join(differing)} differ.",
                f"Make sure that {run.model} is the same on every machine of the cluster.",
            )


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at host:port: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def reason(error: Exception) -> str:
    """One line of what happened."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, VlqError):
        return error.message
    if isinstance(error, OutOfMemoryError):
        return "out of memory"
    if isinstance(error, RayActorError):
        return "a worker died"
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
