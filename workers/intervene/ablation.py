"""Ablation: patches' embeddings replaced before the decoder sees them, and what that does to the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlq.query.schema import Study
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.prompted import Outcome, Prompted, Target
from vlq.workers.intervene.sets import PatchSet, highest, random_sets, registers

STEPS = 16
"""Points of the integral of integrated gradients (Sundararajan et al. 2017), by the midpoint rule."""


@dataclass(frozen=True)
class Moments:
    """What patches' embeddings are like over a corpus: by layer at which they enter (`Prompted.entering_patches`) their
    mean and standard deviation, each (d,) in float32."""

    mean: Mapping[int, Tensor]
    deviation: Mapping[int, Tensor]


class MomentSums:
    """Adds up patches' embeddings, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: dict[int, Tensor] = {}
        self.squares: dict[int, Tensor] = {}

    def add(self, entering: Mapping[int, Tensor]) -> None:
        """One image's, (patch, d) by layer."""
        self.count += len(next(iter(entering.values())))
        for layer, values in entering.items():
            numbers = values.double().cpu()
            self.total[layer] = self.total.get(layer, 0) + numbers.sum(0)
            self.squares[layer] = self.squares.get(layer, 0) + numbers.square().sum(0)

    def add_sums(self, other: MomentSums) -> None:
        """What another one added up."""
        self.count += other.count
        for own, more in ((self.total, other.total), (self.squares, other.squares)):
            for layer, values in more.items():
                own[layer] = own.get(layer, 0) + values

    def moments(self) -> Moments:
        """Of all that were added."""
        mean = {layer: total / self.count for layer, total in self.total.items()}
        spread = {
            layer: (squares / self.count - mean[layer].square()).clamp(min=0).sqrt()
            for layer, squares in self.squares.items()
        }
        return Moments(*({layer: one.float() for layer, one in of.items()} for of in (mean, spread)))


@dataclass(frozen=True)
class Measured:
    """One set taken from an image, and what came of it."""

    taken: PatchSet
    outcome: Outcome


def ablated(prompted: Prompted, taken: PatchSet, moments: Moments, mode: str, seed: Sequence[int]) -> Change:
    """The change that puts something in the place of some patches, wherever they enter.

    `seed` is of noise: numbers that tell the study and the image.
    """
    patches = list(taken.patches)
    positions = prompted.patches.cpu()[torch.tensor(patches, dtype=torch.long)]
    # Where the model sees the image once more as a whole, the places that show the same are taken, too.
    again = prompted.image.shown_again(patches)
    entering = {}
    for layer, mean in moments.mean.items():
        where = torch.cat([positions, again]) if layer == 0 else positions
        values = (torch.zeros_like(mean) if mode == "zero" else mean).expand(len(where), -1)
        if mode == "noise":
            # Of each place its own, whatever others are taken with it.
            noise = [
                np.random.default_rng([*seed, layer, place]).standard_normal(len(mean)) for place in where.tolist()
            ]
            values = mean + moments.deviation[layer] * torch.from_numpy(np.stack(noise)).float() if noise else values
        entering[layer] = (where, values)
    return Change(replaced={0: entering.pop(0)}, entering=entering)


def measure(
    prompted: Prompted,
    sets: Sequence[PatchSet],
    moments: Moments,
    target: Target,
    mode: str,
    answer: int,
    seed: Sequence[int],
    batch: int = Study.batch,
) -> tuple[Outcome, list[Measured]]:
    """The plain run, and what came of taking each set away."""
    changes = [Change(), *(ablated(prompted, taken, moments, mode, seed) for taken in sets)]
    plain, *outcomes = prompted.outcomes(changes, [target], answer, batch)
    return plain, [Measured(taken, outcome) for taken, outcome in zip(sets, outcomes, strict=True)]


def baseline_sets(
    prompted: Prompted,
    taken: PatchSet,
    baselines: Sequence[str],
    repeats: int,
    moments: Moments,
    target: Target,
    seed: Sequence[int],
) -> list[PatchSet]:
    """The sets that the chosen one is held against."""
    found: list[PatchSet] = []
    if "random" in baselines:
        free = sorted({*range(len(prompted.patches))} - {*taken.patches})
        found += random_sets(taken, free, repeats, seed)
    if "register" in baselines and (
        own := registers(prompted.entering_patches()[0].float().norm(dim=-1).cpu().numpy())
    ):
        found.append(PatchSet("register", own))
    if "gradient" in baselines:
        scores = integrated_gradients(prompted, target, moments)
        found.append(PatchSet("gradient", highest(scores, len(taken.patches))))
    return found


def integrated_gradients(prompted: Prompted, target: Target, moments: Moments, steps: int = STEPS) -> np.ndarray:
    """(patch,) what each patch adds to the target's log-probability at the answer's first token, on the way from the
    corpus' mean patch to its own embedding: they sum to about the difference between the two ends."""
    own, mean = prompted.entering_patches(), moments.mean
    scores = torch.zeros(len(prompted.patches), dtype=torch.float64)
    for step in range(steps):
        share = (step + 0.5) / steps
        points = {
            layer: (mean[layer].to(values) + share * (values - mean[layer].to(values))).requires_grad_()
            for layer, values in own.items()
        }
        logprob = prompted.logprob_at(points, target)
        gradients = torch.autograd.grad(logprob, list(points.values()))
        for (layer, values), gradient in zip(own.items(), gradients, strict=True):
            scores += ((values - mean[layer].to(values)) * gradient).sum(-1).double().cpu() / steps
    return scores.numpy()
