"""A cluster whose machines come and go: Ray nodes, each with its own processes, on this machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

import vlq.workers.pool as pool_module
import vlq.workers.queue as queue_module
from vlq.workers.job import workers_on
from vlq.workers.pool import Pool
from vlq.workers.worker import Description, Done, Setup

from .test_pool import RUN, SETUP, Seen

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]

MEMORY = {"object_store_memory": 80 * 2**20}


def slow_worker() -> type:
    """A worker that notes where it reads a shard, and waits while the folder holds a file `hold`. It takes as long to
    start as the folder that is its model holds a file `loading`."""

    class SlowWorker:  # local, so that it travels whole to where no test can be imported
        def __init__(self, setup: Setup) -> None:
            self.folder = Path(setup.model)

        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

        def start(self) -> Description:
            loading = self.folder / "loading"
            if loading.exists():
                (self.folder / f"worker-{uuid4()}").touch()
            while loading.exists():
                time.sleep(0.01)
            return Description(RUN, b"", None)

        def extract(self, url: str, run_record: bytes, shard: int, packed_rows: bytes) -> Done:
            node = ray.get_runtime_context().get_node_id()
            with (Path(url) / f"{shard}").open("a") as file:
                file.write(f"{node}\n")
            while (Path(url) / "hold").exists():
                time.sleep(0.01)
            time.sleep(0.05)
            return Done(shard, 1)

    return SlowWorker


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without a place for workers; nodes are added by tests."""
    monkeypatch.setattr(pool_module, "ShardWorker", slow_worker())
    monkeypatch.setattr(pool_module, "LOOK_EVERY", 0.2)
    # A lost node is noticed by its heartbeats.
    system = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": system, **MEMORY}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()
    gc.collect()


def rows_of(shard: int) -> pa.Table:
    return pa.table({"image_id": [shard]})


def wait_for(told: Any) -> None:
    end = time.monotonic() + 60
    while not told():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_node_is_killed_and_another_joins(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "ATTEMPTS", 1)  # a lost machine is no attempt
    first = cluster.add_node(num_cpus=1, **MEMORY)
    (tmp_path / "hold").touch()

    with Pool(cluster.address) as pool:
        pool.start(SETUP, lambda: max(1, pool.cpus()))
        seen = Seen()
        with ThreadPoolExecutor(1) as thread:  # a node can be added by the main thread only
            extracting = thread.submit(pool.extract, str(tmp_path), RUN, range(40), rows_of, seen)
            wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
            cluster.remove_node(first, allow_graceful=False)
            wait_for(lambda: len(seen.failures) == 2)  # its workers outlive it for a moment
            cluster.add_node(num_cpus=2, **MEMORY)
            wait_for(lambda: seen.ready == 2)  # the new machine carries two
            (tmp_path / "hold").unlink()
            failures = extracting.result(timeout=90)
    assert not failures
    assert sorted(seen.shards) == list(range(40))
    assert sorted(shard for shard, _ in seen.failures) == [0, 1]
    # The connections of its workers may break before the cluster knows.
    assert {told for _, told in seen.failures} <= {"its machine went away", "its worker is out of reach"}
    read = {shard: (tmp_path / str(shard)).read_text().split() for shard in range(40)}
    assert {shard for shard, nodes in read.items() if len(nodes) > 1} == {0, 1}  # nothing but what was in flight
    assert read[0][0] != read[0][1]


def test_a_machine_that_goes_away_while_workers_start_is_not_counted_against_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STARTS", 1)
    # Three workers on one machine are out of reach each, at worst, until it is known that it is gone.
    monkeypatch.setattr(pool_module, "LOSSES", 5)
    first = cluster.add_node(num_cpus=3, **MEMORY)
    (tmp_path / "loading").touch()
    with Pool(cluster.address) as pool, ThreadPoolExecutor(1) as thread:
        starting = thread.submit(pool.start, replace(SETUP, model=str(tmp_path)), lambda: 3)
        wait_for(lambda: len(list(tmp_path.glob("worker-*"))) == 3)
        wait_for(lambda: all(worker.node for worker in pool._workers))
        lost = [worker.node for worker in pool._workers]
        cluster.remove_node(first, allow_graceful=False)
        wait_for(lambda: all(worker.node not in lost for worker in pool._workers))
        (tmp_path / "loading").unlink()
        cluster.add_node(num_cpus=3, **MEMORY)
        assert starting.result(timeout=90).run == RUN
        ready = [worker.node for worker in pool._workers if worker.is_ready]
        assert len({*lost}) == 1
        assert len(ready) == 1
        assert ready[0] not in lost


def test_workers_share_gpus(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=8, num_gpus=2, **MEMORY)
    with Pool(cluster.address) as pool:
        setup = replace(SETUP, device="cuda", gpus=0.5)
        pool.start(setup, lambda: workers_on(pool.gpus(), setup.gpus) + 1)  # one more than fit
        (tmp_path / "hold").touch()
        seen = Seen()
        with ThreadPoolExecutor(1) as thread:
            extracting = thread.submit(pool.extract, str(tmp_path), RUN, range(12), rows_of, seen)
            wait_for(lambda: seen.ready == 4)
            (tmp_path / "hold").unlink()
            extracting.result(timeout=90)
        assert len(seen.shards) == 12
        assert len([worker for worker in pool._workers if worker.is_ready]) == 4


@pytest.mark.parametrize(
    ("gpus", "each", "workers"), [(8, 1, 8), (8, 2, 4), (7, 2, 3), (2, 0.5, 4), (3, 0.3, 9), (1, 0.1, 10), (0, 1, 0)]
)
def test_workers_that_gpus_carry(gpus: int, each: float, workers: int) -> None:
    assert workers_on(gpus, each) == workers
