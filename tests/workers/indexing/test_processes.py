"""Jobs in several processes: in order, with their errors, and no process that outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from vlq.query.errors import CorruptCache, RunError
from vlq.workers.indexing.processes import Processes

from ..runs import title, wait_until_gone


def who(number: int) -> tuple[int, int]:
    time.sleep(0.05)
    return number, os.getpid()


def fail(number: int) -> int:
    if number == 2:
        raise CorruptCache("this one", "Run: vlq verify")
    time.sleep(60 if number > 2 else 0)
    return number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def test_results_come_in_the_order_of_jobs() -> None:
    with Processes(2) as several:
        found = list(several.map(who, [(number,) for number in range(12)]))
        assert [number for number, _ in found] == list(range(12))
        pids = {pid for _, pid in found}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert {pid for _, pid in several.map(who, [(1,), (2,)])} <= pids  # these live as long as the context
    assert not any(map(title, pids))


@pytest.mark.parametrize(("processes", "jobs"), [(1, 3), (4, 1)])
def test_none_is_started_without_need(processes: int, jobs: int) -> None:
    with Processes(processes) as several:
        assert {pid for _, pid in several.map(who, [(number,) for number in range(jobs)])} == {os.getpid()}


@pytest.mark.parametrize(("processes", "started"), [(1, 0), (2, 2)])
def test_they_can_be_started_before_there_are_jobs(processes: int, started: int) -> None:
    with Processes(processes) as several:
        several.start()
        assert len(active_children()) == started
        found = [pid for _, pid in several.map(who, [(1,), (2,)])]
        assert all((pid != os.getpid()) == bool(started) for pid in found)
    assert not active_children()


def test_an_error_ends_all_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(CorruptCache, match="this one") as caught, Processes(2) as several:
        list(several.map(fail, [(number,) for number in range(9)]))
    assert caught.value.hint == "Run: vlq verify"
    assert time.monotonic() - start < 50  # and not the minute that others sleep


def test_a_process_that_dies_is_one_message() -> None:
    with pytest.raises(RunError, match="died") as caught, Processes(2) as several:
        list(several.map(die, [(1,), (2,)]))
    assert "--processes 1" in str(caught.value)


def test_they_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from tests.workers.indexing.test_processes import say\n"
        "from vlq.workers.indexing.processes import Processes\n"
        "with Processes(2) as several:\n"
        f"    list(several.map(say, [({str(tmp_path)!r},)] * 2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert all(map(title, pids))
    parent.kill()
    parent.wait()
    wait_until_gone(pids, 60)
