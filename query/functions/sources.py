"""Which table of the index serves which arguments: the readings of a token as SQL, from the smallest one that can."""

from __future__ import annotations

from vlq.query.functions.kept import known_readings, source_of
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import LISTED_TOKENS, Compiler, indented
from vlq.query.language.patches import INSIDE, POSITIONS_INSIDE, Numbered, PatchSet
from vlq.query.mistakes.values import NO_SITE, PATCHES_OF_TEXT, TOO_FEW_PATCHES
from vlq.query.summary import count


def check_site(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument if the cache has no readings at the site that is asked for."""
    if bound["at"] not in bound.run.positions:
        raise scope.error(NO_SITE, bound.argument("at"), known=", ".join(bound.run.positions), at=bound["at"])
    if bound.patches is not None and bound["at"] != "patch":
        raise scope.error(PATCHES_OF_TEXT, bound.argument("patches"), at=bound["at"])


def check_min_patches(bound: Bound, scope: Scope, positions: int, where: str) -> None:
    """Raises BadArgument if a layer has fewer positions than are asked for."""
    if isinstance(bound.patches, Numbered) and len(bound.patches.numbers) < positions:
        positions, where = len(bound.patches.numbers), "these patches= a layer"
    if bound["min_patches"] > positions:
        there = count(positions, "position")
        raise scope.error(TOO_FEW_PATCHES, bound.argument("min_patches"), where=where, positions=there)


def check_patches(bound: Bound, scope: Scope) -> None:
    """What a function of patches alone needs of the cache, and of `min_patches`."""
    bound = bound.given(at="patch")
    check_site(bound, scope)
    check_min_patches(bound, scope, bound.run.positions["patch"], "this grid a layer")


def token_layers(bound: Bound, compiler: Compiler, *, logprob: bool = False, beside: Bound | None = None) -> str:
    """The layers in which enough positions read the token: image, layer, positions and, where asked for, logprob.

    `logprob` is the best one of the positions. Of images without the tokens of another call, `beside`, rows may be
    missing.
    """
    is_set = len(bound.token.ids) > 1
    # A posting tells the best log-probability of one token at all positions, not at some, nor a sum's.
    if _is_top1(bound) and not (logprob and (is_set or bound.patches is not None)):
        return _merged(bound, compiler) if is_set else _postings(bound, compiler)
    readings = token_positions(bound, compiler, beside=beside)
    return f"""\
SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
FROM (
  {indented(readings)}
) GROUP BY image, layer{_having(bound, "count(*)", compiler)}"""


def token_counts(bound: Bound, compiler: Compiler) -> str:
    """The same layers with nothing but how many positions read the token: image, layer, n."""
    if not _is_top1(bound):
        readings = token_positions(bound, compiler)
        enough = _having(bound, "count(*)", compiler)
        return f"SELECT image, layer, count(*) AS n\nFROM (\n  {indented(readings)}\n) GROUP BY image, layer{enough}"
    if bound.patches is not None:
        return f"SELECT image, layer, len(positions) AS n\nFROM (\n  {indented(token_layers(bound, compiler))}\n)"
    columns = "image, layer, n"
    if len(bound.token.ids) == 1:
        return _postings(bound, compiler, columns)
    # Each position reads one token: those of several tokens are others.
    postings, enough = _postings(bound.given(min_patches=1), compiler, columns), _having(bound, "sum(n)", compiler)
    return f"SELECT image, layer, sum(n) AS n\nFROM (\n  {indented(postings)}\n) GROUP BY image, layer{enough}"


def _having(bound: Bound, number: str, compiler: Compiler) -> str:
    """The condition that enough of an image's positions read the token in a layer, of which SQL tells the number."""
    least = bound["min_patches"]
    return f"\nHAVING {number} >= {compiler.value('min_patches', least)}" if least > 1 else ""


def _merged(bound: Bound, compiler: Compiler) -> str:
    """The positions that read any of several tokens at rank 1: each reads one of them."""
    enough = _having(bound, "len(positions)", compiler)
    each = _postings(bound.given(min_patches=1), compiler)
    return f"""\
SELECT image, layer, list_sort(flatten(list(positions))) AS positions
FROM (
  {indented(each)}
) GROUP BY image, layer{enough}"""


def _postings(bound: Bound, compiler: Compiler, columns: str = "image, layer, positions, logprob") -> str:
    """A token's own rows; of what lies at some patches image, layer and positions."""
    if bound.patches is not None:
        return _postings_inside(bound, bound.patches, compiler)
    table = compiler.table(f"{bound['at']}_top1", bound.token.ids)
    conditions = _conditions(bound, compiler)
    if bound["min_patches"] > 1:
        conditions.append(f"n >= {compiler.value('min_patches', bound['min_patches'])}")
    return f"SELECT {columns} FROM {table}\nWHERE {' AND '.join(conditions)}"


def _postings_inside(bound: Bound, patches: PatchSet, compiler: Compiler) -> str:
    table = f"{compiler.table('patch_top1', bound.token.ids)} {patches.mask(compiler)}"
    conditions = " AND ".join(_conditions(bound, compiler))
    return f"""\
SELECT * FROM (
  SELECT image, layer, {POSITIONS_INSIDE} AS positions FROM {table}
  WHERE {conditions}
) WHERE len(positions) >= {compiler.value("min_patches", bound["min_patches"])}"""


def token_cells(bound: Bound, compiler: Compiler) -> str:
    """The same one by one, whatever `min_patches`: image, layer, position."""
    if _is_top1(bound):
        layers = _postings(bound.given(min_patches=1), compiler)
        return f"SELECT image, layer, unnest(positions) AS position FROM (\n  {indented(layers)}\n)"
    return f"SELECT image, layer, position FROM (\n  {indented(token_positions(bound, compiler))}\n)"


def token_positions(bound: Bound, compiler: Compiler, *, beside: Bound | None = None) -> str:
    """The positions that read the token at each layer: image, layer, position, rank, logprob.

    Where the k best tell all that is asked, they are the fewer rows. `beside` is that of `token_layers`.
    """
    beyond = bound["rank"] > bound.run.k
    tracked = source_of(bound) is not None and (beyond or len(bound.token.ids) > 1)
    topk = compiler.table(f"{bound['at']}_topk", bound.token.ids)
    among = None if beyond else bound["rank"]
    table = known_readings(bound, compiler, ranks=beyond, among=among) if tracked else topk
    conditions = _conditions(bound, compiler)
    if beside is not None and len(ids := beside.token.ids) <= LISTED_TOKENS and _has_fewer_rows(beside, bound):
        stored = compiler.table(f"{bound['at']}_topk", ids)
        # Each image once: of all their readings the search takes longer than it spares.
        conditions.append(f"image IN (\n  SELECT DISTINCT image FROM {stored} WHERE {compiler.tokens(ids)}\n)")
    if bound.patches is not None:
        table += f" {bound.patches.mask(compiler)}"
        conditions.append(INSIDE)
    is_set = len(bound.token.ids) > 1
    # Of a set the best rank counts, and the probabilities add up.
    rank, probability = ("min(rank)", "fsum(exp(logprob))") if is_set else ("rank", "exp(logprob)")
    narrowed = []
    if bound["rank"] < bound.run.k or beyond:
        narrowed.append(f"{rank} <= {compiler.value('rank', bound['rank'])}")
    if bound["min_prob"] is not None:
        narrowed.append(f"{probability} >= {compiler.value('min_prob', bound['min_prob'])}")
    if not is_set:
        return f"SELECT image, layer, position, rank, logprob FROM {table}\nWHERE {' AND '.join(conditions + narrowed)}"
    if tracked and not beyond:
        # Of the k best there are far fewer rows.
        best = topk
        if bound.patches is not None:
            best += f" {bound.patches.mask(compiler)}"
        among = " AND ".join([*conditions, f"rank <= {compiler.value('rank', bound['rank'])}"])
        conditions.append(
            f"(image, layer, position) IN (\n  SELECT image, layer, position FROM {best} WHERE {among}\n)"
        )
    elif bound["rank"] == 1 < bound.run.k:
        # Most of a frequent token's readings are of other ranks: where they are alone they are left out first.
        at_rank_1 = " AND ".join([*conditions, f"rank = {compiler.value('rank', 1)}"])
        at_rank_1 = f"SELECT image, layer, position FROM {table} WHERE {at_rank_1}"
        conditions.append(f"(image, layer, position) IN (\n  {at_rank_1}\n)")
    having = f" HAVING {' AND '.join(narrowed)}" if narrowed else ""
    # A sum that is too small for a number is as good as its largest part; rounding may take others above 1.
    logprob = f"least(coalesce(ln(nullif({probability}, 0)), max(logprob)), 0)"
    return f"""\
SELECT image, layer, position, {rank} AS rank, {logprob} AS logprob
FROM {table} WHERE {" AND ".join(conditions)}
GROUP BY image, layer, position{having}"""


def _has_fewer_rows(one: Bound, other: Bound) -> bool:
    """Whether of one call's tokens fewer readings are stored. To look for these among more would take longer than it
    spares."""
    rows = [of.scope.snapshot.blocks(f"{of['at']}_topk", of.token.ids) for of in (one, other)]
    return rows[0] < rows[1]


def _is_top1(bound: Bound) -> bool:
    return bound["rank"] == 1 and bound["min_prob"] is None


def _conditions(bound: Bound, compiler: Compiler) -> list[str]:
    return [compiler.tokens(bound.token.ids), *asked(bound, compiler)]


def asked(bound: Bound, compiler: Compiler) -> list[str]:
    """The conditions that a row is of one of the layers and images that are asked for."""
    conditions = compiler.layers(bound.layers)
    if (images := bound.values.get("images")) is not None:
        conditions.append(images.restriction(compiler))
    return conditions
