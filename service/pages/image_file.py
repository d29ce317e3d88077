"""An image's page as a file: what its script asks a service for is in it."""

from __future__ import annotations

from dataclasses import replace

from vlq.query.client import LocalCorpus
from vlq.query.one import one_image
from vlq.query.render import as_json
from vlq.service.images import described
from vlq.service.lens import lens_bytes
from vlq.service.pages.files import answer_path
from vlq.service.pages.image_page import ImagePage, image_page

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
    answers = {answer_path(f"images/{number}"): as_json(described(corpus, number))}
    for site in context.sites:
        answers[answer_path(f"images/{number}/lens", site=site, k=k)] = lens_bytes(corpus, image, site, k)
    return replace(context, k=k), answers
