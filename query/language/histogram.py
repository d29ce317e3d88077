"""histogram: how many rows there are for each layer, or in each bin of another number."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from vlq.query.language.bind import Counts, Scope
from vlq.query.language.compile import Compiler, Relation, indented, quoted
from vlq.query.language.groups import COLUMN, OfGroups, as_number, figured, of_groups
from vlq.query.language.nodes import Node
from vlq.query.language.parameters import Parameter, whole
from vlq.query.language.registry import TableMethod
from vlq.query.mistakes.values import EXPECTED
from vlq.query.summary import Rows, Summary, count

LAYER = "layer"

MOST_BINS = 1000

WIDE, EXACT = ("BIGINT", "UBIGINT", "HUGEINT"), "::HUGEINT"
"""Types whose numbers may lie between two of DOUBLE, as which edges are told, and what edges are to be beside them."""

HUGE = sys.float_info.max / 2
"""Numbers beyond it are in no bin: its edges could be beyond all numbers."""


@dataclass(frozen=True)
class Bins:
    """How many bins. Two are needed where numbers lie on both sides of 0, which is always an edge."""

    expected: str = f"a whole number from 2 to {MOST_BINS}"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = whole(node)
        if value is None or not 2 <= value <= MOST_BINS:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return value


class Histogram(OfGroups):
    """Rows counted by layer, each layer of the run with a row, or by bins, all between the first and the last.

    Rows without a value are counted too, with no layer or no bin.
    """

    @property
    def edges(self) -> tuple[str, ...]:
        """The keys beside the groups': the layer, or both ends of a bin."""
        ends = (LAYER,) if self.value == LAYER else ("low", "high")
        return tuple(self.free(name) for name in ends)

    @property
    def column(self) -> str:
        """The answer's column that holds the numbers of rows."""
        return self.free("count")

    def relation(self, compiler: Compiler) -> Relation:
        relation = self.table.cells(compiler, places=self.looks_at_places(self.value))
        most_bins = self.argument("bins")
        where = f"\nWHERE answer.{relation.shows}" if relation.shows else ""
        rows = self.rows(relation, as_number(self.known[self.value]), where, compiler)
        if self.value == LAYER:
            layers = compiler.value("every_layer", list(self.scope.run.read_layers))
            # An image's own column may be called so too.
            bins = f"""\
bins AS (
  SELECT unnest({layers})::BIGINT AS edge1 UNION SELECT value FROM rows WHERE value IS NOT NULL
)"""
            found = "value = edge1"
        else:
            exact = EXACT if self.known[self.value].type in WIDE else ""
            bins = self._bins(most_bins, exact, compiler)
            found = f"value >= edge1{exact} AND value < edge2{exact}"
        keys = [*self.names, *self.edges]
        inner = [*self.parts, *(f"edge{number}" for number in range(1, len(self.edges) + 1))]
        listed = ", ".join(inner)
        groups = f"(SELECT DISTINCT {', '.join(self.parts)} FROM rows) CROSS JOIN bins" if self.parts else "bins"
        shown = [f"{sql} AS {quoted(name)}" for sql, name in zip(inner, keys, strict=True)]
        sql = f"""\
WITH rows AS (
  {indented(rows)}
), {bins}
SELECT {", ".join(shown)}, sum(n)::BIGINT AS {self.column}
FROM (
  SELECT {listed}, 0 AS n FROM {groups}
  UNION ALL
  SELECT {listed}, {relation.weight or 1} AS n FROM rows LEFT JOIN bins ON {found}
) GROUP BY {listed}"""
        return Relation(sql, tuple(keys), (self.column,), self.column)

    def _bins(self, most_bins: int, exact: str, compiler: Compiler) -> str:
        """Queries up to `bins`: from one multiple of a round number (1, 2 or 5 by a power of ten) to the next.

        It is the smallest one with which there are no more bins than asked for; 1 at least if all values are whole,
        or all the same.
        """
        most = compiler.value("bins", most_bins)

        def multiple(step: str) -> str:
            # Of digits, as one writes 0.3 or 3e300: 3 * 0.1 is another number, and so is 3 times 10 to the 300th.
            return f"TRY_CAST(({step} * digit) || 'e' || power AS DOUBLE)"

        return f"""\
spread AS (
  SELECT min(value) AS first, max(value) AS final, first::DOUBLE AS least, final::DOUBLE AS most,
    bool_and(value = round(value)) AS is_whole,
    greatest(CASE WHEN most > least THEN most / {most} - least / {most} ELSE 1 END,
      1e-12 * greatest(abs(most), abs(least))) AS about,
    CASE WHEN is_whole THEN greatest(floor(log10(about)), 0) ELSE floor(log10(about)) END::INTEGER AS lowest
  FROM rows WHERE abs(value::DOUBLE) <= {compiler.value("huge", HUGE)}
), sizes AS (
  SELECT first, final, least, most, digit, lowest + more AS power, digit * 10.0::DOUBLE ** power AS size
  FROM spread, (SELECT unnest([1, 2, 5]) AS digit), (SELECT unnest([0, 1, 2]) AS more)
  WHERE least IS NOT NULL AND size > 0 AND isfinite(size)
), edges AS (
  SELECT size, {multiple("step")} AS edge1, {multiple("(step + 1)")} AS edge2
  FROM sizes, LATERAL (
    SELECT unnest(range(floor(least / size)::BIGINT - 1, floor(most / size)::BIGINT + 2)) AS step
  ) WHERE edge2{exact} > first AND edge1{exact} <= final
), bins AS (
  SELECT edge1, edge2 FROM edges
  WHERE size = (SELECT size FROM edges GROUP BY size HAVING count(*) <= {most} ORDER BY size LIMIT 1)
)"""

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        """How many rows there are, and rows in no bin; the fullest bin, the first of equal ones, and its rows.

        Of one group by layer `histogram` has every layer's count.
        """
        first = self.edges[0]
        binned = [row for row in rows if row[first] is not None]
        totals: dict[tuple[float, ...], int] = {}
        for row in binned:
            bin = tuple(row[name] for name in self.edges)
            totals[bin] = totals.get(bin, 0) + row[self.column]
        fullest = min(totals, key=lambda bin: (-totals[bin], bin), default=None)
        summary: Summary = {
            "images": counts.images,
            "matched": len({self.label(row) for row in rows}) if self.by else len(totals),
            "rows": sum(row[self.column] for row in rows),
            "missing": sum(row[self.column] for row in rows) - sum(totals.values()),
            "most": None
            if fullest is None or not totals[fullest]
            else {"bin": list(fullest), "count": totals[fullest]},
        }
        if not self.by and first == LAYER:
            summary["histogram"] = {row[first]: row[self.column] for row in binned}
        return summary

    def headline(self, summary: Summary) -> str:
        """How many rows there are, and where most of them are."""
        counted = count(summary["matched"], "group") if self.overlapping else self.counted(summary["rows"])
        if summary["missing"]:
            counted += f", {summary['missing']:,} of them {self.lacking}"
        if summary["most"] is None:
            return f"{self.subject}: {counted}"
        bin, most = summary["most"]["bin"], summary["most"]["count"]
        name = self.value
        column = self.known[name]
        if (column.is_whole or column.kind == "truth") and bin[-1] - bin[0] == 1:
            bin = bin[:1]  # from 3 to below 4 there is only 3
        where = " to ".join(figured(edge) for edge in bin)
        return f"{self.subject}: {counted}; {self.called(name)} is most often {where} ({most:,})"


HISTOGRAM = TableMethod(
    name="histogram",
    parameters=(
        COLUMN,
        Parameter("bins", Bins(), "at most so many bins, between round numbers; a layer is a bin by itself", 20),
    ),
    positional=1,
    documentation="How many rows there are for each layer, or in each bin of another number.",
    example="first_layer('dog').histogram(logprob, bins=10)",
    apply=of_groups(Histogram),
)
