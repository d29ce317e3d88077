"""`vlq run`: what the command line adds to `run_job`."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from vlq.query.cache.reader import SERVICES
from vlq.query.errors import BadArgument, InputError, MissingExtra, NoCache, printable
from vlq.query.schema import KEEP
from vlq.query.shell import shell
from vlq.workers.models.weights import ATTENTIONS, DTYPES, QUANTIZATIONS, check_quantizer
from vlq.workers.options import (
    MODEL,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    GpusOption,
    ImagesArgument,
    LensOption,
    LimitOption,
    QuestionOption,
    RayOption,
    RevisionOption,
    WorkersOption,
)

MOST_LAYERS = 2**16
"""No model has as many: a window that goes on to such a one is kept as that alone, to be refused beside the model."""

SHOWN_ERRORS = 5
"""How many failed images are listed at the end."""

Errors = tuple[tuple[int, str, str], ...]
"""Of images that could not be read: number, name, reason."""


def run(
    images: Annotated[str, ImagesArgument],
    model: Annotated[str, typer.Option(help=f"{MODEL}.")],
    cache: Annotated[str, typer.Option(help="Where the cache is or will be; default $VLQ_CACHE.")] = "",
    revision: RevisionOption = None,
    prompt: QuestionOption = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(help="A manifest's column of questions, or of whole prompts: each image is asked its own."),
    ] = None,
    patches: Annotated[
        str | None,
        typer.Option(
            help="A manifest's column of objects, or of lists of patches: only patches that these cover are read. "
            "objects:dog for those of one label.",
            metavar="COLUMN[:LABEL]",
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Tokens kept per reading.", min=1, max=255)] = 20,
    shard_size: Annotated[int | None, typer.Option(help="Images per unit of work; default 32.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass; default 8.", min=1)] = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quantize: Annotated[
        str | None, typer.Option(help="4bit or 8bit, with bitsandbytes: the decoder's blocks, not the head.")
    ] = None,
    attention: Annotated[str, typer.Option(help="auto, sdpa, eager or flash_attention_2.")] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the decoder's blocks, on a GPU: a minute, then faster."),
    ] = False,
    lens: LensOption = "logit",
    at: Annotated[str, typer.Option(help="What is read: patch, prompt, or both.")] = "patch,prompt",
    answer: Annotated[
        int, typer.Option(help="So many tokens of the model's own answer at most; they are read, too.", min=0)
    ] = 0,
    layers: Annotated[
        str, typer.Option(help="Which layers are read, such as 0,8,16:32 (both ends included); default all.")
    ] = "",
    keep: Annotated[
        str,
        typer.Option(help="topk; or also what tells of every token: residual (the states), all (logits: far larger)."),
    ] = "topk",
    track: Annotated[
        str,
        typer.Option(
            help="Words, or a file with one a line: their probabilities and ranks are kept of every reading.",
            metavar="WORDS|FILE",
        ),
    ] = "",
    limit: LimitOption = None,
    skip_dead_links: Annotated[
        bool,
        typer.Option("--skip-dead-links", help="Record images that web servers do not give, and read the others."),
    ] = False,
    ray_address: RayOption = None,
    gpus_per_worker: GpusOption = 1.0,
    device_map: DeviceMapOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would do and take, by reading a few images.")
    ] = False,
    format: Annotated[str | None, typer.Option(help="With --dry-run: table or json.")] = None,
    log: Annotated[str, typer.Option(help="text or json, a line each; default $VLQ_LOG, else text.")] = "",
) -> None:
    """Read a corpus of images with a model into a cache. The same command goes on with a run that was stopped."""
    options = {
        "images": images,
        "model": named(model),
        "cache": writable(cache or os.environ.get("VLQ_CACHE", "")),
        "prompt": asked_with(prompt),
        "prompt_column": prompt_column,
        "patches": patches,
        "k": k,
        "at": (*parse_sites(at), *(["answer"] if answer else [])),
        "answer": answer,
        "layers": parse_layers(layers),
        "track": parse_track(track),
        "keep": one_of("--keep", keep, KEEP),
        "limit": limit,
        "skip_dead_links": skip_dead_links,
        "shard_size": shard_size,
        "batch_size": batch_size,
        "workers": workers,
        "device": one_of("--device", device, ("auto", "cpu", "cuda")),
        "dtype": one_of("--dtype", dtype, ("auto", *DTYPES)),
        "attention": one_of("--attention", attention, ("auto", *ATTENTIONS)),
        "quantize": None if quantize is None else quantizable(quantize),
        "revision": revision,
        "compiled": compilable(compiled, answer, device_map),
        "lens": lens,
        "ray_address": ray_address,
        "gpus_per_worker": share_of_gpus(gpus_per_worker),
        "device_map": None if device_map is None else spread(device_map),
    }
    if prompt is not None and prompt_column is not None:
        raise BadArgument("--prompt asks all images the same, --prompt-column each its own.", "Give one of them.")
    if patches is not None and "patch" not in parse_sites(at):
        raise BadArgument("--patches is for readings at patches.", "Leave it out, or add them: --at patch,prompt")
    form = log or os.environ.get("VLQ_LOG") or "text"
    one_of("--log", form, ("text", "json"))
    one_of("--format", format or "table", ("table", "json"))
    if format and not dry_run:
        raise BadArgument("--format is for what --dry-run says.", "Add --dry-run, or leave --format out.")

    from vlq.workers.job import end_stopped, run_job
    from vlq.workers.plan import RunOptions
    from vlq.workers.progress import printing_said, tracker

    asked = RunOptions(**options)  # type: ignore[arg-type]
    if dry_run:
        from vlq.workers.estimate import as_text, as_values, estimate

        with tracker(as_json=form == "json") as shown:
            values = as_values(estimate(asked, shown))
        print(json.dumps(values, indent=2, ensure_ascii=False) if format == "json" else as_text(values))
        return
    try:
        with tracker(as_json=form == "json") as shown, printing_said(shown):
            outcome = run_job(asked, shown)
    except KeyboardInterrupt as stop:
        end_stopped(stop)
    if len(outcome.errors) == outcome.images:
        raise none_read(asked.cache, outcome.errors)
    some = None if outcome.run.patches_column is None else patches_read_in(asked.cache)
    report(asked.cache, outcome.images, outcome.errors, outcome.fresh, outcome.busy, some)


def report(
    cache: str,
    images: int,
    errors: Errors,
    fresh: int,
    busy: float | None = None,
    patches: str | None = None,
) -> None:
    """Print what there is now, of which some was read, and what to type next."""
    if not fresh:
        print("Nothing to do: all images are cached already.")
    read = images - len(errors)
    print(
        f"{read:,} image{'s' if read != 1 else ''} read{f', {len(errors):,} could not be' if errors else ''}: {cache}"
    )
    for line in _reasons(cache, errors):
        print(line)
    if patches is not None:
        print(patches)
    if busy is not None:
        print(f"The model was at work {busy:.0%} of its workers' time.")
    print(f"Ask it: vlq \"first_layer(token='dog')\" --cache {shell(cache)}")


def none_read(cache: str, errors: Errors) -> InputError:
    """The error of a run whose every image has one: it did its work, but nobody wanted a cache without readings."""
    which = "The one image" if len(errors) == 1 else f"Not one of {len(errors):,} images"
    verb = "could not be read" if len(errors) == 1 else "could be read"
    return InputError(
        "\n".join([f"{which} {verb}: {cache}", *_reasons(cache, errors)]),
        "Give images that can be read, and another --cache: this one holds these as they were.",
    )


def _reasons(cache: str, errors: Errors) -> list[str]:
    """Why the first images could not be read, a line each, and where the others' reasons are."""
    lines = [f"  {printable(name)}: {reason}" for _, name, reason in errors[:SHOWN_ERRORS]]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"  and {len(errors) - SHOWN_ERRORS:,} more: vlq info --cache {shell(cache)}")
    return lines


def patches_read_in(cache: str) -> str:
    """How many patches were read, for a run that does not read all of them."""
    from vlq.query.cache.reader import Cache
    from vlq.query.info import patches_read

    found = patches_read(Cache.open(cache).snapshot())
    assert found is not None
    if not found["patches"]:
        return f"No patch was read: --patches {found['of']} covers none of any image."
    return f"Patches that were read, those of {found['of']}: {found['patches']:,}, in {found['images']:,} images."


def parse_sites(text: str) -> tuple[str, ...]:
    """`patch,prompt` in either order. Raises BadArgument."""
    found = {part.strip() for part in text.split(",") if part.strip()}
    if not found or not found <= {"patch", "prompt"}:
        more = {"last": "The last token of the prompt is read with it: --at prompt", "answer": "Answers: --answer 8"}
        hints = [hint for site, hint in more.items() if site in found]
        raise BadArgument(f"--at is patch, prompt or patch,prompt. Got '{text}'.", *hints[:1])
    return tuple(site for site in ("patch", "prompt") if site in found)


def parse_layers(text: str) -> tuple[int, ...]:
    """'0,8,16:32' -> the layers in ascending order; of nothing none. Raises BadArgument."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        ends = [end.strip() for end in part.split(":")]
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends) or int(ends[0]) > int(ends[-1]):
            raise BadArgument(
                f"--layers are numbers from 0 (the embedding), and windows with both their ends. Got '{part}'.",
                "Such as --layers 0,8,16:32",
            )
        last = int(ends[-1])
        found.update(range(int(ends[0]), last + 1) if last < MOST_LAYERS else [last])
    return tuple(sorted(found))


def parse_track(text: str) -> tuple[str, ...]:
    """'dog,ear' or the lines of a file, in which # begins a comment -> the words. Raises BadArgument."""
    if os.path.isfile(text):
        try:
            with open(text, encoding="utf-8-sig") as file:  # which some editors begin with a mark
                parts = [line.partition("#")[0] for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(
                f"--track {text} cannot be read: {error}.", "It is a text file with a word a line."
            ) from error
    elif "/" in text or text.endswith(".txt"):
        raise BadArgument(f"--track: there is no file {text}.", "Name one, or the words themselves: --track dog,ear")
    else:
        parts = text.split(",")
    words = tuple(dict.fromkeys(word for part in parts if (word := part.strip())))
    if text and not words:
        raise BadArgument(f"--track {text}: there is no word in it.", "Such as --track dog,ear")
    return words


def named(model: str) -> str:
    """The model's name. Raises BadArgument if there is none, as where a shell's variable is empty."""
    if not model.strip():
        raise BadArgument("--model is empty.", "Give a folder that save_pretrained wrote, or a Hugging Face hub id.")
    return model


def writable(cache: str) -> str:
    """Where the cache is or will be. Raises NoCache if that is nowhere, BadArgument if workers cannot write there."""
    where = "Say where it should be: --cache FOLDER_OR_URL"
    if not cache:
        raise NoCache("No cache given: --cache and $VLQ_CACHE are empty.", where)
    if cache.startswith(SERVICES):
        raise BadArgument(f"{cache} is a web server's address, and a cache is written to a folder or a bucket.", where)
    if cache.startswith("memory:"):
        raise BadArgument(f"{cache} would be the memory of this process alone, and workers are others.", where)
    return cache


def asked_with(prompt: str | None) -> str | None:
    """The prompt. Raises BadArgument if there is one and nothing in it, as where a shell's variable is empty."""
    if prompt is not None and not prompt.strip():
        raise BadArgument(
            "--prompt is empty.", "Give a question, or a whole prompt with <image> in it; or leave it out."
        )
    return prompt


def share_of_gpus(value: float) -> float:
    """The value, if Ray can give so many: a part of one, or whole ones. Raises BadArgument."""
    if not 0 < value <= 1 and not (value > 1 and value == int(value)):
        raise BadArgument(f"--gpus-per-worker is a part of one, such as 0.5, or a whole number. Got {value:g}.")
    return value


def spread(value: str) -> str:
    """The value. Raises BadArgument, or MissingExtra before any work is done."""
    from importlib.util import find_spec

    if value != "auto":
        raise BadArgument(f"--device-map is auto. Got '{value}'.")
    if find_spec("accelerate") is None:
        raise MissingExtra("--device-map needs accelerate, which is not installed.", "Run: pip install 'vlq[large]'")
    return value


def compilable(compiled: bool, answer: int, device_map: str | None) -> bool:
    """Whether blocks are to be compiled. Raises BadArgument."""
    if compiled and answer:
        raise BadArgument("--compile does not go with --answer: it is for blocks that see whole sequences.")
    if compiled and device_map:
        raise BadArgument("--compile does not go with --device-map.")
    return compiled


def quantizable(value: str) -> str:
    """The value. Raises BadArgument, or MissingExtra before any work is done."""
    one_of("--quantize", value, QUANTIZATIONS)
    check_quantizer("--quantize")
    return value


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str | None:
    """The value, None for auto. Raises BadArgument."""
    if value not in allowed:
        raise BadArgument(f"{option} is one of {', '.join(allowed)}. Got '{value}'.")
    return None if value == "auto" else value
