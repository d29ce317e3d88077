"""answer: what the model answered, and in which images the answer holds a token."""

from __future__ import annotations

from collections import Counter
from statistics import median

from vlq.query.functions.phrases import qualified
from vlq.query.functions.shared import IMAGES, PIECES
from vlq.query.functions.sources import check_site
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import Compiler, Relation, quoted
from vlq.query.language.parameters import AnswerTokens, Optional, Parameter
from vlq.query.language.registry import Function
from vlq.query.summary import Rows, Summary, count


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument if the model was not asked for answers."""
    check_site(bound.given(at="answer"), scope)


def compile_answer(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image with an answer, or whose answer holds the token: where it first does, how probably."""
    images = compiler.table("images")
    where = "error IS NULL" if bound["images"] is None else f"error IS NULL AND ({bound['images'].sql(compiler)})"
    asked = _asked(bound)
    own = "".join(f"images.{quoted(name)} AS {quoted(name)}, " for name in asked)
    if bound["token"] is None:
        sql = f"""\
SELECT image_id AS image, {own}answer, len(answer_ids) AS tokens, exp(coalesce(list_sum(answer_logprobs), 0)) AS prob
FROM {images} AS images WHERE {where}"""
        return Relation(sql, ("image",), (*asked, "answer", "tokens", "prob"), "prob")
    tokens = bound["token"]
    ids = f"{compiler.value('tokens', list(tokens.ids))}::UINTEGER[]"
    is_asked = f"list_contains({ids}, id)"
    if tokens.only_first:
        only_first = f"{compiler.value('first', list(tokens.only_first))}::UINTEGER[]"
        is_asked += f" AND (place = 1 OR NOT list_contains({only_first}, id))"
    sql = f"""\
SELECT image, {own}answer, position::INTEGER AS position, exp(answer_logprobs[position + 1]) AS prob
FROM (
  SELECT image_id AS image, {own}answer, answer_logprobs,
    list_position(list_transform(answer_ids, lambda id, place: {is_asked}), true) - 1 AS position
  FROM {images} AS images WHERE {where} AND list_has_any(answer_ids, {ids})
) AS images WHERE position IS NOT NULL"""
    return Relation(sql, ("image",), (*asked, "answer", "position", "prob"), "prob")


def _asked(bound: Bound) -> tuple[str, ...]:
    """The column of what each image was asked, unless it has the name of one that the answer has anyway."""
    column = bound.run.prompt_column
    return () if column is None or column.lower() in ("position", "prob", "tokens") else (column,)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """How many answers there are, or hold the token, and their median probability; the most common one."""
    most = Counter(row["answer"] for row in rows)
    first = min(most.items(), key=lambda item: (-item[1], item[0]), default=None)
    return {
        "images": images,
        "matched": len(rows),
        "different": len(most),
        "most": None if first is None else list(first),
        "median_prob": median(row["prob"] for row in rows) if rows else None,
    }


def headline(bound: Bound, summary: Summary) -> str:
    images, more = count(summary["images"], "image"), qualified(bound)
    if bound["token"] is None:
        if not summary["matched"]:
            return f"Answers{more}: none, of {images}"
        text, times = summary["most"]
        return f"Answers{more} of {images}: {summary['different']:,} different, most often {text!r} ({times:,})"
    holds = f"{bound.token.label}{more}: in the answer of"
    if not summary["matched"]:
        return f"{holds} none of {images}"
    return f"{holds} {summary['matched']:,} of {images}, median probability {summary['median_prob']:.3g}"


ANSWER = Function(
    name="answer",
    parameters=(
        Parameter("token", Optional(AnswerTokens()), "only answers that hold this token, or one of these", None),
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="What the model answered to each image; with a token, where the answer holds it and how probably.",
    example="answer('dog')",
    check=check,
    compile=compile_answer,
    summarise=summarise,
    headline=headline,
)
