"""What this machine can carry."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

OVERHEAD = 2**30
"""Bytes that a worker needs beside its weights: libraries, one shard being read and one being written."""


def cpu_count() -> int:
    """Cores that this process may use: affinity and container limit taken into account."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such limit here
    return int(cores)


@dataclass(frozen=True)
class Memory:
    """Bytes of this machine or container, and how many of them may still be taken."""

    total: int
    available: int


def memory() -> Memory | None:
    """None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines)}
        found = Memory(sizes["MemTotal"], sizes["MemAvailable"])
    except (OSError, ValueError, IndexError, KeyError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return found  # no such limit here
    return Memory(min(found.total, limit), min(found.available, limit - used))


def resident(most: bool = False) -> int | None:
    """Bytes of memory that this process holds, or with `most` held at most since `forget_most`. None where the system
    does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["VmHWM" if most else "VmRSS"].split()[0]) * 1024
    except (OSError, ValueError, IndexError, KeyError):
        return None


def forget_most() -> bool:
    """Begin anew with what `resident(most=True)` tells, without what was freed and is kept. False where that cannot
    be."""
    with suppress(OSError, AttributeError, TypeError):  # on another system, or with another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


class Here:
    """This machine, as `Pool` is a cluster."""

    def gpus(self) -> int:
        import torch

        return torch.cuda.device_count()

    def cpus(self) -> int:
        return cpu_count()


def fitting(size: int, room: int | None) -> int:
    """How many processes of this size fit into so many bytes: at least one, and at most one a core."""
    cores = cpu_count()
    return cores if room is None else max(1, min(cores, room // size))


def fitting_workers(model_bytes: int | None, room: int | None) -> int:
    """How many workers fit into so many bytes, each with a model of this size (None: unknown): at most one a core."""
    return 1 if model_bytes is None else fitting(model_bytes + OVERHEAD, room)
