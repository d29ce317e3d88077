"""What a statement of SQL may take."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from operator import index
from typing import Any

from vlq.query.mistakes.elsewhere import LIMIT, SIZE

RANGES = {"timeout": (1e-3, 1e8), "memory": (1, 1e15), "temp": (0, 1e15), "max_rows": (1, 1e15), "threads": (1, 1024)}
"""What each limit may be, in seconds, bytes and numbers."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one statement. Sizes are bytes, or texts such as '4GB'."""

    timeout: float = 60.0  # seconds
    memory: int | str = "4GB"  # of the process that runs it; and its answer may be as large
    temp: int | str = "8GB"  # on disk, for what does not fit into memory; 0 for none
    max_rows: int = 1_000_000  # of the answer
    threads: int | None = None  # all cores

    @property
    def shown_memory(self) -> str:
        """The limit of memory as it was given."""
        return shown_size(self.memory) if isinstance(self.memory, int) else self.memory

    def checked(self) -> dict[str, Any]:
        """The limits by name, sizes in bytes. Raises BadArgument."""
        values = asdict(self) | {"memory": size_of("memory", self.memory), "temp": size_of("temp", self.temp)}
        for name, (least, most) in RANGES.items():
            if name == "threads" and self.threads is None:
                continue
            values[name] = _number(name, values[name])
            if not least <= values[name] <= most:
                raise LIMIT.error(name=name, least=least, most=most, got=getattr(self, name))
        return values


def _number(name: str, value: Any) -> float:
    """A limit as a number of Python's own, all but seconds whole; NaN if it is none."""
    try:
        return float(value) if name == "timeout" and not isinstance(value, str) else index(value)
    except TypeError:
        return math.nan


def shown_size(size: int) -> str:
    """4000000000 -> '4GB', 1536 -> '1,536 bytes': as `size_of` reads it, if that is a whole number."""
    for power, prefix in ((3, "G"), (2, "M"), (1, "K")):
        for base, unit in ((1000, "B"), (1024, "iB")):
            if size >= base**power and size % base**power == 0:
                return f"{size // base**power:,}{prefix}{unit}"
    return f"{size:,} bytes"


def size_of(name: str, size: int | str) -> int:
    """'4GB' -> 4000000000, '1.5KiB' -> 1536. Raises BadArgument."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?|B?)\s*", str(size), re.IGNORECASE)
    if found is None:
        raise SIZE.error(name=name, got=size)
    number, prefix, binary = found.groups()
    power = 0 if prefix is None else "KMGT".index(prefix.upper()) + 1
    return int(float(number) * (1024 if binary else 1000) ** power)
