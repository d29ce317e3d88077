"""Tables held against each other: comparison, `and`, `or`, `not`, and arithmetic, row by row of the same keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from vlq.query.bind import Counts, Scope, Table, column_types
from vlq.query.compile import Compiler, Relation, quoted
from vlq.query.errors import BadArgument
from vlq.query.nodes import Arithmetic, Comparison, Literal, Logic, Node, Not
from vlq.query.predicates import SQL_OPERATORS, Column, Predicate
from vlq.query.summary import Rows, Summary, count, each, figure
from vlq.query.tokens import TokenSet

HOLDS = "holds"
PLACES = {"image", "layer", "patch", "position", "rank"}
"""Keys that are whole numbers wherever they occur."""

INNER, FULL = "JOIN", "FULL JOIN"

AFTER_ALL = 2**31 - 1
"""Stands in comparisons for a layer that never came."""


@dataclass(frozen=True, eq=False)
class Combined(Table):
    """What tables that are combined have in common."""

    node: Comparison | Logic | Not | Arithmetic
    operands: tuple[Table | Literal, ...]

    @property
    def tables(self) -> list[Table]:
        return [operand for operand in self.operands if isinstance(operand, Table)]

    @property
    def operand_nodes(self) -> list[Node]:
        """The tables' nodes."""
        parts = zip(_operands(self.node), self.operands, strict=True)
        return [node for node, operand in parts if isinstance(operand, Table)]

    @property
    def population(self) -> Predicate | None:
        """The operands' own, if it is the same for all of them."""
        found = [table.population for table in self.tables]
        texts = {None if images is None else str(images.node) for images in found}
        return found[0] if len(texts) == 1 else None

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return tuple(tokens for table in self.tables for tokens in table.token_sets)

    @property
    def subject(self) -> str:
        return str(self.node)

    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for table in self.tables for note in table.notes()))

    def joined(self, compiler: Compiler, join: str) -> tuple[str, list[Relation | str], list[str]]:
        """The tables as t1, t2, ... joined by their keys; for each operand its relation, or a number's SQL; the keys.

        A key may be missing, as that of the images without a label: it is equal to one that is missing too.
        """
        parts: list[Relation | str] = []
        source = ""
        number = 0
        keys: dict[str, str] = {}
        for operand in self.operands:
            if isinstance(operand, Literal):
                parts.append(compiler.value("number", operand.value))
                continue
            relation = operand.relation(compiler)
            parts.append(relation)
            number += 1
            own = {key: f"t{number}.{quoted(key)}" for key in relation.keys}
            if not source:
                source, keys = f"{relation.part()} AS t1", own
                continue
            same = " AND ".join(f"{keys[key]} IS NOT DISTINCT FROM {sql}" for key, sql in own.items())
            source += f"\n{join} {relation.part()} AS t{number} ON {same or 'true'}"
            if join == FULL:
                keys = {key: f"coalesce({keys[key]}, {sql})" for key, sql in own.items()}
        return source, parts, [f"{sql} AS {quoted(key)}" for key, sql in keys.items()]


@dataclass(frozen=True, eq=False)
class Condition(Combined):
    """What holds of a key or does not; where one side is missing it is neither."""

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        return {"images": counts.images, "compared": counts.compared, "matched": len(rows)}

    def headline(self, summary: Summary) -> str:
        unit = self.keys[-1] if self.keys else "row"
        compared, matched = summary["compared"], summary["matched"]
        known = f"of {count(compared, unit)} for which it can be said"
        return f"{self.node}: holds for {matched:,} {known}, in a corpus of {count(summary['images'], 'image')}"


class Compared(Condition):
    """a < b < c"""

    def relation(self, compiler: Compiler) -> Relation:
        assert isinstance(self.node, Comparison)
        source, parts, keys = self.joined(compiler, INNER)
        values, columns = _values(parts, compared=True)
        pairs = zip(self.node.operators, values, values[1:], strict=False)
        holds = " AND ".join(f"{a} {SQL_OPERATORS[operator]} {b}" for operator, a, b in pairs)
        shown = [*keys, *(f"{value} AS {name}" for name, value in columns.items()), f"{holds} AS {HOLDS}"]
        sql = f"SELECT {', '.join(shown)}\nFROM {source}"
        return Relation(sql, self.tables[0].keys, (*columns, HOLDS), None, _order(columns), HOLDS)


class Connected(Condition):
    """a and b; a or b; not a. What is missing on one side is unknown, as SQL has it."""

    def relation(self, compiler: Compiler) -> Relation:
        source, parts, keys = self.joined(compiler, FULL)
        relations = [part for part in parts if isinstance(part, Relation)]
        names: dict[str, str] = {}
        for number, relation in enumerate(relations, 1):
            for column in relation.columns:
                if column != HOLDS:
                    base = column.rpartition("_")[0] or column
                    names[f"{base}_{len(names) + 1}"] = f"t{number}.{column}"
        holds = [f"t{number}.{HOLDS}" for number in range(1, len(relations) + 1)]
        joined = f"NOT {holds[0]}" if isinstance(self.node, Not) else f" {_operator(self.node).upper()} ".join(holds)
        shown = [*keys, *(f"{sql} AS {name}" for name, sql in names.items()), f"({joined}) AS {HOLDS}"]
        sql = f"SELECT {', '.join(shown)}\nFROM {source}"
        return Relation(sql, relations[0].keys, (*names, HOLDS), None, _order(names), HOLDS)


class Calculated(Combined):
    """a - b: where both sides are there."""

    @property
    def column(self) -> str:
        """The answer's column that holds the result: another one if a key has its name."""
        return "value_2" if "value" in self.tables[0].keys else "value"

    def relation(self, compiler: Compiler) -> Relation:
        assert isinstance(self.node, Arithmetic)
        source, parts, keys = self.joined(compiler, INNER)
        values, columns = _values(parts, compared=False)
        value = f"{values[0]} {self.node.operator} {values[1]} AS {self.column}"
        shown = [*keys, value, *(f"{sql} AS {name}" for name, sql in columns.items())]
        sql = f"SELECT * FROM (\n  SELECT {', '.join(shown)}\n  FROM {source}\n) WHERE {self.column} IS NOT NULL"
        return Relation(sql, self.tables[0].keys, (self.column, *columns), self.column, (f"answer.{self.column}",))

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        values = [row[self.column] for row in rows]
        return {
            "images": counts.images,
            "matched": len(values),
            "min": min(values, default=None),
            "median": float(median(values)) if values else None,
            "max": max(values, default=None),
        }

    def headline(self, summary: Summary) -> str:
        unit = self.keys[-1] if self.keys else "row"
        if not summary["matched"]:
            return f"{self.node}: can be said of none of {count(summary['images'], 'image')}"
        least, middle, most = (figure(summary[name]) for name in ("min", "median", "max"))
        known = f"can be said of {count(summary['matched'], unit)} in a corpus of {count(summary['images'], 'image')}"
        return f"{self.node}: {known}; median {middle}, from {least} to {most}"


def _values(parts: list[Relation | str], compared: bool) -> tuple[list[str], dict[str, str]]:
    """Each operand's SQL value; the tables' values by the names of their columns."""
    values: list[str] = []
    columns: dict[str, str] = {}
    for part in parts:
        if isinstance(part, str):
            values.append(part)
            continue
        number = len(columns) + 1
        column = f"t{number}.{part.value}"
        values.append(f"coalesce({column}, {AFTER_ALL})" if compared and part.missing_is_last else column)
        columns[f"{part.value}_{number}"] = column
    return values, columns


def _order(columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"answer.{name}" for name in columns)


def _operator(node: Node) -> str:
    assert isinstance(node, Logic)
    return node.operator


# --- binding ---------------------------------------------------------------------------------------------------


def combine(node: Comparison | Logic | Not | Arithmetic, operands: tuple[Table | Literal, ...], scope: Scope) -> Table:
    """The combination of bound operands. Raises BadArgument if their keys differ or they have nothing to combine."""
    combined: Combined
    match node:
        case Comparison():
            if {"in", "not in"} & {*node.operators}:
                hint = "It is used in conditions on columns: .where('dog' in caption)"
                raise scope.error(BadArgument, "Answers have no `in`.", node, hint)
            combined = Compared(node, operands)
        case Logic() | Not():
            combined = Connected(node, operands)
        case Arithmetic():
            combined = Calculated(node, operands)
    parts = [
        (part, operand) for part, operand in zip(_operands(node), operands, strict=True) if isinstance(operand, Table)
    ]
    if not parts:
        raise scope.error(BadArgument, f"{node} asks nothing.", node, "Such as first_layer('ear') < first_layer('dog')")
    for part, operand in parts:
        if operand.split is not None:
            hint = f"Ask twice: with images={operand.split.condition.node}, and with the opposite."
            raise scope.error(BadArgument, f"against: {part} cannot be combined with another answer.", part, hint)
        _check_kind(part, operand, combined, scope)
        first, expected = parts[0]
        if operand.keys != expected.keys:
            raise scope.error(
                BadArgument,
                f"{first} has a row for each {each(expected.keys)}, {part} for each {each(operand.keys)}.",
                part,
                "Give both the same by=, or group both by the same columns.",
            )
        _check_types(part, operand, parts[0], scope)
    return combined


def _check_types(part: Node, operand: Table, first: tuple[Node, Table], scope: Scope) -> None:
    """Raises BadArgument if two tables have keys of one name and of different kinds."""
    types = [_key_types(table, scope) for table in (first[1], operand)]
    for key in operand.keys:
        kinds = [Column("", found[key]).kind or found[key] for found in types if key in found]
        if len({*kinds}) > 1:
            message = f"{key} is a {kinds[0]} in {first[0]}, and a {kinds[1]} in {part}."
            raise scope.error(BadArgument, message, part)


def _key_types(table: Table, scope: Scope) -> Mapping[str, str]:
    """The types of a table's keys, as far as they are not the same in every table."""
    if not {*table.keys} - PLACES:
        return {}
    return column_types(table, scope)


def _check_kind(part: Node, operand: Table, combined: Combined, scope: Scope) -> None:
    if isinstance(combined, Connected) and not operand.relation(Compiler()).holds:
        hint = "Compare it first: first_layer('ear') < first_layer('dog')"
        raise scope.error(BadArgument, f"{part} is nothing that holds or does not.", part, hint)
    if not isinstance(combined, Connected) and operand.relation(Compiler()).value is None:
        raise scope.error(BadArgument, f"{part} has no single value for each row.", part)


def _operands(node: Comparison | Logic | Not | Arithmetic) -> tuple[Node, ...]:
    match node:
        case Comparison(operands=operands) | Logic(operands=operands):
            return operands
        case Not(operand=operand):
            return (operand,)
        case Arithmetic(left=left, right=right):
            return (left, right)
