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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlq.query.cache import Cache
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
    """A run that was started."""

    id: str
    corpus: str  # what its cache is called here once it can be read
    cache: str
    command: list[str]
    started: float  # seconds since 1970
    ended: float | None = None
    state: State = "pending"
    cancelled: bool = False


class Launcher(ABC):
    """Where runs run."""

    @abstractmethod
    def start(self, run: Run) -> None:
        """Start it. Raises ServiceError."""

    @abstractmethod
    def state(self, run: Run) -> State:
        """How it is now."""

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
    """Processes of this machine. They end with the service."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vlq-runs-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[str, float] = {}

    def _log(self, run: Run) -> Path:
        return Path(self._folder.name) / f"{run.id}.log"

    def start(self, run: Run) -> None:
        with self._log(run).open("wb") as log:
            self._processes[run.id] = subprocess.Popen(
                [sys.executable, "-m", "vlq.query.cli", *run.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def state(self, run: Run) -> State:
        code = self._processes[run.id].poll()
        if code is None:
            if time.monotonic() > self._kill_at.get(run.id, float("inf")):
                os.killpg(self._processes[run.id].pid, signal.SIGKILL)
            return "running"
        return "succeeded" if code == 0 else "stopped" if run.cancelled else "failed"

    def cancel(self, run: Run) -> None:
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
    """Jobs of a Ray cluster, by its REST API (docs.ray.io, "Ray Jobs REST API"). They go on when the service ends."""

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
        values = {"entrypoint": shlex.join(run.command), "submission_id": run.id, "metadata": {"vlq": run.corpus}}
        self._asked("POST", "/api/jobs/", values)

    def state(self, run: Run) -> State:
        return self.STATES[self._asked("GET", f"/api/jobs/{run.id}")["status"]]

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


@dataclass
class Runs:
    """Those that this service has started since it began."""

    launcher: Launcher
    found: dict[str, Run] = field(default_factory=dict)

    def start(self, corpus: str, cache: str, command: Sequence[str]) -> Run:
        """Start a run. Raises ServiceError if it cannot be, or its cache is being written by another one."""
        for other in self.found.values():
            if other.cache == cache and self.now(other).state not in ENDED:
                raise ServiceError(f"Run {other.id} writes that cache already.", "Follow it, or cancel it first.")
        run = Run(f"vlq-{uuid.uuid4().hex[:12]}", corpus, cache, list(command), time.time())
        self.launcher.start(run)
        self.found[run.id] = run
        return run

    def get(self, id: str) -> Run:
        """Raises NotFound."""
        if id not in self.found:
            raise NotFound(f"There is no run {id}.", "Those that this service started: GET /v1/runs")
        return self.found[id]

    def now(self, run: Run) -> Run:
        """A run as it is now."""
        if run.state not in ENDED:
            run.state = self.launcher.state(run)
            if run.state in ENDED:
                run.ended = time.time()
        return run

    def cancel(self, run: Run) -> Run:
        """Have a run end, which keeps what is done."""
        if self.now(run).state not in ENDED and not run.cancelled:
            run.cancelled = True
            self.launcher.cancel(run)
        return self.now(run)

    def told(self, run: Run) -> dict[str, Any]:
        """A run as the API shows it; `progress` as `vlq status --format json` shows it, once there is a cache."""
        self.now(run)
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
