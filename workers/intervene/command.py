"""`vlq ablate`: what the command line adds to `run_study`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from vlq.query.errors import BadArgument
from vlq.query.schema import BASELINES, COMBINATIONS, MODES, RANDOM, REPEATS, Study
from vlq.workers.commands import SHOWN_ERRORS, one_of, share_of_gpus, spread

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
    prompt: Annotated[
        str,
        typer.Option(help="Ask this instead of the run's prompt: a question, or a whole prompt with <image> in it."),
    ] = "",
    images: Annotated[str, typer.Option(help="Which images, by their columns: label == 'beach'.")] = "",
    mode: Annotated[
        str, typer.Option(help="What stands in their place: mean (the corpus' mean patch), zero, or noise.")
    ] = "mean",
    buffer: Annotated[int, typer.Option(help="Rings of neighbours that are taken, too.", min=0, max=2)] = 0,
    baseline: Annotated[
        str,
        typer.Option(help="What they are held against: random,register,gradient, some of these, or none."),
    ] = RANDOM,
    combinations: Annotated[
        str,
        typer.Option(help="all together; regions: each piece, and pieces in every combination; singles: each patch."),
    ] = "all",
    repeats: Annotated[int, typer.Option(help="Random sets of each image.", min=1)] = REPEATS,
    answer: Annotated[
        int | None,
        typer.Option(help="Tokens of the answer at most; default as in the run; 16 with --prompt.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random sets and noise.", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.", min=1)] = None,
    cache: Annotated[str, typer.Option(help="URL of the cache; default $VLQ_CACHE, else the demo's.")] = "",
    model: Annotated[str, typer.Option(help="Where the run's model is now; default as it was.")] = "",
    device: Annotated[str, typer.Option(help="auto (the run's), cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Changed runs side by side.", min=1)] = Study.batch,
    workers: Annotated[int | None, typer.Option(help="Default: one per GPU, else as many as fit.", min=1)] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to join; default: one of its own here.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs that a worker takes.")] = 1.0,
    device_map: Annotated[str | None, typer.Option(help="auto: spread a model over the worker's GPUs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many images, sets and passes.")] = False,
    format: Annotated[str, typer.Option(help="table, json (the figures) or csv (a row for each set).")] = "table",
) -> None:
    """Take patches from images and measure what that does to a word of the model's answer.

    The same command goes on with a study that was stopped; a finished one is only shown.
    """
    one_of("--format", format, FORMATS)
    asked = _asked(query, objects, patches)
    if not target.strip():
        raise BadArgument("No --target: which word's probability is measured?", "Such as --target rock")
    baselines = parse_baselines(baseline)

    from vlq.query.cache import default_url
    from vlq.query.chosen import Written
    from vlq.workers.intervene.asked import Ablation
    from vlq.workers.intervene.foreseen import foresee
    from vlq.workers.intervene.job import begin

    options = Ablation(
        cache=cache or default_url(),
        patches=asked,
        target=Written.word(target),
        images=Written.of(images) if images.strip() else None,
        mode=one_of("--mode", mode, MODES) or mode,
        buffer=buffer,
        baselines=baselines,
        combinations=one_of("--combinations", combinations, COMBINATIONS) or combinations,
        repeats=repeats,
        prompt=prompt.strip() or None,
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
    from vlq.workers.job import Terminated
    from vlq.workers.progress import printing_said, tracker

    try:
        with tracker() as shown, printing_said(shown):
            return run_study(options, shown)
    except KeyboardInterrupt as stop:
        print("Stopped. What is done is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


def _asked(query: str, objects: str, patches: str) -> Any:
    """What chooses the patches. Raises BadArgument unless it is one of them, QueryError."""
    from vlq.query.chosen import Written, labelled, numbered

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

    values = asdict(found)
    if format == "json":
        return json.dumps(values, indent=2)
    if format == "csv":
        return ",".join(values) + "\n" + ",".join(map(str, values.values()))
    lines = [
        (
            "images",
            f"{found.images:,}, with {found.patches:,} patches chosen" if found.patches else f"{found.images:,}",
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
    from vlq.query.ablated import COLUMNS, as_text, rows_of, summary_of
    from vlq.query.effects import shell
    from vlq.query.render import csv_rows, plain

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
    lines += [f"{name} has no effects: {reason}" for _, name, reason in outcome.errors[:SHOWN_ERRORS]]
    if (more := len(outcome.errors) - SHOWN_ERRORS) > 0:
        lines.append(f"and {more:,} more")
    lines += outcome.notes
    where = f" --cache {shell(cache)}" if cache else ""
    lines += ["", f'Ask for it: vlq "{values["query"]}"{where}']
    return "\n".join(lines)
