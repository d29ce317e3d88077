"""An answer: rows, a summary, a sentence, and where they come from. The question is run when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.answers.answer import SHOWN_ROWS
from vlq.query.answers.asked import Asked
from vlq.query.answers.files import plot_form, write_whole
from vlq.query.arrow import named_rows
from vlq.query.collector import collector_paused
from vlq.query.engine import Made
from vlq.query.errors import MissingExtra
from vlq.query.language.bind import (
    Counts,
    Others,
    Scope,
    Table,
    bind,
    compile_answer,
    compile_counts,
    compile_listed,
    compile_rows,
    compile_together,
    compile_totals,
)
from vlq.query.language.compile import VOCABULARY, Derived, Statement, default_columns
from vlq.query.language.groups import Grouped
from vlq.query.language.nodes import Node
from vlq.query.language.tokens import Token
from vlq.query.mistakes.values import TOO_MANY_CELLS
from vlq.query.summary import Rows, Summary, Totals

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

    from vlq.query.cache.reader import Snapshot
    from vlq.query.client.local import LocalCorpus


POSITIONS = {"patch", "position"}
"""Keys of which an answer's rows may be millions."""

LISTED_CELLS = 1_000_000
"""So many positions where nothing is stored are listed at most: what a few seconds and a gigabyte carry."""


def scope_of(corpus: LocalCorpus, snapshot: Snapshot, text: str, spans_are_places: bool) -> Scope:
    """A text held against a corpus."""

    def other(url: str) -> Scope:
        found = corpus.other(url)
        return scope_of(found, found.cache.snapshot(), text, spans_are_places)

    return Scope(
        corpus.cache.run,
        corpus.vocabulary,
        lambda: corpus.engine.image_columns(snapshot),
        lambda statement: corpus.engine.describe(statement, snapshot),
        lambda image: corpus.engine.find_image(image, snapshot),
        lambda: corpus.engine.labels(snapshot),
        lambda statement: corpus.engine.rows(statement, snapshot)[1],
        snapshot,
        corpus.names,
        other,
        text,
        spans_are_places,
    )


def rows_together(results: Sequence[Result]) -> list[Rows]:
    """The rows of several answers of one corpus, which it is asked for at once."""
    if not results:
        return []
    for result in results:
        result.check_listed()
    first = results[0]
    statement = compile_together([result.table for result in results])
    (found,) = first.corpus.engine.rows(statement, first.snapshot)[1]
    return [named_rows(result.columns, rows) for result, rows in zip(results, found, strict=True)]


class Result(Asked):
    """What a corpus answers to one query, of the snapshot at which it was asked. Mistakes show when it is made."""

    corpus: LocalCorpus

    def __init__(self, corpus: LocalCorpus, node: Node, text: str | None = None) -> None:
        self.corpus = corpus
        self.node = node
        self.snapshot = corpus.cache.snapshot()
        self._made: Made = []
        self._checked: list[Table] = []
        self.table = bind(node, scope_of(corpus, self.snapshot, str(node) if text is None else text, text is not None))
        # A mistake in a condition shows when it is compiled; groups wait for what is wanted of each.
        if not isinstance(self.table, Grouped):
            _ = self.statement

    @cached_property
    def statement(self) -> Statement:
        """The SQL that answers, its parameters, and the tables that it reads."""
        return self._compiled[0]

    @cached_property
    def _compiled(self) -> tuple[Statement, Statement | None]:
        return compile_answer(self.table)

    @cached_property
    def _answer(self) -> tuple[list[str], Rows]:
        if not POSITIONS & {*self.table.keys}:
            return self._listed(self.table, self.statement)
        self.check_listed()
        with collector_paused():
            return self.corpus.engine.many_rows(self.statement, self.snapshot, self._made)

    def _listed(self, table: Table, rows: Statement) -> tuple[list[str], Rows]:
        """A table's columns and rows. Raises as `_check_listed` does."""
        self._check_listed(table)
        return self._ask(rows)

    def check_listed(self) -> None:
        """Raises BadArgument if too many of its rows are of positions without readings."""
        self._check_listed(self.table)

    def _check_listed(self, table: Table) -> None:
        """Raises BadArgument if too many of a table's rows are of positions without readings."""
        if any(table is checked for checked in self._checked):
            return
        if (statement := self._compiled[1] if table is self.table else compile_listed(table)) is not None:
            ((listed,),) = self.corpus.engine.rows(statement, self.snapshot)[1]
            if listed > LISTED_CELLS:
                raise TOO_MANY_CELLS.error(listed=listed, most=LISTED_CELLS)
        self._checked.append(table)

    def _ask(self, statement: Statement) -> tuple[list[str], Rows]:
        with collector_paused():
            columns, rows = self.corpus.engine.rows(statement, self.snapshot, self._made)
            return columns, named_rows(columns, rows)

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    @property
    def rows(self) -> Rows:
        return self._answer[1]

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        relation = self.table.shape
        return tuple(name for _, name in relation.shown or default_columns(relation))

    @cached_property
    def _may_be_many(self) -> bool:
        """Whether rows are of patches, of which there may be millions: those are not looked at where SQL can tell."""
        return bool(POSITIONS & {*self.table.whole.keys}) and bool(self.table.whole.totals())

    @cached_property
    def _totals(self) -> Totals:
        """What is to be known of all rows where they may be many."""
        wanted = {"rows": "count(*)"}
        if self._tells_edges:
            wanted["censored"] = "bool_or(censored)"
        if self.table.whole is self.table:
            wanted |= self.table.totals()
        return self._aggregated(self.table, wanted)

    def _aggregated(self, table: Table, totals: Mapping[str, str]) -> Totals:
        return self._listed(table, compile_totals(table, totals))[1][0]

    def __len__(self) -> int:
        return self._totals["rows"] if self._may_be_many else len(self.rows)

    @cached_property
    def head(self) -> Rows:
        if not self._may_be_many:
            return super().head
        return self._listed(self.table, compile_rows(self.table, SHOWN_ROWS))[1]

    @property
    def is_censored(self) -> bool:
        if self._may_be_many:
            return bool(self._totals.get("censored"))
        return self._tells_edges and any(row["censored"] for row in self.rows)

    @cached_property
    def _tells_edges(self) -> bool:
        """Whether its rows say if they are at the edge of the layers that were looked at."""
        return "censored" in {*self._columns} - self.table.columns_of_images

    @cached_property
    def summary(self) -> Summary:
        """The answer in a few figures, `images` with readings and `matched` ones among them.

        Where there is one layer a row: `min`, `median`, `max` and `histogram` over the rows. Where `patches=` are of
        each image: how many have any (`with_patches`). With `against=`, the others' figures (`against`), for both sides
        `share`, `share_interval` and `median_interval`, all of these for the `difference`, and how many images are
        `unknown`; see `bootstrap`.
        """
        whole = self.table.whole
        if self._may_be_many:
            totals = self._totals if whole is self.table else self._aggregated(whole, whole.totals())
            return whole.sum_up(totals, self._counts(whole))
        rows = self.rows if whole is self.table else self._listed(whole, compile_rows(whole))[1]
        return whole.summarise(rows, self._counts(whole))

    def _counts(self, table: Table) -> Counts:
        statement = compile_counts(table)
        found = {} if statement is None else self._ask(statement)[1][0]
        others = None
        if table.split is not None:
            rows = [] if table.others is None else self._listed(table.others, compile_rows(table.others))[1]
            others = Others(found["others"], found["unknown"], rows, found.get("others_with_patches"))
        images = found.get("images", self.snapshot.images)
        return Counts(images, found.get("compared", 0), found.get("with_patches"), others, found)

    @property
    def headline(self) -> str:
        return self.table.headline(self.summary)

    @property
    def tokens(self) -> list[dict[str, Any]]:
        return [{"id": token.id, "piece": token.piece, "text": token.text} for token in self._tokens]

    @property
    def _tokens(self) -> list[Token]:
        return list(dict.fromkeys(token for tokens in self.table.token_sets for token in tokens.tokens))

    @cached_property
    def notes(self) -> list[str]:
        return self.table.notes() + self.snapshot.notes

    def arrow(self) -> pyarrow.Table:
        self.check_listed()
        return self.corpus.engine.arrow(self.statement, self.snapshot, self._made)

    def part(self, start: int, count: int) -> tuple[Rows, bool]:
        """So many rows behind the first ones, and whether more follow."""
        if not self._may_be_many:
            return self.rows[start : start + count], len(self.rows) > start + count
        rows = self._listed(self.table, compile_rows(self.table, count + 1, start))[1]
        return rows[:count], len(rows) > count

    def batches(self, start: int, count: int, rows_at_once: int) -> Iterator[pyarrow.RecordBatch]:
        """The same in batches, at least one, each made when it is asked for."""
        self.check_listed()
        statement = compile_rows(self.table, count, start)
        return self.corpus.engine.batches(statement, self.snapshot, rows_at_once, self._made)

    @property
    def snapshots(self) -> list[Snapshot]:
        """What it reads: this corpus', and others' in a comparison."""
        made = [of for of in self.statement.loaded.values() if isinstance(of, Derived)]
        others = [*(of for of, _, _ in self.statement.others.values()), *(of.snapshot for of in made if of.snapshot)]
        return list({id(of): of for of in [self.snapshot, *others]}.values())

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A matplotlib figure that suits the answer; written to a file too, if its name ends with .png or .svg.

        Raises MissingExtra without matplotlib, BadArgument if there is nothing to draw, StoreError.
        """
        form = "" if path is None else plot_form(os.fspath(path))
        try:
            from vlq.query.plots import draw
            from vlq.query.plots.style import written
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("matplotlib", "PIL"):
                raise
            message = f"Drawing needs {error.name}, which is not installed."
            raise MissingExtra(message, "Run: pip install 'vlq[plot]'") from error
        figure = draw(self)
        if path is not None:
            write_whole(os.fspath(path), written(figure, form), "--plot")
        return figure

    def explain(self) -> str:
        """The tokens, the SQL with its parameters, the files that it reads, and DuckDB's plan."""
        parts = [f"query       {self.node}", "tokens      " + ", ".join(str(token) for token in self._tokens)]
        for name, loaded in self.statement.loaded.items():
            if isinstance(loaded, Derived):
                parts += [
                    *self._explained(loaded.source, loaded.tables, loaded.snapshot),
                    f"\nof which {name} is made; and then\n",
                ]
        return "\n".join([*parts, *self._explained(self.statement)])

    def _explained(
        self, statement: Statement, more: tuple[str, ...] = (), snapshot: Snapshot | None = None
    ) -> list[str]:
        snapshot = snapshot or self.snapshot
        reads = {**{name: (snapshot, name, None) for name in more}, **statement.reads(snapshot)}
        files = [
            (name, stored)
            for name, (of, table, keys) in reads.items()
            if table != VOCABULARY
            for stored in of.stored(table, keys)
        ]
        return [
            "parameters  " + ", ".join(f"${name} = {value}" for name, value in statement.parameters.items()),
            "files       "
            + "\n            ".join(f"${table}: {stored.key}, {stored.size:,} bytes" for table, stored in files),
            f"\n{statement.sql}\n",
            self.corpus.engine.plan(statement, snapshot),
        ]

    def _asked(self, node: Node) -> Result:
        return self.corpus.query(node)
