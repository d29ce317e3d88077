"""What came of changed runs, as an answer like any other's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlq.query.answers.answer import Answer
from vlq.query.errors import printable
from vlq.query.summary import Rows, Summary

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Findings(Answer):
    """What came of changes to one image's run, or to those of many."""

    asked: str
    said: str
    found: list[dict[str, Any]]
    about: list[dict[str, Any]]  # the target's tokens
    more: dict[str, Any] = field(default_factory=dict)  # figures of all rows
    known: list[str] = field(default_factory=list)  # notes

    @property
    def query(self) -> str:
        return self.asked

    @property
    def columns(self) -> list[str]:
        return [*self.found[0]] if self.found else []

    @property
    def rows(self) -> Rows:
        return self.found

    @property
    def head(self) -> Rows:
        return self.found  # a curve is not cut off

    @property
    def summary(self) -> Summary:
        return self.more

    @property
    def headline(self) -> str:
        return printable(self.said)

    @property
    def tokens(self) -> list[dict[str, Any]]:
        return self.about

    @property
    def notes(self) -> list[str]:
        return self.known

    def arrow(self) -> pyarrow.Table:
        import pyarrow as pa

        return pa.Table.from_pylist(self.found)
