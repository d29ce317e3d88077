"""What `vlq info` says of a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlq.query.cache.copies import unreadable
from vlq.query.cache.reader import incomplete
from vlq.query.cache.records import check_there
from vlq.query.errors import printable
from vlq.query.image.geometry import READ
from vlq.query.language.effects import done_in, measured
from vlq.query.schema import READ_COLUMNS, LensSpec, is_ours, layers_phrase
from vlq.query.summary import count as counted

if TYPE_CHECKING:
    from vlq.query.cache.reader import Cache, Snapshot
    from vlq.query.schema import Finished


def info(cache: Cache) -> dict[str, Any]:
    """Plain values: what was run, how far it is, what failed, how large it is, and the state of its index."""
    run, snapshot = cache.run, cache.snapshot()
    sizes: Counter[str] = Counter()
    beside: list[int] = []
    for entry in cache.store.list():
        if is_ours(entry.key):
            sizes[entry.key.split("/")[0]] += entry.size
        else:
            beside.append(entry.size)
    if not sizes:
        check_there(cache.store)
    return {
        "cache": cache.called,
        "model": cache.model,
        "model_class": run.model_class,
        "model_hash": run.model_hash,
        "revision": run.revision,
        "dtype": run.dtype,
        "quantized": run.quantized,
        "lens": cache.lens.plain(),
        "prompt": run.prompt,
        "prompt_column": run.prompt_column,
        "layers": run.layers,
        "read_layers": list(run.read_layers),
        "tracked": [{"id": id, "piece": piece} for id, piece in zip(run.tracked, run.tracked_pieces, strict=True)],
        "grid": run.grid and list(run.grid),
        "patches": run.patches,
        "patches_read": patches_read(snapshot),
        "k": run.k,
        "keep": run.keep,
        "width": run.width or None,
        "at": list(run.at),
        "answer": run.answer,
        "vocabulary_size": run.vocabulary_size,
        "images": snapshot.planned,
        "cached": snapshot.cached,
        "state": "complete" if snapshot.sealed else "incomplete",
        "errors": [{"image": name, "reason": reason} for _, name, reason in snapshot.errors],
        "columns": user_columns(snapshot),
        "annotated": [name for annotation in snapshot.annotations for name in annotation.columns],
        "studies": [as_values(finished) for finished in snapshot.studies],
        "size": {
            "total": sizes.total(),
            "arrays": sizes["shards"],
            "postings": sizes["postings"],
            "index": sizes["index"],
        },
        "beside": {"files": len(beside), "bytes": sum(beside)},
        "index": {
            "state": index_state(snapshot),
            "shards": snapshot.manifest.shards if snapshot.manifest else 0,
            "files": sum(len(files) for files in snapshot.manifest.tables.values()) if snapshot.manifest else 0,
        },
        "versions": dict(run.versions),
    }


def as_values(finished: Finished) -> dict[str, Any]:
    """What was taken in a study, what was measured, and how large its effects are."""
    study = finished.study
    names = ("digest", "intervention", "patches", "target", "mode", "buffer", "combinations", "images", "seed")
    return {
        **{name: getattr(study, name) for name in names},
        "done": done_in(study),
        "baselines": list(study.baselines),
        "bytes": finished.effects.size,
    }


def study_phrase(study: Mapping[str, Any]) -> str:
    """A study of `as_values`, in a line."""
    said = [f"{study['digest'][:8]}: {study['done']}"]
    said += [f"with {study['buffer']} ring{'s' if study['buffer'] > 1 else ''}"] if study["buffer"] else []
    said += [study["combinations"]] if study["combinations"] != "all" else []
    said += [f"images with {study['images']}"] if study["images"] else []
    return f"{', '.join(said)}: on {measured(study['target'])}"


def index_state(snapshot: Snapshot) -> str:
    """`compacted`; `partly compacted` or `per shard` while a run is not complete; `none` if nothing is cached."""
    if snapshot.manifest is not None:
        return "partly compacted" if snapshot.loose else "compacted"
    return "per shard" if snapshot.loose else "none"


def patches_read(snapshot: Snapshot) -> dict[str, Any] | None:
    """Of what patches were read, of how many images so far and how many of these; None if all of every image are."""
    run, files = snapshot.cache.run, snapshot.files("images")
    if run.patches_column is None:
        return None
    counts = f"count(*) FILTER (len({READ}) > 0), coalesce(sum(len({READ})), 0)::BIGINT"
    images = patches = 0
    if files:
        ((images, patches),) = _rows(snapshot, f"SELECT {counts} FROM read_parquet(?)", files)
    return {"of": run.patches_option, "images": images, "patches": patches}


def user_columns(snapshot: Snapshot) -> list[str]:
    """Names of the image columns that came with the images or were joined to them."""
    files = snapshot.files("images")
    if not files:
        return []
    described = _rows(snapshot, "DESCRIBE SELECT * FROM read_parquet(?)", files[:1])
    return [name for name, *_ in described if name not in READ_COLUMNS]


def _rows(snapshot: Snapshot, sql: str, files: Sequence[str]) -> list[tuple[Any, ...]]:
    """What files of the images' table tell. Raises CorruptCache."""
    import duckdb

    try:
        with duckdb.connect() as connection:
            return connection.execute(sql, [files]).fetchall()
    except duckdb.Error as error:
        snapshot.cache.copies.distrust()
        snapshot.files("images")  # which tells what became of them
        raise unreadable(snapshot.cache.called, error) from error


def as_text(values: dict[str, Any]) -> str:
    """The same for a person."""
    last, some = values["layers"] - 1, values["read_layers"]
    read = f"; read are {layers_phrase(some)}" if len(some) < values["layers"] else ""
    grid = (
        "{} x {} patches".format(*values["grid"])
        if values["grid"]
        else (f"each image has its own, of at most {values['patches']:,} patches")
    )
    if (some := values["patches_read"]) is not None:
        grid += f"; read are those of {some['of']}, {some['patches']:,} in {some['images']:,} images"
    tracked = values["tracked"]
    progress = "all cached" if values["state"] == "complete" else f"{values['cached']:,} cached so far"
    own = values["prompt_column"]
    at = values["revision"] and f"revision {values['revision'][:12]}"
    made = [values["model_class"], at, values["dtype"], values["quantized"]]
    named = [f"{name} (annotated)" if name in values["annotated"] else name for name in values["columns"]]
    lines = [
        ("cache", values["cache"]),
        ("model", f"{values['model']} ({', '.join(filter(None, made))})"),
        ("prompt", repr(values["prompt"]) + (f", each image with its own {own}" if own else "")),
        ("lens", str(LensSpec.of(values["lens"]))),
        ("layers", f"{values['layers']}: 0 is the embedding, {last} the last block's output{read}"),
        ("grid", grid),
        ("k", f"{values['k']} tokens a reading{f'; and {beside}' if (beside := kept(values)) else ''}"),
        *([("tracked", ", ".join(f"{token['piece']} ({token['id']})" for token in tracked))] if tracked else []),
        ("read at", ", ".join(values["at"])),
        ("images", f"{values['images']:,}, {progress}, {len(values['errors']):,} with errors"),
        ("columns", printable(", ".join(named)) or "none of your own"),
        ("size", sizes_as_text(values["size"], values["cached"])),
        *([("beside", beside_as_text(values["beside"]))] if values["beside"]["files"] else []),
        ("index", f"{values['index']['state']}, {values['index']['files']} files"),
        *[("study", study_phrase(study)) for study in values["studies"]],
    ]
    text = [f"{name:<8} {value}" for name, value in lines]
    text += [f"  {printable(error['image'])}: {error['reason']}" for error in values["errors"]]
    if values["state"] != "complete":
        some = "The run is not complete: the same `vlq run` goes on where it stopped."
        text.append(incomplete(values["cached"], values["images"], some))
    return "\n".join(text)


def kept(values: Mapping[str, Any]) -> str:
    """What is kept of a reading beside its best tokens."""
    match values["keep"]:
        case "all":
            return "all logits"
        case "residual":
            return f"the residual stream, {values['width']:,} numbers each"
    return ""


def sizes_as_text(size: dict[str, int], images: int) -> str:
    parts = ", ".join(f"{name} {as_bytes(size[name])}" for name in ("arrays", "postings", "index"))
    per_image = f"; {as_bytes(size['total'] // images)} an image" if images else ""
    return f"{as_bytes(size['total'])} ({parts}{per_image})"


def beside_as_text(beside: Mapping[str, int]) -> str:
    return f"{counted(beside['files'], 'file')} of {as_bytes(beside['bytes'])} that VLQ did not put there"


def as_bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
