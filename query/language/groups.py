"""Rows of a table taken together: group, count, mean, median, min, max.

The groups of `.group('label')` are a table keyed by the columns that make them: they compare, combine and sort as any
other. Without `group` all rows are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from propcache.api import cached_property

from vlq.query.language.bind import Bound, Counts, Scope, Table
from vlq.query.language.compile import Compiler, Relation, free_name, indented, quoted
from vlq.query.language.nodes import Method, Node
from vlq.query.language.parameters import Optional, Parameter
from vlq.query.language.predicates import Column, find_column
from vlq.query.language.registry import TableMethod
from vlq.query.language.shown import Columns, OneColumn, Shown
from vlq.query.mistakes.combined import NO_GROUPS, NO_SINGLE_VALUE, NOTHING_WANTED
from vlq.query.mistakes.conditions import NO_NUMBER
from vlq.query.summary import Rows, Summary, count, figure

NAMED = 2
"""So many groups are named in a sentence that share what is said of them."""


class Grouped(Shown):
    """Groups of which nothing is wanted yet."""

    def relation(self, compiler: Compiler) -> Relation:
        raise self.scope.error(NOTHING_WANTED, self.node)


@dataclass(frozen=True, eq=False)
class OfGroups(Shown):
    """Something of each group of a table's rows, or of all of them together. `by` are the columns that part them."""

    by: tuple[tuple[str, Node], ...]

    def totals(self) -> Mapping[str, str]:
        return {}

    @property
    def parted_by(self) -> dict[str, Node]:
        """The columns that part the rows, and where each is named."""
        return dict(self.by)

    @property
    def names(self) -> tuple[str, ...]:
        """What these are called in the answer."""
        found: list[str] = []
        for name in self.parted_by:
            found.append(free_name(name, found))
        return tuple(found)

    @property
    def parts(self) -> list[str]:
        """The same in the SQL of the rows, where another column could have their names."""
        return [f"part{number}" for number in range(1, len(self.names) + 1)]

    @property
    def named_columns(self) -> set[object]:
        return super().named_columns | {*self.parted_by}

    def free(self, name: str) -> str:
        """A name for a column of the answer: another one if a group's column has it."""
        return free_name(name, self.names)

    @property
    def columns_of_images(self) -> frozenset[str]:
        found = super().columns_of_images
        return frozenset(name for name, part in zip(self.names, self.parted_by, strict=True) if part in found)

    @cached_property
    def grouped(self) -> Relation:
        """The table whose rows are taken together, to see what it has."""
        return self.table.shape

    @cached_property
    def known(self) -> dict[str, Column]:
        """The columns that can be grouped by or looked at."""
        return self.columns(self.grouped)

    @property
    def overlapping(self) -> list[str]:
        """Of the columns that part the rows the lists: by them a row is in several groups."""
        return [name for name in self.parted_by if self.known[name].kind == "list"]

    def looks_at_places(self, value: str | None) -> bool:
        """Whether it makes a difference at which positions rows are: they part the rows, or are the value."""
        return self.grouped.place is not None and self.grouped.place in (*self.parted_by, value)

    def rows(self, relation: Relation, value: str | None, where: str, compiler: Compiler) -> str:
        """The SELECT of the rows: what parts them, and their value if one is looked at."""
        source = compiler.source(compiler.rows(relation))
        shown = []
        for part, (name, node) in zip(self.parts, self.parted_by.items(), strict=True):
            column = find_column(name, self.known, node, self.scope)
            sql = column.sql
            if name == "image" and "image" in relation.keys:
                sql = "answer.image"  # its number: names may repeat
            elif column.kind == "list":
                # Each item once; rows that have none are a group of their own.
                items = f"coalesce(nullif(list_distinct({column.items.sql}), []), [NULL])"
                source += f"\nCROSS JOIN LATERAL (SELECT unnest({items}) AS item) AS {part}"
                sql = f"{part}.item"
            elif column.is_nested:
                raise self.scope.error(NO_GROUPS, node, name=name)
            shown.append(f"{sql} AS {part}")
        if value is not None:
            shown.append(f"{value} AS value")
        if relation.weight is not None:
            shown.append(f"answer.{relation.weight} AS weight")
        return f"SELECT {', '.join(shown) or '1'}\nFROM {source}{where}"

    @cached_property
    def value(self) -> str:
        """The column whose values are looked at. Raises BadArgument if a row has no such number."""
        named = self.argument("column")
        name, node = (self.grouped.value, self.node) if named is None else named
        if name is None:
            numbers = (name for name, column in self.known.items() if column.kind == "number")
            raise self.scope.error(NO_SINGLE_VALUE, node, method=self.node.method, column=next(numbers, "..."))
        if find_column(name, self.known, node, self.scope).kind not in ("number", "truth"):
            raise self.scope.error(NO_NUMBER, node, got=name)
        return str(name)

    @property
    def lacking(self) -> str:
        """What is said of rows of which no number is made."""
        return "without a finite value" if self.known[self.value].type in FLOATS else "without a value"

    def notes(self) -> list[str]:
        lists = [f"By {name} a row counts once in the group of each of its items." for name in self.overlapping]
        return [*super().notes(), *lists]

    @property
    def subject(self) -> str:
        return self.table.subject + (f" by {' and '.join(self.names)}" if self.by else "")

    @property
    def said(self) -> str:
        """What the answer's number is called, as 'median first layer'; nothing for a count of rows."""
        return ""

    def called(self, value: str) -> str:
        """A value's name in a sentence: the `layer` of first_layer is the first layer."""
        table = self.table
        while isinstance(table, Shown):
            if isinstance(table, Aggregate) and value == table.column and not table.counts_rows:
                return f"of the {table.said}{'s' if table.by else ''}"
            table = table.table
        if value == "layer" and isinstance(table, Bound) and table.function.name.endswith("_layer"):
            return table.function.name.replace("_", " ")
        return value

    def counted(self, rows: int) -> str:
        """(44) -> '44 images'"""
        if isinstance(self.table, Aggregate) and self.table.by:
            return count(rows, "group")
        return count(rows, "image" if self.table.keys == ("image",) else "row")

    def label(self, row: dict[str, Any]) -> str:
        """A group in a sentence: beach; layer 3; no label; not bright."""
        return ", ".join(group_name(name, row[name]) for name in self.names)


@dataclass(frozen=True)
class Number:
    """A number that stands for a group's values: its SQL, what it is called, and what the least and greatest are.

    `weighed` is its SQL of rows that have a weight, if there is one.
    """

    sql: str
    weighed: str | None
    word: str
    low: str = "lowest"
    high: str = "highest"


ROWS = "coalesce(sum(weight), 0)::BIGINT"
VALUES = "coalesce(sum(weight) FILTER (value IS NOT NULL), 0)::BIGINT"
"""SQL: how many rows there are, and how many with a value, where rows have a weight."""

NUMBERS = {
    "count": Number("count(*)", ROWS, "", "fewest", "most"),
    # Kahan's sum: rows come in any order, and the last digit should not show it.
    "mean": Number("favg(value)", "fsum(value * weight) / sum(weight) FILTER (value IS NOT NULL)", "mean"),
    "median": Number("median(value::DOUBLE)", None, "median"),
    "min": Number("min(value)", "min(value)", "least"),
    "max": Number("max(value)", "max(value)", "greatest"),
}


class Aggregate(OfGroups):
    """One number of each group. `count` are its rows, `missing` those without a value, which are left out of it."""

    @property
    def number(self) -> Number:
        return NUMBERS[self.node.method]

    @property
    def column(self) -> str:
        """The answer's column that holds the number."""
        return self.free(self.node.method)

    @property
    def counts_rows(self) -> bool:
        return self.node.method == "count"

    @property
    def lacking(self) -> str:
        return "without a value" if self.is_share else super().lacking

    @property
    def is_share(self) -> bool:
        """A condition's mean is the share for which it holds, of the rows for which that can be said."""
        return self.grouped.holds is not None and self.node.method == "mean" and self.argument("column") is None

    def relation(self, compiler: Compiler) -> Relation:
        name = None if self.counts_rows else self.grouped.holds if self.is_share else self.value
        places = self.number.weighed is None or self.looks_at_places(name)
        relation = self.table.cells(compiler, every=self.is_share, places=places)
        where = f"\nWHERE answer.{relation.shows}" if relation.shows else ""
        value = None
        if name is not None:
            value = f"answer.{name}::INTEGER" if self.is_share else as_number(self.known[name])
        number, rows, values = self.number.sql, "count(*)", "count(value)"
        if relation.weight is not None:
            assert self.number.weighed is not None
            number, rows, values = self.number.weighed, ROWS, VALUES
        columns = {self.column: number}
        if value is not None:
            columns |= {self.free("count"): rows, self.free("missing"): f"{rows} - {values}"}
        shown = [f"{part} AS {quoted(name)}" for part, name in zip(self.parts, self.names, strict=True)]
        shown += [f"{sql} AS {name}" for name, sql in columns.items()]
        source = indented(self.rows(relation, value, where, compiler))
        group = f" GROUP BY {', '.join(self.parts)}" if self.parts else ""
        sql = f"SELECT {', '.join(shown)}\nFROM (\n  {source}\n){group}"
        return Relation(sql, self.names, tuple(columns), self.column)

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        """How many groups and rows there are, and rows without a value; the least and greatest number, and whose."""
        found = [row[self.column] for row in rows if row[self.column] is not None]
        summary: Summary = {
            "images": counts.images,
            "matched": sum(row[self.free("count")] > 0 for row in rows),
            "rows": sum(row[self.free("count")] for row in rows),
            "missing": sum(row.get(self.free("missing"), 0) for row in rows),
        }
        for end, number in (("low", min(found, default=None)), ("high", max(found, default=None))):
            summary[end] = float(number) if isinstance(number, Decimal) else number
            summary[f"{end}_groups"] = [self.label(row) for row in rows if found and row[self.column] == number]
        return summary

    def headline(self, summary: Summary) -> str:
        """How many rows there are in how many groups, and in which of these the number is least and greatest."""
        counted = self.counted(summary["rows"])
        if self.by and summary["rows"]:
            groups = count(summary["matched"], "group")
            counted = groups if self.overlapping else f"{counted} in {groups}"
        left_out = f" ({summary['missing']:,} {self.lacking} left out)" if summary["missing"] else ""
        sentence = f"{self.subject}: {counted}{left_out}"
        if summary["low"] is None:
            return sentence
        if not self.by:
            return sentence if self.counts_rows else f"{sentence}, {self.said} {figured(summary['low'])}"
        return f"{sentence}; {self._ends(summary)}"

    def _ends(self, summary: Summary) -> str:
        said, by_layer = self.said, self.said.endswith("layer")
        low, high = ("earliest", "latest") if by_layer else (self.number.low, self.number.high)
        if summary["low"] == summary["high"]:
            groups = summary["low_groups"]
            return f"{said} {figured(summary['low'])} in {groups[0] if len(groups) == 1 else 'each'}".lstrip()
        ends = [f"{low} in {_listed(summary['low_groups'])} ({figured(summary['low'])})"]
        ends.append(f"{high} in {_listed(summary['high_groups'])} ({figured(summary['high'])})")
        if self.counts_rows:
            ends.reverse()
        return f"{said} {', '.join(ends)}".lstrip()

    @property
    def said(self) -> str:
        if self.counts_rows:
            return ""
        return "share" if self.is_share else f"{self.number.word} {self.called(self.value)}"


FLOATS = ("FLOAT", "DOUBLE")
"""Types whose numbers may be infinite."""


def as_number(column: Column) -> str:
    """The SQL of a column's numbers, which may be calculated with: truth is 1 or 0, what is not finite is missing."""
    if column.kind == "truth":
        return f"{column.sql}::INTEGER"
    if column.type in FLOATS:
        return f"CASE WHEN isfinite({column.sql}) THEN {column.sql} END"
    # Of numbers wider than 64 bits Arrow would make decimals.
    return column.sql if column.type == "UBIGINT" else column.signed


def group_name(name: str, value: Any) -> str:
    """What the rows are called whose column has this value."""
    if value is None:
        return f"no {name}"
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return (value or "''") if isinstance(value, str) else f"{name} {value}"


def figured(value: float) -> str:
    """A figure to three places; of a small one, what is left of it."""
    if isinstance(value, int):
        return f"{value:,}"
    value = float(value)  # of a decimal, too
    return figure(round(value, 3) or float(f"{value:.2g}"))


def _listed(groups: list[str]) -> str:
    return " and ".join(groups) if len(groups) <= NAMED else f"{len(groups):,} groups"


def of_groups(make: Callable[..., OfGroups]) -> Callable[[Method, Table, Scope], Table]:
    """How a method of grouped rows, or of all rows of a table, is applied."""

    def apply(node: Method, table: Table, scope: Scope) -> Table:
        if isinstance(table, Grouped):
            return make(node, table.table, scope, table.argument("by"))
        return make(node, table, scope, ())

    return apply


COLUMN = Parameter(
    "column", Optional(OneColumn()), "of which numbers; by default of those that stand for the rows", None
)


def _number(name: str, documentation: str, example: str) -> TableMethod:
    parameters = () if name == "count" else (COLUMN,)
    return TableMethod(name, parameters, len(parameters), documentation, example, of_groups(Aggregate))


GROUP_METHODS = (
    TableMethod(
        name="group",
        parameters=(Parameter("by", Columns(), "what parts the rows, the table's columns or the image's own"),),
        positional=1,
        documentation="Rows with equal values taken together; behind it stands what is wanted of each group.",
        example="first_layer('dog').group(label).median()",
        apply=Grouped,
    ),
    _number("count", "How many rows there are, in each group or in all.", "first_layer('dog').group(label).count()"),
    _number(
        "mean",
        "The mean of the rows' numbers, in each group or in all; of a condition the share for which it holds.",
        "(first_layer('nose') < first_layer('ear')).mean()",
    ),
    _number(
        "median",
        "The median of the rows' numbers, in each group or in all.",
        "first_layer('dog').group(label).median()",
    ),
    _number(
        "min", "The least of the rows' numbers, in each group or in all.", "readings('dog').group(layer).min(logprob)"
    ),
    _number(
        "max",
        "The greatest of the rows' numbers, in each group or in all.",
        "readings('dog').group(layer).max(logprob)",
    ),
)
