"""precursors: what patches read before they come to read a token, against patches of their image that never do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlq.query.functions.phrases import named, qualified, unstored
from vlq.query.functions.shared import IMAGES, LAYERS, MIN_PROB, PIECES, RANK, TOKEN
from vlq.query.functions.sources import check_site, token_cells
from vlq.query.image.geometry import POSITIONS, geometries
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import Compiler, Derived, Relation, Statement, indented
from vlq.query.language.parameters import Count, Parameter, every_layer
from vlq.query.language.registry import Function
from vlq.query.schema import PATCH_CELLS
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot


def check(bound: Bound, scope: Scope) -> None:
    check_site(bound.given(at="patch"), scope)


def compile_precursors(bound: Bound, compiler: Compiler) -> Relation:
    """`before` has the tokens of each layer, counted and compared."""
    before = compiler.load("before", Derived(first_readings(bound), Contrasted(bound), (PATCH_CELLS,)))
    sql = f"""\
SELECT layer, token, piece, text, images, patches, share, others, difference, low, high, compared
FROM {before}"""
    columns = ("piece", "text", "images", "patches", "share", "others", "difference", "low", "high", "compared")
    return Relation(sql, ("layer", "token"), columns, "difference", ("answer.difference DESC",))


def first_readings(bound: Bound) -> Statement:
    """Of each patch that reads the token the first layer at which it does, and how many patches its image has."""
    compiler = Compiler()
    cells = token_cells(bound.given(at="patch", layers=every_layer(bound.run)), compiler)
    return compiler.ask(f"""\
SELECT image, patch, layer, {POSITIONS["patch"]} AS patches
FROM (
  SELECT image, position AS patch, min(layer) AS layer FROM (
    {indented(indented(cells))}
  ) GROUP BY image, position
) AS found JOIN {geometries(compiler.table("images"))} ON image_id = image""")


@dataclass(frozen=True)
class Contrasted:
    """Makes `contrast.SCHEMA` with tokens' `piece` and `text`, of the images with both patches that come to read the
    token and such as never do."""

    bound: Bound

    def __call__(self, snapshot: Snapshot, reading: pyarrow.Table) -> pyarrow.Table:
        import numpy as np

        from vlq.query.cache.cells import Cells, numbered
        from vlq.query.statistics.contrast import Contrast

        bound, run = self.bound, self.bound.run
        image, patch, layer = (reading[name].to_numpy() for name in ("image", "patch", "layer"))
        images, place = numbered(image)
        patches = np.zeros(len(images), np.int64)
        patches[place] = reading["patches"].to_numpy()
        most = int(patches.max(initial=0))
        before = np.zeros((len(images), most), np.uint16)
        # Nothing was read before the lowest layer.
        counts = np.isin(layer, bound.layers.layers) & (layer > run.read_layers[0])
        before[place, patch] = np.where(counts, layer, 0)
        others = np.arange(most) < patches[:, None]
        if run.patches_column is not None:
            for part, cells in Cells(snapshot, images, most):
                others[part] &= cells[:, run.read_layers[0]] != run.no_id
        others[place, patch] = False
        both = before.any(1) & others.any(1)
        contrast = Contrast(Cells(snapshot, images[both], most), before[both], others[both], run)
        found = contrast.table(bound["min_images"], bound["per_layer"])
        words = snapshot.cache.words(found["token"].to_numpy())
        return found.append_column("piece", words["piece"]).append_column("text", words["text"])


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """What leads shortly before the token: at the last layer that still has half of the compared images."""
    compared = max((row["compared"] for row in rows), default=0)
    summary: Summary = {"images": images, "matched": len({row["token"] for row in rows}), "compared": compared}
    if not rows:
        return summary | {"token": None}
    layer = max(row["layer"] for row in rows if 2 * row["compared"] >= compared)
    led = min((row for row in rows if row["layer"] == layer), key=lambda row: (-row["difference"], row["token"]))
    kept = ("layer", "token", "piece", "share", "others", "difference", "low", "high")
    return summary | {name: led[name] for name in kept}


def headline(bound: Bound, summary: Summary) -> str:
    """What marks such patches just before they read the token, and how sure that is."""
    coming = f"Patches that come to read {bound.token.label}{qualified(bound.given(at='patch'))}"
    of_images = count(summary["images"], "image")
    if summary["token"] is None:
        enough = f" in {count(bound['min_images'], 'image')} or more" if bound["min_images"] > 1 else ""
        return f"{coming}: nothing is read before it{enough}, of {of_images}"
    name = named(summary["token"], summary["piece"])
    low, high = (f"{100 * summary[end]:.1f}" for end in ("low", "high"))
    return (
        f"{coming}, in {summary['compared']:,} of {of_images}: shortly before, at layer {summary['layer']}, "
        f"{summary['share']:.1%} of them read {name}, against {summary['others']:.1%} of those that never come to "
        f"(difference {100 * summary['difference']:.1f} points, 95% interval {low} to {high})"
    )


def notes(bound: Bound) -> list[str]:
    from vlq.query.statistics.bootstrap import RESAMPLES

    return [
        *unstored(bound),
        "Shares are means over images, each of which counts once: of its patches that have the token still to come, "
        "and of its others, which never read it. They say what comes before, not what leads to what.",
        f"low to high is the difference's 95% interval over {RESAMPLES:,} resamples of the images, for each row by "
        "itself; the rows are those with the largest differences, so chance brings some of them here.",
    ]


PRECURSORS = Function(
    name="precursors",
    parameters=(
        TOKEN,
        RANK,
        MIN_PROB,
        replace(
            LAYERS, documentation="only patches that first read it at this layer, in this window, or at one of these"
        ),
        Parameter(
            "min_images", Count(), "only tokens that such patches read in at least so many images at the layer", 5
        ),
        Parameter("per_layer", Count(), "of each layer so many tokens, those with the largest differences", 10),
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="What patches read in the layers before they come to read the token, against patches that never do.",
    example="precursors('dog', min_prob=0.5)",
    check=check,
    compile=compile_precursors,
    summarise=summarise,
    headline=headline,
    at="patch",
    notes=notes,
)
