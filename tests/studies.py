"""Finished studies of random effects, written as the job writes them, for tests that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vlq.query.heads import name_study
from vlq.query.schema import Finished, Run, Study, digest_of
from vlq.query.store import Store, put
from vlq.query.studies import EFFECTS
from vlq.query.tables import parquet_bytes

from .synthetic import WORDS

Row = dict[str, Any]


def make_study(run: Run, **changes: object) -> Study:
    """A study of the rock's patches and the word rock whose fields can be chosen."""
    values: dict[str, object] = {
        "run": run.digest,
        "patches": "readings('rock')",
        "target": "'rock'",
        "target_ids": (WORDS.index("rock"),),
        "mode": "mean",
        "buffer": 0,
        "combinations": "all",
        "baselines": ("random",),
        "repeats": 2,
        "answer": 3,
        "seed": 0,
    }
    return Study(**{**values, **changes})  # type: ignore[arg-type]


def random_effects(study: Study, images: Sequence[int], patches: int, seed: int = 0) -> list[Row]:
    """The effects on images of so many patches: of the chosen ones, of their parts, of the baselines."""
    rng = np.random.default_rng([seed, 5])
    parts = {"all": [], "regions": ["region 1", "region 2", "regions 1+2"], "singles": ["patch 0", "patch 1"]}
    rows = []
    for image in sorted(images):
        before, first = -rng.integers(0, 40) / 8, bool(rng.random() < 0.8)
        sets = ["all", *parts[study.combinations]]
        for baseline in study.baselines:
            sets += [f"random {number}" for number in range(study.repeats)] if baseline == "random" else [baseline]
        for name in sets:
            after = before - rng.integers(-8, 48) / 8
            taken = np.flatnonzero(rng.random(patches) < 0.4).tolist()
            gone = bool(rng.random() < 0.5)
            rows.append(
                {
                    "image_id": image,
                    "set": name,
                    "kind": name.split()[0],
                    "patches": taken or [0],
                    "before": before,
                    "after": after,
                    "rank_before": 1 if first else 2,
                    "rank_after": int(rng.integers(1, 5)),
                    "answer_before": "rock and dog" if first else "dog",
                    "answer": "dog" if gone or not first else "rock",
                    "gone": gone if first else None,
                }
            )
    return rows


def finish(store: Store, study: Study, rows: Sequence[Row]) -> Finished:
    """Have a head name a study with these effects."""
    table = pa.Table.from_pylist(list(rows), EFFECTS).sort_by([("image_id", "ascending"), ("set", "ascending")])
    data = parquet_bytes(table)
    finished = Finished(study, put(store, f"{study.prefix}/effects-{digest_of(data)[:16]}.parquet", data))
    name_study(store, finished)
    return finished
