"""The moments of a corpus' patches in its cache: summed shard by shard, each shard once; of the sums one object.

A shard's sums do not depend on others, and they are added up in the shards' order: the same shards have the same
moments, whoever adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from safetensors.torch import load, save
from torch import Tensor

from vlq.query.cache.studies import AGAIN, MOMENTS, check_moments, moments_prefix, sums_checksum, sums_key
from vlq.query.errors import CorruptCache, InputError
from vlq.query.schema import digest_of
from vlq.query.store import Store, put
from vlq.workers.intervene.ablation import Moments, MomentSums


def put_sums(store: Store, shard: int, sums: MomentSums) -> bool:
    """Put a shard's sums; False if they are there."""
    tensors = {f"total.{layer}": values for layer, values in sums.total.items()}
    tensors |= {f"squares.{layer}": values for layer, values in sums.squares.items()}
    tensors["count"] = torch.tensor(sums.count)
    checksum = sums_checksum({name: values.numpy() for name, values in tensors.items()})
    return store.create(sums_key(shard), save(tensors, {"sha256": checksum}))


def find_sums(store: Store, shard: int) -> MomentSums:
    """A shard's sums. Raises CorruptCache; FileNotFoundError if there are none."""
    key = sums_key(shard)
    data = store.read(key)
    check_moments(key, data)
    tensors = load(data)
    sums = MomentSums()
    sums.count = int(tensors.pop("count"))
    for name, values in tensors.items():
        kind, _, layer = name.partition(".")
        (sums.total if kind == "total" else sums.squares)[int(layer)] = values
    return sums


def put_moments(store: Store, shards: Sequence[int]) -> str:
    """Put the moments of these shards, whose sums are all there: the key.

    Sums that are damaged are removed, so that they are made again. Raises CorruptCache then; InputError if no image had
    any patch.
    """
    added = MomentSums()
    for shard in shards:
        try:
            added.add_sums(find_sums(store, shard))
        except CorruptCache:
            store.delete(sums_key(shard))
            raise
    if not added.count:
        raise InputError("No image could be read again: there is no mean patch.", "Put the files back, or: --mode zero")
    moments = added.moments()
    tensors = {f"mean.{layer}": values for layer, values in moments.mean.items()}
    tensors |= {f"deviation.{layer}": values for layer, values in moments.deviation.items()}
    data = save(tensors)
    return put(store, f"{moments_prefix(shards)}{digest_of(data)[:16]}.safetensors", data).key


def moments_at(store: Store, key: str) -> Moments:
    """The moments that lie at a key. Raises CorruptCache."""
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise CorruptCache(f"{key} is missing from {store.url}.", AGAIN) from error
    check_moments(key, data)
    found: dict[str, dict[int, Tensor]] = {"mean": {}, "deviation": {}}
    for name, values in load(data).items():
        kind, _, layer = name.partition(".")
        found[kind][int(layer)] = values
    return Moments(**found)


def known_moments(store: Store, shards: Sequence[int]) -> tuple[str | None, list[int]]:
    """The key of the moments of these shards, if they are there; else the shards that have no sums yet."""
    keys = [entry.key for entry in store.list(MOMENTS)]
    for key in keys:
        if key.startswith(moments_prefix(shards)):
            with suppress(CorruptCache):
                check_moments(key, store.read(key))
                return key, []
    return None, [shard for shard in shards if sums_key(shard) not in {*keys}]
