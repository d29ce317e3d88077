"""`vlq look`: what the command line adds to `vlq.look`."""

from __future__ import annotations

from typing import Annotated

import typer

from vlq.workers.options import MODEL, DeviceOption, DtypeOption, LensOption, QuestionOption

DEMO = "the demo's, which knows nothing but scenes of its kind; --model names another"


def look(
    image: Annotated[str, typer.Argument(help="The image: a path or a URL.")],
    model: Annotated[str, typer.Option(help=f"{MODEL}; default the demo's.")] = "",
    prompt: QuestionOption = None,
    token: Annotated[
        list[str] | None,
        typer.Option(help="A word, or tokens as in queries: where it comes up, with maps. May be repeated."),
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option(
            help="Show what it reads: a number, a row,column, or last for the last prompt token. May be repeated."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Only this layer, or several such as 5-20. May be repeated.")
    ] = None,
    k: Annotated[int, typer.Option(help="Tokens shown per reading.", min=1, max=255)] = 5,
    answer: Annotated[int, typer.Option(help="So many tokens of the model's own answer at most.", min=0)] = 0,
    lens: LensOption = "logit",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    page: Annotated[str | None, typer.Option(help="Write a page of the image to this .html file.")] = None,
    save: Annotated[str | None, typer.Option(help="Keep what was read in this folder, as a cache.")] = None,
) -> None:
    """Read one image without a cache, and show what is read where.

    That is what its patches decode to at each layer.
    """
    from vlq.workers.commands import one_of

    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))

    import transformers
    from rich.console import Console

    from vlq.query.answers.files import write_whole
    from vlq.query.client.one import one_image
    from vlq.query.shell import shell
    from vlq.workers.look.corpus import STORED_K, kept, read
    from vlq.workers.look.shown import Look, head, layers_of, places_of
    from vlq.workers.progress import tracker

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    with kept(save) as folder:
        with tracker() as shown:
            corpus = read(
                image, model or None, prompt, answer, max(k, STORED_K), lens, device, dtype, folder, shown.phase
            )
        one = one_image(corpus)
        looked = Look(corpus, one, layers_of(layer or [], corpus.cache.run.layers), not layer, k, console.width)
        lines = [*head(corpus, one, model or DEMO)]
        for place in places_of(patch or [], one) if patch or not (token or page) else []:
            lines += looked.readings(place)
        for text in token or []:
            lines += looked.token(text)
        if page is not None:
            from vlq.service.pages.image_file import image_file

            kept_at = "" if save is None else corpus.url
            write_whole(page, image_file(corpus, one.number, cache=kept_at).encode(), "--page")
            lines += ["", f"Page written to {page}"]
    if save is not None:
        lines += ["", f"Kept. Ask on: vlq \"first_layer(token='dog')\" --cache {shell(save)}"]
    for line in lines:
        console.print(line)
