"""One contract, every store: what is put, read, listed and deleted, checked past the store itself."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import obstore
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from vlq.query.errors import StoreError
from vlq.query.store import Entry, FsspecStore, ObstoreStore, Store, open_store, put


@dataclass
class Behind:
    """A store, and its objects reached in another way."""

    store: Store
    fs: Any  # fsspec's file system, or obstore's backend
    root: str

    def write(self, key: str, data: bytes) -> None:
        if isinstance(self.fs, fsspec.AbstractFileSystem):
            path = f"{self.root}/{key}"
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(path, data)
        else:
            obstore.put(self.fs, key, data)

    def content(self) -> dict[str, bytes]:
        if isinstance(self.fs, fsspec.AbstractFileSystem):
            paths = self.fs.find(self.root) if self.fs.exists(self.root) else []
            return {path[len(self.root) + 1 :]: self.fs.cat_file(path) for path in paths}
        keys = [meta["path"] for page in obstore.list(self.fs) for meta in page]
        return {key: bytes(obstore.get(self.fs, key).bytes()) for key in keys}


def make(kind: str, folder: Path) -> Behind:
    name = uuid4().hex
    if kind == "local":
        return Behind(open_store(str(folder / name), create=True), fsspec.filesystem("file"), str(folder / name))
    if kind == "memory":
        store = open_store(f"memory://{name}")
        assert isinstance(store, ObstoreStore)
        return Behind(store, store._backend, "")
    if kind == "fsspec folders":  # fsspec's own scheme for local files: folders must be made
        return Behind(open_store(f"local://{folder}/{name}"), fsspec.filesystem("file"), f"{folder}/{name}")
    return Behind(FsspecStore(f"memory://{name}"), fsspec.filesystem("memory"), f"/{name}")


KINDS = ("local", "memory", "fsspec folders", "fsspec memory")


@pytest.fixture(params=KINDS)
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Behind:
    return make(request.param, tmp_path)


def test_read(behind: Behind) -> None:
    behind.write("shards/a/zarr.json", b"0123456789")
    assert behind.store.read("shards/a/zarr.json") == b"0123456789"
    assert behind.store.read_range("shards/a/zarr.json", 3, 4) == b"3456"
    assert behind.store.read_range("shards/a/zarr.json", 0, 10) == b"0123456789"
    assert behind.store.read_range("shards/a/zarr.json", -3, 3) == b"789"


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
    heads = [Entry("heads/10", 3), Entry("heads/2", 2), Entry("heads/x/1", 5)]
    assert list(behind.store.list("heads")) == heads
    assert list(behind.store.list()) == [Entry("a/heads/1", 4), *heads, Entry("headstone", 1)]


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
@settings(deadline=None, max_examples=25)
@given(objects=st.dictionaries(KEYS, st.binary(max_size=40), max_size=6), data=st.data())
def test_any_objects(tmp_path_factory: pytest.TempPathFactory, kind: str, objects: Any, data: st.DataObject) -> None:
    # On a disk a key cannot also be a folder.
    folders = {key.rpartition("/")[0] for key in objects} | {key.split("/")[0] for key in objects if "/" in key}
    objects = {key: value for key, value in objects.items() if key not in folders}
    behind = make(kind, tmp_path_factory.mktemp("store"))
    for key, value in objects.items():
        assert behind.store.create(key, value)
    assert behind.content() == objects
    assert dict(behind.store.list()) == {key: len(value) for key, value in objects.items()}
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
