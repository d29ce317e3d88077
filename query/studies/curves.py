"""A finished study in windows of layers, or of several strengths, as its command shows it: a row for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vlq.query.functions.effect import by_image, of_images, steps_phrase
from vlq.query.language.effects import CHOSEN, KINDS, asked_of, done_in, window_phrase
from vlq.query.schema import RANDOM, Study
from vlq.query.summary import Rows, count


def steps_of(study: Study, effects: pa.Table) -> list[dict[str, Any]]:
    """The figures of each window, strength and kind of set, as `effect` has them `by` one of these: of several sets of
    an image the mean counts once, and those of random patches stand beside the others."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in effects.to_pylist():
        row = {**row, "effect": row["before"] - row["after"]}
        if row["source_logprob"] is not None:
            between = row["before"] - row["source_logprob"]
            row["share"] = row["effect"] / between if between else None
        key = row["first_layer"], row["last_layer"], row["strength"], row["kind"]
        groups.setdefault(key, []).append(row)
    found = []
    for layer, last, strength in sorted({key[:3] for key in groups}, key=lambda key: (key[0], key[2] or 0)):
        random = by_image(groups.get((layer, last, strength, RANDOM), []))
        for kind in KINDS:
            if kind == RANDOM or not (rows := by_image(groups.get((layer, last, strength, kind), []))):
                continue
            for image, row in rows.items():
                other = random.get(image, {})
                row |= {"random": other.get("effect"), "random_gone": other.get("gone")}
            figures = of_images(list(rows.values()))
            where = {"layer": layer, "last_layer": last, "strength": strength, "kind": kind}
            first = sum(row["rank_after"] == 1 for row in groups[layer, last, strength, kind])
            found.append({**where, "images": len(rows), **figures, "first": first})
    return found


def rows_of(study: Study, steps: list[dict[str, Any]]) -> Rows:
    """The same as rows for a person: the median effect with the ends of its interval, and what it is held against; of a
    knockout how many answers the word goes from, `of` those that held it, of other changes how many begin with it."""
    several_kinds = len({step["kind"] for step in steps}) > 1
    rows = []
    for step in steps:
        row: dict[str, Any] = {"layers": window_phrase((step["layer"], step["last_layer"]))}
        row |= {"strength": step["strength"]} if study.intervention == "steer" else {}
        row |= {"set": step["kind"]} if several_kinds else {}
        low, high = step["median_interval"]
        row |= {"images": step["images"], "effect": step["median"], "low": low, "high": high}
        if study.intervention == "patch":
            ends = step["median_share_interval"] or (None, None)
            row |= {"share": step["median_share"], "share_low": ends[0], "share_high": ends[1]}
        elif study.baselines[:1] == (RANDOM,):
            row["random"] = None if step["random"] is None else step["random"]["median"]
        if study.intervention == "knockout":
            rows.append({**row, "gone": step["gone"], "of": step["held"]})
        else:
            rows.append({**row, "first": step["first"]})
    return rows


def headline(study: Study, steps: list[dict[str, Any]], word: str) -> str:
    """What was done, and where it matters most and least to a word."""
    chosen = [step for step in steps if step["kind"] == CHOSEN]
    at = ""
    if len(study.windows) > 1 and len(study.strengths) > 1:
        at = f", at strength {study.strengths[-1]:g}"
        chosen = [step for step in chosen if step["strength"] == chosen[-1]["strength"]]
    by = "strength" if len(study.windows) == 1 and study.strengths else "layer"
    images = count(max(step["images"] for step in chosen), "image")
    found = steps_phrase(chosen, word, study.intervention, by)
    return f"{done_in(study)}, in {images}{at}: {found}"


def query_of(study: Study) -> str:
    """The query that asks for a study's effects: what was done comes first."""
    given = [f"{name}={value}" for name, value in asked_of(study).arguments]
    return f"effect({', '.join(sorted(given, key=lambda text: not text.startswith(study.intervention)))})"


def summary_of(study: Study, steps: list[dict[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "query": query_of(study),
        "study": study.digest,
        **{name: getattr(study, name) for name in ("intervention", "patches", "target", "to", "others", "source")},
        "condition": study.images,
        "images": len(names),
        "steps": steps,
    }
