"""The whole job, what it leaves, and what a cache is gone on with."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

import vlq.workers.indexing.compactor as compactor_module
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cache.tables import read_plan
from vlq.query.errors import BadArgument, CacheMismatch, CorruptCache, InputError, ModelError
from vlq.query.store import open_store
from vlq.workers.job import run_job
from vlq.workers.plan import RunOptions
from vlq.workers.upkeep.repair import Mended, repair, unread
from vlq.workers.worker import Setup

from .conftest import IMAGES, make_model, save_images
from .here import PoolHere
from .runs import PROMPT, Silent, below, contents, finished, start, wait_until_gone

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy


def test_what_a_finished_run_leaves(undisturbed: Path) -> None:
    cache = Cache.open(str(undisturbed))
    snapshot = cache.snapshot()
    assert snapshot.sealed
    assert (snapshot.planned, snapshot.cached, snapshot.images) == (IMAGES, IMAGES, IMAGES - 1)
    assert snapshot.errors == [(5, "0005.png", "empty file")]
    assert (cache.run.prompt, cache.run.k, cache.run.layers, cache.run.grid) == (PROMPT, 4, 4, (4, 4))
    assert cache.tokenizer() is not None


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
    with pytest.raises(CacheMismatch, match=r"quantized: the cache has none, asked for '4bit'"):
        run_job(options(tiny_model, images, undisturbed, quantize="4bit"), Silent())
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(CacheMismatch, match="model_hash") as caught:
        run_job(options(other, images, undisturbed), Silent())
    assert "another --cache" in str(caught.value)


def test_a_lost_shard_is_done_again(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, no_ray: None
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    for name in ("token/c/0/0/0/0", "lse/c/0/0/0"):
        (damaged,) = cache.glob(f"shards/00000004-*/patch/{name}")
        damaged.write_bytes(b"damaged")
    (cache / "vocabulary.parquet").unlink()
    told = list(repair(Cache.open(str(cache)), None, lambda what, done, of: None))
    assert not [each for each in told if not isinstance(each, Mended)]
    assert unread(open_store(str(cache))) == [4]
    assert run_job(options(tiny_model, images, cache), Silent()).fresh == 2
    assert contents(cache) == contents(undisturbed)


def test_images_that_are_read_and_not_asked_for_are_told(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, no_ray: None
) -> None:
    """A run brings its cache to the end, however few images it is given the second time."""
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    for shard in (1, 4):
        (cache / "commits" / f"{shard:08d}.json").unlink()
    tracker = Silent()
    assert run_job(options(tiny_model, images, cache, limit=3), tracker).fresh == 4
    told = "3 of the images that are missing were planned before, and are none of these: a run reads all that its cache"
    assert sum(line.startswith(told) for line in tracker.said) == 1
    assert contents(cache) == contents(undisturbed)
    run_job(options(tiny_model, images, cache, limit=3), again := Silent())
    assert not any("planned before" in line for line in again.said)


def test_a_run_stopped_after_its_last_shard_leaves_what_others_do(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    head = latest_head(open_store(str(cache)))
    assert head is not None
    assert head.shards == 31
    (cache / "commits" / f"head-{head.number:08d}.json").unlink()
    shutil.rmtree(cache / "index")
    monkeypatch.setattr(compactor_module, "FIRST", 10)
    assert run_job(options(tiny_model, images, cache), Silent()).fresh == 0
    found, wanted = contents(cache), contents(undisturbed)
    assert {key: found.get(key) for key in wanted} == wanted
    interims = [key for key in found if key.startswith("commits/index-")]
    assert sorted(int(key.split("-")[1]) for key in interims) == [10, 20]


def test_a_lost_index_is_told(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "index")
    with pytest.raises(CorruptCache, match="vlq index"):
        run_job(options(tiny_model, images, tmp_path / "cache"), Silent())


def test_what_is_pinned_stays(tiny_model: Path, images: Path, undisturbed: Path) -> None:
    tracker = Silent()
    run_job(options(tiny_model, images, undisturbed, batch_size=5, attention="eager"), tracker)
    assert tracker.said == [
        "--batch-size 5 is not used: this cache was begun with 2 and goes on so.",
        "--attention eager is not used: this cache was begun with sdpa and goes on so.",
    ]


def test_a_mistake_leaves_no_cache_behind(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_job(options(tiny_model, tmp_path / "none", tmp_path / "cache"), Silent())
    with pytest.raises(ModelError):
        run_job(options(tmp_path / "none", images, tmp_path / "cache"), Silent())
    assert not (tmp_path / "cache").exists()


def test_what_a_worker_refuses_leaves_no_folder_behind(
    tiny_model: Path, images: Path, tmp_path: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of some options it is only known when the model is loaded whether they can be."""

    def refuse(pool: PoolHere, setup: Setup, *more: object) -> None:
        raise BadArgument(f"--keep {setup.keep}: it is too large.")

    monkeypatch.setattr(PoolHere, "start", refuse)
    (tmp_path / "there").mkdir()
    for cache in (tmp_path / "new" / "cache", tmp_path / "there"):
        with pytest.raises(BadArgument, match="--keep all"):
            run_job(options(tiny_model, images, cache, keep="all"), Silent())
        assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_new_images_become_new_shards(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, no_ray: None
) -> None:
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

    outcome = run_job(options(tiny_model, manifest, cache, workers=1), Silent())
    assert (outcome.images, len(outcome.errors), outcome.fresh) == (IMAGES + 3, 1, 3)
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


def test_prometheus_finds_what_a_run_tells(tiny_model: Path, tmp_path: Path, one_ray: None) -> None:
    """By the names in docs/running.md."""
    import ray

    folder = save_images(tmp_path / "images", 5)
    (folder / "0001.png").write_bytes(b"")
    outcome = run_job(options(tiny_model, folder, tmp_path / "cache", workers=1), Silent())
    assert (outcome.images, len(outcome.errors)) == (5, 1)
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"  # type: ignore[no-untyped-call]
    found: dict[str, str] = {}
    wanted = {"images": 5, "image_errors": 1, "shards": 3, "bytes": 1}
    for _ in range(120):  # a process tells every few seconds
        with suppress(OSError), urlopen(address, timeout=5) as answer:
            found = dict(re.findall(r"^ray_vlq_(\w+)\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE))
            if all(float(found.get(f"{name}_total", 0)) >= least for name, least in wanted.items()):
                break
        time.sleep(0.5)
    else:
        raise AssertionError(found)
    assert {"worker_seconds_total", "workers", "model_busy_share"} <= found.keys()
    assert 0 < float(found["model_busy_share"]) <= 1
