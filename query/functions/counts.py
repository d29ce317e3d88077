"""What images decode to, counted layer by layer: by the index where all count, else of the tables of rank 1, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, indented
from vlq.query.language.parameters import Choice, Parameter
from vlq.query.language.patches import POSITIONS_INSIDE
from vlq.query.schema import COUNTS

if TYPE_CHECKING:
    from vlq.query.cache.reader import Snapshot

UNIT = Parameter(
    "unit",
    Choice(("image", "position")),
    "count images, each for the token that most of its positions decode to (the lower id of equal ones)",
    "image",
)

HIGHEST = 2**32 - 1
"""No id is above it: the index stores 32 bits."""


def counted_in(bound: Bound) -> str:
    """What is counted, in words: at the last prompt token a position is an image."""
    return "images" if bound.values.get("unit", "image") == "image" or bound["at"] == "last" else "positions"


def image_tokens(bound: Bound, compiler: Compiler) -> str:
    """The token that most of an image's positions decode to, of equal ones the lower id: layer, image, token."""
    if bound["at"] == "last":
        return f"SELECT layer, image, token\n{_readings(bound, compiler)}"
    # n and the token's distance from the highest id in one number: that takes half the time of comparing pairs.
    return f"""\
SELECT layer, image, ({HIGHEST} - max((n::UBIGINT << 32) + ({HIGHEST} - token)) % {HIGHEST + 1})::UINTEGER AS token
{_readings(bound, compiler)} GROUP BY layer, image"""


def token_counts(bound: Bound, compiler: Compiler) -> str:
    """How many images, or positions, decode to each token: layer, token, count."""
    if bound["images"] is None and bound.patches is None and bound.scope.snapshot.tells_all(COUNTS):
        count = "leads" if bound["unit"] == "image" else "positions"
        site = compiler.value("site", bound["at"])
        conditions = [f"site = {site}", "layer IS NOT NULL", f"{count} > 0", *compiler.layers(bound.layers)]
        table = compiler.table(COUNTS)
        return f"SELECT layer, token, {count}::BIGINT AS count\nFROM {table}\nWHERE {' AND '.join(conditions)}"
    if bound["unit"] == "image" and bound["at"] != "last":
        tokens = image_tokens(bound, compiler)
        return f"SELECT layer, token, count(*) AS count\nFROM (\n  {indented(tokens)}\n) GROUP BY layer, token"
    return f"SELECT layer, token, sum(n)::BIGINT AS count\n{_readings(bound, compiler)} GROUP BY layer, token"


def reads(snapshot: Snapshot, site: str, compiler: Compiler, condition: str | None = None) -> str:
    """How many positions decode to each token at any layer, in how many images: token, readings, images."""
    where = "" if condition is None else f" AND {condition}"
    if snapshot.tells_all(COUNTS):
        conditions = f"site = {compiler.value('site', site)} AND layer IS NULL{where}"
        return f"SELECT token, positions::BIGINT AS readings, images\nFROM {compiler.table(COUNTS)} WHERE {conditions}"
    # Grouped twice: to count distinct images takes longer.
    return f"""\
SELECT token, sum(n)::BIGINT AS readings, count(*) AS images
FROM (SELECT token, image, sum(n) AS n FROM {compiler.table(f"{site}_top1")} WHERE true{where} GROUP BY token, image)
GROUP BY token"""


def _readings(bound: Bound, compiler: Compiler) -> str:
    conditions = compiler.layers(bound.layers)
    if (images := bound["images"]) is not None:
        conditions.append(images.restriction(compiler))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    table = compiler.table(f"{bound['at']}_top1")
    if bound.patches is None:
        return f"FROM {table}{where}"
    counted = f"SELECT token, image, layer, len({POSITIONS_INSIDE}) AS n"
    masked = f"{counted}\nFROM {table} {bound.patches.mask(compiler)}{where}"
    return f"FROM (\n  {indented(masked)}\n) WHERE n > 0"


def majority_note(bound: Bound) -> list[str]:
    """How an image of several positions counts."""
    if bound["at"] == "last" or counted_in(bound) == "positions":
        return []
    where = "patches" if bound["at"] == "patch" else "positions"
    each = " unit='position' counts each by itself." if "unit" in bound.values else ""
    return [f"An image counts for the token that most of its {where} decode to, of equal ones the lower id.{each}"]
