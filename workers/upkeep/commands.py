"""`vlq index`, `vlq compact`, `vlq verify`, `vlq repair` and `vlq gc`: upkeep of a cache that is there."""

from __future__ import annotations

from typing import Annotated

import typer

from vlq.query.cache.reader import Cache, default_url
from vlq.query.cache.records import check_writable
from vlq.query.shell import shell
from vlq.workers.options import CacheOption, MovedOption

ProcessesOption = Annotated[
    int | None, typer.Option(help="How many work at once; default as there are cores and memory for.", min=1)
]


def index(cache: CacheOption = "", processes: ProcessesOption = None) -> None:
    """Rebuild a cache's index from its Zarr arrays."""
    from vlq.workers.indexing.index import rebuild
    from vlq.workers.progress import steps

    opened = Cache.open(cache or default_url())
    check_writable(opened.store, opened.run)
    with steps() as progress:
        key, manifest, changed = rebuild(opened.store, opened.run, progress, processes=processes)
    rows = sum(stored.size for files in manifest.tables.values() for stored in files)
    print(f"Index of {manifest.images:,} images: {rows / 2**20:.1f} MiB, {key}{'' if changed else ' (as it was)'}.")


def compact(
    cache: CacheOption = "",
    shards: Annotated[int | None, typer.Option(help="The first so many; default all that are there.", min=1)] = None,
    processes: ProcessesOption = None,
) -> None:
    """Index the shards that are there, beside a run that goes on.

    Their postings are merged into an index.
    """
    from vlq.query.cache.heads import planned
    from vlq.workers.indexing import index as indexing
    from vlq.workers.progress import steps

    opened = Cache.open(cache or default_url())
    check_writable(opened.store, opened.run)
    head = planned(opened.store)
    with steps() as progress:
        key, manifest = indexing.compact(opened.store, opened.run, head, progress, most=shards, processes=processes)
        news = indexing.publish(opened.store, head, key, manifest)
    covered = f"{manifest.shards:,} of {head.shards:,} shards, {manifest.images:,} images"
    print(f"Index of {covered}: {key}{'' if news else ' (as it was)'}.")


def verify(
    cache: CacheOption = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read some images anew with the model, and compare.")
    ] = False,
    sample: Annotated[int, typer.Option(help="With --deep: how many images.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="With --deep: which ones.")] = 0,
    model: Annotated[str, typer.Option(help="With --deep: where the run's model is now; default as it was.")] = "",
    processes: ProcessesOption = None,
) -> None:
    """Check a cache: its objects, its shards, its index.

    Every object against its checksum, missing shards, and whether the index agrees with the arrays.
    """
    from vlq.query.summary import count
    from vlq.workers.progress import steps
    from vlq.workers.upkeep import verify as checks

    opened = Cache.open(cache or default_url())
    if deep:
        from vlq.workers.upkeep.rerun import rerun  # an extra that is missing shows before the checks, which take long
    found = 0
    repairable = False
    with steps() as progress:
        for finding in checks.verify(opened, progress, processes=processes):
            found += 1
            repairable = repairable or finding.mend == checks.REPAIR
            print(finding)
        if deep:
            for finding in rerun(opened, model or None, sample, seed, progress):
                found += 1
                print(finding)
    if found:
        print(f"{found} finding{'s' if found > 1 else ''} in {opened.url}.")
        if repairable:
            print(f"Run: {checks.REPAIR} --cache {shell(opened.url)}")
        raise typer.Exit(1)
    snapshot = opened.snapshot()
    images = count(snapshot.cached, "image")
    print(f"All is well: {images}, every object as written, the index agrees with the arrays.")
    if deep:
        anew = min(sample, snapshot.cached)
        print(f"{count(anew, 'image')} read anew {'says' if anew == 1 else 'say'} what is stored.")


def repair(
    cache: CacheOption = "",
    model: MovedOption = None,
) -> None:
    """Make again what can be made again of a damaged cache.

    And say what has to be read again.
    """
    from vlq.query.status import stretches
    from vlq.workers.progress import steps
    from vlq.workers.upkeep import repair as repairs
    from vlq.workers.upkeep.verify import Finding

    opened = repairs.open_harmed(cache or default_url())
    check_writable(opened.store, opened.run)
    mended, left = 0, 0
    with steps() as progress:
        for told in repairs.repair(opened, model or None, progress):
            left += isinstance(told, Finding)
            mended += isinstance(told, repairs.Mended)
            print(told)
    unread = repairs.unread(opened.store)
    if not mended and not left and not unread:
        print(f"Nothing to mend: {opened.url}")
    else:
        print(f"{mended:,} mended, {left:,} not: {opened.url}")
    if unread:
        print(f"To be read with the model: {stretches(unread)}. The same command as ever reads nothing else:")
        print(repairs.command_of(opened.run, opened.url))
    if left or unread:
        raise typer.Exit(1)


def gc(
    cache: CacheOption = "",
    grace: Annotated[str, typer.Option(help="What is younger stays: 24h, 30m, 7d.")] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what no record of a cache names.

    Leftovers of killed and beaten writers, and old indexes.
    """
    from vlq.workers.upkeep import gc as collector

    patience = collector.seconds(grace)
    opened = Cache.open(cache or default_url())
    if not dry_run:
        check_writable(opened.store, opened.run)
    found = collector.leftovers(opened, patience)
    count = total = 0
    for leftover in found if dry_run else collector.collect(opened, found):
        count += 1
        total += leftover.size
        print(f"{leftover.key}: {leftover.size:,} bytes, {leftover.why}.")
    verb = "would go" if dry_run else "removed"
    print(f"{count:,} object{'' if count == 1 else 's'} of {total:,} bytes {verb}: {opened.url}")
