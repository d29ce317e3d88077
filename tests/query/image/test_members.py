"""Images inside a tar: each URI gives its own member's bytes, as long as the tar is the one that was listed."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest

from vlq.query.image.members import Member, check_of
from vlq.query.image.pictures import BadImage, Unfetched, as_cached, fetch
from vlq.query.schema import FOLDER_HERE, PUBLIC_URI

from ...serving import serving
from ...tars import tar_of

FILES = {
    "a.png": b"1",
    "empty.png": b"",
    "folder/" + 30 * "é" + ".png": b"22",
    300 * "x" + ".png": os.urandom(2000),
}


def uris_of(path: Path) -> dict[str, str]:
    """Of each member, by its name. Python's own reader says where it lies."""
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        return {
            member.name: Member(
                member.offset_data, member.size, check_of(data[member.offset_data - 512 : member.offset_data])
            ).uri(f"file://{path}")
            for member in tar
        }


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_each_member_has_its_own(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a b::c.tar"
    path.write_bytes(tar_of(FILES, form))
    uris = uris_of(path)
    assert uris.keys() == FILES.keys()
    assert {name: fetch(uri) for name, uri in uris.items()} == FILES
    for uri in uris.values():
        member, tar = Member.of_uri(uri)
        assert member.uri(tar) == uri
        assert tar == f"file://{path}"


def test_a_tar_that_was_written_again(tmp_path: Path) -> None:
    """Of the same files it is the same, whenever it was written; of others it is told to be another."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(FILES))
    uris = uris_of(path)
    with tarfile.open(path, "w") as tar:
        for name, data in FILES.items():
            header = tarfile.TarInfo(name)
            header.size, header.mtime, header.uname = len(data), 10**9, "me"
            tar.addfile(header, io.BytesIO(data))
    assert {name: fetch(uri) for name, uri in uris.items()} == FILES

    named = FILES | {"b.png": b"1"}
    del named["a.png"]
    others = [named, FILES | {"a.png": b"12"}, FILES | {"0.png": b"3"}]
    for other in others:
        path.write_bytes(tar_of(dict(sorted(other.items()))))
        with pytest.raises(Unfetched, match="the tar is another one than when it was listed") as caught:
            fetch(uris["a.png"])
        assert "Put the tar back" in (caught.value.hint or "")
        assert as_cached(uris["a.png"], "0") is None
    path.write_bytes(tar_of(FILES)[:-10240])
    with pytest.raises(Unfetched, match="another one"):  # cut off
        fetch([*uris.values()][-1])


def test_a_tar_that_is_gone_says_nothing_of_its_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(FILES))
    uri = uris_of(path)["a.png"]
    shutil.move(path, tmp_path / "b.tar")
    with pytest.raises(OSError, match=r"cannot be read: .*No such file"):
        fetch(uri)


def test_a_web_server_that_sends_the_whole_file(tmp_path: Path) -> None:
    """As Python's own does, whatever part it is asked for."""
    (tmp_path / "a.tar").write_bytes(tar_of(FILES))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        uris = {name: uri.replace(f"file://{tmp_path}", url) for name, uri in uris_of(tmp_path / "a.tar").items()}
        assert {name: fetch(uri) for name, uri in uris.items()} == FILES


def test_what_is_no_place_in_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(FILES))
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 4096)
    for place in (f"512/9/00000000::{secret}", f"0/9/00000000::{path}", f"-1/9/00000000::{path}", "512", f"::{path}"):
        with pytest.raises(Unfetched, match="cannot be read"):
            fetch(f"member://{place}")
    monkeypatch.setattr("vlq.query.image.pictures.MAX_BYTES", 100)
    with pytest.raises(BadImage, match="too large: 2,000 bytes"):
        fetch([*uris_of(path).values()][-1])


def test_a_service_tells_no_folder_of_its_machine() -> None:
    """Neither in Python nor in SQL."""
    uri = Member(1536, 7, 255).uri("file:///home/me/0 1.tar")
    assert re.sub(FOLDER_HERE, r"\1", uri) == "member://1536/7/000000ff::0 1.tar"
    told = duckdb.sql(f"SELECT {PUBLIC_URI.format('uri')} FROM (SELECT ? AS uri)", params=[uri]).fetchall()
    assert told == [("member://1536/7/000000ff::0 1.tar",)]
