"""Changed runs, many at once behind one pass of the tower, against the whole model run once for each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.workers.intervene.changes import Block, Change
from vlq.workers.intervene.prompted import Outcome, Prompted, Target, sees_backwards
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded
from vlq.workers.models.prefix import KEPT, kinds_of

from ..models import checks, test_answers, test_zoo

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MIXED = ("dots3_note", "qwen3_5")
"""Models whose blocks are of several kinds, of which some keep something else than keys and values."""

MAKERS = {**test_answers.MAKERS, **{family: test_zoo.MAKERS[family] for family in MIXED}}

ANSWER = 3
TARGETS = (Target((5,)), Target((7, 11, 2)))


# --- the reference: the whole model, its attention written out ---------------------------------------------------


@dataclass
class Plain:
    """One changed run, in words of its own."""

    put: dict[int, dict[int, Tensor]] = field(default_factory=dict)  # layer -> position -> state
    add: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    deep: dict[int, dict[int, Tensor]] = field(default_factory=dict)  # layer -> position -> what the tower adds
    cut: list[tuple[set[int], set[int], set[int]]] = field(default_factory=list)  # queries, keys, layers


def attention_by_hand(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One head and one query at a time; what is cut is left out of the softmax."""
    plain, length = module.plain
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = torch.zeros_like(query)
    for at in range(query.shape[2]):
        seen = torch.arange(key.shape[2]) <= at if mask is None else mask[0, 0, at, : key.shape[2]] > -1
        if mask is not None and mask.dtype == torch.bool:
            seen = mask[0, 0, at, : key.shape[2]]
        for queries, keys, layers in plain.cut:
            if module.layer_idx + 1 in layers and min(at, length - 1) in queries:
                seen = seen & ~torch.tensor([k in keys and k != at for k in range(key.shape[2])])
        scores = (key[0, :, seen] @ query[0, :, at, :, None])[..., 0] * scaling  # (head, key)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        out[0, :, at] = (torch.softmax(scores, -1)[:, None] @ value[0, :, seen])[:, 0]
    return out.transpose(1, 2), None


@contextmanager
def changed(model: LensModel, plain: Plain, length: int) -> Iterator[None]:
    def at(layer: int) -> Callable[[Tensor], Tensor]:
        def change(hidden: Tensor) -> Tensor:
            hidden = hidden.clone()
            for position, state in plain.put.get(layer, {}).items():
                hidden[0, position] = state
            for position, state in plain.add.get(layer, {}).items():
                hidden[0, position] += state
            return hidden

        return change

    def before(change: Callable[[Tensor], Tensor], module: Any, args: Any, kwargs: Any) -> Any:
        return (change(args[0]), *args[1:]), kwargs

    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            handle = block.register_forward_pre_hook(partial(before, at(layer)), with_kwargs=True)
            stack.callback(handle.remove)
            if hasattr(block, "self_attn"):  # else it attends to nothing
                block.self_attn.plain = plain, length  # type: ignore[union-attr]
        handle = model.blocks[-1].register_forward_hook(lambda module, args, output: at(len(model.blocks))(output))
        stack.callback(handle.remove)
        decoder: Any = model.decoder
        if plain.deep:
            own, calls = decoder._deepstack_process, iter(range(1, 99))

            def process(hidden: Tensor, mask: Tensor, values: Tensor) -> Tensor:
                layer, values = next(calls), values.clone()
                places = mask[0].nonzero()[:, 0].tolist()
                for position, state in plain.deep.get(layer, {}).items():
                    values[places.index(position)] = state
                return own(hidden, mask, values)  # type: ignore[no-any-return]

            decoder._deepstack_process = process
            stack.callback(lambda: delattr(decoder, "_deepstack_process"))
        yield


@torch.no_grad()
def expected(model: LensModel, image: Encoded, plain: Plain, targets: Sequence[Target], answer: int) -> Outcome:
    """By the whole model, from its pixels, anew for each token."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("by_hand", attention_by_hand)
    AttentionMaskInterface.register("by_hand", eager_mask)
    before = model.attention
    model.decoder.set_attn_implementation("by_hand")  # type: ignore[operator]
    try:
        batch = model.batch([image])
        for name in ("position_ids", "attention_mask"):  # made for the prompt alone; nothing is padded
            batch.pop(name, None)
        said: list[int] = []
        logprobs: list[float] = []
        first: Tensor | None = None
        for _ in range(max(1, answer)):
            with changed(model, plain, image.length):
                logits = model.model(**batch, use_cache=False).logits[0, -1].double()
            own = torch.log_softmax(logits, -1)
            first = own if first is None else first
            best = int(own.argmax())
            if best in model.ends:
                break
            said.append(best)
            logprobs.append(float(own[best]))
            for name in ("input_ids", "token_type_ids", "mm_token_type_ids"):
                if name in batch:
                    new = (
                        best
                        if name == "input_ids"
                        else int(name == "token_type_ids" and "pali" in model.family.lower())
                    )
                    batch[name] = torch.cat([batch[name], torch.tensor([[new]])], 1)
    finally:
        model.decoder.set_attn_implementation(before)  # type: ignore[operator]
    assert first is not None
    places = tuple(math.log(sum(math.exp(first[id]) for id in target.ids)) for target in targets)
    ranks = tuple(min(1 + sum(bool(other > first[id]) for other in first) for id in target.ids) for target in targets)
    return Outcome(places, ranks, tuple(said[:answer]), tuple(logprobs[:answer]))


def check(found: Outcome, wanted: Outcome) -> None:
    assert found.logprob == pytest.approx(wanted.logprob, abs=2e-4)
    assert found.rank == wanted.rank
    assert found.answer == wanted.answer
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=2e-4)


# --- tests -------------------------------------------------------------------------------------------------------


def as_change(plain: Plain) -> Change:
    def states(of: Mapping[int, Mapping[int, Tensor]]) -> dict[int, tuple[Tensor, Tensor]]:
        return {layer: (torch.tensor([*own]), torch.stack([*own.values()])) for layer, own in of.items()}

    blocks = tuple(Block(*(tuple(sorted(part)) for part in cut)) for cut in plain.cut)
    return Change(states(plain.put), states(plain.add), states(plain.deep), blocks)


def some_changes(prompted: Prompted, seed: int) -> list[Plain]:
    """Of every kind, at random places."""
    generator = torch.Generator().manual_seed(seed)
    patches, length, layers = prompted.patches.tolist(), prompted.length, prompted.model.layers
    width = prompted.model.width

    def some(of: Sequence[int], count: int) -> list[int]:
        return [of[int(i)] for i in torch.randperm(len(of), generator=generator)[:count]]

    def states(of: Sequence[int], size: float = 2.0) -> dict[int, Tensor]:
        return {position: torch.randn(width, generator=generator) * size for position in of}

    def cut(*own: tuple[set[int], set[int], set[int]]) -> list[tuple[set[int], set[int], set[int]]]:
        """Of layers those whose blocks attend."""
        kinds = kinds_of(prompted.model.decoder)
        return [
            (queries, keys, {layer for layer in at if not kinds or kinds[layer - 1] in KEPT})
            for queries, keys, at in own
        ]

    deep = {layer: states(some(patches, 3)) for layer in prompted._added}
    return [
        Plain(put={0: states(some(patches, 3))}),
        Plain(put={0: states(patches)}, deep={layer: states(patches) for layer in deep}),
        Plain(put={1: states(some(patches, 2)), layers - 1: states([length - 1])}, deep=deep),
        Plain(add={1: states(some(range(length), 4)), 2: states(some(patches, 2))}),
        Plain(put={0: states(some(patches, 1))}, add={0: states(some(patches, 1))}),
        Plain(cut=cut(({length - 1}, {*patches}, {*range(1, layers)}))),
        Plain(cut=cut(({*some(patches, 5), length - 2}, {*some(patches, 5), 0}, {2}))),
        Plain(put={0: states(some(patches, 2))}, cut=cut(({length - 1}, {*some(patches, 4)}, {1, 3}))),
        Plain(),
    ]


def model_of(family: str, folder: Path, attention: str = "auto") -> LensModel:
    torch.set_num_threads(1)
    folder = folder / family
    model = load(str(folder if folder.exists() else MAKERS[family](folder)), attention=attention)
    with torch.no_grad():  # an image's token in an answer cannot be read anew
        model.lm_head.weight[model.image_token_id] = 0  # type: ignore[index]
    return model


def test_attention_is_cut_where_there_is_some(tmp_path: Path) -> None:
    model = model_of("qwen3_5", tmp_path)
    prompted = Prompted(model, model.encode(checks.noise(60, 40)))
    cut = Change(blocked=(Block((prompted.length - 1,), tuple(prompted.patches.tolist()), (1, 2)),))
    with pytest.raises(ModelError, match="layer 1 is made by linear_attention, where no") as caught:
        prompted.outcomes([cut], TARGETS)
    assert caught.value.hint == "Layers whose attention can be cut: 2."


@pytest.mark.parametrize("family", MAKERS)
def test_changed_runs_are_those_of_the_whole_model(tmp_path: Path, family: str) -> None:
    model = model_of(family, tmp_path)
    for seed, size in enumerate([(60, 40), (120, 200)]):
        image = model.encode(checks.noise(*size, seed=seed))
        prompted = Prompted(model, image)
        plains = some_changes(prompted, seed)
        found = prompted.outcomes([as_change(plain) for plain in plains], TARGETS, ANSWER, batch=4)
        for plain, outcome in zip(plains, found, strict=True):
            check(outcome, expected(model, image, plain, TARGETS, ANSWER))
        nothing = sum(not plain.put and not plain.add and not any(cut[2] for cut in plain.cut) for plain in plains)
        assert len({outcome.logprob for outcome in found}) == len(plains) - nothing + 1
    assert family in MIXED or sees_backwards(model, prompted) == (not family.startswith(("paligemma", "gemma3")))
