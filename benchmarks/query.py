"""first_layer against a scan of the arrays and against SQLite, on the synthetic cache; and the whole command.

Warm: the corpus is open and the operating system holds the files; each question is parsed, bound, compiled and executed
anew, and its rows are fetched. Cold: a new process that has imported what it needs, with the page cache dropped where
that is permitted; the clock starts before the cache is opened.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import zarr

import vlq
from benchmarks.inputs import made, save_scenes, small
from benchmarks.measure import Figure, at_most, faster, in_turns, milliseconds, process, spread
from benchmarks.readings import COMMON, OBJECTS, World
from benchmarks.synthetic import RUN_OF, make
from benchmarks.timed_run import timed_run
from vlq.query import resident
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed

TIMES_FASTER = 100
WARM_MS = 10
COMMAND_MS = 500
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

Answer = list[tuple[int, int, list[int]]]
"""(image id, first layer, patches), by image."""


def run(work: Path, *, quick: bool = False, images: int = 500) -> Iterator[Figure]:
    cache = make(work, 32 if quick else images)
    rare = [word for word, share in OBJECTS.items() if share < COMMON]
    common = [word for word, share in OBJECTS.items() if share == COMMON]
    rounds = 3 if quick else 15
    yield from warm(cache, rare, rounds, "a word in 5% of the images")
    yield from warm(cache, common, rounds, "a word in 50% of the images")
    yield from arguments(cache, rare + common, rounds)
    yield from cold(cache, rare[0], 1 if quick else 5)
    yield from sqlite(work, cache, rare, common, rounds)
    yield whole_command(work, 2 if quick else 10)


# --- the sides -------------------------------------------------------------------------------------------------


def ask(corpus: Any, word: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = corpus.query(f"first_layer(token='{word}')").rows
    return rows


def scan(cache: Path, token: int, array: str) -> Answer:
    """Every shard's ids, read with Zarr and compared. `array` is patch/token (rank 1 of it is used) or patch/top1."""
    found: Answer = []
    image = 0
    for shard in sorted((cache / "shards").iterdir()):
        ids = np.asarray(zarr.open_array(shard / array, mode="r")[...])
        reads = (ids[..., 0] if ids.ndim == 4 else ids) == token  # (image, layer, patch)
        layers = reads.any(-1)
        first = layers.argmax(-1)
        for row in np.flatnonzero(layers.any(-1)):
            patches = np.flatnonzero(reads[row, first[row]])
            found.append((image + int(row), int(first[row]), patches.tolist()))
        image += len(ids)
    return found


def as_answer(rows: list[dict[str, Any]]) -> Answer:
    return sorted((row["image_id"], row["layer"], list(row["patches"])) for row in rows)


def token_of(word: str) -> int:
    return int(World(RUN_OF.vocabulary_size).objects[list(OBJECTS).index(word)])


# --- warm ------------------------------------------------------------------------------------------------------


@contextmanager
def of_files() -> Iterator[None]:
    """In this context no rows come to be held in memory: each question reads files, as one about other tokens does."""
    usual = resident.MOST_ROWS, resident.LARGEST
    resident.MOST_ROWS = resident.LARGEST = 0
    try:
        yield
    finally:
        resident.MOST_ROWS, resident.LARGEST = usual


def warm(cache: Path, words: list[str], rounds: int, name: str) -> Iterator[Figure]:
    """Each word in turn, so that no question follows itself; the first round warms and is left out."""
    corpus, again = vlq.open(str(cache)), vlq.open(str(cache))
    for word in words:
        rows = ask(corpus, word)
        expected = scan(cache, token_of(word), "patch/top1")
        if as_answer(rows) != expected:
            raise AssertionError(f"{word}: the query and the scan do not agree")
    with of_files():
        ours = [milliseconds(lambda word=word: ask(corpus, word)) for _ in range(rounds) for word in words]
    for word in 2 * words:
        ask(again, word)
    held = [milliseconds(lambda word=word: ask(again, word)) for _ in range(rounds) for word in words]
    matched = len(rows)
    token = token_of(words[0])
    for array, least in (("patch/token", TIMES_FASTER), ("patch/top1", None)):
        scan(cache, token, array)
        theirs = [milliseconds(lambda array=array: scan(cache, token, array)) for _ in range(3)]
        note = f"{corpus.cache.snapshot().images} images, {matched} rows; query {spread(ours)}, scan {spread(theirs)}"
        yield faster(f"warm, {name}", median(ours), median(theirs), f"scan of {array}", least=least, note=note)
    yield at_most(f"warm, {name}", median(ours), "ms", WARM_MS)
    yield Figure(f"asked about before, {name}", median(held), "ms", note=f"{spread(held)}; rows are in memory")


def arguments(cache: Path, words: list[str], rounds: int) -> Iterator[Figure]:
    """What else first_layer can be asked; some of it needs more than the smallest table."""
    corpus = vlq.open(str(cache))
    for more in ("layers=(10, 20)", "min_patches=3, min_run=2", "rank=5", "rank=20", "min_prob=0.3", "by='patch'"):

        def one(word: str, more: str = more) -> None:
            _ = corpus.query(f"first_layer(token='{word}', {more})").rows

        for word in words:
            one(word)
        with of_files():
            times = [milliseconds(lambda word=word: one(word)) for _ in range(rounds) for word in words]
        yield Figure(f"warm, all these words, {more}", median(times), "ms", note=spread(times))


# --- cold ------------------------------------------------------------------------------------------------------

COLD_QUERY = """
import sys, time, duckdb, pyarrow, obstore, vlq.query.client.local, vlq.query.functions
from vlq.query.answers.result import Result
start = time.perf_counter()
_ = vlq.query.client.local.open(sys.argv[1]).query(sys.argv[2]).rows
print((time.perf_counter() - start) * 1000)
"""
COLD_SCAN = """
import sys, time, pathlib, benchmarks.query
start = time.perf_counter()
benchmarks.query.scan(pathlib.Path(sys.argv[1]), int(sys.argv[2]), "patch/token")
print((time.perf_counter() - start) * 1000)
"""


def cold(cache: Path, word: str, rounds: int) -> Iterator[Figure]:
    dropped = drop_caches()

    def fresh(code: str, argument: str) -> Callable[[], float]:
        command = [sys.executable, "-c", code, str(cache), argument]

        def one() -> float:
            process([sys.executable, "-c", code.split("start =")[0]])  # its libraries, not its data, are warm
            drop_caches()
            process([sys.executable, "-c", code.split("start =")[0]])
            return float(process(command))

        return one

    ours, theirs = in_turns(
        rounds, fresh(COLD_QUERY, f"first_layer(token='{word}')"), fresh(COLD_SCAN, str(token_of(word)))
    )
    how = "page cache dropped" if dropped else "new process only: the page cache cannot be dropped here"
    note = f"{how}; query {spread(ours)}, scan {spread(theirs)}"
    yield faster("cold, a word in 5% of the images", median(ours), median(theirs), "scan of patch/token", note=note)


def drop_caches() -> bool:
    """Have the operating system forget what it read of files. False if that is not permitted."""
    try:
        os.sync()
        DROP_CACHES.write_text("1\n")
    except OSError:
        return False
    return True


# --- SQLite ----------------------------------------------------------------------------------------------------

LOOK_UP = """
SELECT top1.image, layer, group_concat(patch), max(logprob)
FROM top1 JOIN (SELECT image, min(layer) AS first FROM top1 WHERE token = ?1 GROUP BY image) AS firsts
  ON top1.image = firsts.image AND layer = first
WHERE token = ?1 GROUP BY top1.image
"""
AGGREGATE = "SELECT token, count(DISTINCT image) AS images FROM {} GROUP BY token ORDER BY images DESC, token LIMIT 20"


def sqlite(work: Path, cache: Path, rare: list[str], common: list[str], rounds: int) -> Iterator[Figure]:
    """A clustered B-tree of the top-1 readings: the same question, and one over all tokens."""
    folder = made(work / f"sqlite-{cache.name}", lambda folder: fill_sqlite(folder / "top1.sqlite", cache))
    path = folder / "top1.sqlite"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    corpus = vlq.open(str(cache))
    images = corpus.cache.snapshot().images
    files = corpus.cache.snapshot().files("patch_top1")
    size = sum(os.stat(file).st_size for file in files)
    yield Figure("size of top-1", size / 1024 / images, "KiB/image", path.stat().st_size / 1024 / images, "SQLite")
    for name, words in (("5%", rare), ("50%", common)):
        tokens = [token_of(word) for word in words]
        in_turns(1, *(lambda token=token: connection.execute(LOOK_UP, (token,)).fetchall() for token in tokens))
        theirs = [
            milliseconds(lambda token=token: connection.execute(LOOK_UP, (token,)).fetchall())
            for _ in range(rounds)
            for token in tokens
        ]
        with of_files():
            ours = [milliseconds(lambda word=word: ask(corpus, word)) for _ in range(rounds) for word in words]
        yield faster(f"warm, a word in {name} of the images", median(ours), median(theirs), "SQLite, look-up by B-tree")
    ours, theirs = in_turns(
        min(rounds, 3) + 1,
        lambda: milliseconds(lambda: duckdb.execute(AGGREGATE.format("read_parquet($1)"), [files]).fetchall()),
        lambda: milliseconds(lambda: connection.execute(AGGREGATE.format("top1")).fetchall()),
    )
    yield faster(
        "warm, the tokens that most images read", median(ours[1:]), median(theirs[1:]), "SQLite, aggregate over all"
    )


def top1_columns(cache: Path) -> Iterator[list[np.ndarray]]:
    """Of each shard the top-1 readings of images, layers and patches: token, image, layer, patch and logprob."""
    opened = Cache.open(str(cache))
    for shard, commit in sorted(committed(opened.store).items()):
        group = opened.group(shard)
        token = np.asarray(group["patch/top1"][...])
        logprob = np.asarray(group["patch/logprob"][..., 0]).astype(np.float32)
        image, layer, patch = np.indices(token.shape, dtype=np.uint32)
        image += np.uint32(commit.first_image)
        yield [values.ravel() for values in (token.astype(np.uint32), image, layer, patch, logprob)]


def fill_sqlite(path: Path, cache: Path) -> None:
    """One row a reading at rank 1, in the order of its key."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute(
        "CREATE TABLE top1 (token INTEGER, image INTEGER, layer INTEGER, patch INTEGER, logprob REAL, "
        "PRIMARY KEY (token, image, layer, patch)) WITHOUT ROWID"
    )
    columns = [np.concatenate(parts) for parts in zip(*top1_columns(cache), strict=True)]
    order = np.lexsort(columns[3::-1])
    step = 1_000_000
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        connection.executemany(
            "INSERT INTO top1 VALUES (?, ?, ?, ?, ?)",
            zip(*(column[chosen].tolist() for column in columns), strict=True),
        )
    connection.commit()
    connection.close()


# --- the whole command -----------------------------------------------------------------------------------------


def whole_command(work: Path, rounds: int) -> Figure:
    """`vlq "first_layer(token='dog')"` from the shell, on a cache of the demo's size."""
    case = small(work, quick=True)
    count = 300
    images = made(work / f"scenes-{count}", lambda folder: save_scenes(folder, count))
    cache = work / "command-cache"
    timed_run(replace(case, images=images, count=count), cache)
    command = [str(Path(sys.executable).with_name("vlq")), "first_layer(token='dog')", "--cache", str(cache)]
    process(command)
    times = [milliseconds(lambda: process(command)) for _ in range(rounds)]
    return at_most(
        f"vlq \"first_layer(token='dog')\", {count} images", median(times), "ms", COMMAND_MS, note=spread(times)
    )
