"""Which table of the index serves which arguments: the readings of a token as SQL, from the smallest one that can."""

from __future__ import annotations

from vlq.query.bind import Bound
from vlq.query.compile import Where

Source = tuple[str, str, Where]
"""A table, a SELECT that reads it, and the values that the SELECT uses."""


def token_layers(bound: Bound) -> Source:
    """The layers in which enough positions read the token: image, layer, positions, the best logprob."""
    if len(bound.token.ids) == 1 and bound["rank"] == 1 and bound["min_prob"] is None:
        table, where = f"{bound['at']}_top1", _where(bound)
        if bound["min_patches"] > 1:
            where.add("n >= $min_patches", min_patches=bound["min_patches"])
        return table, f"SELECT image, layer, positions, logprob FROM read_parquet(${table}) WHERE {where}", where
    table, readings, where = token_positions(bound)
    enough = ""
    if bound["min_patches"] > 1:
        enough = " HAVING count(*) >= $min_patches"
        where.parameters["min_patches"] = bound["min_patches"]
    layers = f"""\
SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
  FROM ({readings}
  ) GROUP BY image, layer{enough}"""
    return table, layers, where


def token_positions(bound: Bound) -> Source:
    """The positions that read the token at each layer: image, layer, position, logprob."""
    table, where = f"{bound['at']}_topk", _where(bound)
    rank, min_prob = bound["rank"] if bound["rank"] < bound.run.k else None, bound["min_prob"]
    if len(bound.token.ids) == 1:
        if rank is not None:
            where.add("rank <= $rank", rank=rank)
        if min_prob is not None:
            where.add("exp(logprob) >= $min_prob", min_prob=min_prob)
        return table, f"SELECT image, layer, position, logprob FROM read_parquet(${table}) WHERE {where}", where
    # Of a set the best rank counts, and the probabilities add up.
    having = Where()
    if rank is not None:
        having.add("min(rank) <= $rank", rank=rank)
    if min_prob is not None:
        having.add("fsum(exp(logprob)) >= $min_prob", min_prob=min_prob)
    sets = f"""\
SELECT image, layer, position, least(ln(fsum(exp(logprob))), 0) AS logprob
  FROM read_parquet(${table}) WHERE {where}
  GROUP BY image, layer, position{f" HAVING {having}" if having.conditions else ""}"""
    where.parameters |= having.parameters
    return table, sets, where


def _where(bound: Bound) -> Where:
    where = Where()
    where.add_tokens(bound.token.ids)
    where.add_layers(bound.layers)
    return where
