"""Numbers as addresses have them."""

from __future__ import annotations

DIGITS = 18
"""Of a number at most: Python refuses to read one of thousands."""


def whole(text: str, below: int) -> int | None:
    """The whole number from 0, and below another one, that a text is; None if it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        return None
    return found if (found := int(text)) < below else None
