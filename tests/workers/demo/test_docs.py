"""What README and docs show is what one gets: every `$ vlq "..."` in them is asked of the demo's cache.

    VLQ_UPDATE_DOCS=1 pytest tests/workers/demo/test_docs.py     # writes the real output into them

A line `...` stands for lines left out; as many lines are kept before and behind it as there were.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vlq.query.cli import main
from vlq.workers.demo.card import MODEL
from vlq.workers.job import run_job
from vlq.workers.plan import RunOptions
from vlq.workers.progress import tracker

from ..here import without_ray

ROOT = Path(__file__).parents[3]
PAGES = ["README.md", "docs/tutorial.md", "docs/sql.md"]
INDENT = "    "


@dataclass
class Block:
    """A command in a page, and the output shown under it: its first and last line in the page."""

    command: str
    shown: list[str]
    start: int
    end: int


def blocks(lines: list[str]) -> Iterator[Block]:
    i = 0
    while i < len(lines):
        if lines[i].startswith(f"{INDENT}$ vlq "):
            end = i + 1
            # An empty line belongs to the block if it goes on behind it.
            while end < len(lines) and (
                lines[end].startswith(INDENT)
                or (not lines[end] and end + 1 < len(lines) and lines[end + 1].startswith(INDENT))
            ):
                if lines[end].startswith(f"{INDENT}$ "):
                    break
                end += 1
            shown = [line.removeprefix(INDENT) for line in lines[i + 1 : end]]
            while shown and not shown[-1]:
                shown.pop()
                end -= 1
            yield Block(lines[i].removeprefix(f"{INDENT}$ vlq "), shown, i + 1, end)
            i = end
        else:
            i += 1


def cut(lines: list[str], shown: list[str]) -> list[str]:
    """The output with as much of it left out as in what was shown."""
    if "..." not in shown:
        return lines
    head = shown.index("...")
    tail = len(shown) - head - 1
    return [*lines[:head], "...", *lines[len(lines) - tail :]] if head + tail < len(lines) else lines


def alike(a: str, b: str) -> bool:
    """Equal, but for the last digit of numbers: another machine's arithmetic may round otherwise."""
    number = r"-?\d+\.\d+"
    if re.sub(number, "#", a) != re.sub(number, "#", b):
        return False
    pairs = zip(re.findall(number, a), re.findall(number, b), strict=True)
    return all(math.isclose(float(x), float(y), abs_tol=0.011) for x, y in pairs)


@pytest.fixture(scope="module")
def caches(demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cache`, its `scenes`, and of some of these `background`, with another prompt, and `asked`, each with its own."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "cache").symlink_to(demo_cache)
    (folder / "scenes").symlink_to(demo_cache.parent / "scenes")
    scenes = str(demo_cache.parent / "scenes" / "manifest.parquet")
    background = str(folder / "background")
    options = RunOptions(scenes, str(MODEL), background, prompt="What is the background?", limit=40, workers=1)
    rows = [f"scenes/scene-{scene:03d}.png,Is there a {word}?" for scene in range(40) for word in ("dog", "rock")]
    (folder / "asked.csv").write_text("\n".join(["image,question", *rows]))
    asked = RunOptions(
        str(folder / "asked.csv"), str(MODEL), str(folder / "asked"), prompt_column="question",
        at=("patch", "prompt", "answer"), answer=4, workers=1,
    )  # fmt: skip
    with without_ray(), tracker() as shown:
        run_job(options, shown)
        run_job(asked, shown)
    return folder


@pytest.mark.parametrize("document", PAGES)
def test_pages_show_real_output(
    document: str, caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(caches)
    monkeypatch.setenv("VLQ_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "80")
    path = ROOT / document
    lines = path.read_text().splitlines()
    found = list(blocks(lines))
    assert found
    for block in reversed(found):
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(block.command))
        assert not ended.value.code, block.command
        real = cut(capsys.readouterr().out.rstrip("\n").split("\n"), block.shown)
        if os.environ.get("VLQ_UPDATE_DOCS"):
            lines[block.start : block.end] = [f"{INDENT}{line}".rstrip() for line in real]
            continue
        assert len(real) == len(block.shown), block.command
        for expected, line in zip(block.shown, real, strict=True):
            assert alike(expected, line.rstrip()), f"{block.command}\n{expected}\n{line}"
    if os.environ.get("VLQ_UPDATE_DOCS"):
        path.write_text("\n".join(lines) + "\n")
