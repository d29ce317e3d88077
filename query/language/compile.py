"""What a bound query compiles to: relations inside, and in the end one SELECT.

Every value is a bound parameter. A table of the index is read as `read_parquet($name)`, whose files the engine fills
in from the snapshot that the query is asked of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from vlq.query.language.bounds import LOW
from vlq.query.language.parameters import LayerSet

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot

LISTED_TOKENS = 32
"""So many tokens are listed one by one, which lets whole row groups be skipped; more are joined with."""


VOCABULARY = "vocabulary"
"""The table of tokens: id, piece, text, word_start, special."""


Loader = Callable[["Snapshot"], "pyarrow.Table"]
"""Reads a table from a cache's arrays."""


Keys = frozenset[int] | None
"""Of which tokens a table's rows are read; None: of all."""


@dataclass(frozen=True)
class Derived:
    """A table that Python makes of another statement's rows: what SQL is too slow at. `tables` are read beside.

    It is made of the cache that is asked, or of `snapshot`, if there is one. Equal ones are one table
    (`Compiler.load`): a plain function as `make` is equal to itself, a `functools.partial` is not.
    """

    source: Statement
    make: Callable[[Snapshot, pyarrow.Table], pyarrow.Table]
    tables: tuple[str, ...] = ()
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Statement:
    """One SELECT. `tables` are the index tables that it reads, each by the parameter of its name, and of which keys.

    `others` are tables of other caches, by their parameters. `loaded` are tables that are made when the statement is
    run, by the names that it has for them.
    """

    sql: str
    parameters: Mapping[str, Any]
    tables: Mapping[str, Keys]
    loaded: Mapping[str, Loader | Derived] = field(default_factory=dict)
    others: Mapping[str, tuple[Snapshot, str, Keys]] = field(default_factory=dict)

    def reads(self, snapshot: Snapshot) -> dict[str, tuple[Snapshot, str, Keys]]:
        """By its parameter, each table that it reads when a cache is asked: of which cache, its name, of which keys."""
        return {**{name: (snapshot, name, keys) for name, keys in self.tables.items()}, **self.others}


@dataclass(frozen=True)
class Rest:
    """What is known of the cells of a table that have no row, the same at every position of an image's layer.

    `sql` is a SELECT of image, layer, and the bounds of the value or whether a condition holds, with a row for each
    image and layer that were asked for. `positions` are a layer's. `listed` says that all these cells are to be shown;
    of a condition's those are in which it holds. `mask` is what `patches.PatchSet.mask` joins, if cells are at some
    patches only.
    """

    sql: str
    positions: int
    listed: bool = False
    mask: str | None = None

    def part(self) -> str:
        """The SELECT as something to select from; with a mask, `inside` tells the patches."""
        if self.mask is None:
            return f"({indented(self.sql)}\n)"
        return f"(SELECT * FROM (\n  {indented(self.sql)}\n) {self.mask})"


@dataclass(frozen=True)
class Relation:
    """A table of the language as SQL, while it is being put together.

    `sql` is a SELECT of the keys and the columns. Of the keys `image` is an image's number. `value` is the column that
    stands for a row in comparisons and arithmetic; of a condition, `holds` is the column that says where it is true.
    If it is `bounded`, the value is what is stored, null where nothing is, and the truth lies between the columns
    `bounds.LOW` and `HIGH`.
    `order` and `shown` are SQL in terms of `answer`, which is this relation, and `images`, the image table.
    """

    sql: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    value: str | None = None
    order: tuple[str, ...] = ()  # what rows are sorted by, before their keys
    holds: str | None = None
    mask: str | None = None  # the column of the patches that a row stands for, where patches are asked for
    missing_is_last: bool = False  # whether a row without a value is after any that has one
    shown: tuple[tuple[str, str], ...] | None = None  # SQL and name of the columns, if not all in their order
    bounded: bool = False
    rest: Rest | None = None
    weight: str | None = None  # the column of how many cells a row stands for, if that is not one; see `weighed`

    @property
    def place(self) -> str | None:
        """The key of the position in an image's layer; None if a layer has one."""
        return self.keys[2] if len(self.keys) > 2 else None

    @property
    def lists_rest(self) -> bool:
        """Whether cells without a row are to be shown."""
        return self.rest is not None and (self.rest.listed or self.holds is not None)

    @property
    def shows(self) -> str | None:
        """The condition, on columns of its own, that a row is one of the answer's; None if all are."""
        return self.holds or (f"{LOW} IS NOT NULL" if self.bounded else None)

    @property
    def with_all_cells(self) -> Relation:
        """Of a condition every row, whether it holds there or not, and every cell without one."""
        return replace(self, holds=None, rest=None if self.rest is None else replace(self.rest, listed=True))

    def part(self) -> str:
        """The SELECT as something to select from."""
        return f"({indented(self.sql)}\n)"


@dataclass
class Compiler:
    """Gathers the values, tables and shared parts of a statement while its relations are compiled.

    Tables are read of the cache that is asked, or of `snapshot`, if there is one.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    placed: dict[tuple[str, type, Any] | None, str] = field(default_factory=dict)  # texts' and numbers' names, by value
    numbers: dict[str, int] = field(default_factory=dict)  # how many of these each name has
    tables: dict[str, Keys] = field(default_factory=dict)
    loaded: dict[str, Loader | Derived] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    others: dict[str, tuple[Snapshot, str, Keys]] = field(default_factory=dict)
    listings: list[str] = field(default_factory=list)  # SELECTs of how many cells without readings have rows, at most
    snapshot: Snapshot | None = None
    is_shared: bool = False  # whether it is of several questions, which may be about the same rows

    def of(self, snapshot: Snapshot) -> Compiler:
        """The same statement's compiler, for parts that read another cache."""
        return replace(self, snapshot=snapshot)

    def value(self, name: str, value: Any) -> str:
        """A placeholder for a value: `$name`, or `$name_2` if that stands for another one."""
        plain = (name, type(value), value) if isinstance(value, str | int | float) else None
        if plain in self.placed:
            return f"${self.placed[plain]}"
        # A condition may list thousands of values, each of which is looked for behind the one before.
        number = 1 if plain is None else self.numbers.get(name, 1)
        free = name if number == 1 else f"{name}_{number}"
        while free in self.parameters and not _same(self.parameters[free], value):
            number += 1
            free = f"{name}_{number}"
        self.parameters[free] = value
        if plain is not None:
            self.placed[plain], self.numbers[name] = free, number
        return f"${free}"

    def table(self, name: str, tokens: Sequence[int] | None = None) -> str:
        """A table of the index, the images' or VOCABULARY, as something to select from: all of it, or tokens' rows."""
        # Of a join with many tokens DuckDB reads whatever lies between the lowest and the highest one.
        keys = None if tokens is None or len(tokens) > LISTED_TOKENS else frozenset(tokens)
        if self.snapshot is not None:
            known = (free for free, (of, table, _) in self.others.items() if (of, table) == (self.snapshot, name))
            free = next(known, f"other{len(self.others) + 1}_{name}")
            if free in self.others:
                keys = _both(self.others[free][2], keys)
            self.others[free] = self.snapshot, name, keys
            return f"read_parquet(${free})"
        self.tables[name] = _both(self.tables[name], keys) if name in self.tables else keys
        return f"read_parquet(${name})"

    def load(self, name: str, table: Loader | Derived) -> str:
        """A table that Python reads or makes, as something to select from."""
        if (other := self.snapshot) is not None:
            table = replace(table, snapshot=other) if isinstance(table, Derived) else _of(other, table)
        for known, same in self.loaded.items():
            if same == table:
                return known
        free = name if name not in self.loaded else f"{name}_{len(self.loaded) + 1}"
        self.loaded[free] = table
        return free

    def part(self, name: str, sql: str) -> str:
        """The name of a SELECT that is computed once, and from which every part of the statement can select."""
        for known, same in self.parts.items():
            if same == sql:
                return known
        free = name if name not in self.parts else f"{name}_{len(self.parts) + 1}"
        self.parts[free] = sql
        return free

    def tokens(self, ids: Sequence[int]) -> str:
        """The condition that a row is of one of these tokens."""
        if len(ids) == 1:
            return f"token = {self.value('token', ids[0])}"
        if len(ids) <= LISTED_TOKENS:
            return f"token IN ({', '.join(self.value('token', id) for id in ids)})"
        return f"token IN (SELECT unnest({self.value('tokens', list(ids))}::UINTEGER[]))"

    def count_images(self, *conditions: str) -> str:
        """The number of images with readings for which conditions on the image table, as `images`, hold."""
        where = "".join(f" AND ({condition})" for condition in conditions)
        return f"(SELECT count(*) FROM {self.table('images')} AS images\nWHERE error IS NULL{where})"

    def layers(self, layers: LayerSet) -> list[str]:
        """The condition that a row is of one of these layers; none if all are."""
        if layers.is_all:
            return []
        if layers.is_window:
            low, high = self.value("from_layer", layers.lowest), self.value("to_layer", layers.highest)
            return [f"layer BETWEEN {low} AND {high}"]
        return [f"layer IN (SELECT unnest({self.value('layers', list(layers.layers))}))"]

    def source(self, relation: Relation) -> str:
        """The relation as `answer`, with the image table as `images` beside it if it has rows by image."""
        if relation.rest is not None and relation.lists_rest:
            self.listings.append(self._count_listed(relation.rest, relation.holds))
        source = f"{self.listed(relation).part()} AS answer"
        if "image" in relation.keys:
            source += f"\nJOIN {self.table('images')} AS images ON images.image_id = answer.image"
        return source

    def listed(self, relation: Relation) -> Relation:
        """The relation with a row for each cell that is to be shown."""
        rest = relation.rest
        if rest is None or not relation.lists_rest:
            return relation
        others = "rest"
        if relation.place is not None:
            if rest.mask is None:
                places = f"SELECT unnest(range({self.value('positions', rest.positions)}))::INTEGER AS {relation.place}"
                others += f" CROSS JOIN ({places})"
            else:
                others = f"(SELECT *, unnest(range(bit_length(inside)))::INTEGER AS {relation.place} FROM {others})"
        if rest.mask is not None:
            others = f"(SELECT * EXCLUDE (inside) FROM {others} WHERE {in_mask(relation)})"
        sql = f"""\
{self._known_and_rest(relation, rest)}
SELECT * FROM known
UNION ALL BY NAME
SELECT * FROM {others} ANTI JOIN known USING ({", ".join(relation.keys)})"""
        return replace(relation, sql=sql, rest=None)

    def weighed(self, relation: Relation) -> Relation:
        """The same where only the number of cells counts: those of an image's layer without rows are one row.

        It has no position, and the others have a weight of 1.
        """
        rest = relation.rest
        if rest is None or not relation.lists_rest:
            return relation
        known, alike = "known", "rest.*"
        if rest.mask is not None:  # another table's rows may be at other patches
            known, alike = f"known {rest.mask} WHERE {in_mask(relation)}", "rest.* EXCLUDE (inside)"
        sql = f"""\
{self._known_and_rest(relation, rest)}
SELECT *, 1 AS weight FROM known
UNION ALL BY NAME
SELECT * FROM (
  SELECT {alike}, {self._cells(rest)} - coalesce(cells, 0) AS weight
  FROM rest LEFT JOIN (SELECT image, layer, count(*) AS cells FROM {known} GROUP BY image, layer) USING (image, layer)
) WHERE weight > 0"""
        return replace(relation, sql=sql, rest=None, weight="weight")

    def _known_and_rest(self, relation: Relation, rest: Rest) -> str:
        where = f" {rest.mask}" if rest.mask else ""
        where += f" WHERE {relation.holds}" if relation.holds else ""
        return f"""\
WITH known AS (
  {indented(relation.sql)}
), rest AS (
  SELECT * FROM (
    {indented(indented(rest.sql))}
  ){where}
)"""

    def _count_listed(self, rest: Rest, holds: str | None) -> str:
        where = f" WHERE {holds}" if holds else ""
        return f"SELECT coalesce(sum({self._cells(rest)}), 0)::BIGINT FROM {rest.part()}{where}"

    def _cells(self, rest: Rest) -> str:
        """How many cells an image's layer has, those with rows included."""
        return self.value("positions", rest.positions) if rest.mask is None else "bit_count(inside)"

    def count(self, relation: Relation, condition: str) -> str:
        """The SELECT of how many cells a condition on a relation's columns holds for."""
        cells = "count(*)" if relation.weight is None else f"coalesce(sum({relation.weight}), 0)::BIGINT"
        return f"SELECT {cells} FROM {relation.part()} AS answer WHERE {condition}"

    def rows(self, relation: Relation) -> Relation:
        """The relation as something that questions about its rows select from: made once for several of them."""
        return replace(relation, sql=f"SELECT * FROM {self.part('made', relation.sql)}") if self.is_shared else relation

    def statement(self, relation: Relation, first: int | None = None, skipped: int = 0) -> Statement:
        """The SELECT that answers with a relation's rows, images by name, in their order: with all, or with so many of
        the first behind those that are skipped."""
        return self.ask(self.ordered(relation, first, skipped))

    def ordered(self, relation: Relation, first: int | None = None, skipped: int = 0) -> str:
        """The same, without the parts that it shares."""
        order = f"\nORDER BY {', '.join(total)}" if (total := total_order(relation)) else ""
        limit = "" if first is None else f" LIMIT {self.value('first', first)}"
        if skipped:
            limit += f" OFFSET {self.value('skipped', skipped)}"
        return f"{self.select(relation)}{order}{limit}"

    def select(self, relation: Relation) -> str:
        """The SELECT of a relation's rows in no order: images by name."""
        shown = relation.shown or default_columns(relation)
        columns = ", ".join(
            sql if sql.endswith(f".{quoted(name)}") else f"{sql} AS {quoted(name)}" for sql, name in shown
        )
        where = f"\nWHERE answer.{relation.shows}" if relation.shows else ""
        return f"SELECT {columns}\nFROM {self.source(relation)}{where}"

    def ask(self, sql: str) -> Statement:
        """The statement of a SELECT: behind the shared parts, and with all that it needs.

        What was gathered for parts that it has no use for is left out.
        """
        needed: dict[str, str] = {}
        text = sql
        for name, part in reversed(self.parts.items()):  # a part selects from those before it
            if _names(name, text):
                needed[name] = part
                text = f"{text}\n{part}"
        parts = ", ".join(f"{name} AS MATERIALIZED (\n  {indented(needed[name])}\n)" for name in reversed(needed))
        used = set(re.findall(r"\$(\w+)", text))
        return Statement(
            f"WITH {parts}\n{sql}" if parts else sql,
            {name: value for name, value in self.parameters.items() if name in used},
            {name: keys for name, keys in self.tables.items() if name in used},
            {name: table for name, table in self.loaded.items() if _names(name, text)},
            {name: table for name, table in self.others.items() if name in used},
        )


def default_columns(relation: Relation) -> tuple[tuple[str, str], ...]:
    """SQL and name of a relation's columns: its keys, images by name, then its own; the image's number at the end."""
    names = [name for name in (*relation.keys, *relation.columns) if name != relation.holds]
    columns = [(f"answer.{quoted(name)}", name) for name in names]
    if "image" not in relation.keys:
        return tuple(columns)
    columns[names.index("image")] = ("images.image", "image")
    return (*columns, ("images.image_id", "image_id"))


def total_order(relation: Relation) -> list[str]:
    """What rows are sorted by, down to the last tie: names may repeat, numbers do not."""
    keys = []
    for key in relation.keys:
        keys += ["images.image", "images.image_id"] if key == "image" else [f"answer.{quoted(key)}"]
    return [*relation.order, *(key for key in keys if key not in relation.order)]


def in_mask(relation: Relation) -> str:
    """SQL: whether a cell is at one of the patches of a mask."""
    return f"get_bit(inside, {relation.place}) = 1"


def quoted(name: str) -> str:
    """A name as SQL writes it behind a dot or an AS."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def free_name(name: str, taken: Collection[str]) -> str:
    """A name for a column beside others: the name itself, or with the first number that makes it another one.

    To DuckDB names that differ in case only are the same.
    """
    folded = {other.lower() for other in taken}
    numbered = (f"{name}_{number}" for number in count(2))
    return next(free for free in chain([name], numbered) if free.lower() not in folded)


def _both(a: Keys, b: Keys) -> Keys:
    return None if a is None or b is None else a | b


def _of(snapshot: Snapshot, load: Loader) -> Loader:
    """What loads the table of this cache, whichever is asked."""
    return lambda _: load(snapshot)


def _names(name: str, sql: str) -> bool:
    """Whether SQL may speak of a table."""
    return re.search(rf"\b{name}\b", sql) is not None


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def indented(sql: str) -> str:
    """The SQL, two spaces further in but for its first line. Names with lines of their own stay as they are."""
    return re.sub(r'("[^"]*")|\n', lambda found: found[1] or "\n  ", sql)
