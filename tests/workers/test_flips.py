"""One bit flipped in any object of a cache, anywhere: `vlq verify` finds it."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.annotate import annotate
from vlq.query.cache import Cache
from vlq.query.errors import CorruptCache
from vlq.workers.verify import verify

from ..synthetic import make_cache

RECORDS = ("run.json", "heads/00000003.json", "commits/00000001.json", "index/*.json")
"""They have no checksum of their own, so more of their bits are tried. Of the heads the newest, which alone is read."""

REST = ("plans/*", "annotations/*", "images/*", "postings/*/*", "index/*/*", "shards/*/**/*", "commits/00000000.json")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips") / "cache"
    make_cache(folder, images=6, failed=[3])
    annotate(Cache.open(str(folder)), pa.table({"image_id": [0, 1], "score": [1, 2], "caption": ["a", "b"]}))
    return folder


def found(folder: Path) -> bool:
    try:
        return any(verify(Cache.open(str(folder)), lambda what, done, of: None))
    except CorruptCache:  # run.json cannot even be read
        return True


def flips(path: Path, count: int, seed: int) -> list[tuple[int, bytes]]:
    """So many positions, and the file's bytes with the bit there flipped."""
    data = path.read_bytes()
    flipped = []
    for bit in random.Random(f"{seed} {path.name}").sample(range(8 * len(data)), count):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append((bit, bytes(changed)))
    return flipped


@pytest.mark.parametrize(("patterns", "count"), [(RECORDS, 10), (REST, 1)], ids=["records", "objects"])
def test_every_object(cache: Path, patterns: tuple[str, ...], count: int) -> None:
    paths = sorted({path for pattern in patterns for path in cache.glob(pattern) if path.is_file()})
    assert {path.relative_to(cache).parts[0] for path in paths} >= {pattern.partition("/")[0] for pattern in patterns}
    assert not found(cache)
    missed = []
    for path in paths:
        whole = path.read_bytes()
        for bit, changed in flips(path, count, seed=1):
            path.write_bytes(changed)
            if not found(cache):
                missed.append((path.relative_to(cache).as_posix(), bit))
        path.write_bytes(whole)
    assert missed == []
    assert not found(cache)


def test_the_vocabulary(cache: Path) -> None:
    """The run's record knows its ids and pieces, no more: flips in texts and flags are not found yet."""
    path = cache / "vocabulary.parquet"
    known = ["id", "piece"]
    whole, table = path.read_bytes(), pq.read_table(path, columns=known)
    for bit, changed in flips(path, 20, seed=1):
        path.write_bytes(changed)
        if not found(cache):
            assert pq.read_table(path, columns=known).equals(table), bit
    path.write_bytes(whole)


@pytest.mark.parametrize("old", ["heads/00000001.json", "heads/00000002.json"])
def test_a_superseded_head(cache: Path, old: str) -> None:
    """Nobody answers from it. What it says of its plan is held against that, and its number against its key."""
    path = cache / old
    whole = path.read_bytes()
    for before, after in [
        (b'"images": 6', b'"images": 7'),
        (b'"shards": 2', b'"shards": 3'),
        (b'"number": ', b'"number": 1'),
    ]:
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        assert found(cache)
    path.write_bytes(whole)
