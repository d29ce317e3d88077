"""What a study takes, counted before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from vlq.workers.intervene.ablation import STEPS
from vlq.workers.intervene.job import Beginning
from vlq.workers.intervene.moments import known_moments
from vlq.workers.intervene.sets import sets_of


@dataclass(frozen=True)
class Foreseen:
    """What a study takes."""

    images: int
    patches: int  # that are chosen
    sets: int  # with those that they are held against; the registers', which only the model tells, are all counted
    passes: int  # through the decoder, of so many changed runs side by side at most, answers not counted
    batch: int
    gradients: int  # passes forward and backward
    corpus: int  # images whose patches' embeddings are to be summed before


def foresee(found: Beginning) -> Foreseen:
    """Count it. Nothing is run."""
    study, rows = found.study, found.plan.table.to_pylist()
    counts = []
    for row in rows:
        sets = sets_of(row["patches"], (row["rows"], row["columns"]), study.combinations, study.buffer)
        has_others = len(sets[0].patches) < row["rows"] * row["columns"]
        more = (study.repeats if has_others else 0) + sum(name in study.baselines for name in ("register", "gradient"))
        counts.append(len(sets) + more)
    corpus = 0
    if found.options.needs_moments and study.moments is None:
        missing = known_moments(found.store, found.shards)[1]
        corpus = sum(found.corpus.cache.commit(shard).images for shard in missing)
    return Foreseen(
        images=len(rows),
        patches=sum(len(row["patches"]) for row in rows),
        sets=sum(counts),
        passes=sum(1 + ceil(count / study.batch) for count in counts),
        batch=study.batch,
        gradients=STEPS * len(rows) if "gradient" in study.baselines else 0,
        corpus=corpus,
    )
