"""The tables of the index."""

from __future__ import annotations

from vlq.query.schema.run import SITES

PATCH_CELLS = "patch_cells"

KINDS = ("top1", "topk", "tracked", "rest")

TABLES = (*(f"{site}_{kind}" for site in SITES for kind in KINDS), PATCH_CELLS)
"""Index tables. Each is sorted by all its key columns, so that a token's rows, or an image's, lie together.

`<site>_top1`: one row per (token, image, layer): a posting of what is read at rank 1.
    token uint32, image uint32, layer uint16, n uint32 (positions), logprob float32 (the best), positions list<uint16>
`<site>_topk`: one row per (token, image, layer, position): every stored reading.
    token uint32, image uint32, layer uint16, position uint16, rank uint8, logprob float32
`<site>_tracked`: one row per (tracked token, image, layer that was read, position), if any tokens are tracked.
    token uint32, image uint32, layer uint16, position uint16, rank uint32, logprob float32
`<site>_rest`: one row per (image, layer that was read): what tokens that are not stored can have, at any position.
    image uint32, layer uint16, kth float32 (the largest log-probability of a last stored token),
    rest float32 (the largest probability that the stored tokens of a position leave to all others together)
`patch_cells`: one row per image with patches that were read: what they read at rank 1, for what looks around a token.
    image uint32, top1 binary: ids of `Run.id_dtype`, little-endian, (layer, patch) as in the array `patch/top1`, of
    its own patches up to the last that was read; `Run.no_id` at layers and patches that were not read
"""

DIVERGENCE = "divergence"
"""Index table with one row per (site, layer that was read) of `patch` and `last`, from all shards' sums and entropies.

    site, layer uint16, images uint32 (with readings there), positions uint64 (all of theirs)
    mean_entropy float64       the mean of the positions' entropies, in nats
    entropy_of_mean float64    the entropy of the mean of their distributions; minus the other it is their divergence
"""

COUNTS = "counts"
"""Index table with one row per (site, layer or none, token) that positions decode to at rank 1, from all shards.

    site, layer uint16 (null: at any layer), token uint32
    positions uint64           that decode to it
    images uint32              in which some position does
    leads uint32               in which most positions do, of equally many those of the lower id; null at any layer
"""
