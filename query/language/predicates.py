"""Conditions on columns: `label == 'beach' and layer <= 20`, `'dog' in objects`; on images also comparisons of answers
that have a row for each: `first_layer('ear') < first_layer('dog')`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vlq.query.language.bounds import SQL_OPERATORS, known_number
from vlq.query.language.compile import Compiler, quoted
from vlq.query.language.nodes import (
    Arithmetic,
    Call,
    Comparison,
    Literal,
    Logic,
    Method,
    Name,
    Node,
    Not,
    Sequence,
    is_word,
)
from vlq.query.language.registry import functions
from vlq.query.mistakes.conditions import (
    KINDS,
    NO_COLUMN,
    NO_COLUMN_OF_ROWS,
    NO_CONDITION,
    NO_ITEMS,
    NO_NAME,
    NO_NUMBER,
    NO_ORDER,
    NO_VALUE,
    NOT_BY_IMAGE,
)
from vlq.query.schema import PUBLIC_URI
from vlq.query.summary import each

if TYPE_CHECKING:
    from vlq.query.language.bind import Scope, Table
    from vlq.query.language.tokens import TokenSet


@dataclass(frozen=True)
class Column:
    """A column that a condition can name: its SQL and its DuckDB type."""

    sql: str
    type: str

    @property
    def kind(self) -> str | None:
        """text, number, truth, date, list (of what `in` can look for), list of structs, struct; None if it is rarer."""
        if self.type.endswith("[]"):
            return "list" if not self.type.startswith("STRUCT(") or self._is_labelled else "list of structs"
        head = self.type.partition("(")[0]
        if head in ("STRUCT", "MAP", "UNION"):
            return "struct"
        if head == "DATE" or (head.startswith("TIMESTAMP") and head != "TIMESTAMP WITH TIME ZONE"):
            return "date"
        if head == "VARCHAR":
            return "text"
        if head == "BOOLEAN":
            return "truth"
        return "number" if self.is_whole or head in ("FLOAT", "DOUBLE", "DECIMAL") else None

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return self.type.endswith(("INT", "INTEGER"))

    @property
    def signed(self) -> str:
        """Its SQL in a calculation: DuckDB's unsigned numbers go no lower than 0."""
        kind = {"UTINYINT": "BIGINT", "USMALLINT": "BIGINT", "UINTEGER": "BIGINT", "UBIGINT": "HUGEINT"}.get(self.type)
        return self.sql if kind is None else f"{self.sql}::{kind}"

    @property
    def is_nested(self) -> bool:
        """Whether it holds several values in one."""
        return self.type.startswith(("STRUCT(", "MAP(", "UNION(")) or self.type.endswith("]")

    @property
    def _is_labelled(self) -> bool:
        return "label VARCHAR" in self.type.replace('"', "")

    @property
    def items(self) -> Column:
        """Of a list, the list of what `in` looks for: of structs with a label, such as `objects`, their labels.

        Of numbers those that are there: NaN is missing, as null is.
        """
        if self.type in ("FLOAT[]", "DOUBLE[]"):
            return Column(f"list_filter({self.sql}, lambda item: isfinite(item) OR isinf(item))", self.type)
        if not self.type.startswith("STRUCT("):
            return self
        return Column(f"list_transform({self.sql}, lambda item: item.label)", "VARCHAR[]")

    @property
    def held_against(self) -> str | None:
        """The kind of what it can be held against, of a rarer one its type; None if it holds nothing at all."""
        return self.kind or (None if self.type == '"NULL"' else self.type.lower())

    @property
    def item_kind(self) -> str | None:
        """The kind of what `in` looks for in a list."""
        return Column(self.sql, self.items.type.removesuffix("[]")).held_against


@dataclass(frozen=True, eq=False)
class Predicate:
    """A condition whose every name is one of `columns`."""

    node: Node
    columns: Mapping[str, Column]
    scope: Scope
    answers: tuple[tuple[Node, Table], ...] = ()  # comparisons of answers in it, which have a row for each image

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        """The tokens that its answers are of."""
        return tuple(tokens for _, table in self.answers for tokens in table.token_sets)

    def notes(self) -> list[str]:
        """What its answers cannot know."""
        return [note for _, table in self.answers for note in table.notes()]

    def sql(self, compiler: Compiler) -> str:
        """The condition in SQL. Raises UnknownName, BadArgument."""
        return self._condition(self.node, compiler)

    def restriction(self, compiler: Compiler) -> str:
        """The condition that `image` is the number of an image for which this holds, of one of the image table."""
        return f"image IN (SELECT image_id FROM {compiler.table('images')} AS images WHERE {self.sql(compiler)})"

    def _condition(self, node: Node, compiler: Compiler) -> str:
        match node:
            case Logic(operator=operator, operands=operands):
                return f" {operator.upper()} ".join(f"({self._condition(part, compiler)})" for part in operands)
            case Not(operand=operand):
                return f"NOT ({self._condition(operand, compiler)})"
            case Comparison() if table := next((table for own, table in self.answers if own is node), None):
                return _holds(table, compiler)
            case Comparison(operands=operands, operators=operators):
                pairs = zip(operators, operands, operands[1:], strict=False)
                return " AND ".join(self._comparison(operator, a, b, compiler) for operator, a, b in pairs)
            case Name() if (column := self._column(node)).kind == "truth":
                return column.sql
        near = None
        if isinstance(node, Sequence) and node.is_list and node.items:
            near = f"image in {node}"
        elif isinstance(node, Literal) and isinstance(node.value, str):
            near = self._condition_of(node, node.value)
        elif isinstance(node, Call | Method) and is_asked(node):
            near = f"{node} >= 0"
        if not self.scope.spans_are_places:  # in Python a column's name by itself means nothing
            if near is not None:
                near = f'vlq.parse("{near}")'
            elif isinstance(node, Literal) and isinstance(node.value, bool):
                near = "vlq.col('label') == 'beach'"
        raise self.scope.error(NO_CONDITION, node, near=near)

    def _condition_of(self, node: Node, text: str) -> str:
        """What a text that stands for a condition was probably meant as."""
        if re.search(r"[<>=]| in ", text):
            return text
        chosen = [f"{node} in {name}" for name, column in self.columns.items() if name == "objects" and column.kind]
        chosen += [f"{name} == {node}" for name in ("label", "class", "category") if name in self.columns]
        return " or ".join(chosen) if chosen and "." not in text else f"image == {node}"

    def _comparison(self, operator: str, left: Node, right: Node, compiler: Compiler) -> str:
        if isinstance(left, Literal) and isinstance(right, Literal | Sequence):
            near = None
            if (name := self._as_name(left)) is not None:
                near = f"{name} {operator} {right}"
            elif (name := self._as_name(right)) is not None:
                near = f"{left} {operator} {name}"
            raise self.scope.error(NO_NAME, left, left=left, operator=operator, right=right, near=near)
        if operator in ("in", "not in"):
            found = self._membership(left, right, compiler)
            return found if operator == "in" else f"NOT ({found})"
        for side in (left, right):
            if isinstance(side, Literal) and side.value is None:
                other = self._value(right if side is left else left, compiler)
                if operator in ("==", "!="):
                    return f"{other} IS {'NOT ' if operator == '!=' else ''}NULL"
                raise self.scope.error(NO_ORDER, side)
        if isinstance(right, Sequence) and operator in ("==", "!="):
            near = f"{left} {'not ' if operator == '!=' else ''}in {right}"
            if self._kind(left) == "list":
                near = " and ".join(f"{item} in {left}" for item in right.items)
            raise self.scope.error(NO_VALUE, right, near=near)
        self._check(left, operator, right, self._kind(right))
        return f"{self._value(left, compiler)} {SQL_OPERATORS[operator]} {self._value(right, compiler)}"

    def _membership(self, left: Node, right: Node, compiler: Compiler) -> str:
        if isinstance(right, Sequence):
            items = [item for item in right.items if not (isinstance(item, Literal) and item.value is None)]
            for item in items:
                self._check(left, "==", item, self._kind(item))
            value = self._value(left, compiler)
            found = f"{value} IN ({', '.join(self._value(item, compiler) for item in items)})" if items else "false"
            # As with == None, what is empty is known to be None.
            return found if len(items) == len(right.items) else f"({value} IS NULL OR {found})"
        if isinstance(right, Name):
            column = self._column(right)
            if isinstance(left, Sequence) and left.items and column.kind in ("text", "list"):
                raise self.scope.error(NO_VALUE, left, near=" or ".join(f"{item} in {right}" for item in left.items))
            value = self._value(left, compiler)
            if column.kind == "text":
                self._check(left, "in", right, "text")
                return f"contains({column.sql}, {value})"
            if column.kind == "list":
                self._check(left, "in", right, column.item_kind)
                return f"list_contains({column.items.sql}, {value})"
        near = f"{left} in [{right}]" if isinstance(right, Literal) else None
        raise self.scope.error(NO_ITEMS, right, near=near)

    def _check(self, left: Node, operator: str, right: Node, kind: str | None) -> None:
        """Raises BadArgument if the left side is of another kind than what it is held against."""
        found = self._kind(left)
        other = self._type(right) or ""
        if (
            found == kind
            and found in NESTED
            and self._type(left) != other.removesuffix("[]" if operator == "in" else "")
        ):
            kind = f"{kind} of other {NESTED[found]}"
        if found is not None and kind is not None and found != kind:
            where = next((side for side in (right, left) if not isinstance(side, Name)), left)
            against = found if where is right else kind  # what it is held against
            if isinstance(where, Literal) and is_written(where.value, against, *map(self._type, (left, right))):
                return
            is_item = operator == "==" and found == "list" != self._kind(right)
            near = f"{right} in {left}" if is_item else None
            if (meant := self._meant(where, against)) is not None:
                near = f"{left} {operator} {meant}" if where is right else f"{meant} {operator} {right}"
            sides = {"left": left, "operator": operator, "right": right}
            raise self.scope.error(KINDS, where, **sides, found=found, expected=kind, near=near)

    def _meant(self, node: Node, kind: str) -> str | None:
        """What probably was meant by something that is held against values of a kind; None if it cannot be told."""
        if kind in WRITTEN and not isinstance(node, Name):
            return WRITTEN[kind]
        if not isinstance(node, Literal):
            return None
        if kind == "truth":
            return "False" if node.value in (0, "0", "no", "false", "False") else "True"
        if kind == "number" and isinstance(node.value, str) and NUMBER.fullmatch(node.value):
            return node.value
        return self._as_name(node)

    def _as_name(self, node: Node) -> str | None:
        """The column that a text names; None if it is none's name."""
        name = node.value if isinstance(node, Literal) else None
        return str(Name(name)) if isinstance(name, str) and name in self.columns else None

    def _value(self, node: Node, compiler: Compiler) -> str:
        match node:
            case Name():
                return self._column(node).sql
            case Literal(value=value):
                return compiler.value("value", value)
            case Arithmetic(operator=operator, left=left, right=right):
                for side in (left, right):
                    if self._kind(side) not in ("number", None):
                        raise self.scope.error(NO_NUMBER, side)
                a, b = (
                    self._column(side).signed if isinstance(side, Name) else self._value(side, compiler)
                    for side in (left, right)
                )
                return f"({known_number(operator, a, b)})"
        raise self.scope.error(NO_VALUE, node)

    def _kind(self, node: Node) -> str | None:
        match node:
            case Literal(value=bool()):
                return "truth"
            case Literal(value=int() | float()) | Arithmetic():
                return "number"
            case Literal(value=str()):
                return "text"
            case Name():
                return self._column(node).held_against
        return None

    def _type(self, node: Node) -> str | None:
        return self._column(node).type if isinstance(node, Name) else None

    def _column(self, node: Name) -> Column:
        return find_column(node.name, self.columns, node, self.scope)


def _holds(table: Table, compiler: Compiler) -> str:
    """SQL of whether a comparison holds for the image of `images`: null where that cannot be said."""
    relation = table.relation(compiler)
    part = compiler.part("fits", f"SELECT image, {relation.holds} AS fits\nFROM {relation.part()}")
    return f"(SELECT {part}.fits FROM {part} WHERE {part}.image = images.image_id)"


def of_images(node: Node, scope: Scope) -> Predicate:
    """A condition on images: on their columns, and on answers that have a row for each. Raises QueryError."""
    from vlq.query.language.bind import bind

    answers = []
    for comparison in _comparisons(node):
        table = bind(comparison, scope)
        if table.keys != ("image",):
            raise scope.error(NOT_BY_IMAGE, comparison, keys=each(table.keys))
        answers.append((comparison, table))
    return Predicate(node, image_columns(scope), scope, tuple(answers))


def _comparisons(node: Node) -> Iterator[Comparison]:
    """Those in a condition that compare answers."""
    match node:
        case Logic(operands=operands):
            for operand in operands:
                yield from _comparisons(operand)
        case Not(operand=operand):
            yield from _comparisons(operand)
        case Comparison(operands=operands, operators=operators):
            if not {"in", "not in"} & {*operators} and any(map(is_asked, operands)):
                yield node


def is_asked(node: Node) -> bool:
    """Whether it is an answer, or a condition on some, and not a column, a value or a condition on these."""
    match node:
        case Call(function=name):
            return functions()[name].is_table
        case Arithmetic(left=left, right=right):
            return is_asked(left) or is_asked(right)
        case Comparison(operands=operands) | Logic(operands=operands):
            return any(map(is_asked, operands))
        case Not(operand=operand):
            return is_asked(operand)
    return isinstance(node, Method)


NESTED = {"struct": "fields", "list": "items", "list of structs": "fields"}
"""Kinds that are compared only where what they are of is the same."""

NUMBER = re.compile(r"-?\d+(\.\d+)?")

DAY, TIME = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
TEXTS = {
    "date": rf"{DAY}(?P<time>[ T]{TIME})?",
    "time": TIME,
    "timestamp with time zone": rf"{DAY}([ T]{TIME}(Z|[+-]\d\d(:\d\d)?)?)?",
}
WRITTEN = {
    "date": "'2024-01-31'",
    "time": "'10:30:00'",
    "timestamp with time zone": "'2024-01-31 10:30:00+00:00'",
}
"""Kinds whose values are written as texts, and how."""


def is_written(value: object, kind: str, *types: str | None) -> bool:
    """Whether DuckDB reads a text as one of these; as a date with a time where none of the columns' types is DATE."""
    match = re.fullmatch(TEXTS[kind], value) if kind in TEXTS and isinstance(value, str) else None
    if match is None or ("DATE" in types and match["time"]):
        return False
    try:
        (time if kind == "time" else datetime).fromisoformat(match[0])
    except ValueError:
        return False
    return True


OF_ROWS = ("layer", "patch", "logprob")
"""Columns that many answers have, and images have not."""


WORDS = {"null": "None", "none": "None", "nan": "None", "true": "True", "false": "False"}
"""What other languages call the values that have names."""


def find_column(name: str, columns: Mapping[str, Column], node: Node, scope: Scope) -> Column:
    """The column of that name. Raises UnknownName with the nearest one."""
    if name in columns:
        return columns[name]
    near = [WORDS[name.lower()]] if name.lower() in WORDS else []
    near = near or [str(Name(other)) for other in get_close_matches(name, columns, 1)]
    if name in OF_ROWS and not any(other.startswith(name) for other in near):  # patches are near to a patch
        raise scope.error(NO_COLUMN_OF_ROWS, node, name=name)
    known = ", ".join(str(Name(other)) for other in columns)
    quoted = f" A text is quoted: '{name}'" if isinstance(node, Name) and is_word(name) else ""
    raise scope.error(NO_COLUMN, node, name=name, near=", ".join(near), known=known, quoted=quoted)


def _of_images(name: str, type: str) -> str:
    """The SQL of an image column. NaN is how tables write a missing number; to DuckDB it is above all others.

    Where the greatest number of a Parquet file is finite, DuckDB takes it for known that `isnan` holds nowhere there,
    as comparisons with NaN do not.
    """
    sql = f"images.{quoted(name)}"
    return f"CASE WHEN isfinite({sql}) OR isinf({sql}) THEN {sql} END" if type in ("FLOAT", "DOUBLE") else sql


def image_columns(scope: Scope) -> dict[str, Column]:
    """The image table's columns, as `images`."""
    columns = {name: Column(_of_images(name, type), type) for name, type in scope.image_columns().items()}
    if scope.snapshot.cache.is_served:
        columns["uri"] = Column(PUBLIC_URI.format("images.uri"), "VARCHAR")
    return columns


def without(columns: Mapping[str, Column], others: Mapping[str, Column]) -> dict[str, Column]:
    """The columns whose names are not taken by others."""
    return {name: column for name, column in columns.items() if name not in others}
