"""effect: how much less probable a word becomes when chosen patches are taken from an image, where it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import fsum
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from vlq.query.against import percent, unknown
from vlq.query.bind import Bound, Others, Scope
from vlq.query.compile import Compiler, Relation
from vlq.query.effects import KINDS, PARTS, USUAL, asked_of, command, kinds_of, made_by, same_patches
from vlq.query.errors import VlqError
from vlq.query.functions.phrases import qualified
from vlq.query.functions.shared import AGAINST, IMAGES, PIECES
from vlq.query.mistakes.values import KIND_BY, NO_STUDY
from vlq.query.parameters import Choice, FromZero, Optional, Parameter, Tokens
from vlq.query.patches import Patches, PatchSet
from vlq.query.registry import Function
from vlq.query.schema import COMBINATIONS, MODES
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    from vlq.query.schema import Finished, Study

LISTED = 4
"""So many studies are named where none is what was asked for."""

MEASURED = "before, after, rank_before::BIGINT AS rank_before, rank_after::BIGINT AS rank_after"
"""SQL of what was measured, behind the effect."""

FIGURES = ("effect", "before", "after", "rank_before", "rank_after", "gone", "answer_before", "answer")
"""The columns that every set has."""

LOST = "before::DOUBLE - after::DOUBLE"
"""SQL of the effect."""


# --- which study -----------------------------------------------------------------------------------------------


def fitting(bound: Bound) -> list[Study]:
    """The finished studies that measure what is asked, the newest last; those of the very images that are asked for, or
    else of all images, behind the others."""
    patches, target = _written(bound, "ablate"), {*bound["on"].ids}
    found = [
        finished.study
        for finished in bound.scope.snapshot.studies
        if {*finished.study.target_ids} == target
        and (finished.study.mode, finished.study.buffer) == (bound["mode"], bound["buffer"])
        and bound["combinations"] in (None, finished.study.combinations)
        and bound["kind"] in (None, *kinds_of(finished.study))
        and same_patches(patches, finished.study.patches)
    ]
    images = bound.population if bound.split is None else bound.split.images
    asked = None if images is None else str(images.node)
    return sorted(found, key=lambda study: (study.images in (None, asked)) + (study.images == asked))


def _written(bound: Bound, name: str) -> Any:
    node = bound.call.get(name)
    assert node is not None
    return node


def study_of(bound: Bound) -> Study:
    """The one whose effects are asked for, the newest of several. Raises BadArgument if there is none."""
    if found := fitting(bound):
        return found[-1]
    scope, patches, target, kind = bound.scope, _written(bound, "ablate"), _written(bound, "on"), bound["kind"]
    combinations = bound["combinations"] or next((how for how in COMBINATIONS if kind in PARTS[how]), "all")
    options = {"mode": bound["mode"], "buffer": bound["buffer"], "combinations": combinations}
    more = {name: value for name, value in options.items() if value != USUAL[name]}
    if kind in ("register", "gradient"):
        more["baseline"] = f"random,{kind}"
    run = command(patches, target, scope.snapshot.cache.called, **more)
    others = list(dict.fromkeys(filter(None, map(_asked, reversed(scope.snapshot.studies)))))
    known = "".join(f"\nThere is {text}" for text in others[:LISTED])
    if len(others) > LISTED:
        known += f"\nand {count(len(others) - LISTED, 'other')}"
    said = ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "combinations")
    raise scope.error(NO_STUDY, bound.call, patches=patches, target=target, how=said, command=run, known=known)


def _asked(finished: Finished) -> str | None:
    """The question that asks for a study's effects; None if it is written in another VLQ's language."""
    try:
        return str(asked_of(finished.study))
    except VlqError:
        return None


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument if nobody has measured it."""
    if bound["kind"] is not None and bound["by"] == "image":
        raise scope.error(KIND_BY, bound.argument("kind"))
    study_of(bound)


# --- rows ------------------------------------------------------------------------------------------------------


def compile_effect(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image of the study, of all chosen patches together, or for each image and set of patches."""
    table = compiler.table(study_of(bound).table)
    images = [] if bound["images"] is None else [bound["images"].restriction(compiler)]
    if bound["by"] == "set":
        kinds = [] if bound["kind"] is None else [f"kind = {compiler.value('kind', bound['kind'])}"]
        where = f"\nWHERE {' AND '.join([*images, *kinds])}" if images or kinds else ""
        sql = f"""\
SELECT image, "set", kind, {LOST} AS effect, {MEASURED}, gone, answer_before, answer,
  patches::INTEGER[] AS patches
FROM (SELECT image_id AS image, * EXCLUDE (image_id) FROM {table}) AS effects{where}"""
        return Relation(sql, ("image", "set"), ("kind", *FIGURES, "patches"), "effect", mask="patches")
    where = " AND ".join(["\"set\" = 'all'", *images])
    sql = f"""\
WITH effects AS (
  SELECT image_id AS image, * EXCLUDE (image_id) FROM {table}
)
SELECT image, {LOST} AS effect, {MEASURED}, gone, answer_before, answer, random, random_gone,
  patches::INTEGER[] AS patches
FROM effects LEFT JOIN (
  SELECT image, fsum({LOST}) / count(*) AS random, avg(gone::INTEGER) AS random_gone
  FROM effects WHERE kind = 'random' GROUP BY image
) USING (image)
WHERE {where}"""
    columns = (*FIGURES, "random", "random_gone", "patches")
    return Relation(sql, ("image",), columns, "effect", ("answer.effect DESC",), mask="patches")


# --- in words --------------------------------------------------------------------------------------------------


def figures(effects: list[float], gone: list[float]) -> Summary:
    """Of images that have one effect each the median, and the share of the answers that lose the word, of those that
    had it: of each image whether it does, or the share of its sets that do it. Both with intervals."""
    from vlq.query.bootstrap import mean_interval, median_interval

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


def of_kind(rows: Rows) -> Summary:
    """`figures` of sets: an image counts once, with the means of its sets."""
    effects, gone = defaultdict(list), defaultdict(list)
    for row in rows:
        effects[row["image_id"]].append(row["effect"])
        if row["gone"] is not None:
            gone[row["image_id"]].append(float(row["gone"]))
    return {
        "images": len(effects),
        "sets": len(rows),
        **figures([*map(fmean, effects.values())], [*map(fmean, gone.values())]),
    }


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """In how many images it was measured; the median effect, how many answers lose the word, and the same of random
    patches; of sets the same by `kinds`."""
    if bound["by"] == "set":
        kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
        return {
            "images": images,
            "matched": len({row["image_id"] for row in rows}),
            "sets": len(rows),
            "kinds": {kind: of_kind(some) for kind, some in kinds.items() if some},
        }
    effects = [row["effect"] for row in rows]
    random = known(row["random"] for row in rows)
    return {
        "images": images,
        "matched": len(rows),
        "min": min(effects, default=None),
        "max": max(effects, default=None),
        **figures(effects, known(row["gone"] for row in rows)),
        "random": figures(random, known(row["random_gone"] for row in rows)) if random else None,
    }


def contrast(bound: Bound, summary: Summary, rows: Rows, others: Others) -> Summary:
    """What `against=` adds: the others' figures, and by how much these ones are larger."""
    from vlq.query import bootstrap

    against = summarise(bound, others.rows, others.images)
    if bound["by"] == "set":
        return {**summary, "against": against, "unknown": others.unknown}
    sides = [[row["effect"] for row in some] for some in (rows, others.rows)]
    shares = [(found["gone"], found["held"]) for found in (summary, against)]
    difference = {**bootstrap.difference(*sides), **bootstrap.share_difference(*shares)}
    return {**summary, "against": against, "difference": difference, "unknown": others.unknown}


def headline(bound: Bound, summary: Summary) -> str:
    patches: PatchSet = bound["ablate"]
    rings = f" and {count(bound['buffer'], 'ring')} around them" if bound["buffer"] else ""
    mode = f", {bound['mode']} in their place" if bound["mode"] != "mean" else ""
    taken = f"taking {patches.phrase}{rings} away{mode}{qualified(bound)}"
    if not summary["matched"]:
        return f"{taken}: measured in none of {count(summary['images'], 'image')}"
    if bound["by"] == "set":
        said = f"{taken}: median effect on {bound['on'].label} {_of_sets(summary)}"
        if "against" in summary:
            said += f"; without: {_of_sets(summary['against'])}"
        return said + unknown(summary)
    images = count(summary["matched"], "image")
    said = f"{taken}, in {images}: median effect on {bound['on'].label} {_said(summary)}"
    if summary["random"] is not None:
        said += f"; random patches {_said(summary['random'], whole=False)}"
    if "against" in summary:
        other = summary["against"]
        said += f"; without, in {count(other['matched'], 'image')}" + (f": {_said(other)}" if other["matched"] else "")
    return said + unknown(summary)


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


def notes(bound: Bound) -> list[str]:
    """Which study it is, where there are several, and what it does not know."""
    fit = fitting(bound)
    study = fit[-1]
    found = [*bound["ablate"].notes()]
    if len(fit) > 1:
        found.append(f"{len(fit)} studies measured this: these are the effects of {study.digest}.")
    if study.images is not None:
        found.append(f"The study is of images with {study.images}.")
    if missing := lacking(bound, study):
        run = made_by(study, bound.scope.snapshot.cache.called)
        found.append(
            f"{count(missing, 'image')} with such patches {'has' if missing == 1 else 'have'} no effects: not in the "
            f"study, cached since, or failed in it. To measure them: {run}"
        )
    return found


def lacking(bound: Bound, study: Study) -> int:
    """How many of the images that are asked for have patches such as were taken, and no effects."""
    compiler = Compiler()
    patches: PatchSet = bound["ablate"]
    of = f"image IN (SELECT image FROM ({patches.cells(compiler)}))" if patches.by_image else "true"
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
        Parameter("ablate", Patches(), "the patches that were taken away"),
        Parameter("on", Tokens(), "the word whose log-probability at the answer's first token was measured"),
        Parameter("mode", Choice(MODES), "what stood in their place: the corpus' mean patch, zero, or noise", "mean"),
        Parameter("buffer", FromZero(), "so many rings of neighbours were taken with them", 0),
        Parameter(
            "combinations",
            Optional(Choice(COMBINATIONS)),
            "a study that took them together only, regions in every combination, or single patches too; any by default",
            None,
        ),
        Parameter("by", Choice(("image", "set")), "a row for each image, or for each set taken from it", "image"),
        Parameter("kind", Optional(Choice(KINDS)), "of by='set' only sets of this kind", None),
        IMAGES,
        AGAINST,
        PIECES,
    ),
    positional=2,
    documentation="What taking patches away does to a word in the answer, where `vlq ablate` measured it, in nats.",
    example="effect(ablate=readings('dog'), on='dog')",
    check=check,
    compile=compile_effect,
    summarise=summarise,
    headline=headline,
    contrast=contrast,
    notes=notes,
)
