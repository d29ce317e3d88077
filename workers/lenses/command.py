"""`vlq lens`: what the command line adds to training and showing tuned lenses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlq.query.errors import BadArgument
from vlq.query.shell import shell
from vlq.workers.options import (
    MODEL,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    LimitOption,
    QuestionOption,
    RevisionOption,
)

if TYPE_CHECKING:
    from vlq.query.cache.reader import Cache
    from vlq.workers.lenses.files import TunedLens
    from vlq.workers.lenses.train import Options, Trained
    from vlq.workers.models.base import LensModel

lens = typer.Typer(no_args_is_help=True, help="Train a tuned lens for a model, and show how good one is.")


@lens.command()
def train(
    out: Annotated[str, typer.Option(help="The folder to make.")],
    images: Annotated[str | None, ImagesArgument] = None,
    model: Annotated[str | None, typer.Option(help=f"{MODEL}; with --cache its own.")] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="In place of images: a cache that keeps states (vlq run --keep residual); none is run again."
        ),
    ] = None,
    revision: RevisionOption = None,
    prompt: QuestionOption = None,
    at: Annotated[str, typer.Option(help="Which positions it is trained on: patch, prompt, or both.")] = "patch,prompt",
    steps: Annotated[int, typer.Option(help="Of gradient descent, each on 256 positions.", min=1)] = 1000,
    lr: Annotated[float, typer.Option(help="Learning rate at the first step; it goes down to 0.", min=0)] = 1.0,
    positions_per_image: Annotated[int, typer.Option(help="Random ones, as evenly of patch and prompt.", min=1)] = 32,
    holdout: Annotated[
        float,
        typer.Option(help="Share of the images (at least one) that it is tried on, not trained.", min=0, max=0.9),
    ] = 0.1,
    limit: LimitOption = None,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 8,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: Annotated[int, typer.Option(help="Decides which images and positions.", min=0)] = 0,
) -> None:
    """Train a tuned lens for a model.

    It has for each layer the affine map that brings its readings nearest to the last layer's.
    """
    from vlq.workers.commands import one_of, parse_sites
    from vlq.workers.lenses.files import folder_to_make, write

    asked_twice = {"--prompt": prompt, "--revision": revision, "--dtype": None if dtype == "auto" else dtype}
    check_source(images, model, cache, [name for name, value in asked_twice.items() if value is not None])
    sites = parse_sites(at)
    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    folder = folder_to_make(out)

    import torch
    import transformers

    from vlq.query.errors import RunError
    from vlq.workers.corpus import list_images
    from vlq.workers.lenses.train import Options
    from vlq.workers.lenses.train import train as train_lens
    from vlq.workers.models import folder_of, load
    from vlq.workers.models.files import commit_of, model_hash
    from vlq.workers.progress import steps as shown_steps
    from vlq.workers.upkeep.rerun import model_of

    kept = None if cache is None else cache_with_states(cache, sites)
    if kept is None:
        rows = list_images(images or "", limit).select(["image_id", "image", "uri"]).to_pylist()
    else:
        rows = images_of(kept, limit)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options = Options(sites, steps, lr, positions_per_image, batch_size, holdout, seed)
    try:
        with shown_steps() as progress:
            progress("loading the model", 0, 0)
            if kept is not None:
                threads = torch.get_num_threads()
                loaded = model_of(kept.run, model, kept.url, device)
                torch.set_num_threads(threads)  # of which a run has fewer, beside other workers
                revision = kept.run.revision if model in (None, kept.run.model) else None
                model, hashed = model or kept.run.model, kept.run.model_hash
            else:
                assert model is not None
                check_images = batch_size if device == "cuda" else 1
                folder_of_model = folder_of(model, revision=revision)
                revision, hashed = commit_of(model, folder_of_model), model_hash(folder_of_model)
                loaded = load(
                    model, revision=revision, prompt=prompt, device=device, dtype=dtype, check_images=check_images
                )
            trained = train_lens(loaded, rows, options, progress, kept)
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            "The lens does not fit into the GPU's memory beside the model.",
            "Use a smaller --batch-size or --positions-per-image, or --dtype bfloat16.",
        ) from error
    made = record(model, revision, hashed, loaded, trained, options)
    print("\n".join(table(made)))
    for reason in trained.failed:
        print(f"Left out: {reason}")
    if not trained.translators:
        raise RunError(
            "At no layer is the trained lens better than the logit lens: nothing was written.",
            "Train for more --steps, on more images, or with a smaller --lr.",
        )
    write(folder, made, (translator.to_bytes() for translator in trained.translators.values()))
    print(f"Written: {out}. Read with it: vlq run IMAGES --model {shell(model)} --lens {shell(out)} --cache CACHE")


@lens.command()
def show(source: Annotated[str, typer.Argument(help="The folder or URL of a tuned lens.")]) -> None:
    """What a tuned lens was trained on, and how good it is.

    That is how near it brings each layer's readings to the last one's.
    """
    from vlq.workers.lenses.files import Found

    found = Found.at(source).lens
    training = found.training
    lines = [
        ("model", f"{found.model} (hash {found.model_hash[:12]}), {found.layers} layers, {found.width} wide"),
        ("lens", f"{found.sha256[:12]}, translates {len(found.translators)} of {found.layers - 1} layers"),
        ("prompt", repr(training["prompt"])),
        ("trained", f"{training['steps']:,} steps on {training['images']:,} images, {training['dtype']}"),
    ]
    for name, value in lines:
        print(f"{name:<8} {value}")
    print("\n".join(table(found)))


def check_source(images: str | None, model: str | None, cache: str | None, asked: Sequence[str]) -> None:
    """Raises BadArgument unless either images and a model are given or a cache, which `asked` options don't go with."""
    if cache is None and images is None:
        raise BadArgument(
            "A lens is trained on images, or on the states that a cache keeps.",
            "vlq lens train IMAGES --model MODEL --out FOLDER, or: vlq lens train --cache CACHE --out FOLDER",
        )
    if cache is not None and images is not None:
        raise BadArgument("A lens is trained on images, or with --cache on a cache's states.", "Give one of them.")
    if cache is None and model is None:
        raise BadArgument("A lens is trained for a model: --model is missing.", "Give a folder or a hub id.")
    if cache is not None and asked:
        raise BadArgument(
            f"{', '.join(asked)} does not go with --cache, whose states were read once.",
            "Leave it out: the run's holds.",
        )


def cache_with_states(url: str, sites: Sequence[str]) -> Cache:
    """A cache that keeps the states of every layer at these sites. Raises BadArgument, NoCache."""
    from vlq.query.cache.reader import Cache
    from vlq.query.schema import layers_phrase

    cache = Cache.open(url)
    run = cache.run
    hint = "Make one that does: vlq run IMAGES --model MODEL --keep residual --cache OTHER. Or train on images."
    if run.keep != "residual":
        raise BadArgument(f"{url} does not keep states.", hint)
    if len(run.read_layers) < run.layers:
        raise BadArgument(
            f"{url} keeps the states of layers {layers_phrase(run.read_layers)}, of {run.layers}: a lens needs all.",
            hint,
        )
    if missing := [site for site in sites if site not in run.at]:
        raise BadArgument(f"{url} has no states at {', '.join(missing)}.", f"Train at others: --at {','.join(run.at)}")
    return cache


def images_of(cache: Cache, limit: int | None) -> list[dict[str, Any]]:
    """The first images that a cache holds: number, name, and why there are no readings, if there are none."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["image_id", "image", "error"]) for path in cache.snapshot().files("images")]
    return [row for table in tables for row in table.to_pylist()][:limit]


def record(
    name: str, revision: str | None, model_hash: str, model: LensModel, trained: Trained, options: Options
) -> TunedLens:
    """What `lens.json` says of a lens that was trained on a model of this name, and this commit of the hub's."""
    from dataclasses import asdict
    from importlib.metadata import version

    from vlq.query.schema import digest_of
    from vlq.workers.lenses.files import TunedLens
    from vlq.workers.lenses.train import STEP_POSITIONS

    training = asdict(options) | {
        "at": list(options.at),
        "positions_per_step": STEP_POSITIONS,
        "prompt": model.prompt,
        "revision": revision,
        "images": trained.trained_on,
        "held_out": trained.held_out,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }
    return TunedLens(
        model=name,
        model_hash=model_hash,
        layers=model.layers,
        width=model.width,
        translators={str(layer): digest_of(made.to_bytes()) for layer, made in trained.translators.items()},
        training=training,
        metrics=[
            {site: asdict(found) for site, found in sites.items()} | {"overall": asdict(trained.overall(layer))}
            for layer, sites in enumerate(trained.metrics)
        ],
        versions={package: version(package) for package in ("vlq", "torch", "transformers", "safetensors")},
    )


def table(made: TunedLens) -> Iterator[str]:
    """The hold-out's figures, a line a layer."""
    training = made.training
    sites = [name for name in (*training["at"], "overall") if name in made.metrics[0]]
    if len(training["at"]) == 1:
        sites = sites[:1]
    yield f"KL divergence from the last layer's distribution, in nats, in {training['held_out']:,} held-out images:"
    yield "of what the logit lens reads -> of what this lens reads"
    yield f"{'layer':>5}" + "".join(f"{name:>20}" for name in sites)
    for layer, figures in enumerate(made.metrics):
        kept = "" if str(layer) in made.translators else "  not better: read as by the logit lens"
        yield f"{layer:>5}" + "".join(f"{_pair(figures[name]):>20}" for name in sites) + kept


def _pair(figures: Mapping[str, Any]) -> str:
    return f"{figures['logit']:.3f} -> {figures['tuned']:.3f}"
