"""Text -> nodes, by way of Python's own grammar. Nothing is ever evaluated: what is not expected is refused.

Mistakes of the text itself are data (`MISTAKES`); the tests go through the same table.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlq.query.errors import SyntaxMistake
from vlq.query.nodes import INTEGERS, Arithmetic, Comparison, Literal, Name, Node, Not, Sequence, logic
from vlq.query.registry import call, method

EXAMPLE = "first_layer(token='dog')"
MAX_LENGTH = 10_000
"""Characters of a query: a thousand words more than anybody types, and few enough to be parsed at once."""
MAX_DEPTH = 100
"""Levels of nesting."""

Span = tuple[int, int]


def parse(text: str) -> Node:
    """The text as nodes. Raises QueryError with the place of the mistake and what to write instead."""
    source = text.strip()
    offset = text.find(source)
    if not source:
        raise SyntaxMistake("The query is empty.", f"Ask something, such as {EXAMPLE}")
    if len(source) > MAX_LENGTH:
        raise SyntaxMistake(f"The query has {len(source):,} characters; at most {MAX_LENGTH:,} are read.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes, which patterns are full of
            tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise _mistake(text, source, offset, error) from None
    except UnicodeEncodeError as error:
        at = offset + error.start
        raise SyntaxMistake("This character is half of one.", query=_clean(text), span=(at, at + 1)) from None
    except (RecursionError, MemoryError, ValueError):
        raise SyntaxMistake("The query is nested too deeply.", f"Such as {EXAMPLE}") from None
    return _Reader(text, source, offset).read(tree.body)


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


# --- what Python itself does not read --------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """A mistake that texts have: how it is known, what is said of it, and a text that has it.

    `find` gets the text and Python's message and returns where the mistake is: None if this is not it, a negative
    place where Python's own is right.
    """

    find: Callable[[str, str], int | None]
    message: str
    hint: str
    example: str
    at: int  # place of the caret under the example


def _says(part: str) -> Callable[[str, str], int | None]:
    return lambda text, message: -1 if part in message else None


def _has(pattern: str) -> Callable[[str, str], int | None]:
    def find(text: str, message: str) -> int | None:
        found = re.search(pattern, text)
        return found.start(found.lastindex or 0) if found else None

    return find


def _open_quote(text: str, message: str) -> int | None:
    return -1 if "unterminated" in message and "string" in message else None


MISTAKES = (
    Mistake(
        _has("[‘’“”„«»]"),
        "Typographic quotes do not quote.",
        "Use ' or \" instead.",
        "first_layer(token=‘dog’)",
        18,
    ),
    Mistake(
        _open_quote,
        "This quote is never closed.",
        f"Close it, as in {EXAMPLE}",
        "first_layer(token='dog)",
        18,
    ),
    Mistake(
        _says("was never closed"),
        "This parenthesis is never closed.",
        "Add the missing one.",
        "first_layer(token='dog'",
        11,
    ),
    Mistake(
        _says("unmatched"),
        "This parenthesis was never opened.",
        "Leave it out, or open it.",
        "first_layer(token='dog'))",
        24,
    ),
    Mistake(
        _says("does not match opening parenthesis"),
        "This parenthesis does not fit the one it closes.",
        "( goes with ), [ with ].",
        "first_layer(token=['dog', 'cat')",
        31,
    ),
    Mistake(
        _says("too many nested parentheses"),
        "The query is nested too deeply.",
        f"Such as {EXAMPLE}",
        "(" * 250,
        200,
    ),
    Mistake(
        _says("positional argument follows keyword argument"),
        "An argument without a name stands behind one with a name.",
        f"Name it, as in {EXAMPLE}",
        "first_layer(rank=2, 'dog')",
        25,
    ),
    Mistake(
        _has(r"\w\s*(=)\s*[,)]"),
        "This argument has no value.",
        f"Write one behind the =, as in {EXAMPLE}",
        "first_layer(token=)",
        17,
    ),
    Mistake(
        _has(r"[=(,]\s*[^\W\d]\w*( +)[^\W\d]\w*\s*[,)]"),
        "Between these words something is missing.",
        "A word is quoted, as in token='dog'; arguments are parted by commas.",
        "first_layer(token=fire truck)",
        22,
    ),
    Mistake(
        _says("Perhaps you forgot a comma"),
        "A comma is missing here.",
        "Arguments are parted by commas.",
        "first_layer('dog' 'cat' rank=2)",
        12,
    ),
    Mistake(
        _has(r"^(?:[^()=]|\([^()]*\))*(?<![<>!=])(=)(?!=)"),
        "A single = stands outside of a function's parentheses.",
        "Inside of them it names an argument; == compares.",
        "first_layer('dog') = 5",
        19,
    ),
    Mistake(
        _says("null bytes"),
        "The query holds a NUL character.",
        "Leave it out.",
        "first_layer('dog\0')",
        16,
    ),
    Mistake(
        _says("Exceeds the limit"),
        "This number is too large.",
        "Layers, ranks and token ids are small.",
        "first_layer(" + "9" * 5000 + ")",
        12,
    ),
    Mistake(
        lambda text, message: -1,
        "This is not a VLQ expression.",
        f"A query is a function with its arguments, such as {EXAMPLE}",
        "first_layer(token='dog';)",
        23,
    ),
)
"""In the order in which they are looked for; the last one is always it."""


def _mistake(text: str, source: str, offset: int, error: SyntaxError) -> SyntaxMistake:
    message = str(error.msg)
    for mistake in MISTAKES:
        found = mistake.find(source, message)
        if found is not None:
            place = found if found >= 0 else _place(source, error)
            start = offset + min(place, len(source) - 1)
            return SyntaxMistake(mistake.message, mistake.hint, query=_clean(text), span=(start, start + 1))
    raise AssertionError("the last mistake fits everything")


def _place(source: str, error: SyntaxError) -> int:
    """Python's line and column (in characters, from 1) as an offset."""
    if "\0" in source:
        return source.index("\0")
    if "Exceeds the limit" in str(error.msg):
        found = re.search(r"\d{1000}", source)
        return found.start() if found else 0
    lines = _lines(source)
    line = min(max(1, error.lineno or 1), len(lines))
    return sum(len(before) for before in lines[: line - 1]) + max(0, (error.offset or 1) - 1)


def _lines(source: str) -> list[str]:
    """Lines as Python counts them; `splitlines` would also part them at characters that stand inside texts."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source)


# --- Python's tree -> nodes ------------------------------------------------------------------------------------

REFUSED = {
    ast.Lambda: "lambda",
    ast.ListComp: "comprehension",
    ast.SetComp: "comprehension",
    ast.DictComp: "comprehension",
    ast.GeneratorExp: "comprehension",
    ast.IfExp: "if ... else",
    ast.JoinedStr: "f-string",
    ast.NamedExpr: ":=",
    ast.Dict: "dictionary",
    ast.Set: "set in braces",
    ast.Subscript: "index in brackets",
    ast.Starred: "*",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Slice: "slice",
}
"""Parts of Python that are no part of the language."""

OPERATORS: dict[type[ast.cmpop] | type[ast.operator], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
"""The operators of the language."""


class _Reader:
    """Reads one text's tree."""

    def __init__(self, text: str, source: str, offset: int) -> None:
        self._text = text
        # Python counts bytes of UTF-8 within a line.
        lines = _lines(source)
        self._lines = [line.encode() for line in lines]
        self._starts = [offset + sum(map(len, lines[:i])) for i in range(len(lines))]

    def read(self, tree: ast.expr, depth: int = 0) -> Node:
        span = self._span(tree)
        if depth > MAX_DEPTH:
            raise self._refused("The query is nested too deeply.", span, f"Such as {EXAMPLE}")
        match tree:
            case ast.Constant(value=value):
                return self._literal(value, span)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as value)) if (
                not isinstance(value, bool)
            ):
                return self._literal(-value if isinstance(tree.op, ast.USub) else value, span)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return Sequence(
                    tuple(self.read(item, depth + 1) for item in items), isinstance(tree, ast.List), span=span
                )
            case ast.Name(id=name):
                return Name(name, span=span)
            case ast.Call(func=ast.Name(id=name)):
                return self._call(tree, name, depth)
            case ast.Call(func=ast.Attribute(value=table, attr=name)):
                positional, named = self._arguments(tree, depth)
                return method(self.read(table, depth + 1), name, positional, named, query=_clean(self._text), span=span)
            case ast.Compare(left=left, ops=ops, comparators=others):
                operands = tuple(self.read(part, depth + 1) for part in (left, *others))
                return Comparison(operands, tuple(self._operator(op, span) for op in ops), span=span)
            case ast.BoolOp(op=op, values=parts):
                joined = logic(
                    "and" if isinstance(op, ast.And) else "or", *(self.read(part, depth + 1) for part in parts)
                )
                return replace(joined, span=span)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.read(operand, depth + 1), span=span)
            case ast.BinOp(left=left, op=op, right=right):
                sides = self.read(left, depth + 1), self.read(right, depth + 1)
                if isinstance(op, ast.BitAnd | ast.BitOr):
                    hint = "In text, conditions are joined by `and` and `or`."
                    raise self._refused("VLQ has no & and | in text.", span, hint)
                return Arithmetic(self._operator(op, span), *sides, span=span)
            case ast.Attribute(attr=name):
                raise self._refused(f"A method is called: .{name}(...)", span)
            case ast.Call():
                raise self._refused("Only a function's name can stand before a parenthesis.", self._span(tree.func))
        raise self._refused(f"VLQ has no {REFUSED.get(type(tree), type(tree).__name__)}.", span, f"Such as {EXAMPLE}")

    def _call(self, tree: ast.Call, name: str, depth: int) -> Node:
        positional, named = self._arguments(tree, depth)
        return call(name, positional, named, query=_clean(self._text), span=self._span(tree), at=self._span(tree.func))

    def _arguments(self, tree: ast.Call, depth: int) -> tuple[list[Node], list[tuple[str, Node, Span]]]:
        for argument in (*tree.args, *tree.keywords):
            if isinstance(argument, ast.Starred) or (isinstance(argument, ast.keyword) and argument.arg is None):
                raise self._refused("VLQ has no *.", self._span(argument), "Write the arguments one by one.")
        positional = [self.read(argument, depth + 1) for argument in tree.args]
        named = [(str(word.arg), self.read(word.value, depth + 1), self._span(word)) for word in tree.keywords]
        return positional, named

    def _operator(self, operator: ast.cmpop | ast.operator, span: Span) -> str:
        if type(operator) not in OPERATORS:
            known = " ".join(OPERATORS.values())
            raise self._refused("VLQ does not have this operator.", span, f"It has {known} and, or, not.")
        return OPERATORS[type(operator)]

    def _literal(self, value: object, span: Span) -> Node:
        match value:
            case str() if value != _clean(value):
                raise self._refused("This text holds half of a character.", span, "Write the whole character.")
            case bool() | None | str():
                return Literal(value, span=span)
            case int() if value not in INTEGERS:
                raise self._refused("This number is too large.", span, "Layers, ranks and token ids are small.")
            case float() if not math.isfinite(value):
                raise self._refused("This number is too large.", span, "A probability lies between 0 and 1.")
            case int() | float():
                return Literal(value, span=span)
        raise self._refused(f"VLQ has no {type(value).__name__} values.", span, f"Such as {EXAMPLE}")

    def _span(self, tree: ast.expr | ast.keyword) -> Span:
        return (
            self._offset(tree.lineno, tree.col_offset),
            self._offset(tree.end_lineno or tree.lineno, tree.end_col_offset or tree.col_offset + 1),
        )

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode(errors="ignore"))

    def _refused(self, message: str, span: Span, hint: str | None = None) -> SyntaxMistake:
        return SyntaxMistake(message, hint, query=_clean(self._text), span=span)
