"""What a study is: an intervention, the patches it is done to, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from propcache.api import cached_property

from vlq.query.errors import CorruptCache
from vlq.query.schema.keys import STUDIES
from vlq.query.schema.records import FORMAT, digest_of, parse_record, record_bytes

MODES = ("mean", "zero", "noise")
"""What stands where a patch was: the corpus' mean patch, nothing, or noise with the corpus' mean and spread."""

BASELINES = ("random", "register", "gradient")
"""What taking the chosen patches away is held against: taking as many others at random; those whose embeddings are far
longer than the others'; as many as integrated gradients name."""

RANDOM = "random"
"""The baseline that is usual, and its kind of sets."""

REPEATS = 3
"""Random sets of each image where nothing else is said."""

COMBINATIONS = ("all", "regions", "singles")
"""How the chosen patches are taken: together; each region, and regions in every combination; each patch."""

INTERVENTIONS = ("ablate", "knockout", "steer", "patch")
"""What is done to images' runs: patches are taken away; attention to them is cut; a token's direction is added to
states; another image's states are put in."""

TO = ("last", "last-row", "prompt")
"""Who no longer sees patches that are cut off: the prompt's last token (and those of the answer), the last row of
patches, or every token of the prompt behind the image."""

LAST = "last"
EVERY = "patches"
"""Where states are changed, instead of at chosen patches: at the prompt's last token, at all patches."""

Window = tuple[int, int]
"""Consecutive layers, both ends included."""


@dataclass(frozen=True)
class Study:
    """`studies/<digest>/study.json`: an intervention on the images, all that decides its effects.

    Its digest names it, so that the same is done once. See `vlq.query.cache.studies`.
    """

    LATER: ClassVar = (
        "intervention",
        "windows",
        "to",
        "others",
        "token",
        "token_ids",
        "strengths",
        "source",
        "prompt",
        "only_first",
    )
    """Fields that came after the first caches: left out of the record where they say what was always so."""

    run: str  # Run.digest
    patches: str  # the query that chose them, in the language; or where states change: that, 'last', 'patches'
    target: str  # the tokens that are measured, as the language writes them; None: the first one of the source's answer
    target_ids: tuple[int, ...]
    mode: str  # of MODES; of other interventions than ablation none
    buffer: int  # rings of neighbours that are taken, too
    combinations: str  # of COMBINATIONS
    baselines: tuple[str, ...]  # of BASELINES
    repeats: int  # random sets of each image
    answer: int  # tokens of the answer at most
    seed: int
    plan: str = ""  # SHA-256 of its plan: which patches of which images these were
    images: str | None = None  # the condition on the images, as the language writes it; None: all
    moments: str | None = None  # key of what patches' embeddings are like over the corpus, if that counts
    device: str = "cpu"  # kind: cpu or cuda. With the number of changed runs side by side it decides last bits
    batch: int = 25
    format: int = FORMAT
    intervention: str = "ablate"  # of INTERVENTIONS
    windows: tuple[Window, ...] = ()  # of layers, each an effect of its own; of an ablation none
    to: str = ""  # of a knockout: who no longer sees the patches, of TO
    others: bool = False  # all patches but those are cut off
    token: str = ""  # what is added, as the language writes it
    token_ids: tuple[int, ...] = ()
    strengths: tuple[float, ...] = ()  # of what is added, in lengths of the states: each an effect of its own
    source: str = ""  # whose states are put in: see `vlq.query.studies.partners`
    prompt: str | None = None  # what images are asked instead of the run's prompt: a question, or a whole prompt
    only_first: tuple[int, ...] = ()  # of `target_ids` those that say the word where an answer begins alone

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_bytes())[:16]

    @property
    def anywhere(self) -> frozenset[int]:
        """Of `target_ids` those that say the word wherever they are in an answer."""
        return frozenset(self.target_ids).difference(self.only_first)

    @property
    def prefix(self) -> str:
        """Where it lies in the cache."""
        return f"{STUDIES}/{self.digest}"

    @property
    def table(self) -> str:
        """What `Snapshot.files` calls its effects."""
        return f"effects_{self.digest}"

    def plain(self) -> dict[str, Any]:
        """The values of its record."""
        values = asdict(self)
        usual = {f.name: f.default for f in fields(self)}
        return {name: value for name, value in values.items() if name not in self.LATER or value != usual[name]}

    def to_bytes(self) -> bytes:
        return record_bytes(self.plain())

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Study:
        values = parse_record(data, where, cls)
        try:
            return cls.of(values)
        except (KeyError, TypeError) as error:
            raise CorruptCache(
                f"{where} is not a study: {error}.", "Run: vlq gc, and the same command again."
            ) from error

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Study:
        """Raises KeyError, TypeError where these are not its values."""
        lists = {name: tuple(values[name]) for name in ("target_ids", "baselines")}
        lists |= {name: tuple(values.get(name, ())) for name in ("token_ids", "strengths", "only_first")}
        lists["windows"] = tuple(map(tuple, values.get("windows", ())))
        return cls(**{**values, **lists})
