"""Answers as files on this machine."""

from __future__ import annotations

import os
from contextlib import suppress

from vlq.query.errors import StoreError
from vlq.query.mistakes.elsewhere import PLOT_FORMAT
from vlq.query.stores.location import is_url

PLOT_FORMS = ("png", "svg")

STDOUT = "-"
"""As a file's name: what a command prints to."""


def plot_form(path: str) -> str:
    """png or svg, by a file's name. Raises QueryError."""
    form = os.path.splitext(path)[1].lstrip(".").lower()
    if form not in PLOT_FORMS:
        raise PLOT_FORMAT.error(got=path, ending="ends with neither" if form else "has no ending")
    return form


def write_whole(path: str, data: bytes, option: str) -> None:
    """Write a file, whole or not at all. `option` is where another one is chosen. Raises StoreError.

    A link stays one, and so does what is no file: a pipe, or /dev/null.
    """
    if is_url(path):
        raise StoreError(f"{path} is a URL, and files are written to this machine.", f"Choose another {option}.")
    whole = os.path.realpath(path) if os.path.islink(path) else path
    partial = f"{whole}.partial"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as there:
                there.write(data)
            return
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, whole)
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise StoreError(f"Cannot write {path}: {error.strerror or error}.", f"Choose another {option}.") from error
