"""What is done with the rows of a table: where, sort, limit, select, sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlq.query.bind import Counts, Scope, Table
from vlq.query.compile import Compiler, Relation, quoted, total_order
from vlq.query.nodes import Literal, Method, Name, Node
from vlq.query.nodes import Sequence as SequenceNode
from vlq.query.parameters import Count, Flag, Parameter, mismatch, whole
from vlq.query.predicates import Column, Predicate, find_column, image_columns, without
from vlq.query.registry import TableMethod
from vlq.query.summary import Rows, Summary
from vlq.query.tokens import TokenSet


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
                raise mismatch(item, name, self.expected, scope)
            found.append((value, item))
        if not found:
            raise mismatch(node, name, self.expected, scope)
        return tuple(found)


@dataclass(frozen=True)
class Whole:
    """Any whole number."""

    expected: str = "a whole number"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = whole(node)
        if value is None:
            raise mismatch(node, name, self.expected, scope)
        return value


@dataclass(frozen=True)
class Condition:
    """A condition on columns."""

    expected: str = "a condition on columns, such as label == 'beach' and layer <= 20"

    def bind(self, node: Node, name: str, scope: Scope) -> Node:
        return node


@dataclass(frozen=True, eq=False)
class Shown(Table):
    """A table whose rows are chosen, ordered or cut."""

    node: Method
    table: Table
    scope: Scope

    @property
    def population(self) -> Predicate | None:
        return self.table.population

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return self.table.token_sets

    def notes(self) -> list[str]:
        return self.table.notes()

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        return self.table.summarise(rows, counts)

    def headline(self, summary: Summary) -> str:
        return self.table.headline(summary)

    def argument(self, name: str) -> Any:
        """The checked value of an argument."""
        parameter = METHODS[self.node.method].parameter(name)
        assert parameter is not None
        node = self.node.get(name)
        return parameter.type.bind(parameter.default_node() if node is None else node, name, self.scope)

    def columns(self, relation: Relation) -> dict[str, Column]:
        """What a condition or an order can name: the table's columns, and behind them the image's own."""
        own = {name: Column(f"answer.{quoted(name)}") for name in (*relation.keys, *relation.columns)}
        if "image" not in relation.keys:
            return own
        return own | {"image": Column("images.image", "VARCHAR")} | without(image_columns(self.scope), own)

    def named(self, relation: Relation, name: str) -> list[tuple[str, Column]]:
        """The columns that an argument names. Raises UnknownName."""
        columns = self.columns(relation)
        return [(column, find_column(column, columns, node, self.scope)) for column, node in self.argument(name)]


class Where(Shown):
    """The rows for which a condition holds. What the summary says is of these alone."""

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.relation(compiler)
        predicate = Predicate(self.argument("condition"), self.columns(relation), self.scope)
        condition = predicate.sql(compiler)
        return replace(relation, sql=f"SELECT answer.*\nFROM {compiler.source(relation)}\nWHERE {condition}")

    def headline(self, summary: Summary) -> str:
        return f"{self.table.headline(summary)} (where {self.argument('condition')})"


class Cut(Shown):
    """Another view of the same answer, which the summary is still of."""

    @property
    def whole(self) -> Table:
        return self.table.whole

    def first(self, relation: Relation, compiler: Compiler, order: Sequence[str]) -> Relation:
        """The first rows in an order."""
        where = f"\nWHERE answer.{relation.holds}" if relation.holds else ""
        count = compiler.value("count", self.argument("count"))
        sql = f"SELECT answer.*\nFROM {compiler.source(relation)}{where}\nORDER BY {', '.join(order)} LIMIT {count}"
        return replace(relation, sql=sql)


class Limit(Cut):
    """The first rows."""

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.relation(compiler)
        return self.first(relation, compiler, total_order(relation) or ["1"])


class Sample(Cut):
    """Rows in the order of a hash of their keys."""

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.relation(compiler)
        seed = compiler.value("seed", self.argument("seed"))
        keys = "".join(f", answer.{key}" for key in relation.keys)
        return self.first(relation, compiler, [f"md5(concat_ws('/', {seed}{keys}))"])


class Sort(Cut):
    """The rows in another order, what was the order before coming after it."""

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.relation(compiler)
        way = " DESC NULLS LAST" if self.argument("descending") else ""
        order = tuple(f"{column.sql}{way}" for _, column in self.named(relation, "by"))
        return replace(relation, order=(*order, *relation.order))


class Select(Cut):
    """Only some columns."""

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.relation(compiler)
        return replace(relation, shown=tuple((column.sql, name) for name, column in self.named(relation, "columns")))


METHODS = {
    entry.name: entry
    for entry in (
        TableMethod(
            name="where",
            parameters=(Parameter("condition", Condition(), "on the table's columns and on the image's own"),),
            positional=1,
            documentation="The rows for which a condition holds.",
            example="first_layer('dog').where(layer <= 4 and label == 'beach')",
            apply=Where,
        ),
        TableMethod(
            name="sort",
            parameters=(
                Parameter("by", Columns(), "what to sort by, the first of them before the others"),
                Parameter("descending", Flag(), "the largest first", False),
            ),
            positional=1,
            documentation="The rows in another order.",
            example="first_layer('dog').sort(logprob, descending=True)",
            apply=Sort,
        ),
        TableMethod(
            name="limit",
            parameters=(Parameter("count", Count(), "how many rows at most"),),
            positional=1,
            documentation="The first rows.",
            example="first_layer('dog').limit(10)",
            apply=Limit,
        ),
        TableMethod(
            name="select",
            parameters=(Parameter("columns", Columns(), "which ones, the table's or the image's own"),),
            positional=1,
            documentation="Only some columns.",
            example="first_layer('dog').select([image, layer, label])",
            apply=Select,
        ),
        TableMethod(
            name="sample",
            parameters=(
                Parameter("count", Count(), "how many rows at most"),
                Parameter("seed", Whole(), "another seed gives other rows, the same seed the same", 0),
            ),
            positional=1,
            documentation="Some rows, chosen at random.",
            example="first_layer('dog').sample(5, seed=1)",
            apply=Sample,
        ),
    )
}
