"""Folders of this machine that are written to as a whole."""

from __future__ import annotations

from pathlib import Path

from vlq.query.errors import StoreError
from vlq.query.stores.location import is_url


def free_folder(path: str, option: str) -> Path:
    """The full path of a folder that is still to be made, or empty. `option` is where another one is chosen.

    Raises StoreError if it is none of this machine, or there is something already.
    """
    if is_url(path):
        raise StoreError(
            f"{option}: expected a folder on this machine. Got {path}.", "Copy its files to a bucket afterwards."
        )
    folder = Path(path).expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{path} is there already, and not an empty folder.", f"Choose another {option}.")
    except OSError as error:
        raise StoreError(f"Cannot look into {path}: {error.strerror or error}.", f"Choose another {option}.") from error
    return folder
