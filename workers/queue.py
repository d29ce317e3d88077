"""Which shard a worker gets next.

New ones come first. An idle worker gets one that failed, when its time has come, and with nothing else left to do one
that another worker has had for too long: whoever commits it first wins.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

ATTEMPTS = 4
"""How often a shard is tried."""

NODE_LOSSES = 8
"""How many machines may go away with a shard before it is given up: spot instances come and go, but a shard that is
too large for each of them takes them down one after another."""

BACK_OFF = 1.0
"""Seconds before a failed shard is tried again, give or take a half; doubled each time."""

STRAGGLES = 3.0
"""A shard that takes so many times the median is given to an idle worker, too."""

STRAGGLER_FLOOR = 30.0
"""Seconds that no shard is called a straggler before."""

LEARNED = 3
"""Shards that must be done before anything is known of how long one takes."""


@dataclass(eq=False)
class Task:
    """A shard that was given to a worker, or to several."""

    shard: int
    failures: int = 0
    losses: int = 0  # of machines
    holders: int = 0  # workers that have it now
    since: float = 0.0  # when the first of them got it
    over: bool = False  # done or given up: what its other holders say is of no account

    @property
    def is_suspicious(self) -> bool:
        """Whether it must be alone on its worker: it may take others down with it."""
        return self.failures > 0 or self.losses > 1


@dataclass(frozen=True)
class Failure:
    """A shard that was given up, and why."""

    shard: int
    error: Exception
    attempts: int


class Queue:
    """Shards on their way from the plan to their commits. Knows nothing of Ray."""

    def __init__(self, shards: Iterable[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._new = deque(shards)
        self._again: list[tuple[float, int, Task]] = []  # a heap: due, shard, task
        self._held: set[Task] = set()
        self._seconds: deque[float] = deque(maxlen=101)  # that the last shards took
        self.given_up: list[Failure] = []

    @property
    def unfinished(self) -> int:
        """Shards that are neither done nor given up."""
        return len(self._new) + len(self._again) + len(self._held)

    def wait(self, most: float) -> float:
        """Seconds until a failed shard is due, at most `most`."""
        return min(most, max(0.0, self._again[0][0] - self._clock())) if self._again else most

    def take(self, has: Sequence[Task]) -> Task | None:
        """What a worker that `has` these tasks should do next; None if there is nothing for it."""
        if any(task.is_suspicious for task in has):
            return None
        if not has and self._again and self._again[0][0] <= self._clock():
            return self._given(heapq.heappop(self._again)[2])
        if self._new:
            return self._given(Task(self._new.popleft()))
        return self._straggler() if not has else None

    def _given(self, task: Task) -> Task:
        if not task.holders:
            task.since = self._clock()
        task.holders += 1
        self._held.add(task)
        return task

    def _straggler(self) -> Task | None:
        if len(self._seconds) < LEARNED:
            return None
        alone = [task for task in self._held if task.holders == 1]
        slowest = min(alone, key=lambda task: (task.since, task.shard), default=None)
        if slowest is None:
            return None
        limit = max(STRAGGLER_FLOOR, STRAGGLES * median(self._seconds))
        return self._given(slowest) if self._clock() - slowest.since > limit else None

    def done(self, task: Task) -> bool:
        """A holder is done. False if another one was before."""
        task.holders -= 1
        if task.over:
            return False
        self._seconds.append(self._clock() - task.since)
        self._over(task)
        return True

    def failed(self, task: Task, error: Exception, *, final: bool) -> float | None:
        """A holder failed. Seconds until the shard is tried again; None if that is up to others, or if it is given up:
        after ATTEMPTS, or at once where trying again is `final`ly of no use."""
        task.holders -= 1
        if task.over:
            return None
        task.failures += 1
        if task.holders:
            return None
        if final or task.failures == ATTEMPTS:
            self._give_up(task, error)
            return None
        # Seeded: what a run does can be told from what happened to it.
        jitter = random.Random(f"{task.shard}/{task.failures}").uniform(0.5, 1.5)
        pause = BACK_OFF * float(2 ** (task.failures - 1)) * jitter
        self._held.remove(task)
        heapq.heappush(self._again, (self._clock() + pause, task.shard, task))
        return pause

    def lost(self, task: Task, error: Exception) -> None:
        """A holder's machine went away. Other shards were there too, so this one is not blamed for it soon."""
        task.holders -= 1
        if task.over:
            return
        task.losses += 1
        if task.holders:
            return
        if task.losses == NODE_LOSSES:
            self._give_up(task, error)
            return
        self._held.remove(task)
        heapq.heappush(self._again, (self._clock(), task.shard, task))

    def elsewhere(self) -> None:
        """Go on from a random place: another run is at work here. Two that began together would meet at each shard."""
        if self._new:
            self._new.rotate(random.randrange(len(self._new)))

    def _give_up(self, task: Task, error: Exception) -> None:
        self.given_up.append(Failure(task.shard, error, task.failures + task.losses))
        self._over(task)

    def _over(self, task: Task) -> None:
        task.over = True
        self._held.remove(task)
