"""What a function of the language is, and how a call is held against its signature.

One entry of `FUNCTIONS` gives a function's parameters, its line of documentation, its example, its SQL and its
sentence. The command line, the documentation, the hints of errors and the Python client read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from vlq.query.errors import BadArgument, UnknownName, VlqError
from vlq.query.nodes import Call, Literal, Node, node_of

if TYPE_CHECKING:
    from vlq.query.bind import Bound, Scope
    from vlq.query.compile import Statement
    from vlq.query.parameters import Parameter
    from vlq.query.summary import Rows, Summary

Span = tuple[int, int]

REQUIRED = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Function:
    """One function. A table function has `compile`, `summarise` and `headline`; a token function has `tokens`."""

    name: str
    parameters: tuple[Parameter, ...]
    positional: int  # how many parameters may be given without their names
    documentation: str  # one line
    example: str
    check: Callable[[Bound, Scope], None] | None = None  # what no parameter can tell by itself
    compile: Callable[[Bound], Statement] | None = None
    summarise: Callable[[Bound, Rows, int], Summary] | None = None  # of the rows and the number of images
    headline: Callable[[Bound, Summary], str] | None = None
    notes: Callable[[Bound], list[str]] | None = None  # what the answer cannot know
    tokens: Callable[[Call, Scope], Any] | None = None

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    @property
    def signature(self) -> str:
        """As Python would write it: first_layer(token, rank=1, ...)."""
        parts = []
        for parameter in self.parameters:
            default = "" if parameter.default is REQUIRED else f"={parameter.default!r}"
            parts.append(f"{parameter.name}{default}")
        return f"{self.name}({', '.join(parts)})"


def functions() -> Mapping[str, Function]:
    """Every function by its name."""
    from vlq.query.functions import FUNCTIONS

    return FUNCTIONS


def call(
    name: str,
    positional: Sequence[object],
    named: Sequence[tuple[str, object, Span | None]],
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
        known = ", ".join(key for key, entry in functions().items() if entry.compile is not None)
        hint = f"Did you mean {near[0]}?" if near else f"There is {known}."
        raise UnknownName(f"There is no function {name}.", hint, query=query, span=at or span)
    given: dict[str, Node] = {}
    wrong: list[tuple[str, Span | None]] = []
    for i, value in enumerate(positional):
        node = node_of(value)
        if i < function.positional:
            given[function.parameters[i].name] = node
        elif i < len(function.parameters):
            wrong.append((f"{node} has no name; is it {function.parameters[i].name}={node}?", node.span))
        else:
            wrong.append((f"{node} is one argument too many.", node.span))
    for key, value, place in named:
        parameter = function.parameter(key)
        if parameter is None:
            near = get_close_matches(key, [parameter.name for parameter in function.parameters], 1, cutoff=0.5)
            wrong.append((f"{key} is no argument of {name}{f'; did you mean {near[0]}?' if near else '.'}", place))
        elif key in given:
            wrong.append((f"{key} is given twice.", place))
        else:
            given[key] = node_of(value)
    wrong += [
        (f"{parameter.name} is missing.", span)
        for parameter in function.parameters
        if parameter.default is REQUIRED and parameter.name not in given and not wrong
    ]
    if wrong:
        messages, places = zip(*wrong, strict=True)
        kind: type[VlqError] = UnknownName if all("is no argument" in message for message in messages) else BadArgument
        raise kind("\n".join(messages), f"Expected: {function.signature}", query=query, span=places[0] or span)
    arguments = tuple(
        (parameter.name, given[parameter.name])
        for parameter in function.parameters
        if parameter.name in given and not _is_default(given[parameter.name], parameter.default)
    )
    written = 0
    while written < min(function.positional, len(arguments)) and (
        arguments[written][0] == function.parameters[written].name
    ):
        written += 1
    return Call(name, arguments, written, span=span)


def _is_default(node: Node, default: object) -> bool:
    return isinstance(node, Literal) and type(node.value) is type(default) and node.value == default
