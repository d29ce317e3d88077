"""`vlq demo`: a corpus of scenes, the project's own model, a cache of it, three answers."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlq.query.cache.reader import demo_url
from vlq.query.errors import CacheMismatch, OlderFormat, StoreError
from vlq.query.schema import STORED_SITES
from vlq.query.shell import shell

if TYPE_CHECKING:
    from vlq.workers.job import Outcome

SCENES = 300

QUERIES = (
    ("Where is 'dog' read first?", "first_layer(token='dog')"),
    ("The same, where the model is sure: chance hits fall away.", "first_layer(token='dog', min_prob=0.5)"),
    ("And where the answer is about to be given, at the prompt's last token?", "first_layer(token='dog', at='last')"),
)
"""What is asked, in words and in VLQ."""

NEXT = (
    "first_layer(token='ear', min_prob=0.5)",
    "first_layer(token='beach', min_prob=0.5, min_patches=20)",
)
"""What to type next."""


def demo() -> None:
    """Make a cache of 300 scenes to try VLQ on, and ask it.

    VLQ's own small model reads them. Three questions are asked.
    """
    url = demo_url()
    try:
        make_cache(url)
    except KeyboardInterrupt as stop:
        from vlq.workers.job import end_stopped

        end_stopped(stop, "`vlq demo`")
    except OSError as error:
        raise StoreError(
            f"The demo cannot be put into {Path(url).parent}: {error.strerror or error}.",
            "Set $VLQ_HOME to a folder that may be written to and has room.",
        ) from error

    from vlq.query.answers.render import render
    from vlq.query.client.local import open as open_corpus

    corpus = open_corpus(url)
    for question, query in QUERIES:
        print(f"\n{question}\n$ {shell_line(query, url)}\n{render(corpus.query(query), 'table')}")
    print("\nAsk on:")
    for query in NEXT:
        print(f"  {shell_line(query, url)}")
    print(f"  {command_line('vlq info', url)}")


def shell_line(query: str, url: str) -> str:
    return command_line(f'vlq "{query}"', url)


def command_line(command: str, url: str) -> str:
    """A command that asks the demo's cache, which is asked by default unless $VLQ_CACHE names another."""
    return f"{command} --cache {shell(url)}" if os.environ.get("VLQ_CACHE") else command


def make_cache(url: str, count: int = SCENES) -> Outcome:
    """Bring the demo's cache up to this version's scenes and model; what another version left there is made anew."""
    from vlq.workers.demo.card import MODEL
    from vlq.workers.demo.dialogues import MAIN_PROMPT
    from vlq.workers.demo.manifest import MANIFEST
    from vlq.workers.job import run_job
    from vlq.workers.plan import RunOptions
    from vlq.workers.progress import tracker

    scenes = Path(url).parent / "scenes"
    options = RunOptions(
        images=str(scenes / MANIFEST), model=str(MODEL), cache=url, prompt=MAIN_PROMPT, at=STORED_SITES, answer=4
    )
    with tracker() as shown:
        shown.phase(f"composing {count} scenes")
        if not has_scenes(scenes, count):
            shutil.rmtree(url, ignore_errors=True)  # it is of other scenes
        try:
            outcome = run_job(options, shown)
        except (CacheMismatch, OlderFormat):
            shown.say("The demo's cache is another version's: it is made anew.")
            shutil.rmtree(url)
            outcome = run_job(options, shown)
    read = f"{outcome.fresh} of them read now" if outcome.fresh else "nothing to do"
    print(f"{outcome.images} scenes, {read}: {url}", file=sys.stderr)
    return outcome


def has_scenes(folder: Path, count: int) -> bool:
    """Whether the folder holds the demo's scenes; if not, they are put there."""
    from vlq.workers.demo.manifest import write_scenes
    from vlq.workers.demo.scenes import DEMO, compose

    scenes = [compose(DEMO, number) for number in range(count)]
    digest = hashlib.sha256(b"".join(scene.pixels.tobytes() for scene in scenes)).hexdigest()
    stamp = folder / "scenes.sha256"  # written last: with it, all is there
    if stamp.exists() and stamp.read_text() == digest:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    write_scenes(folder, scenes)
    stamp.write_text(digest)
    return False
