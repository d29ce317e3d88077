"""prominence: how large the objects of each image are, how widely read, how soon mentioned, and how much needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.errors import VlqError
from vlq.query.functions.phrases import qualified
from vlq.query.functions.shared import IMAGES, LAYERS, PIECES
from vlq.query.functions.sources import asked, check_site
from vlq.query.language.against import percent
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import Compiler, Derived, Relation, Statement, indented
from vlq.query.language.effects import asked_of, typed
from vlq.query.language.nodes import Literal
from vlq.query.language.parameters import AnswerTokens, Optional, Parameter, TokenSets
from vlq.query.language.parse import parse
from vlq.query.language.patches import Asked, Labelled, Patches
from vlq.query.language.registry import Function
from vlq.query.language.tokens import TokenSet, Vocabulary
from vlq.query.language.truth import OBJECTS, named, truth_of
from vlq.query.mistakes.values import NO_WORDS
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot
    from vlq.query.schema import Study

NAMED = 3
"""So many words are named where there may be many."""


@dataclass(frozen=True)
class Word:
    """What objects are called: its tokens, none if the vocabulary has none, and the labels of such objects."""

    name: str
    ids: tuple[int, ...]
    labels: tuple[str, ...]
    only_first: tuple[int, ...] = ()  # tokens that say it where an answer begins, and nowhere else


def words_of(bound: Bound) -> list[Word]:
    """The words that are asked for, by default every label of the images' objects."""
    given: tuple[TokenSet, ...] | None = bound["words"]
    known = bound.scope.labels() if truth_of(bound.scope) else []
    if given is None:
        vocabulary, pieces = bound.scope.vocabulary, bound["pieces"]
        alike = defaultdict[str, list[str]](list)
        for label in known:
            alike[label.casefold()].append(label)
        words = {labels[-1].lower(): tuple(labels) for labels in alike.values()}
        return [_labelled(name, words[name], vocabulary, pieces) for name in sorted(words)]
    return [
        Word(tokens.label, tuple(sorted(tokens.anywhere)), tuple(named(tokens.words, known)), tokens.only_first)
        for tokens in given
    ]


def _labelled(name: str, labels: tuple[str, ...], vocabulary: Vocabulary, pieces: bool) -> Word:
    ids = sorted(vocabulary.by_word(name, pieces))
    only_first = sorted({*vocabulary.by_word(name, pieces=True)}.difference(ids)) if ids else []
    return Word(name, tuple(ids), labels, tuple(only_first))


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument without patches' readings, or if no words are given and no objects tell any."""
    check_site(bound.given(at="patch"), scope)
    if bound["words"] is None and not truth_of(scope):
        raise scope.error(NO_WORDS, bound.call)


def studies_of(bound: Bound, words: Sequence[Word]) -> dict[str, Study]:
    """By words, the study that says what removing such an object does to the word: the newest that took the patches of
    objects of its labels, else the newest that took those that a query about its tokens found."""
    found: dict[str, tuple[bool, Study]] = {}
    for finished in bound.scope.snapshot.studies:
        study = finished.study
        for word in words:
            is_other = study.intervention != "ablate" or study.prompt is not None
            if is_other or not word.ids or study.anywhere != {*word.ids}:
                continue
            by_label = _chooses(study, word, bound.scope)
            if by_label is not None and (by_label or not found.get(word.name, (False, study))[0]):
                found[word.name] = by_label, study
    return {word.name: found[word.name][1] for word in words if word.name in found}


def _chooses(study: Study, word: Word, scope: Scope) -> bool | None:
    """Whether a study took a word's objects by their label, or else by what reads its tokens; None if by neither."""
    try:
        patches = Patches().bind(parse(study.patches), "patches", scope)
    except VlqError:  # another VLQ's language
        return None
    match patches:
        case Labelled(labels=labels):
            return True if {*labels} & {*word.labels} else None
        case Asked(token_sets=sets) if sets and all({*tokens.ids} <= {*word.ids} for tokens in sets):
            return False
    return None


# --- rows ------------------------------------------------------------------------------------------------------


def _pairs(words: Sequence[Word], what: str, compiler: Compiler) -> str:
    """SELECT of each word, as `object`, with each of its labels, its tokens, or those that say it only `first`."""
    column, kind = ("label", "VARCHAR[]") if what == "label" else ("token", "UINTEGER[]")
    own = [(word.name, {"label": word.labels, "token": word.ids, "first": word.only_first}[what]) for word in words]
    pairs = [(name, item) for name, items in own for item in items]
    names, items = [name for name, _ in pairs], [item for _, item in pairs]
    return (
        f"SELECT unnest({compiler.value('objects', names)}::VARCHAR[]) AS object, "
        f"unnest({compiler.value(f'{what}s', items)}::{kind}) AS {column}"
    )


def placed_objects(bound: Bound, words: Sequence[Word]) -> Statement:
    """Where objects of these words are: image, object, width, height, box, mask_rle, and what errors call them by."""
    compiler, truth = Compiler(), truth_of(bound.scope)
    box = "item.box::DOUBLE[]" if truth.boxes else "NULL::DOUBLE[]"
    mask = "item.mask_rle" if truth.masks else "NULL"
    images = "" if bound["images"] is None else f" AND ({bound['images'].sql(compiler)})"
    return compiler.ask(f"""\
SELECT image_id AS image, name, object, width, height, item.label AS label,
  {box} AS box, {mask} AS mask_rle
FROM (
  SELECT image_id, image AS name, width, height, unnest({OBJECTS}) AS item
  FROM {compiler.table("images")} AS images WHERE error IS NULL{images}
) JOIN (
  {_pairs(words, "label", compiler)}
) ON item.label = label
ORDER BY image_id, object""")


def areas(snapshot: Snapshot, objects: pyarrow.Table) -> pyarrow.Table:
    """image, object, area: of `placed_objects`."""
    from vlq.query.image.rle import areas

    return areas(objects)


def compile_prominence(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image and object; where words are given for each image and word that anything is known of."""
    words = words_of(bound)
    studies = studies_of(bound, words)
    ids = sorted({id for word in words for id in word.ids})
    parts: dict[str, str] = {}
    if truth_of(bound.scope):
        placed = compiler.load("placed", Derived(placed_objects(bound, words), areas))
        parts["areas"] = f"SELECT image, object, area FROM {placed}"
    only = " AND ".join([compiler.tokens(ids), *asked(bound, compiler)]) if ids else "false"
    parts["reads"] = f"""\
SELECT image, object, list(DISTINCT position ORDER BY position)::INTEGER[] AS patches
FROM (
  SELECT image, token, unnest(positions) AS position FROM {compiler.table("patch_top1", ids)} WHERE {only}
) JOIN (
  {_pairs(words, "token", compiler)}
) USING (token) GROUP BY image, object"""
    images = "" if bound["images"] is None else f" AND ({bound['images'].sql(compiler)})"
    if "answer" in bound.run.at:
        said = _pairs(words, "token", compiler)
        place = ""
        if any(word.only_first for word in words):
            said = f"SELECT *, false AS only_first FROM ({said})\n  UNION ALL "
            said += f"SELECT *, true FROM ({_pairs(words, 'first', compiler)})"
            place = " WHERE place = 0 OR NOT only_first"
        parts["mentions"] = f"""\
SELECT image, object, min(place) / any_value(tokens) AS mention
FROM (
  SELECT image_id AS image, unnest(answer_ids) AS token, unnest(range(len(answer_ids))) AS place,
    len(answer_ids) AS tokens
  FROM {compiler.table("images")} AS images WHERE error IS NULL{images}
) JOIN (
  {said}
) USING (token){place} GROUP BY image, object"""
    if studies:
        measured = [
            f"SELECT image_id AS image, {compiler.value('object', name)} AS object, "
            f"before::DOUBLE - after::DOUBLE AS effect\nFROM {compiler.table(study.table)} WHERE \"set\" = 'all'"
            for name, study in studies.items()
        ]
        every = "\nUNION ALL\n".join(measured)
        restricted = "" if bound["images"] is None else f"\nWHERE {bound['images'].restriction(compiler)}"
        parts["effects"] = f"SELECT * FROM (\n  {indented(every)}\n){restricted}"
    keys = [*parts] if bound["words"] is not None else ["areas"]
    parts["found"] = "\nUNION\n".join(f"SELECT image, object FROM {name}" for name in keys)
    own = {"area": "areas", "patches": "reads", "mention": "mentions", "effect": "effects"}
    columns = [f"{name}.{column}" if name in parts else f"NULL::DOUBLE AS {column}" for column, name in own.items()]
    joins = "".join(f"\n  LEFT JOIN {name} USING (image, object)" for name in own.values() if name in parts)
    shared = ",\n".join(f"{name} AS (\n  {indented(part)}\n)" for name, part in parts.items())
    sql = f"""\
WITH {shared}, told AS (
  SELECT found.image, found.object, {", ".join(columns)}
  FROM found{joins}
)
SELECT *, coalesce(len(patches), 0)::INTEGER AS read_by, CASE
    WHEN bool_or(effect IS NOT NULL) OVER image AND NOT bool_or(effect IS NULL AND mention IS NOT NULL) OVER image
      THEN row_number() OVER (
        image ORDER BY effect DESC NULLS LAST, mention NULLS LAST, area DESC NULLS LAST, object
      ) = 1
    WHEN bool_or(mention IS NOT NULL) OVER image
      THEN row_number() OVER (image ORDER BY mention NULLS LAST, area DESC NULLS LAST, object) = 1
    ELSE false
  END AS first
FROM told
WINDOW image AS (PARTITION BY image)"""
    shown = ("first", "area", "read_by", "mention", "effect", "patches")
    order = ("images.image", "images.image_id", "answer.first DESC")
    return Relation(sql, ("image", "object"), shown, None, order, mask="patches")


# --- in words --------------------------------------------------------------------------------------------------


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """How many objects of how many images, how many the answers mention and studies have removed; and how often the
    first one is the largest, the one that most patches read, and the first that is mentioned, of several."""
    by_image: dict[int, Rows] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    chosen = [some for some in by_image.values() if len(some) > 1 and any(row["first"] for row in some)]
    leads = {name: [_leads(some, name) for some in chosen] for name in ("area", "read_by", "mention")}
    told = {name: [truth for truth in some if truth is not None] for name, some in leads.items()}
    return {
        "images": images,
        "matched": len(by_image),
        "objects": len(rows),
        "mentioned": sum(row["mention"] is not None for row in rows),
        "measured": sum(row["effect"] is not None for row in rows),
        "chosen": len(chosen),
        **{f"first_by_{name}": sum(some) / len(some) if some else None for name, some in told.items()},
    }


def _leads(rows: Rows, name: str) -> bool | None:
    """Whether an image's first object leads in a column, alone or with others; None if nothing is known there."""
    values = [row[name] for row in rows if row[name] is not None]
    own = next(row[name] for row in rows if row["first"])
    if not values or not any(values):
        return None if name != "mention" or not values else own == min(values)
    return bool(own == (min(values) if name == "mention" else max(values)))


def headline(bound: Bound, summary: Summary) -> str:
    words = words_of(bound)
    names = ", ".join(word.name for word in words[:NAMED])
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    begin = f"{names}{more}{qualified(bound)}"
    if not summary["matched"]:
        return f"{begin}: in none of {count(summary['images'], 'image')}"
    said = f"{begin}: {count(summary['objects'], 'object')} in {summary['matched']:,} of "
    said += f"{count(summary['images'], 'image')}, {summary['mentioned']:,} named in the answer"
    if summary["measured"]:
        said += f", {summary['measured']:,} removed by a study"
    leads = {"area": "the largest", "read_by": "the one most patches read", "mention": "the first that is named"}
    shares = [
        f"{what} in {percent(share)}"
        for name, what in leads.items()
        # Where no study tells, it is the first that is named by choice.
        if (share := summary[f"first_by_{name}"]) is not None and (name != "mention" or summary["measured"])
    ]
    if shares:
        said += f"; of several, the first one is {', '.join(shares)} of {count(summary['chosen'], 'image')}"
    return said


def notes(bound: Bound) -> list[str]:
    words = words_of(bound)
    found = []
    if unknown := [word.name for word in words if not word.ids]:
        found.append(f"No token by itself is {_listed(unknown)}: nothing is known of readings, answers and effects.")
    if "answer" not in bound.run.at:
        found.append("The model was not asked for answers (vlq run --answer 8): there are no mentions.")
    studies = studies_of(bound, words)
    if studies:
        of = [f"of {name} those of {asked_of(study)}" for name, study in studies.items()]
        found.append(f"Effects: {'; '.join(of[:NAMED])}{f' and {len(of) - NAMED} more' if len(of) > NAMED else ''}.")
    lacking = [word for word in words if word.ids and word.name not in studies]
    if lacking:
        node = Literal(lacking[0].name)
        patches = node if truth_of(bound.scope) else parse(f"readings({node})")
        run = typed("ablate", patches, node, bound.scope.snapshot.cache.called)
        found.append(f"No study removes {_listed([word.name for word in lacking])}. Such as: {run}")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


PROMINENCE = Function(
    name="prominence",
    parameters=(
        Parameter(
            "words",
            Optional(TokenSets(AnswerTokens())),
            "what objects are called; by default every label of `objects`",
            None,
        ),
        LAYERS,
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="Of each image's objects: area, patches that read it, place in the answer, effect of removing it.",
    example="prominence(['dog', 'rock'])",
    check=check,
    compile=compile_prominence,
    summarise=summarise,
    headline=headline,
    notes=notes,
    at="patch",
)
