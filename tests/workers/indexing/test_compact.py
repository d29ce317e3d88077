"""Compaction beside a run: readers see what is committed, consistently, and the end is as if it had never been."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import vlq
import vlq.workers.indexing.compactor as compactor_module
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cli import main
from vlq.query.schema import Head, Run
from vlq.query.store import Store, open_store
from vlq.workers.indexing.compactor import Compactor
from vlq.workers.indexing.index import compact, publish
from vlq.workers.upkeep import gc
from vlq.workers.upkeep.repair import Mended, repair
from vlq.workers.upkeep.verify import verify

from ...brute import picked_layers, read_site
from ...synthetic import make_cache, make_run
from ..upkeep.test_repair import Killed, contents, flip, killed_after

SHARDS, SIZE = 12, 2
RUN = make_run(shard_size=SIZE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that was never compacted before its end."""
    folder = tmp_path_factory.mktemp("compact") / "cache"
    make_cache(folder, RUN, images=SHARDS * SIZE, failed=[5, 11])
    return folder


@pytest.fixture
def growing(finished: Path, tmp_path: Path) -> Path:
    """The same before any shard is committed; `commit` commits one."""
    folder = tmp_path / "cache"
    shutil.copytree(finished, folder)
    for path in [*folder.glob("commits/0*"), folder / "commits" / "head-00000002.json"]:
        path.unlink()
    shutil.rmtree(folder / "index")
    return folder


def commit(folder: Path, finished: Path, shard: int) -> None:
    key = f"commits/{shard:08d}.json"
    assert open_store(str(folder)).create(key, (finished / key).read_bytes())


def head_of(store: Store) -> Head:
    head = latest_head(store)
    assert head is not None
    return head


def index(store: Store, run: Run = RUN) -> tuple[str, bool]:
    head = head_of(store)
    key, manifest = compact(store, run, head)
    return key, publish(store, head, key, manifest)


def aged(folder: Path) -> None:
    """As if all had been put two days ago."""
    then = time.time() - 2 * 24 * 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def collect(folder: Path) -> list[str]:
    cache = Cache.open(str(folder))
    return [leftover.key for leftover in gc.collect(cache, gc.leftovers(cache))]


def brute(finished: Path) -> dict[int, tuple[int, int]]:
    """By image the first layer at which 'dog' is among the four best, and at how many patches, from the arrays."""
    shards = sorted(str(path.parent.relative_to(finished)) for path in finished.glob("shards/*/zarr.json"))
    found = picked_layers(read_site(finished, shards, "patch"), [0, 1], rank=4)
    return {row["image"]: (row["layer"], len(row["positions"])) for row in found}


def asked(corpus: Any) -> dict[int, tuple[int, int]]:
    rows = corpus.first_layer("dog", rank=4).rows
    return {row["image_id"]: (row["layer"], len(row["patches"])) for row in rows}


def of_shards(answer: dict[int, tuple[int, int]], shards: set[int]) -> dict[int, tuple[int, int]]:
    return {image: found for image, found in answer.items() if image // SIZE in shards}


def test_an_index_of_the_shards_so_far(growing: Path, finished: Path) -> None:
    store, expected = open_store(str(growing)), brute(finished)
    reader = vlq.open(str(growing))
    assert index(store)[1] is False  # of no shard there is none
    for shard in (0, 1, 2, 4):
        commit(growing, finished, shard)
    assert len(reader.cache.snapshot().loose) == 4
    key, news = index(store)
    assert news
    assert index(store) == (key, False)
    for corpus in (reader, vlq.open(str(growing))):
        snapshot = corpus.cache.snapshot()
        assert snapshot.manifest is not None
        assert (snapshot.manifest.shards, [record.shard for record in snapshot.loose]) == (3, [4])
        assert (snapshot.sealed, snapshot.cached) == (False, 8)
        assert asked(corpus) == of_shards(expected, {0, 1, 2, 4})
    assert head_of(store).number == 1
    assert [finding.what for finding in verify(Cache.open(str(growing)), lambda *told: None)] == ["not done yet"] * 8


def test_the_end_is_as_if_nothing_had_been_indexed_before(growing: Path, finished: Path) -> None:
    store = open_store(str(growing))
    for shard in range(SHARDS):
        commit(growing, finished, shard)
        if shard in (2, 5, 6):
            index(store)
    assert index(store)[0] == head_of(store).index
    assert head_of(store) == head_of(open_store(str(finished)))
    assert contents(finished).items() <= contents(growing).items()
    assert collect(growing) == []  # a reader may be at work with what was there a moment ago
    aged(growing)
    assert collect(growing)
    assert contents(growing) == contents(finished)


def test_of_an_unfinished_run_smaller_indexes_go(growing: Path, finished: Path) -> None:
    store, expected = open_store(str(growing)), brute(finished)
    keys = []
    for shard in range(6):
        commit(growing, finished, shard)
        if shard % 2:
            keys.append(index(store)[0].removesuffix(".json"))
    aged(growing)
    gone = collect(growing)
    assert {key for key in gone if key.startswith("commits/")} == {
        f"commits/index-{shards:08d}-{key.removeprefix('index/')}" for shards, key in zip((2, 4), keys[:2], strict=True)
    }
    assert {f"index/{key.split('/')[1].split('.')[0]}" for key in gone if key.startswith("index/")} == {*keys[:2]}
    assert asked(vlq.open(str(growing))) == of_shards(expected, {*range(6)})
    assert collect(growing) == []


def test_readers_while_a_run_commits_and_a_compactor_indexes(growing: Path, finished: Path) -> None:
    """Each answer is that of brute force over some committed shards, among them all from before it began."""
    expected = brute(finished)
    committed: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()
    states: set[tuple[int, int]] = set()

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def compacting() -> None:
        store = open_store(str(growing))
        while not done.is_set():
            index(store)

    def reading() -> None:
        kept = vlq.open(str(growing))
        while not (done.is_set() and kept.cache.snapshot().sealed):
            for corpus in (kept, vlq.open(str(growing))):
                before = set(committed)
                found = asked(corpus)
                after = {*committed}
                snapshot = corpus.cache.snapshot()
                covered = snapshot.manifest.shards if snapshot.manifest else 0
                states.add((covered, len(snapshot.loose)))
                shards = {image // SIZE for image in found}
                assert of_shards(expected, before).items() <= found.items()
                assert found == of_shards(expected, shards)
                assert shards <= after | set(range(len(committed) + 1))

    threads: list[threading.Thread] = []
    for shard in (0, 1, 3, 2, 4, 6, 7, 5, 8, 9, 11, 10):
        commit(growing, finished, shard)
        committed.append(shard)
        # Of a cache that holds nothing yet nothing can be asked.
        threads = threads or [guarded(compacting), guarded(reading), guarded(reading)]
        time.sleep(0.15)
        while shard == 7 and not failures and not any(covered for covered, _ in [*states]):
            time.sleep(0.05)  # until somebody was told of a part
    while head_of(open_store(str(growing))).sealed is False and not failures:
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert any(0 < covered < SHARDS for covered, _ in states), states
    assert (SHARDS, 0) in states
    aged(growing)
    collect(growing)
    assert contents(growing) == contents(finished)


def test_killed_at_any_moment_and_called_again(growing: Path, finished: Path) -> None:
    expected = brute(finished)
    for shard in range(4):
        commit(growing, finished, shard)
    index(open_store(str(growing)))
    for shard in range(4, SHARDS):
        commit(growing, finished, shard)
        for steps in (0, 1, 5, 14, 22) if shard in (7, SHARDS - 1) else ():
            with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                killed_after(steps, patch)
                index(open_store(str(growing)))
            assert asked(vlq.open(str(growing))) == of_shards(expected, {*range(shard + 1)})
        if shard == 7:
            index(open_store(str(growing)))
    index(open_store(str(growing)))
    aged(growing)
    collect(growing)
    assert contents(growing) == contents(finished)


def test_a_real_kill(growing: Path, finished: Path) -> None:
    for shard in range(SHARDS):
        commit(growing, finished, shard)
    command = [sys.executable, "-m", "vlq", "compact", "--cache", str(growing)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not [*growing.glob("index/*/*")]:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert asked(vlq.open(str(growing))) == brute(finished)
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout.startswith("Index of 12 of 12")
    for path in growing.rglob("*#*"):  # a put that was cut off, which gc removes after its time
        path.unlink()
    assert contents(growing) == contents(finished)


def test_a_damaged_index_of_a_run_is_done_without(growing: Path, finished: Path) -> None:
    store = open_store(str(growing))
    for shard in range(5):
        commit(growing, finished, shard)
    for path in growing.glob("images/*"):
        if int(path.name[:8]) > 4:
            path.unlink()  # not put yet: else repair would commit these shards, too
    index(store)
    for pattern in ("index/*/patch_topk-000.parquet", "index/*.json"):
        flip(next(growing.glob(pattern)))
        assert "vlq repair" in [finding.mend for finding in verify(Cache.open(str(growing)), lambda *told: None)]
        told = list(repair(Cache.open(str(growing)), None, lambda *told: None))
        assert told
        assert all(isinstance(each, Mended) for each in told)
        assert vlq.open(str(growing)).cache.snapshot().manifest is None
        assert asked(vlq.open(str(growing))) == of_shards(brute(finished), {*range(5)})
        index(store)  # puts anew what is damaged
        assert vlq.open(str(growing)).cache.snapshot().manifest is not None


def test_a_complete_cache_does_without_the_indexes_before(growing: Path, finished: Path) -> None:
    store = open_store(str(growing))
    for shard in range(SHARDS):
        commit(growing, finished, shard)
        if shard == 4:
            index(store)
            first = sorted(growing.glob("index/*/*.parquet"))[::5]
    index(store)
    for path in first:
        flip(path)
        (found,) = verify(Cache.open(str(growing)), lambda *told: None)
        assert found.where == str(path.relative_to(growing))
        assert asked(vlq.open(str(growing))) == brute(finished)
        flip(path)
    flip(path)
    (mended,) = repair(Cache.open(str(growing)), None, lambda *told: None)
    assert str(mended) == f"{path.relative_to(growing)}: not what was written: not used any more."
    assert list(verify(Cache.open(str(growing)), lambda *told: None)) == []


def test_a_run_indexes_twice_as_many_shards_each_time(
    growing: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor_module, "FIRST", 2)
    store = open_store(str(growing))
    for shards in ((0, 2, 1, 3, 4), (5, 6, 7, 9, 10, 8), (11,)):  # stopped and gone on with, twice
        before = [shard for shard in range(SHARDS) if (growing / "commits" / f"{shard:08d}.json").exists()]
        compactor = Compactor(store, str(growing), RUN, head_of(store), before)
        for shard in shards:
            commit(growing, finished, shard)
            compactor.committed(shard)
        compactor.join()
        made = sorted(int(path.name.split("-")[1]) for path in growing.glob("commits/index-*"))
        assert made == [size for size in (2, 4, 8) if size <= 1 + max(shards)]  # never all: that is for the run's end
    assert head_of(store).number == 1


def test_a_compactor_that_fails_is_a_warning(
    growing: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compactor_module, "FIRST", 1)
    store = open_store(str(growing))
    commit(growing, finished, 0)
    flip(next(growing.glob("postings/00000000-*/patch_topk.parquet")))
    compactor = Compactor(store, str(growing), RUN, head_of(store), [])
    compactor.committed(0)
    compactor.join()
    assert "The first 1 shards are not indexed: " in caplog.text
    assert "is not what was written" in caplog.text


def test_the_command(growing: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def typed() -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["compact", "--cache", str(growing)])
        return ended.value.code, *capsys.readouterr()

    commit(growing, finished, 0)
    code, out, _ = typed()
    assert code == 0
    assert out.startswith("Index of 1 of 12 shards, 2 images: index/")
    assert typed()[1].endswith(".json (as it was).\n")
    (growing / "commits" / "head-00000001.json").unlink()
    code, _, said = typed()
    assert code == 2
    assert "has no plan yet" in said
