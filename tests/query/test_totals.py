"""What is said of rows without looking at each: the same as what their rows say."""

from __future__ import annotations

from typing import Any

import pytest

from vlq.query.answers.answer import SHOWN_ROWS
from vlq.query.answers.result import Result
from vlq.query.engine import Engine
from vlq.query.language.bind import compile_rows
from vlq.query.language.compile import Statement

from ..synthetic import WORDS
from .corpora import Case

QUERIES = [
    "readings({a}, rank={k})",
    "readings([{a}, {b}], rank={k}, at='prompt')",
    "readings({a}, rank={k}, patches=locate({b}))",
    "readings({a}, rank={k}, images=bright)",
    "first_layer({a}, rank={k}, by='patch', layers=(1, {last}))",
    "last_layer({a}, rank={k}, by='patch', layers=(0, 1))",
    "peak_layer([{a}, {b}], by='patch')",
    "rank({a})",
    "rank({a}, missing='bound')",
    "prob([{a}, {b}], at='prompt')",
    "prob({a}, patches=locate({b}))",
    "prob({a}) > prob({b})",
    "not prob({a}) > 0.1",
    "rank({a}) - rank({b})",
    "prob({a}) * 2",
    "readings({a}, rank={k}).where(layer > 0 and logprob < -1)",
    "readings({a}, rank={k}).sort(logprob)",
    "rank({a}).sample(30, seed=1)",
    "prob({a}).select([patch, layer, prob]).limit(25)",
    "first_layer({a}, by='patch', rank={k}).where(patch == 0).limit(3)",
]


def asked(case: Case, query: str, a: str, b: str) -> Result:
    run = case.run
    return case.corpus.query(query.format(a=repr(a), b=repr(b), k=run.k, last=run.layers - 1))


@pytest.mark.here("how a summary is made, of rows or in SQL")
@pytest.mark.parametrize("query", QUERIES)
def test_the_same_as_of_rows(cases: dict[str, Case], query: str) -> None:
    long = 0
    for case in cases.values():
        for a, b in ((WORDS[0], WORDS[1]), (WORDS[3], WORDS[0])):
            told, listed = asked(case, query, a, b), asked(case, query, a, b)
            whole = listed.table.whole
            rows = listed._listed(whole, compile_rows(whole))[1]
            summary, told_summary = whole.summarise(rows, listed._counts(whole)), dict(told.summary)
            for name in ("median", "median_prob"):  # the mean of two numbers may be rounded otherwise
                if summary.get(name) is not None:
                    assert told_summary.pop(name) == pytest.approx(summary.pop(name), rel=1e-12)
            assert told_summary == summary
            assert len(told) == len(listed.rows)
            assert told.head == listed.rows[:SHOWN_ROWS]
            assert told.is_censored == any(row.get("censored") for row in listed.rows)
            assert not listed.rows or told.columns == list(listed.rows[0])
            assert "_answer" not in vars(told)  # of rows that are many none but the first was made
            long += len(told) > SHOWN_ROWS
    assert long or (query.endswith(")") and "limit" in query)


@pytest.mark.here("the engine of this process")
def test_what_python_makes_is_made_once(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    arrow = Engine.arrow

    def counted(self: Engine, statement: Statement, *more: Any) -> Any:
        read.append(statement.sql)
        return arrow(self, statement, *more)

    monkeypatch.setattr(Engine, "arrow", counted)
    result = asked(cases["several shards"], "precursors({a}).sort(share).limit(2)", WORDS[0], WORDS[1])
    assert all(sql.endswith("LIMIT 0") for sql in read)  # to know the columns
    read.clear()
    _ = result.rows, result.summary, result.headline, result.arrow()
    assert len(read) == len(set(read)) > 1
