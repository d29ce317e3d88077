"""tokens: what the vocabulary holds, and how often the corpus decodes to it."""

from __future__ import annotations

from vlq.query.functions.counts import reads
from vlq.query.functions.phrases import WHERE
from vlq.query.functions.shared import AT
from vlq.query.functions.sources import check_site
from vlq.query.language.bind import Bound
from vlq.query.language.compile import VOCABULARY, Compiler, Relation, indented
from vlq.query.language.parameters import Parameter, Text
from vlq.query.language.registry import Function
from vlq.query.summary import Rows, Summary, count


def compile_tokens(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each token whose text holds what is looked for; those that are read most come first."""
    vocabulary, text = compiler.table(VOCABULARY), bound["text"]
    where = ""
    if text:
        ids = compiler.value("ids", bound.scope.vocabulary.holding(text))
        where = f"WHERE id IN (SELECT unnest({ids}::UINTEGER[]))"
    sql = f"""\
WITH found AS (
  SELECT id, piece, text FROM {vocabulary} {where}
), read AS (
  {indented(reads(bound.scope.snapshot, bound["at"], compiler, "token IN (SELECT id FROM found)"))}
)
SELECT id AS token, piece, text, coalesce(readings, 0) AS readings, coalesce(images, 0) AS images
FROM found LEFT JOIN read ON token = id"""
    order = ("answer.readings DESC",)
    return Relation(sql, ("token",), ("piece", "text", "readings", "images"), "readings", order)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    most = rows[0] if rows and rows[0]["readings"] else None
    read = sum(row["readings"] > 0 for row in rows)
    return {"images": images, "matched": len(rows), "read": read, "most": most}


def headline(bound: Bound, summary: Summary) -> str:
    found = f"{bound['text']!r}: {count(summary['matched'], 'token')} with this text"
    if not bound["text"]:
        found = f"The vocabulary: {count(summary['matched'], 'token')}"
    if not summary["matched"]:
        return f"{bound['text']!r}: no token with this text"
    most = summary["most"]
    if most is None:
        return f"{found}, none of them read{WHERE[bound['at']]}"
    return (
        f"{found}, {summary['read']:,} of them read{WHERE[bound['at']]}; most often {most['piece']} ({most['token']}), "
        f"in {most['images']:,} of {count(summary['images'], 'image')}"
    )


TOKENS = Function(
    name="tokens",
    parameters=(Parameter("text", Text("a part of a token's text"), "case folded; '' for every token"), AT),
    positional=1,
    documentation="Tokens of the vocabulary by a part of their text, and how often the corpus decodes to them.",
    example="tokens('dog')",
    check=check_site,
    compile=compile_tokens,
    summarise=summarise,
    headline=headline,
)
