"""emergence: layer by layer, how many images and patches come to read each of several tokens."""

from __future__ import annotations

from dataclasses import replace

from vlq.query.functions.phrases import WHERE, qualified, unstored
from vlq.query.functions.shared import AGAINST, AT, IMAGES, LAYERS, MIN_PATCHES, MIN_PROB, PATCHES, PIECES, RANK
from vlq.query.functions.sources import check_min_patches, check_site, token_counts
from vlq.query.language.against import Split, matched_share, share_intervals_sql, unknown
from vlq.query.language.bind import Bound, Others, Scope
from vlq.query.language.compile import Compiler, Relation, indented
from vlq.query.language.parameters import Parameter, TokenSets
from vlq.query.language.registry import Function
from vlq.query.language.tokens import TokenSet
from vlq.query.summary import Rows, Summary, count, placed

NAMED = 6
"""So many tokens are named in the sentence."""

COUNTED = {"patch": ("patches",), "prompt": ("positions",), "last": (), "answer": ("positions",)}
"""The column that counts positions, by `at`: at the last prompt token there is one an image."""


def token_sets(bound: Bound) -> tuple[TokenSet, ...]:
    sets: tuple[TokenSet, ...] = bound["token"]
    return sets


def check(bound: Bound, scope: Scope) -> None:
    check_site(bound, scope)
    check_min_patches(bound, scope, bound.run.positions[bound["at"]], f"at='{bound['at']}' a layer")


def compile_emergence(bound: Bound, compiler: Compiler) -> Relation:
    """The layers' counts; held against other images theirs too, and the shares of both with their intervals."""
    relation = _counted(bound, compiler)
    return relation if bound.split is None else _with_others(bound, bound.split, relation, compiler)


def _counted(bound: Bound, compiler: Compiler) -> Relation:
    """Each token's layers, those that nothing reads included.

    Counted together are a token's readings, its images at their first layers, and all layers, each as rows of their
    own: a plan without joins, which would take longer than a word's readings. One token takes no `place` among several.
    """
    sets = token_sets(bound)
    counts = [token_counts(bound.given(token=tokens), compiler) for tokens in sets]
    layers = f"SELECT unnest({compiler.value('counted', list(bound.layers.layers))})::INTEGER AS layer"
    if len(sets) == 1:
        readings, place, key, among = counts[0], "0 AS place", "", ""
        token = compiler.value("label", sets[0].label)
    else:
        places = [compiler.value("place", place) for place in range(len(sets))]
        parts = [
            f"SELECT {place} AS place, * FROM (\n  {indented(sql)}\n)"
            for place, sql in zip(places, counts, strict=True)
        ]
        readings = f"{chr(10)}UNION ALL{chr(10)}".join(parts)
        place, key, among = "place", "place, ", "PARTITION BY place "
        layers = f"SELECT unnest([{', '.join(places)}]) AS place, layer FROM ({layers})"
        token = f"{compiler.value('labels', [tokens.label for tokens in sets])}[place + 1]"
    positions = "".join(f", coalesce(sum(n), 0)::BIGINT AS {name}" for name in COUNTED[bound["at"]])
    sql = f"""\
WITH readings AS MATERIALIZED (
  {indented(readings)}
), counted AS (
  SELECT {key}layer, n, NULL AS first FROM readings
  UNION ALL
  SELECT {key}min(layer), NULL, 1 FROM readings GROUP BY {key}image
  UNION ALL
  SELECT *, NULL, NULL FROM ({layers})
)
SELECT {place}, {token} AS token, layer, count(n) AS images, count(first) AS new,
  sum(count(first)) OVER ({among}ORDER BY layer)::BIGINT AS so_far{positions}
FROM counted GROUP BY {key}layer"""
    columns = ("images", "new", "so_far", *COUNTED[bound["at"]])
    return Relation(sql, ("token", "layer"), columns, "images", ("answer.place", "answer.layer"))


def _with_others(bound: Bound, split: Split, relation: Relation, compiler: Compiler) -> Relation:
    """The others' counts beside the chosen images'; an interval follows from how many images read, of how many."""
    others = _counted(bound.of_others(split), compiler)
    chosen_images = compiler.count_images(*bound.has_readings, split.chosen.sql(compiler))
    other_images = compiler.count_images(*bound.has_readings, split.others.sql(compiler))
    intervals = share_intervals_sql(
        "SELECT images AS matched, chosen AS images FROM sides UNION SELECT against_images, others FROM sides", compiler
    )
    sql = f"""\
WITH sides AS (
  SELECT own.*, other.images AS against_images, other.so_far AS against_so_far,
    {indented(indented(chosen_images))} AS chosen, {indented(indented(other_images))} AS others
  FROM {indented(relation.part())} AS own JOIN {indented(others.part())} AS other USING (place, token, layer)
), intervals AS (
  {indented(intervals)}
)
SELECT sides.*, sides.images / nullif(chosen, 0) AS share, coalesce(own.low, share) AS low,
  coalesce(own.high, share) AS high, against_images / nullif(others, 0) AS against_share,
  coalesce(other.low, against_share) AS against_low, coalesce(other.high, against_share) AS against_high
FROM sides
LEFT JOIN intervals AS own ON own.matched = sides.images AND own.images = chosen
LEFT JOIN intervals AS other ON other.matched = against_images AND other.images = others"""
    shares = ("share", "low", "high")
    of_others = [f"against_{name}" for name in ("images", "so_far", *shares)]
    return replace(relation, sql=sql, columns=(*relation.columns, *shares, *of_others))


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """For each token: how many images come to read it, at which layer first, and by which layer half of them do."""
    return {"images": images, "tokens": _tokens(bound, rows, "so_far")}


def _tokens(bound: Bound, rows: Rows, so_far: str) -> dict[str, Summary]:
    tokens = {}
    for found in token_sets(bound):
        layers = sorted((row for row in rows if row["token"] == found.label), key=lambda row: row["layer"])
        reading = [row for row in layers if row[so_far]]
        matched = reading[-1][so_far] if reading else 0
        tokens[found.label] = {
            "matched": matched,
            "half": next((row["layer"] for row in reading if 2 * row[so_far] >= matched), None),
            "first": reading[0]["layer"] if reading else None,
        }
    return tokens


def contrast(bound: Bound, summary: Summary, rows: Rows, others: Others) -> Summary:
    """For each token the others' figures, the shares of images that come to read it, and their difference."""
    from vlq.query.statistics import bootstrap

    tokens, against = {}, {}
    for label, other in _tokens(bound, rows, "against_so_far").items():
        found = summary["tokens"][label]
        here, there = (found["matched"], summary["images"]), (other["matched"], others.images)
        tokens[label] = {**found, **bootstrap.share(*here), "difference": bootstrap.share_difference(here, there)}
        against[label] = {**other, **bootstrap.share(*there)}
    return {
        **summary,
        "tokens": tokens,
        "against": {"images": others.images, "tokens": against, **others.placed},
        "unknown": others.unknown,
    }


def headline(bound: Bound, summary: Summary) -> str:
    """For each token how many images, and the layer by which half of them read it."""
    images, where = count(summary["images"], "image"), WHERE[bound["at"]]
    highest = bound.layers.highest
    end = "the last layer" if highest == bound.run.layers - 1 else f"layer {highest}"
    against = summary.get("against")
    parts: list[str] = []
    for label, found in summary["tokens"].items():
        matched, half = found["matched"], found["half"]
        if parts:
            part = f"in {matched:,}, half by layer {half}" if matched else "in none"
        elif matched:
            part = f"read{where} in {matched:,} of {images} by {end}, half of them by layer {half}"
        else:
            part = f"read{where} in none of {images}"
        if against is not None:
            part += f", without: {matched_share(against['tokens'][label], against['images'])}"
        parts.append(f"{label}: {part}")
    more = f"; and {count(len(parts) - NAMED, 'token')} more" if len(parts) > NAMED else ""
    return "; ".join(parts[:NAMED]) + more + qualified(bound) + placed(summary) + unknown(summary)


def notes(bound: Bound) -> list[str]:
    return list(dict.fromkeys(note for tokens in token_sets(bound) for note in unstored(bound.given(token=tokens))))


EMERGENCE = Function(
    name="emergence",
    parameters=(
        Parameter("token", TokenSets(), "what is looked for; a list's items stand side by side, a list in it as one"),
        RANK,
        MIN_PROB,
        LAYERS,
        AT,
        PATCHES,
        MIN_PATCHES,
        IMAGES,
        AGAINST,
        PIECES,
    ),
    positional=1,
    documentation="Layer by layer, how many images and patches read each token: all, for the first time, and so far.",
    example="emergence(['dog', 'ear', ['rock', 'tree']], min_prob=0.5)",
    check=check,
    compile=compile_emergence,
    summarise=summarise,
    headline=headline,
    contrast=contrast,
    shows_others=True,
    notes=notes,
)
