"""What one Ray actor does: load the model once, then read shard after shard and commit each."""

from __future__ import annotations

import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vlq.query.collector import collector_paused
from vlq.query.errors import BadArgument, RunError
from vlq.query.schema import (
    LOGIT_LENS,
    READING,
    RUN,
    TOKENIZER,
    VOCABULARY,
    Commit,
    LensSpec,
    Run,
    Study,
    digest_of,
    unembed_key,
)
from vlq.query.store import Store, open_store

if TYPE_CHECKING:
    from vlq.query.language.tokens import Token
    from vlq.workers.lens import Lens
    from vlq.workers.models.base import LensModel

DECODERS = 4
"""Threads that fetch and decode images ahead of the model."""

SHARD_OBJECT_BYTES = 256 * 2**20
"""Shards are cut so that no object, uncompressed, passes this."""


@dataclass(frozen=True)
class Setup:
    """What a worker is made with. No prompt means the model's own default."""

    model: str
    prompt: str | None
    k: int
    at: tuple[str, ...]
    device: str  # cpu or cuda
    dtype: str  # auto, or a dtype
    threads: int
    batch_size: int
    shard_size: int
    attention: str = "auto"
    quantize: str | None = None
    revision: str | None = None  # of a hub model
    gpus: float = 0.0
    answer: int = 0
    calls: int = 2  # shards under way at once: one uses the model, the others are decoded ahead or written
    compiled: bool = False
    device_map: str | None = None  # auto spreads a model over the worker's GPUs; it decides no bits
    layers: tuple[int, ...] = ()  # to be read, ascending; none: all
    track: tuple[str, ...] = ()  # words whose tokens are tracked
    lens: LensSpec = LOGIT_LENS
    translators: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of a tuned lens' objects, by key
    keep: str = "topk"
    prompt_column: str | None = None  # of the plan: each image's own prompt
    patches_column: str | None = None  # of the plan: which patches of each image are read
    patches_label: str | None = None
    questions: tuple[str, ...] = ()  # some of these, the longest last
    skip_dead_links: bool = False


@dataclass(frozen=True)
class Description:
    """What a loaded model says of itself. Small: it travels from the worker to whoever started it."""

    run: Run
    vocabulary: bytes  # Parquet
    tokenizer: bytes | None  # tokenizer.json
    note: str | None = None  # what the user should know of it
    beside: int = 0  # bytes of what workers put beside the shards: what makes logits of the states that are kept


Errors = tuple[tuple[int, str, str], ...]
"""Image id, name, reason."""


@dataclass(frozen=True)
class Done:
    """A committed shard, and what it took. Seconds are 0 where another run had committed it before."""

    shard: int
    images: int
    errors: Errors = ()
    size: int = 0  # bytes of its objects
    fresh: bool = True  # whether this worker's commit is the one that holds
    lost_race: bool = False  # read here and committed by another run meanwhile
    queued: float = 0.0  # seconds until the model was free for it
    busy: float = 0.0  # in the model and the lens
    starved: float = 0.0  # in which the model waited for images
    writing: float = 0.0


@dataclass
class Turn:
    """When a call had the model to itself."""

    came: float
    began: float = 0.0
    ended: float = 0.0

    def done(self, shard: int, images: int, errors: Errors, is_ours: bool, size: int = 0) -> Done:
        """What there is to tell of its shard."""
        spent = {"queued": self.began - self.came, "busy": self.ended - self.began}
        return Done(
            shard,
            images,
            errors,
            size,
            fresh=is_ours,
            lost_race=not is_ours,
            writing=time.perf_counter() - self.ended,
            **spent,
        )


class Stopwatch:
    """Adds up the seconds that are spent in it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def packed(rows: pa.Table) -> bytes:
    """Rows of the plan as they travel to a worker: an Arrow stream.

    Of anything but bytes Ray makes a pickle in Python, which takes milliseconds a shard.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def unpacked(rows: bytes) -> pa.Table:
    """What was `packed`."""
    return pa.ipc.open_stream(rows).read_all()


@lru_cache(maxsize=1)
def run_of(record: bytes) -> Run:
    """The run of a record: the same one for each of a worker's shards, so that its digest is computed once."""
    return Run.from_bytes(record, RUN)


@contextmanager
def fitting_batches(run: Run) -> Iterator[None]:
    """Raises RunError where the GPU's memory is too small for what is read in this context."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            f"A batch of {run.batch_size} images does not fit into the GPU's memory.",
            "Free the GPU, or begin another --cache with a smaller --batch-size.",
        ) from error


class ShardWorker:
    """One model. Several calls may be under way at once: one uses the model, the others decode ahead or write."""

    def __init__(self, setup: Setup) -> None:
        # Nothing that can fail: Ray would report it as a death without its message.
        self._setup = setup
        self._model: Any = None
        self._lens: tuple[str, Lens] | None = None  # and the digest of its run
        self._using_model = threading.Lock()
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    def node(self) -> str:
        """The machine that this worker is on, as Ray names it."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def start(self) -> Description:
        """Load the model, and say which run this worker would begin. Raises ModelError, MissingExtra."""
        self._model, description = load_model(self._setup)
        return description

    def extract(self, url: str, run_record: bytes, shard: int, packed_rows: bytes) -> Done:
        """Read one shard's rows of the plan and commit it, unless another run has done so."""
        import torch

        from vlq.workers.extract import decode_ahead, read_decoded
        from vlq.workers.images import fetching
        from vlq.workers.shard import commit, find_commit, put_shard

        run, rows = run_of(run_record), unpacked(packed_rows)
        store = open_store(url)
        if found := find_commit(store, run, shard):
            return _by_another_run(found)
        images = decode_ahead(self._model, run, rows, self._decoders, fetching(self._setup.skip_dead_links))
        start = time.perf_counter()
        busy = Stopwatch()
        with self._using_model:
            if found := find_commit(store, run, shard):  # while this one waited for the model
                return _by_another_run(found)
            began = time.perf_counter()
            torch.set_num_threads(run.threads)  # counts for the calling thread
            with fitting_batches(run):
                lens = self._lens_of(run, store)
                readings, table = read_decoded(self._model, lens, run, rows, images, busy.running)
        read = time.perf_counter()
        record, is_ours = commit(store, put_shard(store, run, shard, rows["image_id"][0].as_py(), readings, table))
        return Done(
            shard,
            record.images,
            record.errors,
            record.size,
            fresh=is_ours,
            lost_race=not is_ours,
            queued=began - start,
            busy=busy.seconds,
            starved=read - began - busy.seconds,
            writing=time.perf_counter() - read,
        )

    def add_up(self, url: str, run_record: bytes, shard: int, packed_rows: bytes) -> Done:
        """Put what a shard's patches add to the corpus' moments, unless somebody has done so."""
        from vlq.workers.intervene.moments import find_sums, put_sums
        from vlq.workers.intervene.shards import encode_ahead, fitting, sums_of

        run, rows = run_of(run_record), unpacked(packed_rows)
        store = open_store(url)
        with suppress(FileNotFoundError):
            find_sums(store, shard)
            return Done(shard, rows.num_rows, fresh=False)
        images = encode_ahead(self._model, rows, self._decoders)
        with self._turn(run, fitting(1)) as turn:
            sums, errors = sums_of(self._model, rows, images)
        is_ours = put_sums(store, shard, sums)
        return turn.done(shard, rows.num_rows, errors, is_ours)

    def intervene(self, url: str, run_record: bytes, study_record: bytes, shard: int, packed_rows: bytes) -> Done:
        """Do a study's shard and commit its effects, unless somebody has done so."""
        from vlq.workers.intervene.moments import moments_at
        from vlq.workers.intervene.shards import commit, effects_of, encode_ahead, find_commit, fitting, sources_ahead

        run, study = run_of(run_record), Study.from_bytes(study_record, "the study")
        store, rows = open_store(url), unpacked(packed_rows)
        if found := find_commit(store, study, shard):
            return Done(shard, found.images, found.errors, found.effects.size, fresh=False)
        images = encode_ahead(self._model, rows, self._decoders)
        sources = sources_ahead(self._model, study, rows, self._decoders)
        with self._turn(run, fitting(study.batch)) as turn:
            if found := find_commit(store, study, shard):
                return Done(shard, found.images, found.errors, found.effects.size, fresh=False)
            moments = None if study.moments is None else moments_at(store, study.moments)
            effects = effects_of(self._model, study, moments, rows, images, sources)
        record, is_ours = commit(store, study, shard, rows.num_rows, effects)
        return turn.done(shard, record.images, record.errors, is_ours, record.effects.size)

    @contextmanager
    def _turn(self, run: Run, fitting: AbstractContextManager[None]) -> Iterator[Turn]:
        """The model is this call's."""
        import torch

        turn = Turn(time.perf_counter())
        with self._using_model, fitting:
            turn.began = time.perf_counter()
            torch.set_num_threads(run.threads)  # counts for the calling thread
            yield turn
            turn.ended = time.perf_counter()

    def _lens_of(self, run: Run, store: Store) -> Lens:
        """The run's lens, made once; before anything is read, what states need that are kept lies beside them."""
        from vlq.workers.lenses import lens_of, unembedding

        if self._lens is None or self._lens[0] != run.digest:
            unembedding.put_missing(self._model, run, store)
            self._lens = run.digest, lens_of(self._model, run, store)
        return self._lens[1]


@collector_paused()
def loaded(setup: Setup, check_images: int = 1) -> LensModel:
    """The model of a setup with its checks passed, as `models.load` gives it."""
    from vlq.workers.models import load

    return load(
        setup.model,
        revision=setup.revision,
        prompt=setup.prompt,
        device=setup.device,
        dtype=setup.dtype,
        attention=setup.attention,
        quantize=setup.quantize,
        device_map=setup.device_map,
        compiled=setup.compiled,
        check_images=check_images,
        answer=setup.answer > 0,
        questions=setup.questions,
    )


@collector_paused()
def load_model(setup: Setup) -> tuple[Any, Description]:
    """A worker's model, a `LensModel`, and what it says of itself. Raises ModelError, MissingExtra."""
    import torch
    import transformers

    from vlq.workers.lenses import lens_of
    from vlq.workers.models import folder_of
    from vlq.workers.models.files import commit_of
    from vlq.workers.models.largest import trouble_with_largest

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken images, which are recorded with their reasons
    torch.set_num_threads(setup.threads)
    # From here on the same files, wherever the hub's branch goes.
    setup = replace(setup, revision=commit_of(setup.model, folder_of(setup.model, revision=setup.revision)))
    on_gpu = setup.device == "cuda"
    model = loaded(setup, setup.batch_size if on_gpu else 1)
    description = describe(setup, model)
    if setup.lens.kind != "tuned":
        lens_of(model, description.run)  # raises what it would raise for every shard
    note = trouble_with_largest(model, setup.batch_size, setup.answer > 0) if on_gpu else None
    return model, replace(description, note=note)


def _by_another_run(found: Commit) -> Done:
    return Done(found.shard, found.images, found.errors, found.size, fresh=False)


def describe(setup: Setup, model: Any) -> Description:
    """What a loaded `LensModel` says of itself and of the run that it would begin. Raises ModelError if states are to
    be kept, and the lens is none that makes logits of them by NumPy."""
    from vlq.query.cache.tables import parquet_bytes
    from vlq.workers.lenses import unembed_of, unembedding
    from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
    from vlq.workers.tracked import tracked_tokens

    table = vocabulary_table(model.tokenizer, model.vocabulary_size)
    vocabulary, tokenizer = parquet_bytes(table), model.tokenizer.backend_tokenizer.to_str().encode()
    checksums = {VOCABULARY: digest_of(vocabulary), TOKENIZER: digest_of(tokenizer), **setup.translators}
    tracked = tracked_tokens(setup.track, vocabulary, tokenizer)
    run = describe_run(setup, model, vocabulary_hash(table), tracked)
    beside = b""
    if run.keep == "residual":
        beside = unembedding.to_bytes(model, run)
        own = None if run.lens.kind == "tuned" else unembed_of(model, run)
        unembedding.check(model, run, beside, own)
        checksums[unembed_key(digest_of(beside))] = digest_of(beside)
    return Description(replace(run, checksums=checksums), vocabulary, tokenizer, beside=len(beside))


def describe_run(setup: Setup, model: Any, vocabulary_hash: str, tracked: Sequence[Token] = ()) -> Run:
    """The record of a run with this model, as `run.json` will hold it.

    `model` is a `LensModel`, `tracked` are the tokens that `setup.track` means. Raises BadArgument if the model lacks a
    layer that is asked for.
    """
    from vlq.workers.lens import default_block
    from vlq.workers.lenses import on
    from vlq.workers.models.files import commit_of, model_hash, resolve
    from vlq.workers.models.processors import backend_of
    from vlq.workers.models.weights import decisive_packages

    k = min(setup.k, model.vocabulary_size)
    folder = resolve(setup.model, revision=setup.revision, download=False)
    backend = backend_of(model.processor)
    packages = ["vlq", "torch", "transformers", "pillow", "numpy", *decisive_packages(model.model)]
    packages += [backend] if backend != "pil" else []
    run = Run(
        model=setup.model,
        model_class=type(model.model).__name__,
        model_hash=model_hash(folder),
        prompt=model.prompt,
        prompt_ids=model.prompt_ids if setup.prompt_column is None else (),
        prompt_column=setup.prompt_column,
        patches_column=setup.patches_column,
        patches_label=setup.patches_label,
        layers=model.layers,
        read_layers=read_layers(setup.layers, model.layers),
        keep=setup.keep,
        width=model.width if setup.keep == "residual" else 0,
        tracked=tuple(token.id for token in tracked),
        tracked_pieces=tuple(token.piece for token in tracked),
        grid=model.grid,
        patches=model.most_patches,
        k=k,
        at=setup.at,
        answer=setup.answer,
        vocabulary_size=model.vocabulary_size,
        vocabulary_hash=vocabulary_hash,
        dtype=str(model.dtype).removeprefix("torch."),
        quantized=setup.quantize,
        revision=commit_of(setup.model, folder),
        lens=on(model, setup.lens),
        image_processor=plain(model.processor.image_processor.to_dict()) | {"backend": backend},
        batch_size=setup.batch_size,
        threads=setup.threads,
        lens_block=default_block(model.vocabulary_size, setup.device),
        device=setup.device,
        attention=model.attention,
        compiled=setup.compiled,
        reading=READING,
        versions={name: version(name) for name in packages} | {"python": platform.python_version()},
    )
    positions = dict(run.positions)
    if "prompt" in run.uneven:
        positions["prompt"] = max((model.prompt_length(question) for question in setup.questions), default=1)
    largest = max(positions.values()) * run.layers * max(k, len(tracked)) * 4
    if run.keeps_all:
        what, numbers = (
            ("the residual stream of one image takes", run.width)
            if run.keep == "residual"
            else ("the logits of one image take", model.vocabulary_size)
        )
        # Of bfloat16's numbers, as they are stored, half of the bytes are zeros, which take no room.
        of_image = max(positions.values()) * len(run.read_layers) * numbers * (4 if run.dtype == "float32" else 2)
        if of_image > SHARD_OBJECT_BYTES:
            raise BadArgument(
                f"--keep {run.keep}: {what} {of_image / 2**20:,.0f} MiB at one site; an object of a "
                f"cache may have {SHARD_OBJECT_BYTES // 2**20} MiB.",
                "Read fewer layers (--layers 8,16,24), or the prompt alone (--at prompt), or keep chosen words: "
                "--track dog,ear",
            )
        largest = max(largest, of_image)
    return replace(run, shard_size=min(setup.shard_size, max(1, SHARD_OBJECT_BYTES // largest)))


def read_layers(asked: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The layers to be read of so many: those that are asked for, or all. Raises BadArgument if one is not there."""
    if asked and asked[-1] >= count:
        raise BadArgument(
            f"--layers: there is no layer {asked[-1]}. The model has the layers 0 (the embedding) to {count - 1}.",
            "Name some of these: --layers 0,8,16:32",
        )
    return asked or tuple(range(count))


def plain(value: Any) -> Any:
    """The value as JSON has it: mappings, lists, strings, numbers; anything else by its name."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
