"""Arrow's tables as rows of Python's own values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlq.query.summary import Rows

if TYPE_CHECKING:
    import pyarrow as pa


def rows_of(table: pa.Table) -> Rows:
    """The rows as DuckDB gives them to Python: maps are dictionaries, sums of whole numbers are such."""
    rows: Rows = whole_numbers(table).to_pylist(maps_as_pydicts="strict")
    return rows


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
