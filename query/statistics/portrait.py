"""One token over a whole corpus: how probable it is where it is read, examples, where on the grid, and beside what.

What the language has a function for (`emergence`, `precursors`, `neighbours`, `locate`) is asked there; this is the
rest, as SQL over the index. Readings are those at image patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from vlq.query.cache.annotate import OBJECTS
from vlq.query.functions.counts import reads
from vlq.query.image.geometry import COLUMNS, READ, ROWS, patch_edges
from vlq.query.language.compile import VOCABULARY, Compiler, indented
from vlq.query.schema import Transform
from vlq.query.statistics.bootstrap import share_interval

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus
    from vlq.query.image.geometry import Edges

BINS = 20
"""Of a histogram of probabilities: each is 0.05 wide."""

RASTER = 24
"""Cells of each side of a map, at most."""


@dataclass(frozen=True)
class Wanted:
    """Which readings of a token count: those among the `rank` best of their position, at one layer or at all."""

    token: int
    rank: int = 1
    layer: int | None = None

    def sql(self, compiler: Compiler) -> str:
        """SELECT of image, layer, position and probability."""
        conditions = [f"token = {compiler.value('token', self.token)}", f"rank <= {compiler.value('rank', self.rank)}"]
        if self.layer is not None:
            conditions.append(f"layer = {compiler.value('layer', self.layer)}")
        return f"""\
SELECT image, layer, position, exp(logprob::DOUBLE) AS probability
FROM {compiler.table("patch_topk", (self.token,))}
WHERE {" AND ".join(conditions)}"""

    def images(self, compiler: Compiler) -> str:
        """SELECT of the images that have such a reading, each once."""
        return f"SELECT DISTINCT image FROM (\n  {indented(self.sql(compiler))}\n)"


def by_probability(corpus: LocalCorpus, wanted: Wanted) -> list[int]:
    """How many readings have a probability from b / BINS up to, not including, (b + 1) / BINS; 1 is in the last."""
    compiler = Compiler()
    bins = compiler.value("bins", BINS)
    sql = f"""\
SELECT least(floor(probability * {bins}), {bins} - 1)::INTEGER AS bin, count(*)
FROM (
  {indented(wanted.sql(compiler))}
) GROUP BY bin"""
    found = dict(_rows(corpus, compiler, sql))
    return [found.get(bin, 0) for bin in range(BINS)]


def read_of(corpus: LocalCorpus, site: str) -> dict[int, tuple[int, int]]:
    """Of each token that a site's positions decode to: how many do so, and in how many images."""
    compiler, snapshot = Compiler(), corpus.cache.snapshot()
    statement = compiler.ask(reads(snapshot, site, compiler))
    return {token: (readings, images) for token, readings, images in corpus.engine.rows(statement, snapshot)[1]}


# --- examples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """An image and the layer at which it has the most probable of the readings that were asked for."""

    image: int
    name: str
    size: tuple[int, int]  # width and height in upright pixels
    grid: tuple[int, int]  # rows and columns
    transform: Transform
    layer: int
    patches: tuple[int, ...]  # those that have such a reading at the layer, the most probable first
    probabilities: tuple[float, ...]  # theirs

    @property
    def edges(self) -> Edges:
        """Where columns and rows of patches begin and end, in pixels."""
        return patch_edges(self.transform, self.size, self.grid)


@dataclass(frozen=True)
class Examples:
    images: int  # how many there are to choose from
    chosen: tuple[Example, ...]


def examples(
    corpus: LocalCorpus, wanted: Wanted, low: float, high: float, count: int, seed: int | None = None
) -> Examples:
    """Images with readings of a probability from `low` up to, not including, `high`; what goes up to 1 has 1, too.

    With a seed they are chosen at random: in the order of the MD5 of "seed/low/image". Without one they are those with
    the highest probabilities.
    """
    return examples_of_bands(corpus, wanted, (low, high), count, seed)[0]


def examples_of_bands(
    corpus: LocalCorpus, wanted: Wanted, edges: Sequence[float], count: int, seed: int | None = None
) -> list[Examples]:
    """The same of each band between two of the edges, which ascend, asked for at once."""
    compiler = Compiler()
    low, *inner, high = edges
    above = [f"(probability >= {compiler.value('edge', edge)})::INTEGER" for edge in inner]
    limits = f"probability >= {compiler.value('low', low)}"
    if high < 1:
        limits += f" AND probability < {compiler.value('high', high)}"
    order = "best DESC, image"
    if seed is not None:
        seeds = compiler.value("seeds", [f"{seed}/{edge:g}" for edge in edges[:-1]])
        order = f"md5(concat_ws('/', list_extract({seeds}, band + 1), image))"
    readings = f"""\
SELECT image, layer, position, probability, {" + ".join(["0", *above])} AS band
FROM (
  {indented(wanted.sql(compiler))}
) WHERE {limits}"""
    # Positions are listed of the chosen layers alone: a frequent token has thousands of others.
    chosen = f"""\
SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY band ORDER BY {order}) AS place, count(*) OVER (PARTITION BY band) AS count
  FROM (
    SELECT band, image, layer, max(probability) AS best
    FROM {compiler.part("readings", readings)} GROUP BY band, image, layer
    QUALIFY row_number() OVER (PARTITION BY band, image ORDER BY best DESC, layer) = 1
  )
) WHERE place <= {compiler.value("most", count)}"""
    sql = f"""\
SELECT band, count, number, name, width, height, grid, transform, layer, patches, probabilities
FROM (
  SELECT band, count, place, image AS number, layer,
    list(position ORDER BY probability DESC, position) AS patches,
    list(probability ORDER BY probability DESC, position) AS probabilities
  FROM {compiler.part("chosen", chosen)} JOIN readings USING (band, image, layer)
  GROUP BY band, count, place, image, layer
) JOIN (
  SELECT image_id, image AS name, width, height, grid, transform FROM {compiler.table("images")}
) ON image_id = number
ORDER BY band, place"""
    counts = [0] * (len(edges) - 1)
    found: list[list[Example]] = [[] for _ in counts]
    rows = _rows(corpus, compiler, sql)
    for band, images, number, name, width, height, grid, transform, layer, patches, values in rows:
        counts[band] = images
        shape = grid["rows"], grid["columns"]
        example = Example(
            number, name, (width, height), shape, Transform(**transform), layer, tuple(patches), tuple(values)
        )
        found[band].append(example)
    return [Examples(images, tuple(some)) for images, some in zip(counts, found, strict=True)]


# --- where on the grid -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Map:
    """How often each cell of the grid has such a reading.

    `of` counts a cell's patches over all images and the layers that were looked at, `found` those that read the
    token. Where grids differ, or are larger than RASTER, a cell is a part of the picture, and each patch counts where
    its centre is; there are as many rows and columns as half the images have, or more, and at most RASTER.
    """

    rows: int
    columns: int
    is_raster: bool
    found: tuple[int, ...]  # row by row
    of: tuple[int, ...]

    @property
    def shares(self) -> list[float | None]:
        """None where no image has a patch."""
        return [found / of if of else None for found, of in zip(self.found, self.of, strict=True)]


def position_map(corpus: LocalCorpus, wanted: Wanted) -> Map:
    compiler = Compiler()
    shapes = f"SELECT {ROWS}, {COLUMNS}, count(*) FROM {compiler.table('images')} WHERE {has_patches(corpus)}"
    grids = _rows(corpus, compiler, f"{shapes} GROUP BY ALL ORDER BY ALL")
    compiler = Compiler()
    is_raster = len(grids) > 1 or any(max(rows, columns) > RASTER for rows, columns, _ in grids)
    # Of half the images each cell then has a patch on either axis, or more.
    rows, columns = (
        min(RASTER, median_low([grid[axis] for grid in grids for _ in range(grid[2])] or [1])) for axis in (0, 1)
    )
    high, wide = compiler.value("rows", rows), compiler.value("columns", columns)
    # The centre of cell n of N lies in cell (2n + 1) * M // 2N of M: whole numbers, so that nothing is rounded.
    sql = f"""\
SELECT row, col, count(*) FROM (
  SELECT (2 * (position::INTEGER // {COLUMNS}) + 1) * {high}::INTEGER // (2 * {ROWS}) AS row,
    (2 * (position::INTEGER % {COLUMNS}) + 1) * {wide}::INTEGER // (2 * {COLUMNS}) AS col
  FROM (
    {indented(indented(wanted.sql(compiler)))}
  ) JOIN (SELECT image_id, grid FROM {compiler.table("images")}) ON image_id = image
) GROUP BY row, col"""
    found = [0] * (rows * columns)
    for row, column, count in _rows(corpus, compiler, sql):
        found[row * columns + column] = count
    of = [0] * (rows * columns)
    layers = 1 if wanted.layer is not None else len(corpus.cache.run.read_layers)
    if corpus.cache.run.patches_column is None:
        patches = [(shape, patch, count) for *shape, count in grids for patch in range(shape[0] * shape[1])]
    else:
        compiler = Compiler()
        read = f"SELECT {ROWS} AS rows, {COLUMNS} AS columns, unnest({READ}) AS patch FROM {compiler.table('images')}"
        counted = f"SELECT rows, columns, patch, count(*) FROM ({read} WHERE {has_patches(corpus)}) GROUP BY ALL"
        patches = [(shape, patch, count) for *shape, patch, count in _rows(corpus, compiler, counted)]
    for (own_rows, own_columns), patch, count in patches:
        row, column = divmod(patch, own_columns)
        at = (2 * row + 1) * rows // (2 * own_rows) * columns + (2 * column + 1) * columns // (2 * own_columns)
        of[at] += count * layers
    return Map(rows, columns, is_raster, tuple(found), tuple(of))


# --- beside what -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """A token or a label that images have: in how many it is, and in how many of those that read the token."""

    images: int
    both: int
    reading: int  # images that read the token
    all: int  # images of which patches were read
    id: int | None = None
    label: str | None = None

    @property
    def share(self) -> float | None:
        """Of the images that read the token, the share that has it."""
        return self.both / self.reading if self.reading else None

    @property
    def others(self) -> float | None:
        """Of the other images."""
        return (self.images - self.both) / (self.all - self.reading) if self.all > self.reading else None

    @property
    def difference(self) -> float:
        return (self.share or 0.0) - (self.others or 0.0)

    @property
    def share_interval(self) -> list[float] | None:
        return share_interval(self.both, self.reading)


def together(corpus: LocalCorpus, wanted: Wanted, most: int) -> list[Beside]:
    """Other tokens that patches decode to in the images that read this one, at the layer or at any: those whose share
    of these images is most above their share of the others."""
    compiler = Compiler()
    at = "" if wanted.layer is None else f"WHERE layer = {compiler.value('layer', wanted.layer)}"
    sql = f"""\
SELECT token, count(*) AS images, count(own.image) AS in_both, (SELECT count(*) FROM own)
FROM (SELECT DISTINCT token, image FROM {compiler.table("patch_top1")} {at}) AS read
LEFT JOIN own USING (image)
WHERE token != {compiler.value("token", wanted.token)} GROUP BY token HAVING in_both > 0"""
    compiler.part("own", wanted.images(compiler))
    all = _count(corpus)
    rows = _rows(corpus, compiler, sql)
    if not rows:
        return []
    token, images, both, own = (np.array(column) for column in zip(*rows, strict=True))
    # As `Beside.difference`, of thousands of tokens at once.
    others = np.divide(images - both, all - own, out=np.zeros(len(rows)), where=all > own)
    first = np.lexsort((token, -both, others - both / own))[:most]
    columns = (column[first].tolist() for column in (token, images, both, own))
    return [Beside(images, both, own, all, id=token) for token, images, both, own in zip(*columns, strict=True)]


def labels(corpus: LocalCorpus, wanted: Wanted) -> list[Beside] | None:
    """The labels of the images' objects, case folded, those first that go most with the token; None without objects."""
    if not has_objects(corpus):
        return None
    compiler = Compiler()
    sql = f"""\
SELECT label, count(*) AS images, count(own.image) AS in_both, (SELECT count(*) FROM own)
FROM (
  SELECT DISTINCT image_id AS image, lower(object.label) AS label
  FROM (SELECT image_id, unnest({OBJECTS}) AS object FROM {compiler.table("images")} WHERE {has_patches(corpus)})
  WHERE object.label IS NOT NULL
) AS held LEFT JOIN own USING (image) GROUP BY label"""
    compiler.part("own", wanted.images(compiler))
    all = _count(corpus)
    found = [Beside(images, both, own, all, label=label) for label, images, both, own in _rows(corpus, compiler, sql)]
    return sorted(found, key=lambda one: (-one.difference, -one.both, one.label))


def has_objects(corpus: LocalCorpus) -> bool:
    """Whether the images come with labelled objects."""
    kind = corpus.engine.image_columns(corpus.cache.snapshot()).get(OBJECTS, "").replace('"', "")
    return kind.endswith(")[]") and "label VARCHAR" in kind


def is_special(corpus: LocalCorpus, token: int) -> bool:
    """Whether it is a sign to the model, such as the end of a text."""
    compiler = Compiler()
    sql = f"SELECT special FROM {compiler.table(VOCABULARY)} WHERE id = {compiler.value('token', token)}"
    return any(bool(special) for (special,) in _rows(corpus, compiler, sql))


def has_patches(corpus: LocalCorpus) -> str:
    """SQL of what holds for the images of which patches were read."""
    return "error IS NULL" + ("" if corpus.cache.run.patches_column is None else f" AND len({READ}) > 0")


def _count(corpus: LocalCorpus) -> int:
    """Images of which patches were read."""
    compiler = Compiler()
    sql = f"SELECT count(*) FROM {compiler.table('images')} WHERE {has_patches(corpus)}"
    return int(_rows(corpus, compiler, sql)[0][0])


def _rows(corpus: LocalCorpus, compiler: Compiler, sql: str) -> list[tuple[Any, ...]]:
    return corpus.engine.rows(compiler.ask(sql), corpus.cache.snapshot())[1]
