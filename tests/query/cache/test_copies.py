"""Of an index that lies elsewhere a query fetches the blocks that hold its tokens, once; no byte is taken on trust."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
import vlq.workers.indexing.merge
import vlq.workers.indexing.postings
from vlq.query.cache import copies
from vlq.query.cache.copies import folder
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CorruptCache
from vlq.query.schema import Block, Blocks, digest_of, head_key
from vlq.query.store import open_store
from vlq.query.summary import Rows
from vlq.workers.indexing.index import compact

from ...counting import CountingStore
from ...synthetic import WORDS, make_cache, make_run

fetching = pytest.mark.here("what is fetched of a store, and kept")

QUERIES = [
    "first_layer('dog')",
    "first_layer('dog', rank=3)",
    "first_layer(['▁dog', '▁tree', '▁rock'])",
    "first_layer('cat') < first_layer('rock')",
    "readings('ear', min_prob=0.05)",
    "prob('sky')",
    "neighbours('cat')",
    "defaults(at='patch')",
]
URL = "memory://copies"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A handful of rows to a block, so that a small corpus has many; and an empty folder for copies."""
    monkeypatch.setattr(vlq.workers.indexing.postings, "ROW_GROUP", 16)
    monkeypatch.setattr(vlq.workers.indexing.postings, "TOP1_ROW_GROUP", 4)
    monkeypatch.setattr(vlq.workers.indexing.merge, "PART_GROUPS", 200)
    monkeypatch.setattr(vlq.workers.indexing.merge, "FILE_GROUPS", 200)
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> str:
    """The URL of a cache in memory, of its own for each test."""
    url = f"{URL}-{digest_of(request.node.name.encode())[:8]}"
    make_cache(url, images=12)
    return url


def copied(cache: Path, url: str) -> None:
    """The same cache elsewhere, which takes a moment where making it again takes seconds."""
    here, there = open_store(str(cache)), open_store(url, create=True)
    for entry in here.list():
        there.create(entry.key, here.read(entry.key))


def counted(url: str) -> tuple[LocalCorpus, CountingStore]:
    store = CountingStore(open_store(url))
    return LocalCorpus(Cache(url, store, Cache.open(url).run)), store


def ask(corpus: LocalCorpus, query: str) -> Rows:
    return corpus.query(query).rows


@fetching
def test_blocks_lie_where_they_are_said_to(tmp_path: Path) -> None:
    make_cache(tmp_path / "here", images=12)
    manifest = Cache.open(str(tmp_path / "here")).snapshot().manifest
    assert manifest is not None
    counts = []
    for table, files in manifest.tables.items():
        for file in files:
            data = (tmp_path / "here" / file.key).read_bytes()
            assert (file.blocks is None) == (table in ("images", "divergence", "counts"))
            if file.blocks is None:
                continue
            blocks = Blocks.from_bytes((tmp_path / "here" / file.blocks.key).read_bytes(), "")
            groups = pq.ParquetFile(tmp_path / "here" / file.key)
            assert len(blocks.blocks) == groups.num_row_groups
            end = 4
            for number, block in enumerate(blocks.blocks):
                keys = groups.read_row_group(number).column(0).to_pylist()
                assert (block.first, block.last, block.start) == (min(keys), max(keys), end)
                assert block.is_sound(data[block.start : block.end])
                assert not block.is_sound(data[block.start + 1 : block.end])
                end = block.end
            assert data[end:] == blocks.footer
            assert (file.first, file.last) == (blocks.blocks[0].first, blocks.blocks[-1].last)
            counts.append(len(blocks.blocks))
    assert max(counts) > 20


@fetching
@given(
    spans=st.lists(st.integers(0, 60), min_size=2, max_size=20).map(sorted),
    keys=st.sets(st.integers(0, 60), min_size=1, max_size=5),
)
def test_which_blocks_hold_keys(spans: list[int], keys: set[int]) -> None:
    blocks = Blocks(tuple(Block(a, b, 0, 0, b"") for a, b in pairwise(spans)), b"f")
    held = [n for n, block in enumerate(blocks.blocks) if any(block.first <= key <= block.last for key in keys)]
    assert blocks.holding(keys) == held


@pytest.mark.parametrize("query", QUERIES)
def test_the_same_answers_from_elsewhere(elsewhere: str, tmp_path: Path, query: str) -> None:
    make_cache(tmp_path / "here", images=12)
    here, there = vlq.open(str(tmp_path / "here")), vlq.open(elsewhere)
    assert there.query(query).rows == here.query(query).rows
    assert there.query(query).arrow().equals(here.query(query).arrow())


def test_many_tokens_and_far_ones(tmp_path: Path) -> None:
    make_cache(tmp_path / "here", make_run(vocabulary_size=90, k=6), images=12)
    copied(tmp_path / "here", f"{URL}-many")
    here, there = vlq.open(str(tmp_path / "here")), vlq.open(f"{URL}-many")
    for tokens in ([0, 87], [3, 40, 60, 80], list(range(0, 80, 2))):
        assert there.first_layer(tokens).rows == here.first_layer(tokens).rows != []


@fetching
@pytest.mark.parametrize("word", WORDS[2:])
def test_what_a_cold_query_fetches(elsewhere: str, word: str) -> None:
    """Of each file where blocks lie, and then those that hold the token, in a request each."""
    corpus, store = counted(elsewhere)
    ask(corpus, "images()")  # what every query needs: the head, the manifest, the vocabulary, the images
    store.reset()
    ask(corpus, f"first_layer('{word}')")
    snapshot = corpus.cache.snapshot()
    ids = corpus.first_layer(word).table.token_sets[0].ids
    files = snapshot.stored("patch_top1", ids)
    beside = needed = 0
    for file in files:
        assert file.blocks is not None
        beside += file.blocks.size
        blocks = corpus.cache.copies.blocks(file)
        needed += sum(blocks.blocks[number].length for number in blocks.holding(ids))
    assert len(store.calls) <= 2 * len(files)
    assert 0 < store.bytes.total() - beside <= 2 * needed
    assert needed < sum(file.size for file in files) / 2


@fetching
def test_warm_queries_ask_nothing(elsewhere: str) -> None:
    corpus, store = counted(elsewhere)
    for query in QUERIES:
        ask(corpus, query)
    store.reset()
    for query in QUERIES:
        ask(corpus, query)
    assert store.calls == []
    # A new process asks what the cache is, and fetches nothing that is here.
    corpus, store = counted(elsewhere)
    for query in QUERIES:
        ask(corpus, query)
    assert len(store.calls) == 3  # which heads there are, the newest one, its index


@fetching
def test_an_unsealed_run_is_asked_once(tmp_path: Path) -> None:
    url = f"{URL}-unsealed"
    store, run, _ = make_cache(url, images=12, seal=False)
    head = Cache.open(url).snapshot().head
    assert head is not None
    corpus, counting = counted(url)
    query = "first_layer('dog')"
    before = corpus.query(query).rows
    counting.reset()
    assert corpus.query(query).rows == before
    assert len(counting.calls) == 1
    key, _ = compact(store, run, head)  # as it is merged while the run goes on
    store.create(head_key(2), replace(head, number=2, index=key).to_bytes())
    assert corpus.query(query).rows == before
    counting.reset()
    assert corpus.query(query).rows == before
    assert len(counting.calls) == 1


def refusals(cache: Path, path: Path, query: str, *, first: int, count: int, flip: int) -> int:
    """How often a query is refused while a byte of a file is damaged, from the `first` on; else its answer is right."""
    whole = path.read_bytes()
    expected = vlq.open(str(cache)).query(query).rows
    refused = 0
    for place in range(first, len(whole), max(1, len(whole) // count)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        try:
            assert vlq.open(str(cache)).query(query).rows == expected
        except CorruptCache:
            refused += 1
    return refused


@fetching
@pytest.mark.parametrize("table", ["patch_top1", "patch_topk", "patch_cells"])
def test_a_damaged_block_is_never_answered_from(tmp_path: Path, table: str) -> None:
    make_cache(tmp_path / "here", images=12)
    query = {"patch_top1": "first_layer('cat')", "patch_topk": "rank('dog')", "patch_cells": "neighbours('dog')"}[table]
    (path,) = (tmp_path / "here").glob(f"index/*/{table}-000.parquet")
    assert refusals(tmp_path / "here", path, query, first=4, count=60, flip=1)


@fetching
@pytest.mark.parametrize("harm", ["gone", "cut", "zeroed"])
def test_copies_that_come_to_harm_are_fetched_again(elsewhere: str, harm: str) -> None:
    corpus = vlq.open(elsewhere)
    expected = [corpus.query(query).rows for query in QUERIES]
    for again in (corpus, vlq.open(elsewhere)):
        for path in folder().iterdir():
            if harm == "gone":
                path.unlink()
            elif harm == "cut":
                path.write_bytes(path.read_bytes()[:50])
            else:
                path.write_bytes(bytes(path.stat().st_size))
        assert [again.query(query).rows for query in QUERIES] == expected


@fetching
def test_copies_are_kept_below_a_size(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [vlq.open(elsewhere).query(query).rows for query in QUERIES]
    everything = sum(path.stat().st_blocks * 512 for path in folder().iterdir())
    limit = everything // 2
    monkeypatch.setenv("VLQ_LOCAL_SIZE", str(limit))
    for query, rows in zip(QUERIES, expected, strict=True):
        assert vlq.open(elsewhere).query(query).rows == rows
    vlq.open(elsewhere).cache.copies.made("new.annotated.parquet", lambda: b"x")
    assert 0 < sum(path.stat().st_blocks * 512 for path in folder().iterdir()) <= limit


def test_many_ask_at_once(elsewhere: str) -> None:
    expected = [vlq.open(elsewhere).query(query).rows for query in QUERIES]
    for path in folder().iterdir():
        path.unlink()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda query: vlq.open(elsewhere).query(query).rows, QUERIES * 4))
    assert answers == expected * 4


@fetching
def test_who_begins_a_copy_leaves_what_another_fetched(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = vlq.open(elsewhere).query(QUERIES[0]).rows
    for path in folder().iterdir():
        path.unlink()
    begin = copies._begin
    others: list[Rows] = []

    def late(*args: Any) -> None:
        monkeypatch.setattr(copies, "_begin", begin)
        others.append(vlq.open(elsewhere).query(QUERIES[0]).rows)  # while this one is about to begin
        monkeypatch.setattr(copies, "_begin", late)
        begin(*args)

    monkeypatch.setattr(copies, "_begin", late)
    monkeypatch.setattr(copies.Copies, "distrust", lambda _: False)  # nothing comes to harm
    assert vlq.open(elsewhere).query(QUERIES[0]).rows == expected
    assert others
    assert all(rows == expected for rows in others)


@fetching
def test_who_finds_harm_takes_nothing_from_others(elsewhere: str) -> None:
    corpus, store = counted(elsewhere)
    ask(corpus, QUERIES[0])
    before = {path: path.stat().st_ino for path in folder().iterdir()}
    assert corpus.cache.copies.distrust()
    store.reset()
    ask(corpus, QUERIES[0])
    assert {path: path.stat().st_ino for path in folder().iterdir()} == before
    assert store.calls == []


@fetching
@pytest.mark.parametrize(
    ("array", "query"), [("top1", "top('c')"), ("token", "top('c', rank=2)"), ("logprob", "top('c')")]
)
def test_a_damaged_array_is_never_answered_from(tmp_path: Path, array: str, query: str) -> None:
    make_cache(tmp_path / "here", images=4, names=["a", "b", "c", "d"])
    (path,) = (path for path in (tmp_path / "here").glob(f"shards/*/patch/{array}/c/**/*") if path.is_file())
    assert refusals(tmp_path / "here", path, query, first=0, count=30, flip=4)
