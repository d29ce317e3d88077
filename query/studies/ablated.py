"""A finished study as `vlq ablate` shows it: what taking patches does to a word, by kind of set, with intervals over
images; and what to ask next."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from statistics import fmean, median
from typing import Any

import numpy as np
import pyarrow as pa

from vlq.query.answers.render import aligned
from vlq.query.errors import printable
from vlq.query.functions.effect import nats, of_kind
from vlq.query.language.effects import CHOSEN, KINDS, asked_of
from vlq.query.language.nodes import Literal, Sequence
from vlq.query.language.parse import parse
from vlq.query.language.tokens import TokenSet
from vlq.query.schema import RANDOM, Study
from vlq.query.statistics.bootstrap import Interval, median_interval
from vlq.query.summary import Rows, count

EXAMPLES = 5
"""Images that are shown."""

COLUMNS = (
    "image_id",
    "image",
    "set",
    "kind",
    "patches",
    "effect",
    "before",
    "after",
    "rank_before",
    "rank_after",
    "gone",
    "answer_before",
    "answer",
)
"""A row as it is written."""

REPLACEMENTS = {
    "mean": "the corpus' mean patch in their place",
    "zero": "zeros in their place",
    "noise": "noise like the corpus' patches in their place",
}


def rows_of(effects: pa.Table, names: Mapping[int, str]) -> Rows:
    """The rows of a study's effects, each with the effect and its image's name: COLUMNS."""
    found = []
    for row in effects.to_pylist():
        own = {"image": names[row["image_id"]], **row, "effect": row["before"] - row["after"]}
        found.append({name: own[name] for name in COLUMNS})
    return found


def summary_of(study: Study, tokens: TokenSet, effects: pa.Table, names: Mapping[int, str]) -> dict[str, Any]:
    """Everything as plain values.

    `kinds` has the figures of each kind of set (see `of_kind`), and how many `patches` a set of it has, the median;
    `difference` by how much the chosen patches' effect is above that of random ones, image by image; `examples` are
    images at even distances in the order of their effects, the largest first.
    """
    rows = rows_of(effects, names)
    kinds = {kind: found for kind in KINDS if (found := [row for row in rows if row["kind"] == kind])}
    chosen, random = by_image(kinds[CHOSEN]), by_image(kinds.get(RANDOM, []))
    apart = [chosen[image] - random[image] for image in chosen if image in random]
    ordered = sorted(kinds[CHOSEN], key=lambda row: (-row["effect"], row["image_id"]))
    places = sorted({round(place) for place in np.linspace(0, len(ordered) - 1, min(EXAMPLES, len(ordered)))})
    return {
        "query": query_of(study),
        "study": study.digest,
        "patches": study.patches,
        "target": study.target,
        "tokens": [{"id": token.id, "piece": token.piece, "text": token.text} for token in tokens.tokens],
        "mode": study.mode,
        "buffer": study.buffer,
        "combinations": study.combinations,
        "baselines": list(study.baselines),
        "condition": study.images,
        "prompt": study.prompt,
        "images": len(chosen),
        "sets": len(rows),
        "never_held": sum(row["gone"] is None for row in kinds[CHOSEN]),
        "kinds": {
            kind: {**of_kind(found), "patches": median(len(row["patches"]) for row in found)}
            for kind, found in kinds.items()
        },
        "difference": {"images": len(apart), "median": median(apart), "median_interval": median_interval(apart)}
        if apart
        else None,
        "examples": [ordered[place] for place in places],
    }


def query_of(study: Study) -> str:
    """The query that asks for a study's effects, its arguments by name."""
    given = ", ".join(f"{name}={value}" for name, value in asked_of(study).arguments)
    return f"effect({given})"


def by_image(rows: Rows) -> dict[int, float]:
    """The effect in each image, of several sets their mean."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["image_id"], []).append(row["effect"])
    return {image: fmean(effects) for image, effects in found.items()}


# --- for a person ----------------------------------------------------------------------------------------------


def as_text(values: Mapping[str, Any]) -> str:
    """The same for a person."""
    pieces = ", ".join(f"{token['piece']} ({token['id']})" for token in values["tokens"])
    heading = ("taken", "images", "sets", "patches", "effect in nats, median", "the word goes")
    lines = [
        f"{taken(values['patches'], values['buffer'], values['mode'])}: what that does to {values['target']}",
        f"tokens: {pieces}",
        *([] if values["prompt"] is None else [f"asked: {values['prompt']}"]),
        f"{count(values['images'], 'image')}, {count(values['sets'], 'set')} of patches taken",
        "",
        *_aligned([heading, *(_line(kind, found) for kind, found in values["kinds"].items())]),
        "",
    ]
    if (apart := values["difference"]) is not None:
        lines.append(
            f"Chosen minus random, image by image: {nats(apart['median'])} nats{_between(apart['median_interval'])}"
        )
    if never := values["never_held"]:
        lines.append(f"{count(never, 'image')} whose answer never held the word: it cannot go there.")
    columns = ("image", "effect", "rank", "answer", "with them taken")
    lines += ["", *_aligned([columns, *map(_example, values["examples"])])]
    return "\n".join(lines)


def taken(patches: str, buffer: int, mode: str) -> str:
    """What is taken, and what stands in its place. Raises QueryError if it is written in another VLQ's language."""
    rings = f", and of {count(buffer, 'ring')} around them" if buffer else ""
    return f"{subject(patches)}{rings} taken, {REPLACEMENTS[mode]}"


def subject(patches: str) -> str:
    """What is taken, as a sentence begins."""
    match node := parse(patches):
        case Literal(value=str(label)):
            return f"Patches of objects labelled {label!r}"
        case Literal():
            return f"Patch {node}"
        case Sequence(items=items):
            return f"Patches {', '.join(map(str, items))}"
    return f"Patches of {node}"


def _line(kind: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    gone = "-"
    if found["held"]:
        low, high = found["share_interval"]
        gone = f"{found['share']:.0%} (95% {low:.0%} to {high:.0%}) of {count(found['held'], 'answer')}"
    effect = f"{nats(found['median'])}{_between(found['median_interval'])}"
    return kind, f"{found['images']:,}", f"{found['sets']:,}", f"{found['patches']:g}", effect, gone


def _example(row: Mapping[str, Any]) -> tuple[str, ...]:
    rank = f"{row['rank_before']} -> {row['rank_after']}"
    return printable(row["image"]), nats(row["effect"]), rank, repr(row["answer_before"]), repr(row["answer"])


def _between(ends: Interval) -> str:
    return "" if ends is None else f" (95% {nats(ends[0])} to {nats(ends[1])})"


def _aligned(rows: Items[Items[str]]) -> list[str]:
    return aligned([*map(list, rows)], [False] * len(rows[0]))
