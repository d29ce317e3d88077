"""A run that is stopped or killed anywhere goes on to the same bytes, and so do two at once."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from vlq.query.cache.reader import Cache

from ..storm.kills import Job, kill_indexing
from .conftest import IMAGES
from .runs import below, commits, contents, events, finished, start, title, wait_until_gone, workers_of

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy

STOPPED = "Stopped. What is done is kept; the same command goes on from here."


@contextmanager
def held(image: Path, process: Callable[[], subprocess.Popen[str]]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run whose worker waits for an image to open, in mid-shard, and that worker's process.

    Whoever asks for the image next has it at once; that worker has it in the end, or after 45 seconds: a lease lasts
    no longer (fcntl(2)).
    """
    aside = shutil.copy2(image, image.with_suffix(".whole"))
    lease = os.open(image, os.O_RDONLY)
    fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # by which nothing happens; SIGIO would end this process
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        try:
            started = process()
            while fcntl.fcntl(lease, fcntl.F_GETLEASE) == fcntl.F_WRLCK:  # nobody wants the file yet
                assert started.poll() is None, started.communicate()[1]
                time.sleep(0.01)
            while not (waiting := [pid for pid in workers_of(started.pid) if waits_for_lease(pid)]):
                time.sleep(0.01)
        finally:
            aside.replace(image)  # the same bytes in another file
        yield started, waiting[0]
    finally:
        os.close(lease)


def waits_for_lease(pid: int) -> bool:
    with suppress(OSError):
        return any("break_lease" in place.read_text() for place in Path(f"/proc/{pid}/task").glob("*/wchan"))
    return False


@pytest.fixture
def on_a_terminal() -> Iterator[None]:
    """Processes that are begun are told when their terminal is closed, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("on_a_terminal")
def test_a_run_stopped_in_every_way_goes_on_to_the_same_bytes(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = partial(start, tiny_model, images, cache, "--workers")

    def missing_shard() -> int:
        missing = [shard for shard in range(IMAGES // 2) if not (cache / "commits" / f"{shard:08d}.json").exists()]
        return missing[min(4, len(missing) - 1)]

    for number, count in ((signal.SIGTERM, "1"), (signal.SIGHUP, "1"), (signal.SIGINT, "1"), (signal.SIGKILL, "2")):
        shard = missing_shard()
        with held(images / f"{2 * shard + 1:04d}.png", partial(run, count)) as (process, _):
            processes, workers = below(process.pid), workers_of(process.pid)
            stopped = time.monotonic()
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # Ctrl-C reaches all of a terminal's processes
            else:
                process.send_signal(number)
            out, said = process.communicate(timeout=60)
            assert "Traceback" not in said
            if number == signal.SIGKILL:
                wait_until_gone(workers, 60)  # Ray's own follow within a minute
            else:
                assert (process.returncode, out) == (128 + number, "")
                *_, kept, last = said.splitlines()
                assert re.fullmatch(r"\d+ of 62 images are cached\.", kept)
                assert last == STOPPED
                assert time.monotonic() - stopped < 20  # most of it on a machine that others use, too
                wait_until_gone(processes, 10)
        assert not (cache / "commits" / f"{shard:08d}.json").exists()
        # What is committed answers already.
        snapshot = Cache.open(str(cache)).snapshot()
        assert not snapshot.sealed
        assert snapshot.cached == 2 * commits(cache) > 0
    shard = missing_shard()
    with held(images / f"{2 * shard + 1:04d}.png", partial(run, "2")) as (process, worker):
        os.kill(worker, signal.SIGKILL)  # the run itself goes on with another one
        wait_until_gone([worker], 10)
        assert not (cache / "commits" / f"{shard:08d}.json").exists()
        finished(process)
    assert contents(cache) == contents(undisturbed)


def test_a_run_is_stopped_while_ray_starts(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    """Ray sets handlers of its own then. It is also to start where there is no home folder to keep a token in."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": "/dev/null"}
    process = start(tiny_model, images, tmp_path / "cache", "--workers", "1", env=env)
    while not (found := [pid for pid in below(process.pid) if "gcs_server" in title(pid)]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (143, STOPPED)
    assert "Traceback" not in said
    wait_until_gone(found, 60)


def test_a_run_is_stopped_at_its_index(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = Job.of(tmp_path, tiny_model, images, undisturbed, seconds=0.0)
    process = job.begin("run", job.unsealed)
    assert process.stderr is not None
    while (line := process.stderr.readline()) and "indexing" not in line:
        pass
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (143, STOPPED)
    finished(job.begin("run", job.unsealed))
    assert contents(job.unsealed) == job.undisturbed


@pytest.mark.parametrize("command", ["index", "compact"])
def test_what_makes_an_index_is_killed_at_random_moments(
    command: str, tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A sample of `make storm`."""
    job = Job.of(tmp_path, tiny_model, images, undisturbed, seconds=0.0)
    outcome = kill_indexing(job, random.Random(0), 2, command)
    assert outcome.wrong == []
    assert outcome.killed == 2
    assert outcome.caches >= 2


def test_two_runs_at_once(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    runs = [start(tiny_model, images, cache, "--workers", "1", "--log", "json") for _ in range(2)]
    ends = [run.communicate(timeout=250) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    told = [event for _, said in ends for event in events(said) if "shard" in event and "seconds" in event]
    won = sorted(event["shard"] for event in told if event["event"].endswith(" committed"))
    assert won == list(range(IMAGES // 2))  # by either of them, each once
    # Where they meet, each has one shard in its model; then each goes on from somewhere else. If two that began at once
    # did not do that, they would read every shard twice.
    assert sum(event["event"].endswith("read twice") for event in told) <= IMAGES // 4
    assert contents(cache) == contents(undisturbed)
