"""What a row of the table of mistakes is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlq.query.errors import VlqError

DEMO = "demo"
"""The cache that most examples are asked of: of the shape and the vocabulary of `vlq demo`'s."""


@dataclass(frozen=True)
class Example:
    """What somebody writes, and what is said of it.

    `written` is a query where ⟦⟧ enclose what the carets stand under; behind `$ ` it is a command line, behind `>>> `
    it is Python. What is said is the mistake's own message and hint unless they have fields. A hint that ends with
    `...` goes on.
    """

    written: str
    message: str | None = None
    hint: str | None = None
    cache: str = DEMO

    @property
    def text(self) -> str:
        """The same without its marks."""
        return re.sub("[⟦⟧]", "", self.written)

    @property
    def span(self) -> tuple[int, int] | None:
        """What the marks enclose."""
        if "⟦" not in self.written:
            return None
        return self.written.index("⟦"), self.written.index("⟧") - 1


@dataclass(frozen=True)
class Mistake:
    """One mistake: the kind of its error, what is said of it, and queries that have it.

    `near` is the hint instead where something is known that was probably meant; the text has it as {near}. `alone` is
    the hint for a word that stands in no query, as an option's, where that is told otherwise.
    """

    kind: type[VlqError]
    message: str
    hint: str
    examples: tuple[Example, ...]
    near: str = ""
    alone: str = ""

    def error(self, query: str | None = None, span: tuple[int, int] | None = None, **values: object) -> VlqError:
        """The error to be raised, of these values."""
        hint = self.near if self.near and values.get("near") else self.hint
        return self.kind(self.message.format(**values), hint.format(**values) or None, query=query, span=span)

    def said(self, example: Example) -> tuple[str, str]:
        """The message and the hint that one of its examples expects."""
        if example.message is None:
            return self.message, self.hint
        return example.message, example.hint or ""
