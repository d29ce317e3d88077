"""The arrays of all shards as one: what `Corpus.zarr` gives. Nothing is read before it is sliced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from propcache.api import cached_property

from vlq.query.cache.arrays import values
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import check_there, committed
from vlq.query.schema import Commit, array_specs


class JoinedArrays(Mapping[str, "JoinedArray"]):
    """A corpus' arrays by name (`schema.array_specs`), over the shards committed when it was made.

    `images` are the image ids along the image axis: all of them once a run is complete.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._commits = list(committed(cache.store).values())
        if not self._commits:
            check_there(cache.store)

    @cached_property
    def images(self) -> np.ndarray:
        """(image,) the ids of the images along the image axis."""
        spans = [np.arange(commit.first_image, commit.first_image + commit.images) for commit in self._commits]
        return np.concatenate(spans) if spans else np.arange(0)

    @cached_property
    def _names(self) -> list[str]:
        return [spec.name for spec in array_specs(self._cache.run, 1, self._cache.run.positions)]

    def __getitem__(self, name: str) -> JoinedArray:
        if name not in self._names:
            raise KeyError(f"{name}: there are {', '.join(self._names)}")
        return JoinedArray(self._cache, self._commits, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return "\n".join(repr(array) for array in self.values())

    def _ipython_key_completions_(self) -> list[str]:
        return self._names


class JoinedArray:
    """One array over all shards: joined along its image axis; a sum, which has none, is added up.

    Sliced like a NumPy array with an integer, a slice, a list of integers or a mask for the image, and any basic index
    behind it. `np.asarray` reads all of it.
    """

    def __init__(self, cache: Cache, commits: list[Commit], name: str) -> None:
        self._cache = cache
        self._commits = commits
        self._starts = np.cumsum([0, *(commit.images for commit in commits)])
        lengths = {site: max((commit.lengths[site] for commit in commits), default=0) for site in cache.run.stored}
        spec = next(spec for spec in array_specs(cache.run, int(self._starts[-1]), lengths) if spec.name == name)
        self._fill = spec.fill
        self.name, self.dims, self.shape, self.dtype = name, spec.axes, spec.shape, np.dtype(spec.dtype)

    def _part(self, commit: Commit) -> zarr.Array[Any]:
        return self._cache.array(commit.shard, self.name)

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        if self.dims[0] != "image":
            total = np.zeros(self.shape, self.dtype)
            for commit in self._commits:
                total += values(self._part(commit), ...)
            return np.asarray(total[key])
        if not key or key[0] is Ellipsis:
            return self._images(range(self.shape[0]), key)
        first, rest = key[0], key[1:]
        if isinstance(first, slice):
            return self._images(range(self.shape[0])[first], rest)
        if isinstance(first, list | np.ndarray):
            chosen = np.arange(self.shape[0])[np.asarray(first, None if len(first) else int)]
            parts = [self._images(range(i, i + 1), rest) for i in chosen.tolist()]
            return np.concatenate(parts) if parts else self._images(range(0), rest)
        index = range(self.shape[0])[first]  # IndexError beyond the end
        return np.asarray(self._images(range(index, index + 1), rest)[0])

    def _images(self, images: range, rest: tuple[Any, ...]) -> np.ndarray:
        """The images of a range, from each shard the rows that it holds of it."""
        rest = rest if Ellipsis in [item for item in rest if item is Ellipsis] else (*rest, Ellipsis)
        parts = []
        ascending = images if images.step > 0 else images[::-1]
        for commit, start, end in zip(self._commits, self._starts, self._starts[1:], strict=False):
            low = next((i for i in _within(ascending, int(start), int(end))), None)
            if low is None:
                continue
            high = _within(ascending, int(start), int(end))[-1]
            rows = slice(low - int(start), high - int(start) + 1, ascending.step)
            part = self._part(commit)
            if part.shape[1:] == self.shape[1:]:
                parts.append(values(part, (rows, *rest)))
            else:  # its images have fewer patches than those of another shard
                found = values(part, rows)
                whole = np.full((len(found), *self.shape[1:]), self._fill, self.dtype)
                whole[:, :, : found.shape[2]] = found
                parts.append(whole[(slice(None), *rest)])
        if not parts:
            return np.zeros((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        joined = np.concatenate(parts)
        return joined if images.step > 0 else joined[::-1]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(self.dims, self.shape, strict=True))
        return f"<{self.name} ({axes}) {self.dtype}>"


def _within(values: range, start: int, end: int) -> range:
    """The part of an ascending range that lies in [start, end)."""
    low = -((values.start - start) // values.step) if start > values.start else 0
    return values[max(0, low) : max(0, -(-(end - values.start) // values.step))]
