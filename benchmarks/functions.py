"""Every function of the language on 2,250 images of LLaVA's size, beside numpy, SQLite and DuckDB on unsorted rows.

Each is asked of words that 5% of the images read (`rare`) and of the token that most patches decode to (`everywhere`),
which every image reads. Then growth: a word of the first 250 images, before and after 2,000 images without it came.
And the same questions with DuckDB held to 1 GB.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import vlq
from benchmarks.inputs import made
from benchmarks.measure import Figure, at_most, faster, milliseconds, process, spread
from benchmarks.query import (
    COLD_QUERY,
    TIMES_FASTER,
    WARM_MS,
    drop_caches,
    fill_sqlite,
    of_files,
    scan,
    token_of,
    top1_columns,
)
from benchmarks.readings import OBJECTS, World
from benchmarks.synthetic import RUN_OF, make
from vlq.query.client.local import LocalCorpus

FIRST, MORE = 250, 2000
RARE_MS, EVERYWHERE_MS = 100, 1000
UNSORTED_TIMES = 5
LONG_MS = 10_000
GROWTH = 1.3
CAP = "1GB"


@dataclass(frozen=True)
class Question:
    """One question: as VLQ asks it, and as SQL does of a table of top-1 readings (token, image, layer, patch, logprob).

    `{a}` and `{b}` stand for tokens, `{image}` for an image's name and `{number}` for its number, `{across}` for the
    columns of the grid.
    """

    name: str
    query: str
    sql: str | None = None
    is_aggregate: bool = True  # else it is a look-up, in which a B-tree is at home


FIRST_SQL = """
SELECT top1.image, layer, count(*), max(logprob)
FROM top1 JOIN (SELECT image, {pick}(layer) AS picked FROM top1 WHERE token = {a} GROUP BY image) AS picks
  ON top1.image = picks.image AND layer = picked
WHERE token = {a} GROUP BY top1.image, layer
"""
PLACES_SQL = """(
  SELECT image, layer, CAST(patch AS INTEGER) % {across} AS x, (patch - patch % {across}) / {across} AS y
  FROM top1 WHERE token = {of}
)"""
APART_SQL = f"""
SELECT image, layer, min((a.x - b.x) * (a.x - b.x) + (a.y - b.y) * (a.y - b.y))
FROM {PLACES_SQL.replace("{of}", "{a}")} AS a JOIN {PLACES_SQL.replace("{of}", "{b}")} AS b USING (image, layer)
GROUP BY image, layer
"""
"""At rank 1 no patch reads two tokens: where both are read, the square of how far apart they are."""

OF_A_TOKEN = (
    Question("first_layer", "first_layer({a})", FIRST_SQL.replace("{pick}", "min"), False),
    Question("last_layer", "last_layer({a})", FIRST_SQL.replace("{pick}", "max"), False),
    Question("peak_layer", "peak_layer({a})"),
    Question("first_layer, min_prob", "first_layer({a}, min_prob=0.2)"),
    Question("first_layer, rank", "first_layer({a}, rank=5)"),
    Question("first_layer, a set", "first_layer([{a}, {b}])"),
    Question("first_layer, by patch", "first_layer({a}, by='patch')"),
    Question("readings", "readings({a})", "SELECT * FROM top1 WHERE token = {a}", False),
    Question(
        "emergence",
        "emergence({a})",
        "SELECT layer, count(DISTINCT image), count(*) FROM top1 WHERE token = {a} GROUP BY layer",
    ),
    # Of the k best of each patch: more rows than the others have, who find nothing among the best alone.
    Question(
        "overlap",
        "overlap({a}, {b})",
        "SELECT a.image, a.layer, count(*) FROM top1 AS a JOIN top1 AS b USING (image, layer, patch) "
        "WHERE a.token = {a} AND b.token = {b} GROUP BY a.image, a.layer",
    ),
    Question("overlap, rank", "overlap({a}, {b}, rank=1)", APART_SQL),
    Question("neighbours", "neighbours({a})"),
    Question("precursors", "precursors({a})"),
    Question("locate", "locate({a})"),
    Question("rank", "rank({a})"),
    Question("prob", "prob({a})"),
    Question("a comparison", "first_layer({a}) < first_layer({b})"),
    Question("inside of a place", "first_layer({b}, patches=locate({a}))"),
    Question("a median by group", "first_layer({a}).group(width).median()"),
)
OF_THE_CORPUS = (
    Question(
        "defaults, patches",
        "defaults(at='patch', unit='position')",
        "SELECT layer, token, count(*) FROM top1 GROUP BY layer, token",
    ),
    Question("divergence", "divergence(at='patch')"),
    Question("top of an image", "top('{image}')", "SELECT layer, patch, token FROM top1 WHERE image = {number}", False),
    Question("images", "images(width > 100)"),
    Question("tokens", "tokens('dog')"),
)


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    first, more, rounds = (32, 64, 2) if quick else (FIRST, MORE, 7)
    small, large = make(work, first, first), make(work, first + more, first)
    corpus = vlq.open(str(large))
    rare, everywhere = [token_of(word) for word in ("cat", "rock", "boat")], most_read(corpus)
    note = f"{first + more:,} images"
    print(f"  {note}; rare: cat, rock, boat; everywhere: {everywhere}")

    beside = Beside(work, large)
    scans = [milliseconds(lambda: scan(large, rare[0], "patch/token")) for _ in range(2)]
    for question in OF_A_TOKEN:
        pairs = [(token, other) for token in rare for other in rare if token != other]
        yield from asked(corpus, large, question, "rare", pairs, rounds, scans, beside)
        yield from asked(corpus, large, question, "everywhere", [(everywhere, rare[0])], rounds, scans, beside)
    for question in OF_THE_CORPUS:
        yield from asked(corpus, large, question, "corpus", [(0, 0)], rounds, scans, beside)
    with of_files():
        yield from growth(small, large, rounds)
        yield from capped(large, rare, everywhere)


def most_read(corpus: LocalCorpus) -> int:
    """Of the early layers' default tokens the one that most images read."""
    tokens = [int(token) for token in World(RUN_OF.vocabulary_size).defaults[:, 0]]
    return max(tokens, key=lambda token: (corpus.first_layer(token).summary["matched"], -token))


def asked(
    corpus: LocalCorpus,
    cache: Path,
    question: Question,
    of: str,
    tokens: Sequence[tuple[int, int]],
    rounds: int,
    scans: Sequence[float],
    beside: Beside,
) -> Iterator[Figure]:
    """One question of one kind of token: warm, cold, and what stands beside it."""
    queries = [filled(question.query, corpus, a, b) for a, b in tokens]
    again = vlq.open(str(cache))
    held = timed([lambda query=query: again.query(query).rows for query in 2 * queries], rounds)  # type: ignore[misc]
    with of_files():
        rows = [len(corpus.query(query)) for query in queries]
        times = timed([lambda query=query: corpus.query(query).rows for query in queries], rounds)  # type: ignore[misc]
        shown = timed([lambda query=query: repr(corpus.query(query)) for query in queries], rounds)  # type: ignore[misc]
        columns = timed([lambda query=query: corpus.query(query).arrow() for query in queries], rounds)  # type: ignore[misc]
    warm, name = median(times), f"{question.name}, {of}"
    most = RARE_MS if of == "rare" else EVERYWHERE_MS
    most_warm = WARM_MS if question.name == "first_layer" and of == "rare" else most
    note = f"{max(rows):,} rows, each a dictionary; {spread(times)}; "
    note += f"cold {cold(cache, queries[0]):,.0f} ms; {queries[0]}"
    yield at_most(f"{name}, warm", warm, "ms", most_warm, note=note)
    yield Figure(f"{name}, asked about before", median(held), "ms", note=f"{spread(held)}; rows are in memory")
    note = f"{spread(shown)}; its sentence, first rows and histogram, as a terminal or a notebook shows them"
    yield at_most(f"{name}, shown", median(shown), "ms", most, note=note)
    note = f"{spread(columns)}; as an Arrow table, which pandas, polars and Parquet are made of"
    yield at_most(f"{name}, as columns", median(columns), "ms", most, note=note)
    least = TIMES_FASTER if question.name == "first_layer" and of == "rare" else None
    yield faster(f"{name}", warm, median(scans), "numpy scan of patch/token", least=least)
    if question.sql is not None:
        sql = [filled(question.sql, corpus, a, b) for a, b in tokens[:3]]
        lookup = None if question.is_aggregate else "look-up by B-tree"
        yield faster(
            name,
            warm,
            median(beside.sqlite(sql)),
            f"SQLite{', ' + lookup if lookup else ''}",
            least=1 if question.is_aggregate else None,
        )
        yield faster(name, warm, median(beside.unsorted(sql)), "DuckDB, unsorted Parquet", least=UNSORTED_TIMES)


def timed(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Milliseconds of each call in so many rounds, and one before that does not count; fewer where they take long."""
    before = times = [milliseconds(call) for call in calls]
    for number in range(rounds):
        if sum(before) + sum(times) > LONG_MS:
            break
        taken = [milliseconds(call) for call in calls]
        times = [*times, *taken] if number else taken
    return times


def filled(text: str, corpus: LocalCorpus, a: int, b: int) -> str:
    number = 7
    grid = corpus.cache.run.grid
    across = None if grid is None else grid[1]
    return text.format(a=a, b=b, image=f"{number:06d}.jpg", number=number, across=across)


def cold(cache: Path, query: str) -> float:
    """Milliseconds in a new process, with the page cache dropped where that is permitted, its libraries read again."""
    drop_caches()
    process([sys.executable, "-c", COLD_QUERY.split("start =")[0]])
    return float(process([sys.executable, "-c", COLD_QUERY, str(cache), query]))


class Beside:
    """The top-1 readings as SQLite's B-tree, and as Parquet in the order in which images are read."""

    def __init__(self, work: Path, cache: Path) -> None:
        folder = made(work / f"sqlite-{cache.name}", lambda folder: fill_sqlite(folder / "top1.sqlite", cache))
        self._sqlite = sqlite3.connect(f"file:{folder / 'top1.sqlite'}?mode=ro", uri=True)
        folder = made(work / f"unsorted-{cache.name}", lambda folder: fill_unsorted(folder / "top1.parquet", cache))
        self._duckdb = duckdb.connect()
        self._duckdb.execute(f"CREATE VIEW top1 AS SELECT * FROM read_parquet('{folder / 'top1.parquet'}')")

    def sqlite(self, queries: Sequence[str]) -> list[float]:
        return self._times(lambda query: self._sqlite.execute(query).fetchall(), queries)

    def unsorted(self, queries: Sequence[str]) -> list[float]:
        return self._times(lambda query: self._duckdb.execute(query).fetchall(), queries)

    @staticmethod
    def _times(ask: Callable[[str], Any], queries: Sequence[str]) -> list[float]:
        """Each query once to warm, and once or twice to measure: those that take long are not repeated."""
        times = []
        for query in queries:
            first = milliseconds(lambda query=query: ask(query))
            times.append(min(first, milliseconds(lambda query=query: ask(query))) if first < 5000 else first)
        return times


def fill_unsorted(path: Path, cache: Path) -> None:
    """A row for each image, layer and patch, in that order, as a program that reads images would write them."""
    writer: pq.ParquetWriter | None = None
    for columns in top1_columns(cache):
        table = pa.table(columns, names=["token", "image", "layer", "patch", "logprob"])
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def growth(small: Path, large: Path, rounds: int) -> Iterator[Figure]:
    """A word that the first images alone show, asked of them, and of them with eight times as many more."""
    token = token_of(next(iter(OBJECTS)))
    corpora = [vlq.open(str(cache)) for cache in (small, large)]
    for query in (f"first_layer({token})", f"first_layer({token}, min_prob=0.2)", f"emergence({token})"):
        answers = [corpus.query(query).rows for corpus in corpora]
        if answers[0] != answers[1]:
            raise AssertionError(f"{query}: more images without the word change the answer")
        times: list[list[float]] = [[], []]
        for _ in range(4 * rounds):
            for corpus, kept in zip(corpora, times, strict=True):
                kept.append(milliseconds(lambda corpus=corpus, query=query: corpus.query(query).rows))
        before, after = median(times[0]), median(times[1])
        yield Figure(
            f"growth, {query}",
            after,
            "ms",
            before,
            "without the other images",
            before / after,
            f"at most {GROWTH} times slower",
            after <= GROWTH * before,
            f"{len(answers[0])} rows; {spread(times[0])} and {spread(times[1])}",
        )


def capped(cache: Path, rare: Sequence[int], everywhere: int) -> Iterator[Figure]:
    """All questions once more, with DuckDB held to CAP of memory: the index is larger than that."""
    corpus = vlq.open(str(cache))
    manifest = corpus.cache.snapshot().manifest
    assert manifest is not None
    size = sum(stored.size for files in manifest.tables.values() for stored in files)
    corpus.engine.cursor().execute(f"SET GLOBAL memory_limit = '{CAP}'")
    slowest, name = 0.0, ""
    for question in (*OF_A_TOKEN, *OF_THE_CORPUS):
        start = time.perf_counter()
        _ = corpus.query(filled(question.query, corpus, everywhere, rare[0])).rows
        took = (time.perf_counter() - start) * 1000
        slowest, name = max((slowest, name), (took, question.name))
    note = f"an index of {size / 2**30:.1f} GiB; the slowest is {name}"
    yield Figure(f"every question of everywhere, DuckDB held to {CAP}", slowest, "ms", note=note)
