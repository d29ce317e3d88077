"""What Ray's errors say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vlq.query.errors import VlqError

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError, UnserializableException


def raised(error: RayTaskError | UnserializableException) -> Exception:
    """What a worker's method raised. Of an exception that does not travel the last line is left."""
    from ray.exceptions import RayError, RayTaskError

    if not isinstance(error, RayTaskError):
        return RuntimeError(str(error).strip().splitlines()[-1])
    cause: Exception = error.cause
    return cause if type(cause) is not RayError else RuntimeError(error.traceback_str.strip().splitlines()[-1])


def reason(error: Exception) -> str:
    """One line of what happened."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, VlqError):
        return error.message
    if isinstance(error, OutOfMemoryError):
        return "out of memory"
    if isinstance(error, RayActorError):
        return "a worker died"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def node_named(error: Exception) -> str | None:
    """The id of the node that an error tells of: 28 bytes in hexadecimal, which no other id of Ray's has."""
    found = re.search(r"\b[0-9a-f]{56}\b", str(error))
    return found.group() if found else None
