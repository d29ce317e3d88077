"""What a run is to do: its options, whether they fit what a cache holds already, and which image is in which shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from propcache.api import cached_property

from vlq.query.cache.records import committed, latest_head, read_run
from vlq.query.cache.tables import parquet_bytes, read_plan
from vlq.query.errors import CacheMismatch, CorruptCache, InputError, ModelError
from vlq.query.schema import (
    RUN,
    TOKENIZER,
    VOCABULARY,
    Head,
    LensSpec,
    Run,
    digest_of,
    head_key,
    layers_option,
    plan_key,
)
from vlq.query.store import Store, put
from vlq.workers.corpus import check_prompts, column_called, list_images, list_manifest
from vlq.workers.models.files import may_be_elsewhere, model_hash, resolve
from vlq.workers.patches import choice_of
from vlq.workers.tracked import tracked_tokens
from vlq.workers.worker import Description

BATCH_SIZE = 8
SHARD_SIZE = 32


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for. None: not said."""

    images: str
    model: str
    cache: str
    prompt: str | None = None
    prompt_column: str | None = None
    patches: str | None = None  # a column of the manifest, perhaps with a label behind a colon
    k: int = 20
    at: tuple[str, ...] = ("patch", "prompt")
    answer: int = 0
    layers: tuple[int, ...] = ()  # ascending; none: all
    track: tuple[str, ...] = ()
    keep: str = "topk"
    limit: int | None = None
    skip_dead_links: bool = False
    shard_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    quantize: str | None = None
    revision: str | None = None
    lens: str = "logit"
    ray_address: str | None = None
    gpus_per_worker: float = 1.0
    device_map: str | None = None
    compiled: bool = False
    questions: tuple[str, ...] = ()  # the shortest and the longest of the images' own, as `corpus_of` finds them
    patches_column: str | None = None  # the column of `patches`, as `corpus_of` finds it
    patches_label: str | None = None

    @property
    def question(self) -> str | None:
        """The prompt; where images have their own, what stands for them."""
        return self.prompt if self.prompt_column is None else f"{{{self.prompt_column}}}"


def corpus_of(options: RunOptions, say: Callable[[str], None]) -> tuple[RunOptions, pa.Table]:
    """The images, as `corpus.list_images` gives them, and the options with what these say of the prompts and of
    the patches that are to be read. Raises InputError."""
    source, asked = options.images, options.prompt_column
    if asked is None and options.patches is None:
        return options, list_images(source, options.limit, say)
    corpus, called = list_manifest(source, "--patches" if asked is None else "--prompt-column", options.limit, say)
    if asked is not None:
        column = column_called(asked, called, source, "--prompt-column")
        check_prompts(corpus, column, asked, source)
        different = sorted({*corpus[column].to_pylist()}, key=lambda question: (len(question), question))
        ends = tuple(dict.fromkeys([different[0], different[-1]]))
        options = replace(options, prompt_column=column, questions=ends)
    if options.patches is not None:
        column, label = choice_of(options.patches, corpus, called, source)
        options = replace(options, patches_column=column, patches_label=label)
    return options, corpus


# --- does it fit what is there ---------------------------------------------------------------------------------


def known_identity(options: RunOptions, lens: LensSpec, run: Run) -> dict[str, Any]:
    """What can be said of a run's identity before its model is loaded; `run` is what the cache holds.

    A model that is not on this machine yet says nothing of itself. Raises ModelError if the model is nowhere.
    """
    known: dict[str, Any] = {
        "k": min(options.k, run.vocabulary_size),
        "at": options.at,
        "answer": options.answer,
        "read_layers": options.layers or tuple(range(run.layers)),
        "quantized": options.quantize,
        "lens": lens,
        "keep": options.keep,
        "prompt_column": options.prompt_column,
        "patches_column": options.patches_column,
        "patches_label": options.patches_label,
    }
    if options.dtype is not None:
        known["dtype"] = options.dtype
    if options.question == run.prompt:
        known["prompt"] = run.prompt
    try:
        folder = resolve(options.model, revision=revision_for(options, run), download=False)
    except ModelError:
        if may_be_elsewhere(options.model):
            return known
        raise
    known["model_hash"] = model_hash(folder)
    if "prompt" not in known and known["model_hash"] == run.model_hash:
        from vlq.workers.models import adapter_of, load_processor

        processor = load_processor(options.model, folder)
        known["prompt"] = adapter_of(options.model, folder).full_prompt(processor, options.question)
    return known


def revision_for(options: RunOptions, run: Run | None) -> str | None:
    """Which revision of a hub model is meant: what was asked for, else the commit that a run was begun with. Its branch
    may have gone on since."""
    begun = run.revision if run is not None and run.model == options.model else None
    return options.revision or begun


def check_words(options: RunOptions, folder: Path) -> None:
    """Raises UnknownToken or BadArgument if words that are to be tracked are none of a model folder's vocabulary."""
    from vlq.workers.models import decoder_config, load_processor
    from vlq.workers.models.vocabulary import vocabulary_table

    tokenizer = load_processor(options.model, folder).tokenizer
    rows = decoder_config(options.model, folder).vocab_size
    table = vocabulary_table(tokenizer, max(rows, len(tokenizer)))
    tracked_tokens(options.track, parquet_bytes(table), tokenizer.backend_tokenizer.to_str().encode())


def tracked_identity(options: RunOptions, store: Store) -> dict[str, Any]:
    """The tokens that the words to be tracked mean in a cache's vocabulary. Raises UnknownToken, BadArgument."""
    try:
        vocabulary = store.read(VOCABULARY) if options.track else b""
        tokenizer = store.read(TOKENIZER) if options.track else b""
    except FileNotFoundError:  # which the worker's description will tell
        return {}
    return {"tracked": tuple(token.id for token in tracked_tokens(options.track, vocabulary, tokenizer))}


def check_options(options: RunOptions, lens: LensSpec, run: Run, store: Store) -> None:
    """Raises what `check_identity`, `known_identity` and `tracked_identity` do: before a model is loaded."""
    check_identity(run, known_identity(options, lens, run) | tracked_identity(options, store), options.cache)


def check_identity(run: Run, wanted: dict[str, Any], cache: str) -> None:
    """Raises CacheMismatch, naming each field in which the cache's run differs from the one that is wanted."""
    found = run.identity()
    differing = [name for name in run.IDENTITY if name in wanted and wanted[name] != found[name]]
    if differing:
        lines = [
            f"  {name}: the cache has {_shown(name, found[name])}, asked for {_shown(name, wanted[name])}"
            for name in differing
        ]
        hint = "Use another --cache, or the same options as before."
        if "lens" in differing and run.lens.kind == "tuned":
            hint += " The cache holds its tuned lens: --lens tuned goes on with it."
        raise CacheMismatch(f"{cache} holds another run:\n" + "\n".join(lines), hint)


def _shown(name: str, value: Any) -> str:
    if name == "read_layers":
        return layers_option(value)
    if isinstance(value, str):
        return repr(value) if len(value) < 200 and not _is_hash(value) else f"{value[:12]}..."
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _is_hash(value: str) -> bool:
    return len(value) == 64 and all(character in "0123456789abcdef" for character in value)


def pinned_notes(run: Run, options: RunOptions) -> Iterator[str]:
    """A line for each option that a resumed run cannot follow: byte for byte the same needs the same again."""
    for name in ("shard_size", "batch_size", "device", "attention"):
        wanted = getattr(options, name)
        if wanted is not None and wanted != getattr(run, name):
            option = "--" + name.replace("_", "-")
            yield f"{option} {wanted} is not used: this cache was begun with {getattr(run, name)} and goes on so."
    if options.compiled and not run.compiled:
        yield "--compile is not used: this cache was begun without and goes on so."


# --- the beginning of a cache ----------------------------------------------------------------------------------


def begin(store: Store, description: Description) -> Run:
    """Put the run's record, its vocabulary and tokenizer, and return the record that holds.

    Another run of the same kind may have begun at the same time; one of them wins. Raises CacheMismatch; also if the
    record was lost, and what is committed was made by a run that is not exactly this one.
    """
    check_shards(store, description.run)
    _create(store, VOCABULARY, description.vocabulary)
    if description.tokenizer is not None:
        _create(store, TOKENIZER, description.tokenizer)
    if store.create(RUN, description.run.to_bytes()):
        return description.run
    winner = Run.from_bytes(store.read(RUN), RUN)
    check_identity(winner, description.run.identity(), store.url)
    return winner


def check_shards(store: Store, run: Run) -> None:
    """Raises CacheMismatch if there is no run's record, but a shard of another run than this one."""
    for shard, commit in committed(store).items() if read_run(store) is None else ():
        if commit.run != run.digest:
            raise CacheMismatch(
                f"{store.url} has no {RUN} any more, and shard {shard} was made by another run than this one.",
                f"Restore {RUN} from a copy, or use the options, the device and the versions that the run had.",
            )


def _create(store: Store, key: str, data: bytes) -> None:
    if store.create(key, data) or store.read(key) == data:
        return
    # A start with another model was cut off before its run.json: nothing refers to what it left.
    store.delete(key)
    store.create(key, data)


# --- the plan --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The table of all images in order: image_id, shard, image, uri, then the user's columns."""

    table: pa.Table

    @property
    def shards(self) -> int:
        return int(self.table["shard"][-1].as_py()) + 1

    @property
    def images(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first row of each shard, and the number of all rows."""
        return np.searchsorted(self.table["shard"].to_numpy(), np.arange(self.shards + 1))

    def rows_of(self, shard: int) -> pa.Table:
        first, end = self._starts[shard : shard + 2]
        return self.table.slice(first, end - first)

    def rows_of_all(self, shards: Sequence[int]) -> pa.Table:
        """The rows of several shards."""
        return pa.concat_tables([self.rows_of(shard) for shard in shards])

    def rows(self) -> Iterator[tuple[int, pa.Table]]:
        """Each shard and its rows."""
        return ((shard, self.rows_of(shard)) for shard in range(self.shards))


def first_plan(corpus: pa.Table, shard_size: int, prompt_column: str | None = None) -> Plan:
    """Consecutive images, `shard_size` to a shard. With prompts of their own rows of one image get distinct names."""
    if prompt_column is not None:
        corpus = _named_apart(corpus, ())
    shards = pa.array([i // shard_size for i in range(corpus.num_rows)], pa.uint32())
    return Plan(corpus.add_column(1, "shard", shards))


def extended(plan: Plan, corpus: pa.Table, shard_size: int, prompt_column: str | None = None) -> Plan:
    """The plan with the corpus' new images in new shards behind its own, which stay as they are.

    Images are told apart by their URIs, and by their prompts where they have their own. Those that the corpus no longer
    has stay in the plan: they may be cached. Raises InputError if a column's type changed.
    """
    if _same_images(plan, corpus, prompt_column):
        return plan
    planned = Counter(_keys(plan.table, prompt_column))
    new = []
    for row, key in enumerate(_keys(corpus, prompt_column)):
        if planned[key] > 0:
            planned[key] -= 1
        else:
            new.append(row)
    if not new:
        return plan
    first, shard = plan.images, plan.shards
    added = corpus.take(pa.array(new))
    if prompt_column is not None:
        added = _named_apart(added, plan.table["image"].to_pylist())
    added = added.set_column(0, "image_id", pa.array(range(first, first + len(new)), pa.uint32()))
    added = added.add_column(1, "shard", pa.array([shard + i // shard_size for i in range(len(new))], pa.uint32()))
    # Every shard's image table has the same columns: those of the first plan.
    table = pa.table([_as(field, added) for field in plan.table.schema], plan.table.schema)
    return Plan(pa.concat_tables([plan.table, table]))


def _as(field: pa.Field, table: pa.Table) -> pa.ChunkedArray:
    """A table's column as it is in a plan; nulls where there is none. Raises InputError if it is of another type."""
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if column.type == field.type:
        return column  # Arrow makes no nulls of nulls in lists
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        kinds = f"{column.type} of the new images, {field.type} of those in the cache"
        raise InputError(
            f"The column {field.name} does not fit. It is of type {kinds}: {error}.", "Use another --cache."
        ) from error


def _keys(table: pa.Table, prompt_column: str | None) -> Iterator[tuple[str, ...]]:
    """What tells images apart, of each row."""
    return zip(*(table[name].to_pylist() for name in _told_apart(prompt_column)), strict=True)


def _told_apart(prompt_column: str | None) -> tuple[str, ...]:
    """The columns that tell images apart: their URIs, and their prompts where they have their own."""
    return ("uri",) if prompt_column is None else ("uri", prompt_column)


def _same_images(plan: Plan, corpus: pa.Table, prompt_column: str | None) -> bool:
    """Whether the corpus is what was planned, as it mostly is: of a million images Arrow sees that in milliseconds,
    where their keys in Python take half a gigabyte."""
    return all(plan.table[name].equals(corpus[name]) for name in _told_apart(prompt_column))


def not_given(plan: Plan, corpus: pa.Table, shards: Sequence[int], prompt_column: str | None) -> int:
    """How many images of these shards are none of the corpus'."""
    if not shards or _same_images(plan, corpus, prompt_column):
        return 0
    given = {*_keys(corpus, prompt_column)}
    return sum(key not in given for key in _keys(plan.rows_of_all(shards), prompt_column))


def _chosen_otherwise(plan: Plan, corpus: pa.Table, run: Run) -> int:
    """Of how many planned images the corpus says now that other patches are to be read."""
    if run.patches_column is None:
        return 0
    planned, now = (
        dict(zip(_keys(table, run.prompt_column), table[run.patches_column].to_pylist(), strict=True))
        for table in (plan.table, corpus)
    )
    return sum(planned[key] != patches for key, patches in now.items() if key in planned)


def _named_apart(corpus: pa.Table, taken: Collection[str]) -> pa.Table:
    """The corpus with a number behind the names of images that are there already: a.png, a.png#2, a.png#3."""
    given, last, names = set(taken), Counter[str](), []
    for name in corpus["image"].to_pylist():
        free = name
        while free in given:
            last[name] = max(2, last[name] + 1)
            free = f"{name}#{last[name]}"
        given.add(free)
        names.append(free)
    return corpus.set_column(corpus.column_names.index("image"), "image", pa.array(names, pa.string()))


def settle(store: Store, run: Run, corpus: pa.Table, say: Callable[[str], None]) -> tuple[Head, Plan]:
    """The head and plan that hold for these images; a plan and an unsealed head are made if there is anything new."""
    while True:
        head = latest_head(store)
        if head is None:
            plan, before = first_plan(corpus, run.shard_size, run.prompt_column), Head(0, "", 0, 0, False, None)
        else:
            old = _planned(store, run, head, corpus)
            plan, before = extended(old, corpus, run.shard_size, run.prompt_column), head
            if changed := _chosen_otherwise(old, corpus, run):
                say(
                    f"The column {run.patches_column} of {changed:,} of the images is another one now. What it said "
                    "when they were planned holds in this cache."
                )
            if plan is old:
                return head, plan
            left_out = [name for name in corpus.column_names if name not in plan.table.column_names]
            if left_out:
                say(f"Columns not in the cache's plan are left out: {', '.join(left_out)}.")
            new = plan.images - old.images
            say(f"{new:,} new image{'' if new == 1 else 's'} beside {old.images:,} that were planned before.")
        data = parquet_bytes(plan.table)
        key = plan_key(digest_of(data)[:16])
        store.create(key, data)
        made = replace(before, number=before.number + 1, plan=key, shards=plan.shards, images=plan.images, sealed=False)
        if store.create(head_key(made.number), made.to_bytes()):
            return made, plan


def foreseen(store: Store, run: Run, corpus: pa.Table) -> Plan:
    """The plan that `settle` would come to. Nothing is written."""
    head = latest_head(store)
    if head is None:
        return first_plan(corpus, run.shard_size, run.prompt_column)
    return extended(_planned(store, run, head, corpus, mend=False), corpus, run.shard_size, run.prompt_column)


def _planned(store: Store, run: Run, head: Head, corpus: pa.Table, *, mend: bool = True) -> Plan:
    """The head's plan. If it came to harm and is the plan of these very images, it is put again, with `mend`."""
    try:
        return Plan(read_plan(store, head.plan))
    except CorruptCache:
        plan = first_plan(corpus, run.shard_size, run.prompt_column)
        data = parquet_bytes(plan.table)
        if plan_key(digest_of(data)[:16]) != head.plan:
            raise
        if mend:
            put(store, head.plan, data)
        return plan
