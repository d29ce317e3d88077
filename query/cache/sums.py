"""What the shards' summed probabilities come to: how far readings are from the corpus' mean, layer by layer.

The mean divergence of n distributions p from their mean is H(mean p) - mean H(p): the generalised Jensen-Shannon
divergence with equal weights (Lin, "Divergence measures based on the Shannon entropy", 1991).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vlq.query.schema import Commit, Run

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Cache, Snapshot

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


def entropies_at(snapshot: Snapshot, site: str) -> pyarrow.Table:
    """The same of one site and of all images that are committed."""
    return entropies(snapshot.cache, snapshot.commits, [site])
