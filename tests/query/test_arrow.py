"""Rows of values become dictionaries that say the same, whatever the columns are called."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.query import arrow
from vlq.query.arrow import named_rows, rows_of

NAMES = st.lists(st.text(), min_size=1, max_size=5, unique=True)


@given(st.data(), NAMES)
def test_rows_are_named_by_their_columns_whatever_these_are_called(data: st.DataObject, names: list[str]) -> None:
    rows = data.draw(st.lists(st.tuples(*(st.integers() | st.none() | st.text() for _ in names)), max_size=4))
    assert named_rows(names, iter(rows)) == [dict(zip(names, row, strict=True)) for row in rows]
    assert all(list(row) == names for row in named_rows(names, rows))


def test_an_arrow_table_has_the_rows_that_the_database_gives() -> None:
    sql = """
        SELECT i AS number, i / 3 AS quotient, i % 2 = 0 AS even, 'image ' || i AS name, [i, NULL] AS several,
          {'a': i, 'b': [i]} AS part, MAP {i: 'x'} AS counts, DATE '2024-01-01' + i::INTEGER AS day,
          NULLIF(i, 1) AS gap, sum(i) OVER () AS total
        FROM range(5) AS r(i) ORDER BY i"""
    found = duckdb.sql(sql)
    names = found.columns
    expected = [dict(zip(names, row, strict=True)) for row in duckdb.sql(sql).fetchall()]
    assert rows_of(found.to_arrow_table()) == expected
    assert expected[2]["counts"] == {2: "x"}
    assert expected[2]["day"] == date(2024, 1, 3)


@given(st.lists(st.tuples(st.none() | st.text(), st.none() | st.integers(-5, 5)), max_size=9), st.integers(1, 4))
def test_many_rows_are_made_in_parts(rows: list[tuple[str | None, int | None]], at_once: int) -> None:
    schema = pa.schema([("name", pa.string()), ("number", pa.int64())])
    expected = [{"name": name, "number": number} for name, number in rows]
    table = pa.Table.from_pylist(expected, schema)
    halves = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "AT_ONCE", at_once)
        found = rows_of(halves)
    assert found == expected
    assert len({id(row) for row in found}) == len(rows)
