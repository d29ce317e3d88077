"""The demo's tokenizer: LLaMA's kind of pieces, over a vocabulary of a few hundred words."""

from __future__ import annotations

from typing import Any

from vlq.workers.demo.words import CHARACTERS, PIECES, word_starts

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

WHOLE_WORD, PART, CHARACTER = -8.0, -10.0, -12.0
"""Unigram scores. A text's best spelling has the highest sum, so one piece beats any two."""


def make_tokenizer() -> Any:
    """'▁dog' begins a word, 'dog' goes on with one, '<0x0A>' is the byte of a newline.

    LLaMA's order: <unk>, <s>, </s>, the 256 bytes, the pieces; then, added to it as LLaVA does, <image> and <pad>.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    scored = [(piece, 0.0) for piece in ("<unk>", "<s>", "</s>", *BYTES)]
    scored += [(f"▁{word}", WHOLE_WORD) for word in word_starts()]
    scored += [(piece, PART) for piece in PIECES]
    scored += [("▁", CHARACTER), *((character, CHARACTER) for character in CHARACTERS)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>", "<image>", "<pad>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={"image_token": "<image>"},
    )
