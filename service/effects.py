"""What a cache's studies found in one image: what was done to which patches, and how the target changed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vlq.query.arrow import named_rows
from vlq.query.cache.reader import EFFECTS
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import VlqError
from vlq.query.functions.effect import nats
from vlq.query.language.compile import Statement
from vlq.query.language.effects import CHOSEN, done_in, layers_said, measured, question
from vlq.query.schema import RANDOM, Study
from vlq.query.studies.ablated import REPLACEMENTS, taken
from vlq.query.summary import Rows

MOST_STUDIES = 20
"""Studies of an image that are shown, the newest ones."""

MOST_STEPS = 40
"""Windows of layers and strengths of a study's image that are shown: those with the largest effects."""

MOST_SETS = 12
"""Sets of a study's image that are shown: all chosen patches, and their parts with the largest effects."""


NEVER = "–"
"""What is said of a word that the answer never held: it cannot go there."""


@dataclass(frozen=True)
class Taken:
    """A set of patches that was taken, or several random ones; or a window of layers in which something was done."""

    name: str
    patches: tuple[int, ...]  # () of several sets
    count: str
    effect: str  # in nats
    rank: str
    answer: str  # of several sets none
    gone: str


@dataclass(frozen=True)
class Found:
    """A study's effects in an image."""

    is_ablation: bool
    said: str  # what was taken, and what stood in its place; or what else was done
    came: str  # what that did to the target
    query: str | None  # that asks for the whole corpus'; None if its language is another VLQ's
    answer: str  # of the plain run
    rank: int
    sets: tuple[Taken, ...]
    left_out: int  # sets, or windows and strengths


def found_in(corpus: LocalCorpus, image: int) -> tuple[tuple[Found, ...], int]:
    """What studies found in an image, the newest first, and how many older ones are left out."""
    snapshot = corpus.cache.snapshot()
    studies = [one.study for one in reversed(snapshot.studies)]
    if not studies:
        return (), 0
    statement = Statement(
        'SELECT study, "set", kind, patches, before::DOUBLE - after::DOUBLE AS effect, rank_before, rank_after, '
        "answer_before, answer, gone, first_layer, last_layer, strength\nFROM read_parquet($effects)\n"
        'WHERE image_id = $image ORDER BY study, "set", first_layer, last_layer, strength',
        {"image": image},
        {EFFECTS: None},
    )
    rows: dict[str, Rows] = {}
    for row in named_rows(*corpus.engine.rows(statement, snapshot)):
        rows.setdefault(row["study"], []).append(row)
    found = [_found(study, rows[study.digest]) for study in studies if study.digest in rows]
    return tuple(found[:MOST_STUDIES]), max(0, len(found) - MOST_STUDIES)


def _found(study: Study, rows: Rows) -> Found:
    if study.intervention != "ablate":
        return _found_in_layers(study, rows)
    random = [row for row in rows if row["kind"] == RANDOM]
    others = [row for row in rows if row["kind"] in study.baselines and row["kind"] != RANDOM]
    chosen = [row for row in rows if row["kind"] not in study.baselines]
    chosen.sort(key=lambda row: (row["kind"] != CHOSEN, -row["effect"]))
    shown = [*map(_taken, chosen[:MOST_SETS]), *map(_taken, others), *([_random(random)] if random else [])]
    try:
        said = taken(study.patches, study.buffer, study.mode)
        said += "" if study.prompt is None else f", asked {study.prompt!r}"
    except VlqError:
        said = f"{study.patches}: {REPLACEMENTS[study.mode]}"
    return Found(
        True,
        said,
        _came(study.target, chosen[0]),
        question(study),
        rows[0]["answer_before"],
        rows[0]["rank_before"],
        tuple(shown),
        max(0, len(chosen) - MOST_SETS),
    )


def _found_in_layers(study: Study, rows: Rows) -> Found:
    """Of another intervention: what it did in each window of layers and strength, to all chosen patches together."""
    steps = [row for row in rows if row["set"] == CHOSEN]
    largest = sorted(steps, key=lambda row: -abs(row["effect"]))[:MOST_STEPS]
    target = measured(study.target)
    came = _came(target, largest[0])
    if len(steps) > 1:
        came = f"{target} changes most in {_where(largest[0])}: it {_changes(largest[0])}"
    shown = tuple(_taken({**row, "set": _where(row)}) for row in steps if row in largest)
    return Found(
        False,
        done_in(study),
        came,
        question(study),
        rows[0]["answer_before"],
        rows[0]["rank_before"],
        shown,
        len(steps) - len(shown),
    )


def _where(row: dict[str, Any]) -> str:
    strength = "" if row["strength"] is None else f", strength {row['strength']:g}"
    return layers_said((row["first_layer"], row["last_layer"])) + strength


def _changes(row: dict[str, Any]) -> str:
    return f"{'gains' if row['effect'] < 0 else 'loses'} {nats(abs(row['effect']))} nats"


def _came(target: str, row: dict[str, Any]) -> str:
    """ "'dog' loses 6.85 nats, and goes"."""
    how = f"{target} {_changes(row)}"
    if row["gone"] is None:
        return f"{how}; the answer never held it"
    return f"{how}, and {'goes' if row['gone'] else 'stays'}"


def _taken(row: dict[str, Any]) -> Taken:
    return Taken(
        row["set"],
        tuple(row["patches"]),
        f"{len(row['patches'])}",
        nats(row["effect"]),
        f"{row['rank_after']:,}",
        row["answer"],
        NEVER if row["gone"] is None else "goes" if row["gone"] else "stays",
    )


def _random(rows: Rows) -> Taken:
    """As many patches at random, again and again."""
    goes = [row["gone"] for row in rows]
    gone = NEVER if None in goes else f"goes in {sum(goes)} of {len(goes)}"
    counts = sorted({len(row["patches"]) for row in rows})
    return Taken(
        f"random, {len(rows)} times",
        (),
        "–".join(dict.fromkeys(f"{count}" for count in (counts[0], counts[-1]))),
        nats(fmean(row["effect"] for row in rows)),
        f"{fmean(row['rank_after'] for row in rows):,.0f}",
        "",
        gone,
    )
