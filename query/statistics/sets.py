"""Two sets of images held against each other: how many there are, at which layers, and which tokens each of them reads.

Intervals are those of `bootstrap`: images are drawn with replacement, as many as there are, and every figure is taken
anew. An image that is in both sets is in both of every draw, so what the sets share is in no difference by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlq.query.errors import BadRequest
from vlq.query.language.compile import Compiler
from vlq.query.statistics.bootstrap import RESAMPLES, SEED, Interval, percentiles, share_interval
from vlq.query.statistics.portrait import has_patches

if TYPE_CHECKING:
    from vlq.query.answers.result import Result
    from vlq.query.client.local import LocalCorpus

SIDES = 4
"""Kinds of images: in neither set, in the first alone, in the second alone, in both."""


@dataclass(frozen=True)
class ImageSet:
    """The images that an answer has rows of."""

    query: str
    headline: str
    images: frozenset[int]
    by_layer: dict[int, frozenset[int]] | None  # the images with a row of the layer; None if rows have no layer


def image_set(result: Result) -> ImageSet:
    """Raises BadRequest if the answer has no rows by image."""
    if "image_id" not in result.columns:
        raise BadRequest(
            f"{result.query} has no rows by image.", "A set of images: images(...), first_layer(...), and so on."
        )
    len(result)  # raises if the rows are too many to be listed
    layer = "layer" if "layer" in result.columns else "NULL"
    asked = replace(
        result.statement,
        sql=f"SELECT DISTINCT image_id, {layer} AS layer FROM (\n{result.statement.sql}\n) ORDER BY ALL",
    )
    rows = result.corpus.engine.rows(asked, result.snapshot)[1]
    by_layer: dict[int, set[int]] = {}
    for image, at in rows:
        if isinstance(at, int):
            by_layer.setdefault(at, set()).add(image)
    return ImageSet(
        result.query,
        result.headline,
        frozenset(image for image, _ in rows),
        {at: frozenset(images) for at, images in by_layer.items()} if layer == "layer" else None,
    )


@dataclass(frozen=True)
class Counted:
    """How many images of two sets have something, of how many each; and the shares' difference."""

    a: int
    of_a: int
    b: int
    of_b: int
    interval_a: Interval
    interval_b: Interval
    interval: Interval  # of the difference of the shares, the second less the first

    @property
    def share_a(self) -> float | None:
        return self.a / self.of_a if self.of_a else None

    @property
    def share_b(self) -> float | None:
        return self.b / self.of_b if self.of_b else None

    @property
    def difference(self) -> float | None:
        return None if self.share_a is None or self.share_b is None else self.share_b - self.share_a


def sizes(a: frozenset[int], b: frozenset[int], images: int) -> Counted:
    """Of all images of a corpus how many are in each set."""
    kinds = np.array([images - len(a | b), len(a - b), len(b - a), len(a & b)])
    drawn = _drawn(kinds[None], images)[:, 0]  # (resample, kind)
    difference = (drawn[:, 2] - drawn[:, 1]) / images if images else np.full(RESAMPLES, np.nan)
    return Counted(
        len(a),
        images,
        len(b),
        images,
        share_interval(len(a), images),
        share_interval(len(b), images),
        percentiles(difference),
    )


def tokens(
    corpus: LocalCorpus, a: frozenset[int], b: frozenset[int], layer: int, most: int
) -> list[tuple[int, Counted]]:
    """Tokens by how much the share of the second set's images of which patches decode to them is above, or below, the
    first's: the largest difference first, of equal ones the lower id. Images of which no patch was read are in neither.
    """
    readable = readable_images(corpus)
    a, b = a & readable, b & readable
    compiler = Compiler()
    first, second = (compiler.value(name, sorted(images)) for name, images in (("a", a), ("b", b)))
    inside = [f"(image IN (SELECT unnest({images}::BIGINT[])))::INTEGER" for images in (first, second)]
    side = f"{inside[0]} + 2 * {inside[1]}"
    sql = f"""\
SELECT token, {", ".join(f"count(*) FILTER (side = {kind})" for kind in range(SIDES))}
FROM (
  SELECT DISTINCT token, image, {side} AS side
  FROM {compiler.table("patch_top1")} WHERE layer = {compiler.value("layer", layer)}
) GROUP BY token"""
    rows = corpus.engine.rows(compiler.ask(sql), corpus.cache.snapshot())[1]
    images = len(readable)
    of = np.array([images - len(a | b), len(a - b), len(b - a), len(a & b)])
    if not rows or not a or not b:
        return []
    has = np.array([counts for _, *counts in rows])  # (token, kind)
    shares = [(has[:, kind] + has[:, 3]) / (of[kind] + of[3]) for kind in (1, 2)]
    order = sorted(range(len(rows)), key=lambda at: (-abs(shares[1][at] - shares[0][at]), rows[at][0]))[:most]
    found = []
    for at in order:
        one, other = int(has[at, 1] + has[at, 3]), int(has[at, 2] + has[at, 3])
        interval = _difference(has[at], of, images)
        intervals = share_interval(one, len(a)), share_interval(other, len(b))
        found.append((int(rows[at][0]), Counted(one, len(a), other, len(b), *intervals, interval)))
    return found


def readable_images(corpus: LocalCorpus) -> frozenset[int]:
    """The images of which patches were read."""
    compiler = Compiler()
    statement = compiler.ask(f"SELECT image_id FROM {compiler.table('images')} WHERE {has_patches(corpus)}")
    return frozenset(image for (image,) in corpus.engine.rows(statement, corpus.cache.snapshot())[1])


def _difference(has: np.ndarray, of: np.ndarray, images: int) -> Interval:
    """Of a share's difference between the sets. `has` and `of` are by kind: images that have it, and images."""
    drawn = _drawn(np.array([has, of - has]), images)  # (resample, has it or not, kind)
    every = drawn.sum(1)
    with np.errstate(invalid="ignore"):  # a draw may have no image of a set
        one, other = ((drawn[:, 0, kind] + drawn[:, 0, 3]) / (every[:, kind] + every[:, 3]) for kind in (1, 2))
    return percentiles(other - one)


def _drawn(counts: np.ndarray, images: int) -> np.ndarray:
    """(resample, *counts' axes): how often each kind of images comes up."""
    if not images:
        return np.zeros((RESAMPLES, *counts.shape), np.int64)
    drawn = np.random.default_rng(SEED).multinomial(images, counts.reshape(-1) / images, RESAMPLES)
    return drawn.reshape(RESAMPLES, *counts.shape)
