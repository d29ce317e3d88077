"""What every method of tables has in common: a table, and columns of it that the method's arguments name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from propcache.api import cached_property

from vlq.query.image.geometry import COLUMNS, ROWS
from vlq.query.language.against import Split
from vlq.query.language.bind import Counts, Scope, Table, column_types
from vlq.query.language.compile import Compiler, Relation, quoted
from vlq.query.language.nodes import Literal, Method, Name, Node, walk
from vlq.query.language.nodes import Sequence as SequenceNode
from vlq.query.language.patches import PatchSet
from vlq.query.language.predicates import Column, Predicate, find_column, image_columns, without
from vlq.query.language.registry import methods
from vlq.query.language.tokens import TokenSet
from vlq.query.mistakes.values import EXPECTED
from vlq.query.schema import READ_COLUMNS
from vlq.query.summary import Rows, Summary, Totals

AREA = "area"

AREA_SQL = f"(len(answer.patches) / (images.{ROWS} * images.{COLUMNS}))"
"""SQL: the share of an image's patches that a row's `patches` are."""

SHARE_OF_PATCHES = "area is the share of the image's patches; the images' own column area is what images= looks at."


@dataclass(frozen=True)
class Columns:
    """A column, or a list of columns; bare or quoted."""

    expected: str = "a column, or a list of columns"

    def bind(self, node: Node, name: str, scope: Scope) -> tuple[tuple[str, Node], ...]:
        items = node.items if isinstance(node, SequenceNode) else (node,)
        found = []
        for item in items:
            value = item.name if isinstance(item, Name) else item.value if isinstance(item, Literal) else None
            if not isinstance(value, str):
                raise scope.error(EXPECTED, item, name=name, expected=self.expected)
            found.append((value, item))
        if not found:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return tuple(found)


@dataclass(frozen=True)
class OneColumn:
    """A column; bare or quoted."""

    expected: str = "a column"

    def bind(self, node: Node, name: str, scope: Scope) -> tuple[str, Node]:
        if isinstance(node, SequenceNode):
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return Columns(self.expected).bind(node, name, scope)[0]


@dataclass(frozen=True, eq=False)
class Shown(Table):
    """A table whose rows are chosen, ordered or cut."""

    node: Method
    table: Table
    scope: Scope

    @property
    def columns_of_images(self) -> frozenset[str]:
        named, known = self.columns(self.table.shape), image_columns(self.scope)
        others = {name for name, column in named.items() if column == known.get(name)} - READ_COLUMNS.keys()
        return self.table.columns_of_images | others

    def counts(self, compiler: Compiler) -> dict[str, str]:
        return {**self.table.counts(compiler), **super().counts(compiler)}

    @property
    def population(self) -> Predicate | None:
        return self.table.population

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return self.table.token_sets

    @property
    def split(self) -> Split | None:
        return self.table.split

    @property
    def others(self) -> Table | None:
        return None if self.table.others is None else replace(self, table=self.table.others)

    @property
    def patches(self) -> PatchSet | None:
        return self.table.patches

    @property
    def has_readings(self) -> tuple[str, ...]:
        return self.table.has_readings

    @property
    def subject(self) -> str:
        return self.table.subject

    @property
    def named_columns(self) -> set[object]:
        """What its arguments name, bare or quoted; texts that columns are held against are among them."""
        parts = (part for _, argument in self.node.arguments for part in walk(argument))
        return {
            part.name if isinstance(part, Name) else part.value for part in parts if isinstance(part, Name | Literal)
        }

    def notes(self) -> list[str]:
        """What its table's are, and which column is meant where the images have an `area` of their own, too."""
        found = self.table.notes()
        if AREA in self.named_columns and AREA in self.scope.image_columns():
            column = self.columns(self.table.shape).get(AREA)
            found = [*found, *[SHARE_OF_PATCHES] * (column is not None and column.sql == AREA_SQL)]
        return list(dict.fromkeys(found))

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        return self.table.summarise(rows, counts)

    def totals(self) -> Mapping[str, str]:
        return self.table.totals()

    def sum_up(self, totals: Totals, counts: Counts) -> Summary:
        return self.table.sum_up(totals, counts)

    def headline(self, summary: Summary) -> str:
        return self.table.headline(summary)

    def argument(self, name: str) -> Any:
        """The checked value of an argument."""
        parameter = methods()[self.node.method].parameter(name)
        assert parameter is not None
        node = self.node.get(name)
        return parameter.type.bind(parameter.default_node() if node is None else node, name, self.scope)

    @cached_property
    def _types(self) -> Mapping[str, str]:
        """The DuckDB types of the table's own columns."""
        return column_types(self.table, self.scope)

    def columns(self, relation: Relation) -> dict[str, Column]:
        """What a condition or an order can name: the table's columns, and behind them the image's own.

        Where a row has `patches`, there is `area` too, which share of the image's patches these are.
        """
        own = {
            name: Column(f"answer.{quoted(name)}", self._types[name]) for name in (*relation.keys, *relation.columns)
        }
        if "image" not in relation.keys:
            return own
        own["image"] = Column("images.image", "VARCHAR")
        if self._types.get("patches", "").endswith("[]"):
            own |= without({AREA: Column(AREA_SQL, "DOUBLE")}, own)
        return own | without(image_columns(self.scope), own)

    def named(self, relation: Relation, name: str) -> list[tuple[str, Column]]:
        """The columns that an argument names. Raises UnknownName."""
        columns = self.columns(relation)
        return [(column, find_column(column, columns, node, self.scope)) for column, node in self.argument(name)]
