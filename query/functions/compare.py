"""compare: the same question asked of two caches, their answers joined by what they have rows for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from propcache.api import cached_property

from vlq.query.errors import VlqError
from vlq.query.language.bind import Counts, Scope, Table, bind
from vlq.query.language.bounds import LOW
from vlq.query.language.combine import key_kinds
from vlq.query.language.compile import Compiler, Relation, free_name, indented, quoted
from vlq.query.language.nodes import Call, Literal, Node, walk
from vlq.query.language.parameters import Parameter, Query, Text
from vlq.query.language.predicates import Predicate
from vlq.query.language.registry import Function
from vlq.query.language.tokens import Token, TokenSet
from vlq.query.mistakes.combined import (
    AGAINST_COMPARED,
    COMPARISON_COMPARED,
    FIRST_CACHE,
    GRIDS,
    IMAGES_OF_ONE_NAME,
    KEYS_COMPARED,
    PROMPTS,
    VOCABULARIES,
)
from vlq.query.schema import layers_phrase
from vlq.query.summary import Rows, Summary, count, figure, unit


def named_caches(node: Node) -> Iterator[Literal]:
    """Where a query names caches, from left to right."""
    for part in walk(node):
        if isinstance(part, Call) and part.function == COMPARE.name:
            urls = (part.get("a"), part.get("b"))
            yield from (url for url in urls if isinstance(url, Literal) and isinstance(url.value, str))


def first_cache(node: Node) -> Literal | None:
    """Where a query names the first of two caches, which it is to be asked of; None if it names none."""
    return next(named_caches(node), None)


@dataclass(frozen=True)
class Side:
    """One of the caches, and its answer."""

    name: str  # a or b: what its columns end in
    scope: Scope
    table: Table

    @property
    def cache(self) -> str:
        """What the cache is called."""
        return self.scope.snapshot.cache.called

    @cached_property
    def relation(self) -> Relation:
        return self.table.shape

    @property
    def tokens(self) -> list[Token]:
        return [token for tokens in self.table.token_sets for token in tokens.tokens]

    @cached_property
    def columns(self) -> dict[str, str]:
        """SQL of the answer's columns by their names, without its keys."""
        relation = self.relation
        if relation.shown is not None:
            found = {name: sql for sql, name in relation.shown if name not in ("image_id", *relation.keys)}
        else:
            found = {name: f"answer.{quoted(name)}" for name in relation.columns}
        needed = (name for name in (relation.value, relation.holds) if name is not None)
        return {**found, **{name: f"answer.{quoted(name)}" for name in needed}}

    def images(self, compiler: Compiler) -> str:
        """SELECT of the images with readings that were asked for."""
        population = self.table.population
        asked = "".join(f" AND {condition}" for condition in self.table.has_readings)
        asked += "" if population is None else f" AND ({population.sql(compiler)})"
        return f"SELECT image_id, image, sha256 FROM {compiler.table('images')} AS images\nWHERE error IS NULL{asked}"

    def rest(self, compiler: Compiler) -> str | None:
        """SELECT of whether a condition holds in cells that `answer` does not list, images as there; None if that is
        known of none."""
        rest = self.table.relation(compiler).rest if self.relation.holds else None
        if rest is None:
            return None
        inside = "" if rest.mask is None else ", inside"
        return (
            f"SELECT matched.a AS image, layer, {self.relation.holds}{inside}\n"
            f"FROM {rest.part()} AS rest JOIN matched ON matched.{self.name} = rest.image"
        )

    def answer(self, compiler: Compiler) -> str:
        """SELECT of the answer's keys and columns; images by their numbers in the first cache."""
        relation = self.table.relation(compiler)
        source = compiler.source(relation)
        if "image" in relation.keys:
            source += f"\nJOIN matched ON matched.{self.name} = answer.image"
        keys = ["matched.a AS image" if key == "image" else f"answer.{quoted(key)}" for key in relation.keys]
        columns = [f"{sql} AS {quoted(name)}" for name, sql in self.columns.items()]
        where = f"\nWHERE answer.{LOW} IS NOT NULL" if relation.bounded else ""
        return f"SELECT {', '.join([*keys, *columns])}\nFROM {source}{where}"


@dataclass(frozen=True, eq=False)
class Compare(Table):
    """The rows that either cache has; where they are of images, of those that both have."""

    node: Call
    query: Node
    a: Side
    b: Side

    @property
    def population(self) -> Predicate | None:
        return None

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        return self.a.table.token_sets

    @property
    def subject(self) -> str:
        return str(self.node)

    @property
    def value(self) -> str | None:
        return self.a.relation.value

    @property
    def holds(self) -> str | None:
        return self.a.relation.holds

    def column(self, name: str) -> str:
        """What a column of the answer is called: otherwise if a key, which may be one of the users', has its name."""
        return free_name(name, self.a.relation.keys)

    @property
    def columns_of_images(self) -> frozenset[str]:
        found = self.a.table.columns_of_images & {*self.a.relation.keys}
        sides = [(side, name) for side in (self.a, self.b) for name in side.table.columns_of_images]
        return found | {self.column(f"{name}_{side.name}") for side, name in sides}

    @property
    def difference(self) -> str:
        """The answer's column that holds by how much the values differ."""
        return self.column("difference")

    @property
    def depths_differ(self) -> bool:
        return self.a.scope.run.layers != self.b.scope.run.layers

    def _matched(self, compiler: Compiler) -> str:
        """SELECT of the images that both have, by their numbers in each, and whether they are other files."""
        a, b = self.a.images(compiler), self.b.images(compiler.of(self.b.scope.snapshot))
        return f"""\
SELECT a.image_id AS a, b.image_id AS b, a.sha256 <> b.sha256 AS changed
FROM (
  {indented(a)}
) AS a JOIN (
  {indented(b)}
) AS b USING (image)"""

    def relation(self, compiler: Compiler) -> Relation:
        keys = self.a.relation.keys
        tables = [("a", self.a.answer(compiler)), ("b", self.b.answer(compiler.of(self.b.scope.snapshot)))]
        if "image" in keys:
            tables.insert(0, ("matched", self._matched(compiler)))
        rests = self._rests(compiler)
        tables += [(name, sql) for name, (sql, _) in rests.items()]
        shown: dict[str, str] = {}
        for name in dict.fromkeys([*self.a.columns, *self.b.columns]):
            for side in (self.a, self.b):
                if name in side.columns:
                    own = f"{side.name}.{quoted(name)}"
                    if name == self.holds and f"rest_{side.name}" in rests:
                        own = f"CASE WHEN {side.name}.image IS NULL THEN rest_{side.name}.{name} ELSE {own} END"
                    shown[self.column(f"{name}_{side.name}")] = own
            if name == "layer" and self.depths_differ:
                for side in (self.a, self.b):
                    last = compiler.value("last_layer", side.scope.run.layers - 1)
                    shown[self.column(f"depth_{side.name}")] = f"{side.name}.layer / nullif({last}, 0)"
            if name == self.value:
                shown[self.difference] = f"b.{quoted(name)} - a.{quoted(name)}"
        named = ",\n".join(f"{name} AS (\n  {indented(sql)}\n)" for name, sql in tables)
        joined = {key: f"coalesce(a.{quoted(key)}, b.{quoted(key)})" for key in keys} | shown
        columns = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in joined.items())
        # A key may be missing: it is equal to one that is missing too.
        same = " AND ".join(f"a.{quoted(key)} IS NOT DISTINCT FROM b.{quoted(key)}" for key in keys) or "true"
        source = "a FULL JOIN b ON " + same
        for name, (_, join) in rests.items():
            source += f"\nLEFT JOIN {name} ON {join}"
        where = "" if self.holds is None else f"\nWHERE a.{self.holds} OR b.{self.holds}"
        sql = f"WITH {named}\nSELECT {columns}\nFROM {source}{where}"
        value = self.difference if self.value is not None else None
        return Relation(sql, keys, (*shown,), value, (f"answer.{value}",) if value and "image" in keys else ())

    def _rests(self, compiler: Compiler) -> dict[str, tuple[str, str]]:
        """By name, what is known of cells that an answer does not list, and how it is joined to the rows."""
        found = {}
        for side, own in ((self.a, compiler), (self.b, compiler.of(self.b.scope.snapshot))):
            if (sql := side.rest(own)) is not None:
                name, relation = f"rest_{side.name}", side.relation
                same = [f"{name}.{key} = coalesce(a.{key}, b.{key})" for key in ("image", "layer")]
                if relation.rest is not None and relation.rest.mask is not None:
                    place = f"coalesce(a.{relation.place}, b.{relation.place})"
                    # An image may have more positions in the other cache than any has here.
                    same.append(
                        f"CASE WHEN {place} < bit_length({name}.inside) THEN get_bit({name}.inside, {place}) END = 1"
                    )
                found[name] = sql, " AND ".join(same)
        return found

    def counts(self, compiler: Compiler) -> dict[str, str]:
        other = compiler.of(self.b.scope.snapshot)
        a, b = f"({self.a.images(compiler)})", f"({self.b.images(other)})"
        matched = f"({self._matched(compiler)})"
        return {
            "images": f"(SELECT count(DISTINCT a) FROM {matched})",
            "changed": f"(SELECT count(DISTINCT a) FROM {matched} WHERE changed)",
            "only_a": f"(SELECT count(*) FROM {a} ANTI JOIN {b} USING (image))",
            "only_b": f"(SELECT count(*) FROM {b} ANTI JOIN {a} USING (image))",
        }

    # --- in words ------------------------------------------------------------------------------------------------

    def summarise(self, rows: Rows, counts: Counts) -> Summary:
        """How many images both have; what each cache has, and how the two differ where both have it."""
        summary: Summary = {name: counts.found[name] for name in ("images", "only_a", "only_b", "changed")}
        if self.holds is not None:
            a, b = (self.column(f"{self.holds}_{side}") for side in "ab")
            summary |= {
                side: {"matched": sum(row[name] is True for row in rows)} for side, name in (("a", a), ("b", b))
            }
            return summary | {"matched": sum(row[a] is row[b] is True for row in rows)}
        if self.value is None:
            return summary | {"matched": len(rows)}
        for side in "ab":
            name = self.column(f"{self.value}_{side}")
            values = [value for row in rows if (value := row[name]) is not None]
            summary[side] = {"matched": len(values), "median": float(median(values)) if values else None}
        differences = [row[self.difference] for row in rows if row[self.difference] is not None]
        return summary | {
            "matched": len(differences),
            "lower": sum(difference < 0 for difference in differences),
            "same": sum(difference == 0 for difference in differences),
            "higher": sum(difference > 0 for difference in differences),
            "median": float(median(differences)) if differences else None,
        }

    def headline(self, summary: Summary) -> str:
        a, b = self._names()
        parts = [f"{self.query} in {a} (a) and {b} (b): {self._found(summary)}"]
        if self.holds is None and self.value is not None and summary["matched"]:
            parts += [self._medians(summary), self._differences(summary)]
        for side in "ab":
            if only := summary[f"only_{side}"]:
                parts.append(f"{count(only, 'image')} only in {side}")
        if summary["changed"]:
            parts.append(f"{count(summary['changed'], 'image')} of the same name with other bytes")
        return "; ".join(parts)

    def _names(self) -> tuple[str, str]:
        """The last parts of the URLs, if these tell them apart; at a service their names."""
        a, b = (side.cache.rstrip("/").rpartition("/")[2] for side in (self.a, self.b))
        return (a, b) if a != b else (self.a.cache, self.b.cache)

    def _found(self, summary: Summary) -> str:
        keys = self.a.relation.keys
        images = f"of {count(summary['images'], 'image')} in both caches"
        if "image" not in keys:
            # Rows that are of no image count what each cache has.
            each = (f"{summary['images'] + summary[f'only_{side}']:,}" for side in "ab")
            images = f"of {' and '.join(each)} images"
        if self.holds is None and self.value is None:
            return f"{count(summary['matched'], 'row')} {images}"
        a, b, both = summary["a"]["matched"], summary["b"]["matched"], summary["matched"]
        first = f"{a:,}" if keys == ("image",) else count(a, unit(keys))
        if self.holds is not None:
            return f"{images}, it holds for {first} in a, {b:,} in b, {both:,} in both"
        return f"{images}, a has {first}, b {b:,}, both {both:,}"

    def _medians(self, summary: Summary) -> str:
        a, b = (figure(summary[side]["median"]) for side in "ab")
        if self.value == "layer" and self.depths_differ:
            a, b = f"{a} of {self.a.scope.run.layers - 1}", f"{b} of {self.b.scope.run.layers - 1}"
        return f"median {self.value} {a} and {b}"

    def _differences(self, summary: Summary) -> str:
        lower, higher = ("earlier", "later") if self.value == "layer" else ("lower", "higher")
        return (
            f"b {lower} in {summary['lower']:,}, the same in {summary['same']:,}, {higher} in {summary['higher']:,}, "
            f"median difference {figure(summary['median'])}"
        )

    def notes(self) -> list[str]:
        """Which cache is which, and in what they differ; what either of the answers cannot know."""
        return list(self._notes())

    def _notes(self) -> Iterator[str]:
        a, b = self.a.scope.run, self.b.scope.run
        prompts, lenses = a.prompt != b.prompt, a.lens != b.lens
        for side in (self.a, self.b):
            cache = side.scope.snapshot.cache
            differing = [f"prompt {side.scope.run.prompt!r}"] * prompts + [f"lens {cache.lens}"] * lenses
            yield ", ".join([f"{side.name}: {side.cache}", cache.model, *differing])
        if (a.lens.kind == "nearest") != (b.lens.kind == "nearest"):
            yield "The nearest lens makes probabilities of cosines: compare ranks, not probabilities."
        if self.a.tokens != self.b.tokens:
            yield f"The tokens of b: {', '.join(map(str, self.b.tokens))}."
        if self.depths_differ:
            numbers = f"a has layers 0 to {a.layers - 1}, b 0 to {b.layers - 1}: equal numbers are not equal depths"
            shares = "; depth_a and depth_b are shares of the last layer" if "layer" in self.a.columns else ""
            yield f"{numbers}{shares}."
        if a.patches_option != b.patches_option:
            read = (f"those of {run.patches_option}" if run.patches_option else "all" for run in (a, b))
            yield "Of each image's patches {} were read in a, {} in b.".format(*read)
        if a.read_layers != b.read_layers and not self.depths_differ:
            yield f"a was read at the layers {layers_phrase(a.read_layers)}, b at {layers_phrase(b.read_layers)}."
        if "patch" in self.a.relation.keys and a.image_processor != b.image_processor:
            yield "The models see images resized or cropped in other ways: a patch need not show the same in both."
        own, others = self.a.table.notes(), self.b.table.notes()
        for note in dict.fromkeys([*own, *others]):
            yield note if note in own and note in others else f"In {'a' if note in own else 'b'}: {note}"
        for note in self.b.scope.snapshot.notes:
            yield f"In b: {note}"


# --- binding ---------------------------------------------------------------------------------------------------


def bind_compare(call: Call, scope: Scope) -> Compare:
    """The question bound to both caches. Raises the errors of either, and BadArgument for what cannot be joined."""
    nodes = dict(call.arguments)
    values = {entry.name: entry.type.bind(nodes[entry.name], entry.name, scope) for entry in COMPARE.parameters}
    query = nodes["query"]
    if values["a"] not in scope.called:
        raise scope.error(FIRST_CACHE, nodes["a"], url=scope.snapshot.cache.called)
    if first_cache(query) is not None:
        raise scope.error(COMPARISON_COMPARED, query)
    try:
        other = scope.open(values["b"])
    except VlqError as error:
        raise type(error)(error.message, error.hint, query=scope.text, span=scope.place(nodes["b"])) from error
    sides = [_side(name, query, of) for name, of in (("a", scope), ("b", other))]
    _check(query, *sides)
    return Compare(call, query, *sides)


def _side(name: str, query: Node, scope: Scope) -> Side:
    try:
        table = bind(query, scope)
        _ = table.shape  # where mistakes in conditions show
    except VlqError as error:
        message = f"In {scope.snapshot.cache.called}: {error.message}"
        raise type(error)(message, error.hint, query=error.query, span=error.span) from error
    return Side(name, scope, table)


def _check(query: Node, a: Side, b: Side) -> None:
    """Raises BadArgument if rows of the two caches that have equal keys are not of the same thing."""
    keys, runs = a.relation.keys, (a.scope.run, b.scope.run)
    if a.table.split is not None:
        raise a.scope.error(AGAINST_COMPARED, query, condition=a.table.split.condition.node)
    kinds, others = (key_kinds(side.table, side.scope) for side in (a, b))
    for key in kinds:
        if kinds[key] != others[key]:
            sides = {"expected": kinds[key], "a": a.cache, "found": others[key], "b": b.cache}
            raise a.scope.error(KEYS_COMPARED, query, key=key, **sides)
    if "image" in keys:
        for side in (a, b):
            compiler = Compiler()
            names = f"SELECT image, count(*) FROM {compiler.table('images')} WHERE error IS NULL GROUP BY image"
            for image, number in side.scope.ask(compiler.ask(f"{names} HAVING count(*) > 1 ORDER BY image LIMIT 1")):
                raise a.scope.error(IMAGES_OF_ONE_NAME, query, count=number, url=side.cache, image=image)
    if "patch" in keys and (grids := _differing_grids(a, b)):
        raise a.scope.error(GRIDS, query, grids=", ".join(grids))
    if "position" in keys and _prompts_differ(a, b):
        raise a.scope.error(PROMPTS, query)
    # A token that is a key is an id where its piece stands beside it.
    if "token" in keys and "piece" in a.relation.columns and runs[0].vocabulary_hash != runs[1].vocabulary_hash:
        raise a.scope.error(VOCABULARIES, query)


def _differing_grids(a: Side, b: Side) -> list[str]:
    """In what the grids of two caches differ; where images have their own, the first of those that are in both."""
    one, other = a.scope.run.grid, b.scope.run.grid
    if one is not None and other is not None:
        return [] if one == other else [f"{side.cache} has {_by(side.scope.run.grid)}" for side in (a, b)]
    grids = []
    for side in (a, b):
        compiler = Compiler()
        of_images = f"SELECT image, grid.rows, grid.columns FROM {compiler.table('images')} WHERE error IS NULL"
        grids.append({image: grid for image, *grid in side.scope.ask(compiler.ask(of_images))})
    for image in sorted(grids[0].keys() & grids[1].keys()):
        if grids[0][image] != grids[1][image]:
            return [f"{image} has {_by(grid[image])} in {side.cache}" for side, grid in zip((a, b), grids, strict=True)]
    return []


def _prompts_differ(a: Side, b: Side) -> bool:
    """Whether the prompts of two caches have other tokens; where images have their own, of any image in both."""
    runs = a.scope.run, b.scope.run
    if all(run.prompt_column is None for run in runs):
        return runs[0].prompt_ids != runs[1].prompt_ids
    prompts = []
    for side, run in zip((a, b), runs, strict=True):
        compiler = Compiler()
        own = "NULL" if run.prompt_column is None else "prompt_ids"
        of_images = f"SELECT image, {own} FROM {compiler.table('images')} WHERE error IS NULL"
        found = side.scope.ask(compiler.ask(of_images))
        prompts.append({image: [*run.prompt_ids] if ids is None else ids for image, ids in found})
    return any(prompts[0][image] != prompts[1][image] for image in prompts[0].keys() & prompts[1].keys())


def _by(grid: Sequence[int] | None) -> str:
    return " x ".join(map(str, grid or ()))


COMPARE = Function(
    name="compare",
    parameters=(
        Parameter("a", Text("a cache's URL in quotes"), "the URL of a cache"),
        Parameter("b", Text("a cache's URL in quotes"), "the URL of another one, of the same images"),
        Parameter("query", Query(), "what is asked of both"),
    ),
    positional=3,
    documentation="The same question asked of two caches, their answers side by side.",
    example="compare('CACHE', 'OTHER', first_layer('dog'))",
    bind=bind_compare,
)
