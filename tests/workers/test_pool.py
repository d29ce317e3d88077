"""What the pool does when shards and workers fail. Its workers here need no model."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray

import vlq.workers.pool as pool_module
import vlq.workers.queue as queue_module
from vlq.query.errors import ModelError, RunError
from vlq.query.schema import Run
from vlq.workers.pool import Pool, Worker, _what_helps
from vlq.workers.queue import ATTEMPTS, Failure, Queue
from vlq.workers.ray_errors import reason
from vlq.workers.worker import Description, Done, Setup, unpacked

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("ignore")]

RUN = Run("m", "M", "hash", "<image>", (1,), 2, (1, 1), 1, 1, ("patch",), 10, "vocabulary", "float32")
SETUP = Setup("m", None, 1, ("patch",), "cpu", "auto", 1, 1, 1)


def failing_worker() -> type:
    """A worker whose trouble is told by a shard's image; counts its attempts in the folder given as the URL."""

    class Staying(Exception):
        """What cannot be pickled."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.lock = threading.Lock()

    class Breaking(Exception):
        """What is pickled, and cannot be unpickled."""

        def __init__(self, text: str, number: int) -> None:
            super().__init__(text)

    class FailingWorker:  # local, so that it travels whole to where no test can be imported
        def __init__(self, setup: Any) -> None:
            self.setup = setup

        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

        def start(self) -> Any:
            if self.setup.model == "unloadable":
                raise ModelError("It cannot be loaded.", "Try another.")
            if self.setup.model == "deadly":
                os._exit(1)
            return Description(RUN, b"", None)

        def extract(self, url: str, run_record: bytes, shard: int, packed_rows: bytes) -> Any:
            path = os.path.join(url, str(shard))
            attempt = os.path.getsize(path) if os.path.exists(path) else 0
            with open(path, "a") as file:
                file.write("x")
            trouble = unpacked(packed_rows)["image"][0].as_py()
            if trouble == "dies" or (trouble == "dies once" and attempt == 0):
                os._exit(1)
            if trouble == "raises" or (trouble == "raises once" and attempt == 0):
                raise OSError("connection reset")
            if trouble == "hopeless":
                raise RunError("It is not finite.")
            if trouble == "needs two workers":
                open(os.path.join(url, f"worker-{os.getpid()}"), "w").close()
                while sum(name.startswith("worker-") for name in os.listdir(url)) < 2:
                    time.sleep(0.01)
            if trouble == "raises what stays":
                raise Staying("with a lock")
            if trouble == "raises what breaks":
                raise Breaking("on its way", 7)
            if trouble == "hangs once" and attempt == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(60)  # it may reach the other threads first
            if trouble == "elsewhere":
                return Done(shard, 1, lost_race=True, fresh=False)
            return Done(shard, 1)

    return FailingWorker


class Seen:
    """What a pool told."""

    def __init__(self) -> None:
        self.shards: list[int] = []
        self.failures: list[tuple[int, str]] = []
        self.twice: list[int] = []
        self.ready = 0  # workers, the last time it was told

    def done(self, shard: Done) -> None:
        self.shards.append(shard.shard)

    def failed(self, shard: int, reason: str, again_in: float | None) -> None:
        self.failures.append((shard, reason))

    def reissued(self, shard: int) -> None:
        self.twice.append(shard)

    def workers(self, ready: int, starting: int) -> None:
        self.ready = ready


def extract(pool: Pool, folder: Path, troubles: list[str]) -> tuple[Seen, dict[int, Failure]]:
    """Has shards read whose images are told by `troubles`."""
    seen = Seen()
    rows = [pa.table({"image": [trouble]}) for trouble in troubles]
    failures = pool.extract(str(folder), RUN, range(len(troubles)), rows.__getitem__, seen)
    return seen, {failure.shard: failure for failure in failures}


# --- before there is a cluster ----------------------------------------------------------------------------------


def test_a_cluster_out_of_reach() -> None:
    with socket.socket() as bound:  # taken, but nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"\({address}\): .*refused") as caught, Pool(address):
            pass
    assert "Check --ray-address" in str(caught.value)


def test_a_cluster_that_does_not_let_one_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: Any) -> None:
        raise ConnectionError("Failed to connect\nwith details")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"\({address}\): Failed to connect\n"), Pool(address):
            pass


def test_a_machine_on_which_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_in_vain(**options: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen ...")  # as ray/_private/node.py

    monkeypatch.setattr(ray, "init", wait_in_vain)
    with pytest.raises(RunError, match=r"on this machine: The current node timed out") as caught, Pool(None):
        pass
    assert "Run the same command again" in str(caught.value)


LOST = "its machine went away"


@pytest.mark.parametrize(
    ("error", "machines", "told"),
    [
        (ray.exceptions.ActorDiedError(), ("here", "there"), "a worker died"),
        (ray.exceptions.ActorDiedError(), ("here",), LOST),
        (ray.exceptions.RayActorError("actor", "drained", False, True), ("here", "there"), LOST),  # not gone yet
        (ray.exceptions.ActorUnavailableError("socket closed", None), ("here", "there"), "its worker is out of reach"),
        (ray.exceptions.ActorUnavailableError("socket closed", None), ("here",), LOST),
        (ray.exceptions.NodeDiedError("node is dead"), ("here",), LOST),
        (ray.exceptions.ObjectLostError("00", None, ""), ("here",), LOST),
        (ray.exceptions.ObjectLostError("00", None, ""), ("here", "there"), "ObjectLostError: "),
        (ray.exceptions.OwnerDiedError("00", None, ""), ("here",), LOST),
        (ray.exceptions.WorkerCrashedError(), ("here", "there"), "WorkerCrashedError: "),
        (ray.exceptions.OutOfMemoryError("killed by the monitor"), ("here", "there"), "out of memory"),
        (ray.exceptions.OutOfDiskError("00", None, ""), ("here", "there"), "OutOfDiskError: "),
        (ray.exceptions.TaskCancelledError(), ("here", "there"), "TaskCancelledError"),
        (ray.exceptions.RaySystemError("broken pipe"), ("here", "there"), "RaySystemError: "),
        (ray.exceptions.GetTimeoutError("late"), ("here", "there"), "GetTimeoutError: late"),
    ],
)
def test_what_ray_tells_of_a_shard_is_blamed_on_it_unless_its_machine_or_connection_is_lost(
    error: Exception, machines: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    pool, seen, queue = Pool(), Seen(), Queue([7])
    monkeypatch.setattr(pool, "_machines", lambda: dict.fromkeys(machines, 1))
    worker = Worker("actor", "there", is_ready=True)
    pool._workers.append(worker)
    task = queue.take([])
    assert task is not None
    pool._failed(worker, task, error, queue, seen)

    is_lost = told == LOST or "out of reach" in told
    assert (task.losses, task.failures) == ((1, 0) if is_lost else (0, 1))
    [(shard, said)] = seen.failures
    assert shard == 7
    assert said.startswith(told)
    assert "\n" not in said
    assert queue.unfinished == 1  # it is tried again
    assert not pool._workers  # another one is made in its place
    assert killed == ["actor"]


@pytest.mark.parametrize(("machines", "is_lost"), [(("here", "5e" * 28), False), (("here",), True)])
def test_a_worker_that_was_placed_on_a_machine_which_had_just_gone(
    machines: tuple[str, ...], is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(pool_module, "STARTS", 1)
    pool = Pool()
    monkeypatch.setattr(pool, "_machines", lambda: dict.fromkeys(machines, 1))
    # It never ran, so it has not told where it was to be.
    workers = [Worker(f"actor {number}") for number in range(3)]
    pool._workers.extend(workers)
    error = ray.exceptions.RayActorError("0a" * 16, f"The actor died because its node has died. Node Id: {'5e' * 28}")
    if not is_lost:
        with pytest.raises(RunError, match="again and again: a worker died"):
            pool._lost(workers[0], error)
        return
    for worker in workers:
        pool._lost(worker, error)
    assert len(pool._lost_starting) == 1  # the one machine


def test_a_machine_that_ray_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_node_id(self) -> str:
            return "here"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    here, there = {"NodeID": "here", "Resources": {"CPU": 2.0}}, {"NodeID": "there", "Resources": {"CPU": 4.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [{**here, "Alive": True}, {**there, "Alive": False}])
    assert Pool()._largest_node() == 2
    monkeypatch.setattr(ray, "nodes", lambda: [{**here, "Alive": False}, {**there, "Alive": True}])
    with pytest.raises(RunError, match="Ray has ended on this machine") as caught:
        Pool()._largest_node()
    assert "the same command goes on" in str(caught.value)


def test_what_comes_after_a_run_does_not_wait_for_ray_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, ended = threading.Event(), []

    def shutdown() -> None:
        assert may_end.wait(20)
        ended.append(True)

    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: None)
    with Pool("local") as pool:
        pool.end()
        assert not ended
        may_end.set()
    assert ended == [True]


# --- on one machine --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine: each pool finds it started, which takes seconds."""
    with Pool("local"):
        yield
    gc.collect()  # Ray leaves sockets and files of its own to it


@pytest.fixture
def pool(cluster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(pool_module, "ShardWorker", failing_worker())
    monkeypatch.setattr(queue_module, "BACK_OFF", 0.05)
    with Pool("local") as started:
        yield started


def test_failures_stay_with_their_shards(pool: Pool, tmp_path: Path) -> None:
    assert pool.start(SETUP, lambda: 2) == Description(RUN, b"", None)
    troubles = ["", "dies once", "", "raises once", "dies", "", "raises", "hopeless", "", ""]
    seen, failures = extract(pool, tmp_path, troubles)

    assert sorted(seen.shards) == [0, 1, 2, 3, 5, 8, 9]
    assert {shard: reason(failure.error) for shard, failure in failures.items()} == {
        4: "a worker died",
        6: "OSError: connection reset",
        7: "It is not finite.",
    }
    attempts = {shard: len((tmp_path / str(shard)).read_text()) for shard in range(len(troubles))}
    # A shard may have been waiting for its first turn when another one took its worker down. One more may be told of as
    # out of reach, where a death is noticed late.
    for shard in (4, 6):
        assert ATTEMPTS - 1 <= attempts[shard] <= ATTEMPTS + 1
        assert failures[shard].attempts == ATTEMPTS
    # What a shard had to say may be lost with its worker, which another one takes down.
    assert attempts[7] in (1, 2)
    assert attempts[3] in (1, 2)
    alone = tmp_path / "alone"
    alone.mkdir()
    _, failures = extract(pool, alone, ["hopeless"])
    assert (len((alone / "0").read_text()), failures[0].attempts) == (1, 1)

    with pytest.raises(RunError, match="again and again: OSError: connection reset"):
        extract(pool, tmp_path, ["raises"] * 50)


def test_what_does_not_travel_is_told_and_costs_no_worker(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "ATTEMPTS", 1)
    pool.start(SETUP, lambda: 1)
    before = [worker.actor for worker in pool._workers]
    _, failures = extract(pool, tmp_path, ["", "raises what stays", "raises what breaks", ""])
    assert [worker.actor for worker in pool._workers] == before
    told = {shard: reason(failure.error) for shard, failure in failures.items()}
    assert told.keys() == {1, 2}
    assert told[1].endswith("Staying: with a lock")
    assert told[2].endswith("Breaking: on its way")


def test_a_run_goes_on_while_nobody_says_how_many_machines_there_are(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LOOK_EVERY", 0.0)
    away, back = threading.Event(), threading.Event()

    def most() -> int:
        if away.is_set():
            back.wait(60)
        return 1

    pool.start(SETUP, most)
    away.set()
    begun = time.monotonic()
    seen, _ = extract(pool, tmp_path, [""] * 5)
    assert sorted(seen.shards) == [0, 1, 2, 3, 4]
    assert time.monotonic() - begun < 60  # nobody waited for it
    back.set()


def test_many_shards_that_take_their_workers_down_are_given_up_one_by_one(pool: Pool, tmp_path: Path) -> None:
    pool.start(SETUP, lambda: 2)
    seen, failures = extract(pool, tmp_path, ["", "dies", "", "raises", "raises", "raises", "raises", ""])
    assert sorted(seen.shards) == [0, 2, 7]
    assert sorted(failures) == [1, 3, 4, 5, 6]


def test_a_shard_whose_worker_hangs_is_given_to_another_one(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "STRAGGLER_FLOOR", 1.0)
    pool.start(SETUP, lambda: 2)
    seen, failures = extract(pool, tmp_path, ["", "", "", "hangs once", "", "", "", ""])
    assert sorted(seen.shards) == list(range(8))  # each of them told once
    assert not failures
    assert 3 in seen.twice
    assert (tmp_path / "3").read_text() == "xx"


def test_where_another_run_is_at_work_one_goes_on_elsewhere(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    monkeypatch.setattr(queue_module.Queue, "elsewhere", lambda queue: moved.append(queue.unfinished))
    pool.start(SETUP, lambda: 1)
    seen, _ = extract(pool, tmp_path, ["", "", "elsewhere", "", "", ""])
    assert sorted(seen.shards) == [0, 1, 2, 3, 4, 5]
    assert len(moved) == 1


def test_workers_are_as_many_as_shards_and_as_there_is_room_for(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LOOK_EVERY", 0.0)
    places = ray.cluster_resources()["CPU"]  # type: ignore[no-untyped-call]
    room = iter([1, 1])
    # From the third look on there is room for one more than fit: it isn't waited for, nor kept when it is of no use.
    pool.start(SETUP, lambda: next(room, int(places) + 1))
    seen, _ = extract(pool, tmp_path, ["needs two workers"] * 4)
    assert sorted(seen.shards) == [0, 1, 2, 3]
    assert all(worker.is_ready for worker in pool._workers)
    assert 2 <= len(pool._workers) <= places


def test_a_model_that_no_worker_can_load(pool: Pool) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        pool.start(replace(SETUP, model="unloadable"), lambda: 2)


def test_workers_that_die_while_they_load(pool: Pool) -> None:
    with pytest.raises(RunError, match="again and again: a worker died"):
        pool.start(replace(SETUP, model="deadly"), lambda: 1)


def test_what_helps_where_ray_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own folder is too long for sockets, or full."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    code = "from vlq.workers.pool import Pool\nPool('local').__enter__()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"Its sockets are in {long}, a name too long for that. Set $RAY_TMPDIR to a shorter one" in ended.stderr
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert _what_helps("Timed out").startswith("Run the same command again")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    assert _what_helps("Timed out").startswith(f"{tmp_path} is full.")
