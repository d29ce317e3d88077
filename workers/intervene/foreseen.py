"""What a study takes, counted before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from vlq.workers.intervene.ablation import STEPS
from vlq.workers.intervene.job import Beginning
from vlq.workers.intervene.moments import known_moments
from vlq.workers.intervene.sets import sets_of

PLAIN = {"ablate": 1, "knockout": 1, "steer": 2, "patch": 3}
"""Passes of an image beside those of changed runs: the plain run; its states; the other image's run and states."""


@dataclass(frozen=True)
class Foreseen:
    """What a study takes."""

    images: int
    patches: int  # that are chosen
    sets: int  # with those that they are held against; the registers', which only the model tells, are all counted.
    # Of several windows of layers, or strengths, each set counts as often
    passes: int  # through the decoder, of so many changed runs side by side at most, answers not counted
    batch: int
    gradients: int  # passes forward and backward
    corpus: int  # images whose patches' embeddings are to be summed before


def foresee(found: Beginning) -> Foreseen:
    """Count it. Nothing is run."""
    study, rows = found.study, found.plan.table.to_pylist()
    counts = []
    for row in rows:
        count = 1
        if study.intervention in ("ablate", "knockout"):
            sets = sets_of(row["patches"], (row["rows"], row["columns"]), study.combinations, study.buffer)
            has_others = len(sets[0].patches) < row["rows"] * row["columns"]
            count = len(sets) + (study.repeats if has_others else 0)
            count += sum(name in study.baselines for name in ("register", "gradient"))
        counts.append(count * max(1, len(study.windows)) * max(1, len(study.strengths)))
    corpus = 0
    if found.options.needs_moments and study.moments is None:
        missing = known_moments(found.store, found.shards)[1]
        corpus = sum(found.corpus.cache.commit(shard).images for shard in missing)
    return Foreseen(
        images=len(rows),
        patches=sum(len(row["patches"]) for row in rows),
        sets=sum(counts),
        passes=sum(PLAIN[study.intervention] + ceil(count / study.batch) for count in counts),
        batch=study.batch,
        gradients=STEPS * len(rows) if "gradient" in study.baselines else 0,
        corpus=corpus,
    )
