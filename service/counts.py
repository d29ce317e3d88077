"""How often a corpus reads each token of its vocabulary, for searching and for completion: counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from propcache.api import cached_property

from vlq.query.client.local import LocalCorpus
from vlq.query.language.tokens import Token, Vocabulary
from vlq.query.schema import COUNTS
from vlq.query.statistics.portrait import read_of
from vlq.service.numbers import whole


class Counted(NamedTuple):
    """A token, the positions that read it at rank 1, at any layer, and in how many images they are."""

    token: Token
    readings: int
    images: int


@dataclass(frozen=True)
class Counts:
    """Of every token of a vocabulary, at patches or, where these were not read, at the last prompt token."""

    site: str
    vocabulary: Vocabulary
    found: dict[int, tuple[int, int]]  # readings and images, by id

    def __getitem__(self, id: int) -> Counted:
        return Counted(self.vocabulary.token(id), *self.found.get(id, (0, 0)))

    @cached_property
    def ordered(self) -> list[int]:
        """The ids of the vocabulary, those that are read in most images first."""
        read = sorted(self.found, key=lambda id: (-self.found[id][1], -self.found[id][0], id))
        return [*read, *(id for id in range(len(self.vocabulary)) if id not in self.found)]

    @cached_property
    def place(self) -> dict[int, int]:
        """Where each id is among these."""
        return {id: place for place, id in enumerate(self.ordered)}

    @cached_property
    def _by_word(self) -> dict[str, list[int]]:
        """The ids that spell a word, case folded."""
        found: dict[str, list[int]] = {}
        for id, text in enumerate(self.vocabulary.folded):
            found.setdefault(text.strip(), []).append(id)
        return found

    def prepare(self) -> None:
        """Make now what the first search and the first token's page need."""
        _ = self.place, self._by_word

    def search(self, text: str, most: int) -> list[Counted]:
        """Tokens by their id, then by a part of their text: whole words first, then what begins so, then others."""
        id = whole(text, len(self.vocabulary))
        wanted = text.casefold().strip() or text.casefold()
        ranked: tuple[list[int], list[int], list[int]] = ([], [], [])
        for one in self.ordered:
            folded = self.vocabulary.folded[one]
            if wanted in folded or not wanted:
                bare = folded.strip()
                ranked[0 if bare == wanted else 1 if bare.startswith(wanted) else 2].append(one)
        found = dict.fromkeys([*([] if id is None else [id]), *(one for ids in ranked for one in ids)])
        return [self[one] for one in found][:most]

    def spelled(self, text: str) -> int | None:
        """The token that a text is: of a word's (`dog`) the one that most images read, or that of a piece (`▁dog`)."""
        words = self.vocabulary.by_word(text, pieces=False)
        if not words and (piece := self.vocabulary.by_piece(text)) is not None:
            return piece
        return min(words or self.vocabulary.by_word(text, pieces=True), key=self.place.__getitem__, default=None)

    def words(self, begun: str, most: int) -> Iterator[Counted]:
        """Tokens that begin a word whose text begins so."""
        wanted, found, folded = begun.casefold(), 0, self.vocabulary.folded
        for id in self.ordered:
            if self.vocabulary.starts_word(id) and folded[id].strip().startswith(wanted) and found < most:
                found += 1
                yield self[id]

    def variants(self, id: int) -> list[Counted]:
        """Other tokens that spell the same word: in capitals, with a space before it or without."""
        word = self.vocabulary.folded[id].strip()
        return [self[other] for other in self._by_word[word] if other != id] if word else []


SOON = 256 * 2**20
"""Bytes of an index table that is counted before anybody asks: of some 8,500 images of LLaVA's size, in a second."""


def counted(corpus: LocalCorpus) -> Counts:
    """Of a corpus as it is now. Where it is large, that takes seconds."""
    site = site_of(corpus)
    return Counts(site, corpus.vocabulary, read_of(corpus, site))


def site_of(corpus: LocalCorpus) -> str:
    """Where readings are counted."""
    positions = corpus.cache.run.positions
    return next(site for site in ("patch", "last", "answer") if site in positions)


def is_soon(corpus: LocalCorpus) -> bool:
    """Whether to count takes a moment, and holds: of a complete run on this machine whose index has the counts, or that
    is not too large."""
    snapshot = corpus.cache.snapshot()
    if not snapshot.sealed or not corpus.cache.store.is_here:
        return False
    return snapshot.tells_all(COUNTS) or sum(file.size for file in snapshot.stored(f"{site_of(corpus)}_top1")) <= SOON
