"""Studies: interventions on a cache's images, and their effects, which are rows that queries ask for.

    studies/<digest>/study.json               what is done, to which patches, what is measured
    studies/<digest>/plan.parquet             the images that it is done to, and the patches of each
    studies/<digest>/commits/<shard>.json     what came of so many of these, in
    studies/<digest>/effects/<shard>-<hash>.parquet

A head names a study's effects, in one table, when all of them are there (`Head.studies`): until then no query sees any.
What a study is: `schema.Study`.
"""

from __future__ import annotations

import pyarrow as pa

EFFECTS = pa.schema(
    [
        ("image_id", pa.uint32()),
        ("set", pa.string()),  # all, regions 1+3, patch 41, random 0, register, gradient: unique in an image
        ("kind", pa.string()),  # its first word
        ("patches", pa.list_(pa.uint16())),  # those that were taken, ascending, rings included
        ("before", pa.float32()),  # the target's log-probability at the answer's first token, in nats
        ("after", pa.float32()),  # the same with the patches taken
        ("rank_before", pa.uint32()),
        ("rank_after", pa.uint32()),
        ("answer_before", pa.string()),
        ("answer", pa.string()),
        ("gone", pa.bool_()),  # the answer held the target, and does no more; null where it never did
    ]
)
"""The columns of a study's effects, a row for each image and set. `before - after` is the effect: positive where taking
the patches makes the target less probable."""
