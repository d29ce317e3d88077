"""What the commands of interventions share: their options, each said once, and which images these mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vlq.query.errors import BadArgument

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus
    from vlq.query.studies.chosen import Written

PromptOption = Annotated[
    str | None,
    typer.Option(
        "--prompt", help="Ask this instead of the run's prompt: a question, or a whole prompt with <image> in it."
    ),
]
ImagesOption = Annotated[
    str, typer.Option(help="Which images, by their columns: label == 'beach'; or one, by its name.")
]
AnswerOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens of the answer at most; default as in the run; 16 where it has none, or with --prompt.", min=1
    ),
]

StudyDeviceOption = Annotated[str, typer.Option("--device", help="auto (the run's), cpu or cuda.")]

# What is done to sets of patches.
BufferOption = Annotated[int, typer.Option(help="Rings of neighbours that go with the patches.", min=0, max=2)]
BaselineOption = Annotated[
    str, typer.Option(help="What they are held against: random,register,gradient, some of these, or none.")
]
CombinationsOption = Annotated[
    str, typer.Option(help="all together; regions: each piece, and pieces in every combination; singles: each patch.")
]
RepeatsOption = Annotated[int, typer.Option(help="Random sets of each image.", min=1)]

# What goes with every study.
SeedOption = Annotated[int, typer.Option(help="Of what is drawn at random.", min=0)]
BatchOption = Annotated[int, typer.Option(help="Changed runs side by side.", min=1)]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say how many images, sets and passes.")]


def corpus_at(cache: str) -> LocalCorpus:
    """The cache that `--cache` says, opened here. Raises NoCache."""
    from vlq.query.cache.reader import Cache, default_url
    from vlq.query.client.local import LocalCorpus

    return LocalCorpus(Cache.open(cache or default_url()))


def is_image(corpus: LocalCorpus, text: str) -> bool:
    """Whether a text is an image's number, or the name of one."""
    from vlq.query.language.nodes import col

    return text.isdecimal() or bool(corpus.images(col("image") == text).rows)


def condition(corpus: LocalCorpus, images: str) -> Written | None:
    """What `--images` says of images: a condition on their columns, an image's name or number; nothing means all.

    Raises NotFound if it is the name of no image, QueryError if it is none of these.
    """
    from vlq.query.studies.chosen import Written
    from vlq.workers.files import EXTENSIONS

    named = images.strip()
    if not named:
        return None
    if named.isdecimal():
        return Written.of(f"image_id == {named}")
    if is_image(corpus, named):
        return Written.of(f"image == {named!r}")
    if named.lower().endswith(EXTENSIONS):
        corpus.image(named)  # tells what there is
    return Written.of(images)


def prompt_of(prompt: str | None) -> str | None:
    """The prompt. Raises BadArgument if there is one and nothing in it."""
    from vlq.workers.commands import asked_with

    found = asked_with(prompt)
    return None if found is None else found.strip()


def need_target(target: str) -> None:
    """Raises BadArgument if no word is measured."""
    if not target.strip():
        raise BadArgument("No --target: which word's probability is measured?", "Such as --target dog")
