"""Tokens of which all is known at every reading: those that are tracked, and any where all logits are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.bind import Bound
from vlq.query.compile import Compiler, Derived

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache import Snapshot


def source_of(bound: Bound) -> str | None:
    """What tells all of each of the tokens, in a word; None if nothing does."""
    if {*bound.token.ids} <= {*bound.run.tracked}:
        return "tracked"
    return "all kept" if bound.run.keep == "all" else None


def known_readings(bound: Bound, compiler: Compiler) -> str:
    """Every reading of such tokens, as something to select from: token, image, layer, position, rank, logprob.

    It holds the images and layers that are asked for, at least.
    """
    if source_of(bound) == "tracked":
        return compiler.table(f"{bound['at']}_tracked", bound.token.ids)
    own = Compiler()
    images = bound.values.get("images")
    where = "" if images is None else f" AND ({images.sql(own)})"
    asked = own.ask(
        f"SELECT image_id FROM {own.table('images')} AS images WHERE error IS NULL{where} ORDER BY image_id"
    )
    return compiler.load("kept", Derived(asked, Kept(bound["at"], bound.token.ids, bound.layers.layers)))


@dataclass(frozen=True)
class Kept:
    """Reads tokens' readings in some images of the arrays of all logits. A chunk is a layer with its vocabulary."""

    site: str
    ids: tuple[int, ...]
    layers: tuple[int, ...]

    def __call__(self, snapshot: Snapshot, images: pyarrow.Table) -> pyarrow.Table:
        import numpy as np
        import pyarrow as pa

        from vlq.query.arrays import values

        stored, own = snapshot.cache.run.stored_at(self.site)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}
        for image in images["image_id"].to_pylist():
            commit = snapshot.commit_of(image)
            row = image - commit.first_image
            logit, lse = (snapshot.cache.array(commit.shard, f"{stored}/{name}") for name in ("logit", "lse"))
            totals = values(lse, row)[:, own]  # (layer, position)
            for layer in self.layers:
                there = np.isfinite(totals[layer])
                logits = values(logit, (row, layer))[own][there].astype(np.float32)  # (position, vocabulary)
                positions = np.flatnonzero(there)
                for id in self.ids:
                    one = logits[:, id, None]
                    rank = 1 + (logits[:, :id] >= one).sum(1) + (logits[:, id + 1 :] > one).sum(1)
                    found = (id, image, layer, positions, rank, one[:, 0] - totals[layer][there])
                    for name, part in zip(NUMBERS, found, strict=True):
                        columns[name].append(np.broadcast_to(np.asarray(part, NUMBERS[name]), positions.shape))
        return pa.table({name: np.concatenate([np.zeros(0, NUMBERS[name]), *parts]) for name, parts in columns.items()})


NUMBERS = {
    "token": "uint32",
    "image": "uint32",
    "layer": "uint16",
    "position": "uint16",
    "rank": "uint32",
    "logprob": "float32",
}
"""The columns, as in an index table of tracked tokens."""
