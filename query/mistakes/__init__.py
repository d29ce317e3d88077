"""The table of mistakes: all that is said of a query that cannot be answered, with queries of which it is said.

Code raises `scope.error(mistakes.NO_LAYER, node, ...)`; the tests ask every example; docs/mistakes.md shows them.
"""

from __future__ import annotations

from types import ModuleType

from vlq.query.mistakes import ablation, calls, combined, conditions, elsewhere, syntax, tokens, values
from vlq.query.mistakes.table import Mistake

CHAPTERS = {
    "The text": syntax,
    "Names and arguments": calls,
    "Words and tokens": tokens,
    "Values": values,
    "Conditions and columns": conditions,
    "Answers taken together": combined,
    "What is taken away": ablation,
    "The command line and Python": elsewhere,
}
"""The table's parts by what they are about."""


def mistakes_of(chapter: ModuleType) -> list[Mistake]:
    """The mistakes of one part."""
    return [value for value in vars(chapter).values() if isinstance(value, Mistake)]
