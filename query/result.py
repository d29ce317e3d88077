"""An answer: rows, a summary, a sentence, and where they come from. The question is run when they are asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlq.query.bind import bind
from vlq.query.compile import compile
from vlq.query.nodes import Node
from vlq.query.summary import Rows, Summary

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from vlq.query.client import Corpus

SHOWN_ROWS = 20
"""Rows of a table that a person is shown."""


class Result:
    """What a corpus answers to one query, of the snapshot at which it was asked. Mistakes show when it is made."""

    def __init__(self, corpus: Corpus, node: Node, text: str | None = None) -> None:
        self.corpus = corpus
        self.node = node
        self._snapshot = corpus.cache.snapshot()
        self._bound = bind(node, corpus.cache.run, corpus.vocabulary, text)
        self._statement = compile(self._bound)

    @cached_property
    def _answer(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        return self.corpus.engine.rows(self._statement, self._snapshot)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._answer[0]

    @cached_property
    def rows(self) -> Rows:
        """The rows, each a dictionary by column."""
        columns, rows = self._answer
        return [dict(zip(columns, row, strict=True)) for row in rows]

    @cached_property
    def summary(self) -> Summary:
        """The answer in a few figures: `images` with readings, `matched` ones, `min`, `median`, `max`, `histogram`."""
        assert self._bound.function.summarise is not None
        return self._bound.function.summarise(self._bound, self.rows, self._snapshot.images)

    @property
    def headline(self) -> str:
        """The answer as one English sentence."""
        assert self._bound.function.headline is not None
        return self._bound.function.headline(self._bound, self.summary)

    @property
    def tokens(self) -> list[dict[str, Any]]:
        """The tokens asked for: `id`, `piece` and `text`; the last two are None for ids that have no text."""
        return [{"id": token.id, "piece": token.piece, "text": token.text} for token in self._bound.token.tokens]

    @cached_property
    def notes(self) -> list[str]:
        """What the answer cannot know, or rests on."""
        notes = list(self._bound.notes)
        if self._bound.function.notes is not None:
            notes += self._bound.function.notes(self._bound)
        snapshot = self._snapshot
        if not snapshot.sealed:
            notes.append(f"The run is not complete: {snapshot.cached:,} of {snapshot.planned:,} images are cached.")
        return notes

    def arrow(self) -> pyarrow.Table:
        """The rows as an Arrow table."""
        return self.corpus.engine.arrow(self._statement, self._snapshot)

    def df(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame."""
        return self.arrow().to_pandas()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as `--format json` prints it."""
        return {
            "query": str(self.node),
            "headline": self.headline,
            "tokens": self.tokens,
            "notes": self.notes,
            "columns": self.columns,
            "rows": self.rows,
            "summary": self.summary,
        }

    def explain(self) -> str:
        """The tokens, the SQL with its parameters, the files that it reads, and DuckDB's plan."""
        files = [(table, stored) for table in self._statement.tables for stored in self._snapshot.stored(table)]
        parts = [
            f"query       {self.node}",
            "tokens      " + ", ".join(str(token) for token in self._bound.token.tokens),
            "parameters  " + ", ".join(f"${name} = {value}" for name, value in self._statement.parameters.items()),
            "files       "
            + "\n            ".join(f"${table}: {stored.key}, {stored.size:,} bytes" for table, stored in files),
            f"\n{self._statement.sql}\n",
            self.corpus.engine.plan(self._statement, self._snapshot),
        ]
        return "\n".join(parts)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        from vlq.query.render import table

        return table(self)

    def _repr_html_(self) -> str:
        from vlq.query.render import html

        return html(self)
