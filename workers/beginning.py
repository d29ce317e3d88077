"""What there is before a run's model is loaded, and whether what is asked for fits it. Nothing is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pyarrow as pa

from vlq.query.cache.records import missing_shards, read_run
from vlq.query.errors import CacheMismatch, ModelError, StoreError
from vlq.query.schema import READING, Run
from vlq.query.store import Store, open_store
from vlq.workers.lenses.choice import Choice, choose
from vlq.workers.models import decoder_config, folder_of
from vlq.workers.models.files import may_be_elsewhere, model_hash
from vlq.workers.patches import check_grid
from vlq.workers.plan import (
    RunOptions,
    check_identity,
    check_options,
    check_words,
    corpus_of,
    foreseen,
    pinned_notes,
)
from vlq.workers.progress import Tracker
from vlq.workers.worker import Description, read_layers


@dataclass(frozen=True)
class Beginning:
    """The images, the cache, and what is asked for, which fit each other as far as files tell."""

    options: RunOptions
    corpus: pa.Table  # as `corpus_of` gives it
    store: Store | None  # None: the cache's folder is not there yet
    run: Run | None  # that the cache was begun with
    lens: Choice

    def meet(self, description: Description, tracker: Tracker) -> None:
        """Say what the user should know of the loaded model. Raises CacheMismatch, ModelError or InputError if it does
        not fit."""
        if description.note:
            tracker.say(description.note)
        if self.run is not None:
            check_identity(self.run, description.run.identity(), self.options.cache)
            return
        check_grid(description.run, self.corpus)
        if self.lens.tuned is not None:
            self.lens.tuned.check(self.options.model, description.run.model_hash)


def beginning_of(options: RunOptions, tracker: Tracker) -> Beginning:
    """Look at the images, the cache and the model's files.

    Raises InputError, StoreError, ModelError; BadArgument or UnknownToken if a new cache's model has no such layer or
    word; CacheMismatch if the cache holds another run.
    """
    options, corpus = corpus_of(replace(options, model=absolute(options.model)), tracker.say)
    store = _existing(options.cache)
    run = None if store is None else read_run(store)
    lens = choose(options.lens, run)
    if store is None or run is None:
        _check_new(options, lens)
    else:
        check_options(options, lens.spec, run, store)
        check_grid(run, corpus)
        _check_reading(run, store, corpus)
        for note in pinned_notes(run, options):
            tracker.say(note)
    return Beginning(options, corpus, store, run, lens)


def absolute(model: str) -> str:
    """A folder's full path: workers may run elsewhere. A hub id as it is."""
    path = os.path.abspath(os.path.expanduser(model))
    return path if os.path.isdir(path) else model


def _existing(cache: str) -> Store | None:
    """The cache's store, if there is one. Raises StoreError if its folder is not there and cannot be made."""
    try:
        return open_store(cache)
    except FileNotFoundError as missing:
        folder = above = str(missing)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
        return None
    why = "may not be written to" if os.path.isdir(above) else "is no folder"
    raise StoreError(f"Cannot make the folder {folder}: {above} {why}.", "Choose another, or check your permission.")


def _check_reading(run: Run, store: Store, corpus: pa.Table) -> None:
    """Raises CacheMismatch if images are left to be read, and would be otherwise than those that are there."""
    if run.reading != READING and missing_shards(store, foreseen(store, run, corpus).shards):
        raise CacheMismatch(
            f"{store.url} was begun by another VLQ, which puts images or prompts before the model otherwise: its "
            f"readings are of revision {run.reading}, and these would be of {READING}.",
            "Read all images into another --cache, or go on with that VLQ. What is there can be asked as before.",
        )


def _check_new(options: RunOptions, lens: Choice) -> None:
    """Whether the model's files have what is asked of a cache that has not begun.

    Who runs on a cluster into a bucket may not have the model: it is not downloaded for that, and the workers tell.
    """
    is_elsewhere = "://" in options.cache
    try:
        folder = folder_of(options.model, revision=options.revision, download=not is_elsewhere)
    except ModelError:
        if is_elsewhere and may_be_elsewhere(options.model):
            return
        raise
    if options.layers:
        blocks = decoder_config(options.model, folder).num_hidden_layers
        read_layers(options.layers, blocks + 1)  # and the embedding
    if options.track:
        check_words(options, folder)
    if lens.tuned is not None:
        lens.tuned.check(options.model, model_hash(folder))
        lens.tuned.check_files()
