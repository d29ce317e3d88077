"""One image without some of its patches, on a model that stays loaded: for those who wait for the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlq.query.errors import InputError, RunError
from vlq.query.language.effects import usual_answer
from vlq.query.schema import Run
from vlq.query.store import Store
from vlq.workers.extract import prepare
from vlq.workers.intervene.ablation import Moments, MomentSums, measure
from vlq.workers.intervene.moments import known_moments, moments_at
from vlq.workers.intervene.prompted import Outcome, Prompted, Target
from vlq.workers.intervene.sets import sets_of
from vlq.workers.intervene.shards import is_gone, text_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.upkeep.rerun import found_among, model_of

MeanOf = Literal["corpus", "image"]


class Changed(InputError):
    """An image's file is not there any more, or no longer the same."""


class Stopped(Exception):
    """Nobody waits for the outcome any more."""


@dataclass(frozen=True)
class Source:
    """An image as a run read it."""

    uri: str
    sha256: str  # of its file
    prompt: str | None  # its own, where images have one


def read_again(model: LensModel, image: Source) -> Encoded:
    """The image as a run read it. Raises Changed, RunError if it cannot be read."""
    try:
        found = prepare(model, image.uri, image.prompt)
    except OSError as error:
        raise Changed("The image is not where it was.", "Put its file back.") from error
    if found.sha256 != image.sha256:
        raise Changed("The image's file is not the one that was read.", "Put that one back.")
    if found.encoded is None:
        raise RunError(f"The image cannot be read as it was: {found.error}.")
    return found.encoded


@dataclass(frozen=True)
class Without:
    """What came of taking patches from an image."""

    taken: tuple[int, ...]  # ascending, rings included
    mean_of: MeanOf | None  # whose mean patch stands in their places; None: zeros do
    before: Outcome
    after: Outcome
    answer_before: str
    answer: str
    gone: bool | None  # the answer held the target, and does no more; None where it never did


class LoadedModel:
    """A run's model, loaded as it was for it, with the image that it was asked of last.

    It is where the run had it, or in one of `places`. Raises ModelError if it cannot be loaded, CacheMismatch if it is
    another one. For one thread at a time.
    """

    def __init__(self, run: Run, cache: str, places: Sequence[str] = ()) -> None:
        self.model = model_of(run, found_among(run, places), cache)
        self._run = run
        self._last: tuple[Source, Prompted, Moments] | None = None  # with its own patches' moments

    def without(
        self,
        image: Source,
        patches: Sequence[int],
        rings: int,
        target: Target,
        mode: Literal["zero", "mean"],
        store: Store,
        shards: Sequence[int],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Without:
        """What taking some of an image's patches, with so many rings of neighbours, does to a target.

        The mean is that of the corpus' patches where the moments of these shards are in its store, else of the
        image's own. Raises Changed, RunError if the model gives no finite numbers; Stopped soon after `is_stopped`.
        """
        with self._stopping(is_stopped):
            prompted, own = self._prompted(image)
            moments, mean_of = own, None
            if mode == "mean":
                moments, mean_of = _mean(own, store, shards)
            (taken,) = sets_of(patches, prompted.image.grid, "all", rings)
            answer = usual_answer(self._run, None)
            before, (found,) = measure(prompted, [taken], moments, target, mode, answer, [0])
        after = found.outcome
        if not np.isfinite([*before.logprob, *after.logprob]).all():
            raise RunError("With these patches taken the model's logits are not finite.", "Try another mode.")
        return Without(
            taken.patches,
            mean_of,
            before,
            after,
            text_of(self.model, before),
            text_of(self.model, after),
            is_gone(target, before, after),
        )

    def _prompted(self, image: Source) -> tuple[Prompted, Moments]:
        """The image at the decoder's door, and what its own patches' embeddings are like."""
        if self._last is None or self._last[0] != image:
            self._last = None  # its memory may be needed
            prompted, sums = Prompted(self.model, read_again(self.model, image)), MomentSums()
            sums.add(prompted.entering_patches())
            self._last = image, prompted, sums.moments()
        return self._last[1:]

    @contextmanager
    def _stopping(self, is_stopped: Callable[[], bool]) -> Iterator[None]:
        """Whatever runs through the decoder ends at the next block when it is to stop."""

        def look(*arguments: Any) -> None:
            if is_stopped():
                raise Stopped

        with ExitStack() as stack:
            for block in self.model.blocks:
                stack.callback(block.register_forward_pre_hook(look).remove)
            try:
                yield
            except BaseException:
                self._last = None  # what it has kept of the plain run may be a part of it
                raise


def _mean(own: Moments, store: Store, shards: Sequence[int]) -> tuple[Moments, MeanOf]:
    key, _ = known_moments(store, shards)
    return (own, "image") if key is None else (moments_at(store, key), "corpus")
