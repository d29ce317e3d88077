"""Compaction and rebuilding: the rows of brute force, and the same bytes from every way there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlq.workers.indexing.index as index_module
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.errors import CorruptCache, StoreError
from vlq.query.schema import Head, Run
from vlq.query.store import open_store
from vlq.workers.indexing import merge as merge_module
from vlq.workers.indexing.index import compact, rebuild
from vlq.workers.indexing.merge import Part, Rows, merged, merged_files, token_ranges
from vlq.workers.indexing.postings import postings_bytes, postings_of
from vlq.workers.indexing.processes import Processes
from vlq.workers.shard import write_shard

from ...synthetic import edit_record, image_table, make_cache, make_run, random_readings


def indexed(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("index/**/*") if path.is_file()}


def topk_rows(run: Run, arrays: dict[str, np.ndarray], site: str) -> list[tuple[Any, ...]]:
    """Every stored reading as a row, sorted: loops over the whole corpus' arrays."""
    stored, last = ("prompt", slice(-1, None)) if site == "last" else (site, slice(None))
    token, logprob = arrays[f"{stored}/token"][:, :, last], arrays[f"{stored}/logprob"][:, :, last]
    return sorted(
        (int(token[cell]), *cell[:3], cell[3] + 1, float(logprob[cell]))
        for cell in np.ndindex(*token.shape)
        if token[cell] != run.no_id
    )


@settings(deadline=None, max_examples=15)
@given(
    images=st.integers(1, 9),
    shard_size=st.integers(1, 4),
    wide=st.booleans(),
    at_once=st.sampled_from([1, 100, 10**6]),
    part_bytes=st.sampled_from([1, 10**9]),
    group=st.sampled_from([1, 5, 10**6]),
    data=st.data(),
)
def test_the_index_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    images: int,
    shard_size: int,
    wide: bool,
    at_once: int,
    part_bytes: int,
    group: int,
    data: Any,
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    failed = data.draw(st.lists(st.integers(0, images - 1), unique=True))
    shape = {"layers": 1, "grid": (1, 2), "vocabulary_size": 70_000} if wide else {"layers": 2, "grid": (2, 2)}
    run = make_run(**shape, k=2, prompt_ids=(1, 2), shard_size=shard_size, vocabulary_hash="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_module, "ROWS_AT_ONCE", at_once)
        patch.setattr(merge_module, "PART_BYTES", part_bytes)
        patch.setattr(merge_module, "PART_GROUPS", 2)
        patch.setattr(merge_module, "FILE_GROUPS", 2)
        patch.setattr(merge_module, "row_group", lambda schema: group)
        patch.setattr(index_module, "fitting", lambda size, room: 1)  # others would not be patched
        _, _, arrays = make_cache(folder, run, images=images, failed=failed)
    cache = Cache.open(str(folder))
    snapshot = cache.snapshot()
    for site in ("patch", "prompt", "last"):
        files = snapshot.files(f"{site}_topk")
        rows = [tuple(row.values()) for path in files for row in pq.read_table(path).to_pylist()]
        assert rows == topk_rows(run, arrays, site)
        # The other table follows from rank 1 of this one.
        best: dict[Any, list[Any]] = {}
        for token, image, layer, position, rank, logprob in rows:
            if rank == 1:
                best.setdefault((token, image, layer), []).append((position, logprob))
        expected = [
            (*key, len(found), max(value for _, value in found), [position for position, _ in found])
            for key, found in best.items()
        ]
        files = snapshot.files(f"{site}_top1")
        assert [tuple(row.values()) for path in files for row in pq.read_table(path).to_pylist()] == expected
        rest = [row for path in snapshot.files(f"{site}_rest") for row in pq.read_table(path).to_pylist()]
        good = [image for image in range(images) if image not in failed]
        assert [(row["image"], row["layer"]) for row in rest] == [(i, j) for i in good for j in range(run.layers)]
        worst: dict[Any, float] = {}
        for _, image, layer, _, rank, logprob in rows:
            if rank == run.k:
                worst[image, layer] = max(worst.get((image, layer), logprob), logprob)
        assert {(row["image"], row["layer"]): row["kth"] for row in rest} == worst
    cells = [row for path in snapshot.files("patch_cells") for row in pq.read_table(path).to_pylist()]
    assert [row["image"] for row in cells] == [image for image in range(images) if image not in failed]
    dtype = np.dtype(run.id_dtype).newbyteorder("<")
    for row in cells:
        assert row["top1"] == arrays["patch/top1"][row["image"]].astype(dtype).tobytes()
    assert snapshot.cached == images
    (table,) = snapshot.files("images")
    assert pq.read_table(table)["image_id"].to_pylist() == list(range(images))


def test_the_order_of_commits_does_not_matter(tmp_path: Path) -> None:
    run = make_run()
    made = {}
    for name, order in (("up", [0, 1, 2, 3]), ("down", [3, 2, 1, 0]), ("mixed", [2, 0, 3, 1])):
        store = open_store(str(tmp_path / name), create=True)
        for shard in order:
            names = [f"{shard}-{i}" for i in range(4)]
            readings = random_readings(run, 4, np.random.default_rng(shard))
            write_shard(store, run, shard, shard * 4, readings, image_table(names, shard * 4, [], run))
        key, _ = compact(store, run, Head(1, "plan", 4, 16, False, None))
        made[name] = key, indexed(tmp_path / name)
    assert made["up"] == made["down"] == made["mixed"]


def test_an_index_of_more_shards_does_not_depend_on_the_one_before(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path / "stepwise", images=12, seal=False)
    head = latest_head(store)
    assert head is not None
    last = store.read("commits/00000002.json")
    store.delete("commits/00000002.json")
    _, early = compact(store, run, head)
    assert early.shards == 2
    store.create("commits/00000002.json", last)
    _, late = compact(store, run, head)
    store, _, _ = make_cache(tmp_path / "at once", images=12, seal=False)
    assert compact(store, run, head)[1] == late
    whole = indexed(tmp_path / "at once")
    assert {key: data for key, data in indexed(tmp_path / "stepwise").items() if key in whole} == whole


def test_an_index_ends_before_the_first_gap(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=12, seal=False)
    store.delete("commits/00000001.json")
    head = latest_head(store)
    assert head is not None
    _, manifest = compact(store, run, head)
    assert (manifest.shards, manifest.images) == (1, 4)


@pytest.mark.parametrize("failed", [[], [0, 1, 2, 3, 5], list(range(10))])
def test_rebuilding_from_arrays_gives_the_same_bytes(tmp_path: Path, failed: list[int]) -> None:
    store, run, _ = make_cache(tmp_path, failed=failed)
    before = indexed(tmp_path)
    head = latest_head(store)
    shutil.rmtree(tmp_path / "index")
    shutil.rmtree(tmp_path / "postings")
    key, _, changed = rebuild(store, run)
    assert indexed(tmp_path) == before
    assert head is not None
    assert (key, changed, latest_head(store)) == (head.index, False, head)


def test_an_index_of_no_readings_has_its_files(tmp_path: Path) -> None:
    _, run, _ = make_cache(tmp_path, failed=list(range(10)))
    snapshot = Cache.open(str(tmp_path)).snapshot()
    for table in (*(f"{site}_{kind}" for site in run.positions for kind in ("top1", "topk", "rest")), "patch_cells"):
        (path,) = snapshot.files(table)
        assert pq.read_table(path).num_rows == 0


@pytest.mark.parametrize("older", ["*", "*0"], ids=["all", "one"])
def test_shards_from_before_a_table(tmp_path: Path, older: str) -> None:
    store, run, _ = make_cache(tmp_path / "older", seal=False)
    for path in tmp_path.glob(f"older/commits/0{older}.json"):
        edit_record(path, lambda record: record["postings"].pop("patch_cells"))
    head = latest_head(store)
    assert head is not None
    _, manifest = compact(store, run, head)
    assert "patch_cells" not in manifest.tables
    assert "patch_topk" in manifest.tables
    # The arrays know all that it takes.
    _, manifest, _ = rebuild(store, run)
    make_cache(tmp_path / "newer")
    made, whole = (
        [path.read_bytes() for path in tmp_path.glob(f"{name}/index/*/patch_cells-*.parquet")]
        for name in ("older", "newer")
    )
    assert made == whole
    assert len(whole) == 1


def test_rebuilding_seals_a_complete_cache(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, seal=False)
    key, _, changed = rebuild(store, run)
    assert changed
    assert latest_head(store) == Head(2, Cache.open(str(tmp_path)).snapshot().head.plan, 3, 10, True, key)  # type: ignore[union-attr]


def test_rebuilding_keeps_an_incomplete_cache_open(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, seal=False)
    store.delete("commits/00000002.json")
    rebuild(store, run)
    head = latest_head(store)
    assert head is not None
    assert (head.sealed, head.images) == (False, 10)
    assert Cache.open(str(tmp_path)).snapshot().cached == 8


@pytest.mark.parametrize("damage", [b"not what it was", None])
def test_rebuilding_from_damaged_arrays_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    store, run, _ = make_cache(tmp_path)
    (path,) = tmp_path.glob("shards/00000001-*/patch/token/c/0/0/0/0")
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(CorruptCache, match=r"shards/00000001-.*/patch/token/c/0/0/0/0"):
        rebuild(store, run)


def test_the_index_has_another_key_when_it_has_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there under a key never changes: an older VLQ's index stays as it was, and a new head names the new."""
    store, run, _ = make_cache(tmp_path)
    before, sealed = indexed(tmp_path), latest_head(store)
    with monkeypatch.context() as older:
        older.delitem(index_module.WHOLE_TABLES, "divergence")
        key, manifest, changed = rebuild(store, run)
    assert (changed, sorted(manifest.tables.keys() & {"images", "divergence"})) == (True, ["images"])
    assert {name: data for name, data in indexed(tmp_path).items() if name in before} == before
    again, _, changed = rebuild(store, run)
    assert sealed is not None
    assert (again, changed) == (sealed.index, True)
    assert again != key


def test_the_index_has_another_key_when_another_arrow_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes may be others, and who reads the one that is there reads on."""
    store, run, _ = make_cache(tmp_path)
    before, sealed = indexed(tmp_path), latest_head(store)
    assert sealed is not None

    def otherwise(rows: pa.Table) -> bytes:
        pq.write_table(rows, tmp_path / "otherwise", compression="gzip")
        return (tmp_path / "otherwise").read_bytes()

    monkeypatch.setattr(pa, "__version__", "1000.0.0")
    monkeypatch.setattr(index_module, "parquet_bytes", otherwise)
    key, _, changed = rebuild(store, run)
    assert (changed, key == sealed.index) == (True, False)
    assert {name: data for name, data in indexed(tmp_path).items() if name in before} == before


def test_a_damaged_index_is_replaced(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path)
    before = indexed(tmp_path)
    for path in tmp_path.glob("index/*/patch_*"):
        path.write_bytes(b"damaged")
    rebuild(store, run)
    assert indexed(tmp_path) == before


def test_a_full_scratch_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run, _ = make_cache(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"(?s)No space left in .*TMPDIR"):
        rebuild(store, run)


# --- merging ---------------------------------------------------------------------------------------------------


def write_tokens(path: Path, tokens: list[int], file: int, group: int) -> str:
    rows = pa.table(
        {"token": pa.array(sorted(tokens), pa.uint32()), "file": pa.array([file] * len(tokens), pa.int32())}
    )
    pq.write_table(rows, path, row_group_size=group)
    return str(path)


@settings(deadline=None, max_examples=40)
@given(
    files=st.lists(st.lists(st.integers(0, 30), max_size=25), min_size=1, max_size=12),
    limit=st.integers(1, 60),
    group=st.integers(1, 9),
    fan_in=st.integers(2, 6),
    part_groups=st.integers(1, 30),
    file_groups=st.integers(1, 8),
)
def test_merging_is_a_stable_sort(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[int]],
    limit: int,
    group: int,
    fan_in: int,
    part_groups: int,
    file_groups: int,
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    paths = [write_tokens(folder / f"{i}", tokens, i, group) for i, tokens in enumerate(files)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_module, "ROWS_AT_ONCE", limit)
        patch.setattr(merge_module, "FAN_IN", fan_in)
        patch.setattr(merge_module, "PART_GROUPS", part_groups)
        patch.setattr(merge_module, "FILE_GROUPS", file_groups)
        patch.setattr(merge_module, "row_group", lambda schema: group)
        patch.setattr(merge_module, "open_writer", pq.ParquetWriter)  # these rows are no index's
        told: list[tuple[int, int]] = []
        parts = list(merged(paths))
        with Processes(1) as alone:
            found = list(merged_files({"some": paths}, folder, alone, lambda *passed: told.append(passed)))
    assert {table for table, _ in found} == {"some"}
    written = [path for _, path in found]
    expected = sorted((token, i) for i, tokens in enumerate(files) for token in tokens)
    rows = [(row["token"], row["file"]) for part in parts for row in part.to_pylist()]
    assert rows == expected
    for part in parts:
        assert part.num_rows <= min(limit, file_groups * group)
        assert part.num_rows or parts == [part]  # an empty one only where there are no rows at all
    tables = [pq.read_table(path) for path in written]
    assert [(row["token"], row["file"]) for table in tables for row in table.to_pylist()] == expected
    for path, table in zip(written, tables, strict=True):
        assert table.num_rows <= min(limit, file_groups * group)
        metadata = pq.read_metadata(path)
        assert max(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)) <= group or not rows
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert {path.name for path in folder.iterdir() if path.name.startswith("some-")} == {path.name for path in written}

    reader = Rows(paths)
    found = []
    while (table := reader.take(limit)) is not None:
        assert 0 < table.num_rows <= limit
        found += table["token"].to_pylist()
    assert found == [token for tokens in files for token in sorted(tokens)]


@pytest.mark.parametrize("is_shared", [False, True])
def test_several_processes_write_the_same_bytes(
    is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are many parts, and where one has most of the rows, which is shared then."""
    rng = np.random.default_rng(0)
    run = make_run()
    paths = []
    for shard in range(5):
        tables = postings_of(run, shard * 4, random_readings(run, 4, rng))
        paths.append(str(tmp_path / f"{shard}.parquet"))
        Path(paths[-1]).write_bytes(postings_bytes(tables["patch_topk"]))
    monkeypatch.setattr(merge_module, "FAN_IN", 2)
    by_token = np.unique(np.concatenate([pq.read_table(path)["token"] for path in paths]), return_counts=True)[1]
    most = int(by_token.sum() * 0.9) if is_shared else 13
    monkeypatch.setattr(merge_module, "rows_of_part", lambda path: most)
    if is_shared:  # in the other processes it is what it is, which is the same where no token has more rows
        monkeypatch.setattr(merge_module, "rows_of_file", lambda schema: int(by_token.max()))
    jobs: list[list[int]] = []
    shared_out = merge_module.shared_out

    def told(parts: Sequence[Part], processes: int) -> list[Part]:
        cut = shared_out(parts, processes)
        jobs.append([part.count for part in cut])
        return cut

    monkeypatch.setattr(merge_module, "shared_out", told)
    made = []
    for processes in (1, 2):
        (folder := tmp_path / str(processes)).mkdir()
        with Processes(processes) as several:
            made.append([path.read_bytes() for _, path in merged_files({"some": paths}, folder, several)])
    assert len(made[0]) > 3
    assert made[0] == made[1]
    assert sum(jobs[0]) == sum(jobs[1]) == by_token.sum()
    if is_shared:
        assert max(jobs[0]) > 0.8 * by_token.sum()
        assert max(jobs[1]) < 0.6 * by_token.sum()


def test_several_processes_make_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run, _ = make_cache(tmp_path, images=12)
    before = indexed(tmp_path)
    monkeypatch.setattr(index_module, "ALONE_BYTES", 0)
    head = latest_head(store)
    assert head is not None
    shutil.rmtree(tmp_path / "index")
    compact(store, run, head, processes=2)
    assert indexed(tmp_path) == before
    for folder in ("index", "postings"):
        shutil.rmtree(tmp_path / folder)
    rebuild(store, run, processes=2)
    assert indexed(tmp_path) == before
    array = next(tmp_path.glob("shards/00000001-*/patch/token/c/*/*/*/*"))
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(CorruptCache, match=r"shards/00000001-.* is not what was written"):
        rebuild(store, run, processes=2)


@given(counts=st.lists(st.integers(0, 9), max_size=12), limit=st.integers(1, 12))
def test_ranges_hold_every_token_once(counts: list[int], limit: int) -> None:
    ranges = list(token_ranges(np.array(counts, np.int64), limit))
    covered = [token for low, high in ranges for token in range(low, high) if counts[token]]
    assert covered == [token for token, count in enumerate(counts) if count]
    for low, high in ranges:
        held = [count for count in counts[low:high] if count]
        assert sum(held) <= limit or len(held) == 1
