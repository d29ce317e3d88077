"""A query that is still being typed: which mistakes are none yet, since what follows may mend them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

from vlq.query.errors import QueryError, SyntaxMistake, Unfinished, UnknownToken
from vlq.query.language.completion import closing

T = TypeVar("T")

GROWING = re.compile(r"(?:[\w▁]+|[=<>!&|+*/.-]+)\s*$")
"""A word, a number or an operator that a text ends with: what comes next may belong to it."""

VALUE_AND_WORD = re.compile(r"""[\w▁'")\]]\s+[\w▁]+\s*$""")

FINAL = (SyntaxMistake, UnknownToken)
"""Of what else a text ends with, no operator behind it makes these right."""

TOKENS = re.compile(r"[()\[\],]|\b(?:and|or|not)\b|[<>=!+*/-]+|\.(?=\s*\w*\s*$)")
"""Brackets, and what parts of a query are joined by."""

INNER_JOINTS = ("and", "or", "not", ",")
"""Inside of brackets what stands before one of these is said whole; outside of them also before an operator."""


@dataclass(frozen=True)
class End:
    """How a text ends."""

    open: tuple[int, ...]  # the brackets that are not closed
    closers: str  # what closes the quote and the brackets
    growing: int  # where what may still grow begins; the text's length if it ends with something whole
    cut: int  # up to here the text is whole, but for the brackets
    quote: bool  # whether it ends inside of a text
    is_behind: bool  # whether a word grows behind a value: it may become an operator, as in `layer < 3 a`


def end_of(text: str) -> End:
    """How a text ends, whatever is wrong with it."""
    opened: list[int] = []
    joints: list[list[int]] = [[0]]  # of the text and of each bracket that is open: where a part of it begins
    plain = _unquoted(text)
    quote = len(plain) if len(plain) < len(text) else None
    for found in TOKENS.finditer(plain):
        token, at = found.group(), found.start()
        if token in "([":
            opened.append(at)
            joints.append([at + 1])
        elif token in ")]":
            if opened:
                opened.pop()
                joints.pop()
        elif not opened or token in INNER_JOINTS:
            joints[-1].append(at)
    growing = GROWING.search(plain)
    closers = ("" if quote is None else text[quote]) + "".join(")" if text[k] == "(" else "]" for k in reversed(opened))
    return End(
        tuple(opened),
        closers,
        quote if quote is not None else growing.start() if growing else len(text),
        joints[-1][-1],
        quote is not None,
        quote is None and growing is not None and VALUE_AND_WORD.search(plain) is not None,
    )


def _unquoted(text: str) -> str:
    """A text up to a quote that is not closed; what is quoted before stands as spaces, and its quotes."""
    parts, i = [], 0
    while i < len(text):
        if text[i] in "\"'":
            end = closing(text, i)
            if end is None:
                break
            parts.append(text[i] + " " * (end - i - 1))
            i = end
        parts.append(text[i])
        i += 1
    return "".join(parts)


def check_typed(text: str, check: Callable[[str], T]) -> T:
    """What `check` gives of a query that is typed up to its end.

    Raises the first mistake that nothing can mend that follows; Unfinished where more has to come, or where the
    mistake is about the word that the text ends with.
    """
    try:
        return check(text)
    except QueryError as error:
        mistake = error
    if mistake.span is None:
        raise mistake
    end, last = end_of(text), len(text.rstrip())
    found = _found(text + end.closers, check)
    if _stays(found, end, end.growing, last):
        without = _found(text[: end.growing] + end.closers, check) if end.is_behind else found
        if without is not None and (without.message, without.span) == (found.message, found.span):
            raise found
    kept = text[: end.cut]
    before = _found(kept + end.closers[end.quote :], check)
    # What is wrong with all of it may be right as an operand.
    if _stays(before, end, end.cut if end.open else len(kept.rstrip()) - 1):
        raise before
    raise Unfinished(mistake.message, mistake.hint, query=text, span=mistake.span) from mistake


def _found(text: str, check: Callable[[str], object]) -> QueryError | None:
    """The mistake in a text."""
    try:
        if text.strip():
            check(text)
    except QueryError as error:
        return error
    return None


def _stays(mistake: QueryError | None, end: End, growing: int, last: int | None = None) -> TypeGuard[QueryError]:
    """Whether a mistake stays one, whatever follows behind the `last` character, and on what is `growing` there.

    A call that is not closed yet may have all arguments that it lacks.
    """
    if mistake is None or mistake.span is None:
        return False
    start, stop = mistake.span
    if stop > growing or any(start <= bracket < stop for bracket in end.open):
        return False
    return stop != last or isinstance(mistake, FINAL)
