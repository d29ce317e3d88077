"""What the shards' summed probabilities come to: how far readings are from the corpus' mean, layer by layer.

The mean divergence of n distributions p from their mean is H(mean p) - mean H(p): the generalised Jensen-Shannon
divergence with equal weights (Lin, "Divergence measures based on the Shannon entropy", 1991).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from vlq.query.errors import CorruptCache
from vlq.query.schema import DIVERGENCE, Commit, Run

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache import Cache, Snapshot

SUMMED = ("patch", "last")
"""The sites whose probabilities are summed."""

DECIMALS = 9
"""Of an entropy in nats: logarithms differ in the last bits from processor to processor, a table's bytes must not."""


def summed_sites(run: Run) -> list[str]:
    """The sites whose probabilities are summed in this run."""
    return [site for site in SUMMED if site in run.positions]


def entropies(
    cache: Cache, commits: Sequence[Commit], sites: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> pyarrow.Table:
    """The rows of the index table DIVERGENCE for the images of these shards, from the shards' arrays.

    What is stored in float32 is added up in float64, shard after shard. A site at which no image has readings has no
    rows. Raises CorruptCache.
    """
    import numpy as np
    import pyarrow as pa

    run = cache.run
    mass = {site: np.zeros((run.layers, run.vocabulary_size)) for site in sites}
    entropy = {site: np.zeros(run.layers) for site in sites}
    positions, images = dict.fromkeys(sites, 0), dict.fromkeys(sites, 0)
    for done, commit in enumerate(commits):
        for site in sites:
            stored, own = run.stored_at(site)
            mass[site] += cache.values(commit, f"sum/{site}")
            found = cache.values(commit, f"{stored}/entropy")[:, :, own]  # (image, layer, position)
            there = np.isfinite(found)  # not of an image that failed, nor where it has no patch or none that was read
            positions[site] += int(there[:, run.read_layers[0]].sum())
            images[site] += int(there[:, run.read_layers[0]].any(-1).sum())
            entropy[site] += found.sum((0, 2), dtype=np.float64, where=there)
        if progress:
            progress(done + 1, len(commits))
    rows = []
    for site in filter(images.get, sites):
        n = positions[site]
        for layer in run.read_layers:
            mean = mass[site][layer] / n
            mean = mean[mean > 0]
            rows.append(
                {
                    "site": site,
                    "layer": layer,
                    "images": images[site],
                    "positions": n,
                    "mean_entropy": round(float(entropy[site][layer]) / n, DECIMALS),
                    "entropy_of_mean": round(-float(mean @ np.log(mean)), DECIMALS),
                }
            )
    columns = {
        "site": pa.string(),
        "layer": pa.uint16(),
        "images": pa.uint32(),
        "positions": pa.uint64(),
        "mean_entropy": pa.float64(),
        "entropy_of_mean": pa.float64(),
    }
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def divergences(snapshot: Snapshot, site: str) -> pyarrow.Table:
    """Of each layer the mean entropy at a site, the divergence, and its rise from the layer that was read below: all in
    nats.

    Columns layer, mean_entropy, divergence and rise, which the lowest layer has none of. They are read from the index
    where it covers all that is committed; a run that goes on is added up from its arrays. Raises CacheError if the
    index was made without the table.
    """
    import pyarrow as pa

    indexed = snapshot.images and not snapshot.loose
    table = _indexed(snapshot) if indexed else entropies(snapshot.cache, snapshot.commits, [site])
    rows = [row for row in table.to_pylist() if row["site"] == site]
    # It is never negative (Jensen's inequality), which rounding does not know.
    divergence = [max(0.0, row["entropy_of_mean"] - row["mean_entropy"]) for row in rows]
    rises = [above - below for below, above in pairwise(divergence)]
    return pa.table(
        {
            "layer": pa.array([row["layer"] for row in rows], pa.int32()),
            "mean_entropy": pa.array([row["mean_entropy"] for row in rows], pa.float64()),
            "divergence": pa.array(divergence, pa.float64()),
            "rise": pa.array([None, *rises][: len(rows)], pa.float64()),
        }
    )


def _indexed(snapshot: Snapshot) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    url = snapshot.cache.called
    try:
        return pq.read_table(snapshot.files(DIVERGENCE))
    except (OSError, pa.ArrowException) as error:
        raise CorruptCache(f"The index of {url} cannot be read: {error}", "Run: vlq index") from error
