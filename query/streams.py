"""Streams whose readers may go away before the work is done."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any, TextIO


class Unheard:
    """A stream of text that nobody need read: what cannot be written is lost, and nothing else.

    `lost` are the errors with which it may fail so. None, as Python has of a closed stream, takes everything.
    """

    def __init__(self, stream: TextIO | None, lost: type[OSError]) -> None:
        self._stream = io.StringIO() if stream is None else stream
        self._lost = lost

    def write(self, text: str) -> int:
        with suppress(self._lost):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(self._lost):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
