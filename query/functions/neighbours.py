"""neighbours: what is read around a token's patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.functions.phrases import named, qualified, unstored
from vlq.query.functions.shared import IMAGES, LAYERS, MIN_PATCHES, MIN_PROB, PATCHES, PIECES, RANK, TOKEN
from vlq.query.functions.sources import check_patches, token_layers
from vlq.query.image.geometry import COLUMNS, ROWS, geometries
from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Derived, Relation, indented
from vlq.query.language.parameters import Count, FromZero, Parameter
from vlq.query.language.registry import Function
from vlq.query.schema import PATCH_CELLS
from vlq.query.summary import Rows, Summary, count, placed

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot

AT_ONCE = 2**20
"""Cells of images' layers that are looked at together."""


def compile_neighbours(bound: Bound, compiler: Compiler) -> Relation:
    """`around` counts what the patches around the token's read, each patch once however many of them it touches."""
    own = Compiler()
    reading = f"""\
SELECT image, layer, positions, {ROWS} AS rows, {COLUMNS} AS columns
FROM (
  {indented(token_layers(bound.given(at="patch"), own))}
) AS found JOIN {geometries(own.table("images"))} ON image_id = image"""
    around = compiler.load("around", Derived(own.ask(reading), Around(bound["before"]), (PATCH_CELLS,)))
    sql = f"""\
SELECT token, layer, piece, text, images, patches, patches / adjacent AS share, adjacent
FROM {around} WHERE images >= {compiler.value("min_images", bound["min_images"])}"""
    shown = ("piece", "text", "images", "patches", "share", "adjacent")
    return Relation(sql, ("token", "layer"), shown, "share", ("answer.images DESC", "answer.patches DESC"))


@dataclass(frozen=True)
class Around:
    """Makes the table of what is read around patches so many layers `before`."""

    before: int

    def __call__(self, snapshot: Snapshot, reading: pyarrow.Table) -> pyarrow.Table:
        return count_around(snapshot, reading, self.before)


def count_around(snapshot: Snapshot, reading: pyarrow.Table, before: int) -> pyarrow.Table:
    """For each layer the tokens that adjacent patches read so many layers before: in how many images, by how many
    patches of all of them."""
    import numpy as np
    import pyarrow as pa

    from vlq.query.cache.cells import Cells, numbered, read_by
    from vlq.query.image.masks import around, cells_of, grids_of, masks_of

    run = snapshot.cache.run
    # Nothing is read before layer 0; at layers that were not read, no patch has an id.
    reading = reading.filter(pa.array(reading["layer"].to_numpy() >= before))
    image, layer = (reading[name].to_numpy() for name in ("image", "layer"))
    positions = reading["positions"].combine_chunks()
    images, place = numbered(image)
    grids = grids_of(reading)
    most = int(grids.prod(1).max(initial=0))
    in_images, patches = np.zeros((2, run.layers * run.vocabulary_size), np.int64)  # by layer and token
    for part, cells in Cells(snapshot, images, most):
        held = np.flatnonzero((place >= part.start) & (place < part.stop))
        held = held[np.argsort(layer[held], kind="stable")]
        # Rows of several layers at once, where each has few; of many no more than a processor has near at hand.
        for rows in np.array_split(held, 1 + len(held) * most // AT_ONCE):
            near = around(masks_of(positions.take(pa.array(rows)), grids[rows]))
            adjacent = cells_of(near, grids[rows], most)
            ids = cells[place[rows] - part.start, layer[rows] - before]
            adjacent &= ids != run.no_id  # of patches that were not read
            row, token, count = read_by(ids, adjacent, run.vocabulary_size)
            cell = layer[rows].astype(np.int64)[row] * run.vocabulary_size + token
            np.add.at(in_images, cell, 1)
            np.add.at(patches, cell, count)
    cell = np.flatnonzero(in_images > 0)  # of truth values it takes a fifth of the time
    found, token = np.divmod(cell, run.vocabulary_size)
    words = snapshot.cache.words(token)
    return pa.table(
        {
            "layer": found.astype(np.int32),
            "token": token.astype(np.uint32),
            "piece": words["piece"],
            "text": words["text"],
            "images": in_images[cell],
            "patches": patches[cell],
            "adjacent": patches.reshape(run.layers, -1).sum(1)[found],
        }
    )


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """The token that most adjacent patches read, all layers taken together; of equal ones the lower id."""
    patches: dict[int, int] = {}
    adjacent: dict[int, int] = {}
    for row in rows:
        patches[row["token"]] = patches.get(row["token"], 0) + row["patches"]
        adjacent[row["layer"]] = row["adjacent"]
    summary: Summary = {"images": images, "matched": len(patches), "adjacent": sum(adjacent.values()), "token": None}
    if not rows:
        return summary
    token = min(patches, key=lambda token: (-patches[token], token))
    found = [row for row in rows if row["token"] == token]
    most = max(found, key=lambda row: (row["images"], -row["layer"]))
    return summary | {
        "token": token,
        "piece": most["piece"],
        "patches": patches[token],
        "most_images": most["images"],
        "most_images_layer": most["layer"],
    }


def headline(bound: Bound, summary: Summary) -> str:
    """What is read most around the token, all layers taken together, and where it is in most images."""
    around = f"Around {bound.token.label}{qualified(bound.given(at='patch'))}"
    if bound["before"]:
        around += f", {count(bound['before'], 'layer')} before"
    if summary["token"] is None:
        enough = f" in {count(bound['min_images'], 'image')} or more" if bound["min_images"] > 1 else ""
        return f"{around}: nothing is read{enough}, of {count(summary['images'], 'image')}{placed(summary)}"
    most, layers = named(summary["token"], summary["piece"]), "all layers"
    if bound["min_images"] > 1:
        most = f"of what {count(bound['min_images'], 'image')} or more read at a layer {most}"
        layers = "all such layers"
    return (
        f"{around}: {most} is read most, by {summary['patches'] / summary['adjacent']:.0%} of "
        f"{count(summary['adjacent'], 'adjacent patch')}, {layers} together; "
        f"most at layer {summary['most_images_layer']}, "
        f"in {summary['most_images']:,} of {count(summary['images'], 'image')}{placed(summary)}"
    )


NEIGHBOURS = Function(
    name="neighbours",
    parameters=(
        TOKEN,
        RANK,
        MIN_PROB,
        LAYERS,
        PATCHES,
        MIN_PATCHES,
        Parameter("before", FromZero(), "look at what they read so many layers before the one that reads the token", 0),
        Parameter("min_images", Count(), "only tokens read around it in at least so many images at the layer", 1),
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="What the patches around the token's read, at the same layer or some layers before.",
    example="neighbours('dog', min_prob=0.5, min_images=5)",
    check=check_patches,
    compile=compile_neighbours,
    summarise=summarise,
    headline=headline,
    at="patch",
    notes=unstored,
)
