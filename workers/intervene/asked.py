"""What the user asks a study for: what is to be done to which images, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument
from vlq.query.language.tokens import TokenSet
from vlq.query.schema import LAST, RANDOM, REPEATS, TO, Study, Window
from vlq.query.studies.chosen import Written, chosen, placed, target_of, tokens_of
from vlq.query.studies.partners import paired
from vlq.workers.intervene.knockout import windows
from vlq.workers.intervene.patching import lengths


@dataclass(frozen=True)
class Asked:
    """What is asked for whatever is done. None: not said."""

    cache: str
    patches: Written  # which ones, or where states are changed
    target: Written | None
    images: Written | None = None
    prompt: str | None = None  # another one than the run's
    answer: int | None = None
    seed: int = 0
    limit: int | None = None
    batch: int = Study.batch
    model: str | None = None
    device: str | None = None
    workers: int | None = None
    ray_address: str | None = None
    gpus_per_worker: float = 1.0
    device_map: str | None = None

    @property
    def needs_moments(self) -> bool:
        """Whether what patches' embeddings are like over the corpus counts."""
        return False

    @property
    def measured(self) -> str:
        """What is measured, as the language writes it."""
        return str(self.target)

    def tokens(self, corpus: LocalCorpus) -> TokenSet:
        """The tokens of that. Raises UnknownToken, BadArgument."""
        assert self.target is not None
        return target_of(corpus, self.target, self.prompt)

    def rows(self, corpus: LocalCorpus) -> pa.Table:
        """The images, each with what a study must know of it: `chosen.CHOSEN`, and perhaps more columns.

        Raises QueryError where these, or patches of theirs, are not what they may be.
        """
        return placed(corpus, self.patches, self.images, self.limit)

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        """The fields of a `Study` that say what is done. Raises BadArgument."""
        raise NotImplementedError


@dataclass(frozen=True)
class OfSets(Asked):
    """What is done to patches that are chosen, to parts of these, and to others that they are held against."""

    buffer: int = 0
    baselines: tuple[str, ...] = (RANDOM,)
    combinations: str = "all"
    repeats: int = REPEATS

    @property
    def needs_moments(self) -> bool:
        return "gradient" in self.baselines

    def rows(self, corpus: LocalCorpus) -> pa.Table:
        return chosen(corpus, self.patches, self.images, self.limit)

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        return {
            "mode": "",
            "buffer": self.buffer,
            "combinations": self.combinations,
            "baselines": self.baselines,
            "repeats": self.repeats if RANDOM in self.baselines else 0,
        }


@dataclass(frozen=True)
class Ablation(OfSets):
    """Patches are taken away."""

    mode: str = "mean"

    @property
    def needs_moments(self) -> bool:
        return self.mode != "zero" or super().needs_moments

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        return super().said(corpus) | {"mode": self.mode}


@dataclass(frozen=True)
class Knockout(OfSets):
    """Attention to patches, or with `others` to all but them, is cut in layers together, or in windows of so many."""

    to: str = "last"
    layers: Window | None = None
    window: int | None = None
    others: bool = False

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        if self.to not in TO:
            raise BadArgument(f"--to is one of {', '.join(TO)}. Got '{self.to}'.")
        found = tuple(windows(corpus.cache.run.layers, self.window, self.layers))
        own = {"intervention": "knockout", "windows": found, "to": self.to, "others": self.others}
        return super().said(corpus) | own


NO_SETS: dict[str, Any] = {"mode": "", "buffer": 0, "combinations": "all", "baselines": (), "repeats": 0}
"""The fields of a study of which each image has one set of places."""


@dataclass(frozen=True)
class Steering(Asked):
    """A token's direction is added to states, in layers together or in windows of so many; what is measured is the
    token itself if nothing else is."""

    token: Written = field(kw_only=True)
    strengths: Sequence[float] = (0.5, 1.0, 2.0)
    layers: Window | None = None
    window: int | None = None

    @property
    def measured(self) -> str:
        return str(self.target or self.token)

    def tokens(self, corpus: LocalCorpus) -> TokenSet:
        return target_of(corpus, self.target or self.token, self.prompt)

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        strengths = lengths(self.strengths)
        if len({*strengths}) < len(strengths):
            raise BadArgument(f"--strength: each one is tried once. Got {', '.join(f'{s:g}' for s in strengths)}.")
        return {
            **NO_SETS,
            "intervention": "steer",
            "windows": tuple(windows(corpus.cache.run.layers, self.window, self.layers, lowest=0)),
            "token": str(self.token),
            "token_ids": tokens_of(corpus, self.token).ids,
            "strengths": strengths,
        }


@dataclass(frozen=True)
class Patching(Asked):
    """Another image's states are put in, at one layer after another; what is measured is the first token of its answer
    if nothing else is."""

    source: str = "other"
    layers: Window | None = None

    def tokens(self, corpus: LocalCorpus) -> TokenSet:
        if self.target is None:
            return TokenSet("the source's answer", ())
        return target_of(corpus, self.target, self.prompt)

    def rows(self, corpus: LocalCorpus) -> pa.Table:
        everywhere = str(self.patches) == repr(LAST)
        rows = paired(corpus, super().rows(corpus), self.source, self.seed, one_grid=not everywhere)
        for row in () if everywhere else rows.to_pylist():
            own, other = ((row[f"{whose}rows"], row[f"{whose}columns"]) for whose in ("", "source_"))
            if own != other:
                raise BadArgument(other_grid(row["image"], own, row["source_image"], other), SAME_SHAPE)
        return rows

    def said(self, corpus: LocalCorpus) -> dict[str, Any]:
        found = tuple(windows(corpus.cache.run.layers, 1, self.layers, lowest=0))
        return {**NO_SETS, "intervention": "patch", "windows": found, "source": self.source}


SAME_SHAPE = "Take two of one shape, or the last token: --at last"


def other_grid(image: str, own: tuple[int, int], source: str, theirs: tuple[int, int]) -> str:
    """Why states at patches cannot be put into another image's run."""
    return (
        f"{image} has {own[0]} x {own[1]} patches, {source} {theirs[0]} x {theirs[1]}: no patch of one is at the place "
        "of one of the other."
    )
