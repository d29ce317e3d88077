"""Attention knockout: what some positions may no longer see, in a window of layers (Geva et al., Dissecting Recall of
Factual Associations in Auto-Regressive Language Models, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from vlq.query.errors import BadArgument
from vlq.query.schema import Window
from vlq.workers.intervene.changes import Block, Change
from vlq.workers.intervene.prompted import Prompted


def windows(layers: int, width: int | None, between: Window | None = None, lowest: int = 1) -> list[Window]:
    """Windows that slide over a model's layers from `lowest` on, or over those `between` two, one by one; without a
    width it is one. Layer l is what block l makes of layer l - 1, so that attention is cut from 1 on.

    Raises BadArgument if there is no such window.
    """
    first, last = between or (lowest, layers - 1)
    if not lowest <= first <= last < layers:
        if lowest == 0:
            raise BadArgument(f"Layers are 0 (the embedding) to {layers - 1}. Got {first} to {last}.")
        raise BadArgument(
            f"Attention is cut in layers 1 to {layers - 1}: layer l is what block l makes. Got {first} to {last}."
        )
    if width is None:
        return [(first, last)]
    if not 1 <= width <= last - first + 1:
        raise BadArgument(f"A window has 1 to {last - first + 1} layers here. Got {width}.")
    return [(start, start + width - 1) for start in range(first, last - width + 2)]


def knocked_out(prompted: Prompted, patches: Sequence[int], to: str, window: Window, *, others: bool = False) -> Change:
    """The change by which `to`, one of TO, no longer sees some patches in a window's layers; with `others` all patches
    but these."""
    positions = prompted.patches.tolist()
    hidden = {*range(len(positions))} - {*patches} if others else {*patches}
    last = prompted.length - 1
    if to == "last":
        queries: Sequence[int] = [last]
    elif to == "last-row":
        queries = positions[-prompted.image.grid[1] :]
    else:
        queries = range(max(positions) + 1, prompted.length)
    keys = tuple(positions[patch] for patch in sorted(hidden))
    return Change(blocked=(Block(tuple(queries), keys, tuple(range(window[0], window[1] + 1))),))
