"""What long work shows, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import vlq.workers.progress as progress
from vlq.query.cli import main
from vlq.workers.progress import printing_said, steps, tracker

from ..synthetic import make_cache


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker() as shown:
        shown.say("2 new images")
        shown.phase("loading the model")
        shown.images(100, 1300, 0, 0)
        clock.now += 4
        shown.images(132, 1300, 0, 32)  # too early for another line
        clock.now += 6
        shown.images(300, 1300, 1, 200)
        clock.now += 1
        shown.images(1300, 1300, 2, 1200)
    out, said = capsys.readouterr()
    assert out == ""
    assert said.splitlines() == [
        "2 new images",
        "loading the model",
        "100 of 1,300 images",
        "300 of 1,300 images, 20 images/s, 50 s left, 1 error",
        "1,300 of 1,300 images, 109 images/s, 2 errors",
    ]


@pytest.mark.parametrize(
    ("total", "left"), [(10, "45 s"), (40, "3 min 15 s"), (1000, "1 h 23 min"), (21, "1 min 40 s")]
)
def test_time_left(clock: Clock, capsys: pytest.CaptureFixture[str], total: int, left: str) -> None:
    with tracker() as shown:
        shown.images(0, total, 0, 0)
        clock.now += 5
        shown.images(1, total, 0, 1)
    assert capsys.readouterr().err.splitlines()[-1] == f"1 of {total:,} images, 0.2 images/s, {left} left"


def test_what_is_done_to_images_has_a_rate_of_its_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker() as shown:
        for doing, seconds in (("the mean patch", 40), ("measuring", 4)):
            shown.phase(doing)
            shown.images(0, 8, 0, 0, doing)
            clock.now += seconds
            shown.images(8, 8, 0, 8, doing)
    assert capsys.readouterr().err.splitlines() == [
        "the mean patch",
        "0 of 8 images",
        "8 of 8 images, 0.2 images/s",
        "measuring",
        "8 of 8 images, 2.0 images/s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [30, 40, 79, 80, 200])
def test_a_bar_leaves_no_figure_out(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with tracker() as shown:
        shown.images(96, 118287, 0, 0)
        clock.now += 2
        shown.images(118272, 118287, 1234, 1)
        before = len(screen.getvalue())
        shown._progress.refresh()  # type: ignore[attr-defined]
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in screen.getvalue()[before:].splitlines()]
    assert max(map(len, lines)) <= columns
    words = " ".join(" ".join(lines).replace("0:00:00", "").split())  # the time beside them is none of theirs
    assert "reading 118,272 of 118,287 images, 0.5 images/s, 30 s left, 1,234 errors" in words
    assert ("━" in words) == (columns >= 80)


def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with tracker() as shown:
        shown.say("Going on: [3] of 8 images are cached.")
        shown.images(3, 8, 0, 0)
        clock.now += 2
        shown.images(7, 8, 1, 4)
        shown._progress.refresh()  # type: ignore[attr-defined]
        assert "reading" in screen.getvalue()
        shown.images(0, 8, 0, 0, "measuring")
        shown._progress.refresh()  # type: ignore[attr-defined]
    assert "Going on: [3] of 8 images are cached." in screen.getvalue()  # no markup
    assert "measuring" in screen.getvalue()
    assert "7 of 8 images, 2.0 images/s, 0 s left, 1 error" in screen.getvalue()


def test_lines_on_a_terminal_that_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shell of an editor is."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with tracker() as shown:
        shown.phase("loading the model")
        shown.images(3, 8, 0, 0)
    assert screen.getvalue().splitlines() == ["loading the model", "3 of 8 images"]


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(as_json=True) as shown:
        shown.phase("loading the model")
        shown.images(3, 8, 1, 2)
        logging.getLogger("vlq.workers.watch").warning("Shard %d: gone.", 4, extra={"fields": {"shard": 4}})
    logging.getLogger("vlq.workers.watch").info("nobody listens any more")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    times = [datetime.fromisoformat(line.pop("time")) for line in lines]
    assert times == sorted(times)
    assert lines == [
        {"level": "info", "event": "loading the model"},
        {"level": "info", "event": "progress", "done": 3, "total": 8, "errors": 1, "fresh": 2},
        {"level": "warning", "event": "Shard 4: gone.", "shard": 4},
    ]


def test_warnings_are_said_where_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with tracker():
        logging.getLogger("vlq.workers.watch").warning("Shard %d: gone.", 4)
        logging.getLogger("vlq.workers.watch").info("shard 5 committed")
    assert capsys.readouterr().err == "Shard 4: gone.\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_what_others_print_is_kept_out_of_answers(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(as_json=as_json) as shown, printing_said(shown):
        print("(raylet) A worker died\n\nor was killed")
    print("the answer")
    told = capsys.readouterr()
    assert told.out == "the answer\n"
    lines = told.err.splitlines()
    assert [json.loads(line)["event"] if as_json else line for line in lines] == [
        "(raylet) A worker died",
        "or was killed",
    ]


def test_steps_are_told_sparingly(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as step:
        for done in range(1, 41):
            clock.now += 0.25
            step("checking shards", done, 40)
        step("comparing", 0, 0)
    assert capsys.readouterr().err.splitlines() == [
        "checking shards: 1 of 40",
        "checking shards: 21 of 40",
        "checking shards: 40 of 40",
        "comparing",
    ]


@pytest.mark.parametrize("lost", ["2>&-", "2>/dev/full", "2> >(true)", "2> >(true) > >(true)"])
def test_work_goes_on_where_nobody_is_told_of_it(tmp_path: Path, lost: str) -> None:
    make_cache(tmp_path / "cache", images=6)
    path = next((tmp_path / "cache").glob("images/*"))
    path.write_bytes(path.read_bytes()[:-1])
    script = f"{sys.executable} -m vlq repair --cache {tmp_path / 'cache'} {lost}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "> >(true)" in lost.removeprefix("2> >(true)") or "1 mended, 0 not" in done.stdout
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--cache", str(tmp_path / "cache")])
    assert not ended.value.code
