"""What every answer has: rows, a sentence, and the ways in which it is shown and handed on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vlq.query.errors import MissingExtra
from vlq.query.summary import Rows, Summary

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

FORMATS = ("table", "json", "jsonl", "csv", "parquet", "arrow")
"""The ways in which the command line writes an answer."""

SHOWN_ROWS = 20
"""Rows of a table that a person is shown."""


class Answer(ABC):
    """Rows with a sentence about them."""

    @property
    @abstractmethod
    def query(self) -> str:
        """What was asked, as text."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns."""

    @property
    @abstractmethod
    def rows(self) -> Rows:
        """The rows, each a dictionary by column."""

    @property
    def head(self) -> Rows:
        """The first rows, as many as a person is shown."""
        return self.rows[:SHOWN_ROWS]

    @property
    def is_censored(self) -> bool:
        """Whether any row is at the edge of the layers that were looked at."""
        return False

    @property
    @abstractmethod
    def summary(self) -> Summary:
        """The answer in a few figures."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The answer as one English sentence."""

    @property
    @abstractmethod
    def tokens(self) -> list[dict[str, Any]]:
        """The tokens asked for: `id`, `piece` and `text`; the last two are None for ids that have no text."""

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """What the answer cannot know, or rests on."""

    @abstractmethod
    def arrow(self) -> pyarrow.Table:
        """The rows as an Arrow table."""

    def df(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame. Raises MissingExtra."""
        try:
            import pandas  # noqa: F401, which Arrow imports
        except ModuleNotFoundError as error:
            raise MissingExtra("pandas is not installed.", "Run: pip install pandas") from error
        return self.arrow().to_pandas()

    def polars(self) -> polars.DataFrame:
        """The rows as a polars DataFrame, which shares their memory. Raises MissingExtra."""
        try:
            import polars
        except ModuleNotFoundError as error:
            raise MissingExtra("polars is not installed.", "Run: pip install polars") from error
        return polars.DataFrame(self.arrow())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as `--format json` prints it."""
        return {
            "query": self.query,
            "headline": self.headline,
            "tokens": self.tokens,
            "notes": self.notes,
            "columns": self.columns,
            "rows": self.rows,
            "summary": self.summary,
        }

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        from vlq.query.answers.render import table

        return table(self)

    def _repr_html_(self) -> str:
        from vlq.query.answers.render import html

        return html(self)
