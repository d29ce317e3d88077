"""Images in a column of a Parquet file: each URI gives its own row's bytes, in whatever order they are asked for."""

from __future__ import annotations

import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.image import embedded
from vlq.query.image.embedded import holds_images, uri_of
from vlq.query.image.pictures import BadImage, as_cached, fetch
from vlq.query.schema import FOLDER_HERE, PUBLIC_URI

ROWS = 200
BYTES = [f"image {row}".encode() for row in range(ROWS)]


def write(path: Path, images: list[bytes | None], group: int = ROWS, plain: bool = False) -> str:
    """The file's URL. Its images lie in groups of so many rows."""
    column: list[object] = [image if plain else {"bytes": image, "path": None} for image in images]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(column, kind), "label": [str(row) for row in range(len(images))]})
    pq.write_table(table, path, row_group_size=group)
    return f"file://{path}"


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("group", [1, 7, 32, ROWS])
def test_each_row_has_its_own(tmp_path: Path, group: int, plain: bool) -> None:
    url = write(tmp_path / "a b.parquet", [*BYTES], group, plain)
    orders = [[*range(ROWS)], [*reversed(range(ROWS))], random.Random(0).sample(range(ROWS), 60), [5, 5, 4, 5]]
    for order in orders:
        assert [fetch(uri_of(url, "image", row)) for row in order] == [BYTES[row] for row in order]


def test_threads_ask_at_once(tmp_path: Path) -> None:
    url = write(tmp_path / "a.parquet", [*BYTES], 50)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda row: fetch(uri_of(url, "image", row)), range(ROWS))) == BYTES


def test_rows_one_after_another_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write(tmp_path / "a.parquet", [*BYTES])
    read: list[int] = []
    whole = embedded._Column._read_on
    monkeypatch.setattr(embedded._Column, "_read_on", lambda self, row: (read.append(row), whole(self, row))[1])
    for row in [1, 0, *range(2, ROWS)]:
        fetch(uri_of(url, "image", row))
    assert read == [1, *range(embedded.AT_ONCE, ROWS, embedded.AT_ONCE)]


def test_a_column_with_another_name(tmp_path: Path) -> None:
    table = pa.table({"image/of: the scene": pa.array([b"1", b"2"])})
    pq.write_table(table, tmp_path / "a.parquet")
    uri = uri_of(f"file://{tmp_path}/a.parquet", "image/of: the scene", 1)
    assert uri.startswith("parquet://image%2Fof%3A%20the%20scene/1::file:///")
    assert fetch(uri) == b"2"


def test_what_is_no_image_is_told_of_this_row_alone(tmp_path: Path) -> None:
    url = write(tmp_path / "a.parquet", [b"1", None, b"3"])
    with pytest.raises(BadImage, match="no image in its row"):
        fetch(uri_of(url, "image", 1))
    assert fetch(uri_of(url, "image", 2)) == b"3"
    for column, row in (("image", 3), ("picture", 0)):
        with pytest.raises(BadImage, match="not in its table"):
            fetch(uri_of(url, column, row))


def test_a_file_that_is_gone_says_nothing_of_its_images(tmp_path: Path) -> None:
    url = write(tmp_path / "a.parquet", [b"1"])
    uri = uri_of(url, "image", 0)
    assert fetch(uri) == b"1"
    os.remove(tmp_path / "a.parquet")
    with pytest.raises(OSError, match=r"cannot be read: .*No such file"):
        fetch(uri)
    (tmp_path / "a.parquet").write_bytes(b"not a table")
    with pytest.raises(OSError, match="cannot be read"):
        fetch(uri)
    assert as_cached(uri, "0") is None


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    uri = uri_of(write(path, [b"old"]), "image", 0)
    assert fetch(uri) == b"old"
    write(path, [b"new"])
    os.utime(path, ns=(0, 1))
    assert fetch(uri) == b"new"


def test_which_columns_hold_images() -> None:
    assert holds_images(pa.binary())
    assert holds_images(pa.large_binary())
    picture = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
    for kind in (picture, pa.list_(picture), pa.large_list(picture)):
        assert holds_images(kind)
    for kind in (
        pa.string(),
        pa.list_(pa.binary()),
        pa.struct([("bytes", pa.string())]),
        pa.struct([("x", pa.int8())]),
    ):
        assert not holds_images(kind)


def test_a_service_tells_no_folder_of_its_machine() -> None:
    """Neither in Python nor in SQL."""
    private = [
        uri_of("file:///home/me/train 0.parquet", "image", 7),
        uri_of("file:///me/a.parquet", "x", 7, 1),
        "file:///home/me/a.png",
        "s3://bucket/file/a.png",
    ]
    public = ["parquet://image/7::train 0.parquet", "parquet://x/7/1::a.parquet", "a.png", "s3://bucket/file/a.png"]
    assert [re.sub(FOLDER_HERE, r"\1", uri) for uri in private] == public
    told = duckdb.sql(f"SELECT {PUBLIC_URI.format('uri')} FROM (SELECT unnest(?) AS uri)", params=[private]).fetchall()
    assert [uri for (uri,) in told] == public
