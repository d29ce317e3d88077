"""What an answer's rows can be narrowed by: of each column how many rows have which value, and the query of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

from propcache.api import cached_property

from vlq.query.answers.result import Result, rows_together
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import QueryError
from vlq.query.language.nodes import INTEGERS, Call, Comparison, Literal, Name, Node, node_of
from vlq.query.language.predicates import Column
from vlq.query.language.registry import call
from vlq.query.language.shown import AREA_SQL, Shown
from vlq.query.schema import READ_COLUMNS
from vlq.query.summary import Rows
from vlq.service.narrow import (
    GROUPS,
    conditions,
    images_argument,
    images_conditions,
    is_about,
    joined,
    narrowed,
    of_images,
    steps,
    uncut,
    without,
)

MOST_VALUES = 12
"""Values of a column that are listed, those of most rows."""

BINS = 24

NOT_OF_IMAGES = {*READ_COLUMNS} - {"width", "height", "answer"} | {"image"}
"""Columns of images that say nothing about a group of them."""

NOT_OF_ROWS = {"image", "image_id", "patch", "patches", "position", "positions", "row", "col", "box", "piece", "text"}
"""Columns of answers whose values are places, or are said by another one."""


@dataclass(frozen=True)
class Bar:
    """A value of a column, or a range of values."""

    label: str
    count: int
    chosen: bool  # whether the query asks for it already
    query: str | None  # the query with this chosen, or without if it is; None if no condition says it
    low: float | None = None  # of a range, or of a number
    high: float | None = None


@dataclass(frozen=True)
class Facet:
    """How many rows (or images) have which value of a column."""

    column: str
    counts: str  # what is counted: rows, images, rows of each token by itself
    said: str  # what its values are, where its name does not say it
    numbers: bool  # whether the bars are those of a histogram
    bars: tuple[Bar, ...]
    more: bool  # whether there are further values

    @property
    def parts(self) -> bool:
        """Whether there is anything to choose: more than one value, or one that was chosen."""
        return sum(1 for bar in self.bars if bar.count) > 1 or any(bar.chosen for bar in self.bars)


def facets(corpus: LocalCorpus, query: str) -> list[Facet]:
    """The facets of an answer. Raises QueryError if there is no such answer.

    They are of all rows, whatever part of these is shown; each is of those that the other columns' conditions leave.
    """
    asked = corpus.query(query)
    found: list[_Counted] = [
        *_of_rows(asked),
        *_of_tokens(asked),
        *(_of_population(asked) if "image" not in asked.table.keys else []),
    ]
    rows = iter(rows_together([part for one in found for part in one.asked]))
    made = [one.facet(list(islice(rows, len(one.asked)))) for one in found]
    return [facet for facet in made if facet is not None and facet.parts]


def columns_of(result: Result) -> Mapping[str, Column]:
    """The columns that can be named behind an answer, its own before those of its images."""
    table = result.corpus.query(uncut(result.node).limit(1)).table
    assert isinstance(table, Shown)
    return table.columns(table.table.shape)


def is_of_values(column: Column) -> bool:
    """Whether rows can be parted by a column's values: texts, truths, or lists of texts."""
    return column.kind in ("text", "truth") or (column.kind == "list" and column.item_kind == "text")


def is_grouped(node: Node) -> bool:
    """Whether a query's rows are groups: few, and counted already."""
    return any(step.method in GROUPS for step in steps(node)[1])


# --- whose columns ---------------------------------------------------------------------------------------------


def _of_rows(asked: Result) -> Iterator[_Parted]:
    """Of the columns of an answer, and of its images' own."""
    if is_grouped(asked.node):
        return
    relation = asked.table.shape
    own = {*relation.keys, *relation.columns, "area"} - NOT_OF_ROWS
    columns = columns_of(asked)
    for name in sorted(columns, key=lambda name: (_rank(name), name not in own)):
        if name not in own and name in NOT_OF_IMAGES | NOT_OF_ROWS:
            continue
        here = [part for part in conditions(asked.node) if is_about(part, name)]
        others = without(asked.node, partial(is_about, column=name))
        has_pieces = name == "token" and "piece" in columns
        choose = partial(narrowed, others)
        yield _Parted(asked.corpus, name, columns[name], has_pieces, uncut(others), "rows", here, others, choose)


OF_TOKENS = ("first_layer", "last_layer", "peak_layer", "readings")
"""Functions whose rows say where a token is read, but not which one of several."""


def _of_tokens(asked: Result) -> Iterator[_Tokens]:
    """Of the tokens that a query names together: how many rows the same query has of each of them by itself."""
    first, done = steps(asked.node)
    if not (isinstance(first, Call) and first.function in OF_TOKENS) or is_grouped(asked.node):
        return
    if first.get("missing") is not None:
        return  # there is a row for every image, whichever the token
    named = tuple((name, value) for name, value in first.arguments if name in ("token", "pieces"))
    tokens = asked.corpus.query(Call(first.function, named, min(first.positional, 1))).tokens
    if len(tokens) > MOST_VALUES:
        return  # each is a query of its own
    queries = []
    for token in tokens:
        arguments = tuple((name, value) for name, value in first.arguments if name != "pieces")
        alone = tuple((name, Literal(token["id"]) if name == "token" else value) for name, value in arguments)
        queries.append(joined(replace(first, arguments=alone), done))
    counts = tuple(asked.corpus.query(uncut(query).count()) for query in queries)
    yield _Tokens(counts, tuple(token["piece"] or str(token["id"]) for token in tokens), tuple(map(str, queries)))


def _rank(name: str) -> int:
    """Layers first, then tokens, then areas."""
    order = ("layer", "token", "area")
    return order.index(name) if name in order else len(order)


def _of_population(asked: Result) -> Iterator[_Parted]:
    """Of the columns of the images that are asked, where rows are not of single images."""
    if images_argument(asked.node) is None:
        return
    every = call("images", [], [])
    columns = columns_of(asked.corpus.query(every))
    given = images_conditions(asked.node)
    for name in (name for name in columns if name not in NOT_OF_IMAGES):
        here = [part for part in given if is_about(part, name)]
        left = [part for part in given if not is_about(part, name)]
        others = of_images(asked.node, left)

        def choose(condition: Node, left: list[Node] = left) -> Node:
            return of_images(asked.node, [*left, condition])

        source = of_images(every, left)
        yield _Parted(asked.corpus, name, columns[name], False, source, "images", here, others, choose)


# --- a column --------------------------------------------------------------------------------------------------


class _Counted(Protocol):
    """What a facet is made of."""

    @property
    def asked(self) -> tuple[Result, ...]:
        """The answers whose rows it takes."""

    def facet(self, answers: Sequence[Rows]) -> Facet | None:
        """It, of these rows; None if there is nothing to choose."""


@dataclass(frozen=True)
class _Tokens:
    """Tokens, each with the query of it alone."""

    asked: tuple[Result, ...]
    labels: tuple[str, ...]
    queries: tuple[str, ...]

    def facet(self, answers: Sequence[Rows]) -> Facet:
        counts = [row["count"] for (row,) in answers]
        bars = [
            Bar(label, count, False, query if count else None)
            for label, count, query in zip(self.labels, counts, self.queries, strict=True)
        ]
        bars.sort(key=lambda bar: -bar.count)
        return Facet("token", "rows of each by itself", "", False, tuple(bars), False)


@dataclass(frozen=True)
class _Parted:
    """A column by which a query's rows (or images) are parted."""

    corpus: LocalCorpus
    name: str
    column: Column
    has_pieces: bool  # whether it is of tokens, whose pieces are another column
    source: Node  # what is counted: all rows but for conditions on this column
    counts: str
    here: list[Node]  # the query's conditions on this column
    others: Node  # the query without these
    choose: Callable[[Node], Node]  # that query with a condition

    @property
    def is_histogram(self) -> bool:
        return self.column.kind == "number" and self.name != "token"

    @cached_property
    def asked(self) -> tuple[Result, ...]:
        """How many rows there are by value; or by bin, and where bins do not tell it, without a number. Nothing where
        the query's rows cannot be grouped."""
        try:
            if self.is_histogram:
                tables = [self.source.histogram(Name(self.name), bins=BINS)]
                if not self.column.is_whole:
                    tables.append(self.source.where(self._is(None)).count())
                return tuple(map(self.corpus.query, tables))
            return (self._most_common(),) if is_of_values(self.column) or self.name == "token" else ()
        except QueryError:
            return ()

    def facet(self, answers: Sequence[Rows]) -> Facet | None:
        if not answers:
            return None
        return self._histogram(*answers) if self.is_histogram else self._values(*answers)

    def _bar(self, label: str, count: int, condition: Node | None, low: Any = None, high: Any = None) -> Bar:
        is_chosen = condition is not None and any(part.equals(condition) for part in self.here)
        query = None
        if condition is not None and (count or is_chosen):
            query = str(self.others if is_chosen else self.choose(condition))
        return Bar(label, count, is_chosen, query, low, high)

    def _is(self, value: Any) -> Node:
        return Comparison((Name(self.name), Literal(value)), ("==",))

    def _between(self, least: float, most: float) -> Node | None:
        """The condition that a number is in a bin; None if no query can hold an end of it."""
        below = "<"
        if self.column.type == "BIGINT" and most > INTEGERS[-1]:
            most, below = INTEGERS[-1], "<="
        if self.column.type == "BIGINT":
            least = max(least, INTEGERS[0])
        if any(isinstance(end, int) and end not in INTEGERS for end in (least, most)):
            return None
        return Comparison((node_of(least), Name(self.name), node_of(most)), ("<=", below))

    def _most_common(self) -> Result:
        by = [Name(self.name), Name("piece")] if self.has_pieces else [Name(self.name)]
        table = self.source.group(by).count()
        count = self.corpus.query(table).columns[-1]
        return self.corpus.query(table.sort(Name(count), descending=True).limit(MOST_VALUES + 1))

    def _values(self, rows: Rows) -> Facet | None:
        count = self.asked[0].columns[-1]
        if len(rows) > MOST_VALUES and rows[0][count] == 1:
            return None  # each value is another one
        bars = []
        for row in rows[:MOST_VALUES]:
            value, condition = row[self.name], self._is(row[self.name])
            label = "none" if value is None else str(row["piece"] or value) if self.has_pieces else str(value) or "“”"
            if isinstance(value, bool):
                label = "yes" if value else "no"
            if self.column.kind == "list":
                listed = Comparison((Literal(value), Name(self.name)), ("in",))
                bars.append(self._bar(label, row[count], None if value is None else listed))
            else:
                bars.append(self._bar(label, row[count], condition))
        return Facet(self.name, self.counts, "", False, tuple(bars), len(rows) > MOST_VALUES)

    def _histogram(self, rows: Rows, without_number: Rows | None = None) -> Facet:
        bars = []
        for row in rows:
            *edges, count = row.values()
            low, high = edges[0], edges[-1]
            if low is None:
                bars += self._outside(count, count if without_number is None else without_number[0]["count"])
            elif len(edges) == 1 or (self.column.is_whole and high - low == 1):
                bars.append(self._bar(str(int(low)), count, self._is(int(low)), low, low))
            else:
                least, most = (int(edge) if self.column.is_whole else float(edge) for edge in edges)
                label = f"{_figure(least)} to {_figure(most)}"
                bars.append(self._bar(label, count, self._between(least, most), low, high))
        said = "share of the image's patches" if self.column.sql == AREA_SQL else ""
        return Facet(self.name, self.counts, said, True, tuple(bars), False)

    def _outside(self, count: int, missing: int) -> list[Bar]:
        """Rows in no range: those without a number, and those with one that is not finite, or far too large."""
        found = [self._bar("none", missing, self._is(None))] if missing else []
        return found + ([Bar("others", count - missing, False, None)] if count > missing else [])


def _figure(edge: float) -> str:
    """Round numbers of many digits as powers of ten."""
    return str(edge) if abs(edge) < 1e12 else f"{edge:.15g}"
