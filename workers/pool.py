"""Ray: workers that come and go, each with a model, and what happens to their shards.

Only plan rows go out and small records come back; images, tensors and arrays never travel. A worker gets two shards
at a time, so that one is decoded or written while the other one is in the model. There are as many workers as shards
to be read, up to a bound that may grow while machines join; those without a place yet make Ray's autoscaler find one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from vlq.query.errors import RunError, StoreError, StoreStopped, VlqError
from vlq.query.schema import Run
from vlq.workers.machine import cpu_count
from vlq.workers.queue import Failure, Queue, Task
from vlq.workers.ray_errors import node_named, raised, reason
from vlq.workers.worker import Description, Done, Setup, ShardWorker, packed

FAILURES_IN_A_ROW = 12
"""So many shards that fail one after another, without a success between them, are not at fault themselves."""

STARTS = 3
"""Where so many workers in a row could not start, none will."""

LOSSES = 12
"""So many machines and connections that are lost in a row, each with workers that start, have them as their reason."""

TICK = 1.0
"""Seconds between two looks around where nothing happens."""

LOOK_EVERY = 5.0
"""Seconds between two looks for machines that joined."""

LEAST_ROOM = 10 * 2**20
"""Bytes of a disk below which Ray's logs and sockets find no place."""

OBJECT_STORE = 100 * 2**20
"""Bytes of Ray's shared memory on this machine: records only."""


@dataclass(eq=False)
class Worker:
    """An actor and what it is busy with."""

    actor: Any
    node: str = ""  # the machine that it is on; empty while it has no place
    is_ready: bool = False  # its model is loaded
    tasks: list[Task] = field(default_factory=list)


Begin = Callable[[Any, int], Any]
"""Has an actor, which is a worker, begin a shard: the call, which ends with a `Done`."""


class Watch(Protocol):
    """Told what happens to shards."""

    def done(self, shard: Done) -> None:
        """A shard is committed."""

    def failed(self, shard: int, reason: str, again_in: float | None) -> None:
        """A shard failed on a worker. Seconds until it is tried again, if it is."""

    def reissued(self, shard: int) -> None:
        """A shard was given to a second worker."""

    def workers(self, ready: int, starting: int) -> None:
        """How many workers there are now."""


class Pool:
    """A context in which workers live: on a cluster that runs at `address`, else on this machine."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._workers: list[Worker] = []
        self._calls: dict[Any, tuple[Worker, Task | None]] = {}
        self._ended: list[Any] = []  # those of the calls that are known to have ended
        self._failures_in_a_row = 0
        self._model_loads = False  # whether any worker was ever ready
        self._first: Run | None = None  # what the first worker to be ready said that it would begin
        self._lost_starting: set[object] = set()  # machines and workers, since one was ready
        self._room = 0  # for so many workers, when it was last asked
        self._looked = 0.0  # when that was
        self._looking: threading.Thread | None = None  # that asks
        self._started_ray = False
        self._ending: threading.Thread | None = None  # that has Ray end

    # Ray itself.

    def __enter__(self) -> Pool:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # When a run ends, nobody asks any more what became of its other shards: Ray would print their tracebacks.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        import ray

        if ray.is_initialized():
            return self
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        cluster = None if self._address == "local" else self._address
        try:
            if cluster is None:
                # Else Ray writes one into the home folder, which may not be there, or is written by another run now.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    num_cpus=cpu_count(),
                    **quiet,
                )
            else:
                _knock(cluster)
                ray.init(address=cluster, **quiet)
        except Exception as error:  # Ray raises bare ones, too: a slow start is one
            text = str(error).strip().splitlines()
            said = text[0] if text else type(error).__name__
            if cluster is None:
                raise RunError(f"Ray does not start on this machine: {said}", _what_helps(said)) from error
            raise RunError(
                f"Ray cannot be reached ({cluster}): {said}",
                "Check --ray-address, or leave it out to run on this machine. A cluster that asks for a token wants "
                "$RAY_AUTH_MODE=token and $RAY_AUTH_TOKEN here, too.",
            ) from error
        self._started_ray = True
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()
        if self._ending is not None:
            self._ending.join()

    def end(self) -> None:
        """Let the workers go, and Ray where it was started here. It takes a second or two to end, in which nobody waits
        for it until the context is left."""
        import ray

        if self._looking is not None:
            self._looking.join(TICK)
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()
        self._calls.clear()
        self._ended.clear()
        if self._started_ray:
            self._started_ray = False
            self._ending = threading.Thread(target=ray.shutdown)
            self._ending.start()

    def gpus(self) -> int:
        """GPUs of the cluster."""
        import ray

        return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]

    def cpus(self) -> int:
        """Cores that the cluster gives to tasks."""
        import ray

        return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]

    def _machines(self) -> dict[str, int]:
        """Cores of each machine that is there. Raises RunError if this one is not: Ray cannot be asked any more."""
        import ray

        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        machines = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]}
        if ray.get_runtime_context().get_node_id() not in machines:
            raise RunError(
                "Ray has ended on this machine, or its cluster has given it up.",
                "Start Ray again if it was not this command that did; the same command goes on with what is missing.",
            )
        return machines

    def _largest_node(self) -> int:
        """Cores of the largest machine: what asks for more would wait for ever."""
        return max(1, *self._machines().values())

    # Workers.

    def start(self, setup: Setup, most: Callable[[], int], shards: int | None = None) -> Description:
        """Make workers, `most()` of them or one a shard; returns what the first one to be ready says.

        `most` is asked again from time to time. Raises ModelError if the model cannot be loaded.
        """
        self._setup, self._most = setup, most
        while True:
            self._room = most()
            self._fit(self._room if shards is None else min(self._room, shards))
            if (ended := self._next(TICK)) is None:
                continue
            worker, _, result = ended
            if isinstance(result, Description):
                self._ready(worker)
                # Later workers get the same files, should the hub's branch go on.
                self._setup = replace(setup, revision=result.run.revision)
                self._first = result.run
                return result
            self._lost(worker, result)

    def _fit(self, wanted: int) -> None:
        """Make workers until there are as many as are wanted; let those go that have no place yet and are too many."""
        starting = [worker for worker in self._workers if not worker.is_ready]
        for worker in starting[: max(0, len(self._workers) - wanted)]:
            self._drop(worker)
        for _ in range(wanted - len(self._workers)):
            self._add_worker()

    def _add_worker(self) -> None:
        import ray

        actor: Any = ray.remote(ShardWorker)
        actor = actor.options(
            num_cpus=min(self._setup.threads, self._largest_node()),
            num_gpus=self._setup.gpus,
            max_concurrency=self._setup.calls,
            # A lost worker is replaced here, where failures are counted shard by shard.
            max_restarts=0,
            max_task_retries=0,
        )
        worker = Worker(actor.remote(self._setup))
        self._workers.append(worker)
        self._calls[worker.actor.node.remote()] = worker, None
        self._calls[worker.actor.start.remote()] = worker, None

    def _drop(self, worker: Worker) -> None:
        import ray

        self._workers.remove(worker)
        self._calls = {call: made for call, made in self._calls.items() if made[0] is not worker}
        ray.kill(worker.actor)

    def _ready(self, worker: Worker) -> None:
        worker.is_ready = self._model_loads = True
        self._lost_starting.clear()

    def _lost(self, worker: Worker, error: Exception) -> None:
        """A worker died or could not load its model; `_fit` makes another, unless that is hopeless."""
        if worker not in self._workers:
            return  # another of its calls has told already
        import ray

        self._workers.remove(worker)
        ray.kill(worker.actor)  # it may be out of reach only
        if isinstance(error, VlqError):
            raise error
        if worker.is_ready:
            return
        if self._loss(worker, error):
            # All workers of a machine go with it, at once.
            self._lost_starting.add(self._machine_gone(worker, error) or worker)
            if len(self._lost_starting) < LOSSES:
                return
        self._count_failure(error, STARTS)

    def _count_failure(self, error: Exception, most: int) -> None:
        self._failures_in_a_row += 1
        # Where a worker came up once, one that works on shards may well take starting ones down with it.
        if self._failures_in_a_row >= (FAILURES_IN_A_ROW if self._model_loads else most):
            if isinstance(error, VlqError):
                raise error
            raise RunError(
                f"Workers fail again and again: {reason(error)}",
                "If memory is short, use fewer --workers or a smaller --batch-size. What is done is kept.",
            ) from error

    def _machine_gone(self, worker: Worker, error: Exception) -> str | None:
        """The machine of a worker, if it is gone. One that never ran there has not told which; Ray's error has."""
        machine = worker.node or node_named(error)
        return machine if machine and machine not in self._machines() else None

    def _loss(self, worker: Worker, error: Exception) -> str | None:
        """What took a worker away that neither it nor its shards are to blame for; None if that is not so."""
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        if not isinstance(error, RayError):
            return None
        if (isinstance(error, RayActorError) and error.preempted) or self._machine_gone(worker, error):
            return "its machine went away"
        # Mostly of a machine whose end nobody has noticed yet.
        return "its worker is out of reach" if isinstance(error, ActorUnavailableError) else None

    def _next(self, seconds: float) -> tuple[Worker, Task | None, Any] | None:
        """Wait so long for any call to end: its worker, its task (None: the start), and its result or exception."""
        import ray
        from ray.exceptions import RayError, RayTaskError, UnserializableException

        self._ended = [call for call in self._ended if call in self._calls]
        if not self._ended:
            if not self._calls:
                time.sleep(seconds)
                return None
            # One look finds all that have ended: with many workers a look takes longer than to deal with a result.
            calls = list(self._calls)
            self._ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0.0)
            if not self._ended:
                self._ended, _ = ray.wait(calls, num_returns=1, timeout=seconds)
            if not self._ended:
                return None
        call = self._ended.pop(0)
        worker, task = self._calls.pop(call)
        try:
            result = ray.get(call)
        except (RayTaskError, UnserializableException) as error:
            result = raised(error)
        except RayError as error:
            result = error
        if isinstance(result, str):
            worker.node = result
            return None
        return worker, task, result

    # Shards.

    def extract(
        self, url: str, run: Run, shards: Sequence[int], rows: Callable[[int], pa.Table], watch: Watch
    ) -> list[Failure]:
        """Read and commit shards, each with its `rows` of the plan: `work` that workers `extract`."""
        record = run.to_bytes()
        return self.work(
            shards, lambda actor, shard: actor.extract.remote(url, record, shard, packed(rows(shard))), watch
        )

    def work(self, shards: Sequence[int], begin: Begin, watch: Watch) -> list[Failure]:
        """Have workers do shards, each of which one begins. Returns those that were given up.

        A shard that fails is tried again after a while, alone on its worker, so that it cannot take another one down.
        Raises RunError if everything fails, StoreStopped, ModelError if a worker holds another model.
        """
        queue = Queue(shards)
        self._tell(watch)
        while queue.unfinished:
            self._look_around(queue, watch)
            self._fill(queue, begin, watch)
            if (ended := self._next(queue.wait(TICK))) is None:
                continue
            worker, task, result = ended
            if task is None:
                if isinstance(result, Description):
                    self._check_same(result.run)
                    self._ready(worker)
                else:
                    self._lost(worker, result)
                self._tell(watch)
                continue
            worker.tasks.remove(task)
            if isinstance(result, Done):
                self._failures_in_a_row = 0
                if queue.done(task):
                    watch.done(result)
                    if not result.fresh:
                        queue.elsewhere()
            else:
                self._failed(worker, task, result, queue, watch)
        return sorted(queue.given_up, key=lambda failure: failure.shard)

    def _look_around(self, queue: Queue, watch: Watch) -> None:
        """Have as many workers as there is room and work for."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY and not (self._looking and self._looking.is_alive()):
            self._looked = now
            # Beside this thread: while a cluster's head is away, which may come back, nothing is answered.
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()
            self._tell(watch)
        if len(self._workers) != (wanted := min(self._room, queue.unfinished)):
            self._fit(wanted)

    def _look(self) -> None:
        from ray.exceptions import RayError

        with suppress(RayError):  # it is asked again
            self._room = self._most()

    def _tell(self, watch: Watch) -> None:
        ready = sum(1 for worker in self._workers if worker.is_ready)
        watch.workers(ready, len(self._workers) - ready)

    def _fill(self, queue: Queue, begin: Begin, watch: Watch) -> None:
        """Give every worker what it can have under way at once, those that have least first."""
        for has in range(self._setup.calls):
            for worker in self._workers:
                if not worker.is_ready or len(worker.tasks) != has or (task := queue.take(worker.tasks)) is None:
                    continue
                if task.holders > 1:
                    watch.reissued(task.shard)
                worker.tasks.append(task)
                self._calls[begin(worker.actor, task.shard)] = worker, task

    def _failed(self, worker: Worker, task: Task, error: Exception, queue: Queue, watch: Watch) -> None:
        from ray.exceptions import RayError

        if isinstance(error, StoreStopped):
            raise error
        if task.over:  # its other holder was faster
            queue.done(task)
        elif loss := self._loss(worker, error):
            queue.lost(task, error)
            watch.failed(task.shard, loss, 0.0)
        else:
            final = isinstance(error, VlqError) and not isinstance(error, StoreError)
            again_in = queue.failed(task, error, final=final)
            watch.failed(task.shard, reason(error), again_in)
            if not final and task.failures == 1:
                self._count_failure(error, FAILURES_IN_A_ROW)
        if isinstance(error, RayError):
            self._lost(worker, error)
            self._tell(watch)

    def _check_same(self, other: Run) -> None:
        run = self._first or other
        differing = [name for name, value in run.identity().items() if other.identity()[name] != value]
        if differing:
            raise RunError(
                f"A worker holds another model than the others: {', '.join(differing)} differ.",
                f"Make sure that {run.model} is the same on every machine of the cluster.",
            )


def _what_helps(said: str) -> str:
    """What to do where Ray does not start. Folders of a cluster's jobs have long names, and may have little room."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if "AF_UNIX" in said:
        return f"Its sockets are in {folder}, a name too long for that. Set $RAY_TMPDIR to a shorter one, such as /tmp"
    with suppress(OSError):
        if shutil.disk_usage(folder).free < LEAST_ROOM:
            return f"{folder} is full. Free some room there, or set $RAY_TMPDIR to another folder."
    return "Run the same command again; if the machine has much else to do, when it has less."


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at host:port: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
