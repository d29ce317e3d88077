"""One contract, every store: what is put, read, listed and deleted, checked past the store itself."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlq.query.errors import StoreError
from vlq.query.store import FsspecStore, open_store, put

from ..s3 import PAGE
from .conftest import KINDS, Behind, make, use


def test_read(behind: Behind) -> None:
    behind.write("shards/a/zarr.json", b"0123456789")
    assert behind.store.read("shards/a/zarr.json") == b"0123456789"
    assert behind.store.read_range("shards/a/zarr.json", 3, 4) == b"3456"
    assert behind.store.read_range("shards/a/zarr.json", 0, 10) == b"0123456789"
    assert behind.store.read_range("shards/a/zarr.json", -3, 3) == b"789"
    assert behind.store.read_range("shards/a/zarr.json", 5, 0) == b""


def test_a_range_ends_where_the_object_does(behind: Behind) -> None:
    behind.write("a/ten", b"0123456789")
    behind.write("a/empty", b"")
    for start, length in [(8, 5), (0, 11), (9, 1), (10, 1), (10, 0), (500, 3), (-10, 10), (-11, 11), (-500, 500)]:
        expected = b"0123456789"[max(0, start + 10) if start < 0 else start :][:length]
        assert behind.store.read_range("a/ten", start, length) == expected, (start, length)
    for start, length in [(0, 1), (0, 0), (3, 1), (-4, 4)]:
        assert behind.store.read_range("a/empty", start, length) == b"", (start, length)
    assert behind.store.read("a/empty") == b""
    with pytest.raises(ValueError, match="reads to the end"):
        behind.store.read_range("a/ten", -5, 2)


ODD = (
    "ü/日本 é",
    "caf\u0301e",
    "caf\u00e9",
    "a b+c%20&=#x",
    "~*()'!,;:@$",
    "[x]",
    "..x",
    "x..",
    "-",
    "a" * 200,
    "A/Case",
    "a/case",
)


def test_odd_keys(behind: Behind) -> None:
    for i, key in enumerate(ODD):
        assert behind.store.create(key, b"x" * i), key
        assert not behind.store.create(key, b"another"), key
    sizes = {key: i for i, key in enumerate(ODD)}
    assert [entry[:2] for entry in behind.store.list()] == [(key, sizes[key]) for key in sorted(ODD)]
    for key in ODD:
        assert behind.store.read(key) == b"x" * sizes[key]
    assert {key: len(data) for key, data in behind.content().items()} == sizes
    for key in ODD:
        behind.store.delete(key)
    assert behind.content() == {}


def test_a_large_object(behind: Behind) -> None:
    data = os.urandom(1_000_003) * 11  # more than obstore puts at once unless it is told to
    assert behind.store.create("large", data)
    assert behind.store.read("large") == data
    assert behind.store.read_range("large", 10_000_000, 7) == data[10_000_000:10_000_007]
    assert behind.content() == {"large": data}


def test_thousands_of_keys(behind: Behind) -> None:
    pages = 2.1 * (PAGE if behind.kind == "moto" else 1000)  # which servers list at once
    keys = [f"commits/{i:08d}.json" for i in range(int(pages))]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: behind.write(key, b"x"), keys))
    behind.write("commit", b"y")
    assert [entry.key for entry in behind.store.list("commits")] == keys
    assert len(list(behind.store.list())) == len(keys) + 1


def test_of_two_writers_one_wins(behind: Behind) -> None:
    if "file" in getattr(behind.fs, "protocol", ()) and isinstance(behind.store, FsspecStore):
        pytest.skip("fsspec looks first and writes then: docs/storage.md says what that means")
    for round_ in range(10):
        key, gate, won = f"heads/{round_}", threading.Barrier(4), []

        def write(name: bytes, key: str = key, gate: threading.Barrier = gate, won: list[bytes] = won) -> None:
            gate.wait()
            if behind.store.create(key, name * 1000):
                won.append(name)

        writers = [threading.Thread(target=write, args=(bytes([97 + i]),)) for i in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(won) == 1
        assert behind.store.read(key) == won[0] * 1000


def test_what_is_not_there(behind: Behind) -> None:
    behind.write("a/b", b"x")
    for absent in ("c", "a/c", "b/a"):
        with pytest.raises(FileNotFoundError):
            behind.store.read(absent)
        with pytest.raises(FileNotFoundError):
            behind.store.read_range(absent, 0, 1)
        behind.store.delete(absent)
    assert behind.content() == {"a/b": b"x"}


def test_create_takes_a_key_once(behind: Behind) -> None:
    assert behind.store.create("deep/er/key", b"first")
    assert not behind.store.create("deep/er/key", b"second")
    assert not behind.store.create("deep/er/key", b"first")  # of writers of the same bytes one wins, too
    assert behind.content() == {"deep/er/key": b"first"}
    behind.write("other", b"foreign")
    assert not behind.store.create("other", b"mine")
    assert behind.content()["other"] == b"foreign"
    assert behind.store.create("empty", b"")
    assert behind.content()["empty"] == b""


def test_list(behind: Behind) -> None:
    assert list(behind.store.list()) == []
    assert list(behind.store.list("heads")) == []
    for key, size in [("heads/2", 2), ("heads/10", 3), ("headstone", 1), ("a/heads/1", 4), ("heads/x/1", 5)]:
        behind.write(key, b"x" * size)
    heads = [("heads/10", 3), ("heads/2", 2), ("heads/x/1", 5)]
    assert [entry[:2] for entry in behind.store.list("heads")] == heads
    everything = [("a/heads/1", 4), *heads, ("headstone", 1)]
    assert [entry[:2] for entry in behind.store.list()] == everything
    for after in ("heads/1", "heads/10", "heads/2", "heads/3", "heads/x/1", "heads/z", "a", "z"):
        assert [entry[:2] for entry in behind.store.list("heads", after)] == [one for one in heads if one[0] > after]
        assert [entry[:2] for entry in behind.store.list("", after)] == [one for one in everything if one[0] > after]


def test_a_listing_tells_when_an_object_was_put(behind: Behind) -> None:
    before = time.time()
    behind.write("a", b"x")
    (entry,) = behind.store.list()
    assert entry.modified is not None
    assert before - 2 <= entry.modified <= time.time() + 2  # some servers count whole seconds


def test_a_listing_is_never_stale(behind: Behind) -> None:
    behind.write("commits/1", b"x")
    assert [entry.key for entry in behind.store.list("commits")] == ["commits/1"]
    behind.write("commits/2", b"x")
    assert [entry.key for entry in behind.store.list("commits")] == ["commits/1", "commits/2"]


class Remembering(MemoryFileSystem):  # type: ignore[misc]
    """Keeps what it listed until it is told to forget, as fsspec's file systems of remote servers do."""

    protocol = "remembering"
    listed: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("remembering://", "memory://")))

    def find(self, path: str, **options: Any) -> Any:
        if path not in self.listed:
            self.listed[path] = super().find(path, **options)
        return self.listed[path]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listed.clear()


def test_a_listing_is_never_an_old_one_that_the_file_system_remembers() -> None:
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    root = uuid4().hex
    store = FsspecStore(f"remembering://{root}")
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/{root}/commits/1", b"x")
    assert [entry.key for entry in store.list("commits")] == ["commits/1"]
    files.pipe_file(f"/{root}/commits/2", b"x")
    assert len(store._fs.find(f"/{root}/commits")) == 1  # it does remember
    assert [entry.key for entry in store.list("commits")] == ["commits/1", "commits/2"]


def test_delete(behind: Behind) -> None:
    behind.write("a/1", b"x")
    behind.write("a/2", b"y")
    behind.store.delete("a/1")
    assert behind.content() == {"a/2": b"y"}
    assert behind.store.create("a/1", b"anew")
    assert behind.content() == {"a/1": b"anew", "a/2": b"y"}


def test_what_is_damaged_under_its_hash_gives_way(behind: Behind) -> None:
    stored = put(behind.store, "index/abc", b"content")
    assert (stored.key, stored.size, stored.sha256[:8]) == ("index/abc", 7, "ed7002b4")  # sha256sum
    behind.write("index/abc", b"cont")
    assert put(behind.store, "index/abc", b"content") == stored
    assert behind.content() == {"index/abc": b"content"}


KEYS = st.lists(st.sampled_from(["a", "b", "c.json", "00000001-0f"]), min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.dictionaries(KEYS, st.binary(max_size=40), max_size=6), data=st.data())
def test_any_objects(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    objects: Any,
    data: st.DataObject,
) -> None:
    use(kind, request, monkeypatch)
    # On a disk a key cannot also be a folder.
    folders = {key.rpartition("/")[0] for key in objects} | {key.split("/")[0] for key in objects if "/" in key}
    objects = {key: value for key, value in objects.items() if key not in folders}
    behind = make(kind, tmp_path_factory.mktemp("store"))
    for key, value in objects.items():
        assert behind.store.create(key, value)
    assert behind.content() == objects
    sizes = {key: len(value) for key, value in objects.items()}
    assert {entry.key: entry.size for entry in behind.store.list()} == sizes
    assert [entry.key for entry in behind.store.list()] == sorted(objects)
    for key, value in objects.items():
        assert behind.store.read(key) == value
        if value:
            start = data.draw(st.integers(0, len(value) - 1))
            length = data.draw(st.integers(1, len(value) - start))
            assert behind.store.read_range(key, start, length) == value[start : start + length]


def test_local_paths(tmp_path: Path) -> None:
    local = open_store(str(tmp_path))
    assert local.local_path("a/b.json") == str(tmp_path / "a" / "b.json")
    assert open_store(f"file://{tmp_path}").local_path("x") == str(tmp_path / "x")
    assert open_store("memory://elsewhere").local_path("x") is None


def test_a_memory_store_lives_under_its_url() -> None:
    open_store("memory://shared").create("key", b"x")
    assert open_store("memory://shared").read("key") == b"x"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_store(str(tmp_path / "none"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Cannot make the folder"):
        open_store(str(tmp_path / "file"), create=True)
    with pytest.raises(StoreError, match="Cannot open nosuch://x"):
        open_store("nosuch://x")
    for url in ("ftp://127.0.0.1:1/x", "github://x"):  # what libraries raise: OSError, TypeError
        with pytest.raises(StoreError, match=f"Cannot open {url}: .+"):
            open_store(url)


@pytest.mark.parametrize(
    ("number", "reason", "hint"),
    [(errno.ENOSPC, "no space left on the device", "goes on"), (errno.EACCES, "permission denied", "read and write")],
)
def test_one_message_for_what_a_backend_raises(
    number: int, reason: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStore("memory://trouble")

    def fail(*given: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store._fs, "pipe_file", fail)
    with pytest.raises(StoreError, match=f"memory://trouble/key: {reason}") as caught:
        store.create("key", b"x")
    assert hint in str(caught.value)
