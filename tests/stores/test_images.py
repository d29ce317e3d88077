"""Images, manifests and annotations in buckets."""

from __future__ import annotations

import io
import os
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.errors import InputError, StoreError, StoreStopped
from vlq.query.image.pictures import BadImage, fetch
from vlq.query.image.tables import read_table
from vlq.query.stores.objects import ObstoreStore
from vlq.workers.corpus import list_images
from vlq.workers.tars import BLOCK

from ..s3 import SECRET, client, environment, new_bucket
from ..tars import tar_of

OBJECTS = {"set/b.png": b"2", "set/sub/a é.jpg": b"1", "set/.h.png": b"", "set/note.txt": b"", "settle/c.png": b"3"}


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    environ = environment(moto)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    name = new_bucket(environ)
    for key, data in OBJECTS.items():
        put(name, key, data, environ)
    return name


def put(bucket: str, key: str, data: bytes, environ: dict[str, str]) -> None:
    client(environ).put_object(Bucket=bucket, Key=key, Body=data)


def test_a_folder(bucket: str) -> None:
    table = list_images(f"s3://{bucket}/set")
    assert table["image"].to_pylist() == ["b.png", "sub/a é.jpg"]
    uris = table["uri"].to_pylist()
    assert uris == [f"s3://{bucket}/set/b.png", f"s3://{bucket}/set/sub/a é.jpg"]
    assert [fetch(uri) for uri in uris] == [b"2", b"1"]
    assert list_images(f"s3://{bucket}")["image"].to_pylist() == ["set/b.png", "set/sub/a é.jpg", "settle/c.png"]


def test_one_image_and_a_glob(bucket: str) -> None:
    assert list_images(f"s3://{bucket}/set/b.png")["uri"].to_pylist() == [f"s3://{bucket}/set/b.png"]
    assert list_images(f"s3://{bucket}/set*/*.png")["image"].to_pylist() == ["set/b.png", "settle/c.png"]
    assert list_images(f"s3://{bucket}/**/*.jpg")["image"].to_pylist() == ["a é.jpg"]


def test_names_with_what_means_something_in_urls(bucket: str, moto: str) -> None:
    names = ["why?.png", "q?endpoint=x.png", "a b.png", "c#1.png", "d%20e.png", "100%.png", "日本.png", "x+y&z=1.png"]
    for name in names:
        put(bucket, f"odd/{name}", name.encode(), environment(moto))
    for options in ("", "?region=us-east-1"):
        table = list_images(f"s3://{bucket}/odd{options}")
        assert table["image"].to_pylist() == sorted(names)
        assert [fetch(uri).decode() for uri in table["uri"].to_pylist()] == sorted(names)
    put(bucket, "odd/list.csv", "\n".join(["image", *names]).encode(), environment(moto))
    uris = list_images(f"s3://{bucket}/odd/list.csv")["uri"].to_pylist()
    assert [fetch(uri).decode() for uri in uris] == names
    assert list_images(f"s3://{bucket}/odd/why?.png?")["uri"].to_pylist() == [f"s3://{bucket}/odd/why?.png?"]


def test_names_that_are_no_paths(bucket: str, moto: str) -> None:
    put(bucket, "set//twice.png", b"", environment(moto))
    with pytest.raises(StoreError, match=r"set//twice\.png. contained empty path segment\.") as caught:
        list_images(f"s3://{bucket}/set")
    assert "move that object away" in (caught.value.hint or "")
    for key in ("set//twice.png", "set/../b.png", "set/t\tb.png"):  # as a manifest may name one: no other try helps
        with pytest.raises(BadImage, match="are not read"):
            fetch(f"s3://{bucket}/{key}")


def test_files_that_are_too_large_for_an_image(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.query.image.pictures.MAX_BYTES", 2)
    for size, uri in ((2, tmp_path / "two.png"), (3, tmp_path / "three.png")):
        uri.write_bytes(b"x" * size)
        put(bucket, uri.name, b"x" * size, environment(os.environ["AWS_ENDPOINT_URL"]))
        for where in (f"file://{uri}", f"s3://{bucket}/{uri.name}"):
            if size == 2:
                assert fetch(where) == b"xx"
            else:
                with pytest.raises(BadImage, match="too large: 3 bytes"):
                    fetch(where)


def test_options_go_with_every_image(bucket: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    options = f"?endpoint={moto}&region=us-east-1"
    uris = list_images(f"s3://{bucket}/set{options}")["uri"].to_pylist()
    assert uris[0] == f"s3://{bucket}/set/b.png{options}"
    assert fetch(uris[0]) == b"2"
    assert list_images(f"s3://{bucket}/set/*.png{options}")["image"].to_pylist() == ["b.png"]


def test_images_inside_a_parquet_file(bucket: str, moto: str) -> None:
    data = [os.urandom(50_000) for _ in range(20)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": one, "path": None} for one in data]}), sink, row_group_size=5)
    put(bucket, "lists/train.parquet", sink.getvalue(), environment(moto))
    for url in (f"s3://{bucket}/lists/train.parquet", f"s3://{bucket}/lists/train.parquet?region=us-east-1"):
        with patch.object(ObstoreStore, "read_range", autospec=True, side_effect=ObstoreStore.read_range) as read:
            uris = list_images(url)["uri"].to_pylist()
            assert [fetch(uris[row]) for row in (17, 3)] == [data[17], data[3]]
        assert sum(call.args[3] for call in read.call_args_list) < 0.7 * len(sink.getvalue())  # two groups of the four
        assert [fetch(uri) for uri in uris] == data
    assert uris[0] == f"parquet://image/0::s3://{bucket}/lists/train.parquet?region=us-east-1"


def test_what_is_of_no_use_to_try_again_is_told_of_images_inside_files(bucket: str, moto: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": b"1", "path": None}]}), sink)
    put(bucket, "in/a.parquet", sink.getvalue(), environment(moto))
    put(bucket, "in/a.tar", tar_of({"a.jpg": b"1"}), environment(moto))
    for name in ("a.parquet", "a.tar"):
        (uri,) = list_images(f"s3://{bucket}/in/{name}")["uri"].to_pylist()
        with (
            patch.object(ObstoreStore, "read_range", side_effect=StoreStopped("the credentials have expired", None)),
            pytest.raises(StoreStopped, match="expired"),
        ):
            fetch(uri)
        assert fetch(uri) == b"1"


def test_several_manifests_are_one(bucket: str, moto: str) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number in range(3):
        lists = [[{"bytes": f"{number}{at}".encode(), "path": None} for at in range(number)]]
        sink = io.BytesIO()
        pq.write_table(pa.table({"images": pa.array(lists, pa.list_(picture)), "n": [number]}), sink)
        put(bucket, f"data/train/{number}.parquet", sink.getvalue(), environment(moto))
    for options in ("", "?region=us-east-1"):
        table = list_images(f"s3://{bucket}/data/*/*.parquet{options}")
        assert table["image"].to_pylist() == ["1/0", "2/0/0", "2/0/1"]
        assert table["n"].to_pylist() == [1, 2, 2]
        assert table["uri"][2].as_py() == f"parquet://images/0/1::s3://{bucket}/data/train/2.parquet{options}"
        assert [fetch(uri) for uri in table["uri"].to_pylist()] == [b"10", b"20", b"21"]
        with pytest.raises(InputError) as caught:
            list_images(f"s3://{bucket}/data/train{options}")
        assert f"'s3://{bucket}/data/train/*.parquet{options}'" in (caught.value.hint or "")
    put(bucket, "data/coco.json", b'{"images": [{"id": 1, "file_name": "../set/b.png"}]}', environment(moto))
    (uri,) = list_images(f"s3://{bucket}/data/coco.json")["uri"].to_pylist()
    assert fetch(uri) == b"2"


def test_images_inside_tars(bucket: str, moto: str) -> None:
    """Of images that are larger than what is fetched at once their headers alone are fetched for the list; and an image
    is one request for its own bytes."""
    large = {f"{number}.jpg": os.urandom(3 * BLOCK) for number in range(4)}
    small = {f"{number}.jpg": os.urandom(50) for number in range(4, 8)}
    texts = [{f"{name[0]}.txt": f"photo {name[0]}".encode() for name in images} for images in (large, small)]
    tars = [
        tar_of(dict(sorted((images | beside).items()))) for images, beside in zip((large, small), texts, strict=True)
    ]
    for number, data in enumerate(tars):
        put(bucket, f"shards/{number}.tar", data, environment(moto))
    for options in ("", "?region=us-east-1"):
        with patch.object(ObstoreStore, "read_range", autospec=True, side_effect=ObstoreStore.read_range) as read:
            table = list_images(f"s3://{bucket}/shards/*.tar{options}")
            asked = [call.args[3] for call in read.call_args_list]
            assert len(asked) <= 8
            assert sum(asked) < 0.5 * sum(map(len, tars))
            read.reset_mock()
            uris = table["uri"].to_pylist()
            assert [fetch(uri) for uri in uris] == [*large.values(), *small.values()]
            assert [call.args[3] for call in read.call_args_list] == [512 + 3 * BLOCK] * 4 + [512 + 50] * 4
        assert table["image"].to_pylist() == [f"{number // 4}/{number}.jpg" for number in range(8)]
        assert table["txt"].to_pylist() == [f"photo {number}" for number in range(8)]
        assert uris[0].endswith(f"::s3://{bucket}/shards/0.tar{options}")
        assert list_images(f"s3://{bucket}/shards/1.tar{options}")["uri"].to_pylist() == uris[4:]
        with pytest.raises(InputError) as caught:
            list_images(f"s3://{bucket}/shards{options}")
        assert f"'s3://{bucket}/shards/*.tar{options}'" in (caught.value.hint or "")

    put(bucket, "shards/1.tar", tars[1][:-10240][:700], environment(moto))
    with pytest.raises(InputError, match=r"1\.tar\S* cannot be read as a tar"):
        list_images(f"s3://{bucket}/shards/*.tar")
    for uri in uris[4:]:
        with pytest.raises(OSError, match="the tar is another one than when it was listed"):
            fetch(uri)
    client(environment(moto)).delete_object(Bucket=bucket, Key="shards/1.tar")
    with pytest.raises(OSError, match="cannot be read"):
        fetch(uris[4])
    with pytest.raises(InputError, match="There is no file"):
        list_images(f"s3://{bucket}/shards/1.tar")


def test_manifests(bucket: str, moto: str, tmp_path: Path) -> None:
    environ = environment(moto)
    put(bucket, "lists/all.csv", f"image,label\n../x.png,1\nb.png,2\ns3://{bucket}/set/b.png,3\n".encode(), environ)
    put(bucket, "lists/paths.csv", b"image\n../set/b.png\n/set/b.png\n./../../../set/./b.png\n", environ)
    assert [fetch(uri) for uri in list_images(f"s3://{bucket}/lists/paths.csv")["uri"].to_pylist()] == [b"2"] * 3
    table = list_images(f"s3://{bucket}/lists/all.csv")
    assert table["label"].to_pylist() == [1, 2, 3]
    assert table["uri"].to_pylist()[1:] == [f"s3://{bucket}/lists/b.png", f"s3://{bucket}/set/b.png"]
    assert fetch(table["uri"].to_pylist()[2]) == b"2"
    assert list_images(f"s3://{bucket}/lists/all.csv?endpoint={moto}").num_rows == 3
    assert read_table(f"s3://{bucket}/lists/all.csv").num_rows == 3
    here = tmp_path / "here.csv"
    here.write_text(f"url\ns3://{bucket}/set/sub/a é.jpg\n")
    assert [fetch(uri) for uri in list_images(str(here))["uri"].to_pylist()] == [b"1"]


def test_what_is_not_there(bucket: str) -> None:
    with pytest.raises(InputError, match="There is nothing at"):
        list_images(f"s3://{bucket}/nothing")
    with pytest.raises(InputError, match="There is no file"):
        read_table(f"s3://{bucket}/nothing.csv")
    with pytest.raises(BadImage, match="file not found"):
        fetch(f"s3://{bucket}/set/none.png")
    for inside in ("", "parquet://image/0::", "member://512/1/00000000::"):
        with pytest.raises(StoreError, match="there is no such bucket"):  # says nothing about the image
            fetch(f"{inside}s3://vlq-no-such-bucket/none.png")
    with pytest.raises(StoreError, match="there is no such bucket"):
        list_images("s3://vlq-no-such-bucket/none")


def test_no_secrets_in_a_plan(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no place for secrets") as caught:
        list_images(f"s3://bucket/x?secret_access_key={SECRET}")
    assert SECRET not in str(caught.value)
    (tmp_path / "m.csv").write_text(f"image\ns3://me:{SECRET}@bucket/x.png\n")
    with pytest.raises(StoreError, match="no place for secrets"):
        list_images(str(tmp_path / "m.csv"))
