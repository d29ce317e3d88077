"""Text -> nodes, by way of Python's own grammar. Nothing is ever evaluated: what is not expected is refused."""

from __future__ import annotations

import ast
import math
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace

from vlq.query.errors import VlqError
from vlq.query.language.nodes import INTEGERS, Arithmetic, Comparison, Literal, Name, Node, Not, Sequence, logic
from vlq.query.language.registry import call, functions, method, methods
from vlq.query.mistakes import syntax
from vlq.query.mistakes.calls import NO_FUNCTION
from vlq.query.mistakes.table import Mistake

MAX_LENGTH = 10_000
"""Characters of a query: a thousand words more than anybody types, and few enough to be parsed at once."""
MAX_DEPTH = 100
"""Levels of nesting."""

_READING = threading.Lock()
"""Python counts how deep a tree is in one place for all threads, and stops where two count at once (cpython#106905).
Its filters of warnings are all threads' too."""

Span = tuple[int, int]


def parse(text: str) -> Node:
    """The text as nodes. Raises QueryError with the place of the mistake and what to write instead."""
    source = text.strip()
    offset = text.find(source)
    if not source:
        raise syntax.EMPTY.error()
    if len(source) > MAX_LENGTH:
        raise syntax.TOO_LONG.error(length=len(source), most=MAX_LENGTH)
    try:
        with _READING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes, which patterns are full of
            tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise _mistake(text, source, offset, error) from None
    except UnicodeEncodeError as error:
        at = offset + error.start
        raise syntax.HALF_CHARACTER.error(_clean(text), (at, at + 1)) from None
    except (RecursionError, MemoryError, ValueError):
        raise syntax.TOO_DEEP.error() from None
    return _Reader(text, source, offset).read(tree.body)


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


# --- what Python itself does not read --------------------------------------------------------------------------


Find = Callable[[str, str, int], Span | None]
"""Gets the text without what is quoted in it, Python's message and Python's place; None if the mistake is not this."""


def _says(part: str) -> Find:
    return lambda text, message, place: (place, place + 1) if part in message else None


def _has(pattern: str) -> Find:
    def find(text: str, message: str, place: int) -> Span | None:
        found = re.search(pattern, text)
        return found.span(found.lastindex or 0) if found else None

    return find


def _between(part: str, pattern: str) -> Find:
    """The pattern, where Python's message has the part."""
    return lambda text, message, place: _has(pattern)(text, message, place) if part in message else None


def _single_equals(text: str, message: str, place: int) -> Span | None:
    if text[place : place + 1] != "=" and "you meant" not in message:
        return None
    found = re.compile("(?<![<>!=])=(?!=)").search(text, place)
    return found.span() if found else None


FOUND: tuple[tuple[Find, Mistake], ...] = (
    (_has("[‘’“”„«»`´]"), syntax.TYPOGRAPHIC_QUOTES),
    (_has("[（）［］，＝＜＞；：]"), syntax.WIDE),
    (_has(r"(?i)^\s*(select|with)\s"), syntax.SQL),
    (_between("invalid character", r"▁\w*"), syntax.PIECE),
    (_has(r"\d\s*(%)\s*[,)]"), syntax.PER_CENT),
    (_says("unterminated"), syntax.OPEN_QUOTE),
    (_says("was never closed"), syntax.OPEN_PARENTHESIS),
    (_says("unmatched"), syntax.UNOPENED_PARENTHESIS),
    (_says("does not match opening parenthesis"), syntax.OTHER_PARENTHESIS),
    (_says("too many nested parentheses"), syntax.TOO_DEEP),
    (_between("positional argument follows keyword argument", r"=\s*\d+(,)\s*\d+\s*[,)]"), syntax.COMMA_IN_NUMBER),
    (_says("positional argument follows keyword argument"), syntax.UNNAMED_BEHIND_NAMED),
    (_between("leading zeros", r"\b\d{4}-\d\d?-\d\d?\b"), syntax.DATE),
    (_has(r"\w\s*(=)\s*[,)]"), syntax.NO_VALUE),
    (_has(r"[(,]\s*([^\W\d]\w*(?:-\w+)+)\s*=(?!=)"), syntax.HYPHEN),
    (_has(r"=>|=<|<>|&&|\|\||!(?!=)|\b(?:AND|OR|NOT|IN)\b"), syntax.OTHER_LANGUAGE),
    (_has(r"(?:[-+*/<>=.]|\b(?:and|or|not|in))(?=\s*$)"), syntax.UNFINISHED),
    (_has(r"[=(,]\s*[^\W\d]\w*( +)[^\W\d]\w*\s*[,)]"), syntax.TWO_WORDS),
    (_has(r"(?i)\b(between|like|contains)\b"), syntax.OTHER_WORD),
    (_says("Perhaps you forgot a comma"), syntax.NO_COMMA),
    (_single_equals, syntax.SINGLE_EQUALS),
    (_has(r"\)\s*\b((?!(?:and|or|not|in|is|if|else|for)\b)[^\W\d]\w*)"), syntax.NO_DOT),
    (_has(":(?!=)"), syntax.COLON),
    (_says("null bytes"), syntax.NUL),
    (_says("Exceeds the limit"), syntax.TOO_LARGE),
    (_says(""), syntax.NO_EXPRESSION),
)
"""How a mistake of the text is known, in the order in which they are looked for; the last one is always it."""


def _mistake(text: str, source: str, offset: int, error: SyntaxError) -> VlqError:
    message, place = str(error.msg), _place(source, error)
    unquoted = re.sub(r"""'[^']*'|"[^"]*\"""", lambda found: "'" + "_" * (len(found[0]) - 2) + "'", source)
    for find, mistake in FOUND:
        if (found := find(unquoted, message, place)) is not None:
            start = min(found[0], len(source) - 1)
            return mistake.error(_clean(text), (offset + start, offset + max(min(found[1], len(source)), start + 1)))
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
            raise self._refused(syntax.TOO_DEEP, span)
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
            case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
                self._literal(name, self._span(tree.args[0]))
                return Name(name, span=span)
            case ast.Call(func=ast.Name(id=name)):
                return self._call(tree, name, depth)
            case ast.Call(func=ast.Attribute(value=table, attr=name)):
                positional, named = self._arguments(tree, depth)
                on = self.read(table, depth + 1)
                at = self._end_of(tree.func, name)
                return method(on, name, positional, named, query=_clean(self._text), span=span, at=at)
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
            case ast.BinOp(ast.Name(id=first), ast.Sub(), ast.Call(func=ast.Name(id=second) as end)) if (
                meant := f"{first}_{second}"
            ) in functions():
                hyphen = span[0], self._span(end)[1]
                raise self._refused(NO_FUNCTION, hyphen, name=f"{first}-{second}", near=meant, known="")
            case ast.BinOp(left=left, op=op, right=right):
                sides = self.read(left, depth + 1), self.read(right, depth + 1)
                if isinstance(op, ast.BitAnd | ast.BitOr):
                    raise self._refused(syntax.SYMBOL_FOR_AND, span)
                return Arithmetic(self._operator(op, span), *sides, span=span)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                raise self._refused(syntax.MINUS, span)
            case ast.UnaryOp(op=ast.Invert()):
                raise self._refused(syntax.SYMBOL_FOR_AND, span)
            case ast.Attribute(attr=name):
                raise self._refused(syntax.NOT_CALLED if name in methods() else syntax.NO_PART, span, name=name)
            case ast.Call():
                raise self._refused(syntax.NO_NAME, self._span(tree.func))
        raise self._refused(syntax.NOT_PART, span, part=REFUSED.get(type(tree), type(tree).__name__))

    def _call(self, tree: ast.Call, name: str, depth: int) -> Node:
        positional, named = self._arguments(tree, depth)
        return call(name, positional, named, query=_clean(self._text), span=self._span(tree), at=self._span(tree.func))

    def _arguments(self, tree: ast.Call, depth: int) -> tuple[list[Node], list[tuple[str, Node, Span]]]:
        for argument in (*tree.args, *tree.keywords):
            if isinstance(argument, ast.Starred) or (isinstance(argument, ast.keyword) and argument.arg is None):
                raise self._refused(syntax.STAR, self._span(argument))
        positional = [self.read(argument, depth + 1) for argument in tree.args]
        named = [(str(word.arg), self.read(word.value, depth + 1), self._span(word)) for word in tree.keywords]
        return positional, named

    def _operator(self, operator: ast.cmpop | ast.operator, span: Span) -> str:
        if isinstance(operator, ast.Is | ast.IsNot):
            raise self._refused(syntax.IS, span)
        if type(operator) not in OPERATORS:
            raise self._refused(syntax.OPERATOR, span, known=" ".join(OPERATORS.values()))
        return OPERATORS[type(operator)]

    def _literal(self, value: object, span: Span) -> Node:
        match value:
            case str() if value != _clean(value):
                raise self._refused(syntax.HALF_CHARACTER, span)
            case bool() | None | str():
                return Literal(value, span=span)
            case int() | float():
                if not (math.isfinite(value) if isinstance(value, float) else value in INTEGERS):
                    raise self._refused(syntax.TOO_LARGE, span)
                return Literal(value, span=span)
        raise self._refused(syntax.NOT_PART, span, part=f"{type(value).__name__} values")

    def _span(self, tree: ast.expr | ast.keyword) -> Span:
        return (
            self._offset(tree.lineno, tree.col_offset),
            self._offset(tree.end_lineno or tree.lineno, tree.end_col_offset or tree.col_offset + 1),
        )

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode(errors="ignore"))

    def _end_of(self, tree: ast.expr, name: str) -> Span:
        """Where a name stands with which a tree ends."""
        start, end = self._span(tree)
        return max(start, end - len(name)), end

    def _refused(self, mistake: Mistake, span: Span, **values: object) -> VlqError:
        return mistake.error(_clean(self._text), span, **values)
