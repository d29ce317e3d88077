"""Finished studies of random effects, written as the job writes them, for tests that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vlq.query.cache.heads import name_study
from vlq.query.cache.studies import columns_of
from vlq.query.cache.tables import parquet_bytes
from vlq.query.schema import Finished, Run, Study, digest_of
from vlq.query.store import Store, put

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
    if changes.get("intervention", "ablate") != "ablate":
        values["mode"] = ""
    return Study(**{**values, **changes})  # type: ignore[arg-type]


def random_effects(study: Study, images: Sequence[int], patches: int, seed: int = 0) -> list[Row]:
    """The effects on images of so many patches: of the chosen ones, of their parts, of the baselines."""
    rng = np.random.default_rng([seed, 5])
    parts = {"all": [], "regions": ["region 1", "region 2", "regions 1+2"], "singles": ["patch 0", "patch 1"]}
    rows = []
    for image in sorted(images):
        before, first = float(-rng.integers(0, 40) / 8), bool(rng.random() < 0.8)
        sets = ["all", *parts[study.combinations]]
        for baseline in study.baselines:
            sets += [f"random {number}" for number in range(study.repeats)] if baseline == "random" else [baseline]
        for name in sets:
            after = float(before - rng.integers(-8, 48) / 8)
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


def random_curves(study: Study, images: Sequence[int], patches: int, seed: int = 0) -> list[Row]:
    """The same of other interventions: of each window and strength; where states were put in with a source."""
    rows = []
    for number, (first, last) in enumerate(study.windows):
        for strength in study.strengths or (None,):
            found = random_effects(study, images, patches, seed=seed + 10 * number + int(8 * (strength or 0)))
            for row in found:
                own = {"first_layer": first, "last_layer": last, "strength": strength}
                own |= {"source": None, "source_logprob": None}
                if study.intervention == "patch":
                    # Of one image as probable as in its own run.
                    theirs = row["before"] if row["image_id"] == images[0] else row["image_id"] / 4 - 9.125
                    own |= {"source": f"{row['image_id'] + 1}.png", "source_logprob": theirs}
                rows.append(row | own)
    plain = {row["image_id"]: {k: row[k] for k in ("before", "rank_before", "answer_before")} for row in rows}
    return [row | plain[row["image_id"]] for row in rows]  # of an image there is one plain run


def finish(store: Store, study: Study, rows: Sequence[Row]) -> Finished:
    """Have a head name a study with these effects."""
    order = ["image_id", "set"] if study.intervention == "ablate" else ["image_id", "set", "first_layer", "strength"]
    table = pa.Table.from_pylist(list(rows), columns_of(study)).sort_by([(name, "ascending") for name in order])
    data = parquet_bytes(table)
    finished = Finished(study, put(store, f"{study.prefix}/effects-{digest_of(data)[:16]}.parquet", data))
    name_study(store, finished)
    return finished
