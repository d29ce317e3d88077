"""The changes that a study makes to one image's run, whatever it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlq.query.schema import LAST, Study, Window
from vlq.workers.intervene.ablation import Moments, ablated, baseline_sets
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.knockout import knocked_out
from vlq.workers.intervene.patching import patched, positions_of, steered
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.intervene.sets import PatchSet, sets_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded


@dataclass(frozen=True)
class Made:
    """A change of an image's run, and what tells it from the image's others."""

    taken: PatchSet  # what is done to, or where states change; no patches: at the last token
    change: Change
    window: Window | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Source:
    """The run of an image whose states are put into another one's."""

    name: str
    prompted: Prompted
    states: Mapping[int, Tensor]  # (position, d) by layer
    target: Target  # what is measured: the study's, or the first token of its own answer; without ids if it has none
    logprob: float  # of the target, at its answer's first token


def target_of(study: Study) -> Target:
    """What it measures; without ids if that is the first token of the source's answer."""
    return Target(study.target_ids, study.only_first)


def source_of(model: LensModel, study: Study, name: str, image: Encoded) -> Source:
    """Run a source."""
    prompted = Prompted(model, image)
    target = target_of(study)
    if not target.ids:
        (plain,) = prompted.outcomes([Change()], [], 1)
        target = Target(plain.answer)
    (plain,) = prompted.outcomes([Change()], [target] if target.ids else [])
    states = prompted.states([first for first, _ in study.windows])
    return Source(name, prompted, states, target, plain.logprob[0] if target.ids else 0.0)


def changes_of(
    study: Study,
    row: Mapping[str, Any],
    prompted: Prompted,
    moments: Moments | None,
    target: Target,
    seed: Sequence[int],
    source: Source | None,
) -> list[Made]:
    """All of them, of an image that is a row of the study's plan."""
    if study.intervention == "steer":
        return [*_steered(study, row, prompted)]
    if source is not None:
        return [*_patched(study, row, prompted, source)]
    if moments is None:
        moments = nothing_like(prompted)
    sets = sets_of(row["patches"], (row["rows"], row["columns"]), study.combinations, study.buffer)
    sets += baseline_sets(prompted, sets[0], study.baselines, study.repeats, moments, target, seed)
    if study.intervention == "ablate":
        return [Made(taken, ablated(prompted, taken, moments, study.mode, seed)) for taken in sets]
    return [
        Made(taken, knocked_out(prompted, taken.patches, study.to, window, others=study.others), window)
        for taken in sets
        for window in study.windows
    ]


def _steered(study: Study, row: Mapping[str, Any], prompted: Prompted) -> Iterator[Made]:
    place, positions = _place(row), positions_of(prompted, _spots(study, row))
    plain = prompted.states(sorted({layer for window in study.windows for layer in _layers(window)}))
    for window in study.windows:
        for strength in study.strengths:
            change = steered(prompted, study.token_ids, positions, _layers(window), strength, plain)
            yield Made(place, change, window, strength)


def _patched(study: Study, row: Mapping[str, Any], prompted: Prompted, source: Source) -> Iterator[Made]:
    place, spots = _place(row), _spots(study, row)
    positions, theirs = positions_of(prompted, spots), positions_of(source.prompted, spots)
    for window in study.windows:
        yield Made(place, patched(source.states[window[0]][theirs], positions, window[0]), window)


def _layers(window: Window) -> range:
    return range(window[0], window[1] + 1)


def _spots(study: Study, row: Mapping[str, Any]) -> list[int] | None:
    """The patches where states change; None: at the last token."""
    return None if study.patches == repr(LAST) else row["patches"]


def _place(row: Mapping[str, Any]) -> PatchSet:
    return PatchSet("all", tuple(row["patches"]))


def nothing_like(prompted: Prompted) -> Moments:
    """Where no moments are asked for: zeros, as many as what enters has numbers."""
    entering = prompted.entering_patches()
    zeros = {layer: torch.zeros(values.shape[-1]) for layer, values in entering.items()}
    return Moments(zeros, zeros)
