"""Which patches count: `patches=` by number, by a label of the ground truth, or as the rows of a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from dataclasses import dataclass
from difflib import get_close_matches

from vlq.query.image.geometry import POSITIONS, READ, geometries
from vlq.query.language.bind import Bound, Scope, Table, bind
from vlq.query.language.compile import Compiler, Relation, indented
from vlq.query.language.nodes import Literal, Name, Node, Sequence
from vlq.query.language.parameters import whole
from vlq.query.language.registry import functions
from vlq.query.language.tokens import TokenSet
from vlq.query.language.truth import Truth, covered_sql, named, truth_of
from vlq.query.mistakes.calls import NOT_A_COLUMN_HERE, NOT_BY_ITSELF, UNQUOTED
from vlq.query.mistakes.values import EXPECTED, LIST, NO_LABEL, NO_OBJECTS, NO_PATCH, PATCHES_AGAINST, PATCHES_BY_ROW
from vlq.query.schema import EVERY, LAST, Run
from vlq.query.summary import each

INSIDE = "get_bit(inside, position) = 1"
"""SQL: whether a position is one of the patches, where `PatchSet.mask` is joined."""

POSITIONS_INSIDE = f"list_filter(positions, lambda position: {INSIDE})"
"""SQL: those of a posting's positions that are."""

NAMED = 8
"""So many patches are named in a sentence."""


@dataclass(frozen=True, eq=False)
class PatchSet(ABC):
    """The patches of each image at which readings count."""

    run: Run

    site = "patch"

    @property
    def by_image(self) -> bool:
        """Whether images have patches of their own, and some perhaps none."""
        return True

    @property
    @abstractmethod
    def phrase(self) -> str:
        """'patches of ...'"""

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        """The tokens that decide which patches they are."""
        return ()

    def notes(self) -> list[str]:
        """What the answer that they come from cannot know."""
        return []

    @abstractmethod
    def cells(self, compiler: Compiler) -> str:
        """SQL of image and patch, or of patch if every image has the same ones; rows may repeat."""

    def part(self, compiler: Compiler) -> str:
        """A part of the statement with a row for each image that has such patches, or one row.

        `inside` is a string of bits, 1 for each patch that counts: they are looked up faster than items of a list. A
        patch that was not read does not.
        """
        cells = f"({indented(f'{chr(10)}{self.cells(compiler)}')}\n)"
        if self.run.patches_column is not None:
            cells += f" SEMI JOIN ({read_cells(compiler)}) USING (image, patch)"
        last = compiler.value("last_patch", self.run.positions[self.site] - 1)
        image, group = ("image, ", " GROUP BY image") if self.by_image else ("", "")
        sql = f"SELECT {image}bitstring_agg(patch::INTEGER, 0, {last}::INTEGER) AS inside\nFROM {cells}{group}"
        return compiler.part("mask", sql)

    def mask(self, compiler: Compiler) -> str:
        """The same as SQL that joins it to readings."""
        name = self.part(compiler)
        return f"JOIN {name} USING (image)" if self.by_image else f"CROSS JOIN {name}"


def read_cells(compiler: Compiler) -> str:
    """SELECT of the image and the number of each patch that was read, where not all of them were."""
    return f"SELECT image_id AS image, unnest({READ}) AS patch FROM {compiler.table('images')}"


def not_all(run: Run, site: str) -> PatchSet | None:
    """The positions that images have at a site, where these are not the same in every image."""
    if site == "patch" and run.patches_column is not None:
        return ReadOnes(run)
    return Every(run, site) if site in run.uneven else None


@dataclass(frozen=True, eq=False)
class ReadOnes(PatchSet):
    """All patches that were read of an image, where not all of them were."""

    @property
    def phrase(self) -> str:
        return "patches that were read"

    def cells(self, compiler: Compiler) -> str:
        return read_cells(compiler)

    def part(self, compiler: Compiler) -> str:
        last = compiler.value("last_patch", self.run.positions[self.site] - 1)
        inside = f"bitstring_agg(patch::INTEGER, 0, {last}::INTEGER) AS inside"
        return compiler.part("mask", f"SELECT image, {inside}\nFROM ({self.cells(compiler)}) GROUP BY image")


@dataclass(frozen=True, eq=False)
class Every(PatchSet):
    """All positions that an image has at a site, where images have different numbers of them."""

    site: str

    @property
    def phrase(self) -> str:
        return "all positions"

    def cells(self, compiler: Compiler) -> str:
        return f"""\
SELECT image_id AS image, unnest(range({POSITIONS[self.site]})) AS patch
FROM {compiler.table("images")} WHERE error IS NULL"""

    def part(self, compiler: Compiler) -> str:
        # No longer than the image with most has them: at most there could be far more.
        images = compiler.table("images")
        sql = f"""\
SELECT image, rpad(repeat('1', n), max(n) OVER (), '0')::BIT AS inside
FROM (SELECT image_id AS image, ({POSITIONS[self.site]})::INTEGER AS n FROM {images} WHERE error IS NULL)
WHERE n > 0"""
        return compiler.part("mask", sql)


@dataclass(frozen=True, eq=False)
class Numbered(PatchSet):
    """The same patches in every image, by number; where grids differ, those that it has."""

    numbers: tuple[int, ...]  # ascending

    @property
    def by_image(self) -> bool:
        return self.site in self.run.uneven

    @property
    def phrase(self) -> str:
        shown = ", ".join(map(str, self.numbers[:NAMED]))
        more = f" and {len(self.numbers) - NAMED:,} more" if len(self.numbers) > NAMED else ""
        return f"patch{'es' if len(self.numbers) > 1 else ''} {shown}{more}"

    def cells(self, compiler: Compiler) -> str:
        numbers = f"SELECT unnest({compiler.value('patches', list(self.numbers))}) AS patch"
        if not self.by_image:
            return numbers
        return f"""\
SELECT image_id AS image, patch
FROM ({numbers}) JOIN {geometries(compiler.table("images"))} ON patch < {POSITIONS["patch"]}"""


@dataclass(frozen=True, eq=False)
class Labelled(PatchSet):
    """The patches that objects of a label cover, in whichever case it is written."""

    label: str
    labels: tuple[str, ...]
    truth: Truth

    @property
    def phrase(self) -> str:
        return f"patches of objects labelled {self.label!r}"

    def cells(self, compiler: Compiler) -> str:
        return covered_sql(self.labels, self.truth, compiler)


@dataclass(frozen=True, eq=False)
class Asked(PatchSet):
    """The patches of the rows of an answer."""

    node: Node
    table: Table

    @property
    def phrase(self) -> str:
        return f"patches of {self.node}"

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return self.table.token_sets

    def notes(self) -> list[str]:
        return self.table.notes()

    def cells(self, compiler: Compiler) -> str:
        if isinstance(self.table, Bound) and (found := self.table.function.patches) is not None:
            return f"SELECT image, unnest(positions) AS patch\nFROM (\n  {indented(found(self.table, compiler))}\n)"
        relation = self.table.relation(compiler)
        patch = "patch" if "patch" in relation.keys else f"unnest({relation.mask}) AS patch"
        where = f" WHERE {relation.shows}" if relation.shows else ""
        return f"SELECT image, {patch} FROM {compiler.listed(relation).part()} AS answer{where}"


@dataclass(frozen=True)
class Patches:
    """Which patches count; None for all."""

    expected: str = "a patch's number, a list of them, a label of objects, locate(...), or a query with rows by patch"

    def bind(self, node: Node, name: str, scope: Scope) -> PatchSet | None:
        match node:
            case Literal(value=None):
                return None
            case Literal(value=str(label)):
                return _labelled(label, node, name, scope)
            case Literal():
                return _numbered((node,), name, scope)
            case Sequence(is_list=True, items=items) if items:
                return _numbered(items, name, scope)
            case Name():
                is_function = node.name in functions() and functions()[node.name].is_table
                is_column = node.name in scope.image_columns()
                raise scope.error(
                    NOT_BY_ITSELF if is_function else NOT_A_COLUMN_HERE if is_column else UNQUOTED, node, name=name
                )
            case Sequence(items=items):
                mistake = LIST if items else EXPECTED
                raise scope.error(mistake, node, name=name, expected=self.expected, list=Sequence(items, True))
        table = bind(node, scope)
        relation = table.shape
        if not _has_patches(relation):
            raise scope.error(PATCHES_BY_ROW, node, name=name, keys=each(relation.keys))
        if table.split is not None:
            raise scope.error(PATCHES_AGAINST, node, name=name)
        return Asked(scope.run, node, table)


def _has_patches(relation: Relation) -> bool:
    return {"image", "patch"} <= {*relation.keys} or relation.mask is not None


def _numbered(items: Items[Node], name: str, scope: Scope) -> Numbered:
    run = scope.run
    grid = f"This grid of {run.grid[0]} x {run.grid[1]} has" if run.grid else "The largest of these grids may have"
    numbers = set()
    for item in items:
        number = whole(item)
        if number is None:
            raise scope.error(EXPECTED, item, name=name, expected=Patches.expected)
        if not 0 <= number < run.patches:
            raise scope.error(NO_PATCH, item, name=name, grid=grid, last=run.patches - 1)
        numbers.add(number)
    return Numbered(scope.run, tuple(sorted(numbers)))


def _labelled(label: str, node: Node, name: str, scope: Scope) -> Labelled:
    if not (truth := truth_of(scope)):
        raise scope.error(NO_OBJECTS, node, name=name)
    labels = scope.labels()
    if not (meant := named([label], labels)):
        near = get_close_matches(label, labels, 1)
        raise scope.error(NO_LABEL, node, name=name, near=", ".join(map(repr, near)))
    return Labelled(scope.run, label, tuple(meant), truth)


@dataclass(frozen=True)
class Places:
    """Where states were changed: at the last token, at all patches, or at some of them."""

    expected: str = f"'last', 'patches', {Patches.expected}"

    def bind(self, node: Node, name: str, scope: Scope) -> str | PatchSet:
        if isinstance(node, Literal) and node.value in (LAST, EVERY):
            return str(node.value)
        found = Patches().bind(node, name, scope)
        if found is None:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return found
