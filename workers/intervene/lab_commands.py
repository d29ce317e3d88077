"""`vlq knockout`, `patch`, `steer` and `attribute`: what the command line adds to `Lab`, for one image, and to
`run_study`, for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlq.query.options import FORMAT, OUTPUT
from vlq.query.schema import EVERY, LAST, RANDOM, REPEATS, Study
from vlq.workers.intervene.options import (
    AnswerOption,
    BaselineOption,
    BatchOption,
    BufferOption,
    CombinationsOption,
    DryRunOption,
    ImagesOption,
    PromptOption,
    RepeatsOption,
    SeedOption,
    StudyDeviceOption,
    condition,
    corpus_at,
    is_image,
    need_target,
    prompt_of,
)
from vlq.workers.options import (
    CacheOption,
    DeviceMapOption,
    GpusOption,
    LimitOption,
    MovedOption,
    RayOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus
    from vlq.query.schema import Window
    from vlq.query.studies.chosen import Written
    from vlq.workers.intervene.asked import Asked

TargetOption = Annotated[
    str, typer.Option(help="The word that is measured at the answer's first token, as in queries.")
]
PlaceOption = Annotated[str, typer.Option(help="Where: last, patches (all), or a query that names patches.")]
LayersOption = Annotated[str, typer.Option(help="Layers such as 0,8,16:32 (both ends included); default all.")]
WindowOption = Annotated[int | None, typer.Option(help="So many layers at a time, one window after another.")]
FormatOption = Annotated[str | None, typer.Option("--format", help=FORMAT)]
OutputOption = Annotated[str | None, typer.Option(help=OUTPUT)]


def knockout(
    query: Annotated[
        str,
        typer.Argument(
            help="Whose rows name the patches, such as \"locate('dog')\", or [12, 13]; in front, one image.",
            metavar="IMAGE|QUERY",
        ),
    ],
    patches: Annotated[str, typer.Argument(help="The query, where an image is in front of it.", metavar="QUERY")] = "",
    target: TargetOption = "",
    to: Annotated[str, typer.Option(help="Who no longer sees them: last (token), last-row (of patches) or prompt.")] = (
        "last"
    ),
    layers: Annotated[str, typer.Option(help="In which layers, from 1, such as 10:20; default all.")] = "",
    window: WindowOption = None,
    others: Annotated[bool, typer.Option("--others", help="All patches but these are no longer seen.")] = False,
    images: ImagesOption = "",
    buffer: BufferOption = 0,
    baseline: BaselineOption = RANDOM,
    combinations: CombinationsOption = "all",
    repeats: RepeatsOption = REPEATS,
    prompt: PromptOption = None,
    answer: AnswerOption = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    cache: CacheOption = "",
    model: MovedOption = None,
    device: StudyDeviceOption = "auto",
    batch_size: BatchOption = Study.batch,
    workers: WorkersOption = None,
    ray_address: RayOption = None,
    gpus_per_worker: GpusOption = 1.0,
    device_map: DeviceMapOption = None,
    dry_run: DryRunOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Cut the answer's attention to patches, some layers at a time.

    An image in front of the query: that one alone is looked at. Without one it is a study of all images in which the
    query names patches, or of --images: its effects are kept in the cache.
    """
    from vlq.query.answers.render import form_of
    from vlq.query.errors import BadArgument
    from vlq.query.schema import COMBINATIONS
    from vlq.workers.commands import one_of
    from vlq.workers.intervene.command import parse_baselines

    chosen, between, question = form_of(form, output), _window(layers), prompt_of(prompt)
    corpus, image, which = _images(cache, query if patches else "", images)
    named = patches or query
    if not patches and not query.isdecimal() and is_image(corpus, query):
        raise BadArgument(
            f"{query} is an image: which of its patches?", f"Such as: vlq knockout {query} \"locate('dog')\""
        )
    need_target(target)
    if image is not None:
        _only_of_many(limit=limit, dry_run=dry_run or None, buffer=buffer or None)
        lab = _lab(corpus, model, device)
        _deliver(
            lab.knockout(
                image,
                named,
                target,
                to=to,
                layers=between,
                window=window,
                others=others,
                prompt=question,
                answer=answer,
            ),
            chosen,
            output,
        )
        return

    from vlq.query.studies.chosen import Written
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
        **_shared(corpus, which, question, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def patch(
    image: Annotated[str, typer.Argument(help="One image, by its name or number; without it: a study of many.")] = "",
    source: Annotated[str, typer.Argument(help="The image whose states are put in: its name, or its number.")] = "",
    target: TargetOption = "",
    source_of_each: Annotated[
        str,
        typer.Option(
            "--source",
            help="Whose states are put into each of many: a name or number; other: any other image; other COLUMN: one "
            "with another value there; column COLUMN: the image that it names.",
        ),
    ] = "",
    at: PlaceOption = "last",
    layers: LayersOption = "",
    images: ImagesOption = "",
    prompt: PromptOption = None,
    answer: AnswerOption = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    cache: CacheOption = "",
    model: MovedOption = None,
    device: StudyDeviceOption = "auto",
    batch_size: BatchOption = Study.batch,
    workers: WorkersOption = None,
    ray_address: RayOption = None,
    gpus_per_worker: GpusOption = 1.0,
    device_map: DeviceMapOption = None,
    dry_run: DryRunOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Put another image's states into a run, and see who answers.

    Layer by layer, of one pair of images or of many.

    IMAGE and SOURCE: this pair alone is looked at. With --source it is a study of all images, or of --images, each
    with a partner: its effects are kept in the cache, and what is measured is the first token of the partner's own
    answer, unless --target says another word.
    """
    from vlq.query.answers.render import form_of
    from vlq.query.errors import BadArgument

    chosen, question = form_of(form, output), prompt_of(prompt)
    if bool(source) == bool(source_of_each) or (image and source_of_each):
        raise BadArgument(
            "Whose states are put in?",
            'One pair: vlq patch IMAGE SOURCE. Many: vlq patch --source other, or "other label"',
        )
    corpus, one, which = _images(cache, image, images)
    if one is not None and source:
        need_target(target)
        _only_of_many(limit=limit, dry_run=dry_run or None)
        lab = _lab(corpus, model, device)
        result = lab.patch(one, source, target, at=at, layers=_layers(layers), prompt=question, answer=answer)
        _deliver(result, chosen, output)
        return

    from vlq.query.studies.chosen import Written
    from vlq.workers.intervene.asked import Patching

    options = Patching(
        patches=Written.place(_not_a_word(at)),
        target=Written.word(target) if target.strip() else None,
        source=source_of_each,
        layers=_window(layers),
        **_shared(corpus, which, question, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def steer(
    token: Annotated[
        str,
        typer.Argument(
            help="The word whose direction is added, as in queries; in front, one image.", metavar="IMAGE|WORD"
        ),
    ],
    word: Annotated[str, typer.Argument(help="The word, where an image is in front of it.", metavar="WORD")] = "",
    target: Annotated[str, typer.Option(help="The word that is measured; default the one that is added.")] = "",
    at: PlaceOption = "last",
    layers: LayersOption = "",
    window: WindowOption = None,
    strength: Annotated[
        str, typer.Option(help="How long, in lengths of the states: one number, or several such as 0.5,1,2.")
    ] = "0.5,1,2",
    images: ImagesOption = "",
    prompt: PromptOption = None,
    answer: AnswerOption = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    cache: CacheOption = "",
    model: MovedOption = None,
    device: StudyDeviceOption = "auto",
    batch_size: BatchOption = Study.batch,
    workers: WorkersOption = None,
    ray_address: RayOption = None,
    gpus_per_worker: GpusOption = 1.0,
    device_map: DeviceMapOption = None,
    dry_run: DryRunOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Add a token's direction to states, and see what is answered.

    An image in front of the word: that one alone is looked at. Without one it is a study of all images, or of --images:
    its effects are kept in the cache.
    """
    from vlq.query.answers.render import form_of
    from vlq.query.errors import BadArgument

    chosen, question = form_of(form, output), prompt_of(prompt)
    try:
        strengths = [float(part) for part in strength.split(",")]
    except ValueError:
        raise BadArgument(f"--strength: expected numbers such as 0.5,1,2. Got {strength}.") from None
    corpus, image, which = _images(cache, token if word else "", images)
    added = word or token
    if image is not None:
        _only_of_many(limit=limit, dry_run=dry_run or None, window=window, target=target or None)
        lab = _lab(corpus, model, device)
        result = lab.steer(
            image, added, at=at, layers=_layers(layers), strengths=strengths, prompt=question, answer=answer
        )
        _deliver(result, chosen, output)
        return

    from vlq.query.studies.chosen import Written
    from vlq.workers.intervene.asked import Steering

    options = Steering(
        patches=Written.place(_not_a_word(at)),
        target=Written.word(target) if target.strip() else None,
        token=Written.word(added),
        strengths=tuple(strengths),
        layers=_window(layers),
        window=window,
        **_shared(corpus, which, question, answer, seed, limit, batch_size, model, device),
        **_where(workers, ray_address, gpus_per_worker, device_map),
    )
    _study(options, dry_run, chosen, output, cache)


def attribute(
    image: Annotated[str, typer.Argument(help="The image: its name in the cache, or its number.")],
    target: TargetOption,
    at: Annotated[str, typer.Option(help="Where: last, or a patch's number.")] = "last",
    prompt: PromptOption = None,
    cache: CacheOption = "",
    model: MovedOption = None,
    device: StudyDeviceOption = "auto",
    form: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """How much each layer's attention and MLP write to a token.

    In logits towards it, above the mean of the vocabulary's, in one image.
    """
    from vlq.query.answers.render import form_of

    chosen = form_of(form, output)
    _deliver(
        _lab(corpus_at(cache), model, device).attribute(image, target, at=at, prompt=prompt_of(prompt)), chosen, output
    )


# --- one image, or many ----------------------------------------------------------------------------------------


def _images(cache: str, image: str, images: str) -> tuple[LocalCorpus, str | None, Any]:
    """The cache; the one image that is looked at; else the condition on many, if there is one."""
    from vlq.query.errors import BadArgument

    corpus, named = corpus_at(cache), images.strip()
    if image and named:
        raise BadArgument(f"Either the image {image}, or --images.", "Leave one of them out.")
    if image or not named:
        return corpus, image or None, None
    if is_image(corpus, named):
        return corpus, named, None
    return corpus, None, condition(corpus, images)


def _only_of_many(**given: Any) -> None:
    """Raises BadArgument if anything is given that goes with studies."""
    from vlq.query.errors import BadArgument

    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise BadArgument(f"{option} goes with a study of many images.", f"Leave out the image, or {option}.")


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
    images: Written | None,
    prompt: str | None,
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
    named = {"images": images, "prompt": prompt, "answer": answer, "seed": seed, "limit": limit, "batch": batch}
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

    from vlq.query.errors import printable
    from vlq.query.shell import shell
    from vlq.query.studies.curves import headline, query_of, rows_of, steps_of, summary_of
    from vlq.workers.commands import SHOWN_ERRORS
    from vlq.workers.intervene.findings import Findings

    study, errors = outcome.study, outcome.errors
    steps = steps_of(study, outcome.effects)
    notes = [] if outcome.fresh else ["Nothing to do: this study was finished before."]
    notes += [f"{printable(name)} has no effects: {reason}" for _, name, reason in errors[:SHOWN_ERRORS]]
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
    from vlq.query.answers.render import deliver

    deliver(result, form, output)


def _lab(corpus: LocalCorpus, model: str | None, device: str) -> Any:
    from vlq.workers.commands import one_of
    from vlq.workers.intervene.lab import Lab

    return Lab(corpus, model, one_of("--device", device, ("auto", "cpu", "cuda")))
