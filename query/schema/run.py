"""A run: what was read, with which model, and what of it is kept. It decides what the cache is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from propcache.api import cached_property

from vlq.query.errors import CorruptCache
from vlq.query.schema.keys import _TRANSLATOR, _UNEMBED
from vlq.query.schema.records import FORMAT, digest_of, parse_record, record_bytes

STORED_SITES = ("patch", "prompt", "answer")
"""Where the model is read, in the order of their positions in its sequence."""

SITES = ("patch", "last", "prompt", "answer")
"""Where tokens are asked for. `last` is the one position of `prompt` that most questions are about."""

MOST_POSITIONS = 65_535
"""Of one image at one site: their number is stored in 16 bits."""

LENSES = ("logit", "head", "nearest", "tuned")
"""How states become logits: by the model's norm and head; by its head alone; by their cosines to the input embeddings;
by norm and head, behind an affine map that was trained for each layer."""


@dataclass(frozen=True)
class LensSpec:
    """Which lens a run reads with. What is not compared follows from the model, or decides nothing."""

    kind: str = "logit"  # of LENSES
    temperature: float | None = field(default=None, compare=False)  # of `nearest`: what cosines are divided by
    sha256: str | None = None  # of `tuned`: over its translators
    source: str | None = field(default=None, compare=False)  # of `tuned`: the folder that it was taken from

    def __str__(self) -> str:
        if self.temperature is not None:
            return f"{self.kind} (cosines divided by {self.temperature:.3g})"
        if self.kind == "tuned":
            return f"tuned ({(self.sha256 or '')[:12]}, from {self.source})"
        return self.kind

    @property
    def named(self) -> str:
        """What a line about a corpus says of it: nothing of the usual one."""
        return "" if self.kind == "logit" else f"{self.kind} lens"

    def plain(self) -> str | dict[str, Any]:
        """As JSON has it: its kind alone where that says all."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return self.kind if len(said) == 1 else said

    @classmethod
    def of(cls, value: Any) -> LensSpec:
        """What was made plain. Raises TypeError if it is nothing of the kind."""
        return cls(value) if isinstance(value, str) else cls(**value)


LOGIT_LENS = LensSpec()

KEEP = ("topk", "residual", "all")
"""What `--keep` stores of a reading: its k best tokens; beside them the residual stream, of which the logit of any
token follows; or the logits of every token."""


READING = 2
"""How images and prompts become what a model is given: a number that is another one wherever the same ones come to
other readings. 2: what is transparent is white, and no prompt has the tokenizer's first token twice."""


@dataclass(frozen=True)
class Run:
    """`run.json`. The fields of `identity()` must be equal for two runs to share a cache."""

    model: str  # as the user named it
    model_class: str
    model_hash: str  # over configuration and weights
    prompt: str
    prompt_ids: tuple[int, ...]  # the prompt's text tokens; the image's are left out. () if images have their own
    layers: int
    grid: tuple[int, int] | None  # rows, columns; None: each image has a grid of its own, which the image table tells
    patches: int  # of an image; where each has a grid of its own, at most
    k: int
    at: tuple[str, ...]  # of STORED_SITES
    vocabulary_size: int  # rows of lm_head: ids run below it, with or without text
    vocabulary_hash: str
    dtype: str  # of the computation: float32, bfloat16, float16
    answer: int = 0  # so many tokens of the model's own answer at most, decoded greedily; 0 if it is not asked
    lens: LensSpec = LOGIT_LENS
    image_processor: Mapping[str, Any] = field(default_factory=dict)
    shard_size: int = 32
    # Pinned at the first start: they decide the last bits, so a resume uses them as they are.
    batch_size: int = 8
    threads: int = 1
    lens_block: int = 0
    device: str = "cpu"  # kind: cpu or cuda
    attention: str = "sdpa"
    versions: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of objects beside it, by key
    read_layers: tuple[int, ...] = ()  # those that were read, ascending; given none, all of them
    quantized: str | None = None  # 4bit or 8bit: how the decoder's blocks were quantised
    revision: str | None = None  # the commit, of a model of the Hugging Face hub
    compiled: bool = False  # whether the decoder's blocks were compiled, which decides last bits
    tracked: tuple[int, ...] = ()  # tokens whose probability and rank are stored at every reading, ascending ids
    tracked_pieces: tuple[str | None, ...] = ()  # theirs
    keep: str = "topk"  # of KEEP: what is stored of a reading
    width: int = 0  # numbers of a state, where the residual stream is kept
    prompt_column: str | None = None  # of the image table: each image's own question; in `prompt` it stands as {column}
    patches_column: str | None = None  # of the image table: which patches of each image were read; None: all
    patches_label: str | None = None  # of the objects in that column those of this label; None: all
    reading: int = 1  # READING of the VLQ that began it; of records without it the first
    format: int = FORMAT

    IDENTITY = (
        "model_hash",
        "prompt",
        "prompt_ids",
        "prompt_column",
        "patches_column",
        "patches_label",
        "layers",
        "read_layers",
        "tracked",
        "keep",
        "grid",
        "patches",
        "k",
        "at",
        "answer",
        "vocabulary_hash",
        "dtype",
        "quantized",
        "lens",
    )

    LATER = (
        "read_layers",
        "quantized",
        "revision",
        "compiled",
        "tracked",
        "tracked_pieces",
        "keep",
        "width",
        "prompt_column",
        "patches_column",
        "patches_label",
        "reading",
    )
    """Left out of the record where they are as usual: the bytes of older records, which name the run, stay so."""

    def __post_init__(self) -> None:
        if not self.read_layers:
            object.__setattr__(self, "read_layers", tuple(range(self.layers)))

    @property
    def positions(self) -> dict[str, int]:
        """How many positions each site has, at most; sites that were not cached are left out."""
        counts = {}
        if "patch" in self.at:
            counts["patch"] = self.patches
        if "prompt" in self.at:
            counts["prompt"] = len(self.prompt_ids) if self.prompt_column is None else MOST_POSITIONS
            counts["last"] = 1
        if "answer" in self.at:
            counts["answer"] = self.answer
        return counts

    @property
    def uneven(self) -> tuple[str, ...]:
        """Of `at` the sites where images have different numbers of positions with readings."""
        some = self.grid is None or self.patches_column is not None
        own = {"patch": some, "prompt": self.prompt_column is not None, "answer": True}
        return tuple(site for site in self.at if own[site])

    @property
    def patches_option(self) -> str | None:
        """Which patches were read, as `vlq run --patches` takes it; None: all."""
        return ":".join(filter(None, [self.patches_column, self.patches_label])) or None

    @property
    def stored(self) -> tuple[str, ...]:
        """The sites with arrays of their own. Where prompts differ in length, `last` is at no fixed place in theirs."""
        return (*self.at, "last") if "prompt" in self.uneven else self.at

    def stored_at(self, site: str) -> tuple[str, slice]:
        """The arrays that hold a site's readings, and which of their positions are the site's."""
        return ("prompt", slice(-1, None)) if site == "last" and site not in self.stored else (site, slice(None))

    @property
    def summed(self) -> tuple[str, ...]:
        """Of `at` the sites whose probabilities are summed up."""
        return tuple(site for site in self.at if site != "answer")

    @property
    def translators(self) -> dict[int, str]:
        """Where the tuned lens' translators are, by layer. A layer without one is read by the logit lens."""
        return {int(match[1]): key for key in self.checksums if (match := _TRANSLATOR.fullmatch(key))}

    @property
    def keeps_all(self) -> bool:
        """Whether of any token all is known, at every reading."""
        return self.keep != "topk"

    @property
    def unembed(self) -> str | None:
        """Where that is which makes logits of the states that are kept; None if none are."""
        return next(filter(_UNEMBED.fullmatch, self.checksums), None)

    @property
    def id_dtype(self) -> str:
        """uint16 when every id and the fill value fit, else uint32."""
        return "uint16" if self.vocabulary_size < 0xFFFF else "uint32"

    @property
    def no_id(self) -> int:
        """Fills the cells of images without readings: no token."""
        return 0xFFFF if self.id_dtype == "uint16" else 0xFFFFFFFF

    @property
    def logprob_dtype(self) -> str:
        """As exact as the computation: float16 has a finer step than the noise of half-precision readings."""
        return "float32" if self.dtype == "float32" else "float16"

    @property
    def residual_dtype(self) -> str:
        """Holds states as they are: Zarr has no bfloat16, whose numbers are float32's with half of the bits zero."""
        return "float16" if self.dtype == "float16" else "float32"

    def identity(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.IDENTITY}

    @cached_property
    def digest(self) -> str:
        """Names the run in every commit record: 16 hex digits over its identity and what is pinned."""
        return digest_of(self.to_bytes())[:16]

    def to_bytes(self) -> bytes:
        values = asdict(self) | {"lens": self.lens.plain()}
        usual = {f.name: f.default for f in fields(self)} | {"read_layers": tuple(range(self.layers))}
        for name in self.LATER:
            if values[name] == usual[name]:
                del values[name]
        return record_bytes(values)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Run:
        values = parse_record(data, where, cls)
        missing = {f.name for f in fields(cls)} - values.keys() - set(cls.LATER)
        if missing:
            raise CorruptCache(f"{where} lacks {', '.join(sorted(missing))}.", "Run: vlq verify")
        try:
            for name in ("prompt_ids", "at"):
                values[name] = tuple(values[name])
            values["grid"] = values["grid"] and tuple(values["grid"])
            for name in ("read_layers", "tracked", "tracked_pieces"):
                values[name] = tuple(values.get(name, ()))
            values["lens"] = LensSpec.of(values["lens"])
            return cls(**values)
        except TypeError as error:
            raise CorruptCache(f"{where} is not a run's record: {error}.") from error


def spans(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending layers as windows, both ends included: (0, 8, 9, 10) -> [(0, 0), (8, 10)]."""
    found: list[tuple[int, int]] = []
    for layer in layers:
        if found and found[-1][1] == layer - 1:
            found[-1] = found[-1][0], layer
        else:
            found.append((layer, layer))
    return found


def layers_option(layers: Sequence[int]) -> str:
    """Layers as `vlq run --layers` takes them: '0,8:10'."""
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in spans(layers))


def layers_phrase(layers: Sequence[int]) -> str:
    """Layers as a sentence names them: '0, 8 to 10'."""
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in spans(layers))
