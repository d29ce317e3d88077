"""Whose states are put into an image's run: those of one image, of one that is drawn, or of one that a column names.

scene-000.png      this image, by its name or number
other              any other image, drawn; another question about the same one is none
other label        an image with another value in this column, drawn
column partner     the image that this column names
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vlq.query.language.compile import Compiler, quoted
from vlq.query.language.predicates import image_columns
from vlq.query.mistakes.ablation import NO_PARTNERS, NO_SOURCE
from vlq.query.schema import LAST
from vlq.query.studies.chosen import CHOSEN, PROMPT, Written, placed

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus

PARTNER = ("image", "uri", "sha256", PROMPT, "rows", "columns")
"""Of what a study must know of an image what it knows of its partner, too: `source_image`, ..."""

PAIRED = pa.schema([*CHOSEN, *(CHOSEN.field(name).with_name(f"source_{name}") for name in PARTNER)])
"""The images that a study is about, their places, and their partners."""


def paired(corpus: LocalCorpus, rows: pa.Table, source: str, seed: int, one_grid: bool) -> pa.Table:
    """The images (CHOSEN) that have a partner, with it (PAIRED).

    Who is drawn depends on the seed and the image, and on nothing else: with `one_grid` of those that have the image's
    grid. Raises BadArgument if there is no such image or column, or no image has a partner.
    """
    every = placed(corpus, Written.place(LAST)).to_pylist()
    by_name: dict[str, dict[str, Any]] = {}
    for row in every:
        by_name.setdefault(row["image"], row)
    numbers = {row["image_id"]: row for row in every}
    kind, _, column = source.partition(" ")
    given = by_name.get(source) or (numbers.get(int(source)) if source.isdecimal() else None)
    if given is None and not (kind == "other" or (kind == "column" and column)):
        raise NO_SOURCE.error(source=source, what="such name")
    values = _column(corpus, column.strip(), source) if given is None and column else {}
    drawn = _Drawn(every, values if column else None, seed, one_grid)
    found = []
    for row in rows.to_pylist():
        if given is not None:
            partner = given
        elif kind == "column":
            partner = by_name.get(values[row["image_id"]] or "")
        else:
            partner = drawn.partner_of(row["image_id"])
        if partner is not None:
            found.append({**row, **{f"source_{name}": partner[name] for name in PARTNER}})
    if not found:
        raise NO_PARTNERS.error(source=source)
    return pa.Table.from_pylist(found, PAIRED)


class _Drawn:
    """Draws partners: images with another value, if values are given, and with the same grid, if that counts."""

    def __init__(
        self, every: list[dict[str, Any]], values: dict[int, str | None] | None, seed: int, one_grid: bool
    ) -> None:
        self._every, self._seed = every, seed
        self._places = {row["image_id"]: place for place, row in enumerate(every)}
        grids = [(row["rows"], row["columns"]) if one_grid else None for row in every]
        self._grids = np.array([hash(grid) for grid in grids])
        own = [row["sha256"] if values is None else values[row["image_id"]] for row in every]
        known = {value: code for code, value in enumerate(dict.fromkeys(own)) if value is not None}
        self._values = np.array([known.get(value, -1) for value in own])

    def partner_of(self, image: int) -> dict[str, Any] | None:
        """An image's partner; None if there is none."""
        place = self._places[image]
        other = (self._values != self._values[place]) & (self._values >= 0) & (self._grids == self._grids[place])
        fitting = np.flatnonzero(other)
        if self._values[place] < 0 or not len(fitting):
            return None
        found: dict[str, Any] = self._every[
            fitting[int(np.random.default_rng([self._seed, image]).integers(len(fitting)))]
        ]
        return found


def _column(corpus: LocalCorpus, name: str, source: str) -> dict[int, str | None]:
    """A column's value in each image, as text, by the images' numbers."""
    scope = Written.place(LAST).scope(corpus)
    if name.lower() not in {known.lower() for known in image_columns(scope)}:
        raise NO_SOURCE.error(source=source, what=f"column {name}")
    compiler = Compiler()
    sql = f"SELECT image_id, {quoted(name)}::VARCHAR FROM {compiler.table('images')} WHERE error IS NULL"
    return dict(scope.ask(compiler.ask(sql)))
