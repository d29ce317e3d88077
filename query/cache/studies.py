"""Studies: interventions on a cache's images, and their effects, which are rows that queries ask for.

    studies/<digest>/study.json               what is done, to which patches, what is measured
    studies/<digest>/plan.parquet             the images that it is done to, their shards, and the patches of each
    studies/<digest>/commits/<shard>.json     create-only: what came of a shard's images, in
    studies/<digest>/effects/<shard>-<hash>.parquet
    studies/<digest>/effects-<hash>.parquet   all of it
    moments/<shard>.safetensors               create-only: a shard's patches' embeddings summed, and their squares
    moments/<shards>-<hash>.safetensors       of all these their mean and deviation; `<shards>` tells which ones

A head names a study's effects, in one table, when all of them are there (`Head.studies`): until then no query sees any.
What a study is: `schema.Study`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vlq.query.cache.tables import parquet_table
from vlq.query.cache.unembed import tensors_in
from vlq.query.errors import CorruptCache
from vlq.query.schema import FORMAT, STUDIES, Finished, Stored, Study, digest_of, parse_record, record_bytes, to_json
from vlq.query.store import Store

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
"""The columns of an ablation's effects, a row for each image and set. `before - after` is the effect: positive where
taking the patches makes the target less probable."""

IN_LAYERS = pa.schema(
    [
        *EFFECTS,
        ("first_layer", pa.uint16()),  # of the window in which it was done, both ends included
        ("last_layer", pa.uint16()),
        ("strength", pa.float32()),  # of what is added, in lengths of the states; null where nothing is
        ("source", pa.string()),  # the image whose states were put in; null where none were
        ("source_logprob", pa.float32()),  # the target's log-probability at its answer's first token, in nats
    ]
)
"""The columns of the effects of all other interventions, a row for each image, set, window and strength: `patches` are
those that were cut off, or where states changed; none where that is the last token."""


def columns_of(study: Study) -> pa.Schema:
    """The columns of a study's effects."""
    return EFFECTS if study.intervention == "ablate" else IN_LAYERS


DONE = pa.schema(
    [
        ("study", pa.string()),
        ("intervention", pa.string()),
        ("ablate", pa.string()),
        ("knockout", pa.string()),
        ("steer", pa.string()),
        ("patch", pa.string()),
        ("target", pa.string()),
        ("mode", pa.string()),
        ("combinations", pa.string()),
        ("buffer", pa.int64()),
        ("cut_to", pa.string()),
        ("others", pa.bool_()),
        ("place", pa.string()),
        ("prompt", pa.string()),
    ]
)
"""What the table of all studies' effects has beside each row: what was done, in the words of `effect`'s arguments."""


def done_by(study: Study) -> dict[str, Any]:
    """The values of DONE; those that a study has not are left out."""
    found: dict[str, Any] = {"study": study.digest, "intervention": study.intervention}
    found |= {} if study.target == "None" else {"target": study.target}
    found |= {} if study.prompt is None else {"prompt": study.prompt}
    match study.intervention:
        case "ablate" | "knockout":
            found |= {study.intervention: study.patches, "combinations": study.combinations, "buffer": study.buffer}
            found |= {"mode": study.mode} if study.mode else {"cut_to": study.to, "others": study.others}
        case "steer":
            found |= {"steer": study.token, "place": study.patches}
        case "patch":
            found |= {"patch": study.source, "place": study.patches}
    return found


# --- where they are --------------------------------------------------------------------------------------------


def study_key(study: Study) -> str:
    return f"{study.prefix}/study.json"


def plan_key(study: Study) -> str:
    return f"{study.prefix}/plan.parquet"


def commits_prefix(study: Study) -> str:
    return f"{study.prefix}/commits"


def commit_key(study: Study, shard: int) -> str:
    return f"{commits_prefix(study)}/{shard:08d}.json"


def shard_effects_key(study: Study, shard: int, digest: str) -> str:
    return f"{study.prefix}/effects/{shard:08d}-{digest[:16]}.parquet"


def effects_key(study: Study, digest: str) -> str:
    return f"{study.prefix}/effects-{digest[:16]}.parquet"


MOMENTS = "moments"
"""What the keys begin with of what patches' embeddings are like."""


def sums_key(shard: int) -> str:
    return f"{MOMENTS}/{shard:08d}.safetensors"


def moments_prefix(shards: Sequence[int]) -> str:
    """What the keys of the moments of these shards begin with."""
    return f"{MOMENTS}/{digest_of(to_json(list(shards)))[:16]}-"


_MOMENTS = re.compile(rf"{MOMENTS}/[0-9a-f]{{16}}-([0-9a-f]{{16}})\.safetensors")


def moments_of(key: str) -> str | None:
    """The first digits of the SHA-256 of the moments that are to lie at a key; None if these are no moments' key."""
    match = _MOMENTS.fullmatch(key)
    return None if match is None else match[1]


def sums_checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """What the metadata `sha256` of a shard's sums are to be."""
    return digest_of(b"".join(name.encode() + values.tobytes() for name, values in sorted(tensors.items())))


def check_moments(key: str, data: bytes) -> None:
    """Raises CorruptCache if these are not the sums or the moments that were put at a key."""
    if (digest := moments_of(key)) is not None:
        is_sound = digest == digest_of(data)[:16]
    else:
        tensors, metadata = tensors_in(np.frombuffer(data, np.uint8), key)
        is_sound = metadata.get("sha256") == sums_checksum(tensors)
    if not is_sound:
        raise CorruptCache(f"{key} is not what was written.", AGAIN)


# --- their records ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyCommit:
    """`studies/<digest>/commits/<shard>.json`: the shard is done, and these are its effects."""

    study: str  # Study.digest
    shard: int
    images: int
    errors: tuple[tuple[int, str, str], ...]  # image id, name, reason
    effects: Stored
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> StudyCommit:
        values = parse_record(data, where, cls)
        try:
            values["errors"] = tuple(tuple(error) for error in values["errors"])
            values["effects"] = Stored(**values["effects"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is no record of effects: {error}.", AGAIN) from error


AGAIN = "Run the command that made the study again: it does what is missing or damaged."


PLANNED = ["image_id", "patches"]
"""Columns of a plan that say what is to be done to which images."""


@dataclass(frozen=True)
class Underway:
    """A study that is not finished, and how far it is."""

    study: Study
    done: int  # shards
    shards: int
    plan: pa.Table  # its images' numbers and patches: image_id, patches


def underway(store: Store, finished: Sequence[Finished]) -> list[Underway]:
    """The studies that were begun and are not finished, by their digests. One listing, and of each its record and its
    plan are read."""
    known = {one.study.digest for one in finished}
    done: dict[str, int] = {}
    for entry in store.list(STUDIES):
        _, digest, *rest = entry.key.split("/")
        if digest not in known:
            done[digest] = done.get(digest, 0) + (rest[0] == "commits")
    found = []
    for digest, shards in sorted(done.items()):
        key = f"{STUDIES}/{digest}/study.json"
        with suppress(FileNotFoundError, CorruptCache, pa.ArrowException):  # which `vlq gc` removes
            study = Study.from_bytes(store.read(key), key)
            plan = parquet_table(store.read(plan_key(study)), ["shard", *PLANNED])
            found.append(Underway(study, shards, plan["shard"][-1].as_py() + 1, plan.select(PLANNED)))
    return found
