"""Caching runs that a service starts: on this machine, or as jobs of a Ray cluster. Each is a `vlq run`.

A run is followed by its cache's own records; what it prints is its log. Who cancels a run loses nothing: the same run
started again goes on from there.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlq.query.cache.reader import Cache
from vlq.query.errors import NoCache, NotFound, ServiceError, VlqError
from vlq.query.status import status_of

State = Literal["pending", "running", "succeeded", "failed", "stopped"]

ENDED: tuple[State, ...] = ("succeeded", "failed", "stopped")

GRACE = 60.0
"""Seconds that a run has to end by itself when it is cancelled."""

LOG_BYTES = 256 * 1024
"""So much of the end of a log is told."""


@dataclass
class Run:
    """A run that was started, as it is now."""

    id: str
    corpus: str  # what its cache is called here once it can be read
    cache: str
    command: list[str]
    started: float  # seconds since 1970
    ended: float | None = None
    state: State = "pending"


class Launcher(ABC):
    """Where runs run, and what is known of them there."""

    since: float | None = None
    """Since when all runs are known, in seconds since 1970: None if no start of a service makes them forgotten."""

    @abstractmethod
    def start(self, run: Run) -> None:
        """Start it. Raises ServiceError."""

    @abstractmethod
    def runs(self) -> list[Run]:
        """Those that were started, as they are now, in any order. Raises ServiceError."""

    @abstractmethod
    def find(self, id: str) -> Run | None:
        """One of them. Raises ServiceError."""

    @abstractmethod
    def cancel(self, run: Run) -> None:
        """Have it end soon."""

    @abstractmethod
    def log(self, run: Run) -> str:
        """The end of what it printed."""

    @abstractmethod
    def close(self) -> None:
        """The service ends."""


class Here(Launcher):
    """Processes of this machine. They end with the service, so that it knows all that there are."""

    def __init__(self) -> None:
        self.since = time.time()
        self._runs: dict[str, Run] = {}
        self._cancelled: set[str] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="vlq-runs-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[str, float] = {}

    def _log(self, run: Run) -> Path:
        return Path(self._folder.name) / f"{run.id}.log"

    def start(self, run: Run) -> None:
        with self._log(run).open("wb") as log:
            self._processes[run.id] = subprocess.Popen(
                [sys.executable, "-m", "vlq", *run.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        self._runs[run.id] = run

    def runs(self) -> list[Run]:
        return [self._now(run) for run in list(self._runs.values())]

    def find(self, id: str) -> Run | None:
        return self._now(self._runs[id]) if id in self._runs else None

    def _now(self, run: Run) -> Run:
        if run.state in ENDED:
            return run
        code = self._processes[run.id].poll()
        if code is None:
            if time.monotonic() > self._kill_at.get(run.id, float("inf")):
                os.killpg(self._processes[run.id].pid, signal.SIGKILL)
            run.state = "running"
        else:
            run.state = "succeeded" if code == 0 else "stopped" if run.id in self._cancelled else "failed"
            run.ended = time.time()
        return run

    def cancel(self, run: Run) -> None:
        if run.id not in self._cancelled:
            self._cancelled.add(run.id)
            self._kill_at[run.id] = time.monotonic() + GRACE
            self._processes[run.id].send_signal(signal.SIGTERM)

    def log(self, run: Run) -> str:
        data = self._log(run).read_bytes()
        return data[-LOG_BYTES:].decode(errors="replace")

    def close(self) -> None:
        going = [process for process in self._processes.values() if process.poll() is None]
        for process in going:
            process.send_signal(signal.SIGTERM)
        for process in going:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._folder.cleanup()


class RayJobs(Launcher):
    """Jobs of a Ray cluster, by its REST API (docs.ray.io, "Ray Jobs REST API").

    They go on when the service ends. What is known of them is what the cluster knows, so that each service that is
    started on it knows the same; which of its jobs are runs, their metadata say.
    """

    CORPUS, CACHE = "vlq-corpus", "vlq-cache"

    STATES: Mapping[str, State] = {
        "PENDING": "pending",
        "RUNNING": "running",
        "SUCCEEDED": "succeeded",
        "FAILED": "failed",
        "STOPPED": "stopped",
    }

    def __init__(self, address: str) -> None:
        import httpx2

        self._address = address.rstrip("/")
        token = ray_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx2.Client(base_url=self._address, headers=headers, timeout=30)

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        import httpx2

        try:
            answer = self._client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json()
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            hint = "Set $RAY_AUTH_TOKEN to the cluster's." if status in (401, 403) else error.response.text[:500]
            raise ServiceError(f"The cluster at {self._address} answers {status}.", hint) from error
        except (httpx2.HTTPError, ValueError) as error:
            raise ServiceError(f"The cluster at {self._address} does not answer: {error}.", "Is Ray up?") from error

    def start(self, run: Run) -> None:
        metadata = {self.CORPUS: run.corpus, self.CACHE: run.cache}
        values = {"entrypoint": shlex.join(run.command), "submission_id": run.id, "metadata": metadata}
        self._asked("POST", "/api/jobs/", values)

    def runs(self) -> list[Run]:
        return [run for job in self._asked("GET", "/api/jobs/") if (run := self._run(job)) is not None]

    def find(self, id: str) -> Run | None:
        # Any job of the cluster could be asked for by its id.
        return next((run for run in self.runs() if run.id == id), None)

    def _run(self, job: Mapping[str, Any]) -> Run | None:
        metadata = job.get("metadata") or {}
        if not job.get("submission_id") or not {self.CORPUS, self.CACHE} <= metadata.keys():
            return None
        started, ended = (None if job.get(key) is None else job[key] / 1000 for key in ("start_time", "end_time"))
        return Run(
            job["submission_id"],
            metadata[self.CORPUS],
            metadata[self.CACHE],
            shlex.split(job["entrypoint"]),
            started or 0.0,
            ended,
            self.STATES[job["status"]],
        )

    def cancel(self, run: Run) -> None:
        self._asked("POST", f"/api/jobs/{run.id}/stop")

    def log(self, run: Run) -> str:
        return str(self._asked("GET", f"/api/jobs/{run.id}/logs")["logs"])[-LOG_BYTES:]

    def close(self) -> None:
        self._client.close()


def ray_token() -> str | None:
    """The token of a Ray cluster, from where Ray takes it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


@dataclass(frozen=True)
class Runs:
    """Those that services have started, as far as it is known where they run."""

    launcher: Launcher

    def start(self, corpus: str, cache: str, command: Sequence[str]) -> Run:
        """Start a run. Raises ServiceError if it cannot be, or its cache is being written by another one."""
        for other in self.launcher.runs():
            if other.cache == cache and other.state not in ENDED:
                raise ServiceError(f"Run {other.id} writes that cache already.", "Follow it, or cancel it first.")
        run = Run(f"vlq-{uuid.uuid4().hex[:12]}", corpus, cache, list(command), time.time())
        self.launcher.start(run)
        return run

    def latest(self, most: int) -> list[Run]:
        """So many of them, the newest first."""
        return sorted(self.launcher.runs(), key=lambda run: (run.started, run.id), reverse=True)[:most]

    def get(self, id: str) -> Run:
        """A run as it is now. Raises NotFound."""
        run = self.launcher.find(id)
        if run is None:
            raise NotFound(f"There is no run {id}.", "Those that there are: GET /v1/runs")
        return run

    def cancel(self, id: str) -> Run:
        """Have a run end, which keeps what is done. Raises NotFound."""
        run = self.get(id)
        if run.state not in ENDED:
            self.launcher.cancel(run)
        return self.get(id)

    def told(self, run: Run) -> dict[str, Any]:
        """A run as the API shows it; `progress` as `vlq status --format json` shows it, once there is a cache."""
        progress: dict[str, Any] | None = None
        message = None
        try:
            progress = status_of(Cache.open(run.cache))
        except NoCache:
            pass
        except VlqError as error:
            message = str(error)
        if run.state == "failed":
            lines = [line for line in self.launcher.log(run).splitlines() if line.strip()]
            message = "\n".join(lines[-3:])
        return {
            "id": run.id,
            "corpus": run.corpus,
            "cache": run.cache,
            "command": shlex.join(run.command),
            "state": run.state,
            "started": run.started,
            "ended": run.ended,
            "message": message,
            "progress": progress,
        }
