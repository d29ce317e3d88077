"""top: what is read in one image, as stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.functions.shared import AT, LAYERS, PATCHES, PLACE
from vlq.query.functions.sources import check_site
from vlq.query.image.geometry import POSITIONS
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import Compiler, Relation
from vlq.query.language.parameters import ImageReference, Parameter, Position, Rank
from vlq.query.language.patches import INSIDE
from vlq.query.language.registry import Function
from vlq.query.mistakes.values import NO_POSITION
from vlq.query.schema import Run
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument for a site without readings, or a position that the image does not have there."""
    check_site(bound, scope)
    if bound["patch"] is not None and bound["patch"] >= (positions := positions_of(bound, scope)):
        raise scope.error(NO_POSITION, bound.argument("patch"), name="patch", at=bound["at"], last=positions - 1)


def positions_of(bound: Bound, scope: Scope) -> int:
    """How many positions the image has at the site."""
    site = bound["at"]
    if site not in bound.run.uneven:
        return bound.run.positions[site]
    compiler = Compiler()
    images, image = compiler.table("images"), compiler.value("image", bound["image"])
    ((count,),) = scope.ask(compiler.ask(f"SELECT {POSITIONS[site]} FROM {images} WHERE image_id = {image}"))
    return int(count)


def compile_top(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each stored reading of one image, straight from its arrays."""
    readings = compiler.load(
        "readings", Stored(bound.run, bound["image"], bound.layers.layers, bound["patch"], bound["rank"], bound["at"])
    )
    key = PLACE[bound["at"]]
    keys = ("image", "layer", *key, "rank")
    place = "".join(f", position AS {name}" for name in key)
    mask, inside = ("", "") if bound.patches is None else (f" {bound.patches.mask(compiler)}", f"\nWHERE {INSIDE}")
    sql = f"""\
SELECT image, layer{place}, rank, token, piece, logprob
FROM {readings}{mask}{inside}"""
    return Relation(sql, keys, ("token", "piece", "logprob"), "logprob", tuple(f"answer.{name}" for name in keys[1:]))


@dataclass(frozen=True)
class Stored:
    """What is stored of an image, narrowed to the layers, the patch and the ranks that are asked for."""

    run: Run
    image: int
    layers: tuple[int, ...]
    patch: int | None
    ranks: int
    at: str

    def __call__(self, snapshot: Snapshot) -> pyarrow.Table:
        import numpy as np
        import pyarrow as pa

        layers, image = list(self.layers), self.image
        stored, _ = self.run.stored_at(self.at)
        commit = snapshot.commit_of(image)
        # Of the best tokens alone there is an array by itself, a twentieth as large.
        names = [f"{stored}/{name}" for name in ("top1" if self.ranks == 1 else "token", "logprob")]
        # One chunk holds the image with all its layers; what is not asked for is dropped here.
        found = snapshot.cache.values_of(commit, names, image)
        token, logprob = (array if array.ndim == 3 else array[..., None] for array in found)  # (layer, position, rank)
        # Others in its shard may have more positions, and perhaps not all of its patches were read.
        there = np.flatnonzero(token[layers[0], :, 0] != self.run.no_id)
        if self.at == "last":
            rows, positions = there[-1:], np.zeros(1, int)
        else:
            rows = positions = there if self.patch is None else there[there == self.patch]
        token, logprob = (array[layers][:, rows, : self.ranks] for array in (token, logprob))
        layer, position, rank = np.meshgrid(layers, positions, np.arange(1, self.ranks + 1), indexing="ij")
        return pa.table(
            {
                "image": np.full(token.size, image, np.uint32),
                "layer": layer.reshape(-1).astype(np.int32),
                "position": position.reshape(-1).astype(np.uint16),
                "rank": rank.reshape(-1).astype(np.uint8),
                "token": token.reshape(-1).astype(np.uint32),
                "piece": snapshot.cache.words(token.reshape(-1))["piece"],
                "logprob": logprob.reshape(-1).astype(np.float32),
            }
        )


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    best: dict[str, int] = {}
    for row in rows:
        if row["rank"] == 1 and row["layer"] == bound.layers.highest:
            text = row["piece"] or str(row["token"])
            best[text] = best.get(text, 0) + 1
    most = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return {
        "images": images,
        "matched": int(bool(rows)),
        "readings": len(rows),
        "layer": bound.layers.highest,
        "best": [list(item) for item in most],
    }


def headline(bound: Bound, summary: Summary) -> str:
    if not summary["best"]:
        return f"{_named(bound)}: {count(summary['readings'], 'reading')}"
    listed = ", ".join(f"{piece} {n}" if n > 1 else piece for piece, n in summary["best"][:5])
    return f"{_named(bound)}: {count(summary['readings'], 'reading')}; at layer {summary['layer']} it reads {listed}"


def _named(bound: Bound) -> str:
    return f"image {bound.argument('image')}"


TOP = Function(
    name="top",
    parameters=(
        Parameter("image", ImageReference(), "which image: its name, or its number"),
        LAYERS,
        Parameter("patch", Position(), "one patch, by its number; every one if left out", None),
        Parameter("rank", Rank(), "so many of the best tokens of each reading", 1),
        AT,
        PATCHES,
    ),
    positional=1,
    documentation="What one image reads: one cell, one layer, one patch, or all of them.",
    example="top(0, layers=8, rank=3)",
    check=check,
    compile=compile_top,
    summarise=summarise,
    headline=headline,
)
