"""Make again what can be made again of a damaged cache, and clear the way for what has to be read again.

Most of what a cache holds is said twice. Postings and index follow from the arrays; ids and log-probabilities from the
postings; a shard's record from its objects, whose key tells their content; the plan from the images' tables, and these
from the index. What is put is put only where it has the checksum that a record states, so that a repaired cache is the
undisturbed one, byte for byte. What only the model can say again (`lse`, `entropy`, `sum`) costs its shard the record:
the same `vlq run` then reads that shard and no other.

Killed at any moment it can be called again: an object is damaged, missing or whole, and of a record that was removed
its shard's objects still tell.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlq.query.cache.reader import Cache
from vlq.query.cache.records import (
    committed,
    committed_shards,
    latest_head,
    missing_shards,
    read_commit,
    read_head,
    records,
)
from vlq.query.cache.tables import parquet_bytes, parquet_table, read_plan
from vlq.query.errors import CorruptCache, MissingExtra, ModelError, NoCache, VlqError
from vlq.query.schema import (
    HEADS,
    READ_COLUMNS,
    RUN,
    TOKENIZER,
    VOCABULARY,
    Commit,
    Head,
    IndexManifest,
    Run,
    Stored,
    commit_key,
    digest_of,
    head_key,
    images_key,
    interim_key,
    layers_option,
    parse_json,
    plan_key,
)
from vlq.query.store import Store, open_store, put
from vlq.workers.encode import encode_part
from vlq.workers.indexing.index import Progress, postings_from_arrays, rebuild
from vlq.workers.indexing.postings import postings_bytes, readings_of
from vlq.workers.lenses.files import Found
from vlq.workers.plan import Plan
from vlq.workers.shard import content_digest, put_postings, record_of
from vlq.workers.upkeep.verify import (
    REPAIR,
    RUN_AGAIN,
    Finding,
    damaged,
    verify_annotations,
    verify_index,
    verify_studies,
)

_SHARD = re.compile(r"shards/(\d{8})-([0-9a-f]{16})/(.+)")


@dataclass(frozen=True)
class Mended:
    """What was done, and to what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}."


Told = Iterator[Mended | Finding]
"""What was done, and what could not be."""


def open_harmed(url: str) -> Cache:
    """A cache that may be damaged. Raises CorruptCache if it is its run's record that is: nothing else says that."""
    hint = (
        f"Restore {RUN} from a copy. Or remove it and {RUN_AGAIN}, with the same versions: it is written again, if it "
        "is the run that the shards were made by."
    )
    try:
        return Cache.open(url)
    except CorruptCache as error:
        raise CorruptCache(error.message, hint) from error
    except NoCache:
        try:
            lost = bool(committed_shards(open_store(url)))
        except FileNotFoundError:
            lost = False
        if lost:
            raise CorruptCache(f"{RUN} is missing from {url}.", hint) from None
        raise


def repair(cache: Cache, model: str | None, progress: Progress) -> Told:
    """Mend a cache. `model` is where the run's model is now, if it moved."""
    yield from _heads(cache.store)
    head = latest_head(cache.store)
    if head is None:
        yield Finding(HEADS, "no plan was made", RUN_AGAIN)
    else:
        yield from _shards(cache, head, progress)
        yield from _plan(cache, head)
        yield from verify_annotations(cache, head)
        yield from _studies(cache, head)
        commits = committed(cache.store)
        yield from _interims(cache, commits, progress)
        yield from _index(cache, head, commits, progress)
    yield from _vocabulary(cache, model)
    yield from _unembedding(cache, model, progress)
    yield from _translators(cache)


def unread(store: Store) -> list[int]:
    """The shards of the plan that are not committed."""
    head = latest_head(store)
    return missing_shards(store, head.shards if head else 0)


def command_of(run: Run, url: str) -> str:
    """The `vlq run` that goes on with a cache. Where its images came from, only who began it knows."""
    options = {
        "--model": run.model,
        "--cache": url,
        **({"--prompt": run.prompt} if run.prompt_column is None else {"--prompt-column": run.prompt_column}),
        "--k": str(run.k),
        "--at": ",".join(site for site in run.at if site != "answer"),
        **({"--answer": str(run.answer)} if run.answer else {}),
        "--dtype": run.dtype,
    }
    if run.quantized is not None:
        options["--quantize"] = run.quantized
    if run.patches_option is not None:
        options["--patches"] = run.patches_option
    if len(run.read_layers) < run.layers:
        options["--layers"] = layers_option(run.read_layers)
    if run.keep != "topk":
        options["--keep"] = run.keep
    if run.tracked:
        options["--track"] = ",".join(map(str, run.tracked))
    if run.lens.kind != "logit":
        options["--lens"] = run.lens.kind
    return f"vlq run IMAGES {' '.join(f'{name} {shlex.quote(value)}' for name, value in options.items())}"


def _studies(cache: Cache, head: Head) -> Told:
    """Damaged sums go, which the next study that needs them makes again."""
    for finding in verify_studies(cache, head):
        if finding.mend == REPAIR:
            cache.store.delete(finding.where)
            yield Mended(finding.where, "removed: the next study that needs it makes it again")
        else:
            yield finding


# --- heads and the plan ----------------------------------------------------------------------------------------


def _heads(store: Store) -> Told:
    """Damaged heads go, and the newest of the others holds; with the largest plan, if a newer one was lost."""
    numbers = records(store, after=HEADS).heads
    sound = {number: head for number in numbers if (head := _head(store, number)) is not None}
    newest = max(sound, default=0)
    for number in numbers:
        if number not in sound:
            store.delete(head_key(number))
            yield Mended(head_key(number), "not what was written: removed")
    if sound and newest == numbers[-1]:
        return
    key, plan = _largest_plan(store)
    before = sound.get(newest, Head(0, "", 0, 0, False, None))
    if plan is not None and plan.images > before.images:
        number = newest + 1
        made = replace(before, number=number, plan=key, shards=plan.shards, images=plan.images, sealed=False)
        store.create(head_key(number), made.to_bytes())
        yield Mended(head_key(number), f"made of {key}, the largest plan")
    named = {annotation.stored.key for head in sound.values() for annotation in head.annotations}
    for entry in store.list("annotations"):
        if entry.key not in named:
            yield Finding(entry.key, "no head that is left names it", "if it is missed, vlq annotate that table again")


def _head(store: Store, number: int) -> Head | None:
    try:
        head = read_head(store, number)
    except CorruptCache:
        return None
    return head if head.number == number else None


def _largest_plan(store: Store) -> tuple[str, Plan | None]:
    """Plans only grow."""
    key, largest = "", None
    for entry in store.list("plans"):
        try:
            plan = Plan(read_plan(store, entry.key))
        except CorruptCache:
            continue
        if largest is None or plan.images > largest.images:
            key, largest = entry.key, plan
    return key, largest


def _plan(cache: Cache, head: Head) -> Told:
    """A plan is made again of the image tables, which repeat its rows."""
    store = cache.store
    try:
        read_plan(store, head.plan)
        return
    except CorruptCache as error:
        what = error.message
    if not (missing := unread(store)):
        commits = committed(store)
        tables = []
        for shard in range(head.shards):
            images = pq.read_table(cache.local(commits[shard].images_table))
            tables.append(images.add_column(1, "shard", pa.array([shard] * images.num_rows, pa.uint32())))
        own = [name for name in tables[0].column_names if name not in READ_COLUMNS and name != "shard"]
        data = parquet_bytes(pa.concat_tables(tables).select(["image_id", "shard", "image", "uri", *own]))
        if plan_key(digest_of(data)[:16]) == head.plan:
            put(store, head.plan, data)
            yield Mended(head.plan, "made again of the shards' images")
            return
    why = f"{len(missing):,} of its shards are not there to make it of" if missing else "the shards have other columns"
    mend = f"restore it from a copy; or, if no images were added later, {RUN_AGAIN}"
    yield Finding(head.plan, f"{what.rstrip('.')}; {why}", mend)


# --- shards ----------------------------------------------------------------------------------------------------


def _shards(cache: Cache, head: Head, progress: Progress) -> Told:
    present = committed_shards(cache.store)
    everything = sorted({*range(head.shards), *present})
    left: dict[int, dict[str, list[str]]] | None = None  # by shard and digest, listed once it is needed
    for done, shard in enumerate(everything):
        try:
            commit = read_commit(cache.store, shard)
        except (FileNotFoundError, CorruptCache) as error:
            if left is None:
                left = _left(cache.store)
            yield from _record(cache, shard, left[shard], is_there=isinstance(error, CorruptCache))
        else:
            if commit.run != cache.run.digest:
                yield Finding(commit_key(shard), "made by another run", "use another cache for that run")
            else:
                yield from _objects(cache, commit)
        progress("checking shards", done + 1, len(everything))


def _left(store: Store) -> dict[int, dict[str, list[str]]]:
    """The names of the objects that there are of each shard's groups, whether a record names them or not."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in store.list("shards"):
        if match := _SHARD.fullmatch(entry.key):
            found[int(match[1])][match[2]].append(match[3])
    return found


def _record(cache: Cache, shard: int, groups: Mapping[str, list[str]], is_there: bool) -> Told:
    """A record that is missing or damaged follows from its shard's objects, if they are whole and no others are."""
    key = commit_key(shard)
    whole = [made for digest, names in groups.items() if (made := _provisional(cache, shard, digest, names))]
    if len(whole) == 1:
        _recommit(cache, whole[0], is_there)
        yield Mended(key, "made again of its shard's objects")
    elif is_there:
        cache.store.delete(key)
        yield Mended(key, "not what was written: removed, its shard has to be read again")


def _provisional(cache: Cache, shard: int, digest: str, names: list[str]) -> Commit | None:
    """The record of a shard's objects without its postings; None if they are not all that was put by this run."""
    store, prefix = cache.store, f"shards/{shard:08d}-{digest}"
    try:
        objects = {name: store.read(f"{prefix}/{name}") for name in names}
        images = store.read(images_key(shard, digest))
    except FileNotFoundError:
        return None
    if content_digest(objects, images) != digest or _run_of(objects["zarr.json"]) != cache.run.digest:
        return None
    stored = tuple(Stored(f"{prefix}/{name}", len(data), digest_of(data)) for name, data in sorted(objects.items()))
    table = Stored(images_key(shard, digest), len(images), digest_of(images))
    lengths = {site: _length_of(objects, site) for site in cache.run.stored}
    return record_of(cache.run, shard, lengths, prefix, stored, table, parquet_table(images), {})


def _length_of(objects: Mapping[str, bytes], site: str) -> int:
    """How many positions a shard's arrays have of a site."""
    shape = parse_json(objects[f"{site}/token/zarr.json"], "zarr.json")["shape"]
    return int(shape[2])


def _run_of(metadata: bytes) -> str:
    """The digest of the run that made a shard's group, from its metadata."""
    return str(json.loads(metadata)["attributes"]["vlq"]["run"])


def _recommit(cache: Cache, commit: Commit, is_there: bool) -> None:
    """Put a shard's postings anew, and its record, in the place of another one if there is one."""
    store, key = cache.store, commit_key(commit.shard)
    made = replace(commit, postings=put_postings(store, commit.shard, postings_from_arrays(cache, commit)))
    if is_there:
        put(store, key, made.to_bytes())
    else:
        store.create(key, made.to_bytes())  # of two writers one wins


def _objects(cache: Cache, commit: Commit) -> Told:
    """What a sound record names is made again, or else the record removed."""
    harmed = {finding.where: finding.what for finding in damaged(cache, commit.named, "")}
    given_up = []
    for stored in (*commit.objects, commit.images_table):
        if stored.key in harmed:
            data, source = _again(cache, commit, stored)
            if digest_of(data) == stored.sha256:
                put(cache.store, stored.key, data)
                yield Mended(stored.key, f"{harmed[stored.key]}: made again of {source}")
            else:
                given_up.append(f"{stored.key} is {harmed[stored.key]}")
    if given_up:
        cache.store.delete(commit_key(commit.shard))
        what = f"{', '.join(given_up)}: the record is removed, as its shard has to be read again"
        yield Mended(commit_key(commit.shard), what)
        return
    expected = postings_from_arrays(cache, commit)
    fits = True
    for table, stored in commit.postings.items():
        what = harmed.get(stored.key, "")
        if not what and not pq.read_table(cache.local(stored)).equals(expected[table]):
            what = "says something else than the arrays"
        if what:
            yield Mended(stored.key, f"{what}: made again of the arrays")
            data = postings_bytes(expected[table])
            if digest_of(data) == stored.sha256:
                put(cache.store, stored.key, data)
            else:  # what was recorded was wrong, or another version of a library writes other bytes
                fits = False
    if not fits:
        _recommit(cache, commit, is_there=True)


def _again(cache: Cache, commit: Commit, stored: Stored) -> tuple[bytes, str]:
    """An object of a shard made again of other ones, and of which; it is for the caller to compare checksums."""
    if stored == commit.images_table:
        return _images_again(cache, commit), "the index"
    tables = {}
    for name, postings in commit.postings.items():
        try:
            tables[name] = parquet_table(cache.read(postings))
        except CorruptCache:
            continue
    readings = readings_of(cache.run, commit.first_image, commit.images, commit.lengths, tables)
    objects = encode_part(cache.run, readings, commit.images, commit.lengths)
    name = stored.key.removeprefix(f"{commit.prefix}/")
    return objects.get(name, b""), "the run's record" if name.endswith("zarr.json") else "the postings"


def _images_again(cache: Cache, commit: Commit) -> bytes:
    """A shard's image table, from an index, whether a head names it or not."""
    first, last = commit.first_image, commit.first_image + commit.images - 1
    for entry in cache.store.list("index"):
        if not entry.key.endswith(".json"):
            continue
        try:
            manifest = IndexManifest.from_bytes(cache.store.read(entry.key), entry.key)
            images = pa.concat_tables([pq.read_table(cache.local(file)) for file in manifest.tables["images"]])
        except (CorruptCache, FileNotFoundError, KeyError):
            continue
        rows = images.filter((pc.field("image_id") >= first) & (pc.field("image_id") <= last))
        if rows.num_rows == commit.images:
            return parquet_bytes(rows)
    return b""


# --- the index and the vocabulary ------------------------------------------------------------------------------


def _interims(cache: Cache, commits: Mapping[int, Commit], progress: Progress) -> Told:
    """Damaged indexes of a run that went on are done without: their records go here, the rest goes with `vlq gc`."""
    for shards, key in records(cache.store, after=HEADS).interims:
        wrong = list(verify_index(cache, key, [*commits.values()], progress))
        if wrong:
            cache.store.delete(interim_key(shards, key))
        yield from (Mended(finding.where, f"{finding.what.rstrip('.')}: not used any more") for finding in wrong)


def _index(cache: Cache, head: Head, commits: Mapping[int, Commit], progress: Progress) -> Told:
    """An index is made again of the arrays; the run that reads shards again makes it, too."""
    if any(commit.run != cache.run.digest for commit in commits.values()):
        return
    complete = all(shard in commits for shard in range(head.shards))
    wrong = list(verify_index(cache, head.index, [*commits.values()], progress)) if head.index else []
    covered = next((shard for shard in range(head.shards) if shard not in commits), head.shards)
    if wrong and covered < (head.shards if head.sealed else cache.indexed(head)):
        yield from (replace(finding, mend=f"{RUN_AGAIN}: it makes the index, too") for finding in wrong)
    elif wrong or (complete and not head.sealed):
        key, _, _ = rebuild(cache.store, cache.run, progress)
        yield from (Mended(finding.where, f"{finding.what.rstrip('.')}: made again of the arrays") for finding in wrong)
        if complete and not head.sealed:
            yield Mended(key, "every shard is there: the cache is sealed with its index")


def _vocabulary(cache: Cache, model: str | None) -> Told:
    """Vocabulary and tokenizer follow from the model's files."""
    store, checksums = cache.store, cache.run.checksums
    harmed = list(damaged(cache, _beside(cache.run, {VOCABULARY, TOKENIZER} & checksums.keys()), ""))
    if not harmed:
        return
    name = model or cache.run.model
    try:
        revision = cache.run.revision if name == cache.run.model else None
        made, why = _texts_of(name, revision, cache.run.vocabulary_size), f"{name} has another one"
    except (ModelError, MissingExtra) as error:
        made, why = {}, error.message.rstrip(".")
    for finding in harmed:
        data = made.get(finding.where, b"")
        if digest_of(data) == checksums[finding.where]:
            put(store, finding.where, data)
            yield Mended(finding.where, f"{finding.what}: made again of the model's files")
        else:
            mend = "say where the run's model is, --model FOLDER_OR_ID, or copy it from another cache of that model"
            yield Finding(finding.where, f"{finding.what}; {why}", mend)


def _translators(cache: Cache) -> Told:
    """A tuned lens' translators are put again from where it was taken from."""
    source = cache.run.lens.source
    layers = {key: layer for layer, key in cache.run.translators.items()}
    for finding in list(damaged(cache, _beside(cache.run, layers), "")):
        try:
            data = Found.at(source or "").read(layers[finding.where])
        except VlqError:
            data = b""
        if digest_of(data) == cache.run.checksums[finding.where]:
            put(cache.store, finding.where, data)
            yield Mended(finding.where, f"{finding.what}: made again of {source}")
        else:
            mend = f"bring that lens back to {source} and repair again, or copy it from another cache read with it"
            yield Finding(finding.where, f"{finding.what}, and {source} does not hold it either", mend)


def _unembedding(cache: Cache, model: str | None, progress: Progress) -> Told:
    """What makes logits of states follows from the model's weights."""
    run = cache.run
    for finding in list(damaged(cache, _beside(run, filter(None, [run.unembed])), "")):
        try:
            from vlq.workers.lenses.unembedding import to_bytes
            from vlq.workers.upkeep.rerun import model_of

            progress("loading the model", 0, 0)
            data, why = to_bytes(model_of(run, model, cache.url), run), "the model gives another one here"
        except (VlqError, ModuleNotFoundError) as error:
            data, why = b"", getattr(error, "message", str(error))
        if digest_of(data) == run.checksums[finding.where]:
            put(cache.store, finding.where, data)
            yield Mended(finding.where, f"{finding.what}: made again of the model's weights")
        else:
            mend = "say where the run's model is, --model FOLDER_OR_ID, or copy it from another cache of that run"
            yield Finding(finding.where, f"{finding.what}; {why.rstrip('.')}", mend)


def _beside(run: Run, keys: Iterable[str]) -> list[Stored]:
    """Objects that the run's record names."""
    return [Stored(key, 0, run.checksums[key]) for key in sorted(keys)]


def _texts_of(model: str, revision: str | None, size: int) -> dict[str, bytes]:
    """A model's vocabulary and tokenizer as a run puts them. Raises ModelError, MissingExtra."""
    try:
        from vlq.workers.models import load_processor
        from vlq.workers.models.files import resolve
        from vlq.workers.models.vocabulary import vocabulary_table

        tokenizer = load_processor(model, resolve(model, revision=revision)).tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra(f"This needs {error.name}, which is not installed.") from error
    vocabulary = parquet_bytes(vocabulary_table(tokenizer, size))
    return {VOCABULARY: vocabulary, TOKENIZER: tokenizer.backend_tokenizer.to_str().encode()}
