"""Which lens a run reads with: how a layer's states become logits over the vocabulary.

Each is an `unembed` of its own (`Unembed`); what is read of the logits is the same for all (`vlq.workers.lens`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlq.query.errors import RunError
from vlq.query.schema import LensSpec, Run

if TYPE_CHECKING:
    from torch import Tensor

    from vlq.query.store import Store
    from vlq.workers.lens import Lens
    from vlq.workers.models.base import LensModel

    Unembed = Callable[[int, Tensor], Tensor]
    """A layer and its un-normed (n, d) states -> (n, vocabulary) logits."""


def lens_of(model: LensModel, run: Run, store: Store | None = None) -> Lens:
    """The run's lens on its model. `store` is the run's cache, which holds a tuned lens.

    Raises ModelError if the model cannot be read by it, CorruptCache if a tuned lens is not what was stored.
    """
    from vlq.workers.lens import Lens

    return Lens(unembed_of(model, run, store), run.k, run.lens_block, run.tracked, run.keep == "all")


def unembed_of(model: LensModel, run: Run, store: Store | None = None) -> Unembed:
    """What `lens_of` reads with."""
    from vlq.workers.lenses import plain, tuned

    if run.lens.kind == "logit":
        return plain.logit(model)
    if run.lens.kind == "head":
        return plain.head(model)
    if run.lens.kind == "nearest" and run.lens.temperature is not None:
        return plain.nearest(model, run.lens.temperature)
    if run.lens.kind == "tuned" and store is not None:
        return tuned.unembed(model, tuned.stored(model, run, store))
    raise RunError(f"This VLQ has no lens {run.lens}.")


def on(model: LensModel, lens: LensSpec) -> LensSpec:
    """A lens with what follows from the model.

    Cosines of random directions of d numbers vary by 1 / sqrt(d): divided by that, `nearest` gives a logit of 5 to what
    is 5 standard deviations nearer than chance.
    """
    return replace(lens, temperature=model.width**-0.5) if lens.kind == "nearest" else lens


def logit_lens(model: LensModel, k: int, block: int, tracked: Sequence[int] = ()) -> Lens:
    """The model's own norm and head, at every layer."""
    from vlq.workers.lens import Lens
    from vlq.workers.lenses import plain

    return Lens(plain.logit(model), k, block, tracked)
