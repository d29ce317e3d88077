"""Caches that older versions of VLQ wrote, as they were written: each is read right, or refused with what to do."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.cli import main
from vlq.query.errors import NewerFormat, OlderFormat
from vlq.query.schema import FORMAT, record_bytes
from vlq.workers.upkeep.verify import verify

from ..brute import picked_layers, read_site
from .make import FAILED, HERE, IMAGES

READ = [FORMAT]
"""Formats that this VLQ reads."""


def unpacked(number: int, folder: Path) -> Path:
    with zipfile.ZipFile(HERE / f"{number}.zip") as file:
        file.extractall(folder)
    return folder


def test_there_is_one_of_each_format() -> None:
    assert {path.name for path in HERE.glob("*.zip")} == {f"{number}.zip" for number in range(1, FORMAT + 1)}
    assert sum(path.stat().st_size for path in HERE.glob("*.zip")) < 200_000 * FORMAT


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize("number", READ)
def test_a_format_that_is_read(tmp_path: Path, number: int, state: str) -> None:
    folder = unpacked(number, tmp_path) / state
    corpus = vlq.open(str(folder))
    cached = IMAGES if state == "finished" else 4  # the last shard, of one image, was not read yet
    shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
    shards = shards[: -(-cached // 2)]
    for site in corpus.cache.run.positions:
        arrays = read_site(folder, shards, site)
        for rank in (1, 2, 3):
            ids = [0, 1]  # the vocabulary's word-start pieces 'dog' and 'Dog'
            expected = picked_layers(arrays, ids, rank=rank)
            rows = corpus.first_layer("dog", rank=rank, at=site).rows
            assert {(row["image_id"], row["layer"]) for row in rows} == {
                (row["image"], row["layer"]) for row in expected
            }
            assert expected
    assert corpus.cache.snapshot().cached == cached
    assert [number for number, _, reason in corpus.cache.snapshot().errors if reason == "truncated"] == FAILED
    labels = {row["image_id"]: row["label"] for row in corpus.images().rows}
    assert labels == {image: label for image, label in enumerate("abcab"[:cached]) if image not in FAILED}
    assert np.isfinite([row["divergence"] for row in corpus.divergence().rows]).all()
    findings = [finding.what for finding in verify(Cache.open(str(folder)), lambda what, done, of: None)]
    assert findings == ([] if state == "finished" else ["not done yet"])


COMMANDS = [
    ["first_layer(token='dog')"],
    ["info"],
    ["status"],
    ["verify"],
    ["repair"],
    ["index"],
    ["gc"],
    ["sql", "SELECT 1"],
]


def refused(folder: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Every command says so in one message, and changes nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([*command, "--cache", str(folder)])
        out, said = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert re.fullmatch(f"vlq: {message}\n", said), said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize("number", sorted({*range(1, FORMAT)} - {*READ}))
def test_a_format_that_is_refused(tmp_path: Path, number: int, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = unpacked(number, tmp_path) / state
    with pytest.raises(OlderFormat):
        vlq.open(str(folder))
    refused(
        folder,
        capsys,
        rf"run\.json is of format {number}, an older VLQ's; this one reads {FORMAT}\.\n"
        r"Make the cache anew: the same `vlq run` with another --cache\.",
    )


@pytest.mark.parametrize("sealed", [True, False], ids=["checked as today", "of another shape"])
def test_a_newer_format(tmp_path: Path, sealed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(unpacked(FORMAT, tmp_path / "of today") / "finished", folder)
    values = json.loads((folder / "run.json").read_bytes())
    del values["checksum"]
    values |= {"format": FORMAT + 1, "lens": {"kind": "tuned"}}
    (folder / "run.json").write_bytes(record_bytes(values) if sealed else json.dumps(values).encode())
    with pytest.raises(NewerFormat):
        vlq.open(str(folder))
    message = rf"run\.json is of format {FORMAT + 1}; this VLQ reads up to {FORMAT}\.\n"
    refused(folder, capsys, rf"{message}Install a newer VLQ: git pull in its clone, .*")


@pytest.mark.parametrize("key", ["run.json", "commits/head-00000002.json"])
def test_a_field_of_a_newer_vlq(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a newer VLQ said in a record is not passed over, nor is the record damaged: repair leaves it where it is."""
    folder = unpacked(FORMAT, tmp_path) / "finished"
    values = json.loads((folder / key).read_bytes())
    del values["checksum"]
    (folder / key).write_bytes(record_bytes(values | {"masks": ["a"]}))
    message = rf"{re.escape(key)} has masks, which this VLQ does not know\.\n"
    refused(folder, capsys, rf"{message}Install a newer VLQ: git pull in its clone, .*")
