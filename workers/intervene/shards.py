"""A shard of a study, on a loaded model: what came of its images. And what a shard of the corpus adds to the moments of
its patches' embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vlq.query.cache.studies import StudyCommit, columns_of, commit_key, shard_effects_key
from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import RunError
from vlq.query.schema import Stored, Study, digest_of
from vlq.query.store import Store, put
from vlq.query.studies.chosen import PROMPT
from vlq.query.summary import count
from vlq.workers.extract import Prepared, prepare
from vlq.workers.intervene.ablation import Moments, MomentSums
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.prompted import Outcome, Prompted, Target
from vlq.workers.intervene.studied import Made, Source, changes_of, source_of, target_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.worker import Errors

NO_ANSWER = "the model answers nothing to it"
"""Why an image has no effects where the first token of its partner's answer is measured, and there is none."""

CHANGED = "the file is not the one that was read"
"""Why an image has no effects whose file was replaced after the run."""


def encode_ahead(model: LensModel, rows: pa.Table, decoders: Executor, whose: str = "") -> Iterator[Prepared]:
    """The images of rows that have a URI and perhaps a prompt, in their order. All are begun at once. With `whose`
    those of the columns that are called so."""
    return decoders.map(partial(prepare, model), rows[f"{whose}uri"].to_pylist(), rows[f"{whose}{PROMPT}"].to_pylist())


def sources_ahead(model: LensModel, study: Study, rows: pa.Table, decoders: Executor) -> Iterator[Prepared] | None:
    """The same of the images whose states a study puts into these; None if it puts in none."""
    return encode_ahead(model, rows, decoders, "source_") if study.intervention == "patch" else None


def why_not(image: Prepared, sha256: str) -> str | None:
    """Why an image is not the one that the run read; None if it is."""
    return CHANGED if image.error is None and image.sha256 != sha256 else image.error


def as_read(rows: pa.Table, images: Iterator[Prepared], errors: list[tuple[int, str, str]]) -> Iterator[Any]:
    """Each row with its image, if that is the one which the run read; of the others the errors are told."""
    for row, image in zip(rows.to_pylist(), images, strict=True):
        if (reason := why_not(image, row["sha256"])) is not None:
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
    model: LensModel,
    study: Study,
    moments: Moments | None,
    rows: pa.Table,
    images: Iterator[Prepared],
    sources: Iterator[Prepared] | None = None,
) -> Effects:
    """What came of the images of a plan's rows; `sources` are those whose states are put in, if any are. Raises OSError
    if one cannot be fetched, RunError if the model gives no finite numbers."""
    errors: list[tuple[int, str, str]] = []
    found: list[dict[str, Any]] = []
    given = Sources(model, study, errors, rows, sources) if sources is not None else None
    for row, image in as_read(rows, images, errors):
        if given is None:
            found += _of_image(model, study, moments, row, image, None)
        elif (source := given.of(row)) is not None:
            found += _of_image(model, study, moments, row, image, source)
    columns = columns_of(study)
    order = [name for name in ("image_id", "set", "first_layer", "last_layer", "strength") if name in columns.names]
    table = pa.Table.from_pylist(found, columns).sort_by([(name, "ascending") for name in order])
    return Effects(table, tuple(sorted(errors)))


class Sources:
    """The images whose states are put into others, each run when it is asked for."""

    def __init__(
        self,
        model: LensModel,
        study: Study,
        errors: list[tuple[int, str, str]],
        rows: pa.Table,
        images: Iterator[Prepared],
    ) -> None:
        self._model, self._study, self._errors = model, study, errors
        self._images = dict(zip(rows["image_id"].to_pylist(), images, strict=True))
        self._last: tuple[tuple[str, str | None], Source] | None = None

    def of(self, row: Mapping[str, Any]) -> Source | None:
        """A row's; if it cannot be had the error is told, and there is none."""
        image, name, key = (
            self._images.pop(row["image_id"]),
            row["source_image"],
            (row["source_uri"], row["source_prompt"]),
        )
        reason = why_not(image, row["source_sha256"])
        if reason is None and (self._last is None or self._last[0] != key):
            assert image.encoded is not None
            self._last = key, source_of(self._model, self._study, name, image.encoded)
        if reason is None and self._last is not None and not self._last[1].target.ids:
            reason = NO_ANSWER
        if reason is not None or self._last is None:
            self._errors.append((row["image_id"], row["image"], f"{name}: {reason}"))
            return None
        return self._last[1]


def _of_image(
    model: LensModel,
    study: Study,
    moments: Moments | None,
    row: Mapping[str, Any],
    image: Encoded,
    source: Source | None,
) -> Iterator[dict[str, Any]]:
    prompted = Prompted(model, image)
    target = target_of(study) if source is None else source.target
    seed = [study.seed, row["image_id"]]
    made = changes_of(study, row, prompted, moments, target, seed, source)
    changes = [Change(), *(one.change for one in made)]
    plain, *outcomes = prompted.outcomes(changes, [target], study.answer, study.batch)
    for one, outcome in zip(made, outcomes, strict=True):
        yield _effect(model, study, target, row, one, plain, outcome, source)


def _effect(
    model: LensModel,
    study: Study,
    target: Target,
    row: Mapping[str, Any],
    made: Made,
    before: Outcome,
    after: Outcome,
    source: Source | None,
) -> dict[str, Any]:
    if not np.isfinite([*before.logprob, *after.logprob]).all():
        what = f"with the patches of '{made.taken.name}' taken" if study.intervention == "ablate" else "changed so"
        hint = "Try another --mode." if study.intervention == "ablate" else "Try other layers, or less."
        raise RunError(f"{row['image']}: {what} the model's logits are not finite.", hint)
    found = {
        "image_id": row["image_id"],
        "set": made.taken.name,
        "kind": made.taken.kind,
        "patches": list(made.taken.patches),
        "before": before.logprob[0],
        "after": after.logprob[0],
        "rank_before": before.rank[0],
        "rank_after": after.rank[0],
        "answer_before": text_of(model, before),
        "answer": text_of(model, after),
        "gone": is_gone(target, before, after),
    }
    if made.window is not None:
        found["first_layer"], found["last_layer"] = made.window
        found["strength"] = made.strength
        found["source"] = None if source is None else source.name
        found["source_logprob"] = None if source is None else source.logprob
    return found


def is_gone(target: Target, before: Outcome, after: Outcome) -> bool | None:
    """Whether the answer held the target and does no more; None where it never did."""
    return not target.held_in(after.answer) if target.held_in(before.answer) else None


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
