"""Activation patching and steering: states of another run, or a token's own direction, put into a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from vlq.query.errors import BadArgument
from vlq.workers.intervene.attribution import weight_of
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.prompted import Prompted


def positions_of(prompted: Prompted, patches: Sequence[int] | None) -> list[int]:
    """Where patches are in the sequence; None: where the prompt's last token is."""
    positions = prompted.patches.tolist()
    return [prompted.length - 1] if patches is None else [positions[patch] for patch in patches]


def patched(states: Tensor, positions: Sequence[int], layer: int) -> Change:
    """The change that puts states (position, d) at a layer."""
    return Change(replaced={layer: (torch.tensor(positions), states)})


@torch.no_grad()
def direction(prompted: Prompted, ids: Sequence[int]) -> Tensor:
    """(d,) of length 1: along which a state's logits of tokens grow, on average over these, as the norm in front of the
    head weighs it."""
    head: Tensor = prompted.model.lm_head.weight  # type: ignore[assignment]
    along = head[list(ids)].detach().float().mean(0) * weight_of(prompted.model.final_norm)
    length: Tensor = along.norm()
    return along / length.clamp(min=torch.finfo(torch.float32).tiny)


def lengths(strengths: Iterable[float]) -> tuple[float, ...]:
    """Strengths of a direction. Raises BadArgument if one is no finite number."""
    found = tuple(float(strength) for strength in strengths)
    if not all(map(math.isfinite, found)):
        raise BadArgument(f"strength: expected finite numbers. Got {', '.join(f'{one:g}' for one in found)}.")
    return found


@torch.no_grad()
def steered(
    prompted: Prompted,
    ids: Sequence[int],
    positions: Sequence[int],
    layers: Sequence[int],
    strength: float,
    plain: Mapping[int, Tensor] | None = None,
) -> Change:
    """The change that adds a token's direction to states: as long as `strength` times what these states are long at
    each layer, on average over the positions. `plain` are the states of the plain run, where they are known."""
    if not strength:
        return Change()
    along = direction(prompted, ids)
    added = {}
    plain = prompted.states(layers) if plain is None else plain
    for layer in layers:
        own = plain[layer][list(positions)].float()
        length = own.norm(dim=-1).mean()
        added[layer] = (torch.tensor(positions), (strength * length * along.to(own)).expand(len(positions), -1))
    return Change(added=added)
