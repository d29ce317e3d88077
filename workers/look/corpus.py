"""`vlq.look`: one image, read here and now, as a corpus that can be asked whatever a cached one can."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument
from vlq.query.extras import missing_extra
from vlq.query.folders import free_folder

if TYPE_CHECKING:
    from vlq.workers.lenses.choice import Choice
    from vlq.workers.look.pictures import Picture
    from vlq.workers.worker import Setup

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")

STORED_K = 20
"""Tokens kept per reading, unless more are asked for."""

MOST_K = 255
"""Tokens kept per reading: their ranks are stored in 8 bits."""


def look(
    image: Any,
    model: str | os.PathLike[str] | None = None,
    *,
    prompt: str | None = None,
    answer: int = 0,
    k: int = STORED_K,
    lens: str | os.PathLike[str] = "logit",
    device: str = "auto",
    dtype: str = "auto",
    save: str | os.PathLike[str] | None = None,
) -> LocalCorpus:
    """One image read with a model, as a corpus of this image alone.

    `image` is a path, any URL that fsspec knows, a Pillow image, or an array of shape (height, width) or (height,
    width, 3), of uint8 or of floats from 0 to 1. `model` is a folder of a saved model, or a Hugging Face hub id; by
    default the demo's, which knows nothing but scenes of its kind. `prompt` is a question, or a whole prompt with
    <image> in it. With `answer` the model answers with so many tokens at most, which are read too. `k` tokens are kept
    per reading. `lens` is logit, head, nearest, or the folder or URL of a tuned lens.

    What is read lies in a temporary folder that goes with the corpus. With `save`, a folder that is empty or not there
    yet, it stays there, as a cache like any other.

    The model stays in memory for the next image, until another one is asked for, or `vlq.workers.look.held.release()`.

    Raises InputError, ModelError, BadArgument, RunError, StoreError, and MissingExtra without the extra `workers`.
    """
    with kept(save) as folder:
        return read(image, model, prompt, answer, k, lens, device, dtype, folder, lambda phase: None)


def read(
    image: Any,
    model: str | os.PathLike[str] | None,
    prompt: str | None,
    answer: int,
    k: int,
    lens: str | os.PathLike[str],
    device: str,
    dtype: str,
    folder: Path | None,
    phase: Callable[[str], None],
) -> LocalCorpus:
    """`look` into a folder, or for None into a temporary one, which tells what it is doing."""
    answer = _whole("answer", answer, 0, None)
    k = _whole("k", k, 1, MOST_K)
    _check_choice("device", device, DEVICES)
    _check_choice("dtype", dtype, DTYPES)
    try:
        from vlq.workers.lenses.choice import choose
        from vlq.workers.look.pictures import picture_of

        picture = picture_of(image)  # its mistakes show before a model is loaded
        chosen = choose(os.fspath(lens), None)
        setup = _setup(model, prompt, answer, k, chosen, device, dtype)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        raise missing from error
    if folder is not None:
        _write(picture, setup, chosen, folder, phase, stays=True)
        return LocalCorpus(Cache.open(str(folder)))
    from vlq.workers.scratch import scratch

    with ExitStack() as ending:
        folder = ending.enter_context(scratch()) / "cache"
        _write(picture, setup, chosen, folder, phase, stays=False)
        corpus = LocalCorpus(Cache.open(str(folder)))
        # Answers, and what else reads the files, hold the cache.
        weakref.finalize(corpus.cache, ending.pop_all().close)
    return corpus


def _whole(name: str, value: Any, least: int, most: int | None) -> int:
    is_whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        upto = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise BadArgument(f"{name}: expected a whole number {upto}. Got {value!r}.")
    return index(value)


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadArgument(f"{name} is one of {', '.join(allowed)}. Got {value!r}.")


@contextmanager
def kept(save: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """The folder to write to, None for none. It is as it was unless all goes well.

    Raises StoreError if there is something already, or it is no folder of this machine.
    """
    if save is None:
        yield None
        return
    folder = free_folder(os.fspath(save), "save")
    was_there = folder.exists()
    try:
        yield folder
    except BaseException:
        for entry in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not was_there and folder.exists():
            folder.rmdir()
        raise


def _setup(
    model: str | os.PathLike[str] | None,
    prompt: str | None,
    answer: int,
    k: int,
    lens: Choice,
    device: str,
    dtype: str,
) -> Setup:
    import torch

    from vlq.query.schema import STORED_SITES
    from vlq.workers.demo.card import MODEL
    from vlq.workers.worker import Setup

    name = os.fspath(MODEL if model is None else model)
    folder = os.path.abspath(os.path.expanduser(name))
    at = STORED_SITES if answer else tuple(site for site in STORED_SITES if site != "answer")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Setup(
        model=folder if os.path.isdir(folder) else name,
        prompt=prompt,
        k=k,
        at=at,
        answer=answer,
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        batch_size=1,
        shard_size=1,
        lens=lens.spec,
        translators=lens.checksums,
    )


def _write(
    picture: Picture, setup: Setup, lens: Choice, folder: Path, phase: Callable[[str], None], *, stays: bool
) -> None:
    """Read the image and make a sealed cache of it, as a run does. Nothing is there before it is read.

    A tuned lens' maps, which may take a gigabyte, are put only where the cache `stays`: no question needs them. Raises
    ModelError if the lens is not whole, or of another model.
    """
    import pyarrow as pa

    from vlq.query.store import open_store
    from vlq.workers.indexing.index import compact, publish
    from vlq.workers.look import held
    from vlq.workers.look.reading import read_picture
    from vlq.workers.plan import begin, settle
    from vlq.workers.shard import write_shard

    uri = picture.uri or f"file://{folder / picture.name}"
    rows = pa.table({"image_id": pa.array([0], pa.uint32()), "image": [picture.name], "uri": [uri]})
    with held.using(setup, phase) as reader:
        description = reader.description
        translators = None
        if lens.tuned is not None:
            lens.tuned.check(setup.model, description.run.model_hash)
            translators = lens.tuned.in_memory()
        phase("reading the image")
        arrays, images = read_picture(reader.model, description.run, rows, picture, translators)
    store = open_store(str(folder), create=True)
    if picture.uri is None:
        store.create(picture.name, picture.data)
    if lens.tuned is not None and stays:
        lens.tuned.put(store)
    run = begin(store, description)
    head, _ = settle(store, run, rows, phase)
    write_shard(store, run, 0, 0, arrays, images)
    key, manifest = compact(store, run, head, processes=1)
    publish(store, head, key, manifest)
