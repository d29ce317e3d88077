"""A tuned lens is trained: per layer an affine map behind which the model's norm and head give what they give of the
last layer, as nearly as can be.

As Belrose et al. (2023) do it: what is made small is KL(last layer's distribution || the lens' one), averaged over
positions, by stochastic gradient descent with Nesterov momentum whose rate goes down to zero linearly, from maps that
change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlq.query.cache.arrays import values
from vlq.query.cache.reader import Cache
from vlq.query.errors import InputError
from vlq.workers.extract import prepare
from vlq.workers.lenses import tuned
from vlq.workers.lenses.tuned import Translator
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.worker import DECODERS

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
LARGEST_GRADIENT = 1.0
"""Its norm, of one layer; a larger one is scaled down."""

STEP_POSITIONS = 256
"""Positions whose divergence is averaged for one step."""

BUFFER = 2 * 2**30
"""Bytes of states that are held at once."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How a lens is trained."""

    at: tuple[str, ...] = ("patch", "prompt")
    steps: int = 1000
    lr: float = 1.0
    positions_per_image: int = 32
    batch_size: int = 8  # images of one forward pass
    holdout: float = 0.1  # share of the images that nothing is learned from
    seed: int = 0
    buffer: int = BUFFER


@dataclass(frozen=True)
class Divergence:
    """Mean KL divergence of a layer's readings from the last layer's, in nats, over so many held-out positions."""

    positions: int
    logit: float  # by the logit lens
    tuned: float


@dataclass(frozen=True)
class Trained:
    """A lens, and what the hold-out says of it."""

    translators: Mapping[int, Translator]  # of the layers at which it is better than the logit lens
    metrics: Sequence[Mapping[str, Divergence]]  # by layer, the last one left out: by site
    trained_on: int  # images
    held_out: int
    failed: Sequence[str]  # image and reason of each that could not be read

    def overall(self, layer: int) -> Divergence:
        return overall(self.metrics[layer])


def overall(sites: Mapping[str, Divergence]) -> Divergence:
    """Over the positions of all sites."""
    count = sum(site.positions for site in sites.values())
    logit, tuned = (sum(getattr(site, name) * site.positions for site in sites.values()) for name in ("logit", "tuned"))
    return Divergence(count, logit / count, tuned / count)


@dataclass(frozen=True)
class States:
    """Of some positions of some images, un-normed, on the host."""

    states: Tensor  # (layer, position, d), in the model's dtype
    site: np.ndarray  # (position,) index into `Options.at`


def train(
    model: LensModel,
    images: Sequence[Mapping[str, Any]],
    options: Options,
    progress: Progress,
    cache: Cache | None = None,
) -> Trained:
    """Train on rows of `image_id`, `image` and `uri`. The same rows, options, machine and threads give the same lens.

    States are those that the model gives, or those that a cache of it keeps, whose image table the rows are then of.
    Raises InputError if there are too few images, or one cannot be fetched.
    """
    if len(images) < 2:
        raise InputError("A lens is trained on some images and tried on others: one image is not enough.", "Give more.")
    order = np.random.default_rng(options.seed).permutation(len(images))
    count = min(len(images) - 1, max(1, round(options.holdout * len(images))))
    held, used = ([images[i] for i in part] for part in (order[:count], order[count:]))
    reader = Reader(model, options, progress) if cache is None else CachedReader(model, options, progress, cache)
    learners = _learn(reader, used)
    translators = {layer: learner.translator(model) for layer, learner in enumerate(learners)}
    trained_on = len(used) - len(reader.failed)
    metrics = _measure(reader, held, translators)
    held_out = len(used) + len(held) - trained_on - len(reader.failed)
    trained = Trained({}, metrics, trained_on, held_out, reader.failed)
    better = {
        layer: translator
        for layer, translator in translators.items()
        if (at := trained.overall(layer)).tuned < at.logit  # not where it is no number
    }
    return replace(trained, translators=better)


class Reader:
    """Runs images through the model, and keeps states of some positions of each: random ones, each time the same."""

    def __init__(self, model: LensModel, options: Options, progress: Progress) -> None:
        self.model = model
        self.options = options
        self.progress = progress
        self.failed: list[str] = []

    def read(self, images: Sequence[Mapping[str, Any]], what: str) -> Iterator[States]:
        """States of batches of images. Those that cannot be decoded are left out. Raises InputError."""
        batch: list[Encoded] = []
        for done, (row, encoded) in enumerate(self._encoded(images)):
            if encoded is not None:
                rng = np.random.default_rng([self.options.seed, row["image_id"]])
                sites = {site: encoded.sites[site] for site in self.options.at}
                batch.append(replace(encoded, sites=chosen(sites, self.options.positions_per_image, rng)))
            if batch and (len(batch) == self.options.batch_size or done == len(images) - 1):
                yield self._states(batch)
                batch = []
            self.progress(what, done + 1, len(images))

    def _encoded(self, images: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Encoded | None]]:
        """Each image, decoded while the model reads those before; None if that cannot be."""
        waiting = iter(images)
        with ThreadPoolExecutor(DECODERS) as pool:
            ahead = deque((row, pool.submit(prepare, self.model, row["uri"])) for row in islice(waiting, 2 * DECODERS))
            while ahead:
                row, future = ahead.popleft()
                try:
                    found = future.result()
                except OSError as error:
                    raise InputError(f"{row['image']} cannot be fetched: {error}.", "Try again.") from error
                ahead += [
                    (next_row, pool.submit(prepare, self.model, next_row["uri"])) for next_row in islice(waiting, 1)
                ]
                if found.encoded is None:
                    self.failed.append(f"{row['image']}: {found.error}")
                yield row, found.encoded

    def _states(self, batch: Sequence[Encoded]) -> States:
        model = self.model
        image, place = model.places(batch, self.options.at)
        states = torch.empty(model.layers, len(place), model.width, dtype=model.dtype)

        def visit(layer: int, hidden: Tensor) -> None:
            states[layer] = hidden[image, place]

        model.forward(batch, visit)
        sites = [np.full(len(one.sites[site]), i) for one in batch for i, site in enumerate(self.options.at)]
        return States(states, np.concatenate(sites))


class CachedReader(Reader):
    """Takes the states of the same positions from a cache that keeps the residual stream."""

    def __init__(self, model: LensModel, options: Options, progress: Progress, cache: Cache) -> None:
        super().__init__(model, options, progress)
        self._cache = cache
        self._snapshot = cache.snapshot()

    def read(self, images: Sequence[Mapping[str, Any]], what: str) -> Iterator[States]:
        batch: list[States] = []
        for done, row in enumerate(images):
            if row["error"] is not None:
                self.failed.append(f"{row['image']}: {row['error']}")
            else:
                batch.append(self._of(row["image_id"]))
            if batch and (len(batch) == self.options.batch_size or done == len(images) - 1):
                parts = [part.states for part in batch]
                yield States(torch.cat(parts, 1), np.concatenate([part.site for part in batch]))
                batch = []
            self.progress(what, done + 1, len(images))

    def _of(self, image: int) -> States:
        commit = self._snapshot.commit_of(image)
        row, arrays = image - commit.first_image, partial(self._cache.array, commit.shard)
        is_read = {site: np.isfinite(values(arrays(f"{site}/lse"), row)[0]) for site in self.options.at}
        rng = np.random.default_rng([self.options.seed, image])
        sites = {site: torch.from_numpy(np.flatnonzero(read)) for site, read in is_read.items()}
        places = chosen(sites, self.options.positions_per_image, rng)
        found = [
            torch.from_numpy(values(arrays(f"{site}/residual"), row)[:, places[site].numpy()])
            for site in self.options.at
        ]
        site = [np.full(len(places[site]), i) for i, site in enumerate(self.options.at)]
        return States(torch.cat(found, 1).to(self.model.dtype), np.concatenate(site))


def chosen(sites: Mapping[str, Tensor], wanted: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """So many of an image's positions, as evenly of its sites as they have them."""
    picked = {}
    for i, (site, places) in enumerate(sorted(sites.items(), key=lambda site: len(site[1]))):
        count = min(len(places), wanted // (len(sites) - i))
        picked[site] = places[torch.from_numpy(np.sort(rng.permutation(len(places))[:count]))]
        wanted -= count
    return picked


# --- learning --------------------------------------------------------------------------------------------------


class Learner:
    """The translator of a layer while it is trained. Its bias is counted in the layer's own `scale`, so that one rate
    does for layers and models of every size of states.
    """

    def __init__(self, model: LensModel, scale: float) -> None:
        self._model = model
        self._scale = scale
        options: dict[str, Any] = {"device": model.device, "requires_grad": True}
        self._weight = torch.zeros(model.width, model.width, **options)
        self._bias = torch.zeros(model.width, **options)
        parameters = [self._weight, self._bias]
        self._optimizer = torch.optim.SGD(
            parameters, lr=1.0, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
        )

    def learn(self, states: Tensor, target: Tensor, lr: float) -> None:
        """One step: `target` (n, vocabulary) are the log-probabilities that are wanted of the (n, d) states."""
        model = self._model
        states = states.to(model.device)
        exact = states.float()
        moved = (exact + exact @ self._weight.T + self._bias * self._scale).to(states.dtype)
        # Neither `unembed`'s kernels nor its product know of gradients.
        logits = model.finish(model.lm_head(model.final_norm(moved)))
        loss = divergence(target, logits).mean()
        parameters = [self._weight, self._bias]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * (1 - MOMENTUM)  # momentum adds up to 1 / (1 - MOMENTUM) times as much
        self._optimizer.step()
        self._optimizer.zero_grad()

    def translator(self, model: LensModel) -> Translator:
        """As it is applied and stored."""
        return Translator(self._weight.detach().to(model.dtype), (self._bias * self._scale).detach())


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """(n,) KL(target || softmax(logits)) in nats, of (n, vocabulary) log-probabilities and logits."""
    return (target.exp() * (target - torch.log_softmax(logits.float(), -1))).sum(-1)


def _learn(reader: Reader, images: Sequence[Mapping[str, Any]]) -> list[Learner]:
    """Learners that have made all their steps: of as many images at once as the buffer has room for."""
    model, options = reader.model, reader.options
    of_position = model.layers * model.width * torch.finfo(model.dtype).bits // 8
    room = max(1, options.buffer // (of_position * options.positions_per_image))  # images
    parts = [list(images[i : i + room]) for i in range(0, len(images), room)]
    generator = torch.Generator().manual_seed(options.seed)
    learners: list[Learner] = []
    for number, part in enumerate(parts):
        states = _gathered(reader, part)
        if not states.shape[1]:
            continue
        learners = learners or [Learner(model, _scale(of_layer)) for of_layer in states[:-1]]
        first, end = (options.steps * i // len(parts) for i in (number, number + 1))
        for step in range(first, end):
            drawn = torch.randint(states.shape[1], (STEP_POSITIONS,), generator=generator)
            with torch.no_grad():
                last = states[-1].index_select(0, drawn).to(model.device)
                target = torch.log_softmax(model.unembed(last).float(), -1)
            for learner, of_layer in zip(learners, states[:-1], strict=True):
                learner.learn(of_layer.index_select(0, drawn), target, options.lr * (1 - step / options.steps))
            reader.progress("training, step", step + 1, options.steps)
    if not learners:
        raise nothing_read(f"the {len(images):,} images", reader)
    return learners


def nothing_read(of: str, reader: Reader) -> InputError:
    """What is said where none of some images has a position to be read."""
    if reader.failed:
        return InputError(f"None of {of} could be read.", f"One: {reader.failed[-1]}.")
    return InputError(f"The cache has no states of {of} at {reader.options.at[0]}.", "Train at others: --at prompt")


def _gathered(reader: Reader, images: Sequence[Mapping[str, Any]]) -> Tensor:
    """(layer, position, d) states of images, filled in where they stay: twice of them might not fit."""
    model, count = reader.model, 0
    most = len(images) * reader.options.positions_per_image
    found = torch.empty(model.layers, most, model.width, dtype=model.dtype)
    for part in reader.read(images, "reading images"):
        found[:, count : count + len(part.site)] = part.states
        count += len(part.site)
    return found[:, :count]


def _scale(states: Tensor) -> float:
    """The usual size of a number in a layer's (n, d) states. A few positions have states that are larger by far."""
    return float(states.float().square().mean(-1).sqrt().median())


# --- measuring -------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _measure(
    reader: Reader, images: Sequence[Mapping[str, Any]], translators: Mapping[int, Translator]
) -> list[dict[str, Divergence]]:
    """By layer and site: how far both lenses are from the last layer at held-out images. Raises InputError."""
    model, sites = reader.model, reader.options.at
    lens = tuned.unembed(model, translators)
    sums = np.zeros((model.layers - 1, len(sites), 2))
    counts = np.zeros(len(sites), int)
    for part in reader.read(images, "measuring"):
        target = torch.log_softmax(model.unembed(part.states[-1].to(model.device)).float(), -1)
        for layer, of_layer in enumerate(part.states[:-1]):
            states = of_layer.to(model.device)
            found = [divergence(target, logits) for logits in (model.unembed(states), lens(layer, states))]
            values = torch.stack(found, -1).double().cpu().numpy()  # (position, lens)
            for site in range(len(sites)):
                sums[layer, site] += values[part.site == site].sum(0)
        counts += np.bincount(part.site, minlength=len(sites))
    if not counts.any():
        raise nothing_read(f"the {len(images):,} held-out images", reader)
    return [
        {
            name: Divergence(int(counts[i]), *(of_layer[i] / counts[i]).tolist())
            for i, name in enumerate(sites)
            if counts[i]
        }
        for of_layer in sums
    ]
