"""What the pool does when shards and workers fail. Its workers here need no model."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vlq.workers.pool as pool_module
from vlq.query.errors import ModelError, RunError
from vlq.query.schema import Run
from vlq.workers.pool import ATTEMPTS, Pool, reason
from vlq.workers.worker import Description, Done, Setup

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("ignore")]

RUN = Run("m", "M", "hash", "<image>", (1,), 2, (1, 1), 1, ("patch",), 10, "vocabulary", "float32")
SETUP = Setup("m", None, 1, ("patch",), "cpu", "auto", 1, 1, 1)


def failing_worker() -> type:
    """A worker whose trouble is told by a shard's image; counts its attempts in the folder given as the URL."""

    class FailingWorker:  # local, so that it travels whole to where no test can be imported
        def __init__(self, setup: Any) -> None:
            self.setup = setup

        def start(self) -> Any:
            if self.setup.model == "unloadable":
                raise ModelError("It cannot be loaded.", "Try another.")
            if self.setup.model == "deadly":
                os._exit(1)
            return Description(RUN, b"", None)

        def extract(self, url: str, run: Any, shard: int, rows: Any, attempt: int) -> Any:
            with open(os.path.join(url, str(shard)), "a") as file:
                file.write("x")
            trouble = rows["image"][0].as_py()
            if trouble == "dies" or (trouble == "dies once" and attempt == 0):
                os._exit(1)
            if trouble == "raises" or (trouble == "raises once" and attempt == 0):
                raise OSError("connection reset")
            if trouble == "hopeless":
                raise RunError("It is not finite.")
            return Done(shard, 1, 0)

    return FailingWorker


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(pool_module, "ShardWorker", failing_worker())
    with Pool("local") as started:
        yield started
    gc.collect()  # Ray leaves sockets and files of its own to it


def test_failures_stay_with_their_shards(pool: Pool, tmp_path: Path) -> None:
    assert pool.start(SETUP, 2) == Description(RUN, b"", None)
    troubles = ["", "dies once", "", "raises once", "dies", "", "raises", "hopeless", "", ""]
    tasks = [(shard, pa.table({"image": [trouble]})) for shard, trouble in enumerate(troubles)]
    done: list[int] = []
    failures = pool.extract(str(tmp_path), RUN, tasks, lambda shard: done.append(shard.shard))

    assert sorted(done) == [0, 1, 2, 3, 5, 8, 9]
    assert {failure.shard: reason(failure.error) for failure in failures} == {
        4: "a worker died",
        6: "OSError: connection reset",
        7: "It is not finite.",
    }
    attempts = {shard: len((tmp_path / str(shard)).read_text()) for shard in range(len(troubles))}
    # A shard may have been waiting for its first turn when another one took its worker down.
    for shard in (4, 6):
        assert attempts[shard] in (ATTEMPTS - 1, ATTEMPTS)
    assert attempts[7] == 1
    assert attempts[3] in (1, 2)

    with pytest.raises(RunError, match="again and again: OSError: connection reset"):
        pool.extract(str(tmp_path), RUN, [(i, pa.table({"image": ["raises"]})) for i in range(50)], done.append)  # type: ignore[arg-type]


def test_a_model_that_no_worker_can_load(pool: Pool) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        pool.start(replace(SETUP, model="unloadable"), 2)


def test_workers_that_die_while_they_load(pool: Pool) -> None:
    with pytest.raises(RunError, match="again and again: a worker died"):
        pool.start(replace(SETUP, model="deadly"), 1)


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
