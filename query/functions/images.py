"""images: the corpus by its image columns, and by whatever has a value for each image."""

from __future__ import annotations

from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Relation, quoted
from vlq.query.language.parameters import Images, Parameter
from vlq.query.language.predicates import image_columns
from vlq.query.language.registry import Function
from vlq.query.schema import READ_COLUMNS
from vlq.query.summary import Rows, Summary, count


def compile_images(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image that has readings, with its size and the columns that came with it."""
    known = image_columns(bound.scope)
    columns = ("width", "height", *(name for name in known if name == "answer" or name not in READ_COLUMNS))
    condition = bound["condition"]
    where = "" if condition is None else f" AND ({condition.sql(compiler)})"
    shown = ", ".join(f"{known[name].sql} AS {quoted(name)}" for name in columns)
    sql = f"SELECT image_id AS image, {shown}\nFROM {compiler.table('images')} AS images\nWHERE error IS NULL{where}"
    return Relation(sql, ("image",), columns)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    return {"images": images, "matched": len(rows)}


def headline(bound: Bound, summary: Summary) -> str:
    if bound["condition"] is None:
        return f"{count(summary['images'], 'image')} with readings"
    return f"{summary['matched']:,} of {count(summary['images'], 'image')} with {bound['condition'].node}"


IMAGES = Function(
    name="images",
    parameters=(
        Parameter("condition", Images(), "which ones, by their columns and by answers that have a row for each", None),
    ),
    positional=1,
    documentation="The images that have readings, with their sizes, answers, and the columns that came with them.",
    example="images(label == 'beach')",
    shows_images=True,
    compile=compile_images,
    summarise=summarise,
    headline=headline,
)
