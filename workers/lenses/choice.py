"""Which lens `--lens` names. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vlq.query.errors import ModelError
from vlq.query.schema import LENSES, LensSpec, Run
from vlq.query.stores.location import path_here
from vlq.workers.lenses.files import TRAIN, Found

HOW = "A lens is logit, head, nearest, or the folder or URL of a tuned lens."


@dataclass(frozen=True)
class Choice:
    """A lens; `tuned` is where its translators come from, if the cache does not hold them."""

    spec: LensSpec
    tuned: Found | None = None

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the objects that a cache holds for it, by key."""
        return {} if self.tuned is None else self.tuned.checksums


def choose(name: str, run: Run | None) -> Choice:
    """The lens of a name, a folder or a URL; `tuned` is that of a run that has begun. Raises ModelError, StoreError."""
    if name == "tuned":
        if run is None:
            raise ModelError("'tuned' does not say which tuned lens.", f"Give its folder. {TRAIN}")
        if run.lens.kind != "tuned":
            raise ModelError(f"The cache was not begun with a tuned lens, but with {run.lens}.", HOW)
        return Choice(run.lens)
    if name in LENSES:
        return Choice(LensSpec(name))
    try:
        found = _tuned(name)
    except ModelError as error:
        if run is None or run.lens.kind != "tuned":
            raise
        hint = f"The cache holds {run.lens}: --lens tuned goes on with it."
        raise ModelError(error.message, hint) from error
    return Choice(found.spec, found)


def _tuned(name: str) -> Found:
    if (here := path_here(name)) is None:
        return Found.at(name)
    path = os.path.abspath(os.path.expanduser(here))
    if os.sep not in name and not os.path.exists(path):
        raise ModelError(f"There is no lens {name}.", HOW)
    return Found.at(path)
