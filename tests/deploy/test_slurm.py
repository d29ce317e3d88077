"""The Slurm script, with what it calls played by scripts that write down how they were called."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .manifests import DEPLOY

JOB = 4242
PORT = 20_000 + JOB

PLAYED = {
    "srun": 'echo "srun $*" >> "$CALLS"; while [ "$1" != ray ]; do shift; done; exec "$@"',
    # The head listens until it is ended; a worker only waits.
    "ray": f"""echo "ray $*" >> "$CALLS"
case "$*" in *--head*) exec "$PYTHON" -c 'import socket, signal
server = socket.create_server(("", {PORT}))
signal.pause()';; *) exec sleep 600;; esac""",
    "vlq": """echo "vlq $*" >> "$CALLS"
trap 'echo "vlq ended" >> "$CALLS"; exit 143' TERM
[ -n "${QUICK:-}" ] || while true; do sleep 0.1; done""",
    # Whether all machines are there is asked of Ray itself; those behind the first one are started by one command.
    "python3": """case "$*" in *"import ray"*) shift $(($# - 1))
[ "$(grep -c '^ray start' "$CALLS")" -ge $(($1 < 2 ? 1 : 2)) ];;
*) exec "$PYTHON" "$@";; esac""",
    "hostname": "echo localhost",
}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    for name, script in PLAYED.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path / "calls"


def begin(calls: Path, nodes: int, **more: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{calls.parent}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(JOB),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_CPUS_PER_TASK": "16",
        "SLURMD_NODENAME": "node7",
    }
    command = ["bash", str(DEPLOY / "slurm.sh"), "my images", "--model", "m", "--cache", "c"]
    return subprocess.Popen(command, env=environment | more, text=True, stderr=subprocess.PIPE, start_new_session=True)


def said(calls: Path, of: str) -> list[str]:
    return [line for line in calls.read_text().splitlines() if line.startswith(of)] if calls.exists() else []


def is_open() -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", PORT)) == 0


def test_a_run_over_all_machines(calls: Path) -> None:
    job = begin(calls, 4, QUICK="1")
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    head, others = said(calls, "srun")
    assert "--nodes=1 --ntasks=1 --cpus-per-task=16 --nodelist=node7" in head
    assert "--nodes=3 --ntasks=3 --cpus-per-task=16 --exclude=node7" in others
    assert [f"--address=localhost:{PORT}" in line for line in said(calls, "ray start")] == [False, True]
    assert said(calls, "vlq") == [f"vlq run my images --model m --cache c --ray-address localhost:{PORT}"]
    assert not is_open()  # Ray has ended with the run


def test_on_one_machine(calls: Path) -> None:
    job = begin(calls, 1, QUICK="1")
    job.communicate(timeout=60)
    assert job.returncode == 0
    assert len(said(calls, "srun")) == 1


def test_the_end_of_its_time(calls: Path) -> None:
    """Slurm signals the script alone."""
    job = begin(calls, 2)
    end = time.monotonic() + 60
    while not said(calls, "vlq run"):
        assert time.monotonic() < end
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 143, errors
    assert said(calls, "vlq ended")
    assert not is_open()
