"""`vlq knockout`, `patch`, `steer` and `attribute`: what the command line adds to `Lab`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vlq.workers.intervene.lab import Lab

Image = Annotated[str, typer.Argument(help="The image: its name in the cache, or its number.")]
Target = Annotated[str, typer.Option(help="The word that is measured at the answer's first token, as in queries.")]
Where = Annotated[str, typer.Option("--cache", help="The cache, on a disk or a bucket; default $VLQ_CACHE.")]
Model = Annotated[str | None, typer.Option(help="Where the run's model is now, if it moved.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Answer = Annotated[int | None, typer.Option(help="Tokens of the answer at most; default as in the run, or 16.", min=1)]
Format = Annotated[str | None, typer.Option("--format", help="table (the default), json, jsonl or csv.")]
Output = Annotated[str | None, typer.Option(help="Write to this file.")]
LAYERS = "Layers such as 0,8,16:32 (both ends included); default all."


def knockout(
    image: Image,
    patches: Annotated[str, typer.Argument(help="A query that names patches, such as \"locate('dog')\", or [12, 13].")],
    target: Target,
    to: Annotated[str, typer.Option(help="Who no longer sees them: last (token), last-row (of patches) or prompt.")] = (
        "last"
    ),
    layers: Annotated[str, typer.Option(help="In which layers, from 1, such as 10:20; default all.")] = "",
    window: Annotated[int | None, typer.Option(help="So many layers at a time, one window after another.")] = None,
    others: Annotated[bool, typer.Option("--others", help="All patches but these are no longer seen.")] = False,
    answer: Answer = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    form: Format = None,
    output: Output = None,
) -> None:
    """Cut an image's patches off from the answer in some layers' attention, and see what becomes of it."""
    from vlq.query.errors import BadArgument
    from vlq.query.render import deliver, form_of

    chosen = form_of(form, output)
    found = _layers(layers)
    if found is not None and found != list(range(found[0], found[-1] + 1)):
        raise BadArgument(f"--layers: a window is of consecutive layers. Got {layers}.", "Such as 10:20.")
    between = None if found is None else (found[0], found[-1])
    lab = _lab(cache, model, device)
    result = lab.knockout(image, patches, target, to=to, layers=between, window=window, others=others, answer=answer)
    deliver(result, chosen, output)


def patch(
    image: Image,
    source: Annotated[str, typer.Argument(help="The image whose states are put in: its name, or its number.")],
    target: Target,
    at: Annotated[str, typer.Option(help="Where: last, patches (all), or a query that names patches.")] = "last",
    layers: Annotated[str, typer.Option(help=LAYERS)] = "",
    answer: Answer = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    form: Format = None,
    output: Output = None,
) -> None:
    """Put another image's states into an image's run, layer by layer, and see whose answer it gives."""
    from vlq.query.render import deliver, form_of

    chosen = form_of(form, output)
    lab = _lab(cache, model, device)
    deliver(lab.patch(image, source, target, at=at, layers=_layers(layers), answer=answer), chosen, output)


def steer(
    image: Image,
    token: Annotated[str, typer.Argument(help="The word whose direction is added, as in queries.")],
    at: Annotated[str, typer.Option(help="Where: last, patches (all), or a query that names patches.")] = "last",
    layers: Annotated[str, typer.Option(help=LAYERS)] = "",
    strength: Annotated[
        str, typer.Option(help="How long, in lengths of the states: one number, or several such as 0.5,1,2.")
    ] = "0.5,1,2",
    answer: Answer = None,
    cache: Where = "",
    model: Model = None,
    device: Device = "auto",
    form: Format = None,
    output: Output = None,
) -> None:
    """Add a token's own direction to states of an image's run, and see what becomes of the answer."""
    from vlq.query.errors import BadArgument
    from vlq.query.render import deliver, form_of

    chosen = form_of(form, output)
    try:
        strengths = [float(part) for part in strength.split(",")]
    except ValueError:
        raise BadArgument(f"--strength: expected numbers such as 0.5,1,2. Got {strength}.") from None
    lab = _lab(cache, model, device)
    result = lab.steer(image, token, at=at, layers=_layers(layers), strengths=strengths, answer=answer)
    deliver(result, chosen, output)


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
    from vlq.query.render import deliver, form_of

    chosen = form_of(form, output)
    deliver(_lab(cache, model, device).attribute(image, target, at=at), chosen, output)


def _lab(cache: str, model: str | None, device: str) -> Lab:
    from vlq.query.cache import Cache, default_url
    from vlq.query.client import LocalCorpus
    from vlq.workers.commands import one_of
    from vlq.workers.intervene.lab import Lab

    on = one_of("--device", device, ("auto", "cpu", "cuda"))
    return Lab(LocalCorpus(Cache.open(cache or default_url())), model, on)


def _layers(text: str) -> list[int] | None:
    from vlq.workers.commands import parse_layers

    return list(parse_layers(text)) or None
