"""What a run tells of itself, by a clock that goes when told to."""

from __future__ import annotations

from typing import Any

import pytest

import vlq.workers.watch as watch_module
from vlq.workers.watch import RunWatch
from vlq.workers.worker import Done


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Told:
    """A tracker that keeps what it is told of images."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int, int, int]] = []

    def say(self, text: str) -> None:
        pass

    phase = say

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = "reading") -> None:
        self.counts.append((done, total, errors, fresh))


class Metric:
    """Adds up, or keeps what was set, by tags."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self.values: dict[str, float] = {}

    def inc(self, value: float = 1.0, tags: Any = None) -> None:
        assert value > 0  # Ray refuses others
        key = ",".join((tags or {}).values())
        self.values[key] = self.values.get(key, 0) + value

    def set(self, value: float, tags: Any = None) -> None:
        self.values[",".join((tags or {}).values())] = value


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr("ray.util.metrics.Counter", Metric)
    monkeypatch.setattr("ray.util.metrics.Gauge", Metric)
    return Told()


def test_busy_share_and_counts(told: Told) -> None:
    clock = Clock()
    watch = RunWatch(told, cached=10, total=100, errors=1, clock=clock)
    assert watch.busy is None
    watch.workers(1, 1)
    clock.now += 10
    watch.workers(2, 0)  # the second one is ready ten seconds later
    clock.now += 5
    watch.done(Done(0, 8, ((3, "3.png", "empty file"),), size=1000, busy=12.0, queued=1.0, starved=2.0, writing=0.5))
    assert watch.busy == pytest.approx(12 / 20)
    clock.now += 5
    watch.done(Done(1, 8, fresh=False))  # another run's: it costs nothing
    watch.done(Done(2, 8, fresh=False, lost_race=True, busy=9.0))
    assert watch.busy == pytest.approx(21 / 30)
    assert (watch.fresh, watch.repeated, watch.cached) == (8, 8, 34)
    assert told.counts == [(10, 100, 1, 0), (18, 100, 2, 8), (26, 100, 2, 8), (34, 100, 2, 8)]

    metrics: Any = watch._metrics
    assert metrics.images.values == {"": 8}
    assert metrics.shards.values == {"": 1}
    assert metrics.bytes.values == {"": 1000}
    assert metrics.errors.values == {"": 1}
    assert metrics.workers.values == {"ready": 2, "starting": 0}
    assert metrics.seconds.values == pytest.approx(
        {"queued": 1.0, "busy": 21.0, "starved": 2.0, "writing": 0.5}, abs=1e-6
    )
    assert metrics.busy.values == {"": pytest.approx(21 / 30)}


def test_failures_are_logged_by_shard(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    watch = RunWatch(told, 0, 10, 0)
    with caplog.at_level("INFO", watch_module.__name__):
        watch.failed(4, "OSError: reset.", 1.5)
        watch.failed(5, "a worker died", None)
        watch.reissued(6)
        watch.done(Done(7, 2, ((9, "9.png", "truncated"),), size=5))
    assert [record.getMessage() for record in caplog.records] == [
        "Shard 4: OSError: reset; tried again in 1.5 s or later.",
        "Shard 5: a worker died.",
        "Shard 6 takes much longer than others: another worker has a go at it, too.",
        "shard 7 committed",
        "9.png has no readings: truncated",
    ]
    fields: list[Any] = [record.__dict__["fields"] for record in caplog.records]
    assert [field["shard"] for field in fields] == [4, 5, 6, 7, 7]
    assert fields[-1]["image"] == "9.png"
    metrics: Any = watch._metrics
    assert (metrics.failures.values, metrics.reissued.values) == ({"": 2}, {"": 1})
