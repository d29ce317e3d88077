"""Rows in memory: what is asked again of them is what the files say, and they take no more than they may."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import vlq
from vlq.query import resident
from vlq.query.client.local import LocalCorpus
from vlq.query.resident import Resident

from ..synthetic import WORDS
from .corpora import Case

pytestmark = pytest.mark.here("what a process of its own holds in memory")

QUERIES = (
    "first_layer({a}, rank={k}, min_prob={p})",
    "first_layer({a}) < first_layer({b})",
    "last_layer([{a}, {b}], min_prob={p}).where(label == 'beach')",
    "emergence({a}, rank={k})",
    "readings({a}, rank={k}, images=bright)",
    "prob({a}) > {p}",
    "overlap({a}, {b})",
    "precursors({a})",
    "images(label == 'beach')",
    "tokens('d')",
)


def opened(case: Case) -> LocalCorpus:
    """The case's cache, of which nothing is in memory yet."""
    corpus = vlq.open(case.corpus.url)
    assert isinstance(corpus, LocalCorpus)
    return corpus


def drawn(case: Case, draw: random.Random) -> str:
    a, b = draw.sample(WORDS, 2)
    return draw.choice(QUERIES).format(a=repr(a), b=repr(b), k=case.run.k, p=round(draw.random(), 3))


def answers(corpus: LocalCorpus, query: str) -> tuple[object, ...]:
    result = corpus.query(query)
    return result.rows, result.headline, result.summary, corpus.query(query).arrow().to_pylist()


def test_the_same_as_of_files(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for case in cases.values():
        queries = [drawn(case, draw) for _ in range(5)]
        with monkeypatch.context() as patched:
            patched.setattr(Resident, "_make", lambda *_: False)
            corpus = opened(case)
            of_files = [answers(corpus, query) for query in queries]
            assert not corpus.engine.resident.size
        corpus = opened(case)
        for _ in range(3):
            assert [answers(corpus, query) for query in queries] == of_files
        assert corpus.engine.resident.size


def test_not_before_the_second_time(cases: dict[str, Case]) -> None:
    corpus = opened(cases["several shards"])
    for word, held in (("cat", 0), ("sky", 1), ("sky", 2), ("cat", 3), ("cat", 3)):
        _ = corpus.first_layer(word).rows
        # The images' table is asked for with each, and so the second time by the second word.
        assert len(corpus.engine.resident) == held


def test_they_take_no_more_than_they_may(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases["several shards"]
    corpus = opened(case)
    queries = [f"first_layer('{word}', rank={case.run.k})" for word in WORDS]
    expected = [answers(corpus, query) for query in queries]
    for query in queries:
        answers(corpus, query)
    every, size = len(corpus.engine.resident), corpus.engine.resident.size
    corpus = opened(case)
    share, most = 10_000, size // 2
    monkeypatch.setattr(resident, "SHARE", share)
    corpus.engine.limit(share * most)
    for _ in range(3):
        assert [answers(corpus, query) for query in queries] == expected
        assert corpus.engine.resident.size <= most
    assert 0 < len(corpus.engine.resident) < every
    corpus.engine.limit(share * 2 * resident.MOST)
    assert corpus.engine.resident.most == resident.MOST


def test_large_ones_are_read_of_their_files(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "MOST_ROWS", 0)
    monkeypatch.setattr(resident, "LARGEST", 0)
    corpus = opened(cases["several shards"])
    expected = answers(corpus, f"first_layer('{WORDS[0]}')")
    for _ in range(3):
        assert answers(corpus, f"first_layer('{WORDS[0]}')") == expected
    assert corpus.engine.resident.size == 0
    assert corpus.engine.cursor().execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


def test_threads_that_ask_at_once(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while tables go that others are asking for."""
    monkeypatch.setattr(resident, "MOST", 2**18)
    case = cases["several shards"]
    draw = random.Random(5)
    queries = [drawn(case, draw) for _ in range(12)]
    corpus = opened(case)
    expected = {query: answers(opened(case), query) for query in queries}
    asked = [draw.choice(queries) for _ in range(80)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda query: answers(corpus, query), asked))
    assert found == [expected[query] for query in asked]


def test_one_thread_s_question_does_not_wait_for_another_s(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they did, where `functools.cached_property` holds one lock for all instances of a class."""
    corpus = opened(cases["several shards"])
    queries = [f"first_layer('{word}')" for word in WORDS[:2]]
    expected = [answers(corpus, query) for query in queries]
    meeting = threading.Barrier(len(queries), timeout=30)
    rows = corpus.engine.rows

    def met(*asked: Any) -> Any:
        meeting.wait()
        return rows(*asked)

    monkeypatch.setattr(corpus.engine, "rows", met)
    with ThreadPoolExecutor(len(queries)) as threads:
        assert list(threads.map(lambda query: answers(corpus, query), queries)) == expected
