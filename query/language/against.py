"""Held against: the same figures for the images for which a condition does not hold, and how sure both are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlq.query.language.compile import Compiler, indented
from vlq.query.language.nodes import Node, Not, logic
from vlq.query.language.predicates import Predicate
from vlq.query.summary import Rows, Summary, count, figure, placed

if TYPE_CHECKING:
    from vlq.query.language.bind import Bound, Others
    from vlq.query.statistics.bootstrap import Group


@dataclass(frozen=True, eq=False)
class Split:
    """The images that are asked for, parted by a condition. Those for which it is unknown are on neither side."""

    images: Predicate | None  # what `images=` says
    condition: Predicate

    @property
    def chosen(self) -> Predicate:
        """The images that the answer is of."""
        return self._with(self.condition.node)

    @property
    def others(self) -> Predicate:
        """The images that it is held against."""
        return self._with(Not(self.condition.node))

    def _with(self, condition: Node) -> Predicate:
        node = condition if self.images is None else logic("and", self.images.node, condition)
        answers = () if self.images is None else self.images.answers
        return replace(self.condition, node=node, answers=(*answers, *self.condition.answers))

    def unknown(self, compiler: Compiler) -> list[str]:
        """SQL of what holds for the images on neither side."""
        images = [] if self.images is None else [self.images.sql(compiler)]
        return [*images, f"({self.condition.sql(compiler)}) IS NULL"]


def share_intervals_sql(shares: str, compiler: Compiler) -> str:
    """matched, images, low, high: `bootstrap.share_interval` for every row of `shares`, which has the first two.

    Shares of 0 and 1, whose intervals have no width, are left out.
    """
    from vlq.query.statistics.bootstrap import TAILS

    low, high = (compiler.value(name, tail) for name, tail in zip(("low", "high"), TAILS, strict=True))
    return f"""\
SELECT matched, images, min(n) FILTER (below >= {low}) / images AS low, min(n) FILTER (below >= {high}) / images AS high
FROM (
  SELECT matched, images, n, sum(exp(
    lgamma(images + 1) - lgamma(n + 1) - lgamma(images - n + 1)
    + n * ln(matched / images) + (images - n) * ln(1 - matched / images)
  )) OVER (PARTITION BY matched, images ORDER BY n) AS below
  FROM (
    SELECT matched, images, unnest(range(images + 1)) AS n
    FROM (
      {indented(indented(indented(shares)))}
    ) WHERE 0 < matched AND matched < images
  )
) GROUP BY matched, images"""


def contrast_layers(bound: Bound, summary: Summary, rows: Rows, others: Others) -> Summary:
    """What `against=` adds to a `layer_summary` of rows: the others', the intervals of both, and the difference."""
    from vlq.query.statistics import bootstrap

    assert bound.function.summarise is not None
    other = bound.function.summarise(bound, others.rows, others.images)
    groups = _group(bound, summary, rows), _group(bound, other, others.rows)
    here, there, difference = bootstrap.contrast(*groups)
    against = {**other, **there, **others.placed}
    return {**summary, **here, "against": against, "difference": difference, "unknown": others.unknown}


def _group(bound: Bound, summary: Summary, rows: Rows) -> Group:
    """The images by their layers: one a row, or several rows each where a row is of a patch or a reading."""
    from vlq.query.statistics.bootstrap import Group

    if sum(summary["histogram"].values()) == summary["matched"]:
        return Group.by_layer(summary["histogram"], summary["images"])
    return Group.by_rows(rows, bound.layers.layers, summary["images"])


# --- in words --------------------------------------------------------------------------------------------------


def _median(found: Summary) -> str:
    return f"median {figure(found['median'])}"


def held_against(summary: Summary, figures: Callable[[Summary], str] = _median) -> str:
    """'; without: in 12 of 239 (5%, 95% interval 3% to 8%), median 6'; nothing if it is held against nothing.

    `figures` says what is found there.
    """
    if "against" not in summary:
        return ""
    other = summary["against"]
    found = f"; without: {matched_share(other, other['images'])}"
    if other["matched"]:
        found += f", {figures(other)}"
    return found + placed(other) + unknown(summary)


def matched_share(found: Summary, images: int) -> str:
    """'in 12 of 239 (5%, 95% interval 3% to 8%)'."""
    if not images:
        return "there are no images"
    if not found["matched"]:
        return f"in none of {images:,}"
    low, high = found["share_interval"]
    return (
        f"in {found['matched']:,} of {images:,} "
        f"({percent(found['share'])}, 95% interval {percent(low)} to {percent(high)})"
    )


def unknown(summary: Summary) -> str:
    """How many images are on neither side; nothing if all are on one."""
    return f"; unknown for {count(summary['unknown'], 'image')}" if summary.get("unknown") else ""


def both_sides(summary: Summary) -> list[list[str]]:
    """The figures of both sides and their difference as the lines of a table, its head first; none without them."""
    if not summary.keys() >= {"against", "difference"}:
        return []
    names = ["measured", "word gone", "median effect"] if "gone" in summary else ["read", "share", "median layer"]
    lines = [["", "images", *names[:2], "95% interval", names[2], "95% interval"]]
    for name, found in (("with", summary), ("without", summary["against"])):
        sizes = [f"{found['images']:,}", f"{found['matched']:,}"]
        lines.append([name, *sizes, *_figures(found)])
    return [*lines, ["difference", "", "", *_figures(summary["difference"])]]


def _figures(found: Summary) -> list[str]:
    """Share and median, each with its interval."""
    cells = []
    for name, write in (("share", percent), ("median", figure)):
        ends = found[f"{name}_interval"]
        cells.append("–" if found[name] is None else write(found[name]))
        cells.append("–" if ends is None else f"{write(ends[0])} to {write(ends[1])}")
    return cells


def percent(share: float) -> str:
    """0.05 -> '5%', 0.004 -> '0.4%'."""
    return f"{share:.0%}" if share == 0 or abs(share) >= 0.01 else f"{100 * share:.1g}%"
