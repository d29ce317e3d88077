"""Tables held against each other: comparison, `and`, `or`, `not`, and arithmetic, row by row of the same keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from vlq.query.language.bind import Counts, Scope, Table, column_types
from vlq.query.language.bounds import HIGH, LOW, Bounds, calculated, compared
from vlq.query.language.compile import Compiler, Relation, Rest, free_name, indented, quoted
from vlq.query.language.nodes import Arithmetic, Comparison, Literal, Logic, Node, Not
from vlq.query.language.predicates import Column, Predicate
from vlq.query.language.tokens import TokenSet
from vlq.query.mistakes.combined import AGAINST, IN, KEY_KINDS, KEYS, NO_VALUE, NOT_TRUE, NOTHING_ASKED, OTHER_PATCHES
from vlq.query.summary import Rows, Summary, Totals, count, each, figure, unit

HOLDS = "holds"
PLACES = {"image", "layer", "patch", "position", "rank"}
"""Keys that are whole numbers wherever they occur."""

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
    def has_readings(self) -> tuple[str, ...]:
        """What all of the operands have in common."""
        first, *others = [table.has_readings for table in self.tables]
        return tuple(condition for condition in first if all(condition in other for other in others))

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return tuple(tokens for table in self.tables for tokens in table.token_sets)

    @property
    def subject(self) -> str:
        return str(self.node)

    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for table in self.tables for note in table.notes()))

    def joined(self, compiler: Compiler, keep_all: bool = False) -> Joined:
        """The tables joined by their keys. `keep_all` keeps rows that only some of them have."""
        sides: list[Side] = []
        for operand in self.operands:
            if isinstance(operand, Literal):
                sides.append(Side(None, compiler.value("number", operand.value)))
            else:
                number = 1 + sum(side.relation is not None for side in sides)
                sides.append(Side(operand.relation(compiler), f"t{number}", f"rest{number}"))
        return Joined(tuple(sides), keep_all)


@dataclass(frozen=True)
class Side:
    """One operand of a combination where all are joined: a relation, or a number's SQL."""

    relation: Relation | None
    name: str
    rest: str = ""  # the name of what is known of a relation's cells without rows

    def bounds(self, column: Callable[[Side, str], str], never_is_last: bool = False) -> Bounds:
        """What the operand's value lies between, where `column` is the SQL of a column of it."""
        if self.relation is None:
            return Bounds(self.name, self.name)
        if self.relation.bounded:
            return Bounds(column(self, LOW), column(self, HIGH))
        value = column(self, str(self.relation.value))
        if never_is_last and self.relation.missing_is_last:
            value = f"coalesce({value}, {AFTER_ALL})"
        return Bounds(value, value)

    def stored(self) -> Bounds:
        """The operand's value as it is stored."""
        value = self.name if self.relation is None else f"{self.name}.{self.relation.value}"
        return Bounds(value, value)


@dataclass(frozen=True)
class Joined:
    """The operands of a combination, joined by their keys: t1, t2, ... and what is known of cells without rows."""

    sides: tuple[Side, ...]
    keep_all: bool

    @property
    def tables(self) -> list[tuple[Side, Relation]]:
        return [(side, side.relation) for side in self.sides if side.relation is not None]

    @property
    def keys(self) -> tuple[str, ...]:
        """In the first table's order, or in that of the first of which something is known of cells without rows."""
        _, relation = next(((side, table) for side, table in self.tables if table.rest is not None), self.tables[0])
        return relation.keys

    def free(self, name: str) -> str:
        """A name for a column of the answer: another one if a key has it."""
        return free_name(name, self.keys)

    @property
    def rests(self) -> list[tuple[Side, Rest]]:
        return [(side, relation.rest) for side, relation in self.tables if relation.rest is not None]

    @property
    def is_full(self) -> bool:
        """Whether rows stay that only some of the tables have. A row that one lacks may stand among its rest."""
        return self.keep_all or bool(self.rests)

    @property
    def key_columns(self) -> list[str]:
        """The keys of a joined row, as a SELECT has them."""
        return [f"{sql} AS {quoted(key)}" for key, sql in self._keys(len(self.tables)).items()]

    def _keys(self, number: int) -> dict[str, str]:
        """The SQL of the keys of the first tables' joined row, so many of them."""
        keys = {}
        for key in self.keys:
            own = [f"{side.name}.{quoted(key)}" for side, _ in self.tables[:number]]
            keys[key] = f"coalesce({', '.join(own)})" if self.is_full and number > 1 else own[0]
        return keys

    @property
    def source(self) -> str:
        """What to select the joined rows from. A key may be missing: it is equal to one that is missing too."""
        join = "FULL JOIN" if self.is_full else "JOIN"
        (first, relation), *others = self.tables
        source = f"{relation.part()} AS {first.name}"
        for number, (side, relation) in enumerate(others, 1):
            known = self._keys(number).items()
            same = " AND ".join(f"{sql} IS NOT DISTINCT FROM {side.name}.{quoted(key)}" for key, sql in known)
            source += f"\n{join} {relation.part()} AS {side.name} ON {same or 'true'}"
        keys = self._keys(len(self.tables))
        for side, rest in self.rests if others else ():
            same = " AND ".join(f"{side.rest}.{key} = {keys[key]}" for key in ("image", "layer"))
            if rest.mask is not None:
                same += f" AND get_bit({side.rest}.inside, {keys[self.keys[2]]}) = 1"
            source += f"\nLEFT JOIN {rest.part()} AS {side.rest} ON {same}"
        return source

    def column(self, side: Side, name: str) -> str:
        """A column of one of the tables in a joined row."""
        assert side.relation is not None
        if side.relation.rest is None or len(self.tables) == 1:
            return f"{side.name}.{name}"
        return f"CASE WHEN {side.name}.image IS NULL THEN {side.rest}.{name} ELSE {side.name}.{name} END"

    def rest_of(self, columns: str) -> Rest | None:
        """What is known where no table has a row, from the columns of `rest1`, `rest2`, ...; None if nothing is."""
        if not self.rests:
            return None
        (first, rest), *others = self.rests
        source = f"{rest.part()} AS {first.rest}"
        for side, other in others:
            source += f"\nFULL JOIN {other.part()} AS {side.rest} USING (image, layer)"
        listed = any(rest.listed for _, rest in self.rests)
        return Rest(f"SELECT image, layer, {columns}\nFROM {source}", rest.positions, listed, rest.mask)


def of_rest(side: Side, name: str) -> str:
    """A column of what is known of a table's cells without rows; NULL if nothing is."""
    return "NULL" if side.relation is None or side.relation.rest is None else f"{side.rest}.{name}"


@dataclass(frozen=True, eq=False)
class Condition(Combined):
    """What holds of a key or does not; where one side is missing it is neither."""

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        return self.sum_up({"matched": len(rows)}, counts)

    def totals(self) -> dict[str, str]:
        return {"matched": "count(*)"}

    def sum_up(self, totals: Totals, counts: Counts) -> Summary:
        return {"images": counts.images, "compared": counts.compared, "matched": totals["matched"]}

    def headline(self, summary: Summary) -> str:
        compared, matched = summary["compared"], summary["matched"]
        known = f"of {count(compared, unit(self.keys))} for which it can be said"
        return f"{self.node}: holds for {matched:,} {known}, in a corpus of {count(summary['images'], 'image')}"


class Compared(Condition):
    """a < b < c"""

    def relation(self, compiler: Compiler) -> Relation:
        joined = self.joined(compiler)
        columns, said = _values(joined), joined.free(HOLDS)
        holds = self._holds(joined, [side.bounds(joined.column, never_is_last=True) for side in joined.sides])
        shown = [*joined.key_columns, *(f"{value} AS {name}" for name, value in columns.items()), f"{holds} AS {said}"]
        sql = f"SELECT {', '.join(shown)}\nFROM {joined.source}"
        elsewhere = self._holds(joined, [side.bounds(of_rest) for side in joined.sides])
        rest = joined.rest_of(f"{elsewhere} AS {HOLDS}")
        return Relation(sql, joined.keys, (*columns, said), None, _order(columns), said, rest=rest)

    def _holds(self, joined: Joined, values: list[Bounds]) -> str:
        """A chain is neither true nor false where something in it is missing, also where the rest of it is false."""
        assert isinstance(self.node, Comparison)
        pairs = zip(self.node.operators, values, values[1:], strict=False)
        holds = " AND ".join(compared(operator, a, b) for operator, a, b in pairs)
        if len(values) == 2:
            return holds
        known = [f"{value.low} IS NOT NULL" for value, side in zip(values, joined.sides, strict=True) if side.relation]
        return f"CASE WHEN {' AND '.join(known)} THEN {holds} END"


class Connected(Condition):
    """a and b; a or b; not a. What is missing on one side is unknown, as SQL has it."""

    def relation(self, compiler: Compiler) -> Relation:
        joined = self.joined(compiler, keep_all=True)
        names: dict[str, str] = {}
        for side, relation in joined.tables:
            for column in relation.columns:
                if column != relation.holds:
                    base = column.rpartition("_")[0] or column
                    names[free_name(f"{base}_{len(names) + 1}", [*joined.keys, *names])] = f"{side.name}.{column}"
        holds = self._holds([joined.column(side, str(relation.holds)) for side, relation in joined.tables])
        said = joined.free(HOLDS)
        shown = [*joined.key_columns, *(f"{sql} AS {name}" for name, sql in names.items()), f"({holds}) AS {said}"]
        sql = f"SELECT {', '.join(shown)}\nFROM {joined.source}"
        elsewhere = self._holds([of_rest(side, HOLDS) for side in joined.sides])
        rest = joined.rest_of(f"({elsewhere}) AS {HOLDS}")
        return Relation(sql, joined.keys, (*names, said), None, _order(names), said, rest=rest)

    def _holds(self, parts: list[str]) -> str:
        return f"NOT {parts[0]}" if isinstance(self.node, Not) else f" {_operator(self.node).upper()} ".join(parts)


class Calculated(Combined):
    """a - b: where both sides are there."""

    @property
    def column(self) -> str:
        """The answer's column that holds the result: another one if a key has its name."""
        return free_name("value", self.tables[0].keys)

    def relation(self, compiler: Compiler) -> Relation:
        joined = self.joined(compiler)
        between = self._value([side.bounds(joined.column) for side in joined.sides])
        value = self._value([side.stored() for side in joined.sides]).low
        columns = _values(joined)
        bounds = {} if between.known else {LOW: between.low, HIGH: between.high}
        found = {self.column: value, **bounds, **columns}
        shown = [*joined.key_columns, *(f"{sql} AS {name}" for name, sql in found.items())]
        sql = f"SELECT {', '.join(shown)}\nFROM {joined.source}"
        if not bounds:
            sql = f"SELECT * FROM (\n  {indented(sql)}\n) WHERE {self.column} IS NOT NULL"
        elsewhere = self._value([side.bounds(of_rest) for side in joined.sides])
        rest = joined.rest_of(f"{elsewhere.low} AS {LOW}, {elsewhere.high} AS {HIGH}")
        order = (f"answer.{self.column}",)
        return Relation(sql, joined.keys, (*found,), self.column, order, bounded=bool(bounds), rest=rest)

    def _value(self, sides: list[Bounds]) -> Bounds:
        assert isinstance(self.node, Arithmetic)
        return calculated(self.node.operator, *sides)

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        values = [row[self.column] for row in rows if row[self.column] is not None]
        found = {
            "matched": len(values),
            "min": min(values, default=None),
            "median": float(median(values)) if values else None,
            "max": max(values, default=None),
        }
        return self.sum_up(found, counts)

    def totals(self) -> dict[str, str]:
        column = self.column
        return {"matched": f"count({column})"} | {name: f"{name}({column})" for name in ("min", "median", "max")}

    def sum_up(self, totals: Totals, counts: Counts) -> Summary:
        return {"images": counts.images, **{name: totals[name] for name in ("matched", "min", "median", "max")}}

    def headline(self, summary: Summary) -> str:
        if not summary["matched"]:
            return f"{self.node}: can be said of none of {count(summary['images'], 'image')}"
        if not self.keys:
            return f"{self.node}: {figure(summary['median'])}, in a corpus of {count(summary['images'], 'image')}"
        least, middle, most = (figure(summary[name]) for name in ("min", "median", "max"))
        rows, images = count(summary["matched"], unit(self.keys)), count(summary["images"], "image")
        known = f"can be said of {rows} in a corpus of {images}"
        return f"{self.node}: {known}; median {middle}, from {least} to {most}"


def _values(joined: Joined) -> dict[str, str]:
    """The tables' values by the names of their columns."""
    return {
        joined.free(f"{relation.value}_{n}"): f"{side.name}.{relation.value}"
        for n, (side, relation) in enumerate(joined.tables, 1)
    }


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
                raise scope.error(IN, node)
            combined = Compared(node, operands)
        case Logic() | Not():
            combined = Connected(node, operands)
        case Arithmetic():
            combined = Calculated(node, operands)
    parts = [
        (part, operand) for part, operand in zip(_operands(node), operands, strict=True) if isinstance(operand, Table)
    ]
    if not parts:
        raise scope.error(NOTHING_ASKED, node)
    for part, operand in parts:
        if operand.split is not None:
            raise scope.error(AGAINST, part, condition=operand.split.condition.node)
        _check_kind(part, operand, combined, scope)
        first, expected = parts[0]
        if {*operand.keys} != {*expected.keys}:
            keys = {"expected": each(expected.keys), "found": each(operand.keys)}
            raise scope.error(KEYS, part, first=first, **keys)
        _check_types(part, operand, parts[0], scope)
    _check_masks(parts, scope)
    return combined


def _check_masks(parts: list[tuple[Node, Table]], scope: Scope) -> None:
    """Raises BadArgument if what is known of cells without rows is of these patches in one table, of those in another.

    Where it is of all patches in one of them, it is of other patches, too.
    """
    compiler = Compiler()  # one for all: to it, equal patches are one mask
    rests = [(part, rest) for part, table in parts if (rest := table.relation(compiler).rest) is not None]
    for part, rest in rests:
        if rest.mask != rests[0][1].mask:
            raise scope.error(OTHER_PATCHES, part, first=rests[0][0])


def _check_types(part: Node, operand: Table, first: tuple[Node, Table], scope: Scope) -> None:
    """Raises BadArgument if two tables have keys of one name and of different kinds."""
    expected, found = (key_kinds(table, scope) for table in (first[1], operand))
    for key in expected:
        if expected[key] != found[key]:
            raise scope.error(KEY_KINDS, part, key=key, expected=expected[key], first=first[0], found=found[key])


def key_kinds(table: Table, scope: Scope) -> dict[str, str]:
    """The kinds of a table's keys; of none if they are the same in every table."""
    if not {*table.keys} - PLACES:
        return {}
    types = column_types(table, scope)
    return {key: Column("", types[key]).kind or types[key] for key in table.keys}


def _check_kind(part: Node, operand: Table, combined: Combined, scope: Scope) -> None:
    if isinstance(combined, Connected) and not operand.shape.holds:
        raise scope.error(NOT_TRUE, part)
    if not isinstance(combined, Connected) and operand.shape.value is None:
        raise scope.error(NO_VALUE, part)


def _operands(node: Comparison | Logic | Not | Arithmetic) -> tuple[Node, ...]:
    match node:
        case Comparison(operands=operands) | Logic(operands=operands):
            return operands
        case Not(operand=operand):
            return (operand,)
        case Arithmetic(left=left, right=right):
            return (left, right)
