"""The model that was used last, kept so that the next image need not load it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlq.workers.lenses import on
from vlq.workers.models import folder_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import check
from vlq.workers.models.files import CONFIGURATION, weight_files
from vlq.workers.worker import Description, Setup, describe, loaded

Phase = Callable[[str], None]
"""Told what is being done now, where it takes a while."""


@dataclass(frozen=True)
class Held:
    """A loaded model, and what a run with it would say of itself."""

    weights: tuple[Any, ...]
    setup: Setup
    model: LensModel
    description: Description


_turn = threading.RLock()
_held: list[Held] = []


@contextmanager
def using(setup: Setup, phase: Phase) -> Iterator[Held]:
    """The model of a setup, for this thread alone. Only the last one is kept. Raises ModelError."""
    with _turn:
        weights = _weights_of(setup)
        if not _held or _held[0].weights != weights:
            _held.clear()  # there may be no room for two
            phase("loading the model")
            _held.append(_loaded(setup, weights))
        elif _held[0].setup != setup:
            _held[:] = [_asked_anew(_held[0], setup)]
        yield _held[0]


def release() -> None:
    """Let go of the model that is kept."""
    with _turn:
        _held.clear()


def _weights_of(setup: Setup) -> tuple[Any, ...]:
    """What tells whether a model would be loaded as it was: a folder's files may have changed since."""
    folder = folder_of(setup.model, revision=setup.revision)
    files = sorted({*weight_files(folder), *(file for pattern in CONFIGURATION for file in folder.glob(pattern))})
    how = (setup.model, setup.device, setup.dtype, setup.attention, setup.quantize)
    return *how, *map(_stamp, files)


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _loaded(setup: Setup, weights: tuple[Any, ...]) -> Held:
    model = loaded(setup)
    return Held(weights, setup, model, describe(setup, model))


def _asked_anew(held: Held, setup: Setup) -> Held:
    """The same weights with another prompt, k, answer or lens: neither loaded nor hashed again."""
    model = type(held.model)(held.model.model, held.model.processor, setup.prompt)
    check(model, answer=setup.answer > 0)
    before = held.description.run
    of_vocabulary = {key: before.checksums[key] for key in before.checksums if key not in held.setup.translators}
    run = replace(
        before,
        prompt=model.prompt,
        prompt_ids=model.prompt_ids,
        k=min(setup.k, model.vocabulary_size),
        at=setup.at,
        answer=setup.answer,
        threads=setup.threads,
        lens=on(model, setup.lens),
        checksums={**of_vocabulary, **setup.translators},
    )
    return Held(held.weights, setup, model, replace(held.description, run=run))
