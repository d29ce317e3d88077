"""Studies: interventions on a cache's images, and their effects, which are rows that queries ask for.

    studies/<digest>/study.json               what is done, to which patches, what is measured
    studies/<digest>/plan.parquet             the images that it is done to, and the patches of each
    studies/<digest>/commits/<shard>.json     what came of so many of these, in
    studies/<digest>/effects/<shard>-<hash>.parquet

A head names a study's effects, in one table, when all of them are there (`Head.studies`): until then no query sees any.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa

from vlq.query.errors import CorruptCache
from vlq.query.schema import FORMAT, digest_of, parse_record, record_bytes

MODES = ("mean", "zero", "noise")
"""What stands where a patch was: the corpus' mean patch, nothing, or noise with the corpus' mean and spread."""

BASELINES = ("random", "register", "gradient")
"""What taking the chosen patches away is held against: taking as many others at random; those whose embeddings are far
longer than the others'; as many as integrated gradients name."""

COMBINATIONS = ("all", "regions", "singles")
"""How the chosen patches are taken: together; each region, and regions in every combination; each patch."""

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


@dataclass(frozen=True)
class Study:
    """`study.json`: everything that decides its effects. Its digest names it, so that the same is done once."""

    run: str  # Run.digest
    patches: str  # the query that chose the patches, as the language writes it
    target: str  # the tokens that are measured, as the language writes them
    target_ids: tuple[int, ...]
    mode: str  # of MODES
    buffer: int  # rings of neighbours that are taken, too
    combinations: str  # of COMBINATIONS
    baselines: tuple[str, ...]  # of BASELINES
    repeats: int  # random sets of each image
    answer: int  # tokens of the answer at most
    seed: int
    format: int = FORMAT

    @property
    def digest(self) -> str:
        return digest_of(self.to_bytes())[:16]

    @property
    def prefix(self) -> str:
        """Where it lies in the cache."""
        return f"studies/{self.digest}"

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Study:
        values = parse_record(data, where)
        try:
            values["target_ids"], values["baselines"] = tuple(values["target_ids"]), tuple(values["baselines"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise CorruptCache(
                f"{where} is not a study: {error}.", "Run: vlq gc, and the same command again."
            ) from error
