"""Which lens a run reads with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlq.query.schema import Run
from vlq.workers.lens import Lens
from vlq.workers.models.base import LensModel


def lens_of(model: LensModel, run: Run) -> Lens:
    """The run's lens on its model."""
    return logit_lens(model, run.k, run.lens_block, run.tracked)


def logit_lens(model: LensModel, k: int, block: int, tracked: Sequence[int] = ()) -> Lens:
    """The model's own norm and head, at every layer."""

    def unembed(layer: int, hidden: Tensor) -> Tensor:
        return model.unembed(hidden)

    return Lens(unembed, k, block, tracked)
