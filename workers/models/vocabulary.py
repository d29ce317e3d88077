"""The vocabulary table of a model: what each row of its head stands for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from vlq.query.schema import digest_of, to_json


def vocabulary_table(tokenizer: Any, size: int) -> pa.Table:
    """Columns id, piece, text, word_start, special, one row for each id below `size`.

    `piece` is the tokenizer's own name ('▁dog', '<0x0A>'); `text` is what it adds to a text, with the space that a
    word-start piece brings. Both are null for ids that the tokenizer does not have.
    """
    beyond = max(tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps
    known = min(beyond, size)  # what stands for an image may have no row of the head
    pieces: list[str | None] = list(tokenizer.convert_ids_to_tokens(list(range(known))))
    specials = set(tokenizer.all_special_ids)
    specials |= {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    texts: list[str | None] = [*_texts(tokenizer.backend_tokenizer, pieces, specials)]
    gap = [None] * (size - known)
    starts = [_starts_word(text) and id not in specials for id, text in enumerate(texts)]
    return pa.table(
        {
            "id": pa.array(range(size), pa.uint32()),
            "piece": pa.array([*pieces, *gap], pa.string()),
            "text": pa.array([*texts, *gap], pa.string()),
            "word_start": pa.array([*starts, *([False] * len(gap))], pa.bool_()),
            "special": pa.array([id in specials for id in range(size)], pa.bool_()),
        }
    )


def _starts_word(text: str | None) -> bool:
    return text is not None and text.startswith(" ") and not text.isspace()


def _texts(backend: Any, pieces: list[str | None], specials: set[int]) -> list[str | None]:
    # Decoders drop the space in front of a text, so a piece is decoded behind another one.
    anchor = next((id for id, piece in enumerate(pieces) if piece and piece.isascii() and piece.isalpha()), None)
    if anchor is None:
        anchor = next((id for id, piece in enumerate(pieces) if piece and piece[1:].isalpha()), 0)
    before = backend.decode([anchor], skip_special_tokens=False)
    known = [id for id, piece in enumerate(pieces) if piece is not None]
    decoded = dict(
        zip(known, backend.decode_batch([[anchor, id] for id in known], skip_special_tokens=False), strict=True)
    )
    texts: list[str | None] = []
    for id, piece in enumerate(pieces):
        if piece is None or id in specials:
            texts.append(piece)
        elif decoded[id].startswith(before):
            texts.append(decoded[id][len(before) :])
        else:
            texts.append(backend.decode([id], skip_special_tokens=False))
    return texts


def vocabulary_hash(table: pa.Table) -> str:
    """SHA-256 over ids and pieces, which no version of a file format changes."""
    return digest_of(to_json([table["id"].to_pylist(), table["piece"].to_pylist()]))
