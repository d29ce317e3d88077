"""`vlq ablate`: what the command line adds to `run_study`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vlq.query.errors import BadArgument, printable
from vlq.query.schema import BASELINES, COMBINATIONS, MODES, RANDOM, REPEATS, Study
from vlq.workers.commands import SHOWN_ERRORS, one_of, share_of_gpus, spread
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

FORMATS = ("table", "json", "csv")


def ablate(
    query: Annotated[
        str,
        typer.Argument(help="Whose rows name the patches: readings('rock'), locate('rock'), ..."),
    ] = "",
    target: Annotated[
        str, typer.Option(help="The word that is measured; or as in a query: ['rock', 'rocks'], matching('^rock').")
    ] = "",
    objects: Annotated[
        str,
        typer.Option(help="Instead of a query: the patches that objects of this label cover."),
    ] = "",
    patches: Annotated[str, typer.Option(help="Instead of a query: patches by number, 12,13,20.")] = "",
    prompt: PromptOption = None,
    images: ImagesOption = "",
    mode: Annotated[
        str, typer.Option(help="What stands in their place: mean (the corpus' mean patch), zero, or noise.")
    ] = "mean",
    buffer: BufferOption = 0,
    baseline: BaselineOption = RANDOM,
    combinations: CombinationsOption = "all",
    repeats: RepeatsOption = REPEATS,
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
    format: Annotated[str, typer.Option(help="table, json (the figures) or csv (a row for each set).")] = "table",
) -> None:
    """Take patches from images, and see what the answer's word loses.

    What is measured is the log-probability of a word at the answer's first token.

    The same command goes on with a study that was stopped; a finished one is only shown.
    """
    one_of("--format", format, FORMATS)
    asked = _asked(query, objects, patches)
    need_target(target)
    baselines, question = parse_baselines(baseline), prompt_of(prompt)

    from vlq.query.studies.chosen import Written
    from vlq.workers.intervene.asked import Ablation
    from vlq.workers.intervene.foreseen import foresee
    from vlq.workers.intervene.job import begin

    corpus = corpus_at(cache)
    options = Ablation(
        cache=corpus.url,
        patches=asked,
        target=Written.word(target),
        images=condition(corpus, images),
        mode=one_of("--mode", mode, MODES) or mode,
        buffer=buffer,
        baselines=baselines,
        combinations=one_of("--combinations", combinations, COMBINATIONS) or combinations,
        repeats=repeats,
        prompt=question,
        answer=answer,
        seed=seed,
        limit=limit,
        batch=batch_size,
        model=model or None,
        device=one_of("--device", device, ("auto", "cpu", "cuda")),
        workers=workers,
        ray_address=ray_address,
        gpus_per_worker=share_of_gpus(gpus_per_worker),
        device_map=None if device_map is None else spread(device_map),
    )
    if dry_run:
        print(foreseen_as(foresee(begin(options)), format))
        return
    outcome = carried_out(options)
    print(shown_as(outcome, cache, format))


def carried_out(options: Any) -> Any:
    """The outcome of a study that is asked for (`asked.Asked`). Ends the command where it is stopped."""
    from vlq.workers.intervene.job import run_study
    from vlq.workers.job import end_stopped
    from vlq.workers.progress import printing_said, tracker

    try:
        with tracker() as shown, printing_said(shown):
            return run_study(options, shown)
    except KeyboardInterrupt as stop:
        end_stopped(stop)


def _asked(query: str, objects: str, patches: str) -> Any:
    """What chooses the patches. Raises BadArgument unless it is one of them, QueryError."""
    from vlq.query.studies.chosen import Written, labelled, numbered

    given = [text for text in (query, objects, patches) if text.strip()]
    if len(given) != 1:
        problem = "Nothing says which patches are taken." if not given else "Patches are chosen in one way."
        raise BadArgument(problem, "A query, such as \"readings('rock')\"; or --objects rock; or --patches 12,13")
    if objects:
        return labelled(objects.strip())
    if patches:
        parts = [part.strip() for part in patches.split(",") if part.strip()]
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise BadArgument(f"--patches are numbers. Got '{patches}'.", "Such as --patches 12,13")
        return numbered([int(part) for part in parts])
    if (word := query.strip()).isidentifier() and word != "None":
        hint = f"Patches that read it: \"readings('{word}')\". Objects that are labelled so: --objects {word}"
        raise BadArgument(f"{word} is a word, and no query.", hint)
    return Written.of(query)


def parse_baselines(text: str) -> tuple[str, ...]:
    """'register,random' -> in the order of BASELINES; 'none' -> none. Raises BadArgument."""
    found = {part.strip() for part in text.split(",") if part.strip()} - {"none"}
    if not found <= {*BASELINES}:
        raise BadArgument(f"--baseline is some of {', '.join(BASELINES)}, or none. Got '{text}'.")
    return tuple(name for name in BASELINES if name in found)


def foreseen_as(found: Any, format: str) -> str:
    """What a study takes, as it is printed."""
    from dataclasses import asdict

    from vlq.query.summary import count

    values = asdict(found)
    if format == "json":
        return json.dumps(values, indent=2)
    if format == "csv":
        return ",".join(values) + "\n" + ",".join(map(str, values.values()))
    lines = [
        (
            "images",
            f"{found.images:,}, with {count(found.patches, 'patch')} chosen" if found.patches else f"{found.images:,}",
        ),
        ("sets", f"{found.sets:,} at most"),
        ("passes", f"{found.passes:,} through the decoder, of {found.batch} changed runs at most, answers not counted"),
    ]
    if found.gradients:
        lines.append(("", f"{found.gradients:,} forward and backward"))
    if found.corpus:
        lines.append(("before", f"{found.corpus:,} images for the corpus' mean patch, once"))
    return "\n".join(f"{name:<8} {text}" for name, text in lines)


def shown_as(outcome: Any, cache: str, format: str) -> str:
    """A finished study as it is printed: in figures, or row by row."""
    from vlq.query.answers.render import csv_rows, plain
    from vlq.query.shell import shell
    from vlq.query.studies.ablated import COLUMNS, as_text, rows_of, summary_of

    if format == "csv":
        rows = (row.values() for row in rows_of(outcome.effects, outcome.names))
        return csv_rows([COLUMNS, *rows]).rstrip("\n")
    values = summary_of(outcome.study, outcome.tokens, outcome.effects, outcome.names)
    values["errors"] = [{"image": name, "reason": reason} for _, name, reason in outcome.errors]
    values["notes"] = list(outcome.notes)
    if format == "json":
        return json.dumps(plain(values), indent=2, ensure_ascii=False)
    lines = [] if outcome.fresh else ["Nothing to do: this study was finished before."]
    lines.append(as_text(values))
    lines += [f"{printable(name)} has no effects: {reason}" for _, name, reason in outcome.errors[:SHOWN_ERRORS]]
    if (more := len(outcome.errors) - SHOWN_ERRORS) > 0:
        lines.append(f"and {more:,} more")
    lines += outcome.notes
    where = f" --cache {shell(cache)}" if cache else ""
    lines += ["", f'Ask for it: vlq "{values["query"]}"{where}']
    return "\n".join(lines)
