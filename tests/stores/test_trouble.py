"""What servers refuse, fail at, and lose on the way: one message each, and nothing half-visible."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlq.query.errors import StoreError, StoreStopped
from vlq.query.store import Store, open_store
from vlq.query.stores import objects
from vlq.query.stores.trouble import explained

from ..faults import Faults, faulty
from ..s3 import client, environment, new_bucket

CALLS: dict[str, tuple[str, str, Callable[[Store], Any]]] = {  # verb, method
    "read": ("read", "GET", lambda store: store.read("there")),
    "range": ("read", "GET", lambda store: store.read_range("there", 0, 2)),
    "create": ("write", "PUT", lambda store: store.create("new", b"x")),
    "list": ("list", "GET", lambda store: list(store.list())),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRIES", 2)
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(objects, "TIMEOUTS", {"connect_timeout": "1s", "read_timeout": "300ms", "timeout": "5s"})


@pytest.fixture
def faults(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Of the server that the environment names; `bucket()` is on it."""
    made = Faults(silence=0.5)
    with faulty(moto, made) as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def bucket(faults: Faults) -> str:
    name = new_bucket(dict(os.environ))
    client(dict(os.environ)).put_object(Bucket=name, Key="x/there", Body=b"0123")
    return name


REFUSALS = {
    (403, "AccessDenied"): "no permission to VERB",
    (403, "InvalidAccessKeyId"): "does not accept the credentials",
    (403, "SignatureDoesNotMatch"): "does not accept the credentials",
    (400, "ExpiredToken"): "the credentials have expired",
    (403, "RequestTimeTooSkewed"): "clock is wrong",
    (301, "PermanentRedirect"): "another region",
    (400, "AuthorizationHeaderMalformed"): "another region",
    (503, "SlowDown"): r"asking for fewer requests \(503 SlowDown\)",
    (500, "InternalError"): r"fails again and again \(500 InternalError\)",
    (507, "InsufficientStorage"): "the storage is full",
    (404, "NoSuchBucket"): "there is no such bucket",
}


@pytest.mark.parametrize(("refusal", "reason"), REFUSALS.items(), ids=lambda value: value[1] if len(value) == 2 else "")
def test_what_a_server_refuses(
    refusal: tuple[int, str], reason: str, faults: Faults, bucket: str, impatient: None
) -> None:
    store = open_store(f"s3://{bucket}/x?region=us-east-1")
    for verb, method, use in CALLS.values():
        faults.statuses = {method: refusal}
        with pytest.raises(StoreError, match=reason.replace("VERB", verb)) as caught:
            use(store)
        assert caught.value.message.startswith(f"Cannot {verb} s3://{bucket}/x")
        assert "?" not in caught.value.message
        assert caught.value.hint
        assert len(caught.value.message.splitlines()) == 1
    faults.statuses = {}
    assert [entry.key for entry in store.list()] == ["there"]  # nothing half done is seen


def test_a_bucket_that_is_not_there(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://vlq-no-such-bucket/x")
    for _, _, use in CALLS.values():
        with pytest.raises(StoreError, match="there is no such bucket"):
            use(store)
    with pytest.raises(StoreError, match="there is no such bucket"):
        store.delete("x")


def test_a_server_that_is_not_there(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    for _, _, use in CALLS.values():
        with pytest.raises(StoreError, match="cannot be reached"):
            use(open_store("s3://bucket/x"))


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # where a machine in the cloud has its credentials from
        metadata = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata)
    with pytest.raises(StoreError, match="there are no credentials") as caught:
        open_store("s3://bucket/x?endpoint=http://127.0.0.1:1").read("key")
    assert "$AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "?anonymous=true" in str(caught.value)


@pytest.mark.parametrize("fault", ["500", "503", "slow down", "reset", "silence", "cut short", "answer lost", "slow"])
def test_what_passes_is_not_noticed(fault: str, faults: Faults, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(objects, "TIMEOUTS", {"connect_timeout": "1s", "read_timeout": "300ms", "timeout": "5s"})
    store = open_store(f"s3://{bucket}/x")
    faults.share, faults.kinds = 0.4, (fault,)
    for i in range(4):
        assert store.create(f"a/{i:02d}", b"mine%d" % i)
        assert not store.create(f"a/{i:02d}", b"other")
        assert store.read(f"a/{i:02d}") == b"mine%d" % i
        assert store.read_range(f"a/{i:02d}", 1, 2) == b"in"
        assert len(list(store.list("a"))) == i + 1
    store.delete("a/00")
    assert faults.happened[fault] > 2
    faults.share = 0.0
    assert [entry.key for entry in store.list("a")] == [f"a/{i:02d}" for i in range(1, 4)]


def test_a_put_whose_answer_is_lost_has_won(faults: Faults, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.01)
    store = open_store(f"s3://{bucket}/x")
    assert store.create("usual", b"x")
    assert faults.requests["PUT"] == 3  # the bucket, what is there, and this one
    assert faults.requests["GET"] == 0  # nothing is read in the usual case
    faults.share, faults.kinds, faults.seed = 1.0, ("answer lost",), 0
    with pytest.raises(StoreError, match="breaks off"):
        store.create("mine", b"mine")  # no answer ever comes, but it is there
    faults.share = 0.0
    assert store.read("mine") == b"mine"
    assert not store.create("mine", b"mine")  # another call does not know whose it is


def test_a_conflict_without_an_object_is_tried_again(faults: Faults, bucket: str, impatient: None) -> None:
    """S3 answers 409 where a delete of the key is under way."""
    store = open_store(f"s3://{bucket}/x")
    faults.statuses = {"PUT": (409, "ConditionalRequestConflict")}
    with pytest.raises(StoreError, match="there, and that it is not"):
        store.create("new", b"x")
    assert faults.requests["PUT"] > 3
    faults.statuses = {}
    assert store.create("new", b"x")


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "commits").write_bytes(b"")  # where a folder should be: root may write anywhere
    with pytest.raises(StoreError, match="Cannot write"):
        open_store(str(tmp_path)).create("commits/1", b"x")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(number: int) -> None:
    said = f"Generic LocalFileSystem error: Unable to rename file: {os.strerror(number)} (os error {number})"
    error = explained(Exception(f"{said}\n\nDebug source:\n"), None, "usb/run.json", "write")
    assert isinstance(error, StoreStopped)
    assert error.message == ("Cannot write usb/run.json: the file system has no hard links, which keep writers apart.")
    assert "Choose another place" in str(error)


def test_a_quota_is_as_a_full_disk() -> None:
    said = f"Generic LocalFileSystem error: Unable to copy data to file: {os.strerror(errno.EDQUOT)} (os error 122)"
    for error in (Exception(said), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))):
        found = explained(error, None, "home/cache/run.json", "write")
        assert isinstance(found, StoreStopped)
        assert found.message == "Cannot write home/cache/run.json: the disk quota is exceeded."
        assert "quota raised" in str(found)


def test_a_folder_that_nobody_may_see_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, stat = tmp_path / "locked", os.stat

    def denied(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(locked)):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *more, **options)

    monkeypatch.setattr("os.stat", denied)  # whoever runs this may be allowed everything
    with pytest.raises(StoreError, match=rf"^Cannot look into {locked}/cache: permission denied\.") as caught:
        open_store(str(locked / "cache"))
    assert caught.value.hint
