"""What a query is made of: frozen, lazy values that know nothing of SQL, of a cache, or of which functions there are.

Text and Python build the same nodes, and `str(node)` is the text of an equal node. In Python the operators build nodes
too: `first_layer("ear") < first_layer("dog")`, `(layer < 20) & (col("label") == "beach")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from keyword import iskeyword
from typing import Any, NoReturn, Protocol
from unicodedata import normalize

from vlq.query.mistakes.elsewhere import COLUMN, HALF_TEXT, NO_IN, NO_TRUTH, NUMBER, TYPE

Scalar = str | int | float | bool | None

INTEGERS = range(-(2**63), 2**63)
"""Whole numbers that a query may hold: what a database holds."""

PLAIN = ("tolist", "to_list", "to_pylist", "as_py")
"""What makes Python's own values of arrays, columns and their items: NumPy's and pandas', polars', Arrow's."""


class Array(Protocol):
    """An array, a column or an item of one, of NumPy and pandas; an array of Arrow."""

    def tolist(self) -> Any:
        """Python's own values."""


class Series(Protocol):
    """A column of polars."""

    def to_list(self) -> Any:
        """Python's own values."""


class Chunked(Protocol):
    """A column of an Arrow table."""

    def to_pylist(self) -> Any:
        """Python's own values."""


Values = Array | Series | Chunked


@dataclass(frozen=True, eq=False)
class Node:
    """Part of a query. `span` is where it stands in the text it came from; it does not make nodes differ.

    `==` compares in the language, so structural equality is `equals`; a node has no truth value, so that `and`, `in`
    and chained comparison cannot give a wrong answer silently.
    """

    span: tuple[int, int] | None = field(default=None, kw_only=True, repr=False)

    def equals(self, other: object) -> bool:
        """Whether the other one is the same query, wherever its parts stood in a text."""
        return type(other) is type(self) and str(other) == str(self)

    def __bool__(self) -> NoReturn:
        raise NO_TRUTH.error(got=self)

    def __contains__(self, value: object) -> NoReturn:
        raise NO_IN.error(got=self, value=value)

    def __lt__(self, other: object) -> Comparison:
        return _compare(self, "<", other)

    def __le__(self, other: object) -> Comparison:
        return _compare(self, "<=", other)

    def __gt__(self, other: object) -> Comparison:
        return _compare(self, ">", other)

    def __ge__(self, other: object) -> Comparison:
        return _compare(self, ">=", other)

    def __eq__(self, other: object) -> Comparison:  # type: ignore[override]
        return _compare(self, "==", other)

    def __ne__(self, other: object) -> Comparison:  # type: ignore[override]
        return _compare(self, "!=", other)

    __hash__ = object.__hash__

    def __and__(self, other: object) -> Logic:
        return logic("and", self, node_of(other))

    def __or__(self, other: object) -> Logic:
        return logic("or", self, node_of(other))

    def __invert__(self) -> Not:
        return Not(self)

    def __add__(self, other: object) -> Arithmetic:
        return Arithmetic("+", self, node_of(other))

    def __sub__(self, other: object) -> Arithmetic:
        return Arithmetic("-", self, node_of(other))

    def __mul__(self, other: object) -> Arithmetic:
        return Arithmetic("*", self, node_of(other))

    def __truediv__(self, other: object) -> Arithmetic:
        return Arithmetic("/", self, node_of(other))

    def __radd__(self, other: object) -> Arithmetic:
        return Arithmetic("+", node_of(other), self)

    def __rsub__(self, other: object) -> Arithmetic:
        return Arithmetic("-", node_of(other), self)

    def __rmul__(self, other: object) -> Arithmetic:
        return Arithmetic("*", node_of(other), self)

    def __rtruediv__(self, other: object) -> Arithmetic:
        return Arithmetic("/", node_of(other), self)

    def where(self, condition: object) -> Method:
        """The rows for which a condition on their columns, or on the image's own, holds."""
        return Method(self, "where", (("condition", node_of(condition)),), 1)

    def sort(self, by: object, descending: bool = False) -> Method:
        """The rows in another order: by a column, or a list of columns."""
        way = (("descending", Literal(True)),) if descending else ()
        return Method(self, "sort", (("by", node_of(by)), *way), 1)

    def limit(self, count: int) -> Method:
        """The first rows."""
        return Method(self, "limit", (("count", node_of(count)),), 1)

    def select(self, columns: object) -> Method:
        """Only some columns, the table's or the image's own."""
        return Method(self, "select", (("columns", node_of(columns)),), 1)

    def sample(self, count: int, seed: int = 0) -> Method:
        """Some rows, chosen at random: the same ones for the same seed."""
        chosen = (("seed", node_of(seed)),) if seed else ()
        return Method(self, "sample", (("count", node_of(count)), *chosen), 1)

    def group(self, by: object) -> Method:
        """Rows with equal values taken together; behind it stands what is wanted of each group."""
        return Method(self, "group", (("by", node_of(by)),), 1)

    def count(self) -> Method:
        """How many rows there are, in each group or in all."""
        return Method(self, "count", ())

    def mean(self, column: object = None) -> Method:
        """The mean of the rows' numbers, in each group or in all; of a condition the share for which it holds."""
        return _of_column(self, "mean", column)

    def median(self, column: object = None) -> Method:
        """The median of the rows' numbers, in each group or in all."""
        return _of_column(self, "median", column)

    def min(self, column: object = None) -> Method:
        """The least of the rows' numbers, in each group or in all."""
        return _of_column(self, "min", column)

    def max(self, column: object = None) -> Method:
        """The greatest of the rows' numbers, in each group or in all."""
        return _of_column(self, "max", column)

    def histogram(self, column: object = None, *, bins: int = 20) -> Method:
        """How many rows there are for each layer, or in each bin of another number."""
        chosen = (("bins", node_of(bins)),) if bins != 20 else ()
        return _of_column(self, "histogram", column, *chosen)


@dataclass(frozen=True, eq=False)
class Literal(Node):
    """A text, a number, a truth value or None."""

    value: Scalar

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, eq=False)
class Sequence(Node):
    """A tuple (an inclusive window, where it stands for layers) or a list (a set)."""

    items: tuple[Node, ...]
    is_list: bool

    def __str__(self) -> str:
        inner = ", ".join(str(item) for item in self.items)
        if self.is_list:
            return f"[{inner}]"
        return f"({inner},)" if len(self.items) == 1 else f"({inner})"


@dataclass(frozen=True, eq=False)
class Name(Node):
    """A column. One whose name is no word of Python's is written col('my column')."""

    name: str

    def isin(self, values: object) -> Comparison:
        """The condition that the column's value is one of a list, or a set: `label in ['beach', 'snow']`."""
        listed = sorted(values, key=repr) if isinstance(values, set | frozenset) else values
        return Comparison((self, node_of(listed)), ("in",))

    def contains(self, value: object) -> Comparison:
        """The condition that a list, a text or the labels of `objects` hold a value: `'dog' in objects`."""
        return Comparison((node_of(value), self), ("in",))

    def __str__(self) -> str:
        return self.name if is_word(self.name) else f"col({self.name!r})"


def is_word(name: str) -> bool:
    """Whether a name can stand in a query as it is: Python reads it as this name."""
    return name.isidentifier() and not iskeyword(name) and normalize("NFKC", name) == name


@dataclass(frozen=True, eq=False)
class Call(Node):
    """A function with its arguments by name, in the order of its signature, those equal to their defaults left out.

    The first `positional` of them are written without their names. Built by `registry.call`, which sees to that.
    """

    function: str
    arguments: tuple[tuple[str, Node], ...]
    positional: int = 0

    def get(self, name: str) -> Node | None:
        """The argument's node; None if it was left out."""
        return dict(self.arguments).get(name)

    def __str__(self) -> str:
        return f"{self.function}({_written(self.arguments, self.positional)})"


@dataclass(frozen=True, eq=False)
class Method(Node):
    """What is done with the rows of a table: `table.where(...)`. Arguments as in a `Call`."""

    table: Node
    method: str
    arguments: tuple[tuple[str, Node], ...]
    positional: int = 0

    def get(self, name: str) -> Node | None:
        """The argument's node; None if it was left out."""
        return dict(self.arguments).get(name)

    def __str__(self) -> str:
        table = _inner(self.table, Literal, Comparison, Logic, Not, Arithmetic)
        return f"{table}.{self.method}({_written(self.arguments, self.positional)})"


@dataclass(frozen=True, eq=False)
class Comparison(Node):
    """Operands with comparisons between them, each to be true: a < b <= c. Operators are Python's, `in` among them."""

    operands: tuple[Node, ...]
    operators: tuple[str, ...]

    def __str__(self) -> str:
        first, *others = (_inner(node, Comparison, Logic, Not) for node in self.operands)
        return first + "".join(f" {operator} {text}" for operator, text in zip(self.operators, others, strict=True))


@dataclass(frozen=True, eq=False)
class Logic(Node):
    """Conditions joined by `and` or by `or`."""

    operator: str
    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return f" {self.operator} ".join(_inner(node, Logic) for node in self.operands)


@dataclass(frozen=True, eq=False)
class Not(Node):
    """The opposite of a condition."""

    operand: Node

    def __str__(self) -> str:
        return f"not {_inner(self.operand, Logic)}"


@dataclass(frozen=True, eq=False)
class Arithmetic(Node):
    """Two operands with +, -, * or / between them."""

    operator: str
    left: Node
    right: Node

    def __str__(self) -> str:
        left, right = (_inner(node, Comparison, Logic, Not, Arithmetic) for node in (self.left, self.right))
        return f"{left} {self.operator} {right}"


def _written(arguments: tuple[tuple[str, Node], ...], positional: int) -> str:
    return ", ".join(str(node) if i < positional else f"{name}={node}" for i, (name, node) in enumerate(arguments))


def _inner(node: Node, *loose: type[Node]) -> str:
    """The node's text inside of an expression: in parentheses if it is of a kind that binds less than that."""
    return f"({node})" if isinstance(node, loose) else str(node)


def _of_column(table: Node, method: str, column: object, *more: tuple[str, Node]) -> Method:
    given = () if column is None else (("column", node_of(column)),)
    return Method(table, method, (*given, *more), len(given))


def _compare(left: Node, operator: str, right: object) -> Comparison:
    return Comparison((left, node_of(right)), (operator,))


def logic(operator: str, *operands: Node) -> Logic:
    """Operands joined by `and` or `or`; what is joined by the same one already is joined on."""
    flat: list[Node] = []
    for node in operands:
        flat += node.operands if isinstance(node, Logic) and node.operator == operator else (node,)
    return Logic(operator, tuple(flat))


def walk(node: Node) -> Iterator[Node]:
    """The node, and all that it is made of, from left to right."""
    yield node
    parts: tuple[Node, ...] = ()
    match node:
        case Sequence(items=items):
            parts = items
        case Call(arguments=arguments):
            parts = tuple(argument for _, argument in arguments)
        case Method(table=table, arguments=arguments):
            parts = (table, *(argument for _, argument in arguments))
        case Comparison(operands=operands) | Logic(operands=operands):
            parts = operands
        case Not(operand=operand):
            parts = (operand,)
        case Arithmetic(left=left, right=right):
            parts = (left, right)
    for part in parts:
        yield from walk(part)


def col(name: str) -> Name:
    """A column by its name, for conditions built in Python: `col("label") == "beach"`, `col("label").isin(["beach",
    "snow"])`, `col("objects").contains("dog")`. Raises BadArgument."""
    if not isinstance(name, str):
        raise COLUMN.error(got=name)
    return Name(name)


def node_of(value: object) -> Node:
    """A Python value as a node, a date as the text that stands for it, an answer as its question; nodes as they are.

    Raises BadArgument for what a query cannot hold.
    """
    match value:
        case Node():
            return value
        case str() if value != value.encode(errors="replace").decode():
            raise HALF_TEXT.error(got=value)
        case str():
            return Literal(str.__str__(value))  # of NumPy's texts and of enumerations, too, which are written otherwise
        case bool() | None:
            return Literal(value)
        case int() if int(value) in INTEGERS:  # an enumeration's number would be sought among them one by one
            return Literal(int(value))
        case float() if math.isfinite(value):
            return Literal(float(value))
        case int() | float():
            raise NUMBER.error(got=value)
        case datetime():
            return Literal(value.isoformat(" "))
        case date():
            return Literal(value.isoformat())
        case tuple() | list():
            return Sequence(tuple(node_of(item) for item in value), isinstance(value, list))
        case range():
            return node_of(list(value))
    if isinstance(question := getattr(value, "node", None), Node):
        return question
    for method in PLAIN:
        if hasattr(value, method) and type(plain := getattr(value, method)()) is not type(value):
            return node_of(plain)
    raise TYPE.error(got=type(value).__name__)
