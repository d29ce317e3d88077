"""Rows of values become dictionaries that say the same, whatever the columns are called."""

from __future__ import annotations

import gc
from datetime import date

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.query import arrow, collector
from vlq.query.arrow import named_rows, rows_of, whole_numbers
from vlq.query.collector import collector_paused

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
          NULLIF(i, 1) AS gap, i::DECIMAL(9, 0) AS whole, i::DECIMAL(9, 2) AS price
        FROM range(5) AS r(i) ORDER BY i"""
    found = duckdb.sql(sql)
    names = found.columns
    expected = [dict(zip(names, row, strict=True)) for row in duckdb.sql(sql).fetchall()]
    rows = rows_of(found.to_arrow_table())
    assert rows == expected
    assert {name: type(value) for name, value in rows[2].items()} == {name: type(expected[2][name]) for name in names}
    assert expected[2]["counts"] == {2: "x"}
    assert expected[2]["day"] == date(2024, 1, 3)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2**62, None, -(2**62)], "TIMESTAMP_NS"),
        ([0, 10**18, None, -7 * 10**16], "TIMESTAMP"),
        ([0, 10**18, None, -7 * 10**16], "TIMESTAMPTZ"),
        ([19_000, 10**7, None, -800_000], "DATE"),
    ],
)
def test_times_are_those_that_the_database_gives(values: list[int | None], kind: str) -> None:
    """Nanoseconds are none of Python's; what is before the year 1 or after 9999 is a text."""
    made = {"TIMESTAMP_NS": "make_timestamp_ns(v)", "DATE": "DATE '1970-01-01' + v::INTEGER"}
    sql = f"SELECT {made.get(kind, f'make_timestamp(v)::{kind}')} AS at FROM (SELECT unnest($1::BIGINT[]) AS v)"
    with duckdb.connect() as connection:
        expected = [value for (value,) in connection.execute(sql, [values]).fetchall()]
        found = [row["at"] for row in rows_of(connection.sql(sql, params=[values]).to_arrow_table())]
    assert found == expected
    assert [*map(type, found)] == [*map(type, expected)]


def test_sums_of_whole_numbers_are_such() -> None:
    found = duckdb.sql("SELECT sum(i) AS total, sum(i * 1000000000000000000::HUGEINT) AS long FROM range(50) AS r(i)")
    (row,) = rows_of(whole_numbers(found.to_arrow_table()))
    assert [*row.values()] == [1225, 1225 * 10**18]
    assert type(row["total"]) is int


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


def test_what_repeats_is_copied_as_it_is() -> None:
    """In parts of a column that hold one value, too; equal values that are not one stay apart."""
    columns = {
        "name": pa.array(["a"] * 6 + ["b"] * 2 + [None]),
        "layer": pa.array([1, 1, 1, 2, 2, 2, 300, 301, None], pa.int32()),
        "zero": pa.array([0.0, -0.0] * 4 + [0.0]),
        "flag": pa.array([None] * 3 + [True] * 6),
        "patches": pa.array([[7]] * 9),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "AT_ONCE", 3)
        found = rows_of(pa.table(columns))
    names = list(columns)
    assert [list(row) for row in found] == [names] * 9
    for name, column in columns.items():
        assert list(map(repr, (row[name] for row in found))) == list(map(repr, column.to_pylist()))
    assert len({id(row["patches"]) for row in found}) == 9


def test_many_new_rows_are_not_searched_for_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MANY", 1000)

    def made(count: int) -> list[list[int]]:
        with collector_paused():
            return [[] for _ in range(count)]

    def is_old(rows: list[list[int]]) -> bool:
        return any(old is rows[-1] for old in gc.get_objects(generation=2))

    assert gc.isenabled()
    gc.unfreeze()  # what a service in this process has set aside
    assert is_old(made(2000))
    assert not is_old(made(10))
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        assert not is_old(made(2000))
        assert gc.get_freeze_count() > frozen / 2  # what was set aside stays there, but for what is no more
    finally:
        gc.unfreeze()
