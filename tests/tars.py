"""Tars as WebDataset has them, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping


def tar_of(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files, in their order."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return sink.getvalue()
