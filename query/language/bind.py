"""Nodes -> bound tables: names become functions, words become token ids, and every value fits the corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.errors import VlqError
from vlq.query.image.geometry import READ
from vlq.query.language.against import Split
from vlq.query.language.compile import Compiler, Relation, Statement, default_columns, indented, quoted
from vlq.query.language.nodes import Arithmetic, Call, Comparison, Literal, Logic, Method, Name, Node, Not
from vlq.query.language.nodes import Sequence as SequenceNode
from vlq.query.language.parameters import LayerSet
from vlq.query.language.predicates import Predicate, is_asked
from vlq.query.language.registry import Function, functions, methods
from vlq.query.language.tokens import TokenSet, Vocabulary
from vlq.query.mistakes.calls import NOTHING_ASKED
from vlq.query.mistakes.combined import NO_ANSWER
from vlq.query.mistakes.conditions import OF_COLUMNS
from vlq.query.mistakes.table import Mistake
from vlq.query.mistakes.values import RANK_ABOVE_K, RANK_UNTRACKED
from vlq.query.schema import READ_COLUMNS, Run
from vlq.query.summary import Rows, Summary, Totals

if TYPE_CHECKING:
    from vlq.query.cache.reader import Snapshot
    from vlq.query.language.patches import PatchSet


UNREAD = "Some patches of each image were read (vlq run --patches {}): the others match nothing and count nowhere."
"""What is to be known of an answer about the patches of a run that did not read them all."""

UNSPACED = "Without a space before it, as an answer may begin here, the word is {}: pieces=True counts that too."
"""What is to be known of words at the position after which an answer begins."""


@dataclass(frozen=True)
class Scope:
    """What a query is held against, and its text, in which mistakes are pointed at."""

    run: Run
    vocabulary: Vocabulary
    image_columns: Callable[[], Mapping[str, str]]  # the image table's: DuckDB types by name
    describe: Callable[[Statement], Mapping[str, str]]  # the types of a statement's columns by name
    find_image: Callable[[str | int], list[int]]  # the numbers of the images of a name or number that have readings
    labels: Callable[[], list[str]]  # what objects are labelled, in images that came with their objects
    ask: Callable[[Statement], list[tuple[Any, ...]]]  # the rows that the cache has for a statement
    snapshot: Snapshot
    called: tuple[str, ...]  # what queries may call the cache
    open: Callable[[str], Scope]  # the same text held against another cache, by its URL
    text: str
    spans_are_places: bool  # whether the nodes' spans are places in this text
    pieces: bool = False  # whether words may be pieces inside of words

    def error(self, mistake: Mistake, node: Node, **values: object) -> VlqError:
        """The error of a mistake, pointing at a node, which is what the mistake's texts have as {got}."""
        return mistake.error(self.text, self.place(node), **{"got": node, **values})

    def place(self, node: Node) -> tuple[int, int] | None:
        """Where a node stands in the text."""
        return node.span if self.spans_are_places else None


class Placed:
    """Counts of images, and of those that have patches where `patches=` are of each image."""

    with_patches: int | None

    @property
    def placed(self) -> Summary:
        """The last of these as part of a summary."""
        return {} if self.with_patches is None else {"with_patches": self.with_patches}


@dataclass(frozen=True)
class Others(Placed):
    """What there is of the images that an answer is held against."""

    images: int
    unknown: int  # how many are on neither side
    rows: Rows  # none if the answer's own rows tell
    with_patches: int | None = None  # how many have patches of those that count, if not all have


@dataclass(frozen=True)
class Counts(Placed):
    """What a summary needs beside the rows."""

    images: int  # with readings, of those that were asked for
    compared: int = 0  # rows of a condition for which it can be said whether it holds
    with_patches: int | None = None  # images that have patches of those that count, if not all have
    others: Others | None = None  # if the answer is held against anything
    found: Mapping[str, int] = field(default_factory=dict)  # all that `Table.counts` counts, by its names


class Table(ABC):
    """A bound query: something with rows."""

    @abstractmethod
    def relation(self, compiler: Compiler) -> Relation:
        """Its SQL."""

    @cached_property
    def shape(self) -> Relation:
        """Its SQL by itself, for what that tells of it: keys, columns, what holds."""
        return self.relation(Compiler())

    @property
    def keys(self) -> tuple[str, ...]:
        """What there is a row for: of image, patch, layer, token; nothing if there is one row."""
        return self.shape.keys

    @property
    def columns_of_images(self) -> frozenset[str]:
        """Which of its keys and columns came with the images: they tell nothing of readings, however called."""
        return frozenset()

    @property
    def whole(self) -> Table:
        """The table whose rows the summary is of: what is only shown in part or in another order is summed up whole."""
        return self

    def counts(self, compiler: Compiler) -> dict[str, str]:
        """SQL of what the summary needs beside the rows, by name; of images only if not all are asked for.

        Of a condition `compared` counts the rows for which it can be said whether it holds.
        """
        found = {}
        population = [*self.has_readings] + ([] if self.population is None else [self.population.sql(compiler)])
        if population:
            found["images"] = compiler.count_images(*population)
        with_patches = []
        if self.patches is not None and self.patches.by_image:
            with_patches = [f"image_id IN (SELECT image FROM {self.patches.part(compiler)})"]
            found["with_patches"] = compiler.count_images(*population, *with_patches)
        if self.split is not None:
            others = [*self.has_readings, self.split.others.sql(compiler)]
            found["others"] = compiler.count_images(*others)
            found["unknown"] = compiler.count_images(*self.has_readings, *self.split.unknown(compiler))
            if with_patches:
                found["others_with_patches"] = compiler.count_images(*others, *with_patches)
        if holds := self.shape.holds:
            every = self.cells(compiler, every=True, places=False)
            found["compared"] = f"({compiler.count(every, f'{holds} IS NOT NULL')})"
        return found

    def cells(self, compiler: Compiler, *, every: bool = False, places: bool = True) -> Relation:
        """Its rows; with `every` those for which its condition does not hold or cannot be said, too.

        Without `places` only their numbers count: what is alike at many positions is a row with a weight.
        """
        relation = self.relation(compiler)
        if every and relation.holds:
            relation = relation.with_all_cells
        return relation if places else compiler.weighed(relation)

    @property
    @abstractmethod
    def population(self) -> Predicate | None:
        """Which images were asked for; None for all."""

    @property
    def split(self) -> Split | None:
        """What the answer is held against; None for nothing."""
        return None

    @property
    def others(self) -> Table | None:
        """The same question to the images that it is held against; None if the rows tell of them, too."""
        return None

    @property
    def patches(self) -> PatchSet | None:
        """At which patches readings count; None for all."""
        return None

    @property
    def has_readings(self) -> tuple[str, ...]:
        """SQL of what holds for the images that have readings where they are asked for, beside not having failed."""
        return ()

    @property
    @abstractmethod
    def token_sets(self) -> tuple[TokenSet, ...]:
        """The tokens that are asked for."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """What is asked of, as sentences about groups of the rows begin."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What the answer cannot know, or rests on."""

    @abstractmethod
    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        """The rows in a few figures."""

    def totals(self) -> Mapping[str, str]:
        """SQL of the aggregates over its columns that `sum_up` needs, by name; none if only rows tell."""
        return {}

    def sum_up(self, totals: Totals, counts: Counts) -> Summary:
        """What `summarise` says, of the rows' totals."""
        raise NotImplementedError

    @abstractmethod
    def headline(self, summary: Summary) -> str:
        """The summary as one English sentence."""


@dataclass(frozen=True, eq=False)
class Bound(Table):
    """A call whose every argument, given or by default, is a checked value."""

    call: Call
    function: Function
    scope: Scope
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def run(self) -> Run:
        return self.scope.run

    @property
    def token(self) -> TokenSet:
        value: TokenSet = self.values["token"]
        return value

    @property
    def layers(self) -> LayerSet:
        value: LayerSet = self.values["layers"]
        return value

    def given(self, **values: Any) -> Bound:
        """The same call with other values."""
        return replace(self, values={**self.values, **values})

    def argument(self, name: str) -> Node:
        """Where a mistake in an argument is pointed at: the argument, or the whole call if it was left out."""
        node = self.call.get(name)
        return self.call if node is None else node

    def relation(self, compiler: Compiler) -> Relation:
        assert self.function.compile is not None
        return self.function.compile(self, compiler)

    @property
    def columns_of_images(self) -> frozenset[str]:
        return frozenset(self.shape.columns) - READ_COLUMNS.keys() if self.function.shows_images else frozenset()

    @property
    def population(self) -> Predicate | None:
        images: Predicate | None = self.values.get("images")
        return images

    @property
    def split(self) -> Split | None:
        split: Split | None = self.values.get("against")
        return split

    @property
    def others(self) -> Bound | None:
        return None if self.split is None or self.function.shows_others else self.of_others(self.split)

    def of_others(self, split: Split) -> Bound:
        """The same call for the images that it is held against, by itself."""
        return self.given(images=split.others, against=None)

    @property
    def patches(self) -> PatchSet | None:
        patches: PatchSet | None = self.values.get("patches")
        return patches

    @property
    def has_readings(self) -> tuple[str, ...]:
        return (f"len({READ}) > 0",) if self._is_of_some_patches else ()

    @property
    def _is_of_some_patches(self) -> bool:
        """Whether it is about patches, not all of which were read."""
        return self.run.patches_column is not None and self.function.is_of_patches(self.values)

    @property
    def _conditions(self) -> list[Predicate]:
        return [value for value in self.values.values() if isinstance(value, Predicate)]

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        found: list[TokenSet] = []
        for value in self.values.values():
            # A parameter takes one set, or several side by side.
            found += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, TokenSet)]
        found += [tokens for condition in self._conditions for tokens in condition.token_sets]
        return (*found, *(self.patches.token_sets if self.patches is not None else ()))

    @property
    def subject(self) -> str:
        return str(self.call) if self.function.subject is None else self.function.subject(self)

    def notes(self) -> list[str]:
        notes = [note for tokens in self.token_sets for note in tokens.notes]
        if self._is_of_some_patches:
            notes.append(UNREAD.format(self.run.patches_option))
        vocabulary = self.scope.vocabulary
        is_open = self.values.get("at") == "last" and vocabulary.is_open(self.run.prompt, self.run.prompt_ids)
        if is_open and (pieces := vocabulary.without_space(self.token_sets)):
            notes.append(UNSPACED.format(", ".join(map(str, pieces))))
        notes += self.function.notes(self) if self.function.notes is not None else []
        notes += [note for condition in self._conditions for note in condition.notes()]
        return list(dict.fromkeys(notes + (self.patches.notes() if self.patches is not None else [])))

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        assert self.function.summarise is not None
        summary = {**self.function.summarise(self, rows, counts.images), **counts.placed}
        if counts.others is None:
            return summary
        assert self.function.contrast is not None
        return self.function.contrast(self, summary, rows, counts.others)

    def totals(self) -> Mapping[str, str]:
        # What it is held against takes how many rows each image has.
        return {} if self.function.totals is None or self.split is not None else self.function.totals(self)

    def sum_up(self, totals: Totals, counts: Counts) -> Summary:
        assert self.function.sum_up is not None
        return {**self.function.sum_up(self, totals, counts.images), **counts.placed}

    def headline(self, summary: Summary) -> str:
        assert self.function.headline is not None
        return self.function.headline(self, summary)


def bind(node: Node, scope: Scope) -> Table:
    """The node with everything in it looked up. Raises QueryError."""
    from vlq.query.language.combine import combine

    match node:
        case Call(function=name) if functions()[name].is_table:
            own = functions()[name].bind
            return _call(node, scope) if own is None else own(node, scope)
        case Method():
            return methods()[node.method].apply(node, bind(node.table, scope), scope)
        case Logic(operands=operands) if any(map(is_asked, operands)) and not all(map(is_asked, operands)):
            column = next(operand for operand in operands if not is_asked(operand))
            raise scope.error(OF_COLUMNS, column, whole=node)
        case Comparison(operands=operands) | Logic(operands=operands):
            return combine(node, tuple(_operand(part, scope) for part in operands), scope)
        case Not(operand=operand):
            return combine(node, (bind(operand, scope),), scope)
        case Arithmetic(left=left, right=right):
            return combine(node, (_operand(left, scope), _operand(right, scope)), scope)
    raise scope.error(NOTHING_ASKED, node)


def _operand(node: Node, scope: Scope) -> Table | Literal:
    """A table, or a number that tables are held against."""
    match node:
        case Literal(value=int() | float()) if not isinstance(node.value, bool):
            return node
        case Literal() | Name() | SequenceNode():
            raise scope.error(NO_ANSWER, node)
    return bind(node, scope)


def _call(node: Call, scope: Scope) -> Bound:
    function = functions()[node.function]
    values: dict[str, Any] = {}
    # `pieces` says how words are read, so it is bound before them.
    for parameter in sorted(function.parameters, key=lambda parameter: parameter.name != "pieces"):
        argument = node.get(parameter.name)
        if argument is None:
            argument = parameter.default_node()
        values[parameter.name] = parameter.type.bind(argument, parameter.name, scope)
        if parameter.name == "pieces":
            scope = replace(scope, pieces=values["pieces"])
    if (condition := values.get("against")) is not None:
        split = values["against"] = Split(values["images"], condition)
        values["images"] = split.chosen
    bound = Bound(node, function, scope, values)
    _check_rank(bound, scope)
    if function.check is not None:
        function.check(bound, scope)
    return bound


def _check_rank(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument for a rank that is not stored, unless every token is tracked."""
    if bound.values.get("rank", 1) <= scope.run.k:
        return
    sets = [part for value in bound.values.values() for part in (value if isinstance(value, tuple) else (value,))]
    ids = {id for tokens in sets if isinstance(tokens, TokenSet) for id in tokens.ids}
    if ids and (scope.run.keeps_all or ids <= {*scope.run.tracked}):
        return
    if scope.run.tracked:
        tracked = ", ".join(map(str, scope.vocabulary.tokens(scope.run.tracked)))
        raise scope.error(RANK_UNTRACKED, bound.argument("rank"), k=scope.run.k, tracked=tracked)
    raise scope.error(RANK_ABOVE_K, bound.argument("rank"), name="rank", k=scope.run.k)


# --- statements ------------------------------------------------------------------------------------------------


def compile_rows(table: Table, first: int | None = None, skipped: int = 0) -> Statement:
    """The SELECT of a table's rows, or of so many of the first ones behind those that are skipped."""
    compiler = Compiler()
    return compiler.statement(table.relation(compiler), first, skipped)


def compile_together(tables: Sequence[Table]) -> Statement:
    """The SELECT of several tables' rows, as lists in one row. What several are made of is made once."""
    compiler = Compiler(is_shared=True)
    columns = []
    for table in tables:
        relation = table.relation(compiler)
        shown = relation.shown or default_columns(relation)
        names = ", ".join(f"value{i}" for i, _ in enumerate(shown))  # in place of any that columns have
        rows = f"(\n  {indented(compiler.ordered(relation))}\n) AS answer({names})"
        columns.append(f"ARRAY(SELECT row({names}) FROM {rows})")
    return compiler.ask(f"SELECT {', '.join(columns)}")


def compile_totals(table: Table, totals: Mapping[str, str]) -> Statement:
    """The SELECT of aggregates over the columns of a table's rows, in one row."""
    compiler = Compiler()
    columns = [f"{sql} AS {quoted(name)}" for name, sql in totals.items()]
    rows = indented(compiler.select(table.relation(compiler)))
    return compiler.ask(f"SELECT {', '.join(columns)}\nFROM (\n  {rows}\n)")


def compile_counts(table: Table) -> Statement | None:
    """The SELECT of what a summary needs beside the rows, in one row: see Counts. None if it needs nothing."""
    compiler = Compiler()
    columns = [f"{sql} AS {name}" for name, sql in table.counts(compiler).items()]
    return compiler.ask(f"SELECT {', '.join(columns)}") if columns else None


def column_types(table: Table, scope: Scope) -> Mapping[str, str]:
    """The DuckDB types of a table's columns, by name."""
    compiler = Compiler()
    return scope.describe(compiler.ask(f"SELECT * FROM {table.relation(compiler).part()}"))


def compile_listed(table: Table) -> Statement | None:
    """The SELECT of how many positions a table lists, at most, by what is known of the rest. None if it lists none."""
    return compile_answer(table)[1]


def compile_answer(table: Table) -> tuple[Statement, Statement | None]:
    """Both `compile_rows` and `compile_listed`."""
    compiler = Compiler()
    rows = compiler.statement(table.relation(compiler))
    counts = [f"({sql})" for sql in compiler.listings]
    return rows, compiler.ask(f"SELECT {' + '.join(counts)} AS listed") if counts else None
