"""The arrays of a shard's Zarr group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlq.query.schema.run import Run


@dataclass(frozen=True)
class ArraySpec:
    """One Zarr array of a shard. `axes` name its dimensions; `image` is always first, where there is one.

    Of its first `depth` axes a chunk holds one place.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: float | int
    depth: int = 1

    @property
    def chunk(self) -> tuple[int, ...]:
        return (1,) * self.depth + self.shape[self.depth :]

    @property
    def object_key(self) -> str:
        """The key in the shard's group of the one object that holds all chunks."""
        return "/".join([self.name, "c", *("0" for _ in self.shape)])


def array_specs(run: Run, images: int, lengths: Mapping[str, int]) -> list[ArraySpec]:
    """The arrays of a shard of `images` images; `lengths` says how many positions a site has, of the image with most.

    Fill values are kept by an image that failed, behind the positions of one that has fewer, and by layers and patches
    that were not read: these compress to nearly nothing, and a layer or a patch has the same number in every cache.

    Sites are `Run.stored`.

    `<site>/token`, `<site>/logprob`   (image, layer, position, k): best first, ties by the lower id;
                                       log-probabilities over the full vocabulary, in nats
    `<site>/top1`                      (image, layer, position): token[..., 0] by itself, 6 times faster to scan
    `<site>/tracked_logprob`, `<site>/tracked_rank`   (image, layer, position, tracked): of each tracked token, however
                                       improbable it is; its rank counts the ids that a full sort puts before it
    `<site>/logit`                     (image, layer, position, vocabulary), with `keep="all"`: minus `lse` it is a
                                       log-probability; a chunk is an image's layer
    `<site>/residual`                  (image, layer, position, d), with `keep="residual"`: the un-normed states that
                                       the lens reads; a chunk is an image's layer
    `<site>/lse`, `<site>/entropy`     (image, layer, position): logsumexp of the logits; entropy in nats
    `sum/patch`, `sum/last`            (layer, vocabulary): probabilities summed over the shard's images and positions
    """
    specs = []
    for site in run.stored:
        cells = (images, run.layers, lengths[site])
        axes = ("image", "layer", site)
        specs += [
            ArraySpec(f"{site}/token", (*axes, "k"), (*cells, run.k), run.id_dtype, run.no_id),
            ArraySpec(f"{site}/logprob", (*axes, "k"), (*cells, run.k), run.logprob_dtype, float("nan")),
            ArraySpec(f"{site}/top1", axes, cells, run.id_dtype, run.no_id),
            ArraySpec(f"{site}/lse", axes, cells, "float32", float("nan")),
            ArraySpec(f"{site}/entropy", axes, cells, "float32", float("nan")),
        ]
        if run.tracked:
            each, names = (*cells, len(run.tracked)), (*axes, "tracked")
            specs += [
                ArraySpec(f"{site}/tracked_logprob", names, each, run.logprob_dtype, float("nan")),
                ArraySpec(f"{site}/tracked_rank", names, each, run.id_dtype, 0),
            ]
        if run.keep == "all":
            axes_of_all, shape_of_all = (*axes, "vocabulary"), (*cells, run.vocabulary_size)
            specs.append(
                ArraySpec(f"{site}/logit", axes_of_all, shape_of_all, run.logprob_dtype, float("nan"), depth=2)
            )
        if run.keep == "residual":
            shape_of_states = (*cells, run.width)
            specs.append(
                ArraySpec(f"{site}/residual", (*axes, "d"), shape_of_states, run.residual_dtype, float("nan"), depth=2)
            )
        if site in run.summed:
            shape = (run.layers, run.vocabulary_size)
            specs.append(ArraySpec(sum_of(site), ("layer", "vocabulary"), shape, "float32", 0.0))
    return specs


def sum_of(site: str) -> str:
    """The array of a site's summed probabilities: of every patch, but of the prompt only at its last token."""
    return "sum/patch" if site == "patch" else "sum/last"
