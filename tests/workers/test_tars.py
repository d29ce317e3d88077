"""WebDataset's tars as manifests: a row for each image, in order, with what lies beside it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.cache.reader import Cache
from vlq.query.errors import InputError
from vlq.query.image.pictures import fetch
from vlq.workers.corpus import list_images, list_manifest
from vlq.workers.manifests import AT_ONCE
from vlq.workers.tars import LONGEST, MOST_ENDINGS

from ..tars import tar_of
from .conftest import save_images
from .runs import Vlq


def rows_of(source: Path | str) -> tuple[list[dict[str, Any]], str]:
    """The rows but for their numbers, with the image's bytes in place of its URI; and what was said."""
    said: list[str] = []
    rows = list_images(str(source), None, said.append).drop_columns("image_id").to_pylist()
    return [{**row, "uri": fetch(row["uri"])} for row in rows], "\n".join(said)


def test_samples_are_rows(tmp_path: Path) -> None:
    """What is beside an image lies in front of it or behind it, or anywhere, as where tar goes through a folder."""
    about = [{"url": "u", "width": 3, "tags": ["x"]}, {"url": None, "score": 0.5, "tags": []}, {}]
    files = {
        "000.jpg": b"0",
        "000.txt": "a dog \u00e9".encode(),
        "000.cls": b"7\n",
        "000.json": json.dumps(about[0]).encode(),
        "d/001.json": json.dumps(about[1]).encode(),
        "d/001.cls": b"-3",
        "d/001.PNG": b"1",
        "002.webp": b"2",
        "002.json": json.dumps(about[2]).encode(),
        "d/001.txt": b"late",
    }
    (tmp_path / "00007.tar").write_bytes(tar_of(files))
    rows, said = rows_of(tmp_path / "00007.tar")
    columns = ["image", "uri", "txt", "cls", "url", "width_", "tags", "score", "folder"]
    expected = [
        ["00007/000.jpg", b"0", "a dog \u00e9", 7, "u", 3, ["x"], None, None],
        ["00007/d/001.PNG", b"1", "late", -3, None, None, [], 0.5, "d"],
        ["00007/002.webp", b"2", None, None, None, None, None, None, None],
    ]
    assert [list(row) for row in rows] == [columns] * 3
    assert [[*row.values()] for row in rows] == expected
    assert said == ""
    table, called = list_manifest(str(tmp_path / "00007.tar"), "--prompt-column", 2)
    assert table["txt"].to_pylist() == ["a dog \u00e9", "late"]
    assert (called["txt"], called["width"]) == ("txt", "width_")


def test_several_tars_are_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    tars = {
        "train/00001.tar": {"3.jpg": b"3", "3.txt": b"three", "4.jpg": b"4"},
        "train/00000.tar": {"1.jpg": b"1", "1.txt": b"one", "2.jpg": b"2", "2.cls": b"2", "2.json": b'{"n": 2}'},
        "train/00002.tar": {},
        "train/.00003.tar": {"hidden.jpg": b"x"},
        "val.tar": {"5.jpg": b"5", "5.json": b'{"n": 5.5}', "6.npy": b"\x93NUMPY"},
    }
    for name, files in tars.items():
        (tmp_path / name).write_bytes(tar_of(files))
    rows, said = rows_of(tmp_path / "train" / "*.tar")
    assert [row["image"] for row in rows] == ["00000/1.jpg", "00000/2.jpg", "00001/3.jpg", "00001/4.jpg"]
    assert [row["uri"] for row in rows] == [b"1", b"2", b"3", b"4"]
    assert [row["txt"] for row in rows] == ["one", None, "three", None]
    assert ([row["cls"] for row in rows], [row["n"] for row in rows]) == ([None, 2, None, None],) * 2
    rows, said = rows_of(f"{tmp_path}/**/*.tar")
    assert [row["image"] for row in rows][3:] == ["train/00001/4.jpg", "val/5.jpg"]
    assert rows[4]["n"] == 5.5
    assert said == f"Passed over in {tmp_path}/**/*.tar: 1 .npy."
    whole = list_images(f"{tmp_path}/**/*.tar")
    for limit in range(1, 6):
        first = list_images(f"{tmp_path}/**/*.tar", limit)
        assert first["uri"] == whole["uri"].slice(0, limit)
        assert first["txt"] == whole["txt"].slice(0, limit)
    assert list_images(str(tmp_path / "train" / "00001.tar"))["uri"] == whole["uri"].slice(2, 2)
    with pytest.raises(InputError, match=r"There are no images in \S+, but 3 \.tar, 1 file of") as caught:
        list_images(str(tmp_path / "train"))
    assert f"one corpus by a glob in quotes: '{tmp_path}/train/*.tar'" in (caught.value.hint or "")
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "train" / "00000.parquet")  # as img2dataset writes it
    with pytest.raises(InputError) as caught:
        list_images(str(tmp_path))
    assert f"'{tmp_path}/**/*.tar'" in (caught.value.hint or "")


def test_braces_name_several(tmp_path: Path) -> None:
    """As WebDataset's users write them. What they stand for is bash's own word."""
    for name in ("a/08.tar", "a/09.tar", "a/10.tar", "b/08.tar", "b/9.tar", "b/{x,y}.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_of({"i.jpg": name.encode()}))
    for braces in ("a/{08..10}.tar", "a/{10..08}.tar", "{a,b}/{08,08}.tar", "{a/{08,1{0,0}},b/{9..9}}.tar"):
        named = subprocess.run(["bash", "-c", f"echo {braces}"], capture_output=True, text=True, check=True)
        rows, _ = rows_of(f"{tmp_path}/{braces}")
        assert [row["uri"].decode() for row in rows] == sorted({*named.stdout.split()})
    assert rows_of(f"{tmp_path}/b/{{x,y}}.tar")[0] == [{"image": "{x,y}/i.jpg", "uri": b"b/{x,y}.tar"}]
    rows, _ = rows_of(f"{tmp_path}/{{a,b,c}}/*{{8,9}}.tar")
    assert [row["image"] for row in rows] == ["a/08/i.jpg", "a/09/i.jpg", "b/08/i.jpg", "b/9/i.jpg"]
    with pytest.raises(InputError, match=rf"^There is no file {tmp_path}/a/11.tar\."):
        list_images(f"{tmp_path}/a/{{08..11}}.tar")
    memory = fsspec.filesystem("memory")
    for name in ("00", "01", "02"):
        memory.pipe(f"/braces-test/{name}.tar", tar_of({"i.jpg": name.encode()}))
    assert [row["uri"] for row in rows_of("memory://braces-test/{00..01}.tar")[0]] == [b"00", b"01"]


def test_who_waits_for_a_list_is_told(tmp_path: Path) -> None:
    for number in range(AT_ONCE + 1):
        (tmp_path / f"{number}.tar").write_bytes(tar_of({"a.jpg": b"%d" % number}))
    rows, said = rows_of(tmp_path / "*.tar")
    assert [row["uri"] for row in rows] == [b"%d" % number for number in range(AT_ONCE + 1)]
    assert said == f"Listing {AT_ONCE + 1} tars."
    assert rows_of(tmp_path / "[12].tar")[1] == ""


def test_several_images_in_a_sample(tmp_path: Path) -> None:
    files = {"a.left.jpg": b"1", "a.right.jpg": b"2", "a.txt": b"both", "a.left.txt": b"left", "b.jpg": b"3"}
    (tmp_path / "s.tar").write_bytes(tar_of(files))
    rows, _ = rows_of(tmp_path / "s.tar")
    assert rows == [
        {"image": "s/a.left.jpg", "uri": b"1", "txt": "both", "left.txt": "left"},
        {"image": "s/a.right.jpg", "uri": b"2", "txt": "both", "left.txt": "left"},
        {"image": "s/b.jpg", "uri": b"3", "txt": None, "left.txt": None},
    ]


def test_a_tar_of_images_alone(tmp_path: Path) -> None:
    for name in ("1.jpg", "sub/2.png", "sub/._2.png", ".git/3.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    subprocess.run(["tar", "--sort=name", "-cf", "photos.tar", "-C", "photos", "."], cwd=tmp_path, check=True)
    rows, said = rows_of(tmp_path / "photos.tar")
    assert rows == [
        {"image": "photos/1.jpg", "uri": b"1.jpg", "folder": None},
        {"image": "photos/sub/2.png", "uri": b"sub/2.png", "folder": "sub"},
    ]
    assert said == f"Passed over in {tmp_path}/photos.tar: 2 hidden."
    (tmp_path / "few.tar").write_bytes(tar_of({"1.jpg": b"1", "1.txt": b"x", "sub/2.png": b"2"}))
    rows, _ = rows_of(f"tar://::{tmp_path}/few.tar")
    assert [(row["image"], row["uri"]) for row in rows] == [("1.jpg", b"1"), ("sub/2.png", b"2")]


def test_what_lies_beside_images(tmp_path: Path) -> None:
    """Texts are columns, and what is none is passed over, nothing of it taken for more than bytes."""

    class Harm:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    array = io.BytesIO()
    np.save(array, np.arange(3))
    files = {
        "a.jpg": b"1",
        "a.question": b"\xef\xbb\xbfWhy?",
        "a.id": b"0007",
        "a.class": b"dog",
        "a.npy": array.getvalue(),
        "a.pkl": pickle.dumps(Harm(), 0),
        "a.emb": bytes(range(256)),
        "a.html": b"<p>",
        "b.jpg": b"2",
        "b.id": b" 8 ",
        "b.class": b"12",
        "b.emb": b"text",
        "b.txt": b"caf\xe9",
        "b.transcript": bytes(LONGEST + 1),
        "c.txt": b"no image",
        "c.json": b"no JSON",
        "README": b"",
    }
    (tmp_path / "s.tar").write_bytes(tar_of(files))
    rows, said = rows_of(tmp_path / "s.tar")
    assert rows == [
        {"image": "s/a.jpg", "uri": b"1", "question": "Why?", "id": 7, "class": "dog", "html": "<p>", "txt": None},
        {"image": "s/b.jpg", "uri": b"2", "question": None, "id": 8, "class": "12", "html": None, "txt": "caf\ufffd"},
    ]  # fmt: skip
    most = "2 .emb, 1 .json without an image, 1 .npy, 1 .pkl, 1 .transcript, 1 .txt in parts that are no UTF-8"
    assert said == f"Passed over in {tmp_path}/s.tar: {most}, 2 of other kinds."
    assert not (tmp_path / "harm").exists()


def test_json_of_all_kinds(tmp_path: Path) -> None:
    values = [
        "{}",
        '{"n": 1, "box": [[1, 2]], "exif": {}}',
        '["x", "y"]',
        '{"n": NaN, "s": "\\ud83d!"}',
        "{",
        "[" * 100_000,
        "",
    ]
    files = [file for i, text in enumerate(values) for file in ((f"{i}.jpg", b""), (f"{i}.json", text.encode()))]
    (tmp_path / "s.tar").write_bytes(tar_of(files))
    said: list[str] = []
    table = list_images(str(tmp_path / "s.tar"), None, said.append)
    assert table.column_names[3:] == ["n", "box", "json", "s"]
    assert table["json"].to_pylist() == [None, None, ["x", "y"], None, None, None, None]
    assert table["box"].to_pylist()[1] == [[1, 2]]
    assert table["s"].to_pylist()[3] == "?!"
    assert np.isnan(table["n"][3].as_py())
    assert said == [f"Passed over in {tmp_path}/s.tar: 2 .json that cannot be parsed."]


def test_columns_that_do_not_fit(tmp_path: Path) -> None:
    files = {"a.jpg": b"", "a.json": b'{"n": 1, "x": "1"}', "b.jpg": b"", "b.json": b'{"n": 1, "x": 1}'}
    (tmp_path / "0.tar").write_bytes(tar_of(files))
    with pytest.raises(InputError, match=r"The \.json beside the images of \S+0\.tar do not fit together: .*\(/x\)"):
        list_images(str(tmp_path / "0.tar"))
    for number, text in enumerate((b'{"x": "1"}', b'{"x": 1}')):
        (tmp_path / f"{number}.tar").write_bytes(tar_of({"a.jpg": b"", "a.json": text}))
    with pytest.raises(InputError, match=r"The tables of \S+\*\.tar do not fit together: .*\bx\b"):
        list_images(str(tmp_path / "*.tar"))


def test_names_with_dots_for_something_else(tmp_path: Path) -> None:
    """All have the key `v1`, and each text would be a column of its own."""
    files = {f"v1.{i}{ending}": b"" for i in range(MOST_ENDINGS + 1) for ending in (".jpg", ".txt")}
    (tmp_path / "s.tar").write_bytes(tar_of(files))
    with pytest.raises(InputError, match=r"have 101 endings, such as \.0\.txt, \.1\.txt") as caught:
        list_images(str(tmp_path / "s.tar"))
    _, _, suggested = str(caught.value.hint).rpartition("read so: ")
    assert list_images(suggested).num_rows == MOST_ENDINGS + 1


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_members_of_all_kinds(tmp_path: Path, form: str) -> None:
    """As tar writes them of a folder: long names, links, sparse files, a pipe."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    long = "x" * (90 if form == "ustar" else 200)
    images = {"a.png": b"a", "sub/\u00e4 \u00f6.png": b"b", f"sub/{long}.png": os.urandom(1500), "empty.png": b""}
    for name, data in images.items():
        (folder / name).write_bytes(data)
        (folder / name.replace(".png", ".txt")).write_bytes(name.encode())
    os.link(folder / "a.png", folder / "z.png")
    os.link(folder / "a.txt", folder / "z.txt")
    os.symlink("a.png", folder / "symbolic.png")
    os.mkfifo(folder / "pipe.png")
    with (folder / "sparse.png").open("wb") as file:
        file.seek(2**20)
        file.write(b"end")
    command = ["tar", "--sort=name", "-H", form, "-cf", "all.tar", *([] if form == "ustar" else ["--sparse"]), "folder"]
    subprocess.run(command, cwd=tmp_path, check=True)
    rows, said = rows_of(tmp_path / "all.tar")
    found = {row["image"].removeprefix("all/folder/"): row for row in rows}
    sparse = found.pop("sparse.png", None)
    assert {name: row["uri"] for name, row in found.items()} == images | {"z.png": b"a"}
    assert {name: row["txt"] for name, row in found.items()} == {name: name for name in images} | {"z.png": "a.png"}
    if form == "ustar":
        assert sparse is not None
    assert said.endswith(
        "1 linked, 1 of another type." if form == "ustar" else "1 linked, 1 of another type, 1 sparse."
    )


def test_names_that_come_twice_or_are_no_text(tmp_path: Path) -> None:
    """As when it is unpacked, the last one holds."""
    files = [("a.jpg", b"old"), ("a.txt", b"old"), ("b.jpg", b"2"), ("a.jpg", b"new"), ("./a.txt", b"new")]
    (tmp_path / "s.tar").write_bytes(tar_of([*files, ("/caf\udce9.jpg", b"3")]))
    rows, said = rows_of(tmp_path / "s.tar")
    assert [[*row.values()] for row in rows] == [
        ["s/a.jpg", b"new", "new"],
        ["s/b.jpg", b"2", None],
        ["s/caf\\xe9.jpg", b"3", None],
    ]
    assert said.endswith("s.tar: 2 of a name that comes again.")


def test_tars_that_are_none(tmp_path: Path) -> None:
    whole = tar_of({"a.jpg": os.urandom(3000), "b.jpg": os.urandom(3000), "b.txt": b"x"})
    broken = bytearray(whole)
    broken[512 + 3072] ^= 1  # the name of b.jpg
    without = tar_of({"a.txt": b"x", "b.txt": b"y", "c.svg": b"<svg/>"})
    expected = {
        "none.tar": (None, r"There is no file \S+none\.tar\."),
        "empty.tar": (b"", r"empty\.tar cannot be read as a tar"),
        "page.tar": (b"<html>" * 200, r"page\.tar cannot be read as a tar"),
        "nothing.tar": (bytes(10240), r"There are no images in \S+nothing\.tar\."),
        "texts.tar": (without, r"There are no images in \S+, but 2 \.txt without an image, 1 \.svg without an image\."),
        "zipped.tar": (gzip.compress(whole), r"zipped\.tar is compressed"),
        "zipped.tar.gz": (gzip.compress(whole), r"zipped\.tar\.gz is compressed"),
        "zipped.TGZ": (gzip.compress(whole), r"zipped\.TGZ is compressed"),
        "*.tar.gz": (None, r"zipped\.tar\.gz is compressed"),
        "broken.tar": (bytes(broken), r"cannot be read as a tar: there is no member's header at byte 3,584\."),
    }  # fmt: skip
    expected |= {
        f"cut{end}.tar": (whole[:end], rf"cut{end}\.tar cannot be read as a tar")
        for end in (100, 512, 2000, 3583, 3600, 5000, 7500)
    }
    for name, (data, _) in expected.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    for name, (_, message) in expected.items():
        with pytest.raises(InputError) as caught:
            list_images(str(tmp_path / name))
        assert re.search(message, caught.value.message)
        assert caught.value.hint
    with pytest.raises(InputError, match="is compressed"):
        list_manifest(str(tmp_path / "zipped.tar.gz"), "--prompt-column")
    (tmp_path / "whole.tar").write_bytes(whole[: len(whole) - 1024])  # without the zeros that mark its end
    assert list_images(str(tmp_path / "whole.tar")).num_rows == 2


def test_tars_on_other_file_systems(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/tars-test/{number}.tar", tar_of({"a.jpg": b"%d" % number, "a.txt": b"photo %d" % number}))
    rows, _ = rows_of("memory://tars-test/*.tar")
    assert [[*row.values()] for row in rows] == [["0/a.jpg", b"0", "photo 0"], ["1/a.jpg", b"1", "photo 1"]]


def test_tars_through_a_whole_run(vlq: Vlq, tmp_path: Path, tiny_model: Path, no_ray: None) -> None:
    images = [path.read_bytes() for path in sorted(save_images(tmp_path / "images", 5).iterdir())]
    files = [
        {f"{i:03d}.png": images[i], f"{i:03d}.txt": f"photo {i}".encode(), f"{i:03d}.cls": str(i % 2).encode()}
        for i in range(5)
    ]
    (tmp_path / "00000.tar").write_bytes(tar_of(files[0] | {"001.png": b"no image"} | files[2]))
    command = ["--model", tiny_model, "--cache", tmp_path / "cache", "--k", 3, "--shard-size", 2]
    code, out, said = vlq("run", tmp_path / "*.tar", *command)
    assert code == 0, said
    assert "2 images read, 1 could not be" in out
    (tmp_path / "00001.tar").write_bytes(tar_of(files[3] | files[4] | {"004.npy": b"\x93NUMPY"}))
    code, out, said = vlq("run", tmp_path / "*.tar", *command)
    assert code == 0, said
    assert f"Passed over in {tmp_path}/*.tar: 1 .npy." in said
    assert vlq("verify", "--cache", tmp_path / "cache", "--deep")[0] == 0

    cache = Cache.open(str(tmp_path / "cache"))
    rows = [row for path in cache.snapshot().files("images") for row in pq.read_table(path).to_pylist()]
    names = ["00000/000.png", "00000/001.png", "00000/002.png", "00001/003.png", "00001/004.png"]
    assert [row["image"] for row in rows] == names
    assert [row["error"] for row in rows] == [None, "not an image", None, None, None]
    assert [row["txt"] for row in rows] == ["photo 0", None, "photo 2", "photo 3", "photo 4"]
    assert [row["cls"] for row in rows] == [0, None, 0, 1, 0]
    # The readings are those of the same images in a folder.
    (tmp_path / "images" / "0001.png").write_bytes(b"no image")
    assert vlq("run", tmp_path / "images", *command[:2], "--cache", tmp_path / "same", *command[4:])[0] == 0
    answers = [
        vlq("readings(images=3, layers=2)", "--cache", tmp_path / name, "--format", "json")[1]
        for name in ("cache", "same")
    ]
    assert answers[0].replace("00001/003.png", "0003.png") == answers[1]
    code, out, _ = vlq("images().where(txt == 'photo 4')", "--cache", tmp_path / "cache", "--format", "json")
    assert [row["image"] for row in json.loads(out)["rows"]] == ["00001/004.png"]

    # A tar that is another one meanwhile is told to be.
    (tmp_path / "00002.tar").write_bytes(tar_of({"a.png": images[0]}))
    (uri,) = list_images(str(tmp_path / "00002.tar"))["uri"].to_pylist()
    (tmp_path / "00002.tar").write_bytes(tar_of({"b.png": images[0]}))
    with pytest.raises(OSError, match="another one"):
        fetch(uri)
    code, _, said = vlq("look", tmp_path / "00002.tar", "--model", tiny_model)
    assert code == 0, said
    code, _, said = vlq("look", tmp_path / "00000.tar", "--model", tiny_model)
    assert code == 2
    assert "holds several images" in said
