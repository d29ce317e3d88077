"""The whole job on real Ray: killed anywhere and resumed, with any number of workers, it leaves the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.cache import Cache, latest_head
from vlq.query.errors import CacheMismatch, InputError, ModelError
from vlq.query.store import open_store
from vlq.workers.job import run_job
from vlq.workers.plan import RunOptions, extended, first_plan, read_plan
from vlq.workers.tables import parquet_bytes

from .conftest import make_model, save_images

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"
IMAGES = 62
RUN = "import typer; from vlq.workers.commands import run; typer.run(run)"

pytestmark = pytest.mark.timeout(300)


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


def start(model: Path, images: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    options = ["--model", str(model), "--cache", str(cache), "--prompt", PROMPT, "--k", "4"]
    command = [sys.executable, "-c", RUN, str(images), *options, "--shard-size", "2", "--batch-size", "2", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return out


def contents(cache: Path) -> dict[str, bytes]:
    store = open_store(str(cache))
    return {entry.key: store.read(entry.key) for entry in store.list()}


def commits(cache: Path) -> int:
    folder = cache / "commits"
    return len(list(folder.glob("*.json"))) if folder.is_dir() else 0


def wait_for_commits(cache: Path, count: int, process: subprocess.Popen[str]) -> None:
    while commits(cache) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def workers_of(pid: int) -> list[int]:
    """The processes of ShardWorker actors below a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        waiting += (below := children.get(waiting.pop(), []))
        found += below
    return [child for child in found if b"ShardWorker" in Path(f"/proc/{child}/cmdline").read_bytes()]


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


def test_a_killed_worker_changes_no_byte(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = start(tiny_model, images, cache, "--workers", "2")
    wait_for_commits(cache, 3, process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    assert commits(cache) < IMAGES // 2
    finished(process)
    assert contents(cache) == contents(undisturbed)


def test_a_killed_run_goes_on_to_the_same_bytes(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = start(tiny_model, images, cache, "--workers", "2")
    wait_for_commits(cache, 3, process)
    process.kill()
    process.communicate()
    assert commits(cache) < IMAGES // 2
    # What is committed answers already.
    snapshot = Cache.open(str(cache)).snapshot()
    assert not snapshot.sealed
    assert snapshot.cached >= 6
    finished(start(tiny_model, images, cache, "--workers", "2"))
    assert contents(cache) == contents(undisturbed)


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
    plan = read_plan(store, head.plan).table.to_pylist()
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


def test_columns_follow_the_first_plan() -> None:
    plan = first_plan(corpus("a", label=["x"]), 2)
    assert extended(plan, corpus("b", other=[1]), 2).table["label"].to_pylist() == ["x", None]
    with pytest.raises(InputError, match="do not fit"):
        extended(plan, corpus("b", label=[[1]]), 2)


def test_plan_bytes_do_not_depend_on_chunks(tmp_path: Path) -> None:
    whole = corpus("a", "b", "c")
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert parquet_bytes(whole) == parquet_bytes(parts)
    (tmp_path / "p.parquet").write_bytes(parquet_bytes(whole))
    assert pq.read_table(tmp_path / "p.parquet").equals(whole)
