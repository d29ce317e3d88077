"""A run from beginning to end: plan, dispatch what is missing, index, seal. The same command goes on where it ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from vlq.query.cache.reader import Cache
from vlq.query.cache.records import check_writable, committed, missing_shards
from vlq.query.errors import RunError, StoreStopped
from vlq.query.schema import Head, Run
from vlq.query.store import Store, open_store
from vlq.workers.beginning import beginning_of
from vlq.workers.indexing.compactor import Compactor
from vlq.workers.indexing.index import compact, publish
from vlq.workers.lenses.choice import Choice
from vlq.workers.machine import cpu_count, fitting_workers, memory
from vlq.workers.models.files import resolve, weight_bytes
from vlq.workers.plan import (
    BATCH_SIZE,
    SHARD_SIZE,
    Plan,
    RunOptions,
    begin,
    not_given,
    revision_for,
    settle,
)
from vlq.workers.pool import Pool
from vlq.workers.progress import Tracker, seldom
from vlq.workers.queue import Failure
from vlq.workers.ray_errors import reason
from vlq.workers.watch import RunWatch
from vlq.workers.worker import Setup

MOST_CALLS = 8
"""Of one worker at once. A shard of LLaVA's size takes up to a gigabyte of the host's memory."""

SHOWN_FAILURES = 20
"""How many shards that were given up are named."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    run: Run
    images: int
    errors: tuple[tuple[int, str, str], ...]  # image id, name, reason
    fresh: int  # images that this run read; 0 if there was nothing to do
    repeated: int = 0  # images that it read in vain: another run committed them meanwhile
    busy: float | None = None  # share of the workers' time that their models were at work


class Terminated(KeyboardInterrupt):
    """Another signal came than Ctrl-C's: that of this number."""

    def __init__(self, number: int) -> None:
        self.number = number


def end_stopped(stop: KeyboardInterrupt, again: str = "the same command") -> NoReturn:
    """End this process, whose run was stopped, with a message and the exit code of its signal.

    At once: where Ray was stopped while it did something, a thread of its may still be at work, and when Python tidies
    up beneath it the process ends by SIGSEGV.
    """
    with suppress(OSError):  # the terminal may be gone
        print(f"Stopped. What is done is kept; {again} goes on from here.", file=sys.stderr, flush=True)
    os._exit(128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT))


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end a run as Ctrl-C does, within a second even while Ray waits.
    Raises Terminated then.

    Ray sets handlers of its own when it starts, and what they raise is taken for SIGTERM's, too; once it has started,
    this is entered anew.
    """
    came: int | None = None

    def stop(number: int, frame: object) -> None:
        nonlocal came
        came = number
        raise KeyboardInterrupt

    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        heard.append(signal.SIGHUP)
    try:
        before = {number: signal.signal(number, stop) for number in heard}
    except ValueError:  # not the main thread: whoever started this one looks after signals
        yield
        return
    try:
        yield
    except KeyboardInterrupt as stopped:
        # Ray, where it waits, makes its own of what a handler raises.
        raise (Terminated(came) if came else stopped) from None
    except SystemExit as ended:
        raise Terminated(signal.SIGTERM) from ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@interruptible()
def run_job(options: RunOptions, tracker: Tracker) -> Outcome:
    """Bring a cache up to the images and the model asked for.

    Raises InputError, ModelError, BadArgument, CacheMismatch or StoreError before any work is done, RunError if shards
    were given up; what was committed stays.
    """
    found = beginning_of(options, tracker)
    options, corpus, store, run, lens = found.options, found.corpus, found.store, found.run, found.lens
    shards = 0
    if store is not None and run is not None:
        head, plan = settle(store, run, corpus, tracker.say)
        missing = missing_shards(store, plan.shards)
        if others := not_given(plan, corpus, missing, run.prompt_column):
            tracker.say(
                f"{others:,} of the images that are missing were planned before, and are none of these: "
                "a run reads all that its cache lacks."
            )
        if not (shards := len(missing)):
            if not head.sealed:
                index_beside(store, run, head)
                head = seal(store, run, head, tracker)
            return _outcome(store, run, head, 0)
        check_writable(store, run)
    tracker.phase("waiting for Ray")
    with Pool(options.ray_address) as pool, interruptible():  # Ray sets signal handlers of its own
        tracker.phase("loading the model")
        setup, room = arrange(options, lens, run, pool)
        description = pool.start(setup, room, shards or -(-corpus.num_rows // setup.shard_size))
        found.meet(description, tracker)
        if store is None:
            store = open_store(options.cache, create=True)  # not before: what is refused leaves no empty cache behind
        if run is None:
            if lens.tuned is not None:
                tracker.phase("storing the tuned lens")
                lens.tuned.put(store)
            run = begin(store, description)
        head, plan = settle(store, run, corpus, tracker.say)
        watch, failures = dispatch(pool, store, run, head, plan, tracker)
        pool.end()
        if failures:
            raise given_up(failures)
        outcome = _outcome(store, run, seal(store, run, head, tracker), watch.fresh)
    return replace(outcome, repeated=watch.repeated, busy=watch.busy)


class Machines(Protocol):
    """Where workers may be."""

    def gpus(self) -> int: ...

    def cpus(self) -> int:
        """Cores."""


def arrange(options: RunOptions, lens: Choice, run: Run | None, machines: Machines) -> tuple[Setup, Callable[[], int]]:
    """How workers are made, and what tells how many there may be. A run that has begun is gone on with as it is
    recorded.

    Threads depend on the machine, but neither on the number of workers nor on what else it does: they decide the
    results' last bits.
    """
    gpus = machines.gpus()
    device = run.device if run else options.device or ("cuda" if gpus else "cpu")
    if device == "cuda" and not gpus and options.ray_address is None:  # a cluster may still grow some
        raise RunError(
            "There is no GPU." if run is None else "This cache was begun on a GPU, and there is none now.",
            "Run with --device cpu, in a --cache of its own.",
        )
    dtype = run.dtype if run else options.dtype or "auto"
    revision = revision_for(options, run)
    size, here = _loaded_bytes(options.model, revision, dtype, options.quantize), memory()
    if run is not None:
        threads = run.threads
    elif device == "cpu":
        threads = max(1, cpu_count() // fitting_workers(size, here.total if here else None))
    else:
        threads = min(2, cpu_count())
    fitting = fitting_workers(size, here.available if here else None)
    setup = Setup(
        model=options.model,
        prompt=options.question,
        prompt_column=options.prompt_column,
        patches_column=options.patches_column,
        patches_label=options.patches_label,
        questions=options.questions,
        skip_dead_links=options.skip_dead_links,
        k=options.k,
        at=options.at,
        answer=options.answer,
        layers=options.layers,
        track=options.track,
        keep=options.keep,
        device=device,
        dtype=dtype,
        threads=threads,
        batch_size=run.batch_size if run else options.batch_size or BATCH_SIZE,
        shard_size=run.shard_size if run else options.shard_size or SHARD_SIZE,
        attention=run.attention if run else options.attention or "auto",
        quantize=options.quantize,
        revision=revision,
        gpus=options.gpus_per_worker if device == "cuda" else 0.0,
        device_map=options.device_map,
        compiled=run.compiled if run else options.compiled,
        lens=lens.spec,
        translators=lens.checksums,
        calls=2 if device == "cpu" else calls_beside(gpus, machines.cpus(), options.gpus_per_worker),
    )

    def room() -> int:
        if options.workers is not None:
            return options.workers
        if device == "cuda":
            return max(1, workers_on(machines.gpus(), setup.gpus))
        return min(max(1, machines.cpus() // threads), _across(fitting, machines))

    return setup, room


def calls_beside(gpus: int, cpus: int, each: float) -> int:
    """How many shards a GPU's worker has under way at once: it reads one in less time than a core writes it."""
    return max(2, min(MOST_CALLS, cpus // max(1, workers_on(gpus, each))))


def workers_on(gpus: int, each: float) -> int:
    """How many workers so many GPUs carry. A worker that takes a part of one takes it of one alone."""
    return int(gpus // each) if each >= 1 else gpus * int(1 / each + 1e-9)


def _across(fitting: int, machines: Machines) -> int:
    """What fits this machine's memory, scaled to a cluster of more cores."""
    return fitting * max(1, machines.cpus() // cpu_count())


def _loaded_bytes(model: str, revision: str | None, dtype: str, quantize: str | None) -> int | None:
    """About how much memory a model takes when loaded, or None if it is not on this machine yet."""
    try:
        stored = weight_bytes(resolve(model, revision=revision, download=False))
    except Exception:
        return None
    size = stored if dtype in ("float16", "bfloat16") else 2 * stored
    # A quarter or a half of most of it; not of the head, the embedding and the tower.
    return size if quantize is None else size // 2 if quantize == "4bit" else size * 3 // 4


def dispatch(
    pool: Pool, store: Store, run: Run, head: Head, plan: Plan, tracker: Tracker
) -> tuple[RunWatch, list[Failure]]:
    """Have the missing shards read. Returns what was seen of that, and the shards that were given up."""
    before = committed(store)
    wanted = [shard for shard in range(plan.shards) if shard not in before]
    cached = sum(commit.images for shard, commit in before.items() if shard < plan.shards)
    errors = sum(len(commit.errors) for shard, commit in before.items() if shard < plan.shards)
    if cached:
        tracker.say(f"Going on: {cached:,} of {plan.images:,} images are cached.")
    url = url_for_workers(store)
    compactor = Compactor(store, url, run, head, before)
    watch = RunWatch(tracker, cached, plan.images, errors, compactor.committed)
    try:
        failures = pool.extract(url, run, wanted, plan.rows_of, watch)
        compactor.join()
        return watch, failures
    except (KeyboardInterrupt, StoreStopped):
        tracker.say(f"{watch.cached:,} of {plan.images:,} images are cached.")
        raise
    finally:
        compactor.stop()


def url_for_workers(store: Store) -> str:
    """A store's URL; of a folder the full path: workers may run elsewhere."""
    return store.url if "://" in store.url else os.path.abspath(os.path.expanduser(store.url))


def given_up(failures: list[Failure]) -> RunError:
    """The error of a run that could not finish every shard."""
    lines = [
        f"  shard {failure.shard}, tried {failure.attempts} time{'s' if failure.attempts > 1 else ''}: "
        f"{reason(failure.error)}"
        for failure in failures[:SHOWN_FAILURES]
    ]
    if len(failures) > SHOWN_FAILURES:
        lines.append(f"  and {len(failures) - SHOWN_FAILURES:,} more")
    count = f"{len(failures):,} shards were" if len(failures) > 1 else "One shard was"
    hints = dict.fromkeys(hint for failure in failures if (hint := getattr(failure.error, "hint", None)))
    again = "The same command tries again what is missing; the rest is cached. vlq status shows which."
    return RunError("\n".join([f"{count} given up:", *lines]), "\n".join([*hints, again]))


def index_beside(store: Store, run: Run, head: Head) -> None:
    """Have those indexes made of a run's first shards that it was stopped before, so that it leaves what others do."""
    compactor = Compactor(store, url_for_workers(store), run, head, committed(store))
    try:
        compactor.join()
    finally:
        compactor.stop()


def seal(store: Store, run: Run, head: Head, tracker: Tracker) -> Head:
    """Build the index of a complete cache and name it in a sealed head, which there may be already."""
    tracker.phase("indexing")
    key, manifest = compact(store, run, head, seldom(tracker))
    if manifest.shards < head.shards:
        raise RunError(
            f"Shard {manifest.shards} is not committed any more in {store.url}.",
            "Run the same command again: it goes on.",
        )
    publish(store, head, key, manifest)
    return replace(head, index=key, sealed=True)


def _outcome(store: Store, run: Run, head: Head, fresh: int) -> Outcome:
    manifest = Cache(store.url, store, run).manifest(head)
    return Outcome(run, manifest.images, manifest.errors, fresh)
