"""`vlq index` and `vlq verify`: neither needs a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vlq.query.cache import Cache, default_url

CacheOption = Annotated[str, typer.Option(help="URL of the cache; default $VLQ_CACHE, else the demo's.")]


def index(cache: CacheOption = "") -> None:
    """Rebuild a cache's index from its Zarr arrays."""
    from vlq.workers.index import rebuild
    from vlq.workers.progress import steps

    opened = Cache.open(cache or default_url())
    with steps() as progress:
        key, manifest, changed = rebuild(opened.store, opened.run, progress)
    rows = sum(stored.size for files in manifest.tables.values() for stored in files)
    print(f"Index of {manifest.images} images: {rows / 2**20:.1f} MiB, {key}{'' if changed else ' (as it was)'}.")


def verify(cache: CacheOption = "") -> None:
    """Check a cache: checksums, missing shards, and whether its index agrees with its arrays."""
    from vlq.workers import verify as checks
    from vlq.workers.progress import steps

    opened = Cache.open(cache or default_url())
    found = 0
    with steps() as progress:
        for finding in checks.verify(opened, progress):
            found += 1
            print(f"{finding.where}: {finding.what}. To mend: {finding.mend}")
    if found:
        print(f"{found} finding{'s' if found > 1 else ''} in {opened.url}.")
        raise typer.Exit(1)
    snapshot = opened.snapshot()
    print(f"All is well: {snapshot.cached} images, every object as written, the index agrees with the arrays.")
