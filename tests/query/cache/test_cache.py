"""What a reader sees of a cache: while it grows, when it is sealed, and when something is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.query.cache.heads import name_index
from vlq.query.cache.reader import Cache, default_url, near
from vlq.query.cache.records import committed_shards, latest_head
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CacheError, CorruptCache, NewerFormat, NoCache, VlqError
from vlq.query.schema import HEADS, Head, IndexFile, Stored, head_key
from vlq.query.store import Entry, Store, open_store
from vlq.workers.indexing.index import compact
from vlq.workers.shard import write_shard

from ...synthetic import image_table, make_cache, make_run, random_readings

pytestmark = pytest.mark.here("the records of a cache")


class Counting(Store):
    """Counts the requests to the store behind it."""

    def __init__(self, behind: Store) -> None:
        self.behind, self.url, self.requests = behind, behind.url, 0

    def read(self, key: str) -> bytes:
        self.requests += 1
        return self.behind.read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.requests += 1
        return self.behind.read_range(key, start, length)

    def create(self, key: str, data: bytes) -> bool:
        raise AssertionError("a reader writes nothing")

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        self.requests += 1
        return self.behind.list(prefix, after)

    def delete(self, key: str) -> None:
        raise AssertionError("a reader deletes nothing")


class Lagging(Counting):
    """Its listings do not tell of heads behind the number `told` yet. May be written to."""

    told = 0

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        return (entry for entry in super().list(prefix, after) if not self._is_young(entry.key))

    def _is_young(self, key: str) -> bool:
        return key.startswith(HEADS) and key > head_key(self.told)

    def create(self, key: str, data: bytes) -> bool:
        return self.behind.create(key, data)


def add_shard(store: Store, shard: int, size: int = 4) -> None:
    run = make_run()
    readings = random_readings(run, size, np.random.default_rng(shard))
    names = [f"{shard}-{i}.png" for i in range(size)]
    write_shard(store, run, shard, shard * 4, readings, image_table(names, shard * 4, [], run))


def growing(folder: Path, shards: int) -> Store:
    """A cache with a plan of three shards, of which some are committed."""
    store, _, _ = make_cache(folder, images=12, seal=False)
    for shard in range(shards, 3):
        store.delete(f"commits/{shard:08d}.json")
    return store


def test_an_unsealed_cache_is_asked_each_time(tmp_path: Path) -> None:
    store = growing(tmp_path, 1)
    cache = Cache.open(str(tmp_path))
    first = cache.snapshot()
    assert (first.sealed, first.planned, first.cached, first.images) == (False, 12, 4, 4)
    assert len(first.files("patch_top1")) == len(first.files("images")) == 1

    add_shard(store, 2)
    second = cache.snapshot()
    assert (second.cached, [commit.shard for commit in second.loose]) == (8, [0, 2])
    assert (first.cached, len(first.loose)) == (4, 1)  # a snapshot stays as it was

    add_shard(store, 1)
    head = latest_head(store)
    assert head is not None
    key, _ = compact(store, make_run(), head)
    store.create(head_key(2), Head(2, head.plan, 3, 12, True, key).to_bytes())
    third = cache.snapshot()
    assert (third.sealed, third.cached, third.loose) == (True, 12, ())
    assert len(third.files("patch_top1")) == 1


def test_what_was_read_once_is_kept(tmp_path: Path) -> None:
    growing(tmp_path, 2)
    opened = Cache.open(str(tmp_path))
    counting = Counting(opened.store)
    cache = Cache(opened.url, counting, opened.run)
    cache.snapshot()
    before = counting.requests
    cache.snapshot()
    # The heads' listing, the head and the commits' listing, but no record again.
    assert counting.requests - before <= 3


def test_a_sealed_cache_is_not_asked_again(tmp_path: Path) -> None:
    make_cache(tmp_path)
    opened = Cache.open(str(tmp_path))
    counting = Counting(opened.store)
    cache = Cache(opened.url, counting, opened.run)
    sealed = cache.snapshot()
    before = counting.requests
    assert cache.snapshot() is sealed
    assert counting.requests == before


def test_heads_are_found_that_no_listing_tells_of_yet(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path)
    sealed = latest_head(store)
    assert sealed is not None
    assert sealed.number == 2
    lagging = Lagging(store)
    for told, requests in ((0, 4), (1, 4), (2, 3)):  # a listing, the last head that it tells of, and those behind it
        lagging.told, lagging.requests = told, 0
        assert latest_head(lagging) == sealed
        assert lagging.requests == requests
    lagging.told = 0
    assert sealed.index is not None
    assert name_index(lagging, sealed, sealed.index, sealed=True) == sealed
    renewed = name_index(lagging, sealed, "index/other.json", sealed=True)
    assert (renewed.number, latest_head(lagging)) == (3, renewed)


def test_a_reader_does_not_go_back_with_a_listing_that_lags(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=8)
    head = latest_head(store)
    assert head is not None
    store.create(head_key(3), replace(head, number=3, shards=3, images=12, sealed=False).to_bytes())
    lagging = Lagging(store)
    lagging.told = 3
    cache = Cache(str(tmp_path), lagging, Cache.open(str(tmp_path)).run)
    assert cache.snapshot().planned == 12
    lagging.told = 2
    assert cache.snapshot().planned == 12


def test_a_grown_cache_answers_with_index_and_loose_shards(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=8)
    plan = latest_head(store)
    assert plan is not None
    store.create(head_key(3), Head(3, plan.plan, 4, 16, False, plan.index).to_bytes())
    add_shard(store, 3)
    snapshot = Cache.open(str(tmp_path)).snapshot()
    assert (snapshot.sealed, snapshot.planned, snapshot.cached) == (False, 16, 12)
    assert [commit.shard for commit in snapshot.loose] == [3]
    assert len(snapshot.files("images")) == 2
    # A shard beyond the head's plan is not seen.
    add_shard(store, 4)
    assert Cache.open(str(tmp_path)).snapshot().cached == 12


def test_errors_are_told_from_either_place(tmp_path: Path) -> None:
    make_cache(tmp_path / "sealed", failed=[1, 6])
    make_cache(tmp_path / "loose", failed=[1, 6], seal=False)
    for folder in ("sealed", "loose"):
        snapshot = Cache.open(str(tmp_path / folder)).snapshot()
        assert [(number, reason) for number, _, reason in snapshot.errors] == [(1, "truncated"), (6, "truncated")]
        assert snapshot.images == 8


def test_before_the_plan(tmp_path: Path) -> None:
    open_store(str(tmp_path)).create("run.json", make_run().to_bytes())
    snapshot = Cache.open(str(tmp_path)).snapshot()
    assert (snapshot.planned, snapshot.cached, snapshot.files("images")) == (0, 0, [])


def test_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for url in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(NoCache, match="There is no cache at") as caught:
            Cache.open(str(url))
        assert "make demo" in str(caught.value)
    monkeypatch.delenv("VLQ_CACHE", raising=False)
    monkeypatch.setenv("VLQ_HOME", str(tmp_path))
    with pytest.raises(NoCache, match="no demo cache"):
        default_url()
    monkeypatch.setenv("VLQ_CACHE", "")
    with pytest.raises(NoCache, match="no demo cache"):
        default_url()
    make_cache(tmp_path / "demo" / "cache")
    assert default_url() == str(tmp_path / "demo" / "cache")
    monkeypatch.setenv("VLQ_CACHE", "s3://mine")
    assert default_url() == "s3://mine"


NEWER = json.dumps({"format": 999}).encode()


def use(folder: Path) -> None:
    """Touch everything that a query may."""
    cache = Cache.open(str(folder))
    snapshot = cache.snapshot()
    for table in ("images", "patch_top1"):
        for path in snapshot.files(table):
            assert Path(path).is_file()
    cache.vocabulary()
    cache.tokenizer()
    for shard in range(3):
        cache.group(shard)["patch/token"][...]  # type: ignore[index]


@pytest.mark.parametrize(
    ("damaged", "content", "error"),
    [
        ("run.json", None, NoCache),
        ("run.json", b"{", CorruptCache),
        ("run.json", NEWER, NewerFormat),
        ("commits/head-*1.json", b"{}", CorruptCache),
        ("commits/head-*1.json", NEWER, NewerFormat),
        ("commits/0*1.json", b"", CorruptCache),
        ("commits/0*1.json", NEWER, NewerFormat),
        ("commits/0*1.json", None, CacheError),
        ("images/*", None, CorruptCache),
        ("postings/*/patch_top1*", None, CorruptCache),
        ("vocabulary.parquet", None, CorruptCache),
        ("shards/*1-*/patch/token/zarr.json", None, CorruptCache),
        ("shards/*1-*/patch/token/c/0/0/0/0", None, CorruptCache),
    ],
)
def test_missing_corrupt_and_newer_objects(
    tmp_path: Path, damaged: str, content: bytes | None, error: type[VlqError]
) -> None:
    make_cache(tmp_path, seal=False)
    use(tmp_path)
    (path, *_) = tmp_path.glob(damaged)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        use(tmp_path)
    assert type(caught.value) is error


def test_a_sealed_cache_without_its_index(tmp_path: Path) -> None:
    make_cache(tmp_path)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(CorruptCache, match="vlq index"):
        use(tmp_path)


def test_foreign_files_are_no_records(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, seal=False)
    (tmp_path / "commits" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "commits" / "00000001.json~").write_bytes(b"x")
    assert committed_shards(store) == [0, 1, 2]


def test_copies_of_what_lies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    url = f"memory://{tmp_path.name}"
    store, _, _ = make_cache(url)
    cache = Cache.open(url)
    (path,) = cache.snapshot().files("patch_top1")
    (stored,) = cache.snapshot().stored("patch_top1")
    assert Path(path).read_bytes() == store.read(stored.key)
    assert Path(cache.vocabulary()).read_bytes() == store.read("vocabulary.parquet")
    assert cache.tokenizer() is None
    # A copy needs no request, and is not made of bytes that nobody wrote.
    store.delete(stored.key)
    assert cache.snapshot().files("patch_top1") == [path]
    Path(path).unlink()
    store.create(stored.key, b"something else")
    with pytest.raises(CorruptCache, match="not what was written"):
        cache.snapshot().files("patch_top1")
    assert not Path(path).exists()


def test_arrays_are_what_was_written(tmp_path: Path) -> None:
    _, _, arrays = make_cache(tmp_path, failed=[5])
    cache = Cache.open(str(tmp_path))
    for shard, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):
        group = cache.group(shard)
        for name, values in arrays.items():
            if not name.startswith("sum/"):
                found = np.asarray(group[name][...])  # type: ignore[index]
                assert np.array_equal(found, values[rows], equal_nan=found.dtype.kind == "f"), name
    with pytest.raises(CacheError, match="Shard 9 is not committed"):
        cache.group(9)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=12),
    st.frozensets(st.integers(0, 45), min_size=1, max_size=4),
)
def test_the_files_that_are_near_some_keys_hold_all_their_rows(
    spans: list[tuple[int, int]], keys: frozenset[int]
) -> None:
    """A file begins with the key that the one before ended with, or behind it."""
    ordered: list[tuple[int, int]] = []
    for first, length in sorted(spans):
        first = max([first, *(last for _, last in ordered)])
        ordered.append((first, first + length))
    blocks = Stored("blocks", 1, "")
    files = [IndexFile(str(at), 1, "", blocks, first, last) for at, (first, last) in enumerate(ordered)]
    found = list(near(files, keys))
    holding = [file for file, (first, last) in zip(files, ordered, strict=True) if {*range(first, last + 1)} & keys]
    assert [file for file in files if file in found] == found
    assert {*holding} <= {*found}
    assert found or not files
    low, high = min(keys), max(keys)
    beyond = [file for file, (first, last) in zip(files, ordered, strict=True) if last < low or first > high]
    assert not {*beyond} & {*found} or found == files[:1]


def test_files_that_do_not_tell_their_keys_are_all_near() -> None:
    files = [IndexFile("old", 1, ""), IndexFile("old", 2, "")]
    assert near(files, {3}) == files


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "going on"])
@pytest.mark.parametrize(
    "look",
    [
        lambda corpus: corpus.zarr,
        lambda corpus: corpus.zarr["patch/token"],
        lambda corpus: [*corpus.first_layer("dog")],
        lambda corpus: [*corpus.images()],
        lambda corpus: corpus.info(),
        lambda corpus: corpus.sql("SELECT count(*) FROM images"),
    ],
    ids=["arrays", "array", "query", "images", "info", "sql"],
)
def test_a_cache_that_is_removed_while_it_is_open(
    tmp_path: Path, seal: bool, look: Callable[[LocalCorpus], object]
) -> None:
    make_cache(tmp_path / "cache", seal=seal)
    corpus = LocalCorpus(Cache.open(str(tmp_path / "cache")))
    assert len([*corpus.images()]) == 10  # what is asked for again is to be held in memory
    joined = corpus.zarr
    shutil.rmtree(tmp_path / "cache")
    for use in (look, lambda corpus: joined["patch/token"][0]):
        with pytest.raises(NoCache, match="is gone: it was there when it was opened"):
            use(corpus)
