"""Attention knockout: what some positions may no longer see, in a window of layers (Geva et al., Dissecting Recall of
Factual Associations in Auto-Regressive Language Models, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlq.query.errors import BadArgument
from vlq.workers.intervene.changes import Block, Change
from vlq.workers.intervene.prompted import Prompted

TO = ("last", "last-row", "prompt")
"""Who no longer sees the patches: the prompt's last token (and those of the answer), the last row of patches, or every
token of the prompt behind the image."""


@dataclass(frozen=True)
class Window:
    """Consecutive layers, both ends included. Layer l is what block l makes of layer l - 1, so that they go from 1."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def windows(layers: int, width: int | None, between: tuple[int, int] | None = None) -> list[Window]:
    """Windows that slide over a model's layers, or over those `between` two, one by one; without a width it is one.

    Raises BadArgument if there is no such window.
    """
    first, last = between or (1, layers - 1)
    if not 1 <= first <= last < layers:
        raise BadArgument(
            f"Attention is cut in layers 1 to {layers - 1}: layer l is what block l makes. Got {first} to {last}."
        )
    if width is None:
        return [Window(first, last)]
    if not 1 <= width <= last - first + 1:
        raise BadArgument(f"A window has 1 to {last - first + 1} layers here. Got {width}.")
    return [Window(start, start + width - 1) for start in range(first, last - width + 2)]


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
    return Change(blocked=(Block(tuple(queries), keys, tuple(range(window.first, window.last + 1))),))
