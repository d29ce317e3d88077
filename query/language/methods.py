"""What is done with the rows of a table: where, sort, limit, select, sample; `groups` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlq.query.language.bind import Scope, Table
from vlq.query.language.compile import Compiler, Relation, quoted, total_order
from vlq.query.language.groups import GROUP_METHODS
from vlq.query.language.histogram import HISTOGRAM
from vlq.query.language.nodes import Name, Node, walk
from vlq.query.language.parameters import Count, Flag, Parameter, whole
from vlq.query.language.predicates import Predicate
from vlq.query.language.registry import TableMethod
from vlq.query.language.shown import Columns, Shown
from vlq.query.mistakes.values import EXPECTED
from vlq.query.summary import Summary


@dataclass(frozen=True)
class Whole:
    """Any whole number."""

    expected: str = "a whole number"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = whole(node)
        if value is None:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return value


@dataclass(frozen=True)
class Condition:
    """A condition on columns."""

    expected: str = "a condition on columns, such as label == 'beach' and layer <= 20"

    def bind(self, node: Node, name: str, scope: Scope) -> Node:
        return node


class Where(Shown):
    """The rows for which a condition holds. What the summary says is of these alone."""

    def relation(self, compiler: Compiler) -> Relation:
        return self._chosen(self.table.relation(compiler), compiler)

    def cells(self, compiler: Compiler, *, every: bool = False, places: bool = True) -> Relation:
        named = {part.name for part in walk(self.argument("condition")) if isinstance(part, Name)}
        looked_at = self.table.shape.place in named
        return self._chosen(self.table.cells(compiler, every=every, places=places or looked_at), compiler)

    def _chosen(self, relation: Relation, compiler: Compiler) -> Relation:
        predicate = Predicate(self.argument("condition"), self.columns(relation), self.scope)
        condition = predicate.sql(compiler)
        sql = f"SELECT answer.*\nFROM {compiler.source(relation)}\nWHERE {condition}"
        return replace(relation, sql=sql, rest=None)

    @property
    def subject(self) -> str:
        return f"{self.table.subject} where {self.argument('condition')}"

    @property
    def whole(self) -> Table:
        """A summary needs columns that may not have been selected."""
        return unselected(self)

    def headline(self, summary: Summary) -> str:
        return f"{self.table.headline(summary)} (where {self.argument('condition')})"


class Cut(Shown):
    """Another view of the same answer, which the summary is still of."""

    @property
    def whole(self) -> Table:
        return self.table.whole

    def first(self, relation: Relation, compiler: Compiler, order: Sequence[str]) -> Relation:
        """The first rows in an order."""
        where = f"\nWHERE answer.{relation.shows}" if relation.shows else ""
        count = compiler.value("count", self.argument("count"))
        sql = f"SELECT answer.*\nFROM {compiler.source(relation)}{where}\nORDER BY {', '.join(order)} LIMIT {count}"
        return replace(relation, sql=sql, rest=None)


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
        keys = "".join(f", answer.{quoted(key)}" for key in relation.keys)
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


def unselected(table: Table) -> Table:
    """The same rows with all columns: the table itself if none were selected."""
    if isinstance(table, Select):
        return unselected(table.table)
    if isinstance(table, Where | Cut):
        inner = unselected(table.table)
        return table if inner is table.table else replace(table, table=inner)
    return table


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
        *GROUP_METHODS,
        HISTOGRAM,
    )
}
