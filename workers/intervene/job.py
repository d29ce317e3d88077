"""A study from beginning to end: what is to be taken, the corpus' moments, shard after shard on Ray workers, and a head
that names the effects. The same command goes on where it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlq.query.cache.heads import name_study
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed_shards
from vlq.query.cache.studies import (
    StudyCommit,
    columns_of,
    commit_key,
    commits_prefix,
    effects_key,
    plan_key,
    study_key,
)
from vlq.query.cache.tables import parquet_bytes, parquet_table
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CacheMismatch, CorruptCache, InputError, ModelError, RunError, StoreStopped
from vlq.query.image.pictures import as_cached
from vlq.query.language.compile import Statement, quoted
from vlq.query.language.effects import usual_answer
from vlq.query.language.tokens import TokenSet
from vlq.query.schema import LOGIT_LENS, Finished, Run, Study, digest_of
from vlq.query.store import Store, at_once, put
from vlq.query.studies.chosen import PROMPT
from vlq.workers.beginning import absolute
from vlq.workers.intervene.asked import Asked
from vlq.workers.intervene.moments import known_moments, put_moments
from vlq.workers.intervene.shards import NO_ANSWER, find_commit
from vlq.workers.job import arrange, given_up, interruptible, url_for_workers
from vlq.workers.lenses.choice import Choice
from vlq.workers.models.files import may_be_elsewhere, resolve
from vlq.workers.plan import Plan, RunOptions, revision_for
from vlq.workers.pool import Pool
from vlq.workers.progress import Tracker
from vlq.workers.upkeep.rerun import check_hash
from vlq.workers.watch import RunWatch
from vlq.workers.worker import Description, Errors, packed

SHARD = 8
"""Images of a shard at most: each takes as many runs as it has sets."""

MEAN_PATCH, MEASURING = "the corpus' mean patch", "measuring effects"
"""What is done to images, for those who wait."""

SAME = ("model_hash", "prompt", "layers", "grid", "patches", "vocabulary_hash", "dtype", "quantized")
"""In what a loaded model must be the run's."""


@dataclass(frozen=True)
class Beginning:
    """What is to be done, as far as the cache tells."""

    options: Asked
    corpus: LocalCorpus
    tokens: TokenSet
    plan: Plan
    shards: tuple[int, ...]  # of the cache, which the moments are of
    study: Study  # without the moments' key, if there are none yet

    @property
    def store(self) -> Store:
        return self.corpus.cache.store

    @property
    def run(self) -> Run:
        return self.corpus.cache.run


@dataclass(frozen=True)
class Outcome:
    """A finished study."""

    study: Study
    tokens: TokenSet
    effects: pa.Table  # of `studies.columns_of`
    errors: Errors
    names: dict[int, str] = field(repr=False)  # of the images
    fresh: int = 0  # images that were done now
    notes: tuple[str, ...] = ()


def begin(options: Asked) -> Beginning:
    """Look at the cache, and find what is to be taken. Nothing is written.

    Raises NoCache, CacheError if nothing is cached, QueryError where the patches, the images or the target are not what
    they may be.
    """
    cache = Cache.open(options.cache)
    corpus = LocalCorpus(cache)
    tokens, said = options.tokens(corpus), options.said(corpus)
    table = options.rows(corpus)
    if options.prompt is not None:
        for name in {PROMPT, f"source_{PROMPT}"} & {*table.column_names}:  # the model's, which is loaded with this one
            table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows, pa.string()))
    size = min(SHARD, cache.run.shard_size)
    plan = Plan(table.add_column(1, "shard", pa.array([i // size for i in range(table.num_rows)], pa.uint32())))
    study = Study(
        run=cache.run.digest,
        patches=str(options.patches),
        target=options.measured,
        target_ids=tokens.ids,
        only_first=tokens.only_first,
        answer=options.answer or usual_answer(cache.run, options.prompt),
        seed=options.seed,
        plan=digest_of(parquet_bytes(plan.table)),
        images=None if options.images is None else str(options.images),
        device=options.device or cache.run.device,
        batch=options.batch,
        prompt=options.prompt,
        **said,
    )
    head = corpus.cache.snapshot().head
    shards = tuple(shard for shard in committed_shards(cache.store) if head is not None and shard < head.shards)
    if options.needs_moments:
        study = replace(study, moments=known_moments(cache.store, shards)[0])
    return Beginning(options, corpus, tokens, plan, shards, study)


@interruptible()
def run_study(options: Asked, tracker: Tracker) -> Outcome:
    """Bring a cache to the effects that are asked for.

    Raises what `begin` does; ModelError if the run's model cannot be loaded, CacheMismatch if it is another one;
    RunError if shards were given up; what was committed stays.
    """
    found = begin(options)
    if (outcome := _there(found)) is not None:
        return outcome
    run = check_model(found)
    tracker.phase("waiting for Ray")
    with Pool(options.ray_address) as pool, interruptible():
        if found.study.device == "cuda" and options.ray_address is None and not pool.gpus():
            raise RunError("There is no GPU.", "Run with --device cpu: that is a study of its own.")
        tracker.phase("loading the model")
        setup, room = arrange(_as_run(found), Choice(LOGIT_LENS), run, pool)
        description = pool.start(setup, room, found.plan.shards)
        _meet(found, description, tracker)
        if options.needs_moments and found.study.moments is None:
            found = replace(found, study=replace(found.study, moments=_moments(found, pool, tracker)))
        if (outcome := _there(found)) is not None:  # moments are there that it was made with
            return outcome
        fresh = _dispatch(found, pool, tracker)
    return replace(_finish(found), fresh=fresh)


# --- the model -------------------------------------------------------------------------------------------------


def check_model(found: Beginning) -> Run:
    """The run as it is to be loaded again. A model that workers may have, and this machine has not, tells later.

    Raises ModelError if there is no such model, CacheMismatch if it is another one.
    """
    options, run = found.options, found.run
    name = options.model or run.model
    try:
        folder = resolve(name, revision=run.revision if name == run.model else None)
    except ModelError as error:
        if options.ray_address is None or not may_be_elsewhere(name):
            raise ModelError(
                error.message, f"Say where the model of this cache is: --model FOLDER_OR_ID\n{error.hint or ''}".strip()
            ) from error
    else:
        check_hash(name, folder, run, options.cache)
    device = found.study.device
    # Blocks that see whole sequences are all that compiled ones are for.
    return replace(run, device=device, attention=run.attention if device == run.device else "auto", compiled=False)


def _as_run(found: Beginning) -> RunOptions:
    """The options that load the run's model again."""
    options, run = found.options, found.run
    asked = RunOptions(
        images="",
        model=run.model if options.model is None else absolute(options.model),
        cache=options.cache,
        prompt=run.prompt if found.study.prompt is None else found.study.prompt,
        k=1,
        answer=found.study.answer,
        workers=options.workers,
        quantize=run.quantized,
        ray_address=options.ray_address,
        gpus_per_worker=options.gpus_per_worker,
        device_map=options.device_map,
    )
    return replace(asked, revision=revision_for(asked, run))


def _meet(found: Beginning, description: Description, tracker: Tracker) -> None:
    """Say what the user should know of the loaded model. Raises CacheMismatch if it is not the run's."""
    if description.note:
        tracker.say(description.note)
    own, loaded = found.run, description.run
    same = [name for name in SAME if name != "prompt" or found.study.prompt is None]
    differing = [name for name in same if getattr(own, name) != getattr(loaded, name)]
    if differing:
        raise CacheMismatch(
            f"The model that workers loaded is not the one of {found.options.cache}: {', '.join(differing)} differ.",
            "Say where the run's model is: --model FOLDER_OR_ID",
        )


# --- the moments -----------------------------------------------------------------------------------------------


def _moments(found: Beginning, pool: Pool, tracker: Tracker) -> str:
    """The key of the corpus' moments, which are made where they are not there."""
    store = found.store
    key, missing = known_moments(store, found.shards)
    if key is not None:
        return key
    tracker.phase(MEAN_PATCH)
    corpus = corpus_rows(found.corpus)
    if found.study.prompt is not None:  # what the cache keeps is of the run's own
        prompts = pc.fill_null(corpus[PROMPT], found.run.prompt)
        corpus = corpus.set_column(corpus.column_names.index(PROMPT), PROMPT, prompts)
    shards = np.asarray(corpus["shard"])
    record, url = found.run.to_bytes(), url_for_workers(store)

    def begin(actor: Any, shard: int) -> Any:
        rows = corpus.slice(int(np.searchsorted(shards, shard)), int(np.count_nonzero(shards == shard)))
        return actor.add_up.remote(url, record, shard, packed(rows))

    of_missing = int(np.isin(shards, missing).sum())
    done = corpus.num_rows - of_missing
    watch = RunWatch(tracker, done, corpus.num_rows, 0, doing=MEAN_PATCH, lacking="part in the mean patch")
    if failures := pool.work(missing, begin, watch):
        raise given_up(failures)
    return put_moments(store, found.shards)


def corpus_rows(corpus: LocalCorpus) -> pa.Table:
    """Every image with readings: image_id, image, uri, sha256, its prompt, and its shard in the cache."""
    cache = corpus.cache
    snapshot = cache.snapshot()
    own = cache.run.prompt_column
    prompt = "NULL::VARCHAR" if own is None else f"{quoted(own)}::VARCHAR"
    sql = f"""\
SELECT image_id, image, uri, sha256, {prompt} AS {PROMPT} FROM read_parquet($images)
WHERE error IS NULL ORDER BY image_id"""
    table = corpus.engine.arrow(Statement(sql, {}, {"images": None}), snapshot, [])
    commits = sorted(snapshot.commits, key=lambda commit: commit.first_image)
    firsts = [commit.first_image for commit in commits]
    places = np.searchsorted(firsts, table["image_id"].to_numpy(), side="right") - 1
    return table.append_column("shard", pa.array([commits[place].shard for place in places], pa.uint32()))


# --- the shards ------------------------------------------------------------------------------------------------


def _dispatch(found: Beginning, pool: Pool, tracker: Tracker) -> int:
    """Have the missing shards done; how many images were. Raises RunError if some were given up."""
    store, study, plan = found.store, found.study, found.plan
    put(store, study_key(study), study.to_bytes())
    put(store, plan_key(study), parquet_bytes(plan.table))
    done = sound_commits(store, study)
    for shard in _to_mend(found, done):
        store.delete(commit_key(study, shard))
        del done[shard]
    wanted = [shard for shard in range(plan.shards) if shard not in done]
    images, errors = sum(commit.images for commit in done.values()), sum(len(c.errors) for c in done.values())
    if images:
        tracker.say(f"Going on: {images} of {plan.images} images are done.")
    url, run, record = url_for_workers(store), found.run.to_bytes(), study.to_bytes()
    tracker.phase(MEASURING)
    watch = RunWatch(tracker, images, plan.images, errors, doing=MEASURING, lacking="effects")

    def begin(actor: Any, shard: int) -> Any:
        return actor.intervene.remote(url, run, record, shard, packed(plan.rows_of(shard)))

    try:
        failures = pool.work(wanted, begin, watch)
    except (KeyboardInterrupt, StoreStopped):
        tracker.say(f"{watch.cached:,} of {plan.images:,} images are done.")
        raise
    if failures:
        raise given_up(failures)
    return watch.fresh


def sound_commits(store: Store, study: Study) -> dict[int, StudyCommit]:
    """The records of the shards that are done, by shard. A damaged one, or one whose effects are damaged, is removed:
    it is done again."""
    keys = [entry.key for entry in store.list(commits_prefix(study))]
    found = {}
    for key, commit in zip(keys, at_once(store, lambda key: _sound(store, key), keys), strict=True):
        if commit is None:
            store.delete(key)
        else:
            found[commit.shard] = commit
    return found


def _to_mend(found: Beginning, done: Mapping[int, StudyCommit]) -> list[int]:
    """The shards that are done, but for images that failed then and are now as the run read them."""
    rows = {row["image_id"]: row for row in found.plan.table.to_pylist()}
    failed = [
        (shard, rows[number])
        for shard, commit in sorted(done.items())
        for number, _, reason in commit.errors
        if not reason.endswith(NO_ANSWER)
    ]
    back = at_once(found.store, lambda one: _is_back(one[1]), failed)
    return sorted({shard for (shard, _), is_back in zip(failed, back, strict=True) if is_back})


def _is_back(row: Mapping[str, Any]) -> bool:
    """Whether the file of a plan's row, and that of the image whose states are put in, are as the run read them."""
    whose = ("", "source_") if "source_uri" in row else ("",)
    return all(as_cached(row[f"{one}uri"], row[f"{one}sha256"]) is not None for one in whose)


def _sound(store: Store, key: str) -> StudyCommit | None:
    try:
        commit = StudyCommit.from_bytes(store.read(key), key)
        data = store.read(commit.effects.key)
    except (FileNotFoundError, CorruptCache):
        return None
    return commit if digest_of(data) == commit.effects.sha256 else None


# --- all of it -------------------------------------------------------------------------------------------------


def _finish(found: Beginning) -> Outcome:
    """Put all effects as one table, and have a head name it. Raises RunError if a shard is not there any more."""
    store, study = found.store, found.study
    commits = [find_commit(store, study, shard) for shard in range(found.plan.shards)]
    tables: list[pa.Table] = []
    errors: list[tuple[int, str, str]] = []
    for shard, commit in enumerate(commits):
        if commit is None:
            raise RunError(f"{commit_key(study, shard)} is not there any more.", "Run the same command again.")
        tables.append(parquet_table(store.read(commit.effects.key)).cast(columns_of(study)))
        errors += commit.errors
    table = pa.concat_tables(tables)
    if not table.num_rows:
        reasons = "; ".join(f"{name}: {reason}" for _, name, reason in errors[:3])
        raise InputError(
            f"None of the {len(errors):,} images is as the run read it. {reasons}",
            "Put the files back, and run the same command again.",
        )
    data = parquet_bytes(table)
    name_study(store, Finished(study, put(store, effects_key(study, digest_of(data)), data)))
    found.corpus.cache.forget()
    return _outcome(found, table, errors)


def _there(found: Beginning) -> Outcome | None:
    """The outcome, if all of it is there as it was written, and no image is back that had failed. If no head names it,
    for whoever did it was stopped or the head is lost, one does now."""
    if found.options.needs_moments and found.study.moments is None:
        return None
    done = sound_commits(found.store, found.study)
    if len(done) < found.plan.shards or _to_mend(found, done):
        return None
    return _named(found, done) or _finish(found)


def _named(found: Beginning, commits: Mapping[int, StudyCommit]) -> Outcome | None:
    """The outcome that a head names; None if none does, or not as it was written."""
    store, study = found.store, found.study
    for finished in found.corpus.cache.snapshot().studies:
        if finished.study == study:
            try:
                data = store.read(finished.effects.key)
            except FileNotFoundError:
                return None
            if digest_of(data) != finished.effects.sha256:
                return None
            table = parquet_table(data).cast(columns_of(study))
            errors = [error for _, commit in sorted(commits.items()) for error in commit.errors]
            return _outcome(found, table, errors)
    return None


def _outcome(found: Beginning, table: pa.Table, errors: Sequence[tuple[int, str, str]]) -> Outcome:
    plan = found.plan.table
    names = dict(zip(plan["image_id"].to_pylist(), plan["image"].to_pylist(), strict=True))
    notes = tuple(found.corpus.cache.snapshot().notes)
    return Outcome(found.study, found.tokens, table, tuple(errors), names, 0, notes)
