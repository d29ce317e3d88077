"""Every store there is, each with a second way to its objects."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import obstore
import pytest

from vlq.query.store import FsspecStore, ObstoreStore, Store, open_store

from ..s3 import client, environment, moto_server, new_bucket


@dataclass
class Behind:
    """A store, and its objects reached in another way."""

    store: Store
    fs: Any  # fsspec's file system, obstore's backend, or Amazon's client
    root: str
    kind: str = ""

    def write(self, key: str, data: bytes) -> None:
        if isinstance(self.fs, fsspec.AbstractFileSystem):
            path = f"{self.root}/{key}"
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(path, data)
        elif hasattr(self.fs, "put_object"):
            self.fs.put_object(Bucket=self.root, Key=f"folder/{key}", Body=data)
        else:
            obstore.put(self.fs, key, data)

    def content(self) -> dict[str, bytes]:
        if isinstance(self.fs, fsspec.AbstractFileSystem):
            paths = self.fs.find(self.root) if self.fs.exists(self.root) else []
            return {path[len(self.root) + 1 :]: self.fs.cat_file(path) for path in paths}
        if hasattr(self.fs, "list_objects_v2"):
            pages = self.fs.get_paginator("list_objects_v2").paginate(Bucket=self.root)
            keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
            objects = {key: self.fs.get_object(Bucket=self.root, Key=key)["Body"].read() for key in keys}
            return {key.removeprefix("folder/"): data for key, data in objects.items()}
        keys = [meta["path"] for page in obstore.list(self.fs) for meta in page]
        return {key: bytes(obstore.get(self.fs, key).bytes()) for key in keys}


KINDS = ("local", "memory", "fsspec folders", "fsspec memory", "moto", "radosgw", "azurite")


def make(kind: str, folder: Path) -> Behind:
    """A new, empty store. The servers' kinds want the fixture `server` beside it."""
    name = uuid4().hex
    if kind == "local":
        return Behind(open_store(str(folder / name), create=True), fsspec.filesystem("file"), str(folder / name))
    if kind == "memory":
        store = open_store(f"memory://{name}")
        assert isinstance(store, ObstoreStore)
        return Behind(store, store._backend, "")
    if kind == "fsspec folders":  # fsspec's own scheme for local files: folders must be made
        return Behind(open_store(f"local://{folder}/{name}"), fsspec.filesystem("file"), f"{folder}/{name}")
    if kind == "fsspec memory":
        return Behind(FsspecStore(f"memory://{name}"), fsspec.filesystem("memory"), f"/{name}")
    if kind == "azurite":
        from obstore.store import AzureStore

        raw = AzureStore("tests", prefix=name, config={"allow_http": "true"})
        return Behind(open_store(f"az://tests/{name}"), raw, "")
    bucket = new_bucket(dict(os.environ))
    return Behind(open_store(f"s3://{bucket}/folder"), client(dict(os.environ)), bucket)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azurite() -> Iterator[dict[str, str]]:
    with azurite_server() as environ:
        yield environ


def use(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the server of a kind into the environment, or skip where there is none."""
    environ: dict[str, str] = {}
    if kind == "moto":
        environ = environment(request.getfixturevalue("moto"))
    elif kind == "radosgw" and "VLQ_TEST_RADOSGW" not in os.environ:
        pytest.skip("the real S3 server is for `make test-s3`")
    elif kind == "azurite":
        if azurite_program() is None:
            pytest.skip("no azurite: npm install azurite, with node_modules/.bin on the $PATH")
        environ = request.getfixturevalue("azurite")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=KINDS)
def behind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behind:
    use(request.param, request, monkeypatch)
    return replace(make(request.param, tmp_path), kind=request.param)


def azurite_program() -> str | None:
    return shutil.which("azurite-blob")


@contextmanager
def azurite_server() -> Iterator[dict[str, str]]:
    """Microsoft's emulator of its own storage, with a container `tests`."""
    program = azurite_program()
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # the emulator's
    environ = {
        "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_KEY": key,
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/devstoreaccount1",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [
            program,
            "--blobPort",
            str(port),
            "--location",
            folder,
            "--silent",
            "--disableTelemetry",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise
                    time.sleep(0.1)
            _make_container(environ, "tests")
            yield environ
        finally:
            process.kill()
            process.wait()


def _make_container(environ: dict[str, str], name: str) -> None:
    """The one request that obstore has no call for, signed as Azure's documentation of shared keys says."""
    import base64
    import hashlib
    import hmac
    import urllib.request
    from email.utils import formatdate

    account = environ["AZURE_STORAGE_ACCOUNT_NAME"]
    date, version = formatdate(usegmt=True), "2021-08-06"
    resource = f"/{account}/{account}/{name}\nrestype:container"
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
    key = base64.b64decode(environ["AZURE_STORAGE_ACCOUNT_KEY"])
    signature = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {account}:{signature}",
        "Content-Length": "0",
    }
    url = f"{environ['AZURE_STORAGE_ENDPOINT']}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()
