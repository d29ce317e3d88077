"""What a query is made of: frozen, lazy values that know nothing of SQL, of a cache, or of which functions there are.

Text and Python build the same nodes, and `str(node)` is the text of an equal node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

from vlq.query.errors import BadArgument

Scalar = str | int | float | bool | None

INTEGERS = range(-(2**63), 2**63)
"""Whole numbers that a query may hold: what a database holds."""


@dataclass(frozen=True, eq=False)
class Node:
    """Part of a query. `span` is where it stands in the text it came from; it does not make nodes differ.

    `==` is left to the language, so structural equality is `equals`; a node has no truth value, so that `and`, `in`
    and chained comparison cannot give a wrong answer silently.
    """

    span: tuple[int, int] | None = field(default=None, kw_only=True, repr=False)

    def equals(self, other: object) -> bool:
        """Whether the other one is the same query, wherever its parts stood in a text."""
        return type(other) is type(self) and str(other) == str(self)

    def __bool__(self) -> NoReturn:
        raise BadArgument(
            f"{self} has no truth value: it has not been asked yet.", "Ask it of a corpus: corpus.query(...)."
        )


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
    """A bare word."""

    name: str

    def __str__(self) -> str:
        return self.name


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
        written = [
            str(node) if i < self.positional else f"{name}={node}" for i, (name, node) in enumerate(self.arguments)
        ]
        return f"{self.function}({', '.join(written)})"


def node_of(value: object) -> Node:
    """A Python value as a node; nodes as they are. Raises BadArgument for what a query cannot hold."""
    match value:
        case Node():
            return value
        case str() if value != value.encode(errors="replace").decode():
            raise BadArgument(f"{value!r} holds half of a character.")
        case bool() | None | str():
            return Literal(value)
        case int() if value in INTEGERS:
            return Literal(int(value))
        case float() if math.isfinite(value):
            return Literal(float(value))
        case int() | float():
            raise BadArgument("A number in a query is finite and has at most 64 bits.")
        case tuple() | list():
            return Sequence(tuple(node_of(item) for item in value), isinstance(value, list))
    if hasattr(value, "item"):  # NumPy's scalars
        return node_of(value.item())
    raise BadArgument(
        f"A query cannot hold a {type(value).__name__}.", "Texts, numbers, True, False, None, tuples and lists can."
    )
