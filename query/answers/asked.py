"""An answer to a question of the language: it is asked on as its question is."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from vlq.query.answers.answer import Answer
from vlq.query.language.nodes import Node
from vlq.query.mistakes.elsewhere import ANSWER_NO_TRUTH, NOT_PICKLED, TWO_CORPORA

if TYPE_CHECKING:
    from vlq.query.client.corpus import Corpus


def check_corpus(corpus: Corpus, *values: object) -> None:
    """Raises BadArgument if one of these is an answer of another corpus."""
    if any(isinstance(value, Asked) and value.corpus is not corpus for value in values):
        raise TWO_CORPORA.error()


def question(query: Node | Asked) -> Node:
    """What is asked, of a corpus or of any."""
    return query.node if isinstance(query, Asked) else query


class Asked(Answer):
    """What a corpus answers to a query. What nodes can, answers can: the same corpus answers the combined question."""

    corpus: Corpus
    node: Node

    @property
    def query(self) -> str:
        return str(self.node)

    @abstractmethod
    def explain(self) -> str:
        """The tokens, the SQL with its parameters, the files that it reads, and DuckDB's plan."""

    @abstractmethod
    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A picture that suits the answer; written to a file too, if its name ends with .png or .svg."""

    @abstractmethod
    def _asked(self, node: Node) -> Self:
        """The answer of the same corpus to another question."""

    def _node(self, other: object) -> object:
        check_corpus(self.corpus, other)
        return other.node if isinstance(other, Asked) else other

    def __lt__(self, other: object) -> Self:
        return self._asked(self.node < self._node(other))

    def __le__(self, other: object) -> Self:
        return self._asked(self.node <= self._node(other))

    def __gt__(self, other: object) -> Self:
        return self._asked(self.node > self._node(other))

    def __ge__(self, other: object) -> Self:
        return self._asked(self.node >= self._node(other))

    def __eq__(self, other: object) -> Self:  # type: ignore[override]
        return self._asked(self.node == self._node(other))

    def __ne__(self, other: object) -> Self:  # type: ignore[override]
        return self._asked(self.node != self._node(other))

    __hash__ = object.__hash__

    def __and__(self, other: object) -> Self:
        return self._asked(self.node & self._node(other))

    def __or__(self, other: object) -> Self:
        return self._asked(self.node | self._node(other))

    def __invert__(self) -> Self:
        return self._asked(~self.node)

    def __add__(self, other: object) -> Self:
        return self._asked(self.node + self._node(other))

    def __sub__(self, other: object) -> Self:
        return self._asked(self.node - self._node(other))

    def __mul__(self, other: object) -> Self:
        return self._asked(self.node * self._node(other))

    def __truediv__(self, other: object) -> Self:
        return self._asked(self.node / self._node(other))

    def __radd__(self, other: object) -> Self:
        return self._asked(self.node.__radd__(other))

    def __rsub__(self, other: object) -> Self:
        return self._asked(self.node.__rsub__(other))

    def __rmul__(self, other: object) -> Self:
        return self._asked(self.node.__rmul__(other))

    def __rtruediv__(self, other: object) -> Self:
        return self._asked(self.node.__rtruediv__(other))

    def __bool__(self) -> bool:
        raise ANSWER_NO_TRUTH.error()

    def __contains__(self, value: object) -> bool:
        raise ANSWER_NO_TRUTH.error()  # which else would be sought among the rows, and not be found

    def __reduce__(self) -> tuple[object, ...]:
        raise NOT_PICKLED.error()

    def where(self, condition: object) -> Self:
        """The rows for which a condition on their columns, or on the image's own, holds."""
        return self._asked(self.node.where(condition))

    def sort(self, by: object, descending: bool = False) -> Self:
        """The rows in another order: by a column, or a list of columns."""
        return self._asked(self.node.sort(by, descending))

    def limit(self, count: int) -> Self:
        """The first rows."""
        return self._asked(self.node.limit(count))

    def select(self, columns: object) -> Self:
        """Only some columns, the table's or the image's own."""
        return self._asked(self.node.select(columns))

    def sample(self, count: int, seed: int = 0) -> Self:
        """Some rows, chosen at random: the same ones for the same seed."""
        return self._asked(self.node.sample(count, seed))

    def group(self, by: object) -> Self:
        """Rows with equal values taken together; behind it stands what is wanted of each group."""
        return self._asked(self.node.group(by))

    def count(self) -> Self:
        """How many rows there are, in each group or in all."""
        return self._asked(self.node.count())

    def mean(self, column: object = None) -> Self:
        """The mean of the rows' numbers, in each group or in all; of a condition the share for which it holds."""
        return self._asked(self.node.mean(column))

    def median(self, column: object = None) -> Self:
        """The median of the rows' numbers, in each group or in all."""
        return self._asked(self.node.median(column))

    def min(self, column: object = None) -> Self:
        """The least of the rows' numbers, in each group or in all."""
        return self._asked(self.node.min(column))

    def max(self, column: object = None) -> Self:
        """The greatest of the rows' numbers, in each group or in all."""
        return self._asked(self.node.max(column))

    def histogram(self, column: object = None, *, bins: int = 20) -> Self:
        """How many rows there are for each layer, or in each bin of another number."""
        return self._asked(self.node.histogram(column, bins=bins))
