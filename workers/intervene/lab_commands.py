"""`vlq knockout`, `patch`, `steer` and `attribute`: what the command line adds to `Lab`, for one image, and to
`run_study`, for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlq.query.schema import EVERY, LAST, RANDOM, REPEATS, Study

if TYPE_CHECKING:
    from vlq.query.client import LocalCorpus
    from vlq.query.schema import Window
    from vlq.workers.intervene.asked import Asked

Image = Annotated[str, typer.Argument(help="The image: its name in the cache, or its number.")]
Target = Annotated[str, typer.Option(help="The word that is measured at the answer's first token, as in queries.")]
Where = Annotated[str, typer.Option("--cache", help="The cache, on a disk or a bucket; default $VLQ_CACHE.")]
Model = Annotated[str | None, typer.Option(help="Where the run's model is now, if it moved.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Answer = Annotated[int | None, typer.Option(help="Tokens of the answer at most; default as in the run, or 16.", min=1)]
Format = Annotated[str | None, typer.Option("--format", help="table (the default), json, jsonl or csv.")]
Output = Annotated[str | None, typer.Option(help="Write to this file.")]
At = Annotated[str, typer.Option(help="Where: last, patches (all), or a query that names patches.")]

Images = Annotated[
    str,
    typer.Option(help="Which images, by their columns: label == 'beach'; or one, by its name."),
]
Repeats = Annotated[int, typer.Option(help="Random sets of each image.", min=1)]
Buffer = Annotated[int, typer.Option(help="Rings of neighbours that are cut off, too.", min=0, max=2)]
Baseline = Annotated[
    str,
    typer.Option(help="What they are held against: random,register,gradient, some of these, or none."),
]
Combinations = Annotated[
    str,
    typer.Option(help="all together; regions: each piece, and pieces in every combination; singles: each patch."),
]
Seed = Annotated[int, typer.Option(help="Of what is drawn.", min=0)]
Limit = Annotated[int | None, typer.Option(help="Only the first so many images.", min=1)]
Batch = Annotated[int, typer.Option(help="Changed runs side by side.", min=1)]
Workers = Annotated[int | None, typer.Option(help="Default: one per GPU, else as many as fit.", min=1)]
Ray = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster to join; default: one of its own here."),
]
Gpus = Annotated[float, typer.Option(help="GPUs that a worker takes.")]
Spread = Annotated[str | None, typer.Option(help="auto: spread a model over the worker's GPUs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many images, sets and passes.")]


def knockout(
    query: Annotated[
        str,
        typer.Argument(
            help="Whose rows name the patches, such as \"locate('dog')\", or [12, 13]; in front, one image."
        ),
    ],
    patches: Annotated[str, typer.Argument(help="The query, where an image is in front of it.")] = "",
    target: Target = "",
    to: Annotated[str, typer.Option(help="Who no longer sees them: last (token), last-row (of patches) or prompt.")] = (
        "last"
    ),
    layers: Annotated[str, typer.Option(help="In which layers, from 1, such as 10:20; default all.")] = "",
    window: Annotated[int | None, typer.Option(help="So many layers at a time, one window after another.")] = None,
    others: Annotated[bool, typer.Option("--others", help="All patches but these are no longer seen.")] = False,
    images: Images = "",
    buffer: Buffer = 0,
    baseline: Baseline = RANDOM,
    combinations: Combinations = "all",
    repeats: Repeats = REPEATS,
    answer: Answer = None,
    seed: Seed = 0,
    limit: Limit = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    batch_size: Batch = Study.batch,
    workers: Workers = None,
    ray_address: Ray = None,
    gpus_per_worker: Gpus = 1.0,
    device_map: Spread = None,
    dry_run: DryRun = False,
    form: Format = None,
    output: Output = None,
) -> None:
    """Cut patches off from the answer in some layers' attention, of one image or of a corpus; see what becomes of it.

    An image in front of the query: that one alone is looked at. Without one it is a study of all images in which the
    query names patches, or of --images: its effects are kept in the cache.
    """
    from vlq.query.errors import BadArgument
    from vlq.query.render import form_of
    from vlq.query.schema import COMBINATIONS
    from vlq.workers.commands import one_of
    from vlq.workers.intervene.command import parse_baselines

    chosen, between = form_of(form, output), _window(layers)
    corpus, image, which = _images(cache, query if patches else "", images)
    named = patches or query
    if not patches and not query.isdecimal() and _is_image(corpus, query):
        raise BadArgument(
            f"{query} is an image: which of its patches?", f"Such as: vlq knockout {query} \"locate('dog')\""
        )
    _need(target, "--target dog")
    if image is not None:
        _only_of_many(limit=limit, dry_run=dry_run or None, buffer=buffer or None)
        lab = _lab(corpus, model, device)
        _deliver(
            lab.knockout(image, named, target, to=to, layers=between, window=window, others=others, answer=answer),
            chosen,
            output,
        )
        return

    from vlq.query.chosen import Written
    from vlq.workers.intervene.asked import Knockout

    options = Knockout(
        patches=Written.of(_not_a_word(named)),
        target=Written.word(target),
        buffer=buffer,
        baselines=parse_baselines(baseline),
        combinations=one_of("--combinations", combinations, COMBINATIONS) or combinations,
        repeats=repeats,
        to=to,
        layers=between,
        window=window,
        others=others,
        **_shared(corpus, which, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def patch(
    image: Annotated[str, typer.Argument(help="One image, by its name or number; without it: a study of many.")] = "",
    source: Annotated[str, typer.Argument(help="The image whose states are put in: its name, or its number.")] = "",
    target: Target = "",
    source_of_each: Annotated[
        str,
        typer.Option(
            "--source",
            help="Whose states are put into each of many: a name or number; other: any other image; other COLUMN: one "
            "with another value there; column COLUMN: the image that it names.",
        ),
    ] = "",
    at: At = "last",
    layers: Annotated[str, typer.Option(help="Layers such as 0,8,16:32 (both ends included); default all.")] = "",
    images: Images = "",
    answer: Answer = None,
    seed: Seed = 0,
    limit: Limit = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    batch_size: Batch = Study.batch,
    workers: Workers = None,
    ray_address: Ray = None,
    gpus_per_worker: Gpus = 1.0,
    device_map: Spread = None,
    dry_run: DryRun = False,
    form: Format = None,
    output: Output = None,
) -> None:
    """Put another image's states into an image's run, layer by layer, of one pair or of many; see whose answer comes.

    IMAGE and SOURCE: this pair alone is looked at. With --source it is a study of all images, or of --images, each
    with a partner: its effects are kept in the cache, and what is measured is the first token of the partner's own
    answer, unless --target says another word.
    """
    from vlq.query.errors import BadArgument
    from vlq.query.render import form_of

    chosen = form_of(form, output)
    if bool(source) == bool(source_of_each) or (image and source_of_each):
        raise BadArgument(
            "Whose states are put in?",
            'One pair: vlq patch IMAGE SOURCE. Many: vlq patch --source other, or "other label"',
        )
    corpus, one, which = _images(cache, image, images)
    if one is not None and source:
        _need(target, "--target dog")
        _only_of_many(limit=limit, dry_run=dry_run or None)
        lab = _lab(corpus, model, device)
        _deliver(lab.patch(one, source, target, at=at, layers=_layers(layers), answer=answer), chosen, output)
        return

    from vlq.query.chosen import Written
    from vlq.workers.intervene.asked import Patching

    options = Patching(
        patches=Written.place(_not_a_word(at)),
        target=Written.word(target) if target.strip() else None,
        source=source_of_each,
        layers=_window(layers),
        **_shared(corpus, which, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def steer(
    token: Annotated[
        str, typer.Argument(help="The word whose direction is added, as in queries; in front, one image.")
    ],
    word: Annotated[str, typer.Argument(help="The word, where an image is in front of it.")] = "",
    target: Annotated[str, typer.Option(help="The word that is measured; default the one that is added.")] = "",
    at: At = "last",
    layers: Annotated[str, typer.Option(help="Layers such as 0,8,16:32 (both ends included); default all.")] = "",
    window: Annotated[
        int | None,
        typer.Option(help="So many layers at a time, one window after another."),
    ] = None,
    strength: Annotated[
        str, typer.Option(help="How long, in lengths of the states: one number, or several such as 0.5,1,2.")
    ] = "0.5,1,2",
    images: Images = "",
    answer: Answer = None,
    seed: Seed = 0,
    limit: Limit = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    batch_size: Batch = Study.batch,
    workers: Workers = None,
    ray_address: Ray = None,
    gpus_per_worker: Gpus = 1.0,
    device_map: Spread = None,
    dry_run: DryRun = False,
    form: Format = None,
    output: Output = None,
) -> None:
    """Add a token's own direction to states, of one image or of a corpus, and see what becomes of the answer.

    An image in front of the word: that one alone is looked at. Without one it is a study of all images, or of --images:
    its effects are kept in the cache.
    """
    from vlq.query.errors import BadArgument
    from vlq.query.render import form_of

    chosen = form_of(form, output)
    try:
        strengths = [float(part) for part in strength.split(",")]
    except ValueError:
        raise BadArgument(f"--strength: expected numbers such as 0.5,1,2. Got {strength}.") from None
    corpus, image, which = _images(cache, token if word else "", images)
    added = word or token
    if image is not None:
        _only_of_many(limit=limit, dry_run=dry_run or None, window=window, target=target or None)
        lab = _lab(corpus, model, device)
        result = lab.steer(image, added, at=at, layers=_layers(layers), strengths=strengths, answer=answer)
        _deliver(result, chosen, output)
        return

    from vlq.query.chosen import Written
    from vlq.workers.intervene.asked import Steering

    options = Steering(
        patches=Written.place(_not_a_word(at)),
        target=Written.word(target) if target.strip() else None,
        token=Written.word(added),
        strengths=tuple(strengths),
        layers=_window(layers),
        window=window,
        **_shared(corpus, which, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def attribute(
    image: Image,
    target: Target,
    at: Annotated[str, typer.Option(help="Where: last, or a patch's number.")] = "last",
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    form: Format = None,
    output: Output = None,
) -> None:
    """See how much each layer's attention and MLP write towards a token."""
    from vlq.query.render import form_of

    chosen = form_of(form, output)
    _deliver(_lab(_corpus(cache), model, device).attribute(image, target, at=at), chosen, output)


# --- one image, or many ----------------------------------------------------------------------------------------


def _corpus(cache: str) -> LocalCorpus:
    from vlq.query.cache import Cache, default_url
    from vlq.query.client import LocalCorpus

    return LocalCorpus(Cache.open(cache or default_url()))


def _images(cache: str, image: str, images: str) -> tuple[LocalCorpus, str | None, Any]:
    """The cache; the one image that is looked at; else the condition on many, if there is one."""
    from vlq.query.chosen import Written
    from vlq.query.errors import BadArgument

    corpus, named = _corpus(cache), images.strip()
    if image and named:
        raise BadArgument(f"Either the image {image}, or --images.", "Leave one of them out.")
    if image or not named:
        return corpus, image or None, None
    if _is_image(corpus, named):
        return corpus, named, None
    return corpus, None, Written.of(images)


def _is_image(corpus: LocalCorpus, text: str) -> bool:
    """Whether a text is an image's number, or the name of one."""
    from vlq.query.nodes import col

    return text.isdecimal() or bool(corpus.images(col("image") == text).rows)


def _only_of_many(**given: Any) -> None:
    """Raises BadArgument if anything is given that goes with studies."""
    from vlq.query.errors import BadArgument

    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise BadArgument(f"{option} goes with a study of many images.", f"Leave out the image, or {option}.")


def _need(target: str, such: str) -> None:
    from vlq.query.errors import BadArgument

    if not target.strip():
        raise BadArgument("No --target: which word's probability is measured?", f"Such as {such}")


def _not_a_word(query: str) -> str:
    """The query. Raises BadArgument if it is a bare word."""
    from vlq.query.errors import BadArgument

    if (word := query.strip()).isidentifier() and word not in (LAST, EVERY, "None"):
        hint = f"Patches that read it: \"readings('{word}')\". Objects that are labelled so: \"'{word}'\""
        raise BadArgument(f"{word} is a word, and no query.", hint)
    return query


def _window(text: str) -> Window | None:
    """'10:20' -> (10, 20). Raises BadArgument."""
    from vlq.query.errors import BadArgument

    found = _layers(text)
    if found is not None and found != list(range(found[0], found[-1] + 1)):
        raise BadArgument(f"--layers: a window is of consecutive layers. Got {text}.", "Such as 10:20.")
    return None if found is None else (found[0], found[-1])


def _layers(text: str) -> list[int] | None:
    from vlq.workers.commands import parse_layers

    return list(parse_layers(text)) or None


def _shared(
    corpus: LocalCorpus,
    images: Any,
    answer: int | None,
    seed: int,
    limit: int | None,
    batch: int,
    model: str | None,
    device: str,
) -> dict[str, Any]:
    """What all studies are asked with."""
    from vlq.workers.commands import one_of

    on = one_of("--device", device, ("auto", "cpu", "cuda"))
    named = {"images": images, "answer": answer, "seed": seed, "limit": limit, "batch": batch}
    return {"cache": corpus.url, "model": model, "device": on, **named}


def _where(workers: int | None, address: str | None, gpus: float, device_map: str | None) -> dict[str, Any]:
    from vlq.workers.commands import share_of_gpus, spread

    spread_so = None if device_map is None else spread(device_map)
    return {"workers": workers, "ray_address": address, "gpus_per_worker": share_of_gpus(gpus), "device_map": spread_so}


# --- what is printed -------------------------------------------------------------------------------------------


def _study(options: Asked, dry_run: bool, form: str, output: str | None, cache: str) -> None:
    from vlq.workers.intervene.command import carried_out, foreseen_as

    if dry_run:
        from vlq.workers.intervene.foreseen import foresee
        from vlq.workers.intervene.job import begin

        print(foreseen_as(foresee(begin(options)), form))
        return
    _deliver(findings_of(carried_out(options), cache), form, output)


def findings_of(outcome: Any, cache: str) -> Any:
    """A finished study's curve: a row for each window of layers, or strength."""
    from dataclasses import asdict

    from vlq.query.curves import headline, query_of, rows_of, steps_of, summary_of
    from vlq.query.effects import shell
    from vlq.workers.commands import SHOWN_ERRORS
    from vlq.workers.intervene.findings import Findings

    study, errors = outcome.study, outcome.errors
    steps = steps_of(study, outcome.effects)
    notes = [] if outcome.fresh else ["Nothing to do: this study was finished before."]
    notes += [f"{name} has no effects: {reason}" for _, name, reason in errors[:SHOWN_ERRORS]]
    notes += [f"and {len(errors) - SHOWN_ERRORS:,} more"] if len(errors) > SHOWN_ERRORS else []
    where = f" --cache {shell(cache)}" if cache else ""
    notes += [*outcome.notes, f'Ask for it: vlq "{query_of(study)}"{where}']
    about = [asdict(token) for token in outcome.tokens.tokens]
    summary = summary_of(study, steps, outcome.names)
    summary["errors"] = [{"image": name, "reason": reason} for _, name, reason in errors]
    return Findings(
        query_of(study), headline(study, steps, outcome.tokens.label), rows_of(study, steps), about, summary, notes
    )


def _deliver(result: Any, form: str, output: str | None) -> None:
    from vlq.query.render import deliver

    deliver(result, form, output)


def _lab(corpus: LocalCorpus, model: str | None, device: str) -> Any:
    from vlq.workers.commands import one_of
    from vlq.workers.intervene.lab import Lab

    return Lab(corpus, model, one_of("--device", device, ("auto", "cpu", "cuda")))
