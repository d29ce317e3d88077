"""Answers as files on this machine."""

from __future__ import annotations

import os
from contextlib import suppress

from vlq.query.errors import QueryError, StoreError

PLOT_FORMS = ("png", "svg")


def plot_form(path: str) -> str:
    """png or svg, by a file's name. Raises QueryError."""
    form = os.path.splitext(path)[1].lstrip(".").lower()
    if form not in PLOT_FORMS:
        named = f"{path} ends with neither" if form else f"{path} has no ending"
        raise QueryError(f"A plot is a .png or .svg file: {named}.", "Such as --plot answer.png")
    return form


def write_whole(path: str, data: bytes, option: str) -> None:
    """Write a file, whole or not at all. `option` is where another one is chosen. Raises StoreError."""
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise StoreError(f"Cannot write {path}: {error.strerror or error}.", f"Choose another {option}.") from error
