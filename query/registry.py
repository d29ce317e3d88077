"""What a function of the language is, and how a call is held against its signature.

One entry of `FUNCTIONS` gives a function's parameters, its line of documentation, its example, its SQL and its
sentence. The command line, the documentation, the hints of errors and the Python client read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vlq.query.errors import BadArgument, UnknownName, VlqError
from vlq.query.nodes import Call, Literal, Method, Node, node_of

if TYPE_CHECKING:
    from vlq.query.bind import Bound, Others, Scope, Table
    from vlq.query.compile import Compiler, Relation
    from vlq.query.parameters import Parameter
    from vlq.query.summary import Rows, Summary
    from vlq.query.tokens import TokenSet

Span = tuple[int, int]

REQUIRED = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Signature:
    """What can be called by a name, and with what."""

    name: str
    parameters: tuple[Parameter, ...]
    positional: int  # how many parameters may be given without their names
    documentation: str  # one line
    example: str

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def __str__(self) -> str:
        """As Python would write it: first_layer(token, rank=1, ...)."""
        parts = []
        for parameter in self.parameters:
            default = "" if parameter.default is REQUIRED else f"={parameter.default!r}"
            parts.append(f"{parameter.name}{default}")
        return f"{self.name}({', '.join(parts)})"


@dataclass(frozen=True)
class Function(Signature):
    """One function. One with rows has `compile`, `summarise` and `headline`, or `bind`; a token function `tokens`."""

    check: Callable[[Bound, Scope], None] | None = None  # what no parameter can tell by itself
    compile: Callable[[Bound, Compiler], Relation] | None = None
    summarise: Callable[[Bound, Rows, int], Summary] | None = None  # of the rows and the number of images
    headline: Callable[[Bound, Summary], str] | None = None
    subject: Callable[[Bound], str] | None = None  # what it is about, in words; by default the call itself
    contrast: Callable[[Bound, Summary, Rows, Others], Summary] | None = None  # what `against=` makes of a summary
    shows_others: bool = False  # whether the rows tell of the images that they are held against, too
    notes: Callable[[Bound], list[str]] | None = None  # what the answer cannot know
    patches: Callable[[Bound, Compiler], str] | None = None  # image and positions, where patches are asked for
    bind: Callable[[Call, Scope], Table] | None = None  # makes the table itself
    tokens: Callable[[Call, Scope], TokenSet] | None = None

    @property
    def is_table(self) -> bool:
        """Whether it has rows, and can be asked."""
        return self.tokens is None


@dataclass(frozen=True)
class TableMethod(Signature):
    """One method of tables: `apply` makes the table that it gives."""

    apply: Callable[[Method, Table, Scope], Table]


def functions() -> Mapping[str, Function]:
    """Every function by its name."""
    from vlq.query.functions import FUNCTIONS

    return FUNCTIONS


def methods() -> Mapping[str, TableMethod]:
    """Every method of tables by its name."""
    from vlq.query.methods import METHODS

    return METHODS


Named = Sequence[tuple[str, object, Span | None]]


def call(
    name: str,
    positional: Sequence[object],
    named: Named,
    *,
    query: str | None = None,
    span: Span | None = None,
    at: Span | None = None,
) -> Call:
    """A call held against its function's signature: arguments by name, defaults left out.

    Raises UnknownName if there is no such function, BadArgument with every argument that does not fit.
    """
    function = functions().get(name)
    if function is None:
        near = get_close_matches(name.lower(), list(functions()), 1, cutoff=0.5)
        known = ", ".join(key for key, entry in functions().items() if entry.is_table)
        hint = f"Did you mean {near[0]}?" if near else f"There is {known}."
        raise UnknownName(f"There is no function {name}.", hint, query=query, span=at or span)
    arguments, written = _arguments(function, positional, named, query, span)
    return Call(name, arguments, written, span=span)


def method(
    table: Node,
    name: str,
    positional: Sequence[object],
    named: Named,
    *,
    query: str | None = None,
    span: Span | None = None,
) -> Method:
    """A method of a table held against its signature, as `call` does it."""
    signature = methods().get(name)
    if signature is None:
        near = get_close_matches(name.lower(), list(methods()), 1, cutoff=0.5)
        hint = f"Did you mean .{near[0]}(...)?" if near else f"A table has {', '.join(f'.{key}' for key in methods())}."
        raise UnknownName(f"There is no method {name}.", hint, query=query, span=span)
    arguments, written = _arguments(signature, positional, named, query, span)
    return Method(table, name, arguments, written, span=span)


def _arguments(
    signature: Signature, positional: Sequence[object], named: Named, query: str | None, span: Span | None
) -> tuple[tuple[tuple[str, Node], ...], int]:
    """The arguments in the signature's order without those that equal their defaults; how many go without a name."""
    given: dict[str, Node] = {}
    wrong: list[tuple[str, Span | None]] = []
    for i, value in enumerate(positional):
        node = node_of(value)
        if i < signature.positional:
            given[signature.parameters[i].name] = node
        elif i < len(signature.parameters):
            wrong.append((f"{node} has no name; is it {signature.parameters[i].name}={node}?", node.span))
        else:
            wrong.append((f"{node} is one argument too many.", node.span))
    for key, value, place in named:
        if signature.parameter(key) is None:
            near = get_close_matches(key, [parameter.name for parameter in signature.parameters], 1, cutoff=0.5)
            mean = f"; did you mean {near[0]}?" if near else "."
            wrong.append((f"{key} is no argument of {signature.name}{mean}", place))
        elif key in given:
            wrong.append((f"{key} is given twice.", place))
        else:
            given[key] = node_of(value)
    wrong += [
        (f"{parameter.name} is missing.", span)
        for parameter in signature.parameters
        if parameter.default is REQUIRED and parameter.name not in given and not wrong
    ]
    if wrong:
        messages, places = zip(*wrong, strict=True)
        kind: type[VlqError] = UnknownName if all("is no argument" in message for message in messages) else BadArgument
        raise kind("\n".join(messages), f"Expected: {signature}", query=query, span=places[0] or span)
    arguments = tuple(
        (parameter.name, given[parameter.name])
        for parameter in signature.parameters
        if parameter.name in given and not _is_default(given[parameter.name], parameter.default)
    )
    written = 0
    while written < min(signature.positional, len(arguments)) and (
        arguments[written][0] == signature.parameters[written].name
    ):
        written += 1
    return arguments, written


def _is_default(node: Node, default: object) -> bool:
    return isinstance(node, Literal) and type(node.value) is type(default) and node.value == default
