"""`vlq info`: what it says against what was put into the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vlq
from vlq.query.cache.reader import UNINDEXED, Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CorruptCache
from vlq.query.info import as_bytes, as_text
from vlq.query.status import as_text as status_text
from vlq.query.status import status_of
from vlq.workers.upkeep.gc import leftovers

from ..synthetic import make_cache, make_run


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_sealed_cache(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(layers=6, grid=(2, 3), k=3), images=9, failed=[2, 7])
    info = vlq.open(str(tmp_path)).info()
    assert json.loads(json.dumps(info)) == info
    assert (info["model"], info["layers"], info["grid"], info["k"]) == ("synthetic", 6, [2, 3], 3)
    assert info["prompt"] == "USER: <image>\nWhat is it? ASSISTANT:"
    assert (info["images"], info["cached"], info["state"]) == (9, 9, "complete")
    assert info["errors"] == [
        {"image": "838-2.png", "reason": "truncated"},  # (2 * 7919) % 1000
        {"image": "433-7.png", "reason": "truncated"},
    ]
    assert info["size"] == {
        "total": size_of(tmp_path),
        "arrays": size_of(tmp_path / "shards"),
        "postings": size_of(tmp_path / "postings"),
        "index": size_of(tmp_path / "index"),
    }
    assert info["index"]["state"] == "compacted"
    assert info["index"]["files"] == len(list((tmp_path / "index").glob("*/*.parquet"))) == 13


@pytest.mark.here("the folder of a cache")
def test_a_table_that_went_while_the_cache_is_open_is_named(tmp_path: Path) -> None:
    make_cache(tmp_path, images=9)
    corpus = LocalCorpus(Cache.open(str(tmp_path)))
    before = corpus.info()
    (table,) = tmp_path.glob("index/*/images-000.parquet")
    data = table.read_bytes()
    table.unlink()
    with pytest.raises(CorruptCache, match=r"images-000\.parquet is missing"):
        corpus.info()
    table.write_bytes(data[:40] + b"\0" * (len(data) - 40))
    with pytest.raises(CorruptCache, match=r"images-000\.parquet in .* is not what was written"):
        corpus.info()
    table.write_bytes(data)
    assert corpus.info() == before


@pytest.mark.here("the folder of a cache")
def test_files_of_others_are_told_apart(tmp_path: Path) -> None:
    make_cache(tmp_path, images=9)
    corpus = LocalCorpus(Cache.open(str(tmp_path)))
    before = corpus.info()
    assert before["beside"] == {"files": 0, "bytes": 0}
    assert "beside" not in as_text(before)
    for name in ("README", "shards/notes.txt", "annotations/people.json", "index/old/a.parquet", "photos/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    info = corpus.info()
    assert info["beside"] == {"files": 5, "bytes": 5000}
    assert info == {**before, "beside": info["beside"]}
    assert "beside   5 files of 4.9 KiB that VLQ did not put there\n" in as_text(info)
    # Those that gc leaves, and of a cache without leftovers what status says, too.
    cache = Cache.open(str(tmp_path))
    assert leftovers(cache, 0.0) == []
    images = size_of(tmp_path / "images")
    assert status_of(cache)["bytes"] == info["size"]["arrays"] + info["size"]["postings"] + images


def test_a_cache_in_the_making(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, seal=False)
    store.delete("commits/00000001.json")
    info = vlq.open(str(tmp_path)).info()
    assert (info["images"], info["cached"], info["state"]) == (10, 6, "incomplete")
    assert info["index"] == {"state": "per shard", "shards": 0, "files": 0}
    text = as_text(info)
    assert "6 cached so far" in text
    assert "The run is not complete: the same `vlq run` goes on where it stopped." in text


def test_what_is_left_of_a_run_is_its_index(tmp_path: Path) -> None:
    make_cache(tmp_path, seal=False)
    corpus = vlq.open(str(tmp_path))
    assert as_text(corpus.info()).endswith(f"\n{UNINDEXED}")
    assert status_text(status_of(Cache.open(str(tmp_path)))).endswith(f"missing  none\n{UNINDEXED}")
    assert corpus.images().notes == [UNINDEXED]


def test_nothing_cached_yet(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=1, seal=False)
    store.delete("commits/00000000.json")
    info = vlq.open(str(tmp_path)).info()
    assert (info["cached"], info["errors"], info["columns"], info["index"]["state"]) == (0, [], [], "none")
    assert "an image" not in as_text(info)


def test_for_a_person(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(layers=6), failed=[2])
    lines = as_text(vlq.open(str(tmp_path)).info()).splitlines()
    said = {line[:8].strip(): line[9:] for line in lines if not line.startswith("  ")}
    assert said["layers"] == "6: 0 is the embedding, 5 the last block's output"
    assert said["grid"] == "3 x 4 patches"
    assert said["images"] == "10, all cached, 1 with errors"
    assert said["columns"] == "none of your own"
    assert said["prompt"] == r"'USER: <image>\nWhat is it? ASSISTANT:'"
    assert lines[-1] == "  838-2.png: truncated"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**42, "4.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert as_bytes(count) == text


def test_names_of_files_do_not_disturb_the_terminal(tmp_path: Path) -> None:
    make_cache(tmp_path, images=2, failed=[1], names=["a.png", "b\n\x1b[31m.png"])
    info = vlq.open(str(tmp_path)).info()
    assert info["errors"][0]["image"] == "b\n\x1b[31m.png"
    assert as_text(info).splitlines()[-1] == "  b��[31m.png: truncated"
