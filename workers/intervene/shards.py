"""A shard of a study, on a loaded model: what came of its images. And what a shard of the corpus adds to the moments of
its patches' embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vlq.query.chosen import PROMPT
from vlq.query.errors import RunError
from vlq.query.schema import Stored, Study, digest_of
from vlq.query.store import Store, put
from vlq.query.studies import EFFECTS, StudyCommit, commit_key, shard_effects_key
from vlq.query.summary import count
from vlq.query.tables import parquet_bytes
from vlq.workers.extract import Prepared, prepare
from vlq.workers.intervene.ablation import Moments, MomentSums, baseline_sets, measure
from vlq.workers.intervene.prompted import Outcome, Prompted, Target
from vlq.workers.intervene.sets import PatchSet, sets_of
from vlq.workers.models.base import Encoded, LensModel
from vlq.workers.worker import Errors

CHANGED = "the file is not the one that was read"
"""Why an image has no effects whose file was replaced after the run."""


def encode_ahead(model: LensModel, rows: pa.Table, decoders: Executor) -> Iterator[Prepared]:
    """The images of rows that have a URI and perhaps a prompt, in their order. All are begun at once."""
    return decoders.map(partial(prepare, model), rows["uri"].to_pylist(), rows[PROMPT].to_pylist())


def as_read(rows: pa.Table, images: Iterator[Prepared], errors: list[tuple[int, str, str]]) -> Iterator[Any]:
    """Each row with its image, if that is the one which the run read; of the others the errors are told."""
    for row, image in zip(rows.to_pylist(), images, strict=True):
        reason = image.error
        if reason is None and image.sha256 != row["sha256"]:
            reason = CHANGED
        if reason is not None:
            errors.append((row["image_id"], row["image"], reason))
        else:
            yield row, image.encoded


# --- effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """What came of a shard's images."""

    table: pa.Table  # EFFECTS, by image and set
    errors: Errors


def effects_of(
    model: LensModel, study: Study, moments: Moments | None, rows: pa.Table, images: Iterator[Prepared]
) -> Effects:
    """What came of the images of a plan's rows. Raises OSError if one cannot be fetched, RunError if the model gives no
    finite numbers."""
    errors: list[tuple[int, str, str]] = []
    found = [
        effect
        for row, image in as_read(rows, images, errors)
        for effect in _of_image(model, study, moments, row, image)
    ]
    table = pa.Table.from_pylist(found, EFFECTS).sort_by([("image_id", "ascending"), ("set", "ascending")])
    return Effects(table, tuple(errors))


def _of_image(
    model: LensModel, study: Study, moments: Moments | None, row: Mapping[str, Any], image: Encoded
) -> Iterator[dict[str, Any]]:
    prompted, target = Prompted(model, image), Target(study.target_ids)
    if moments is None:
        moments = nothing_like(prompted)
    seed = [study.seed, row["image_id"]]
    sets = sets_of(row["patches"], (row["rows"], row["columns"]), study.combinations, study.buffer)
    sets += baseline_sets(prompted, sets[0], study.baselines, study.repeats, moments, target, seed)
    plain, measured = measure(prompted, sets, moments, target, study.mode, study.answer, seed, study.batch)
    for one in measured:
        yield _effect(model, study, row, one.taken, plain, one.outcome)


def nothing_like(prompted: Prompted) -> Moments:
    """Where no moments are asked for: zeros, as many as what enters has numbers."""
    entering = prompted.entering_patches()
    zeros = {layer: torch.zeros(values.shape[-1]) for layer, values in entering.items()}
    return Moments(zeros, zeros)


def _effect(
    model: LensModel, study: Study, row: Mapping[str, Any], taken: PatchSet, before: Outcome, after: Outcome
) -> dict[str, Any]:
    if not np.isfinite([*before.logprob, *after.logprob]).all():
        raise RunError(
            f"{row['image']}: with the patches of '{taken.name}' taken the model's logits are not finite.",
            "Try another --mode.",
        )
    return {
        "image_id": row["image_id"],
        "set": taken.name,
        "kind": taken.kind,
        "patches": list(taken.patches),
        "before": before.logprob[0],
        "after": after.logprob[0],
        "rank_before": before.rank[0],
        "rank_after": after.rank[0],
        "answer_before": text_of(model, before),
        "answer": text_of(model, after),
        "gone": is_gone(study.target_ids, before, after),
    }


def is_gone(target: Sequence[int], before: Outcome, after: Outcome) -> bool | None:
    """Whether the answer held the target and does no more; None where it never did."""
    named = {*target}
    return named.isdisjoint(after.answer) if not named.isdisjoint(before.answer) else None


def text_of(model: LensModel, outcome: Outcome) -> str:
    """The answer as `LensModel.answer` has it."""
    text: str = model.tokenizer.decode(outcome.answer, skip_special_tokens=True)
    return text.strip()


# --- their commits ---------------------------------------------------------------------------------------------


def find_commit(store: Store, study: Study, shard: int) -> StudyCommit | None:
    """The record of a study's shard, if it is done."""
    key = commit_key(study, shard)
    try:
        return StudyCommit.from_bytes(store.read(key), key)
    except FileNotFoundError:
        return None


def commit(store: Store, study: Study, shard: int, images: int, found: Effects) -> tuple[StudyCommit, bool]:
    """Put a shard's effects, and its record. Returns the one that holds, and whether it was put by this call."""
    data = parquet_bytes(found.table)
    stored: Stored = put(store, shard_effects_key(study, shard, digest_of(data)), data)
    record = StudyCommit(study.digest, shard, images, found.errors, stored)
    if store.create(commit_key(study, shard), record.to_bytes()):
        return record, True
    winner = find_commit(store, study, shard)
    return (record, False) if winner is None else (winner, False)


# --- moments ---------------------------------------------------------------------------------------------------


def sums_of(model: LensModel, rows: pa.Table, images: Iterator[Prepared]) -> tuple[MomentSums, Errors]:
    """The sums over the images of rows. Raises OSError if one cannot be fetched."""
    errors: list[tuple[int, str, str]] = []
    sums = MomentSums()
    for _, image in as_read(rows, images, errors):
        sums.add(Prompted(model, image).entering_patches())
    return sums, tuple(errors)


@contextmanager
def fitting(runs: int) -> Iterator[None]:
    """Raises RunError where the GPU's memory is too small for what is done in this context."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            f"The GPU's memory is too small for {count(runs, 'run')} of an image side by side.",
            "Free the GPU, or have fewer of them: --batch-size 8",
        ) from error
