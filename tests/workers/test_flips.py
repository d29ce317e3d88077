"""One bit flipped in any object of a cache, anywhere: `vlq verify` finds it."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from vlq.query.cache.annotate import annotate
from vlq.query.cache.reader import Cache
from vlq.query.errors import CorruptCache
from vlq.workers.upkeep.verify import verify

from ..synthetic import make_cache

RECORDS = ("run.json", "commits/*.json", "index/*.json", "vocabulary.parquet")
"""What decides, and what every answer is worded with: more of their bits are tried."""

REST = ("plans/*", "annotations/*", "images/*", "postings/*/*", "index/*/*", "shards/*/**/*")


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


@pytest.mark.parametrize(("patterns", "count"), [(RECORDS, 6), (REST, 1)], ids=["records", "objects"])
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
