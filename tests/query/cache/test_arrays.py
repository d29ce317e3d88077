"""What reading a shard's arrays asks of the store."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from vlq.query.cache.arrays import open_group
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import read_run
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CorruptCache
from vlq.query.schema import array_specs
from vlq.query.store import Store, open_store

from ...counting import CountingStore
from ...synthetic import make_cache, make_run

pytestmark = pytest.mark.here("what is read of a store")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[CountingStore, Cache, dict[str, np.ndarray]]:
    _, _, expected = make_cache(tmp_path, images=10)
    store = CountingStore(open_store(str(tmp_path)))
    run = read_run(store)
    assert run is not None
    cache = Cache("counted", store, run)
    assert cache.snapshot().sealed
    return store, cache, expected


def test_an_image_is_two_ranges_of_an_array_and_then_one(
    counted: tuple[CountingStore, Cache, dict[str, np.ndarray]],
) -> None:
    store, cache, expected = counted
    names = [spec.name for spec in array_specs(cache.run, 10, cache.run.positions) if spec.axes[0] == "image"]
    assert len(names) > 6
    commit = cache.commit(0)
    sizes = {stored.key: stored.size for stored in commit.objects}
    for name in names:
        array = cache.array(0, name)  # its metadata is read
        store.reset()
        np.testing.assert_array_equal(array[1], expected[name][1])
        whole = sizes[f"{commit.prefix}/{name}/c/{'/'.join('0' * array.ndim)}"]
        assert store.requests == {"read_range": 2}
        assert store.bytes["read_range"] < whole
        store.reset()
        np.testing.assert_array_equal(array[2], expected[name][2])
        np.testing.assert_array_equal(cache.array(0, name)[0], expected[name][0])  # opened anew, it knows
        assert store.requests == {"read_range": 2}


def test_so_it_is_without_zarr(counted: tuple[CountingStore, Cache, dict[str, np.ndarray]]) -> None:
    store, cache, expected = counted
    names, commit = ["patch/token", "patch/logprob", "patch/entropy"], cache.commit(0)
    for image, requests in ((1, 6), (2, 3), (1, 3)):
        store.reset()
        found = cache.values_of(commit, names, image)
        for name, values in zip(names, found, strict=True):
            np.testing.assert_array_equal(values, expected[name][image])
        assert store.requests == {"read_range": requests}


class Together(CountingStore):
    """A store elsewhere that gives ranges to so many askers at once, or to none."""

    def __init__(self, behind: Store, askers: int) -> None:
        super().__init__(behind)
        self._all_there = threading.Barrier(askers)

    is_here = False

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self._all_there.wait(20)
        return super().read_range(key, start, length)


def test_several_arrays_are_read_side_by_side(tmp_path: Path) -> None:
    _, run, expected = make_cache(tmp_path, images=4)
    names = ["patch/token", "patch/logprob", "patch/entropy"]
    cache = Cache("together", Together(open_store(str(tmp_path)), len(names)), run)
    found = cache.values_of(cache.commit(0), names, 2)
    for name, array in zip(names, found, strict=True):
        np.testing.assert_array_equal(array, expected[name][2])


@pytest.mark.parametrize("place", [0, -1], ids=["chunk", "index"])
def test_of_several_arrays_the_damaged_one_is_told(tmp_path: Path, place: int) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    cache = Cache("damaged", store, run)
    commit = cache.commit(0)
    (path,) = tmp_path.glob(f"{commit.prefix}/patch/logprob/c/0/0/0/0")
    data = path.read_bytes()
    harmed = bytearray(data)
    harmed[place] ^= 255
    path.write_bytes(harmed)
    with pytest.raises(CorruptCache, match="patch/logprob is damaged"):
        cache.values_of(commit, ["patch/token", "patch/logprob"], 0)


def test_a_corpus_reads_no_more(counted: tuple[CountingStore, Cache, dict[str, np.ndarray]]) -> None:
    store, cache, expected = counted
    arrays = LocalCorpus(cache).zarr
    np.testing.assert_array_equal(arrays["patch/top1"][5], expected["patch/top1"][5])
    store.reset()
    np.testing.assert_array_equal(arrays["patch/top1"][5], expected["patch/top1"][5])
    assert store.requests == {"read_range": 1}


@pytest.mark.parametrize(
    "changes",
    [{}, {"vocabulary_size": 70_000, "dtype": "bfloat16"}, {"keep": "all"}, {"keep": "residual", "width": 4}],
    ids=["plain", "wide", "all", "residual"],
)
@pytest.mark.parametrize("failed", [(), (1,), (0, 1, 2, 3)])
def test_a_whole_array_is_what_was_put(tmp_path: Path, changes: dict[str, object], failed: tuple[int, ...]) -> None:
    store, run, _ = make_cache(tmp_path, make_run(**changes), images=4, failed=failed, seal=False)
    cache = Cache("whole", store, run)
    commit = cache.commit(0)
    specs = array_specs(run, 4, commit.lengths)
    assert {f"{spec.name}/zarr.json" for spec in specs} <= {
        stored.key.removeprefix(f"{commit.prefix}/") for stored in commit.objects
    }
    for spec in specs:
        found = cache.values(commit, spec.name)
        assert (found.shape, found.dtype) == (spec.shape, np.dtype(spec.dtype))
        expected = np.asarray(open_group(store, commit)[spec.name][...])  # type: ignore[index]
        np.testing.assert_array_equal(found, expected)
        for image in range(4) if spec.axes[0] == "image" else ():
            (one,) = cache.values_of(commit, [spec.name], image)
            assert one.dtype == expected.dtype
            np.testing.assert_array_equal(one, expected[image])


@pytest.mark.parametrize("damage", [b"not what it was", None])
def test_a_whole_array_that_came_to_harm(tmp_path: Path, damage: bytes | None) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    cache = Cache("harmed", store, run)
    (path,) = tmp_path.glob("shards/00000000-*/patch/lse/c/0/0/0")
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(CorruptCache, match="missing" if damage is None else "is not what was written"):
        cache.values(cache.commit(0), "patch/lse")


def test_what_is_shorter_than_its_record_says_is_not_read(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    commit = Cache("cut", store, run).commit(0)
    (path,) = tmp_path.glob(f"{commit.prefix}/patch/top1/c/0/0/0")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptCache, match="is not what was written"):
        open_group(store, commit)["patch/top1"][0]  # type: ignore[index]


def test_what_is_gone_between_two_readings_is_said_to_be_missing(tmp_path: Path) -> None:
    """Where the chunks lie is known by then, and newer Zarr reads them in tasks, whose errors come as a group."""
    store, run, _ = make_cache(tmp_path, images=4)
    array = Cache("gone", store, run).array(0, "patch/top1")
    array[0]
    (path,) = tmp_path.glob("shards/00000000-*/patch/top1/c/0/0/0")
    path.unlink()
    with pytest.raises(CorruptCache, match="is missing"):
        array[1]
