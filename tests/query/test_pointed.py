"""Where a mistake is shown: under the line that holds it, and on a terminal never in another row than its carets."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import struct
import sys
import termios
import time
import unicodedata

import pytest

from vlq.query.pointed import pointed

from ..synthetic import make_cache


def columns(text: str) -> int:
    """How many columns of a terminal a text takes, by Unicode's own table."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def test_a_line_that_fits_is_shown_as_it_is() -> None:
    assert pointed("one two three", (4, 7), 15) == ["  one two three", "      ^^^"]
    assert pointed("one two three", (4, 7)) == ["  one two three", "      ^^^"]
    assert pointed("first\nsecond", (8, 10), 15) == ["  second", "    ^^"]
    assert pointed("犬犬 dgo", (3, 6)) == ["  犬犬 dgo", "       ^^^"]


@pytest.mark.parametrize("alphabet", ["abcdefgh", "ab犬猫c"])
def test_of_a_longer_one_what_is_around_the_place(alphabet: str) -> None:
    chance = random.Random(0)
    for _ in range(500):
        text = "".join(chance.choices(alphabet, k=chance.randint(1, 200)))
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice([0, 1, 5, 90]))
        width = chance.randint(12, 100)
        line, carets = pointed(text, (start, end), width)
        assert max(columns(line), len(carets.rstrip())) <= width
        assert line.strip("… ") in text
        assert ("…" in line) == (columns(text) > width - 2)
        # Above the carets stands what is meant, or its beginning.
        first = next(i for i in range(len(line) + 1) if columns(line[:i]) == carets.index("^"))
        above = "".join(c for i, c in enumerate(line) if i >= first and columns(line[: i + 1]) <= len(carets))
        if start < end:
            assert above.rstrip("…") == text[start:end][: len(above.rstrip("…"))] != ""
            assert above == text[start:end] or above.endswith("…")


def test_as_much_is_shown_as_there_is_room_for() -> None:
    text = "".join(chr(97 + i % 26) for i in range(300))
    for start in (0, 10, 150, 290, 299):
        assert columns(pointed(text, (start, start + 1), 60)[0]) == 60


def test_the_command_line_goes_by_its_terminal(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a terminal of 50 columns shows: the carets are in the row below the word, and under it."""
    cache = tmp_path_factory.mktemp("cache")
    make_cache(cache, images=2)
    query = f"first_layer([{', '.join([repr('dog')] * 30)}, 'dgo', {', '.join([repr('dog')] * 30)}])"
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "vlq", query, "--cache", str(cache)])
    shown, end = b"", time.monotonic() + 60
    try:
        while b"^^^" not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
    lines = shown.decode().replace("\r", "").splitlines()
    carets = next(i for i, line in enumerate(lines) if "^^^" in line)
    assert len(lines[carets - 1]) <= 50
    place = lines[carets].index("^^^")
    assert lines[carets - 1][place : place + 5] == "'dgo'"
