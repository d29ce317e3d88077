"""What databases give, tuples and Arrow's tables, as rows of Python's own values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from vlq.query.collector import collector_paused
from vlq.query.summary import Rows

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 1024
"""Rows that are made together."""


def rows_of(table: pa.Table) -> Rows:
    """The rows as DuckDB gives them to Python: maps are dictionaries."""
    import pyarrow as pa

    with collector_paused():
        columns = table.columns
        # Of other types equal values need not be one: 0.0 and -0.0, or two rows' lists.
        plain = [pa.types.is_integer(column.type) or pa.types.is_string(column.type) for column in columns]
        return _filled(table.column_names, [_values(column) for column in columns], plain)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values. Where Arrow need not look for maps it takes a tenth of the time."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return [text for chunk in column.dictionary_encode().chunks for text in _texts(chunk)]
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # finer than Python's own
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="strict" if "map<" in str(column.type) else None)
    except OverflowError:  # before the year 1 or after 9999, of which DuckDB gives texts
        return _with_texts(column)
    return values


def _with_texts(column: pa.ChunkedArray) -> list[Any]:
    """A column's values as DuckDB itself gives them."""
    import duckdb
    import pyarrow as pa

    with duckdb.connect() as connection:
        return [value for (value,) in connection.from_arrow(pa.table({"value": column})).fetchall()]


def _texts(column: pa.DictionaryArray) -> Iterator[str | None]:
    """Texts of which each is made once, as a million rows may be of a few images."""
    texts = [*column.dictionary.to_pylist(), None]
    return map(texts.__getitem__, column.indices.fill_null(len(texts) - 1).to_pylist())


def _filled(names: Sequence[str], columns: Sequence[list[Any]], plain: Sequence[bool]) -> Rows:
    """Columns of values as rows, dictionaries by column: copies of one that has the names, filled column by column.

    So many at once as a processor has near at hand. That takes two thirds of the time of making each of its pairs. What
    all of these have of a `plain` column is copied with the names, as one image's rows share its name.
    """
    rows: Rows = []
    for start in range(0, len(columns[0]) if columns else 0, AT_ONCE):
        first: dict[str, Any] = {}
        others: dict[str, list[Any]] = {}
        for name, column, may_be_one in zip(names, columns, plain, strict=True):
            values = column[start : start + AT_ONCE]
            first[name] = value = values[0]
            if not (may_be_one and value == values[-1] and values.count(value) == len(values)):
                others[name] = values
        some = list(map(dict.copy, repeat(first, len(values))))
        for name, values in others.items():
            for row, value in zip(some, values, strict=True):
                row[name] = value
        rows += some
    return rows


def named_rows(columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> Rows:
    """Rows of values as dictionaries by column."""
    return list(map(dict, map(zip, repeat(tuple(columns)), rows)))  # without a step of Python's own for each row


def whole_numbers(table: pa.Table) -> pa.Table:
    """The table with sums of whole numbers as such: DuckDB's have 128 bits, which Arrow has as decimals only."""
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                table = table.set_column(i, field.name, table.column(i).cast(pa.int64()))
            except pa.ArrowInvalid:  # one of them has more than 64 bits
                continue
    return table
