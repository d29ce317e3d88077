"""Tokens as pages show them."""

from __future__ import annotations

from dataclasses import dataclass

from vlq.query.language.tokens import Token
from vlq.service.lens import shown


@dataclass(frozen=True)
class Chip:
    """A token: what is shown of it, and what scripts need for its colour and its mark."""

    id: int
    text: str
    piece: str | None  # none of an id beyond the tokenizer
    corpus: str = ""  # whose token it is, if not of the page's

    @classmethod
    def of(cls, token: Token, corpus: str = "") -> Chip:
        return cls(token.id, shown(token), token.piece, corpus)
