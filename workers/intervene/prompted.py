"""An image with its prompt at the decoder's door, where many changed runs share a pass of the tower.

Changes leave the positions in front of them as they are, in a model that sees only backwards: their keys and values are
those of the plain run. Whether a model does is found by trying. Where blocks keep something else, as linear attention
does, each run begins at the first position.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, DynamicLayer

from vlq.query.errors import ModelError
from vlq.query.schema import Study
from vlq.workers.intervene.changes import Change, rows_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.models.parts import product
from vlq.workers.models.prefix import KEPT, cache_name, entering_decoder, for_rows, kinds_of, told_beside

MASKED = ("sdpa", "eager")
"""Kinds of attention that take any mask. The first stands in for one that does not."""


@dataclass(frozen=True)
class Target:
    """A word whose place at the answer's beginning is measured: the ids that say it there."""

    ids: tuple[int, ...]
    only_first: tuple[int, ...] = ()  # those that say it nowhere else in the answer

    def held_in(self, answer: Sequence[int]) -> bool:
        """Whether an answer's tokens say it."""
        anywhere = {*self.ids}.difference(self.only_first)
        return not {*self.ids}.isdisjoint(answer[:1]) or not anywhere.isdisjoint(answer)


@dataclass(frozen=True)
class Outcome:
    """What a run, changed or plain, came to."""

    logprob: tuple[float, ...]  # of each target at the answer's first token, in nats; of several ids, of their sum
    rank: tuple[int, ...]  # of each target's best id there, from 1
    answer: tuple[int, ...]  # the most probable token each time, without the one that ends it
    logprobs: tuple[float, ...]  # of these, in nats


class Prompted:
    """One image with its prompt, run as far as the decoder.

    Raises ModelError if the model's text does not enter the decoder as its embedding and nothing else.
    """

    def __init__(self, model: LensModel, image: Encoded) -> None:
        self.model = model
        self.image = image
        self.length = image.length
        self._arguments = entering_decoder(model, image)
        self._added = model.entering(self._arguments)
        self._embeds: Tensor = self._arguments["inputs_embeds"]
        if told := told_beside(self._arguments, self.length):
            raise ModelError(
                f"{type(model.model).__name__}: its decoder is told more of each position than what stands for it "
                f"({told}), so that answers to a changed run cannot be written token by token."
            )
        self._kinds = kinds_of(model.decoder)
        self._keeps_keys = {*self._kinds} <= {*KEPT}  # and values, and nothing else
        self._cache: Any = None
        self._cache_name = cache_name(model.decoder)
        with torch.no_grad():
            last = image.tokens["input_ids"][-1:].to(self._embeds.device)
            if not torch.equal(model.model.get_input_embeddings()(last)[0], self._embeds[0, -1]):
                raise ModelError(
                    f"{type(model.model).__name__}: what stands for a token is more than its embedding, so that "
                    "answers to a changed run cannot be written token by token."
                )

    # --- states ------------------------------------------------------------------------------------------------

    @property
    def patches(self) -> Tensor:
        """(patch,) their positions in the sequence."""
        return self.image.sites["patch"].to(self._embeds.device)

    @torch.no_grad()
    def states(self, layers: Collection[int]) -> dict[int, Tensor]:
        """(position, d) of the plain run, at each of these layers."""
        found: dict[int, Tensor] = {}

        def visit(layer: int, hidden: Tensor) -> None:
            found[layer] = hidden[0].clone()
            if layer == max(layers) < len(self.model.blocks):
                raise _SeenAll  # what follows need not run

        with self._adding([Change()], 0), self.model.watched(visit, layers), suppress(_SeenAll):
            self._decode(self._embeds, 0, 1, None)
        return found

    def entering_patches(self) -> dict[int, Tensor]:
        """(patch, d) what enters at the patches from outside: at layer 0 their embeddings, and at others what a tower
        adds there."""
        found = {0: self.states([0])[0][self.patches]}
        for layer, (positions, values) in self._added.items():
            whole = values.new_zeros(self.length, values.shape[-1])
            whole[positions] = values
            found[layer] = whole[self.patches]
        return found

    def logprob_at(self, entering: Mapping[int, Tensor], target: Target) -> Tensor:
        """() a target's log-probability at the answer's first token, with what enters at all patches given (patch, d)
        by layer. It may be differentiated by these."""
        positions = self.patches
        states = {layer: (positions, values) for layer, values in entering.items()}
        with torch.enable_grad(), self._changed([Change({0: states.pop(0)}, entering=states)], 0):
            hidden = self._decode(self._embeds, 0, 1, None)[:, -1]
            logprobs = torch.log_softmax(self._logits(hidden), -1)[0]
            return torch.logsumexp(logprobs[list(target.ids)], -1)

    # --- runs --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def outcomes(
        self, changes: Sequence[Change], targets: Sequence[Target], answer: int = 0, batch: int = Study.batch
    ) -> list[Outcome]:
        """What each changed run comes to, with an answer of so many tokens at most. A change of nothing is the plain
        run, to the bit."""
        found: dict[int, Outcome] = {}
        firsts = {at: first for at, change in enumerate(changes) if (first := change.first) is not None}
        if len(firsts) < len(changes):
            plain = self._outcomes([Change()], targets, answer)[0]
            found |= dict.fromkeys(range(len(changes)), plain)
        order = sorted(firsts, key=lambda at: firsts[at])
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            found |= zip(part, self._outcomes([changes[at] for at in part], targets, answer), strict=True)
        return [found[at] for at in range(len(changes))]

    def _outcomes(self, changes: Sequence[Change], targets: Sequence[Target], answer: int) -> list[Outcome]:
        start = self._start(changes)
        cache = self._prefix(start, len(changes))
        with self._changed(changes, start):
            hidden = self._decode(self._embeds[:, start:], start, len(changes), cache)[:, -1]
        logits = self._logits(hidden)
        logprobs = torch.log_softmax(logits, -1)  # (row, vocabulary)
        ranks = torch.stack([_ranks(logits, target.ids) for target in targets], 1) if targets else logits[:, :0]
        places = [torch.logsumexp(logprobs[:, list(target.ids)], -1) for target in targets]
        at_targets = torch.stack(places, 1) if places else logits[:, :0]
        answers = self._answers(changes, logprobs, cache, answer)
        return [
            Outcome(tuple(own.tolist()), tuple(map(int, rank.tolist())), *said)
            for own, rank, said in zip(at_targets, ranks, answers, strict=True)
        ]

    def _answers(
        self, changes: Sequence[Change], logprobs: Tensor, cache: Any, most: int
    ) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Each row's answer, and its tokens' log-probabilities; `logprobs` (row, vocabulary) are of the first."""
        ids: list[list[int]] = [[] for _ in changes]
        own: list[list[float]] = [[] for _ in changes]
        ends = self.model.ends
        done = [False] * len(changes)
        for step in range(most):
            best = logprobs.argmax(-1)
            for row, (id, logprob) in enumerate(
                zip(best.tolist(), logprobs.gather(1, best[:, None])[:, 0].tolist(), strict=True)
            ):
                done[row] = done[row] or id in ends
                if not done[row]:
                    ids[row].append(id)
                    own[row].append(logprob)
            if all(done) or step == most - 1:
                break
            embeds = self.model.model.get_input_embeddings()(best[:, None])
            with self._blocking(changes, self.length + step):
                hidden = self._decode(embeds, self.length + step, len(changes), cache)[:, -1]
            logprobs = torch.log_softmax(self._logits(hidden), -1)
        return [(tuple(a), tuple(b)) for a, b in zip(ids, own, strict=True)]

    def _logits(self, normed: Tensor) -> Tensor:
        """(row, vocabulary) in float32 of the decoder's output (row, d)."""
        return self.model.finish(product(normed, self.model.lm_head)).float()

    # --- the decoder -------------------------------------------------------------------------------------------

    def _decode(self, embeds: Tensor, start: int, rows: int, cache: Any) -> Tensor:
        """(row, position, d) the decoder's normed output for embeddings that begin at a position. One row stands for
        all."""
        arguments = dict(self._arguments)
        arguments["inputs_embeds"] = embeds.expand(rows, -1, -1)
        if (ids := arguments.get("position_ids")) is not None:
            if start >= self.length:  # of an answer
                ids = ids[..., -1:] + (start - self.length + 1)
            else:
                ids = ids[..., start:]
            arguments["position_ids"] = ids.expand(*ids.shape[:-2], rows, -1)
        mask = arguments.get("attention_mask")
        if start:  # what was made for the whole sequence
            arguments["attention_mask"] = None
        elif isinstance(mask, Tensor):
            arguments["attention_mask"] = mask.expand(rows, *mask.shape[1:])
        arguments |= {self._cache_name: cache, "use_cache": cache is not None}
        return self.model.decoder(**arguments).last_hidden_state  # type: ignore[no-any-return]

    @torch.no_grad()
    def _whole(self, change: Change) -> Tensor:
        """(position, d) the decoder's normed output of one run from the first position on."""
        with self._changed([change], 0):
            return self._decode(self._embeds, 0, 1, None)[0]

    def _start(self, changes: Sequence[Change]) -> int:
        """Where the runs begin: what is in front is as in the plain run."""
        first = min(self.length if change.first is None else change.first for change in changes)
        return min(first, self.length - 1) if first and self._keeps_keys and sees_backwards(self.model, self) else 0

    def _prefix(self, start: int, rows: int) -> Any:
        """The keys and values of the plain run in front of a position, for so many rows. At the first one there is
        nothing, and room for what the decoder's blocks keep."""
        if not start:
            return DynamicCache() if self._keeps_keys else self._room()
        if self._cache is None:
            self._cache = DynamicCache()
            with self._adding([Change()], 0):
                self._decode(self._embeds, 0, 1, self._cache)
        return DynamicCache(
            for_rows([(of.keys[:, :, :start], of.values[:, :, :start]) for of in self._cache.layers], rows)
        )

    def _room(self) -> DynamicCache:
        """An empty cache for a decoder whose blocks keep something else than keys and values."""
        config: Any = self.model.decoder.config
        cache = DynamicCache(config=config)
        # A window's layer would forget keys, which masks know of.
        cache.layers = [
            DynamicLayer() if kind in KEPT else layer  # type: ignore[no-untyped-call]
            for kind, layer in zip(self._kinds, cache.layers, strict=False)
        ]
        return cache

    # --- changes -----------------------------------------------------------------------------------------------

    @contextmanager
    def _changed(self, changes: Sequence[Change], start: int) -> Iterator[None]:
        """The changes' rows are changed in what runs from a position on."""
        with self._adding(changes, start), self._blocking(changes, start), ExitStack() as stack:
            replaced, added = [change.replaced for change in changes], [change.added for change in changes]
            for layer in sorted({layer for states in (*replaced, *added) for layer in states}):
                put, more = rows_of(replaced, layer, start), rows_of(added, layer, start)

                def change(hidden: Tensor, put: Any = put, more: Any = more) -> Tensor:
                    hidden = hidden.clone()
                    if put is not None:
                        hidden[put[0].to(hidden.device), put[1].to(hidden.device)] = put[2].to(hidden)
                    if more is not None:
                        hidden.index_put_(
                            (more[0].to(hidden.device), more[1].to(hidden.device)), more[2].to(hidden), accumulate=True
                        )
                    return hidden

                stack.enter_context(_at_layer(self.model, layer, change))
            yield

    @contextmanager
    def _adding(self, changes: Sequence[Change], start: int) -> Iterator[None]:
        """What the tower adds behind early blocks is added, to each row what its change says."""
        with ExitStack() as stack:
            for layer, (positions, values) in self._added.items():
                whole = values.new_zeros(len(changes), self.length, values.shape[-1])
                whole[:, positions] = values
                own = rows_of([change.entering for change in changes], layer, 0)
                if own is not None:
                    whole[own[0], own[1]] = own[2].to(whole)
                stack.enter_context(_at_layer(self.model, layer, lambda hidden, more=whole[:, start:]: hidden + more))
            yield

    @contextmanager
    def _blocking(self, changes: Sequence[Change], start: int) -> Iterator[None]:
        """Attention is cut as the changes' blocks say, in what runs from a position on."""
        layers = sorted({layer for change in changes for block in change.blocked for layer in block.layers})
        for layer in layers:
            if self._kinds and (kind := self._kinds[layer - 1]) not in KEPT:
                attends = [str(number) for number, one in enumerate(self._kinds, 1) if one in KEPT]
                raise ModelError(
                    f"{type(self.model.model).__name__}: layer {layer} is made by {kind}, where no attention is cut.",
                    f"Layers whose attention can be cut: {', '.join(attends) or 'none'}.",
                )
        if not layers:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(_masked(self.model))
            for layer in layers:
                hook = _blocks(changes, layer, start, self.length)
                handle = self.model.blocks[layer - 1].register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield


# --- what the decoder is given -----------------------------------------------------------------------------------


class _SeenAll(Exception):
    """All states that are asked for are known; the rest of the decoder need not run."""


@contextmanager
def _at_layer(model: LensModel, layer: int, change: Any) -> Iterator[None]:
    """The states of a layer are what `change` makes of them."""

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def behind(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if layer < len(model.blocks):
        handle = model.blocks[layer].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = model.blocks[-1].register_forward_hook(behind)
    try:
        yield
    finally:
        handle.remove()


_FOUND: WeakKeyDictionary[LensModel, bool] = WeakKeyDictionary()
"""What was found of models that are loaded."""


def sees_backwards(model: LensModel, prompted: Prompted) -> bool:
    """Whether no position of a model's decoder sees one behind it, found by trying, once a model: with its last patch
    changed, which the others may see in both directions, and with its last token."""
    if model not in _FOUND:
        plain = prompted._whole(Change())
        found = True
        for place in (int(prompted.patches.max()), prompted.length - 1):
            other = prompted._whole(Change({0: (torch.tensor([place]), prompted._embeds[0, :1] * 2 + 1)}))
            found = found and torch.equal(plain[:place], other[:place])
        _FOUND[model] = found
    return _FOUND[model]


def _ranks(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """(row,) the best rank among ids, from 1; of equal logits the lower id comes first."""
    ranks = []
    every = torch.arange(logits.shape[1], device=logits.device)
    for id in ids:
        own = logits[:, id, None]
        ranks.append(1 + ((logits > own) | ((logits == own) & (every < id))).sum(-1))
    return torch.stack(ranks).amin(0)


# --- attention ---------------------------------------------------------------------------------------------------


@contextmanager
def _masked(model: LensModel) -> Iterator[None]:
    """Attention goes by masks: flash attention knows none but the causal one, so that another kind stands in for it."""
    before = model.attention
    if before in MASKED:
        yield
        return
    model.model.set_attn_implementation(MASKED[0])
    try:
        yield
    finally:
        model.model.set_attn_implementation(before)


def _blocks(changes: Sequence[Change], layer: int, start: int, length: int) -> Any:
    """The hook that cuts attention in one layer's block."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        queries, mask = hidden.shape[1], kwargs.get("attention_mask")
        keys = start + queries
        cut = torch.zeros(len(changes), 1, queries, keys, dtype=torch.bool, device=hidden.device)
        for row, change in enumerate(changes):
            for block in change.blocked:
                if layer in block.layers:
                    own = [position - start for position in block.queries if 0 <= position - start < queries]
                    if start >= length and length - 1 in block.queries:  # a token of the answer
                        own = [0]
                    cut[row, 0, torch.tensor(own, dtype=torch.long)[:, None], torch.tensor(block.keys)] = True
        here = torch.arange(queries, device=hidden.device)
        cut[:, :, here, here + start] = False
        if mask is None:
            mask = here[:, None] + start >= torch.arange(keys, device=hidden.device)
        if mask.dtype == torch.bool:
            mask = mask & ~cut
        else:
            mask = mask.masked_fill(cut, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": mask}

    return hook
