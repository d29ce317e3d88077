"""What a function of the language is, and how a call is held against its signature.

One entry of `FUNCTIONS` gives a function's parameters, its line of documentation, its example, its SQL and its
sentence. The command line, the documentation, the hints of errors and the Python client read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vlq.query.errors import BadArgument, VlqError
from vlq.query.language.nodes import Call, Comparison, Literal, Logic, Method, Name, Node, Not, node_of
from vlq.query.mistakes.calls import (
    ARGUMENT_SYNONYMS,
    COMPARED,
    EQUALS,
    FOREIGN,
    FOREIGN_FUNCTION,
    METHOD_CALLED_FIRST,
    MISSING,
    NEAR_ARGUMENT,
    NO_ARGUMENT,
    NO_FUNCTION,
    NO_METHOD,
    OF_COLUMN,
    SECOND_COLUMN,
    SECOND_TOKEN,
    SYNONYMS,
    TOO_MANY,
    TWICE,
    UNNAMED,
)
from vlq.query.mistakes.table import Mistake

if TYPE_CHECKING:
    from vlq.query.language.bind import Bound, Others, Scope, Table
    from vlq.query.language.compile import Compiler, Relation
    from vlq.query.language.parameters import Parameter
    from vlq.query.language.tokens import TokenSet
    from vlq.query.summary import Rows, Summary, Totals

Span = tuple[int, int]

CONDITIONS = {"condition": "", "images": "images="}
"""Parameters that take a condition on columns, and what stands before one."""

COLUMNS = ("by", "columns")
"""Parameters that take several columns in a list."""

PLURALS = {"layer": "layers"}
"""One of them is written in the singular, too, as in `top(0, layer=8, patch=3)`."""

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
    # Where rows are of patches there may be millions: SQL of what is to be known of them, and what is made of that.
    totals: Callable[[Bound], Mapping[str, str]] | None = None
    sum_up: Callable[[Bound, Totals, int], Summary] | None = None
    headline: Callable[[Bound, Summary], str] | None = None
    subject: Callable[[Bound], str] | None = None  # what it is about, in words; by default the call itself
    contrast: Callable[[Bound, Summary, Rows, Others], Summary] | None = None  # what `against=` makes of a summary
    shows_others: bool = False  # whether the rows tell of the images that they are held against, too
    shows_images: bool = False  # whether its columns are those that came with the images
    notes: Callable[[Bound], list[str]] | None = None  # what the answer cannot know
    patches: Callable[[Bound, Compiler], str] | None = None  # image and positions, where patches are asked for
    at: str | None = None  # the site that it is about, where it has no argument for that
    bind: Callable[[Call, Scope], Table] | None = None  # makes the table itself
    tokens: Callable[[Call, Scope], TokenSet] | None = None

    def is_of_patches(self, values: Mapping[str, object]) -> bool:
        """Whether a call with these values is about what patches read."""
        return values.get("at", self.at) == "patch"

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
    from vlq.query.language.methods import METHODS

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
        known = ", ".join(key for key, entry in functions().items() if entry.is_table)
        if name in FOREIGN:
            raise FOREIGN_FUNCTION.error(query, at or span, name=name, instead=FOREIGN[name])
        if (meant := SYNONYMS.get(name, name)) in methods():
            raise METHOD_CALLED_FIRST.error(query, at or span, name=name, method=meant)
        raise NO_FUNCTION.error(query, at or span, name=name, near=nearest(name, functions()), known=known)
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
    at: Span | None = None,
) -> Method:
    """A method of a table held against its signature, as `call` does it."""
    signature = methods().get(name)
    if isinstance(table, Name):
        raise OF_COLUMN.error(query, at or span, name=name)
    if signature is None:
        near = SYNONYMS.get(name) or nearest(name, methods(), 0.6)
        known = ", ".join(f".{key}" for key in methods())
        raise NO_METHOD.error(query, at or span, name=name, near=near, known=known)
    arguments, written = _arguments(signature, positional, named, query, span)
    return Method(table, name, arguments, written, span=span)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Of the known names the one that was probably meant; None if none is near."""
    return next(iter(get_close_matches(name.lower(), list(known), 1, cutoff)), None)


def _compared(node: Node, signature: Signature) -> Parameter | None:
    """The parameter that a comparison compares, where no condition is expected: `min_prob > 0.5`."""
    if not isinstance(node, Comparison) or signature.parameter("condition") is not None:
        return None
    first = node.operands[0]
    return signature.parameter(first.name) if isinstance(first, Name) else None


def _arguments(
    signature: Signature, positional: Sequence[object], named: Named, query: str | None, span: Span | None
) -> tuple[tuple[tuple[str, Node], ...], int]:
    """The arguments in the signature's order without those that equal their defaults; how many go without a name."""
    given: dict[str, Node] = {}
    wrong: list[VlqError] = []

    def refuse(mistake: Mistake, place: Span | None, **values: object) -> None:
        wrong.append(mistake.error(query, place or span, function=signature.name, signature=signature, **values))

    first = signature.parameters[0].name if signature.parameters else None
    for i, value in enumerate(positional):
        node = node_of(value)
        if (compared := _compared(node, signature)) is not None:
            refuse(COMPARED, node.span, name=compared.name, expected=compared.type.expected)
        elif i < signature.positional:
            given[signature.parameters[i].name] = node
        elif first in COLUMNS and first in given and (isinstance(node, Name) or _is_text(node)):
            refuse(SECOND_COLUMN, node.span, got=node, first=given[first])
        elif i >= len(signature.parameters):
            refuse(TOO_MANY, node.span, got=node)
        elif first == "token" and first in given and _is_text(node):
            refuse(SECOND_TOKEN, node.span, got=node, first=given[first])
        else:
            is_condition = isinstance(node, Comparison | Logic | Not) and signature.parameter("images") is not None
            refuse(UNNAMED, node.span, got=node, name="images" if is_condition else signature.parameters[i].name)
    for key, value, place in named:
        if signature.parameter(key) is None and (many := PLURALS.get(key)) and signature.parameter(many) is not None:
            if value is None:  # Python's functions hand over what nobody said
                continue
            if many in given and _is_default(given[many], None):
                del given[many]
            key = many
        if signature.parameter(key) is None:
            near = nearest(ARGUMENT_SYNONYMS.get(key, key), (parameter.name for parameter in signature.parameters), 0.6)
            is_known = any(function.parameter(key) is not None for function in functions().values())
            condition = next((name for name in CONDITIONS if signature.parameter(name) is not None), None)
            if near is None and condition is not None and (condition == "condition" or not is_known):
                refuse(EQUALS, place, name=key, condition=f"{CONDITIONS[condition]}{key} == {node_of(value)}")
            else:
                refuse(NO_ARGUMENT if near is None else NEAR_ARGUMENT, place, name=key, near=near)
        elif key in given:
            refuse(TWICE, place, name=key)
        else:
            given[key] = node_of(value)
    for parameter in () if wrong else signature.parameters:
        if parameter.default is REQUIRED and parameter.name not in given:
            refuse(MISSING, None, name=parameter.name)
    if wrong:
        kind = type(wrong[0]) if len({type(error) for error in wrong}) == 1 else BadArgument
        message = "\n".join(error.message for error in wrong)
        raise kind(message, wrong[0].hint, query=query, span=wrong[0].span)
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


def _is_text(node: Node) -> bool:
    return isinstance(node, Literal) and isinstance(node.value, str)


def _is_default(node: Node, default: object) -> bool:
    return isinstance(node, Literal) and type(node.value) is type(default) and node.value == default
