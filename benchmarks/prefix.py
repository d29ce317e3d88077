"""The text in front of the image, run and read once, beside the same batches in whole sequences.

Both are what a worker does with decoded images, in turns, by CPU time of its one thread: forward pass, lens, and all of
it in the host's memory. The text is as long as a chat template's or a system prompt's is beside the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from benchmarks.floor import Case, case_of, read, timed
from benchmarks.inputs import small, wide
from benchmarks.measure import Figure, faster, in_turns, spread
from vlq.workers.models import load

ROUNDS = 9


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    torch.set_num_threads(1)
    for case, words in ((small(work, quick=True), 4), (small(work, quick=True), 12), (wide(work, quick=True), 36)):
        model = load(str(case.model), prompt=f"USER: {'dog ' * words}<image>\nWhat is the main object? ASSISTANT:")
        yield from measure(case_of(case.name, model, work, case.batch_size), 1 if quick else ROUNDS)


def measure(case: Case, rounds: int) -> Iterator[Figure]:
    prefix, first = case.model.prefix, case.batches[0][0]
    if prefix is None:
        return

    def with_prefix(is_there: bool) -> Callable[[], None]:
        def side() -> None:
            case.model.prefix = prefix if is_there else None
            read(case)

        return side

    sides = [with_prefix(True), with_prefix(False)]
    for side in sides:
        side()
    ours, theirs = in_turns(rounds, *(timed(side, "cpu") for side in sides))
    ratios = [whole / once for once, whole in zip(ours, theirs, strict=True)]
    share = prefix.length / first.length
    yield faster(
        f"{case.name}, {prefix.length} of {first.length} tokens in front ({share:.1%})",
        median(ours) / case.images * 1000,
        median(theirs) / case.images * 1000,
        "whole sequences",
        note=f"ratios of the turns: {spread(ratios)}",
    )
