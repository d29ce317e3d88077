"""A tuned lens as it lies in a folder or under a URL: `lens.json`, and a safetensors file for each layer that it
translates. Needs no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlq.query.errors import CorruptCache, ModelError, StoreError
from vlq.query.folders import free_folder
from vlq.query.schema import LensSpec, digest_of, parse_json, to_json, translator_key
from vlq.query.store import ObstoreStore, Store, open_store, put

RECORD = "lens.json"

FORMAT = 1

TRAIN = "Make one: vlq lens train IMAGES --model MODEL --out FOLDER"


def file_of(layer: int) -> str:
    return f"layer-{layer:04d}.safetensors"


@dataclass(frozen=True)
class TunedLens:
    """`lens.json`."""

    model: str  # as it was named when the lens was trained
    model_hash: str
    layers: int
    width: int  # numbers of a state
    translators: Mapping[str, str]  # layer -> SHA-256 of its file; a layer without one is read by the logit lens
    training: Mapping[str, Any]  # the options, the prompt, and how many images
    metrics: Sequence[Mapping[str, Any]]  # of each layer: what the hold-out said of it
    versions: Mapping[str, str]
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """Over the translators: lenses that read alike have the same."""
        return digest_of(to_json(dict(self.translators)))

    @property
    def keys(self) -> dict[int, str]:
        """Where a cache keeps the translators, by layer."""
        return {int(layer): translator_key(int(layer), digest) for layer, digest in self.translators.items()}

    def to_bytes(self) -> bytes:
        return to_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> TunedLens:
        """Raises ModelError."""
        try:
            values = parse_json(data, where)
        except CorruptCache as error:
            raise ModelError(error.message, TRAIN) from error
        if values.get("format") != FORMAT or values.keys() != {field.name for field in fields(cls)}:
            raise ModelError(f"{where} is not a tuned lens that this VLQ reads.", TRAIN)
        return cls(**values)


@dataclass(frozen=True)
class Found:
    """A tuned lens and where it is."""

    lens: TunedLens
    store: Store

    @classmethod
    def at(cls, url: str) -> Found:
        """The lens in a folder or under a URL. Raises ModelError if there is none, StoreError."""
        try:
            store = open_store(url)
            data = store.read(RECORD)
        except FileNotFoundError as error:
            raise ModelError(f"There is no tuned lens at {url}.", TRAIN) from error
        return cls(TunedLens.from_bytes(data, f"{url}/{RECORD}"), store)

    @property
    def spec(self) -> LensSpec:
        return LensSpec("tuned", sha256=self.lens.sha256, source=self.store.url)

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of what `put` puts, by key."""
        return {key: self.lens.translators[str(layer)] for layer, key in self.lens.keys.items()}

    def check(self, model: str, model_hash: str) -> None:
        """Raises ModelError if the lens was trained on another model than this one."""
        if model_hash != self.lens.model_hash:
            raise ModelError(
                f"The tuned lens {self.store.url} was trained on another model than {model}: {self.lens.model}, whose "
                f"hash is {self.lens.model_hash[:12]}, not {model_hash[:12]}.",
                f"Train one on this model: vlq lens train IMAGES --model {model} --out FOLDER",
            )

    def read(self, layer: int) -> bytes:
        """A translator's file. Raises ModelError if it is not what was written."""
        name = file_of(layer)
        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            raise ModelError(f"The tuned lens {self.store.url} lacks {name}.", "Copy all of its files.") from error
        if digest_of(data) != self.lens.translators[str(layer)]:
            raise ModelError(
                f"{name} of the tuned lens {self.store.url} is not what was written.", "Copy it again, or train anew."
            )
        return data

    def check_files(self) -> None:
        """Raises ModelError if a translator's file is not what was written."""
        for layer in self.lens.keys:
            self.read(layer)

    def put(self, cache: Store) -> None:
        """Put the translators into a cache, one after the other. Raises ModelError."""
        for layer, key in self.lens.keys.items():
            put(cache, key, self.read(layer))

    def in_memory(self) -> Store:
        """A store that holds the translators as a cache does. Raises ModelError."""
        from obstore.store import MemoryStore

        store = ObstoreStore("memory://lens", MemoryStore())
        self.put(store)
        return store


def folder_to_make(out: str) -> Path:
    """A folder that is still to be made, in one that is there, or empty. Raises StoreError."""
    folder = free_folder(out, "--out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot make {out}: {error.strerror or error}.", "Choose another --out.") from error
    return folder


def write(folder: Path, lens: TunedLens, files: Iterator[bytes]) -> None:
    """Put a lens into a folder that is not there or empty, with its translators' files in the order of their layers:
    all or nothing. Raises StoreError."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        for layer, data in zip(lens.translators, files, strict=True):
            (part / file_of(int(layer))).write_bytes(data)
        (part / RECORD).write_bytes(lens.to_bytes())
        part.rename(folder)
    except OSError as error:
        raise StoreError(f"Cannot write {folder}: {error.strerror or error}.", "Choose another --out.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
