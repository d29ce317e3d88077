"""What can be made different while an image with its prompt goes through the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

States = tuple[Tensor, Tensor]
"""Positions in the sequence (position,), and a state for each of them (position, d)."""


@dataclass(frozen=True)
class Block:
    """Attention that is cut: none of these queries sees any of these keys in these layers' blocks.

    Layer l's block is the one that makes layer l of layer l - 1, so that layers go from 1. A position always sees
    itself: attention to nothing is not defined. What is blocked for the prompt's last token is blocked for the tokens
    of the answer, too.
    """

    queries: tuple[int, ...]  # positions in the sequence
    keys: tuple[int, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """One intervention: everything that is different from the plain run. Layers are those of the lens, 0 the embedding.

    `replaced` puts states in the place of what is there, `added` adds to them afterwards. `entering` replaces what a
    tower adds to the patches behind early blocks (`LensModel.entering`).
    """

    replaced: Mapping[int, States] = field(default_factory=dict)
    added: Mapping[int, States] = field(default_factory=dict)
    entering: Mapping[int, States] = field(default_factory=dict)
    blocked: tuple[Block, ...] = ()

    @property
    def first(self) -> int | None:
        """The first position whose states differ from the plain run's, of a model that sees only backwards. None: no
        position's do."""
        positions = [
            int(positions.min())
            for states in (self.replaced, self.added, self.entering)
            for positions, _ in states.values()
            if len(positions)
        ]
        positions += [min(block.queries) for block in self.blocked if block.queries and block.keys and block.layers]
        return min(positions, default=None)


def rows_of(changes: Sequence[Mapping[int, States]], layer: int, start: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """What several changes, a row of a batch each, put at a layer: rows, positions from `start` on, states."""
    found = [(row, *states[layer]) for row, states in enumerate(changes) if layer in states and len(states[layer][0])]
    if not found:
        return None
    rows = torch.cat([torch.full_like(positions, row) for row, positions, _ in found])
    return rows, torch.cat([positions for _, positions, _ in found]) - start, torch.cat([one for *_, one in found])
