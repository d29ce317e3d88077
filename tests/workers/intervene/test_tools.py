"""Knockout under every kind of attention, patching, steering, and what a logit is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vlq.query.errors import BadArgument
from vlq.workers.intervene.attribution import attribution
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.knockout import knocked_out, windows
from vlq.workers.intervene.patching import direction, patched, steered
from vlq.workers.intervene.prompted import Prompted, Target

from ..models import checks
from .test_prompted import model_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TARGET = Target((5,))


def prompted_of(family: str, folder: Path, attention: str = "auto", seed: int = 0) -> Prompted:
    model = model_of(family, folder, attention)
    return Prompted(model, model.encode(checks.noise(60, 90, seed=seed)))


# --- knockout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "paligemma"])
def test_all_kinds_of_attention_agree(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for attention in ("sdpa", "eager", "flash"):
        prompted = prompted_of(family, tmp_path, "sdpa" if attention == "flash" else attention)
        if attention == "flash":
            if family == "paligemma":  # which flash attention does not know
                continue
            like_flash(prompted.model.model)
        few = knocked_out(prompted, [0, 2, 5], "last", (1, 2))
        rest = knocked_out(prompted, [0, 2, 5], "last", (1, 2), others=True)
        rows = knocked_out(prompted, range(8), "last-row", (2, 2))
        behind = knocked_out(prompted, range(8), "prompt", (1, 3))
        outcomes = prompted.outcomes([Change(), few, rest, rows, behind], [TARGET], 3, batch=2)
        assert len({outcome.logprob for outcome in outcomes}) == 5
        found[attention] = outcomes
        if attention == "flash":
            assert prompted.model.attention == "unmasked"  # as before
    for outcomes in found.values():
        for one, other in zip(outcomes, found["sdpa"], strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert one.answer == other.answer


def like_flash(model: Any) -> None:
    """Attention that takes no mask, as flash attention does: what is put into one does nothing."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    def unmasked(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> Any:
        lower = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        if not getattr(module, "is_causal", True):
            lower = torch.ones_like(lower)
        return sdpa_attention_forward(module, query, key, value, lower[None, None], **more)

    AttentionInterface.register("unmasked", unmasked)
    AttentionMaskInterface.register("unmasked", flash_attention_mask)
    model.set_attn_implementation({"text_config": "unmasked"})
    model.config._attn_implementation = "unmasked"


def test_windows() -> None:
    assert windows(5, None) == [(1, 4)]
    assert windows(5, 2) == [(1, 2), (2, 3), (3, 4)]
    assert windows(9, 1, (3, 5)) == [(3, 3), (4, 4), (5, 5)]
    for width, between in ((5, None), (0, None), (2, (3, 3)), (None, (0, 2)), (None, (1, 5)), (None, (3, 2))):
        with pytest.raises(BadArgument):
            windows(5, width, between)


# --- patching and steering ---------------------------------------------------------------------------------------


def test_states_of_another_image_make_it_that_image(tmp_path: Path) -> None:
    one = prompted_of("llava", tmp_path / "one")
    other = Prompted(one.model, one.model.encode(checks.noise(50, 50, seed=9)))
    layers = one.model.layers
    plain = [prompted.outcomes([Change()], [TARGET], 3)[0] for prompted in (one, other)]
    assert plain[0].logprob != pytest.approx(plain[1].logprob, abs=1e-2)
    states = other.states(range(layers))
    every = range(one.length)
    for layer in range(layers):  # all positions at a layer: all that is behind it follows
        (found,) = one.outcomes([patched(states[layer], every, layer)], [TARGET])
        assert found.logprob == pytest.approx(plain[1].logprob, abs=1e-4)
    # The last token alone, at the last layer; at the embedding it is the same token anyway.
    (found,) = one.outcomes([patched(states[layers - 1][-1:], [one.length - 1], layers - 1)], [TARGET])
    assert found.logprob == pytest.approx(plain[1].logprob, abs=1e-4)
    (found,) = one.outcomes([patched(states[0][-1:], [one.length - 1], 0)], [TARGET])
    assert found.logprob == pytest.approx(plain[0].logprob, abs=1e-5)


@pytest.mark.parametrize(("family", "more"), [("llava", 0.0), ("paligemma2", 1.0)])
def test_a_tokens_direction(tmp_path: Path, family: str, more: float) -> None:
    prompted = prompted_of(family, tmp_path)
    model = prompted.model
    norm: Tensor = model.final_norm.weight  # type: ignore[assignment]
    along = (model.lm_head.weight[5] + model.lm_head.weight[7]) / 2 * (norm + more)  # type: ignore[index]
    assert torch.allclose(direction(prompted, [5, 7]), along / along.norm(), atol=1e-5)
    last = model.layers - 1
    changes = [steered(prompted, [5], [prompted.length - 1], [last], strength) for strength in (0.0, 0.5, 2.0, 50.0)]
    found = [outcome.logprob[0] for outcome in prompted.outcomes([Change(), *changes], [TARGET])]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert family != "llava" or found[0] < found[4] == max(found)  # where no cap levels logits in the end
    state = prompted.states([last])[last][-1]
    assert changes[1].added[last][1].norm() == pytest.approx(float(state.norm()) * 0.5, rel=1e-4)


# --- attribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "paligemma", "paligemma2", "gemma3", "qwen3_vl", "internvl"])
def test_what_is_written_adds_up_to_the_models_logits(tmp_path: Path, family: str) -> None:
    prompted = prompted_of(family, tmp_path)
    model = prompted.model
    position = int(prompted.patches[3])
    with torch.no_grad():
        last = prompted.states([model.layers - 1])[model.layers - 1]
        logits = model.lm_head(model.final_norm(last))
    tower = 0.0
    for place in (position, prompted.length - 1):
        for found in attribution(prompted, [5, 9], place):
            wanted = float(logits[place, found.token] - logits[place].mean())
            assert found.total == pytest.approx(wanted, abs=1e-3)
            parts = [found.embedding, found.bias]
            parts += [part for write in found.writes for part in (write.attention, write.mlp, write.tower)]
            assert sum(parts) == pytest.approx(found.total, abs=1e-3)
            assert [write.layer for write in found.writes] == [*range(1, model.layers)]
            tower += sum(abs(write.tower) for write in found.writes)
    assert (tower > 1e-3) == (family == "qwen3_vl")


def test_attention_and_mlp_are_told_apart(tmp_path: Path) -> None:
    """The model without a block's MLP, or without its attention, writes what the other one does."""
    for family in ("llava", "paligemma2"):
        prompted = prompted_of(family, tmp_path)
        model, place = prompted.model, prompted.length - 1
        (found,) = attribution(prompted, [5], place)
        block: Any = model.blocks[0]
        into = prompted.states([0])[0]
        written = {}
        for name in ("self_attn", "mlp"):
            part = getattr(block, name)

            def nothing(module: Any, args: Any, output: Any) -> Any:
                zero = torch.zeros_like(output[0] if isinstance(output, tuple) else output)
                return (zero, *output[1:]) if isinstance(output, tuple) else zero

            handle = part.register_forward_hook(nothing)
            behind = prompted.states([1])[1]
            handle.remove()
            written[name] = behind[place] - into[place]
        whole = prompted.states([1])[1][place] - into[place]
        # Without its MLP a block writes what its attention does; the MLP is given that.
        attention = written["mlp"]
        mlp = whole - attention
        last = prompted.states([model.layers - 1])[model.layers - 1][place]
        scale = model.final_norm(last).detach() / last
        head: Tensor = model.lm_head.weight.detach()  # type: ignore[union-attr, assignment, operator]
        along = head[5] - head.mean(0)
        assert found.writes[0].attention == pytest.approx(float((attention * scale) @ along), abs=1e-3)
        assert found.writes[0].mlp == pytest.approx(float((mlp * scale) @ along), abs=1e-3)
