"""How many examples a test asks, random ones and those of its parameters: all of them, or with --examples a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

SHARE: float | None = None
"""What --examples says, once it is known: conftest.py files are imported before."""

FEWEST = 3
"""Of a test, however small the share is."""


def some(most: int) -> int:
    """Of so many examples those that are asked."""
    assert SHARE is not None, "tests were imported before --examples was known: no conftest.py may import them"
    return most if SHARE == 1 else min(most, max(FEWEST, round(most * SHARE)))


def spread(items: Sequence[T]) -> list[T]:
    """Those of some items that are asked, far from each other."""
    count = some(len(items))
    return [items[number * len(items) // count] for number in range(count)]


def examples(most: int) -> settings:
    """A corpus that a test is given stays the same for all its examples; a busy machine may take its time for one."""
    return settings(max_examples=some(most), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
