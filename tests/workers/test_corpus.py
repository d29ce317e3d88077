"""What counts as a corpus, and what is said where there is none."""

from __future__ import annotations

import errno
import json
import os
import re
import zipfile
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.errors import InputError
from vlq.query.image.pictures import BadImage, fetch
from vlq.workers.corpus import list_images, list_manifest
from vlq.workers.plan import RunOptions, corpus_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt", ".hidden.png", "sub/.git/d.png", "._e.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "images"


def test_a_folder_with_its_subfolders_sorted(folder: Path) -> None:
    table = list_images(str(folder))
    assert table["image"].to_pylist() == ["a.JPG", "b.png", "sub/c.webp"]
    assert table["uri"].to_pylist() == [f"file://{folder}/{name}" for name in ("a.JPG", "b.png", "sub/c.webp")]
    assert table["image_id"].to_pylist() == [0, 1, 2]
    assert table.schema.field("image_id").type == pa.uint32()


def test_subfolders_are_a_column(folder: Path) -> None:
    deep = folder / "sub" / "deep" / "d.png"
    deep.parent.mkdir()
    deep.write_bytes(b"x")
    assert list_images(str(folder))["folder"].to_pylist() == [None, None, "sub", "sub/deep"]
    assert list_images(f"{folder}/*/*.webp").column_names == ["image_id", "image", "uri"]  # they lie in one
    assert list_images(f"{folder}/**/*.*")["folder"].to_pylist() == [None, None, "sub", "sub/deep"]
    assert list_images(str(folder), limit=2)["folder"].to_pylist() == [None, None]  # as the others have some


def test_other_ways_to_say_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list_images(str(folder))
    assert list_images(f"file://{folder}/") == whole
    assert list_images(f"file://localhost{folder}") == whole
    monkeypatch.chdir(folder.parent)
    assert list_images("images") == whole
    assert list_images("images/*.png")["image"].to_pylist() == ["b.png"]
    assert list_images("images/**/*.*")["image"].to_pylist() == ["a.JPG", "b.png", "sub/c.webp"]
    assert list_images("images/b.png")["image"].to_pylist() == ["b.png"]
    assert list_images("images", limit=2)["image"].to_pylist() == ["a.JPG", "b.png"]


def test_urls_of_files_may_be_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "my images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    (folder / "list.csv").write_text("image\na.png\n")
    for source in (folder, folder / "a.png", folder / "list.csv"):
        assert list_images(source.as_uri())["uri"].to_pylist() == [f"file://{folder}/a.png"]


def test_linked_folders_are_followed_once(folder: Path) -> None:
    os.symlink(folder.parent, folder / "sub" / "circle")
    other = folder.parent / "other"
    other.mkdir()
    (other / "z.png").write_bytes(b"x")
    os.symlink(other, folder / "linked")
    assert "linked/z.png" in list_images(str(folder))["image"].to_pylist()


def test_a_linked_folder_has_its_images_in_whatever_order_folders_are_walked(tmp_path: Path) -> None:
    """A file system lists them in an order of its own."""
    names = [f"{i}.png" for i in range(20)]
    for i, name in enumerate(names):
        images, others = tmp_path / f"{i}-images", tmp_path / f"{i}-others"
        images.mkdir()
        (images / name).touch()
        others.mkdir()
        os.symlink(images, others / "linked")
        os.symlink(others, images / "back")
    found = list_images(str(tmp_path))["image"].to_pylist()
    assert found == sorted(
        path
        for i, name in enumerate(names)
        for path in (
            f"{i}-images/{name}",  # its `back` leads to `linked`, which it is in: a circle
            f"{i}-others/linked/{name}",
        )
    )


def test_what_is_no_image_is_passed_over_and_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(source: Path | str, of: int) -> str:
        told: list[str] = []
        assert list_images(str(source), None, told.append).num_rows == of
        assert len(told) < 2
        return "".join(told)

    def passed_over(what: str, source: Path | str = folder) -> str:
        return f"Passed over in {source}, as no images that VLQ reads: {what}."

    # notes.txt; the hidden ones are no images to anybody, and those in hidden folders are not looked at
    assert said(folder, 3) == passed_over("1 file of text or data, or hidden")
    assert said(folder / "sub", 1) == ""
    assert said(folder / "b.png", 1) == ""
    for name in ("1.HEIC", "2.heic", "sub/3.Heic", "x.svg", "clip.mp4", ".DS_Store", "README", "sub/.git/x.heic"):
        (folder / name).write_bytes(b"x")
    others = "3 .heic, 1 .mp4, 1 .svg, 3 files of text or data, or hidden"
    assert said(folder, 3) == passed_over(others)
    for i, ending in enumerate(("a", "b", "c", "d", "e")):
        for j in range(i + 3):
            (folder / f"{j}.{ending}").write_bytes(b"x")
    most = "7 .e, 6 .d, 5 .c, 4 .b, 3 .a, 3 .heic, 2 of other kinds, 3 files of text or data, or hidden"
    assert said(folder, 3) == passed_over(most)
    monkeypatch.chdir(folder.parent)
    (folder / "d.png").mkdir()  # a folder is no image, whatever its name
    assert said("images/[bdx]*", 1) == passed_over("1 .svg", "images/[bdx]*")
    assert said("images/*.png", 1) == ""


def test_any_fsspec_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus-test/x/1.png", b"1")
    memory.pipe("/corpus-test/2.png", b"2")
    table = list_images("memory://corpus-test")
    assert table["image"].to_pylist() == ["2.png", "x/1.png"]
    assert [fsspec.open(uri).open().read() for uri in table["uri"].to_pylist()] == [b"2", b"1"]

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/one.png", b"one")
    table = list_images(f"zip://in::{tmp_path}/all.zip")
    with fsspec.open(table["uri"][0].as_py()) as file:
        assert file.read() == b"one"
    with pytest.raises(InputError, match="is an archive") as caught:
        list_images(str(tmp_path / "all.zip"))
    _, _, suggested = str(caught.value.hint).rpartition(": ")
    assert list_images(suggested)["image"].to_pylist() == ["in/one.png"]
    assert list_images(f"zip://[hi]n/*.png::{tmp_path}/all.zip")["uri"] == table["uri"]


def test_a_relative_archive_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By workers, and whoever shows or reads the images later."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "all.zip", "w") as archive:
        archive.writestr("x/one.png", b"one")
        archive.writestr("x/list.csv", "image\none.png\n")
    manifest = tmp_path / "in" / "list.csv"  # of which paths are relative to its folder
    manifest.write_text("image\nzip://x/one.png::all.zip\nzip://x/one.png::http://host/all.zip\n")
    monkeypatch.chdir(tmp_path)
    one = f"zip://x/one.png::{tmp_path}/in/all.zip"
    for source in ("zip://::in/all.zip", "zip://x/*.png::in/all.zip", "zip://x/list.csv::in/all.zip"):
        assert list_images(source)["uri"].to_pylist() == [one], source
    assert list_images(str(manifest))["uri"].to_pylist() == [one, "zip://x/one.png::http://host/all.zip"]


class Listing(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_names_below_a_web_servers_folder(folder: Path) -> None:
    """The two slashes of a URL are part of the folder that a glob's files have in common."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Listing, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        table = list_images(f"http://127.0.0.1:{server.server_port}/**/*.[jpw]*")
    finally:
        server.shutdown()
        server.server_close()
    assert table["image"].to_pylist() == ["b.png", "sub/c.webp"]
    assert table["folder"].to_pylist() == [None, "sub"]


def test_a_parquet_manifest_keeps_its_types(tmp_path: Path) -> None:
    boxes = pa.array([[{"label": "dog", "box": [1.0, 2.0]}], [], None])
    manifest = pa.table(
        {"label": ["beach", "sky", None], "path": ["1.png", "/abs/2.png", "s3://b/3.png"], "objects": boxes}
    )
    pq.write_table(manifest, tmp_path / "m.parquet")
    table = list_images(str(tmp_path / "m.parquet"))
    assert table.column_names == ["image_id", "image", "uri", "label", "objects"]
    assert table["image"].to_pylist() == ["1.png", "/abs/2.png", "s3://b/3.png"]
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/1.png", "file:///abs/2.png", "s3://b/3.png"]
    assert table["objects"].to_pylist() == boxes.to_pylist()
    assert table.schema.field("objects").type == boxes.type


def test_csv_and_jsonl_manifests(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file_name,height,Image,n\nx.png,tall,q,3\n")
    table = list_images(str(tmp_path / "m.csv"))
    assert table.column_names == ["image_id", "image", "uri", "height_", "Image_", "n"]
    assert table["n"].to_pylist() == [3]

    (tmp_path / "named.csv").write_text("id,filename\n7,x.png\n")
    assert list_images(str(tmp_path / "named.csv")).to_pylist() == [
        {"image_id": 0, "image": "x.png", "uri": f"file://{tmp_path}/x.png", "id": 7}
    ]

    rows = [{"image": "é.png", "tags": ["a"]}, {"image": "sub/y.png", "tags": []}]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    table = list_images(str(tmp_path / "m.jsonl"))
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/é.png", f"file://{tmp_path}/sub/y.png"]
    assert table["tags"].to_pylist() == [["a"], []]


def test_conversations_without_an_image_are_passed_over(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "id": 1}, {"id": 2}, {"image": None, "id": 3}, {"image": "b.png", "id": 4}]
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    (tmp_path / "mix.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (tmp_path / "mix.json", tmp_path / "mix.jsonl"):
        said: list[str] = []
        table = list_images(str(source), say=said.append)
        assert table.select(["image", "id"]).to_pydict() == {"image": ["a.png", "b.png"], "id": [1, 4]}
        assert said == [f"Passed over in {source}: 2 rows without an image."]
        assert list_images(str(source), limit=2)["id"].to_pylist() == [1, 4]
    (tmp_path / "text.json").write_text(json.dumps([{"image": None, "id": 1}]))
    with pytest.raises(InputError, match=r"There are no images in \S+, but 1 rows without an image\."):
        list_images(str(tmp_path / "text.json"))
    (tmp_path / "mix.json").write_text(json.dumps([*rows, {"image": " ", "id": 5}]))
    with pytest.raises(InputError, match=r"Row 4 of \S+ has no image\."):
        list_images(str(tmp_path / "mix.json"))


def test_rows_that_are_long_or_begin_with_nothing(tmp_path: Path) -> None:
    """Arrow parses a megabyte at a time unless told otherwise: a row may be longer, as with masks; and where thousands
    of images without an object come first, nothing says what the objects of later ones are."""
    long = "x" * 3_000_000
    (tmp_path / "long.csv").write_text(f"image,caption\na.png,{long}\nb.png,y\n")
    assert list_images(str(tmp_path / "long.csv"))["caption"].to_pylist() == [long, "y"]
    found = [{"label": "dog", "box": [0, 0, 1, 1.5]}]
    with (tmp_path / "late.jsonl").open("w") as file:
        for i in range(60_000):
            file.write(json.dumps({"image": f"{i:08d}.png", "objects": [], "note": None}) + "\n")
        file.write(json.dumps({"image": "z.png", "objects": found, "note": long}) + "\n")
    table = list_images(str(tmp_path / "late.jsonl"))
    assert table["objects"][-1].as_py() == found
    assert (table["note"][0].as_py(), table["note"][-1].as_py()) == (None, long)


def test_objects_with_nothing_in_them(tmp_path: Path) -> None:
    """Parquet, as which plans are kept, has no columns for them."""
    nothing = {
        "exif": {},
        "tags": [{}],
        "deep": {"a": {"b": [{}]}},
        "camera": {"make": "x", "more": {}, "lenses": [{}]},
    }
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"image": f"{i}.png", **nothing}) + "\n" for i in range(2)))
    table = list_images(str(tmp_path / "m.jsonl"))
    assert table.column_names == ["image_id", "image", "uri", "camera"]
    assert table["camera"].to_pylist() == [{"make": "x"}] * 2
    pq.write_table(table, tmp_path / "plan.parquet")


def test_categories_are_texts(tmp_path: Path) -> None:
    """pandas writes them as numbers into a dictionary."""
    names, splits = pa.array(["b.png", "a.png", "b.png"]), pa.array(["x", None, "x"])
    pq.write_table(
        pa.table({"image": names.dictionary_encode(), "split": splits.dictionary_encode()}), tmp_path / "m.parquet"
    )
    table = list_images(str(tmp_path / "m.parquet"))
    assert table["image"].to_pylist() == names.to_pylist()
    assert (table.schema.field("split").type, table["split"].to_pylist()) == (pa.string(), splits.to_pylist())


def test_whole_numbers_of_64_bits_are_exact(tmp_path: Path) -> None:
    """As hashes of images are. Others beyond 2^63 are floats."""
    hashes, sizes = [1, 2**63 + 1, 2**64 - 1], [1.5, 1e30, 2.0]
    rows = [{"image": f"{i}.png", "size": sizes[i], "hash": hashes[i], "n": i} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
    for name in ("a.csv", "a.jsonl"):
        table = list_images(str(tmp_path / name))
        assert table.column_names == ["image_id", "image", "uri", "size", "hash", "n"]
        assert table["hash"].to_pylist() == hashes
        assert table["size"].to_pylist() == sizes
        assert table.schema.field("n").type == pa.int64()


def test_names_that_collide(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,label,label,LABEL,,shard,uri\nx.png,1,2,3,4,5,6\n")
    (row,) = list_images(str(tmp_path / "m.csv")).to_pylist()
    own = {"image_id": 0, "image": "x.png", "uri": f"file://{tmp_path}/x.png"}
    assert row == own | {"label": 1, "label_": 2, "LABEL__": 3, "column": 4, "shard_": 5, "uri_": 6}


def test_names_that_are_not_text(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(b"x")
    with pytest.raises(InputError, match=r"file name '\\udcff.png' .* is not UTF-8"):
        list_images(str(folder))


def test_what_is_said_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.csv").write_text("label,size\nbeach,1\n")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    (tmp_path / "none.csv").write_text("image\n")
    (tmp_path / "blank.csv").write_text("image,label\nb.png,1\n ,2\n")
    (tmp_path / "numbers.csv").write_text("image\n1\n")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.HEIC").write_bytes(b"x")
    for name in ("captions.json", "captions.TSV", "captions.yaml", "captions.xlsx"):
        (tmp_path / name).write_text("image\ta.png\n")
    expected = {
        "captions.json": "it is no JSON",
        "captions.yaml": "is neither an image nor a manifest",
        "captions.xlsx": "is neither an image nor a manifest",
        "captions.TSV": "is neither an image nor a manifest",
        "empty": r"There are no images in \S+/empty\.$",
        "phone": r"There are no images in \S+/phone, but 1 \.heic\.$",
        "missing": "There is nothing at",
        "missing.parquet": "There is no file",
        "*.png": "There are no images in",
        "plain.csv": "has no image column",
        "broken.parquet": "cannot be read",
        "none.csv": "has no rows",
        "blank.csv": r"Row 1 of \S+ has no image\.",  # it would be the manifest's folder
        "numbers.csv": "of type int64; expected paths or URLs",
    }
    for name, message in expected.items():
        with pytest.raises(InputError) as caught:
            list_images(str(tmp_path / name))
        assert re.search(message, caught.value.message)
    with pytest.raises(InputError, match="cannot be opened"):
        list_images("nosuchscheme://x")
    for nothing in ("", " "):  # an empty variable of a shell's, which would be this folder
        with pytest.raises(InputError, match="IMAGES is empty"):
            list_images(nothing)
    pq.write_table(pa.table({"image": [{"data": b"1", "path": "x"}]}), tmp_path / "inside.parquet")
    with pytest.raises(InputError, match="expected paths or URLs"):
        list_images(str(tmp_path / "inside.parquet"))
    (tmp_path / "data.csv").write_text('image\na.png\n"data:image/png;base64,iVBORw0KGgo="\n')
    with pytest.raises(InputError, match=r"Row 1 of \S+ has an image's own data as its image"):
        list_images(str(tmp_path / "data.csv"))
    with pytest.raises(InputError, match="IMAGES is an image's own data"):
        list_images("data:image/png;base64,iVBORw0KGgo=")


def test_lists_of_nulls_alone(tmp_path: Path) -> None:
    """Of which Arrow makes an array that is none."""
    (tmp_path / "m.jsonl").write_text('{"image": "a.png", "scores": [null, null]}\n' * 2)
    with suppress(InputError):  # as long as it does
        assert list_images(str(tmp_path / "m.jsonl"))["scores"].to_pylist() == [[None, None]] * 2


def test_images_inside_a_parquet_file(tmp_path: Path) -> None:
    """As Hugging Face's datasets are: bytes with or without a path. Of other pictures the paths travel along."""
    image = [{"bytes": b"1", "path": "a.png"}, {"bytes": b"2", "path": None}, {"bytes": b"3", "path": "a.png"}]
    mask = [{"bytes": b"m", "path": name} for name in ("1.png", None, "3.png")]
    table = pa.table({"label": ["x", "y", "z"], "image": image, "mask": mask, "hash": [b"\0", b"\1", b"\2"]})
    pq.write_table(table, tmp_path / "train-0.parquet", row_group_size=2)
    found = list_images(str(tmp_path / "train-0.parquet"))
    assert found.column_names == ["image_id", "image", "uri", "label", "mask", "hash"]
    assert found["image"].to_pylist() == ["a.png", "train-0/1", "a.png"]
    assert [fetch(uri) for uri in found["uri"].to_pylist()] == [b"1", b"2", b"3"]
    assert found["label"].to_pylist() == ["x", "y", "z"]
    assert found["mask"].to_pylist() == ["1.png", None, "3.png"]
    assert found["hash"].to_pylist() == [b"\0", b"\1", b"\2"]
    assert list_images(str(tmp_path / "train-0.parquet"), 2)["image"].to_pylist() == ["a.png", "train-0/1"]

    pq.write_table(pa.table({"image": [b"1", b"2"]}), tmp_path / "bytes.parquet")
    found = list_images(str(tmp_path / "bytes.parquet"))
    assert found["image"].to_pylist() == ["bytes/0", "bytes/1"]
    assert [fetch(uri) for uri in found["uri"].to_pylist()] == [b"1", b"2"]


def test_a_footer_is_read_once(tmp_path: Path) -> None:
    for image in ([{"bytes": b"1", "path": None}], ["a.png"]):
        pq.write_table(pa.table({"image": image}), tmp_path / "train.parquet")
        with patch.object(pq, "ParquetFile", side_effect=pq.ParquetFile) as opened:
            assert list_images(str(tmp_path / "train.parquet")).num_rows == 1
        assert opened.call_count == 1


def test_a_column_of_images_that_has_their_paths_alone(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "/b.png"}], kind)
    pq.write_table(pa.table({"image": image}), tmp_path / "paths.parquet")
    found = list_images(str(tmp_path / "paths.parquet"))
    assert found["uri"].to_pylist() == [f"file://{tmp_path}/a.png", "file:///b.png"]
    pq.write_table(pa.table({"image": pa.array([None], kind)}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"Row 0 of \S+ has no image\."):
        list_images(str(tmp_path / "none.parquet"))


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pictures(*images: bytes, path: str | None = None) -> list[dict[str, Any]]:
    return [{"bytes": image, "path": path} for image in images]


def test_several_manifests_are_one(tmp_path: Path) -> None:
    """As Hugging Face's datasets lie in files: one behind another in the order of their names."""
    for folder in ("test", "train"):
        (tmp_path / folder).mkdir()
    tables = {
        "train/0001.parquet": {"image": pa.array(pictures(b"4"), PICTURE), "label": ["z"], "wide": [4.5]},
        "train/0000.parquet": {"image": pa.array(pictures(b"2", b"3"), PICTURE), "label": ["x", "y"], "wide": [2, 3]},
        "train/.0002.parquet": {"image": pa.array(pictures(b"hidden"), PICTURE)},
        "train/0003.parquet": {"image": pa.array([], PICTURE), "label": pa.array([], pa.string())},
        "test/0000.parquet": {"image": pa.array(pictures(b"1", path="a.png"), PICTURE), "Caption": ["c"]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / name)
    found = list_images(str(tmp_path / "*/*.parquet"))
    assert found["image"].to_pylist() == ["a.png", "train/0000/0", "train/0000/1", "train/0001/0"]
    assert [fetch(uri) for uri in found["uri"].to_pylist()] == [b"1", b"2", b"3", b"4"]
    assert found["label"].to_pylist() == [None, "x", "y", "z"]
    assert found["Caption"].to_pylist() == ["c", None, None, None]
    assert found["wide"].to_pylist() == [None, 2, 3, 4.5]
    for limit in range(1, 6):
        first = list_images(str(tmp_path / "*/*.parquet"), limit)
        assert first["uri"].to_pylist() == found["uri"].to_pylist()[:limit]
    alone = list_images(str(tmp_path / "train/0000.parquet"))
    assert alone["uri"].to_pylist() == found["uri"].to_pylist()[1:3]  # so that the others may be added later

    corpus, called = list_manifest(str(tmp_path / "*/*.parquet"), "--prompt-column")
    assert corpus.num_rows == 4
    assert sorted(called) == ["Caption", "label", "wide"]


def test_manifests_that_are_none_together(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name, column in (("a", [1]), ("b", ["x"]), ("c", None), ("train/.d", [1])):
        columns = {"image": ["a.png"], "n": column} if column else {"picture": ["a.png"]}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"The tables of \S+ do not fit together: .*\bn\b"):
        list_images(str(tmp_path / "[ab].parquet"))
    with pytest.raises(InputError, match=r"c\.parquet has no image column"):
        list_images(str(tmp_path / "*.parquet"))
    for nothing in ("x*.parquet", "train/.*.parquet"):
        with pytest.raises(InputError, match="There is nothing at"):
            list_images(str(tmp_path / nothing))
    with pytest.raises(InputError, match="There are no images in") as caught:
        list_images(str(tmp_path))
    assert f"one corpus by a glob in quotes: '{tmp_path}/**/*.parquet'" in (caught.value.hint or "")
    (tmp_path / "train" / ".d.parquet").unlink()
    with pytest.raises(InputError) as caught:
        list_images(str(tmp_path))
    assert f"'{tmp_path}/*.parquet'" in (caught.value.hint or "")


def test_lists_of_images_in_a_row(tmp_path: Path) -> None:
    """Each image is a row of its own with what its row says; a row may have none."""
    lists = [pictures(b"1", path="a.png"), pictures(b"2", b"3"), [], None, pictures(b"4")]
    for kind in (pa.list_(PICTURE), pa.large_list(PICTURE)):
        table = pa.table({"n": range(5), "images": pa.array(lists, kind)})
        pq.write_table(table, tmp_path / "m.parquet", row_group_size=2)
        found = list_images(str(tmp_path / "m.parquet"))
        assert found["image"].to_pylist() == ["a.png", "m/1/0", "m/1/1", "m/4"]
        assert found["n"].to_pylist() == [0, 1, 1, 4]
        assert [fetch(uri) for uri in found["uri"].to_pylist()] == [b"1", b"2", b"3", b"4"]
    uri = found["uri"][1].as_py()
    for other in (uri.replace("/1/0", "/1/2"), uri.replace("/1/0", "/3/0")):
        with pytest.raises(BadImage, match="not in its table: there is no item"):
            fetch(other)
    assert list_images(str(tmp_path / "m.parquet"), 2)["n"].to_pylist() == [0, 1]

    alone = pa.array([[{"bytes": b"1"}, {"bytes": b"2"}]], pa.list_(pa.struct([("bytes", pa.binary())])))
    pq.write_table(pa.table({"images": alone}), tmp_path / "alone.parquet")
    with pytest.raises(InputError, match="expected paths or URLs"):
        list_images(str(tmp_path / "alone.parquet"))

    (tmp_path / "m.jsonl").write_text('{"images": ["a.png", "b.png"], "n": 1}\n{"images": [], "n": 2}\n')
    found = list_images(str(tmp_path / "m.jsonl"))
    assert found["uri"].to_pylist() == [f"file://{tmp_path}/a.png", f"file://{tmp_path}/b.png"]
    assert found["n"].to_pylist() == [1, 1]
    (tmp_path / "none.jsonl").write_text('{"images": [], "n": 2}\n')
    with pytest.raises(InputError, match="has no rows"):
        list_images(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text('{"images": ["a.png"]}\n{"images": ["b.png", ""]}\n')
    with pytest.raises(InputError, match=r"Row 1 of \S+ has no images"):
        list_images(str(tmp_path / "empty.jsonl"))


def test_numbers_of_classes_are_told_by_name(tmp_path: Path) -> None:
    """Hugging Face's datasets keep numbers, and their names beside the schema."""
    classes = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"label": classes, "more": classes, "n": {"dtype": "int64", "_type": "Value"}, "text": classes}
    rows = {"image": ["a.png", "b.png", "c.png"], "label": [1, -1, None], "more": [0, 1, 2], "n": [0, 1, 1]}
    table = pa.table({**rows, "text": ["x", "y", "z"]})
    for metadata in (json.dumps({"info": {"features": features}}), "{}", "no JSON", '{"info": []}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "m.parquet")
        found = list_images(str(tmp_path / "m.parquet"))
        named = "features" in metadata
        assert found["label"].to_pylist() == (["dog", None, None] if named else [1, -1, None])
        assert found["more"].to_pylist() == [0, 1, 2]  # which has a number without a name
        assert found["n"].to_pylist() == [0, 1, 1]
        assert found["text"].to_pylist() == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("name", "data", "hint"),
    [
        ("m.csv", "image,x\na.png,1\n".encode("utf-16"), "UTF-8, with commas"),
        ("m.csv", b"", "UTF-8, with commas"),
        ("m.csv", "image,x\na.png,caf\xe9\n".encode("latin-1"), "UTF-8, with commas"),
        ("m.csv", "image,caf\xe9\na.png,x\n".encode("latin-1"), "UTF-8, with commas"),
        ("m.jsonl", '{"image": "a.png", "x": "caf\xe9"}\n'.encode("latin-1"), "a JSON object in each line"),
        ("m.jsonl", b'{"image": "a.png", "x": 1}\n{"image": "b.png", "x": "y"}\n', "values of one type"),
        ("m.ndjson", b'[{"image": "a.png"}]', "a JSON object in each line"),
        ("m.parquet", b"image\na.png\n", "Write it again"),
    ],
)
def test_what_a_table_looks_like_is_told_of_one_that_is_none(tmp_path: Path, name: str, data: bytes, hint: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="cannot be read") as caught:
        list_images(str(tmp_path / name))
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_without_commas_is_told_so(tmp_path: Path, mark: str) -> None:
    told = re.escape(f"cannot be read: its columns seem to be parted by {mark!r}")
    for row in ("x", '"a dog,\n and 1,5 more"'):
        (tmp_path / "m.csv").write_text(f"image{mark}label\na.png{mark}{row}\n")
        with pytest.raises(InputError, match=told) as caught:
            list_images(str(tmp_path / "m.csv"))
        assert "A CSV is UTF-8, with commas" in (caught.value.hint or "")
    (tmp_path / "m.csv").write_text("picture\na.png\n")
    with pytest.raises(InputError, match=r"Got picture\.$"):
        list_images(str(tmp_path / "m.csv"))


def test_empty_rows_of_a_csv_are_none(tmp_path: Path) -> None:
    """Spreadsheets write them for what was deleted below a table."""
    rows = ["image,n,at,text", "a.png,1,2026-01-02,x", ",,,", "", "b.png,,,", '"",,,""', ",,,"]
    (tmp_path / "m.csv").write_text("\r\n".join(rows))
    found = list_images(str(tmp_path / "m.csv"))
    assert found["image"].to_pylist() == ["a.png", "b.png"]
    assert found["n"].to_pylist() == [1, None]
    (tmp_path / "m.csv").write_text("\r\n".join([*rows, ",3,,"]))
    with pytest.raises(InputError, match=r"^Row 2 of \S+ has no image\."):
        list_images(str(tmp_path / "m.csv"))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a.png"], [1], [2]], names=["image", "x", "x"]), tmp_path / "m.parquet")
    (row,) = list_images(str(tmp_path / "m.parquet")).to_pylist()
    assert (row["x"], row["x_"]) == (1, 2)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = next(path for path in folder.iterdir() if path.is_dir())
    scandir = os.scandir

    def denied(path: str) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(locked))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)  # whoever runs this may be allowed everything
    with pytest.raises(InputError, match=rf"^{locked} cannot be listed: Permission denied\."):
        list_images(str(folder))


def list_asked(source: str, column: str, limit: int | None = None) -> tuple[pa.Table, str | None]:
    """The corpus of a run with a prompt column, and what that is called."""
    options, table = corpus_of(RunOptions(source, "model", "cache", prompt_column=column, limit=limit), print)
    return table, options.prompt_column


class Unreachable(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """As of a hub without a network: what its library raises is no OSError."""

    protocol = "unreachable"

    def isdir(self, path: str) -> bool:
        raise RuntimeError("Name or service not known")

    def _open(self, path: str, **options: Any) -> Any:
        raise RuntimeError("Name or service not known")


def test_libraries_that_raise_errors_of_their_own() -> None:
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(InputError, match=r"^unreachable://a/b cannot be listed: Name or service not known\."):
        list_images("unreachable://a/b")
    with pytest.raises(InputError, match=r"^unreachable://a/b.csv cannot be read: Name or service not known\."):
        list_images("unreachable://a/b.csv")
    with pytest.raises(InputError, match=r"^github://a/b cannot be opened: .*missing"):  # its organisation
        list_images("github://a/b")


@pytest.mark.parametrize(
    ("url", "why"), [("htpp://host/a.png", "Protocol not known: htpp"), ("FILE:///a.png", "Protocol not known: FILE")]
)
def test_urls_that_nothing_reads(tmp_path: Path, url: str, why: str) -> None:
    """They would be tried four times, and cost the run their whole shards."""
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"image\nb.png\nhttp://host/a.png\nzip://a.png::http://host/a.zip\nfile:///a.png\n{url}\n")
    with pytest.raises(InputError, match=rf"{url} \(row 4 of .*m.csv\) cannot be opened: {why}\.") as caught:
        list_images(str(manifest))
    assert caught.value.hint == "Correct the URL, or install what reads such ones."


def test_a_column_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,question,height\nx.png,Why?,How high?\nx.png,<image> is,Well?\n")
    table, column = list_asked(str(tmp_path / "m.csv"), "question")
    assert table == list_images(str(tmp_path / "m.csv"))
    assert (column, table[column].to_pylist()) == ("question", ["Why?", "<image> is"])
    # What a column is called here may be another name than in the manifest.
    table, column = list_asked(str(tmp_path / "m.csv"), "height", limit=1)
    assert (column, table[column].to_pylist()) == ("height_", ["How high?"])


def test_prompts_that_are_missing(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    rows = [{"image": f"{i}.png", "question": text} for i, text in enumerate(["a", None, "", " \n", "b", None])]
    manifest.write_text("\n".join(json.dumps(row | {"n": 1, "twice": "<image><image>"}) for row in rows))
    expected = {
        "question": r"1\.png \(row 1\), 2\.png \(row 2\), 3\.png \(row 3\) and 1 more have no question in .*m\.jsonl",
        "questions": "has no column questions for --prompt-column",
        "image": "has no column image",
        "n": "The column n of .* is of type int64; expected questions or prompts",
        "twice": r"The twice of 0\.png \(row 0 of .*\) names the image 2 times",
    }
    for column, message in expected.items():
        with pytest.raises(InputError, match=message):
            list_asked(str(manifest), column)
    with pytest.raises(InputError, match=r"1\.png \(row 1\) has no question"):
        list_asked(str(manifest), "question", limit=2)
    assert list_asked(str(manifest), "question", limit=1)[0].num_rows == 1
    with pytest.raises(InputError, match=r"reads a column of a manifest, and .* is none"):
        list_asked(str(tmp_path), "question")
