"""What nobody can want any more goes after its grace period; whatever anybody may still want stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import vlq
from vlq.query.cache.annotate import annotate
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cli import main
from vlq.query.errors import BadArgument, CacheError
from vlq.query.schema import Head, digest_of, head_key, plan_key
from vlq.query.store import Store, open_store
from vlq.workers.indexing.index import compact
from vlq.workers.shard import write_shard
from vlq.workers.upkeep import gc
from vlq.workers.upkeep.verify import verify

from ...synthetic import image_table, make_cache, make_run, parquet, planned, random_readings

DAY = 24 * 3600


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def age(folder: Path, seconds: float, *patterns: str) -> None:
    """As if what these patterns name (everything, if there are none) had been put so long ago."""
    then = time.time() - seconds
    for pattern in patterns or ("**/*",):
        for path in folder.glob(pattern):
            os.utime(path, (then, then))


def collected(folder: Path, grace: float = DAY) -> list[str]:
    cache = Cache.open(str(folder))
    return [leftover.key for leftover in gc.collect(cache, gc.leftovers(cache, grace))]


def lose(store: Store, shard: int, seed: int = 7) -> None:
    """A writer of other bytes comes too late, or is killed before its record: its objects are there, nothing else."""
    run = make_run()
    readings = random_readings(run, 2, np.random.default_rng(seed))
    write_shard(store, run, shard, shard * 4, readings, image_table(["x", "y"], shard * 4, [], run))


def new_head(store: Store, change: Callable[[Head], Head]) -> None:
    head = latest_head(store)
    assert head is not None
    made = change(head)
    assert store.create(head_key(made.number), made.to_bytes())


def test_nothing_of_a_sound_cache_goes(tmp_path: Path) -> None:
    make_cache(tmp_path, failed=[3])
    age(tmp_path, 2 * DAY)
    before = contents(tmp_path)
    assert collected(tmp_path) == []
    assert contents(tmp_path) == before


def test_losers_go_after_the_grace_period(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path)
    sound = contents(tmp_path)
    lose(store, 1)
    lost = sorted(contents(tmp_path).keys() - sound.keys())
    assert {key.partition("/")[0] for key in lost} == {"shards", "images", "postings"}
    age(tmp_path, 2 * DAY, "shards/*-*", "commits/head-*")  # folders alone, and heads: the objects are young
    assert collected(tmp_path) == []
    age(tmp_path, 2 * DAY)
    assert collected(tmp_path) == lost
    assert contents(tmp_path) == sound


def test_what_a_killed_writer_left_stays_until_its_shard_is_committed(tmp_path: Path) -> None:
    """Its successor finds the objects and counts upon them, however old they are."""
    store, _, _ = make_cache(tmp_path, seal=False)
    record = store.read("commits/00000001.json")
    store.delete("commits/00000001.json")
    age(tmp_path, 9 * DAY)
    before = contents(tmp_path)
    assert collected(tmp_path, grace=0) == []
    store.create("commits/00000001.json", record)
    assert contents(tmp_path).keys() - before.keys() == {"commits/00000001.json"}
    assert list(verify(Cache.open(str(tmp_path)), lambda what, done, of: None)) == []


def test_old_indexes_go_when_a_newer_one_is_named(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=12, seal=False)
    record = store.read("commits/00000002.json")
    store.delete("commits/00000002.json")
    head = latest_head(store)
    assert head is not None
    early, _ = compact(store, run, head)
    new_head(store, lambda head: Head(2, head.plan, head.shards, head.images, False, early))
    store.create("commits/00000002.json", record)
    late, _ = compact(store, run, head)
    age(tmp_path, 2 * DAY)
    # Nobody names it yet: its writer may be about to.
    assert collected(tmp_path) == []
    new_head(store, lambda head: Head(3, head.plan, head.shards, head.images, True, late))
    # A reader may hold the head before: the newest one is younger than the grace period.
    assert collected(tmp_path) == []
    reader = vlq.open(str(tmp_path))
    answer = reader.first_layer("dog").rows
    age(tmp_path, 2 * DAY)
    gone = collected(tmp_path)
    assert gone
    assert {key[: len(early) - 5] for key in gone} == {early.removesuffix(".json")}
    assert vlq.open(str(tmp_path)).first_layer("dog").rows == answer


def test_of_a_run_that_goes_on_smaller_indexes_go(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=16, seal=False)
    records = {shard: store.read(f"commits/{shard:08d}.json") for shard in range(4)}
    head = latest_head(store)
    assert head is not None
    made = []
    for shards in (1, 2, 3):
        for shard, record in records.items():
            store.delete(f"commits/{shard:08d}.json")
            if shard < shards:
                store.create(f"commits/{shard:08d}.json", record)
        made.append(compact(store, run, head)[0].removesuffix(".json"))
    new_head(store, lambda head: Head(2, head.plan, head.shards, head.images, False, made[1] + ".json"))
    age(tmp_path, 2 * DAY)
    assert {key[: len(made[0])] for key in collected(tmp_path)} == {made[0]}
    assert (tmp_path / f"{made[2]}.json").exists()  # of more shards: a compactor may be about to name it


def test_plans_that_were_never_named(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path)
    keys = []
    for images in (9, 10, 11):
        data = parquet(planned([f"other{i}.png" for i in range(images)], {}, 4))
        keys.append(plan_key(digest_of(data)[:16]))
        store.create(keys[-1], data)
    age(tmp_path, 2 * DAY)
    assert collected(tmp_path) == sorted(keys[:2])  # the largest may be the next head's


def test_replaced_annotations_go_and_others_stay(tmp_path: Path) -> None:
    make_cache(tmp_path)
    cache = Cache.open(str(tmp_path))
    for values in ([1, 2], [3, 4]):
        annotate(cache, pa.table({"image_id": [0, 1], "score": values}), replace=True)
    first, second = sorted((tmp_path / "annotations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    age(tmp_path, 2 * DAY, "annotations/*")
    assert collected(tmp_path) == []  # the head before is young
    age(tmp_path, 2 * DAY)
    assert collected(tmp_path) == [f"annotations/{first.name}"]
    assert vlq.open(str(tmp_path)).images().rows[0]["score"] == 3
    assert second.exists()


def test_an_annotation_that_is_named_anew_meanwhile_is_put_back(tmp_path: Path) -> None:
    make_cache(tmp_path)
    cache = Cache.open(str(tmp_path))
    old, new = (pa.table({"image_id": [0, 1], "score": values}) for values in ([1, 2], [3, 4]))
    annotate(cache, old, replace=True)
    annotate(cache, new, replace=True)
    age(tmp_path, 2 * DAY)
    found = gc.leftovers(cache)
    assert len(found) == 1
    annotate(cache, old, replace=True)  # finds its object, and names it
    assert list(gc.collect(cache, found)) == []
    assert vlq.open(str(tmp_path)).images().rows[0]["score"] == 1


def test_half_puts_and_foreign_files(tmp_path: Path) -> None:
    make_cache(tmp_path)
    half = "postings/00000000-0123456789abcdef/patch_topk.parquet#1", "index/0123456789abcdef.json#12"
    # As in the folder of a data set, where somebody put a cache: COCO's has images/ and annotations/.
    own = "README.md", "annotations/instances.json", "plans/plan.parquet", "lens/50mm.json", "images/photo#1", "a#2"
    for name in (*half, *own, "index/note", "studies/notes.txt", "moments/best.safetensors", "shards/notes#a"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 7)
    assert collected(tmp_path) == []
    age(tmp_path, 2 * DAY)
    assert collected(tmp_path) == sorted(half)


def test_a_store_that_does_not_tell_times_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = make_cache(tmp_path)
    lose(store, 1)
    cache = Cache.open(str(tmp_path))
    entries = [entry._replace(modified=None) for entry in store.list()]
    monkeypatch.setattr(
        cache.store,
        "list",
        lambda prefix="", after="": (e for e in entries if e.key.startswith(prefix) and e.key > after),
    )
    assert gc.leftovers(cache, 0) == []


def test_in_memory() -> None:
    url = "memory://collected"
    store, run, _ = make_cache(url)
    sound = [entry.key for entry in store.list()]
    lose(store, 0)
    cache = Cache(url, open_store(url), run)
    assert len(list(gc.collect(cache, gc.leftovers(cache, -1)))) > 10
    assert [entry.key for entry in store.list()] == sound


@pytest.mark.parametrize(
    ("text", "expected"), [("24h", 86_400), ("30m", 1_800), ("7d", 604_800), ("90s", 90), ("1.5h", 5_400), ("0", 0)]
)
def test_times(text: str, expected: float) -> None:
    assert gc.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "1 day", "24", "00"])
def test_no_times(text: str) -> None:
    with pytest.raises(BadArgument, match="24h, 30m or 7d"):
        gc.seconds(text)


def test_without_a_plan(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, seal=False)
    store.delete("commits/head-00000001.json")
    with pytest.raises(CacheError, match="no plan yet"):
        gc.leftovers(Cache.open(str(tmp_path)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _, _ = make_cache(tmp_path)
    before = contents(tmp_path)
    lose(store, 1)
    lost = {key: data for key, data in contents(tmp_path).items() if key not in before}
    total = sum(map(len, lost.values()))

    def run(*arguments: str) -> tuple[object, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["gc", "--cache", str(tmp_path), *arguments])
        return ended.value.code, capsys.readouterr().out.splitlines()

    assert run() == (0, [f"0 objects of 0 bytes removed: {tmp_path}"])
    code, lines = run("--grace", "0", "--dry-run")
    assert (code, lines[-1]) == (0, f"{len(lost)} objects of {total:,} bytes would go: {tmp_path}")
    assert lines[:-1] == [
        f"{key}: {len(lost[key]):,} bytes, not what its shard's record names." for key in sorted(lost)
    ]
    assert lost.items() <= contents(tmp_path).items()
    code, lines = run("--grace", "0")
    assert (code, lines[-1]) == (0, f"{len(lost)} objects of {total:,} bytes removed: {tmp_path}")
    assert contents(tmp_path) == before
