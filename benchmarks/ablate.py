"""Many sets of patches taken from one image: changed runs side by side behind one pass of the tower and of the prompt's
beginning, against `generate` anew for each set, with a hook that replaces what the projector gives.

The demo's model, which is trained, and one of its scenes. Both come to the same answers, which is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.inputs import small
from benchmarks.measure import Figure, faster, in_turns, milliseconds
from vlq.workers.demo.dialogues import CAPTION_QUESTION, prompt_of
from vlq.workers.intervene.ablation import MomentSums, ablated
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.intervene.sets import PatchSet
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded

SETS = 100
TAKEN = 5
"""Patches of a set."""

ANSWER = 14
ROUNDS = 5
AIM = 3.0


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    case = small(work, quick=True)
    model = load(str(case.model), prompt=prompt_of(CAPTION_QUESTION))
    image = model.encode(Image.open(min(case.images.glob("*.png"))).convert("RGB"))
    rng, count = np.random.default_rng(0), len(image.sites["patch"])
    sets = [tuple(sorted(rng.choice(count, TAKEN, replace=False).tolist())) for _ in range(10 if quick else SETS)]
    sums = MomentSums()
    sums.add(Prompted(model, image).entering_patches())
    mean = sums.moments().mean[0].to(model.device)

    def together() -> list[tuple[int, ...]]:
        prompted = Prompted(model, image)
        moments = sums.moments()
        changes = [ablated(prompted, PatchSet("all", taken), moments, "mean", [0]) for taken in sets]
        return [outcome.answer for outcome in prompted.outcomes(changes, [Target((0,))], ANSWER)]

    def one_by_one() -> list[tuple[int, ...]]:
        return [generated(model, image, taken, mean) for taken in sets]

    assert together() == one_by_one()
    times = in_turns(1 if quick else ROUNDS, partial(milliseconds, together), partial(milliseconds, one_by_one))
    note = f"{len(sets)} sets of {TAKEN} patches of one image, answers of {ANSWER} tokens at most"
    yield faster("many sets", *map(median, times), "generate with a hook, one at a time", least=AIM, note=note)


@torch.no_grad()
def generated(model: LensModel, image: Encoded, taken: Sequence[int], mean: torch.Tensor) -> tuple[int, ...]:
    """The answer with some patches' embeddings replaced, by the model's own `generate`."""
    whole: Any = model.model

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, list(taken)] = mean.to(output)
        return output

    batch = model.batch([image])
    batch.pop("position_ids", None)
    batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    handle = whole.model.multi_modal_projector.register_forward_hook(hook)
    try:
        found = whole.generate(**batch, max_new_tokens=ANSWER, do_sample=False)
    finally:
        handle.remove()
    new = found[0, batch["input_ids"].shape[1] :].tolist()
    end = next((at for at, id in enumerate(new) if id in model.ends), len(new))
    return tuple(new[:end])
