"""An image's page as a file: what its script asks a service for is in it."""

from __future__ import annotations

from dataclasses import replace

from vlq.query.answers.render import as_json
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.service.images import described, found_image
from vlq.service.lens import lens_bytes
from vlq.service.pages.files import answer_path
from vlq.service.pages.image_page import SIDE, ImagePage, image_page
from vlq.service.pages.one_file import STATIC, as_one_file
from vlq.service.pages.rendering import Frame, rendered
from vlq.service.pictures import picture

MOST_READINGS = 4_000_000
"""Tokens of readings that a page holds; of large images fewer for each reading, so that a browser bears it."""


def held(corpus: LocalCorpus, number: int, most: int = MOST_READINGS) -> tuple[ImagePage, dict[str, bytes]]:
    """What the page of an image says, and the answers to all that its script asks, by their paths: `most` tokens of
    readings at most, but the best one of each.

    The image has readings.
    """
    context, image, run = image_page(corpus, number), one_image(corpus, number), corpus.cache.run
    counts = {"patch": image.patches, "prompt": len(image.prompt_ids), "answer": len(image.answer_ids)}
    k = max(1, min(run.k, most // (run.layers * max(1, sum(counts[site] for site in context.sites)))))
    about = described(corpus, number)
    del about["uri"]  # which the page says nowhere, and whom the file is sent to need not know
    answers = {answer_path(f"images/{number}"): as_json(about)}
    for site in context.sites:
        answers[answer_path(f"images/{number}/lens", site=site, k=k)] = lens_bytes(corpus, image, site, k)
    return replace(context, k=k), answers


def image_file(
    corpus: LocalCorpus, number: int, cache: str | None = None, *, most: int = MOST_READINGS, side: int = SIDE
) -> str:
    """The page of an image as one HTML file. Raises NotFound if it has no readings.

    `cache` is what its lines in Python and a shell ask, by default where the corpus is, "" for nothing; `most` is as of
    `held`, `side` pixels of the picture's longer side at most.
    """
    image = found_image(corpus, number)
    context, answers = held(corpus, number, most)
    context = replace(context, previous=None, following=None)  # which are not here
    cache = corpus.url if cache is None else cache
    text = rendered(Frame(context.name, "image", "", (), "", STATIC, cache), "image.html", context)
    drawn = picture(image, side) if context.picture else None
    return as_one_file(text, drawn, answers, ("frame.js", "image/main.js"))
