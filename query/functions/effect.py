"""effect: how much less probable a word becomes when chosen patches are taken from an image, where it was measured."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from vlq.query.functions.measured import check, done, fitting, strengths_of, study_of, windows_of
from vlq.query.functions.phrases import qualified
from vlq.query.functions.shared import AGAINST, IMAGES, PIECES
from vlq.query.language.against import percent, unknown
from vlq.query.language.bind import Bound, Others
from vlq.query.language.compile import Compiler, Relation
from vlq.query.language.effects import KINDS, SEEING, layers_said, made_by
from vlq.query.language.parameters import (
    AnswerTokens,
    Choice,
    Count,
    Flag,
    FromZero,
    ModelLayers,
    Number,
    Optional,
    Parameter,
    SourceText,
    Text,
    Tokens,
)
from vlq.query.language.patches import Patches, PatchSet, Places
from vlq.query.language.registry import Function
from vlq.query.schema import COMBINATIONS, MODES, TO
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    from vlq.query.schema import Study

MEASURED = "before, after, rank_before::BIGINT AS rank_before, rank_after::BIGINT AS rank_after"
"""SQL of what was measured, behind the effect."""

FIGURES = ("effect", "before", "after", "rank_before", "rank_after", "gone", "answer_before", "answer")
"""The columns that every set has."""

LOST = "before::DOUBLE - after::DOUBLE"
"""SQL of the effect."""


# --- rows ------------------------------------------------------------------------------------------------------


def compile_effect(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image of the study, of all chosen patches together; for each image and set of patches; or for each
    image and window of layers, or strength."""
    study, by = study_of(bound), bound["by"]
    table = compiler.table(study.table)
    images = [] if bound["images"] is None else [bound["images"].restriction(compiler)]
    parts = _parts(bound, study, compiler)
    own = f"SELECT image_id AS image, * EXCLUDE (image_id) FROM {table}" + _where(parts)
    if by == "set":
        kinds = [] if bound["kind"] is None else [f"kind = {compiler.value('kind', bound['kind'])}"]
        sql = f"""\
SELECT image, "set", kind, {LOST} AS effect, {MEASURED}, gone, answer_before, answer,
  patches::INTEGER[] AS patches
FROM ({own}) AS effects{_where([*images, *kinds])}"""
        return Relation(sql, ("image", "set"), ("kind", *FIGURES, "patches"), "effect", mask="patches")
    key = STEPS.get(by, ())
    keys = ("image", by) if key else ("image",)
    columns: tuple[str, ...] = FIGURES
    step = "".join(f", {sql} AS {name}" for name, sql in key)
    if study.intervention in ("steer", "patch"):
        more = (
            ", source, source_logprob, (before::DOUBLE - after) / nullif(before::DOUBLE - source_logprob, 0) AS share"
        )
        is_patch = study.intervention == "patch"
        sql = f"""\
SELECT image{step}, {LOST} AS effect, {MEASURED}, gone, answer_before, answer{more if is_patch else ""},
  patches::INTEGER[] AS patches
FROM ({own}) AS effects{_where(images)}"""
        columns += ("source", "source_logprob", "share") if is_patch else ()
    else:
        join = "image, first_layer" if key else "image"
        sql = f"""\
WITH effects AS (
  {own}
)
SELECT image{step}, {LOST} AS effect, {MEASURED}, gone, answer_before, answer, random, random_gone,
  patches::INTEGER[] AS patches
FROM effects LEFT JOIN (
  SELECT {join}, fsum({LOST}) / count(*) AS random, avg(gone::INTEGER) AS random_gone
  FROM effects WHERE kind = 'random' GROUP BY {join}
) USING ({join}){_where(['"set" = ' + "'all'", *images])}"""
        columns += ("random", "random_gone")
    columns = (*(name for name, _ in key[1:]), *columns, "patches")
    return Relation(sql, keys, columns, "effect", () if key else ("answer.effect DESC",), mask="patches")


STEPS = {
    "layer": (("layer", "first_layer::INTEGER"), ("last_layer", "last_layer::INTEGER")),
    "strength": (("strength", "strength::DOUBLE"),),
}
"""Of what there is a row for each image `by` these: the key, and what belongs to it, with their SQL."""


def _parts(bound: Bound, study: Study, compiler: Compiler) -> list[str]:
    """The conditions that rows are of the windows and the strength that are asked for; none where all are."""
    found = []
    if len(windows := windows_of(bound, study)) < len(study.windows):
        firsts = [first for first, _ in windows]  # of a study they differ
        found.append(f"first_layer IN (SELECT unnest({compiler.value('first_layers', firsts)}))")
    if len(strengths := strengths_of(bound, study)) < len(study.strengths):
        found.append(f"strength = {compiler.value('strength', strengths[0])}::FLOAT")
    return found


def _where(conditions: list[str]) -> str:
    return f"\nWHERE {' AND '.join(conditions)}" if conditions else ""


# --- in words --------------------------------------------------------------------------------------------------


def figures(effects: list[float], gone: list[float]) -> Summary:
    """Of images that have one effect each the median, and the share of the answers that lose the word, of those that
    had it: of each image whether it does, or the share of its sets that do it. Both with intervals."""
    from vlq.query.statistics.bootstrap import mean_interval, median_interval

    total = fsum(gone)
    return {
        "median": median(effects) if effects else None,
        "median_interval": median_interval(effects),
        "held": len(gone),
        "gone": int(total) if total.is_integer() else total,
        "share": fmean(gone) if gone else None,
        "share_interval": mean_interval(gone),
    }


def known(values: Iterable[Any]) -> list[float]:
    """Those that are there, truth as 0 and 1."""
    return [float(value) for value in values if value is not None]


def by_image(rows: Rows) -> dict[int, Summary]:
    """By image the mean effect of its sets, the share of them in which the word goes (null where the answer never held
    it), and of states put in the share of the way."""
    found: dict[int, Rows] = {}
    for row in rows:
        found.setdefault(row["image_id"], []).append(row)
    means = {}
    for image, some in found.items():
        gone = known(row["gone"] for row in some)
        means[image] = {"effect": fmean(row["effect"] for row in some), "gone": fmean(gone) if gone else None}
        means[image] |= {"share": some[0]["share"]} if "share" in some[0] else {}
    return means


def of_kind(rows: Rows) -> Summary:
    """`figures` of sets: an image counts once, with the means of its sets."""
    means = by_image(rows).values()
    return {
        "images": len(means),
        "sets": len(rows),
        **figures([one["effect"] for one in means], known(one["gone"] for one in means)),
    }


def of_images(rows: Rows) -> Summary:
    """`figures` of images that have one row each; of random patches the same, and of states put in the median share of
    the way that the word went to where the source has it."""
    random = known(row.get("random") for row in rows)
    found = {
        **figures([row["effect"] for row in rows], known(row["gone"] for row in rows)),
        "random": figures(random, known(row.get("random_gone") for row in rows)) if random else None,
    }
    if rows and "share" in rows[0]:
        from vlq.query.statistics.bootstrap import median_interval

        shares = known(row["share"] for row in rows)
        found["median_share"] = median(shares) if shares else None
        found["median_share_interval"] = median_interval(shares)
    return found


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """In how many images it was measured; the median effect, how many answers lose the word, and the same of random
    patches; of sets the same by `kinds`, of windows of layers and strengths by `steps`."""
    by = bound["by"]
    if by == "image":
        effects = [row["effect"] for row in rows]
        ends = {"min": min(effects, default=None), "max": max(effects, default=None)}
        return {"images": images, "matched": len(rows), **ends, **of_images(rows)}
    found = {"images": images, "matched": len({row["image_id"] for row in rows})}
    if by == "set":
        kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
        return {**found, "sets": len(rows), "kinds": {kind: of_kind(some) for kind, some in kinds.items() if some}}
    steps: dict[Any, Rows] = {}
    for row in rows:
        steps.setdefault(row[by], []).append(row)
    names = [name for name, _ in STEPS[by]]
    return {
        **found,
        "steps": [
            {**{name: some[0][name] for name in names}, "images": len(some), **of_images(some)}
            for _, some in sorted(steps.items())
        ],
    }


def contrast(bound: Bound, summary: Summary, rows: Rows, others: Others) -> Summary:
    """What `against=` adds: the others' figures, and by how much these ones are larger."""
    from vlq.query.statistics import bootstrap

    against = summarise(bound, others.rows, others.images)
    if bound["by"] != "image":
        return {**summary, "against": against, "unknown": others.unknown}
    sides = [[row["effect"] for row in some] for some in (rows, others.rows)]
    shares = [(found["gone"], found["held"]) for found in (summary, against)]
    difference = {**bootstrap.difference(*sides), **bootstrap.share_difference(*shares)}
    return {**summary, "against": against, "difference": difference, "unknown": others.unknown}


def said(bound: Bound) -> str:
    """What was done, in words: "taking patches of readings('rock') away"."""
    what = done(bound)
    rings = f" and {count(bound['buffer'], 'ring')} around them" if bound["buffer"] else ""
    if what == "ablate":
        mode = f", {bound['mode']} in their place" if bound["mode"] != "mean" else ""
        return f"taking {bound['ablate'].phrase}{rings} away{mode}"
    if what == "knockout":
        but = "all but " if bound["others"] else ""
        found = f"cutting {but}{bound['knockout'].phrase}{rings} off from {SEEING[bound['to']]}"
    else:
        where = bound["place"]
        place = {"last": "the last token", "patches": "all patches"}.get(where) if isinstance(where, str) else None
        added = bound["steer"].label if what == "steer" else f"states of {bound['patch']}"
        found = f"{'adding' if what == 'steer' else 'putting'} {added}{'' if what == 'steer' else ' in'} at " + (
            place or where.phrase
        )
    study = study_of(bound)
    windows, strengths = windows_of(bound, study), strengths_of(bound, study)
    if len(windows) == 1:
        found += f" in {layers_said(windows[0])}"
    if len(strengths) == 1:
        found += f", strength {strengths[0]:g}"
    return found


def word_of(bound: Bound) -> str:
    """What was measured, in words."""
    on = bound["on"] or bound["steer"]
    return "the source's answer" if on is None else on.label


def headline(bound: Bound, summary: Summary) -> str:
    asked = "" if bound["prompt"] is None else f", asked {bound['prompt']!r}"
    taken = f"{said(bound)}{asked}{qualified(bound.given(layers=None))}"
    if not summary["matched"]:
        return f"{taken}: measured in none of {count(summary['images'], 'image')}"
    if bound["by"] == "set":
        found = f"{taken}: median effect on {word_of(bound)} {_of_sets(summary)}"
        if "against" in summary:
            found += f"; without: {_of_sets(summary['against'])}"
        return found + unknown(summary)
    images = count(summary["matched"], "image")
    if bound["by"] != "image":
        found = f"{taken}, in {images}: {_of_steps(bound, summary)}"
        if "against" in summary:
            other = summary["against"]
            found += f"; without, in {count(other['matched'], 'image')}: {_of_steps(bound, other)}"
        return found + unknown(summary)
    found = f"{taken}, in {images}: median effect on {word_of(bound)} {_said(summary)}"
    if summary["random"] is not None:
        found += f"; random patches {_said(summary['random'], whole=False)}"
    if "against" in summary:
        other = summary["against"]
        found += f"; without, in {count(other['matched'], 'image')}" + (f": {_said(other)}" if other["matched"] else "")
    return found + unknown(summary)


def _of_steps(bound: Bound, summary: Summary) -> str:
    return steps_phrase(summary["steps"], word_of(bound), done(bound), bound["by"])


def steps_phrase(steps: list[Summary], word: str, what: str, by: str) -> str:
    """'dog loses most in layers 7-8, median 3.67 nats (95% 2.1 to 4.4), least in layers 1-2, median 0 nats (...)'; of
    states put in from which layer on half of the way is gone."""
    if not steps:
        return "measured in none"
    if what == "patch":
        shares = [step for step in steps if step["median_share"] is not None]
        if not shares:
            return f"{word} is as probable in both"
        half = next((step for step in shares if step["median_share"] >= 0.5), None)
        step = half or max(shares, key=lambda step: step["median_share"])
        low, high = step["median_share_interval"]
        reached = f"the median share is {step['median_share']:.2f} there (95% {low:.2f} to {high:.2f})"
        if half is None:
            way = "nowhere half of the way to where the source has it"
            return f"{word} goes {way}, furthest at layer {step['layer']}: {reached}"
        return f"{word} goes half of the way to where the source has it from layer {step['layer']} on: {reached}"
    gains = all(step["median"] <= 0 for step in steps) and any(step["median"] for step in steps)
    ordered = sorted(steps, key=lambda step: step["median"] if gains else -step["median"])
    parts = [f"{word} {'gains' if gains else 'loses'}"]
    for step, extreme in zip((ordered[0], ordered[-1]), ("most", "least"), strict=True):
        ends = step["median_interval"]
        middle, low, high = (-value if gains else value for value in (step["median"], *(ends[::-1] if gains else ends)))
        if by == "strength":
            where = f"at strength {step['strength']:g}"
        else:
            where = f"in {layers_said((step['layer'], step['last_layer']))}"
        amount = f"{nats(middle)} nats (95% {nats(low)} to {nats(high)})"
        parts.append(f"{amount} {where}" if len(steps) == 1 else f"{extreme} {where}, {amount}")
        if len(steps) == 1:
            return " ".join(parts)
    return f"{' '.join(parts[:2])}; {parts[2]}"


def _of_sets(summary: Summary) -> str:
    if not summary["matched"]:
        return "measured in none"
    sets = f"{count(summary['sets'], 'set')} of {count(summary['matched'], 'image')}"
    kinds = [
        f"{kind} {_said(found, whole=found['sets'] == found['images'])}" for kind, found in summary["kinds"].items()
    ]
    return f"in {sets}: {'; '.join(kinds)}"


def _said(found: Summary, whole: bool = True) -> str:
    """'3.1 nats (95% 2.4 to 3.9), the word goes in 61 of 70 answers'; of shares of sets the percentage."""
    low, high = found["median_interval"]
    said = f"{nats(found['median'])} nats (95% {nats(low)} to {nats(high)})"
    if not found["held"]:
        return f"{said}, no answer held the word"
    held = count(found["held"], "answer")
    if whole:
        return f"{said}, the word goes in {found['gone']:,} of {held}"
    return f"{said}, the word goes in {percent(found['share'])} of {held}"


def nats(value: float) -> str:
    """3.1416 -> '3.14', 0.0213 -> '0.021'."""
    return f"{value:.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"


def patches_of(bound: Bound) -> PatchSet | None:
    """The patches that something was done to, or at; None: the last token, or all patches."""
    found = bound[done(bound)] if done(bound) in ("ablate", "knockout") else bound["place"]
    return None if isinstance(found, str) else found


def notes(bound: Bound) -> list[str]:
    """Which study it is, where there are several, and what it does not know."""
    fit, patches = fitting(bound), patches_of(bound)
    study = fit[-1]
    found = [] if patches is None else patches.notes()
    if len(fit) > 1:
        found.append(f"{len(fit)} studies measured this: these are the effects of {study.digest}.")
    if study.images is not None:
        found.append(f"The study is of images with {study.images}.")
    if missing := lacking(bound, study):
        run = made_by(study, bound.scope.snapshot.cache)
        found.append(
            f"{count(missing, 'image')} with such patches {'has' if missing == 1 else 'have'} no effects: not in the "
            f"study, cached since, or failed in it. To measure them: {run}"
        )
    return found


def lacking(bound: Bound, study: Study) -> int:
    """How many of the images that are asked for have patches such as were taken, and no effects."""
    compiler, patches = Compiler(), patches_of(bound)
    some = patches is not None and patches.by_image
    of = f"image IN (SELECT image FROM ({patches.cells(compiler)}))" if some and patches is not None else "true"
    images = "" if bound["images"] is None else f" AND {bound['images'].restriction(compiler)}"
    ((missing,),) = bound.scope.ask(
        compiler.ask(f"""\
SELECT count(*) FROM (
  SELECT image_id AS image FROM {compiler.table("images")} WHERE error IS NULL
) ANTI JOIN (SELECT image_id AS image FROM {compiler.table(study.table)}) USING (image)
WHERE {of}{images}""")
    )
    return int(missing)


EFFECT = Function(
    name="effect",
    parameters=(
        Parameter("ablate", Patches(), "the patches that were taken away", None),
        Parameter(
            "on",
            Optional(AnswerTokens()),
            "the word whose log-probability at the answer's first token was measured; by default the token that was "
            "added, or the first of the source's answer",
            None,
        ),
        Parameter("knockout", Patches(), "or those that attention was cut to", None),
        Parameter("steer", Optional(Tokens()), "or the token whose direction was added", None),
        Parameter("patch", Optional(SourceText()), "or whose states were put in: as `vlq patch --source` has it", None),
        Parameter("mode", Choice(MODES), "what stood in their place: the corpus' mean patch, zero, or noise", "mean"),
        Parameter("buffer", FromZero(), "so many rings of neighbours were taken, or cut off, with them", 0),
        Parameter(
            "combinations",
            Optional(Choice(COMBINATIONS)),
            "a study that took them together only, regions in every combination, or single patches too; any by default",
            None,
        ),
        Parameter("to", Choice(TO), "of a knockout: who no longer saw them", "last"),
        Parameter("others", Flag(), "all patches but these were cut off", False),
        Parameter("place", Places(), "where a direction was added, or states were put in", "last"),
        Parameter(
            "layers",
            ModelLayers(),
            "the layers in which it was done; with by='layer' all windows within these",
            None,
        ),
        Parameter("window", Optional(Count()), "a study in windows of so many layers; any by default", None),
        Parameter("strength", Optional(Number()), "how long the direction was, in lengths of the states", None),
        Parameter("prompt", Optional(Text()), "what images were asked instead of the run's prompt (`--prompt`)", None),
        Parameter(
            "by",
            Choice(("image", "set", "layer", "strength")),
            "a row for each image, or for each of its sets, windows of layers, or strengths",
            "image",
        ),
        Parameter("kind", Optional(Choice(KINDS)), "of by='set' only sets of this kind", None),
        IMAGES,
        AGAINST,
        PIECES,
    ),
    positional=2,
    documentation="What taking patches away, or another intervention, does to a word in the answer, in nats.",
    example="effect(ablate=readings('dog'), on='dog')",
    check=check,
    compile=compile_effect,
    summarise=summarise,
    headline=headline,
    contrast=contrast,
    notes=notes,
)
