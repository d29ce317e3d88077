"""A committed shard: open to any Zarr reader, written once, and of two writers one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from vlq.query.cache.reader import Cache
from vlq.query.errors import RunError
from vlq.query.schema import Commit, Run, array_specs, commit_key, digest_of
from vlq.query.store import ObstoreStore, Store, open_store
from vlq.workers.shard import write_shard

from ..counting import CountingStore
from ..synthetic import image_table, make_cache, make_run, random_readings

NAMES = ["a.png", "b.png", "c.png"]


def write(store: Store, run: Run, seed: int = 0, shard: int = 2) -> tuple[Commit, dict[str, np.ndarray]]:
    readings = random_readings(run, 3, np.random.default_rng(seed), [1])
    return write_shard(store, run, shard, 8, readings, image_table(NAMES, 8, [1], run)), readings


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "changes", [{}, {"dtype": "bfloat16", "vocabulary_size": 70_000, "layers": 2, "grid": (1, 2)}, {"at": ("prompt",)}]
)
def test_any_zarr_reader_opens_a_shard(tmp_path: Path, changes: dict[str, object]) -> None:
    run = make_run(**changes)
    commit, readings = write(open_store(str(tmp_path)), run)
    group = zarr.open_group(str(tmp_path / commit.prefix), mode="r", zarr_format=3)
    assert {name for name, _ in group.members(max_depth=None) if "/" in name} == set(readings)
    for spec in array_specs(run, 3, run.positions):
        array = group[spec.name]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == spec.axes  # type: ignore[union-attr]
        assert (array.shape, str(array.dtype)) == (spec.shape, spec.dtype)
        found = np.asarray(array[...])
        assert np.array_equal(found, readings[spec.name], equal_nan=found.dtype.kind == "f")
    assert group.attrs["vlq"] == {"run": run.digest}


def test_one_object_an_array_and_one_chunk_an_image(tmp_path: Path) -> None:
    commit, readings = write(open_store(str(tmp_path)), make_run())
    folder = tmp_path / commit.prefix
    data = [path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert len(data) == len(readings)
    array = zarr.open_array(str(folder / "patch" / "token"), mode="r")
    assert array.chunks == (1, *array.shape[1:])
    assert array.shards == array.shape


def test_the_record_names_every_object_with_its_checksum(tmp_path: Path) -> None:
    commit, _ = write(open_store(str(tmp_path)), make_run())
    named = [*commit.objects, commit.images_table, *commit.postings.values()]
    there = files(tmp_path)
    record = there.pop("commits/00000002.json")
    assert Commit.from_bytes(record, "") == commit
    assert {stored.key: (stored.size, stored.sha256) for stored in named} == {
        key: (len(data), digest_of(data)) for key, data in there.items()
    }
    assert (commit.first_image, commit.images, commit.errors) == (8, 3, ((9, "b.png", "truncated"),))
    assert pq.read_table(tmp_path / commit.images_table.key)["image"].to_pylist() == NAMES


def test_the_same_readings_are_the_same_objects(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(open_store(str(tmp_path / folder), create=True), make_run())
    assert files(tmp_path / "one") == files(tmp_path / "two")
    store = open_store(str(tmp_path / "one"))
    write(store, make_run())
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_what_a_dead_writer_left_is_taken_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    commit, _ = write(store, make_run())
    whole = files(tmp_path)
    store.delete("commits/00000002.json")
    store.delete(commit.objects[-1].key)
    (tmp_path / commit.objects[0].key).write_bytes(b"half")
    assert write(store, make_run())[0] == commit
    assert files(tmp_path) == whole


def test_a_writer_that_dies_after_any_put_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(open_store(str(tmp_path / "whole"), create=True), make_run())
    whole = files(tmp_path / "whole")
    create = ObstoreStore.create
    for allowed in range(len(whole)):
        store = open_store(str(tmp_path / f"{allowed}"), create=True)
        left = iter(range(allowed))

        def dying(self: ObstoreStore, key: str, data: bytes, left: Iterator[int] = left) -> bool:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return create(self, key, data)

        monkeypatch.setattr(ObstoreStore, "create", dying)
        with pytest.raises(KeyboardInterrupt):
            write(store, make_run())
        monkeypatch.undo()
        there = files(tmp_path / f"{allowed}")
        assert len(there) == allowed
        assert "commits/00000002.json" not in there
        write(store, make_run())
        assert files(tmp_path / f"{allowed}") == whole


def test_the_loser_of_two_writers_stays_invisible(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=11, seal=False)  # shard 2 holds images 8 to 10
    before = files(tmp_path)
    winner = Cache.open(str(tmp_path)).commit(2)
    held, lost = write(store, run, seed=5)
    assert held == winner
    after = files(tmp_path)
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys()  # its objects lie there ...
    cache = Cache.open(str(tmp_path))
    assert not np.array_equal(cache.group(2)["patch/top1"][...], lost["patch/top1"])  # type: ignore[index]
    for table in ("images", "patch_topk"):
        assert {Path(path).relative_to(tmp_path).as_posix() for path in cache.snapshot().files(table)} <= before.keys()


def test_another_runs_record_is_no_winner(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write(store, make_run())
    with pytest.raises(RunError, match="Shard 2 was committed by another run"):
        write(store, make_run(batch_size=3))


def test_nothing_is_seen_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run, _ = make_cache(tmp_path, images=8, seal=False)
    puts: list[str] = []
    create = type(store).create

    def spy(self: Store, key: str, data: bytes) -> bool:
        # Whenever the writer dies, a reader sees the two shards that were there.
        assert Cache.open(str(tmp_path)).snapshot().cached == 8
        puts.append(key)
        return create(self, key, data)

    monkeypatch.setattr(type(store), "create", spy)
    write(store, run)
    assert [key for key in puts if key.startswith("commits/")] == puts[-1:] == ["commits/00000002.json"]


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = make_run()
    readings = random_readings(run, 3, np.random.default_rng(0))
    readings["patch/lse"] = readings["patch/lse"].astype(np.float64)
    with pytest.raises(ValueError, match=r"patch/lse: expected \(3, 5, 12\) float32, got \(3, 5, 12\) float64"):
        write_shard(open_store(str(tmp_path)), run, 0, 0, readings, image_table(NAMES, 0, [], run))


def test_a_commit_is_one_put_an_object_and_reads_nothing(tmp_path: Path) -> None:
    store = CountingStore(open_store(str(tmp_path)))
    commit, _ = write(store, make_run())
    objects = [stored.key for stored in (*commit.objects, commit.images_table, *commit.postings.values())]
    assert store.requests == {"create": len(objects) + 1}
    assert store.keys("create") == [*dict.fromkeys(objects), commit_key(commit.shard)]  # the record last
