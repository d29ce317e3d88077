"""What databases give, tuples and Arrow's tables, as rows of Python's own values."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from vlq.query.summary import Rows

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 1024
"""Rows that are made together."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """While a million rows are made, Python looks for cycles among them again and again. There are none, and that takes
    longer than to make them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rows_of(table: pa.Table) -> Rows:
    """The rows as DuckDB gives them to Python: maps are dictionaries, sums of whole numbers are such."""
    with collector_paused():
        return _filled(table.column_names, [_values(column) for column in whole_numbers(table).columns])


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values. Where Arrow need not look for maps it takes a tenth of the time."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return [text for chunk in column.dictionary_encode().chunks for text in _texts(chunk)]
    values: list[Any] = column.to_pylist(maps_as_pydicts="strict" if "map<" in str(column.type) else None)
    return values


def _texts(column: pa.DictionaryArray) -> Iterator[str | None]:
    """Texts of which each is made once, as a million rows may be of a few images."""
    texts = [*column.dictionary.to_pylist(), None]
    return map(texts.__getitem__, column.indices.fill_null(len(texts) - 1).to_pylist())


def _filled(names: Sequence[str], columns: Sequence[list[Any]]) -> Rows:
    """Columns of values as rows, dictionaries by column: copies of one that has the names, filled column by column.

    So many at once as a processor has near at hand. That takes two thirds of the time of making each of its pairs.
    """
    empty = dict.fromkeys(names)
    rows: Rows = []
    for start in range(0, len(columns[0]) if columns else 0, AT_ONCE):
        parts = [column[start : start + AT_ONCE] for column in columns]
        some = [empty.copy() for _ in parts[0]]
        for name, values in zip(names, parts, strict=True):
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
