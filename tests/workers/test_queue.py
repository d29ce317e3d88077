"""Which shard comes next, without Ray and with a clock that goes when told to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.workers.queue import ATTEMPTS, BACK_OFF, LEARNED, NODE_LOSSES, STRAGGLER_FLOOR, Queue, Task


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


ERROR = OSError("gone")


def taken(queue: Queue, has: list[Task] | None = None) -> Task:
    task = queue.take(has or [])
    assert task is not None
    return task


def test_back_off_doubles_with_a_jitter_that_is_the_same_each_time() -> None:
    pauses = []
    for _ in range(2):
        clock = Clock()
        queue = Queue([7], clock)
        pauses.append([])
        for failures in range(1, ATTEMPTS):
            pause = queue.failed(taken(queue), ERROR, final=False)
            assert pause is not None
            assert 0.5 <= pause / (BACK_OFF * 2 ** (failures - 1)) <= 1.5
            pauses[-1].append(pause)
            assert queue.take([]) is None
            assert queue.wait(0.1) == 0.1
            assert queue.wait(1000) == pytest.approx(pause)
            clock.now += pause + 1e-6
        assert queue.failed(taken(queue), ERROR, final=False) is None
        assert [(failure.shard, failure.attempts) for failure in queue.given_up] == [(7, ATTEMPTS)]
        assert queue.unfinished == 0
    assert pauses[0] == pauses[1]
    assert len({pause / 2**i for i, pause in enumerate(pauses[0])}) == ATTEMPTS - 1


def test_what_is_of_no_use_is_not_tried_again() -> None:
    queue = Queue([7])
    assert queue.failed(taken(queue), ERROR, final=True) is None
    assert [failure.attempts for failure in queue.given_up] == [1]


def test_a_suspicious_shard_is_alone_on_its_worker() -> None:
    clock = Clock()
    queue = Queue([0, 1, 2], clock)
    first = taken(queue)
    queue.failed(first, ERROR, final=False)
    clock.now += 10
    second = taken(queue)
    assert second is first
    assert queue.take([second]) is None
    other = taken(queue)
    third = taken(queue, [other])
    assert [other.shard, third.shard] == [1, 2]


def test_a_machine_that_goes_away_is_not_its_shards_fault() -> None:
    queue = Queue([0, 1])
    first = taken(queue)
    queue.done(taken(queue))
    queue.lost(first, ERROR)
    assert not taken(queue).is_suspicious
    for _ in range(NODE_LOSSES - 2):
        queue.lost(first, ERROR)
        assert taken(queue) is first
        assert first.is_suspicious
    assert not queue.given_up
    queue.lost(first, ERROR)
    assert [(failure.shard, failure.attempts) for failure in queue.given_up] == [(0, NODE_LOSSES)]


def test_going_on_elsewhere_leaves_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda count: count // 2)
    queue = Queue(range(10))
    order = [taken(queue).shard, taken(queue).shard]
    queue.elsewhere()
    order += [taken(queue).shard for _ in range(8)]
    assert order == [0, 1, 6, 7, 8, 9, 2, 3, 4, 5]
    queue.elsewhere()  # nothing is left to be turned
    assert queue.take([]) is None


def stalled(clock: Clock) -> tuple[Queue, Task]:
    """A queue whose last shard is under way, and others took 20 s each."""
    queue = Queue(range(LEARNED + 1), clock)
    slow = taken(queue)
    quick = [taken(queue) for _ in range(LEARNED)]
    clock.now += 20
    for task in quick:
        queue.done(task)
    return queue, slow


def test_a_straggler_is_given_to_an_idle_worker_once_and_the_first_one_wins() -> None:
    clock = Clock()
    queue, slow = stalled(clock)
    clock.now += 39.9  # three times the others' 20 s are not over yet
    assert queue.take([]) is None
    clock.now += 0.2
    assert queue.take([]) is slow
    assert queue.take([]) is None  # two have it
    assert queue.failed(slow, ERROR, final=False) is None  # the other one still may do it
    assert queue.done(slow)
    assert queue.unfinished == 0
    assert not queue.given_up

    queue, slow = stalled(clock)
    clock.now += 100
    assert queue.take([]) is slow
    assert queue.done(slow)
    assert not queue.done(slow)  # of no account
    assert queue.unfinished == 0


def test_quick_shards_have_a_floor_and_few_say_nothing() -> None:
    clock = Clock()
    queue = Queue(range(LEARNED + 1), clock)
    tasks = [taken(queue) for _ in range(LEARNED + 1)]
    for task in tasks[: LEARNED - 1]:
        queue.done(task)
    clock.now += STRAGGLER_FLOOR + 1
    assert queue.take([]) is None
    clock = Clock()
    queue = Queue(range(LEARNED + 1), clock)
    tasks = [taken(queue) for _ in range(LEARNED + 1)]
    for task in tasks[:LEARNED]:
        queue.done(task)
    clock.now += STRAGGLER_FLOOR - 1
    assert queue.take([]) is None
    clock.now += 2
    assert queue.take([]) is tasks[-1]


@given(st.integers(0, 30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_whatever_happens_each_shard_is_done_or_given_up_once(shards: int, workers: int, chance: object) -> None:
    import random

    assert isinstance(chance, random.Random)
    clock = Clock()
    queue = Queue(range(shards), clock)
    has: list[list[Task]] = [[] for _ in range(workers)]
    done: Counter[int] = Counter()
    for _ in range(5000):
        if not queue.unfinished:
            break
        for tasks in has:
            while len(tasks) < 2 and (task := queue.take(tasks)) is not None:
                assert task not in tasks
                tasks.append(task)
                assert len(tasks) == 1 or not any(task.is_suspicious for task in tasks)
        clock.now += chance.choice([0.1, 3.0, 100.0])
        busy = [tasks for tasks in has if tasks]
        if busy:
            tasks = chance.choice(busy)
            task = tasks.pop(chance.randrange(len(tasks)))
            end = chance.random()
            if end < 0.5:
                done[task.shard] += queue.done(task)
            elif end < 0.8:
                queue.failed(task, ERROR, final=end > 0.75)
            elif end < 0.9:
                queue.lost(task, ERROR)
            else:
                queue.done(task) if task.over else queue.elsewhere() or tasks.append(task)
    assert queue.unfinished == 0
    ended = done + Counter(failure.shard for failure in queue.given_up)
    assert ended == Counter(range(shards))
