"""Runs as processes of their own, the processes below them, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlq.query.store import open_store

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


Vlq = Callable[..., tuple[int, str, str]]
"""Runs a command in this process; its exit code, stdout and stderr."""


class Silent:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def phase(self, text: str) -> None:
        pass

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = "reading") -> None:
        pass


def vlq(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A command of `vlq` that was begun."""
    command = [sys.executable, "-m", "vlq", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True)


def run_of(model: Path, images: Path | str, cache: Path | str, *more: str) -> list[object]:
    """A run of shards of two images, as one types it."""
    options = ["--model", model, "--cache", cache, "--prompt", PROMPT, "--k", "4"]
    return ["run", images, *options, "--shard-size", "2", "--batch-size", "2", *more]


def start(
    model: Path, images: Path | str, cache: Path | str, *more: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A `run_of` that was begun."""
    return vlq(*run_of(model, images, cache, *more), env=env)


def finished(process: subprocess.Popen[str]) -> str:
    """What a run printed. Raises AssertionError with what it said if it fails."""
    out, errors = process.communicate(timeout=550)
    assert process.returncode == 0, errors
    return out


def contents(cache: Path) -> dict[str, bytes]:
    """Every object of a cache on this disk."""
    store = open_store(str(cache))
    return {entry.key: store.read(entry.key) for entry in store.list()}


def events(said: str) -> list[dict[str, Any]]:
    """What a run with --log json said."""
    return [json.loads(line) for line in said.splitlines()]


def commits(cache: Path) -> int:
    """How many shards are committed."""
    return len(list((cache / "commits").glob("[0-9]*.json")))


def below(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        started = children.get(waiting.pop(), [])
        waiting += started
        found += started
    return found


def title(pid: int) -> str:
    """What a process calls itself; "" if it is gone. Ray's workers tell there what they do: ray::ShardWorker.extract"""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def workers_of(pid: int) -> list[int]:
    """The processes of ShardWorker actors below a process."""
    return [child for child in below(pid) if "ShardWorker" in title(child)]


def wait_until_gone(pids: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, [title(pid) for pid in left]
        time.sleep(0.05)
