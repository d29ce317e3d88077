"""The whole job on real Ray: killed anywhere and resumed, with any number of workers, it leaves the same bytes."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.cache import Cache, latest_head
from vlq.query.commands import status
from vlq.query.errors import CacheMismatch, CorruptCache, InputError, ModelError
from vlq.query.store import open_store
from vlq.query.tables import parquet_bytes, read_plan
from vlq.workers.job import run_job
from vlq.workers.plan import RunOptions, extended, first_plan
from vlq.workers.repair import Mended, repair, unread

from .conftest import make_model, save_images

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"
IMAGES = 62
pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy


class Silent:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def phase(self, text: str) -> None:
        pass

    def images(self, done: int, total: int, errors: int, fresh: int) -> None:
        pass


def start(
    model: Path, images: Path, cache: Path, *more: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    options = ["--model", str(model), "--cache", str(cache), "--prompt", PROMPT, "--k", "4"]
    options += ["--shard-size", "2", "--batch-size", "2", *more]
    command = [sys.executable, "-m", "vlq.query.cli", "run", str(images), *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return out


def contents(cache: Path) -> dict[str, bytes]:
    store = open_store(str(cache))
    return {entry.key: store.read(entry.key) for entry in store.list()}


def commits(cache: Path) -> int:
    """How many shards are committed."""
    return len(list((cache / "commits").glob("[0-9]*.json")))


def below(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        started = children.get(waiting.pop(), [])
        waiting += started
        found += started
    return found


def workers_of(pid: int) -> list[int]:
    """The processes of ShardWorker actors below a process."""
    return [child for child in below(pid) if b"ShardWorker" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_images(tmp_path_factory.mktemp("job") / "images", IMAGES)
    (folder / "0005.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache made by one worker that nobody disturbed."""
    cache = tmp_path_factory.mktemp("job") / "cache"
    out = finished(start(tiny_model, images, cache, "--workers", "1"))
    assert "61 images read, 1 could not be" in out
    assert "0005.png: empty file" in out
    assert "vlq \"first_layer(token='dog')\"" in out
    return cache


def test_what_a_finished_run_leaves(undisturbed: Path) -> None:
    cache = Cache.open(str(undisturbed))
    snapshot = cache.snapshot()
    assert snapshot.sealed
    assert (snapshot.planned, snapshot.cached, snapshot.images) == (IMAGES, IMAGES, IMAGES - 1)
    assert snapshot.errors == [(5, "0005.png", "empty file")]
    assert (cache.run.prompt, cache.run.k, cache.run.layers, cache.run.grid) == (PROMPT, 4, 4, (4, 4))
    assert cache.tokenizer() is not None


# --- stopped and killed ----------------------------------------------------------------------------------------


@contextmanager
def half_fetched(
    image: Path, process: Callable[[], subprocess.Popen[str]]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run whose worker waits for the rest of an image's bytes, in mid-shard, and that worker's process.

    The image is whole again for whoever asks next.
    """
    aside = image.with_suffix(".whole")
    image.rename(aside)
    os.mkfifo(image)
    try:
        started = process()
        while True:
            try:
                pipe = os.open(image, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody reads it yet
                assert started.poll() is None, started.communicate()[1]
                time.sleep(0.01)
        os.write(pipe, aside.read_bytes()[:100])
        while not (reading := [pid for pid in workers_of(started.pid) if str(image) in open_files(pid)]):
            time.sleep(0.01)
    finally:
        aside.replace(image)
    try:
        yield started, reading[0]
    finally:
        os.close(pipe)


def open_files(pid: int) -> list[str]:
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()]


def wait_until_gone(pids: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.05)


def test_a_worker_killed_in_mid_shard_changes_no_byte(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = partial(start, tiny_model, images, cache, "--workers", "2")
    with half_fetched(images / "0021.png", run) as (process, worker):
        os.kill(worker, signal.SIGKILL)
        wait_until_gone([worker], 10)
        assert not (cache / "commits" / "00000010.json").exists()
        finished(process)
    assert contents(cache) == contents(undisturbed)


def test_a_run_stopped_in_every_way_goes_on_to_the_same_bytes(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = partial(start, tiny_model, images, cache, "--workers", "2")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        missing = [shard for shard in range(IMAGES // 2) if not (cache / "commits" / f"{shard:08d}.json").exists()]
        shard = missing[min(4, len(missing) - 1)]
        with half_fetched(images / f"{2 * shard + 1:04d}.png", run) as (process, _):
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
                assert (process.returncode, out) == (143 if number == signal.SIGTERM else 130, "")
                *_, kept, last = said.splitlines()
                assert re.fullmatch(r"\d+ of 62 images are cached\.", kept)
                assert last == "Stopped. What is done is kept; the same command goes on from here."
                assert time.monotonic() - stopped < 20  # most of it on a machine that others use, too
                wait_until_gone(processes, 10)
        assert not (cache / "commits" / f"{shard:08d}.json").exists()
        # What is committed answers already.
        snapshot = Cache.open(str(cache)).snapshot()
        assert not snapshot.sealed
        assert snapshot.cached == 2 * commits(cache) > 0
    finished(run())
    assert contents(cache) == contents(undisturbed)


def events(said: str) -> list[dict[str, Any]]:
    """What a run with --log json said."""
    return [json.loads(line) for line in said.splitlines()]


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


def test_a_shard_that_cannot_be_read_is_given_up_and_named(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    shutil.copytree(images, folder)
    for name in ("0006.png", "0021.png"):
        (folder / name).unlink()
        (folder / name).mkdir()  # no file: an I/O error, which says nothing about the image
    manifest = tmp_path / "all.csv"
    manifest.write_text("\n".join(["image", *(str(path) for path in sorted(folder.iterdir()))]))
    process = start(tiny_model, manifest, cache, "--workers", "1")
    _, said = process.communicate(timeout=250)
    assert process.returncode == 2
    assert said.splitlines()[-4:] == [
        "vlq: 2 shards were given up:",
        f"  shard 3, tried 4 times: IsADirectoryError: [Errno 21] Is a directory: '{folder}/0006.png'",
        f"  shard 10, tried 4 times: IsADirectoryError: [Errno 21] Is a directory: '{folder}/0021.png'",
        "The same command tries again what is missing; the rest is cached. vlq status shows which.",
    ]
    assert re.search(r"Shard 3: IsADirectoryError: .*; tried again in [01]\.\d s or later\.", said)
    assert commits(cache) == IMAGES // 2 - 2

    status(str(cache))
    shown = capsys.readouterr().out
    assert "shards   29 of 31 committed" in shown
    assert "missing  2 shards: 3, 10" in shown
    status(str(cache), format="json")
    values = json.loads(capsys.readouterr().out)
    assert values["missing"] == {"shards": 2, "ranges": [[3, 3], [10, 10]]}
    assert (values["images"], values["cached"], values["errors"]) == (IMAGES, IMAGES - 4, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=900k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(tiny_model: Path, images: Path, undisturbed: Path, small_disk: Path) -> None:
    cache = small_disk / "cache"
    process = start(tiny_model, images, cache)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2
    message, hint = said.splitlines()[-2:]
    assert message.startswith("vlq: ")
    assert message.endswith(": no space left on the device.")
    assert hint == "Free some space and run the same command again: it goes on."
    assert "Traceback" not in said
    assert 0 < commits(cache) < IMAGES // 2

    subprocess.run(["mount", "-o", "remount,size=100M", small_disk], check=True)
    finished(start(tiny_model, images, cache))
    assert contents(cache) == contents(undisturbed)


def test_joining_a_cluster(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    options = ["--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2], "--num-cpus", "2"]
    options += ["--include-dashboard", "false", "--disable-usage-stats", "--object-store-memory", str(100 * 2**20)]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    head = subprocess.Popen(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
                break
            assert head.poll() is None
            time.sleep(0.1)
        finished(start(tiny_model, images, tmp_path / "cache", "--ray-address", address, env=env))
        assert head.poll() is None  # the cluster stays
        assert contents(tmp_path / "cache") == contents(undisturbed)
    finally:
        processes = below(head.pid)
        head.terminate()
        head.wait(timeout=60)
        wait_until_gone(processes, 60)


# --- what a cache is gone on with ------------------------------------------------------------------------------


def options(model: Path, images: Path, cache: Path, **changes: object) -> RunOptions:
    values = {"prompt": PROMPT, "k": 4, "shard_size": 2, "batch_size": 2} | changes
    return RunOptions(str(images), str(model), str(cache), **values)  # type: ignore[arg-type]


def test_nothing_to_do_needs_no_model(tiny_model: Path, images: Path, undisturbed: Path) -> None:
    before = contents(undisturbed)
    outcome = run_job(options(tiny_model, images, undisturbed), Silent())
    assert (outcome.fresh, outcome.images) == (0, IMAGES)
    assert contents(undisturbed) == before
    run_job(options(tiny_model, images, undisturbed, prompt="What is the main object?"), Silent())


def test_another_run_is_refused(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"k: the cache has 4, asked for 5"):
        run_job(options(tiny_model, images, undisturbed, k=5), Silent())
    with pytest.raises(CacheMismatch, match=r"prompt: the cache has .*main object.*, asked for .*in this image"):
        run_job(options(tiny_model, images, undisturbed, prompt=None), Silent())
    with pytest.raises(CacheMismatch, match=r"at: the cache has patch,prompt, asked for patch"):
        run_job(options(tiny_model, images, undisturbed, at=("patch",)), Silent())
    with pytest.raises(CacheMismatch, match=r"dtype: the cache has 'float32', asked for 'bfloat16'"):
        run_job(options(tiny_model, images, undisturbed, dtype="bfloat16"), Silent())
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(CacheMismatch, match="model_hash") as caught:
        run_job(options(other, images, undisturbed), Silent())
    assert "another --cache" in str(caught.value)


def test_a_lost_shard_is_done_again(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    for name in ("token/c/0/0/0/0", "lse/c/0/0/0"):
        (damaged,) = cache.glob(f"shards/00000004-*/patch/{name}")
        damaged.write_bytes(b"damaged")
    (cache / "vocabulary.parquet").unlink()
    told = list(repair(Cache.open(str(cache)), None, lambda what, done, of: None))
    assert not [each for each in told if not isinstance(each, Mended)]
    assert unread(open_store(str(cache))) == [4]
    process = start(tiny_model, images, cache, "--log", "json")
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert [event["shard"] for event in events(said) if event["event"].endswith(" committed")] == [4]
    assert contents(cache) == contents(undisturbed)


def test_a_lost_index_is_told(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "index")
    with pytest.raises(CorruptCache, match="vlq index"):
        run_job(options(tiny_model, images, tmp_path / "cache"), Silent())


def test_what_is_pinned_stays(tiny_model: Path, images: Path, undisturbed: Path) -> None:
    tracker = Silent()
    run_job(options(tiny_model, images, undisturbed, batch_size=5), tracker)
    assert tracker.said == ["--batch-size 5 is not used: this cache was begun with 2 and goes on so."]


def test_a_mistake_leaves_no_cache_behind(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_job(options(tiny_model, tmp_path / "none", tmp_path / "cache"), Silent())
    with pytest.raises(ModelError):
        run_job(options(tmp_path / "none", images, tmp_path / "cache"), Silent())
    assert not (tmp_path / "cache").exists()


def test_new_images_become_new_shards(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache, corpus = tmp_path / "cache", tmp_path / "images"
    shutil.copytree(undisturbed, cache)
    before = contents(cache)
    shutil.copytree(images, corpus)
    for i, path in enumerate(sorted(save_images(tmp_path / "more", 3, seed=9).iterdir())):
        path.rename(corpus / f"000{i}a.png")  # between the old ones
    (corpus / "0001.png").unlink()
    # The same files at another place are other images; so the old ones are listed where they were.
    manifest = tmp_path / "all.csv"
    old = [images / path.name if (images / path.name).exists() else path for path in sorted(corpus.iterdir())]
    manifest.write_text("\n".join(["image", *map(str, old)]))

    out = finished(start(tiny_model, manifest, cache))
    assert f"{IMAGES + 2} images read" in out
    store = open_store(str(cache))
    head = latest_head(store)
    assert head is not None
    assert (head.number, head.shards, head.images, head.sealed) == (4, IMAGES // 2 + 2, IMAGES + 3, True)
    plan = read_plan(store, head.plan).to_pylist()
    assert [row["image"] for row in plan[:IMAGES]] == [f"{i:04d}.png" for i in range(IMAGES)]
    assert [Path(row["image"]).name for row in plan[IMAGES:]] == ["0000a.png", "0001a.png", "0002a.png"]
    assert [row["shard"] for row in plan[IMAGES:]] == [IMAGES // 2, IMAGES // 2, IMAGES // 2 + 1]
    after = contents(cache)
    assert {key: after[key] for key in before} == before


# --- plans alone -----------------------------------------------------------------------------------------------


def corpus(*names: str, **columns: list[object]) -> pa.Table:
    ids = pa.array(range(len(names)), pa.uint32())
    return pa.table({"image_id": ids, "image": list(names), "uri": [f"file:///{name}" for name in names], **columns})


def test_a_plan_that_is_extended() -> None:
    plan = first_plan(corpus("a", "b", "c", label=["x", "y", "z"]), 2)
    assert extended(plan, corpus("c", "a", "b", label=["z", "x", "y"]), 2) is plan
    longer = extended(plan, corpus("a", "d", "a", label=["x", "w", "v"]), 2)
    assert longer.table["image"].to_pylist() == ["a", "b", "c", "d", "a"]
    assert longer.table["shard"].to_pylist() == [0, 0, 1, 2, 2]
    assert longer.table["label"].to_pylist() == ["x", "y", "z", "w", "v"]
    assert [(shard, rows.num_rows) for shard, rows in longer.rows()] == [(0, 2), (1, 1), (2, 2)]


def test_a_shards_rows_travel_without_the_others() -> None:
    plan = first_plan(corpus(*(f"{i:08d}" for i in range(20_000))), 10)
    assert max(len(pickle.dumps(rows)) for shard, rows in plan.rows() if shard % 100 == 0) < 4000


def test_columns_follow_the_first_plan() -> None:
    plan = first_plan(corpus("a", label=["x"]), 2)
    assert extended(plan, corpus("b", other=[1]), 2).table["label"].to_pylist() == ["x", None]
    with pytest.raises(InputError, match="do not fit"):
        extended(plan, corpus("b", label=[[1]]), 2)


def test_plan_bytes_do_not_depend_on_chunks() -> None:
    names = [f"{i * 7919 % 100_003}" for i in range(50_000)]
    whole = corpus(*names)
    parts = pa.concat_tables([whole.slice(0, 777), whole.slice(777, 20_001), whole.slice(20_778)])
    assert parquet_bytes(parts) == parquet_bytes(whole)
    assert pq.read_table(io.BytesIO(parquet_bytes(parts))).equals(whole)
