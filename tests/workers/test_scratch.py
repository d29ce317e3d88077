"""Temporary folders: none outlives its process for long, and none is taken from a living one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlq.workers.scratch import LOCK, scratch

HOLD = """
import sys, time
from vlq.workers.scratch import scratch
with scratch() as folder:
    (folder / "rows").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@contextmanager
def of_another_process() -> Iterator[Path]:
    """A folder that another process holds, for an hour as it seems; the process is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        long_ago = time.time() - 3600
        os.utime(folder / LOCK, (long_ago, long_ago))
        yield folder
        process.kill()


def test_a_folder_goes_with_its_context(tmp_path: Path) -> None:
    with scratch() as folder:
        (folder / "rows").touch()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    with of_another_process() as folder, scratch():
        assert (folder / "rows").exists()  # it lives
    assert (folder / "rows").exists()
    with scratch() as own:
        assert list(tmp_path.iterdir()) == [own]


def test_what_is_new_is_nobodys_to_remove() -> None:
    with of_another_process() as folder:
        pass
    os.utime(folder / LOCK)
    with scratch():
        assert folder.exists()
