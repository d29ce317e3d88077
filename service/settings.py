"""What a service is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Which caches are served, to whom, and what one request may take."""

    caches: Mapping[str, str]  # URLs by the names that requests and pages call them; the first is asked by default
    readers_token: str | None = field(default=None, repr=False)  # without one, whoever reaches the service may read
    operators_token: str | None = field(default=None, repr=False)  # without one, nobody starts runs
    ray_jobs: str | None = None  # where a Ray cluster takes jobs, http://head:8265; else runs are processes here
    hosts: tuple[str, ...] = ()  # the host names that it is reached by; () for any
    origins: tuple[str, ...] = ()  # of pages of others that may ask, such as https://notebook.example
    intervene: bool = False  # whether a corpus' model is loaded when somebody wants to intervene in it
    models: tuple[str, ...] = ()  # folders or hub ids among which it is looked for, before where the run had it
    timeout: float = 30.0  # seconds of one question
    memory: int = 4 * 10**9  # bytes that all questions together may take in DuckDB
    temp: int = 0  # bytes on disk that a statement of SQL may take for what does not fit into memory
    most_rows: int = 1_000_000  # of one answer; what is behind them is asked for with a cursor
    at_once: int = 3  # questions answered at the same time: more of them wait for Python's lock
    waiting: int = 64  # questions that wait for their turn; one more is sent away
    most_body: int = 2**20  # bytes of a request
    body_time: float = 10.0  # seconds until a request is here whole
