"""What `vlq status` says of a run: how far it is by the cache's own records, whoever writes it and wherever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vlq.query.cache.reader import Cache, incomplete
from vlq.query.cache.records import committed_shards
from vlq.query.cache.studies import Underway, underway
from vlq.query.info import as_bytes
from vlq.query.language.effects import done_in, measured

SHOWN_RANGES = 12
"""How many stretches of missing shards are named."""


def status_of(cache: Cache) -> dict[str, Any]:
    """Plain values. Each commit record is read, and one listing made."""
    snapshot = cache.snapshot()
    head = snapshot.head
    shards = 0 if head is None else head.shards
    commits = [cache.commit(shard) for shard in committed_shards(cache.store) if shard < shards]
    studies = underway(cache.store, snapshot.studies)
    absent = list(ranges(sorted(set(range(shards)) - {commit.shard for commit in commits})))
    errors = snapshot.errors
    return {
        "cache": cache.url,
        "state": "complete" if snapshot.sealed else "incomplete",
        "shards": shards,
        "committed": len(commits),
        "images": snapshot.planned,
        "cached": snapshot.cached,
        "errors": len(errors),
        "bytes": sum(commit.size for commit in commits),
        "studies": [
            {
                "digest": one.study.digest,
                "done": done_in(one.study),
                "command": command,
                "patches": one.study.patches,
                "target": one.study.target,
                "shards": one.shards,
                "committed": one.done,
            }
            for one, command in zip(studies, _commands(cache, studies), strict=True)
        ],
        "missing": {"shards": sum(last - first + 1 for first, last in absent), "ranges": absent},
    }


def ranges(numbers: Iterable[int]) -> Iterable[list[int]]:
    """The stretches [first, last] of ascending numbers."""
    stretch: list[int] = []
    for number in numbers:
        if stretch and number == stretch[1] + 1:
            stretch[1] = number
            continue
        if stretch:
            yield stretch
        stretch = [number, number]
    if stretch:
        yield stretch


def stretches(shards: Sequence[int]) -> str:
    """Shards, counted and named as far as there is room: `5 shards: 3, 10-13`."""
    return _stretches(len(shards), [*ranges(shards)])


def _stretches(count: int, found: Sequence[Sequence[int]]) -> str:
    if not found:
        return "none"
    named = [str(first) if first == last else f"{first}-{last}" for first, last in found]
    more = f" and {len(named) - SHOWN_RANGES:,} stretches more" if len(named) > SHOWN_RANGES else ""
    return f"{count:,} shard{'s' if count > 1 else ''}: {', '.join(named[:SHOWN_RANGES])}{more}"


def _commands(cache: Cache, studies: Sequence[Underway]) -> list[str | None]:
    """What goes on with each study."""
    if not studies:
        return []  # without a database
    from vlq.query.client.local import LocalCorpus
    from vlq.query.studies.chosen import gone_on_with

    corpus = LocalCorpus(cache)
    return [gone_on_with(corpus, one.study, one.plan) for one in studies]


def as_text(values: dict[str, Any]) -> str:
    """The same for a person."""
    missing = _stretches(values["missing"]["shards"], values["missing"]["ranges"])
    an_image = f", {as_bytes(values['bytes'] // values['cached'])} an image" if values["cached"] else ""
    lines = [
        ("cache", values["cache"]),
        ("state", values["state"]),
        ("shards", f"{values['committed']:,} of {values['shards']:,} committed"),
        ("images", f"{values['cached']:,} of {values['images']:,} cached, {values['errors']:,} with errors"),
        ("bytes", f"{as_bytes(values['bytes'])}{an_image}, without the index"),
        ("missing", missing),
        *[
            (
                "study",
                f"{one['done']}, on {measured(one['target'])}: {one['committed']:,} of {one['shards']:,} shards",
            )
            for one in values["studies"]
        ],
        *[("go on", one["command"]) for one in values["studies"] if one["command"] is not None],
    ]
    text = [f"{name:<8} {value}" for name, value in lines]
    if any(one["command"] is None for one in values["studies"]):
        text.append("The same command goes on with a study that was stopped.")
    if values["state"] != "complete":
        missing = "The same `vlq run` reads what is missing; why a shard was given up, its output and its log say."
        text.append(incomplete(values["cached"], values["images"], missing))
    return "\n".join(text)
