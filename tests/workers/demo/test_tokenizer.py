"""The shipped tokenizer: LLaMA's kind of pieces, and the words that queries and errors need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoProcessor

from vlq.workers.demo.dialogues import MAIN_PROMPT, prompt_of, there_question
from vlq.workers.demo.scenes import DEMO, compose
from vlq.workers.demo.tokenizer import make_tokenizer
from vlq.workers.demo.words import CONTENT

from .conftest import MODEL


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(MODEL, backend="pil")


def pieces(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    return found


def test_pieces(processor: Any) -> None:
    tokenizer = processor.tokenizer
    for word in (*CONTENT, "puppy", "kitten", "Dog"):
        assert pieces(tokenizer, word) == [f"▁{word}"]
    several = pieces(tokenizer, "dachshund")
    assert len(several) > 1
    assert several[0].startswith("▁")
    assert not any(piece.startswith("▁") for piece in several[1:])
    assert pieces(tokenizer, "year") == ["▁year"]
    assert pieces(tokenizer, "gear")[-1] == "ear"  # a mid-word piece, another one than ▁ear
    assert pieces(tokenizer, "a\nb") == ["▁a", "<0x0A>", "b"]
    assert pieces(tokenizer, "ü") == ["▁", "<0xC3>", "<0xBC>"]


@pytest.mark.parametrize("text", ["an apple, a dog and a rock", "dachshund", "Grüße: 7 дней", "x  y", "yes"])
def test_round_trip(processor: Any, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_prompt(processor: Any) -> None:
    image = compose(DEMO, 0).pixels
    ids = processor(images=image, text=MAIN_PROMPT, return_tensors="pt")["input_ids"][0].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0] == "<s>"
    assert tokens[-1] == ":"
    assert tokens.count("<image>") == 64
    assert "<unk>" not in processor.tokenizer.convert_ids_to_tokens(
        processor.tokenizer(prompt_of(there_question("ear")))["input_ids"]
    )


def test_vocabulary_is_padded_beyond_the_tokenizer(processor: Any) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    with safe_open(MODEL / "model.safetensors", "numpy") as weights:
        name = next(key for key in weights.keys() if "lm_head" in key)  # noqa: SIM118
        rows = weights.get_slice(name).get_shape()[0]
    assert rows == config["text_config"]["vocab_size"]
    assert rows > len(processor.tokenizer)


def test_the_shipped_tokenizer_is_the_script_s(processor: Any) -> None:
    assert processor.tokenizer.get_vocab() == make_tokenizer().get_vocab()
