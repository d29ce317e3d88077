"""What databases give, tuples and Arrow's tables, as rows of Python's own values."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from vlq.query.summary import Rows

if TYPE_CHECKING:
    import pyarrow as pa


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
        columns = [_values(column) for column in whole_numbers(table).columns]
        return named_rows(table.column_names, zip(*columns, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values. Where Arrow need not look for maps it takes a tenth of the time."""
    values: list[Any] = column.to_pylist(maps_as_pydicts="strict" if "map<" in str(column.type) else None)
    return values


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
