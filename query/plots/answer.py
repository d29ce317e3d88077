"""What is drawn: an answer's rows, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from propcache.api import cached_property

from vlq.query.answers.result import Result
from vlq.query.language.bind import Bound, Table
from vlq.query.language.combine import Calculated, Compared
from vlq.query.language.compile import Relation
from vlq.query.language.groups import OfGroups, group_name
from vlq.query.language.histogram import Histogram
from vlq.query.language.shown import Shown
from vlq.query.plots.style import LAYER, chip, shown
from vlq.query.schema import READ_COLUMNS
from vlq.query.summary import Rows, as_seen, is_difference

NAMES = ("image_id", "token", "patch", "position")
"""Columns of whole numbers that only tell things apart."""


@dataclass(frozen=True)
class Answer:
    """A result on its way to a figure."""

    result: Result

    @cached_property
    def relation(self) -> Relation:
        return self.result.table.shape

    @property
    def keys(self) -> tuple[str, ...]:
        return self.relation.keys

    @cached_property
    def rows(self) -> Rows:
        rows = self.result.rows
        if self.is_images:
            return [{name: row[name] for name in self.columns} for row in rows]
        if not any(map(is_difference, self.columns)):
            return rows
        return [{name: as_seen(name, value) for name, value in row.items()} for row in rows]

    @property
    def columns(self) -> list[str]:
        """Of images those that VLQ gave them: users' own tell nothing that is drawn."""
        columns = self.result.columns
        return [name for name in columns if name in READ_COLUMNS] if self.is_images else columns

    @property
    def title(self) -> str:
        return self.result.headline

    @property
    def value(self) -> str | None:
        """The column that stands for a row, if it is among those shown."""
        return self.relation.value if self.relation.value in self.columns else None

    @property
    def is_selected(self) -> bool:
        """Whether it was said which columns are wanted."""
        return self.relation.shown is not None

    @cached_property
    def table(self) -> Table:
        """The table behind what was sorted, cut or chosen of it."""
        table = self.result.table
        while isinstance(table, Shown) and not isinstance(table, OfGroups):
            table = table.table
        return table

    @cached_property
    def is_images(self) -> bool:
        """Whether it lists images."""
        return self.is_of_images and not self.is_selected and not isinstance(self.table, OfGroups)

    @cached_property
    def by_layer(self) -> bool:
        """Whether its rows lie along layers, those of its column `layer` or those that a histogram counts by."""
        counts_layers = isinstance(self.table, Histogram) and len(self.table.edges) == 1
        return counts_layers or ("layer" in self.columns and not self.is_of_images)

    @property
    def along(self) -> tuple[str, ...]:
        """The columns of what its rows lie along: a layer, or both ends of a bin."""
        if isinstance(self.table, Histogram) and (len(self.table.edges) == 1 or not self.by_layer):
            return self.table.edges
        return ("layer",)

    @cached_property
    def is_of_images(self) -> bool:
        """Whether its columns, or groups, are those of images, which users may have called `layer` or `patches`."""
        table = self.result.table
        while isinstance(table, Shown):
            table = table.table
        return isinstance(table, Bound) and table.function.name == "images"

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that was read."""
        return self.result.corpus.cache.run.read_layers

    @property
    def images(self) -> list[int]:
        """The numbers of the images that have rows, in their order."""
        return list(dict.fromkeys(row["image_id"] for row in self.rows)) if "image_id" in self.columns else []

    @property
    def has_places(self) -> bool:
        """Whether its rows are images to be shown, with patches or without."""
        return "width" in self.columns or any(row.get("patches") for row in self.rows)

    @cached_property
    def numbers(self) -> list[str]:
        """The columns that hold numbers and do not only tell things apart."""
        found = []
        for name in self.columns:
            kinds = {type(row[name]) for row in self.rows if row[name] is not None}
            if kinds and kinds <= {int, float, Decimal} and name not in NAMES:
                found.append(name)
        return found

    def name(self, column: str) -> str:
        """What an axis of a column is called."""
        if isinstance(self.table, OfGroups) and column == self.relation.value:
            said = self.table.said or self.unit
            return f"{said} (0 = embedding)" if said.endswith("layer") else said
        if isinstance(self.table, Compared | Calculated):
            base, _, number = column.rpartition("_")
            names = [str(operand) for operand in self.table.operand_nodes]
            if base and number.isdecimal() and int(number) <= len(names):
                return f"{base} of {shown(names[int(number) - 1], 50)}"
        return LAYER if column == "layer" and self.by_layer else shown(column).replace("_", " ")

    @property
    def across(self) -> str:
        """What the axis of a histogram's layers or bins is called."""
        if self.by_layer or not isinstance(self.table, OfGroups):
            return LAYER
        return shown(self.table.called(self.table.value))

    @property
    def unit(self) -> str:
        """What there is a row for; of groups, what is in them."""
        keys = self.table.table.keys if isinstance(self.table, OfGroups) else self.keys
        return {("image",): "images", ("image", "patch"): "patches"}.get(keys, "rows")

    def label(self, row: dict[str, Any], keys: Sequence[str]) -> str:
        """A row by some of its keys; tokens by their pieces."""
        return ", ".join(self._part(row, key) for key in keys) or "all"

    def _part(self, row: dict[str, Any], key: str) -> str:
        value = row[key]
        if key == "token" and "piece" in row:
            return f"{chip(row['piece'], value)} ({value})"
        return group_name(shown(key), shown(value, 28) if isinstance(value, str) else value)
