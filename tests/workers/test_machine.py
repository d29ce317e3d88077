"""How many workers a machine carries."""

from __future__ import annotations

import pytest

import vlq.workers.machine as machine
from vlq.workers.machine import OVERHEAD, cpu_count, fitting_workers, memory

GIB = 2**30


@pytest.mark.parametrize(
    ("model", "room", "workers"),
    [
        (None, 100 * GIB, 1),  # of unknown size
        (0, 100 * GIB, 8),  # one a core
        (14 * GIB, 64 * GIB, 4),
        (14 * GIB, 15 * GIB, 1),
        (14 * GIB, 2 * GIB, 1),  # too little: try
        (14 * GIB, None, 8),
    ],
)
def test_workers_that_fit(monkeypatch: pytest.MonkeyPatch, model: int | None, room: int | None, workers: int) -> None:
    monkeypatch.setattr(machine, "cpu_count", lambda: 8)
    assert OVERHEAD == GIB
    assert fitting_workers(model, room) == workers


def test_this_machine() -> None:
    assert cpu_count() >= 1
    found = memory()
    if found is not None:
        assert 0 < found.available <= found.total
