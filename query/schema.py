"""What a cache is made of: its objects, arrays and tables. The contract between who writes and who reads.

    run.json                          who made it: model, prompt, lens, k, axes (create-only: decides what the cache is)
    vocabulary.parquet                id -> piece and text; tokenizer.json beside it where the lens has a tokenizer
    lens/<layer>-<hash>.safetensors   a tuned lens' translator for a layer, where the run reads with one
    lens/unembed-<hash>.safetensors   what makes logits of states, where these are kept (`vlq.query.unembed`)
    plans/<hash>.parquet              every image, its shard, its user columns
    shards/<shard>-<hash>/zarr.json   a Zarr v3 group: one shard's readings
    images/<shard>-<hash>.parquet     its images: names, sizes, geometry, errors, user columns
    postings/<shard>-<hash>/<table>.parquet   one shard's postings, sorted by token
    commits/<shard>.json              create-only: names the winner's objects with their checksums. It alone decides.
    commits/head-<number>.json        numbered, create-only: the plan, whether all of it is done, the compacted index,
                                      what the images were annotated with, the studies that are finished. Beside the
                                      shards' records, so that one listing tells a reader of all that is new
    commits/index-<shards>-<hash>     empty: while a run goes on, its first so many shards are in index/<hash>.json
    index/<hash>/<table>-<part>.parquet     compacted postings, beside each where its blocks lie (.blocks);
                                      index/<hash>.json is their manifest
    annotations/<hash>.parquet        columns that were joined to the images later
    studies/<hash>/                   interventions on the images, and their effects: `vlq.query.studies`

Layers: 0 is the embedding that enters the decoder, l the residual stream after block l. `layers` counts them all
(LLaVA-1.5-7B: 33). Positions: `patch` is row-major over the grid; `prompt` counts the prompt's text tokens without
the image's; `last` is the last of these.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from struct import Struct
from typing import Any, ClassVar, NamedTuple

from vlq.query.errors import CorruptCache, NewerFormat, OlderFormat

FORMAT = 3

RUN = "run.json"
VOCABULARY = "vocabulary.parquet"
TOKENIZER = "tokenizer.json"

STORED_SITES = ("patch", "prompt", "answer")
"""Where the model is read, in the order of their positions in its sequence."""

SITES = ("patch", "last", "prompt", "answer")
"""Where tokens are asked for. `last` is the one position of `prompt` that most questions are about."""

MOST_POSITIONS = 65_535
"""Of one image at one site: their number is stored in 16 bits."""


LENS = "lens"
"""What the keys of the objects begin with that make logits of states."""

_TRANSLATOR = re.compile(rf"{LENS}/(\d+)-[0-9a-f]{{16}}\.safetensors")
_UNEMBED = re.compile(rf"{LENS}/unembed-[0-9a-f]{{16}}\.safetensors")


def translator_key(layer: int, digest: str) -> str:
    return f"{LENS}/{layer:04d}-{digest[:16]}.safetensors"


def unembed_key(digest: str) -> str:
    return f"{LENS}/unembed-{digest[:16]}.safetensors"


def plan_key(digest: str) -> str:
    return f"plans/{digest}.parquet"


COMMITS = "commits"
HEADS = f"{COMMITS}/head-"
"""What the keys of heads begin with. They sort behind those of shards."""


def head_key(number: int) -> str:
    return f"{HEADS}{number:08d}.json"


INTERIMS = f"{COMMITS}/index-"
"""What the keys begin with that tell of an index of an unfinished run. They sort behind those of heads."""


def manifest_key(digest: str) -> str:
    return f"index/{digest}.json"


def interim_key(shards: int, index: str) -> str:
    """`index` is the key of its manifest."""
    return f"{INTERIMS}{shards:08d}-{index.removeprefix('index/').removesuffix('.json')}"


def commit_key(shard: int) -> str:
    return f"{COMMITS}/{shard:08d}.json"


SHARDS = "shards"
"""What the keys of shards' arrays begin with."""


def shard_prefix(shard: int, digest: str) -> str:
    return f"{SHARDS}/{shard:08d}-{digest}"


def images_key(shard: int, digest: str) -> str:
    return f"images/{shard:08d}-{digest}.parquet"


def postings_prefix(shard: int, digest: str) -> str:
    return f"postings/{shard:08d}-{digest}"


STUDIES = "studies"
"""What the keys of studies begin with."""


def annotation_key(digest: str) -> str:
    return f"annotations/{digest}.parquet"


def digest_of(data: bytes) -> str:
    """The SHA-256 of stored bytes, as hex. The first 16 digits name things, all 64 check them."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Any) -> bytes:
    """Canonical JSON: the same value gives the same bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def record_bytes(values: Mapping[str, Any]) -> bytes:
    """A record as JSON that carries the checksum of all else in it."""
    return to_json({**values, "checksum": digest_of(to_json(values))})


def parse_record(data: bytes, where: str) -> dict[str, Any]:
    """A record's values. Raises CorruptCache if they are not those that were written, NewerFormat, OlderFormat."""
    values = parse_json(data, where)
    check_format(values, where)
    checksum = values.pop("checksum", None)
    if checksum != digest_of(to_json(values)):
        raise CorruptCache(f"{where} is not what was written.", "Run: vlq verify")
    return values


# --- the run ---------------------------------------------------------------------------------------------------


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
    format: int = FORMAT

    IDENTITY = (
        "model_hash",
        "prompt",
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
        values = parse_record(data, where)
        known = {f.name for f in fields(cls)}
        missing = known - values.keys() - set(cls.LATER)
        if missing:
            raise CorruptCache(f"{where} lacks {', '.join(sorted(missing))}.")
        try:
            for name in ("prompt_ids", "at"):
                values[name] = tuple(values[name])
            values["grid"] = values["grid"] and tuple(values["grid"])
            for name in ("read_layers", "tracked", "tracked_pieces"):
                values[name] = tuple(values.get(name, ()))
            values["lens"] = LensSpec.of(values["lens"])
            return cls(**{name: values[name] for name in known & values.keys()})
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


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CorruptCache(f"{where} is not readable: {error}.", "Run: vlq verify") from error
    if not isinstance(values, dict):
        raise CorruptCache(f"{where} is not a record.", "Run: vlq verify")
    return values


def check_format(values: Mapping[str, Any], where: str) -> None:
    """Raises NewerFormat or OlderFormat if the record was written by a VLQ whose caches this one cannot read."""
    found = values.get("format")
    if not isinstance(found, int):
        raise CorruptCache(f"{where} names no format.", "Is this a VLQ cache?")
    if found > FORMAT:
        raise NewerFormat(
            f"{where} is of format {found}; this VLQ reads up to {FORMAT}.",
            "Install a newer VLQ: pip install --upgrade vlq",
        )
    if found < FORMAT:
        raise OlderFormat(
            f"{where} is of format {found}, an older VLQ's; this one reads {FORMAT}.",
            "Make the cache anew: the same `vlq run` with another --cache.",
        )


# --- arrays ----------------------------------------------------------------------------------------------------


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


# --- the image table -------------------------------------------------------------------------------------------

IMAGE_COLUMNS = {
    "image_id": "UINTEGER",  # its number in the corpus; shards hold consecutive ones
    "image": "VARCHAR",  # its name: the path below the corpus' folder
    "uri": "VARCHAR",
    "sha256": "VARCHAR",  # of the file; null if it could not be fetched
    "width": "UINTEGER",  # upright pixels (EXIF rotation applied); null if it could not be decoded
    "height": "UINTEGER",
    "transform": "STRUCT",  # Transform below
    "grid": "STRUCT(rows, columns)",
    "error": "VARCHAR",  # why it has no readings; null if it has
}
"""The image table's first columns."""

FOLDER_HERE = "^file://.*/"
PUBLIC_URI = f"regexp_replace({{}}, '{FOLDER_HERE}', '')"
"""A URI in SQL as a service tells it: of a file on its machine the name alone."""

ANSWER_COLUMNS = {
    "answer": "VARCHAR",  # what the model answered, special tokens left out; null if the image has no readings
    "answer_ids": "UINTEGER[]",  # its tokens, without the one that ends it
    "answer_logprobs": "FLOAT[]",  # how probable each was when it was chosen, in nats
}
"""Further ones of a run that has the model answer."""

PROMPT_COLUMNS = {
    "prompt_ids": "UINTEGER[]",  # the text tokens of its own prompt; null if the image has no readings
}
"""Further ones of a run with a prompt for each image."""

PATCHES_COLUMNS = {
    "patches_read": "USMALLINT[]",  # which of its patches were read, ascending; null if the image has no readings
}
"""Further ones of a run that reads some patches of each image."""

READ_COLUMNS = IMAGE_COLUMNS | PATCHES_COLUMNS | PROMPT_COLUMNS | ANSWER_COLUMNS
"""What comes of reading images; other columns are the user's, and get `_` appended if they have such a name."""


@dataclass(frozen=True)
class Transform:
    """Original upright pixels to the model's input: model = original * scale + offset, on each axis.

    Resize, crop and pad are all of this form. `width` and `height` are the model input's.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int


# --- postings --------------------------------------------------------------------------------------------------

PATCH_CELLS = "patch_cells"

KINDS = ("top1", "topk", "tracked", "rest")

TABLES = (*(f"{site}_{kind}" for site in SITES for kind in KINDS), PATCH_CELLS)
"""Index tables. Each is sorted by all its key columns, so that a token's rows, or an image's, lie together.

`<site>_top1`: one row per (token, image, layer): a posting of what is read at rank 1.
    token uint32, image uint32, layer uint16, n uint32 (positions), logprob float32 (the best), positions list<uint16>
`<site>_topk`: one row per (token, image, layer, position): every stored reading.
    token uint32, image uint32, layer uint16, position uint16, rank uint8, logprob float32
`<site>_tracked`: one row per (tracked token, image, layer that was read, position), if any tokens are tracked.
    token uint32, image uint32, layer uint16, position uint16, rank uint32, logprob float32
`<site>_rest`: one row per (image, layer that was read): what tokens that are not stored can have, at any position.
    image uint32, layer uint16, kth float32 (the largest log-probability of a last stored token),
    rest float32 (the largest probability that the stored tokens of a position leave to all others together)
`patch_cells`: one row per image with patches that were read: what they read at rank 1, for what looks around a token.
    image uint32, top1 binary: ids of `Run.id_dtype`, little-endian, (layer, patch) as in the array `patch/top1`, of
    its own patches up to the last that was read; `Run.no_id` at layers and patches that were not read
"""

DIVERGENCE = "divergence"
"""Index table with one row per (site, layer that was read) of `patch` and `last`, from all shards' sums and entropies.

    site, layer uint16, images uint32 (with readings there), positions uint64 (all of theirs)
    mean_entropy float64       the mean of the positions' entropies, in nats
    entropy_of_mean float64    the entropy of the mean of their distributions; minus the other it is their divergence
"""


# --- blocks ----------------------------------------------------------------------------------------------------
#
# An index table's file is Parquet, its rows sorted by its first column, the key: a token, or an image. Its blocks are
# Parquet's row groups. The record of them lies beside the file, so that a reader fetches and checks the blocks that
# hold its keys and nothing else.

MAGIC = b"PAR1"
"""What a Parquet file begins with, in front of its first block."""

_BLOCK = Struct("<IIQQ32s")


class Block(NamedTuple):
    """A block: its lowest and highest key, where it lies in the file, in bytes, and its SHA-256."""

    first: int
    last: int
    start: int
    length: int
    sha256: bytes

    @property
    def end(self) -> int:
        return self.start + self.length

    def is_sound(self, data: bytes) -> bool:
        """Whether these bytes are the block's."""
        return digest_of(data) == self.sha256.hex()


@dataclass(frozen=True)
class Blocks:
    """The record of a file's blocks, in their order, and of its `footer`: what lies behind the last one."""

    blocks: tuple[Block, ...]
    footer: bytes

    def to_bytes(self) -> bytes:
        return b"".join([len(self.blocks).to_bytes(8, "little"), *(_BLOCK.pack(*b) for b in self.blocks), self.footer])

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Blocks:
        end = 8 + int.from_bytes(data[:8], "little") * _BLOCK.size
        if len(data) <= end:
            raise CorruptCache(f"{where} does not tell where blocks lie.", "Run: vlq index")
        return cls(tuple(Block(*values) for values in _BLOCK.iter_unpack(data[8:end])), data[end:])

    def holding(self, keys: Collection[int]) -> list[int]:
        """The numbers of the blocks in which there may be rows of these keys, ascending."""
        wanted = sorted(keys)
        # A block holds one if the least key that is not below its first is not above its last.
        least = ((number, block, bisect_left(wanted, block.first)) for number, block in enumerate(self.blocks))
        return [number for number, block, at in least if at < len(wanted) and wanted[at] <= block.last]

    def runs(self, numbers: Sequence[int], gap: int) -> Iterator[list[int]]:
        """Blocks that are fetched at once: no more than `gap` bytes that nobody asked for lie between two of them."""
        run: list[int] = []
        for number in numbers:
            if run and self.blocks[number].start - self.blocks[run[-1]].end > gap:
                yield run
                run = []
            run.append(number)
        if run:
            yield run


# --- records ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """One immutable object that a record names."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class IndexFile(Stored):
    """A file of an index table. `blocks` is the record of its blocks (`Blocks`), if it has any.

    Its rows' keys, of the first column, run from `first` to `last`; of no rows neither is known.
    """

    blocks: Stored | None = None
    first: int | None = None
    last: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> IndexFile:
        blocks = values.get("blocks")
        return cls(**{**values, "blocks": None if blocks is None else Stored(**blocks)})

    def may_hold(self, keys: Collection[int]) -> bool:
        """Whether there can be rows of these keys."""
        if self.blocks is None:
            return True
        return self.first is not None and self.last is not None and any(self.first <= k <= self.last for k in keys)


@dataclass(frozen=True)
class Commit:
    """`commits/<shard>.json`: the shard is done, and these are its objects."""

    run: str  # Run.digest
    shard: int
    first_image: int
    images: int
    lengths: Mapping[str, int]  # of `Run.stored`: the positions of the image that has most, which arrays have room for
    prefix: str  # of the Zarr group
    errors: tuple[tuple[int, str, str], ...]  # image id, name, reason
    objects: tuple[Stored, ...]  # the group's
    images_table: Stored
    postings: Mapping[str, Stored]  # by table
    format: int = FORMAT

    @property
    def named(self) -> list[Stored]:
        """Every object that it names, in an order that does not depend on who made it."""
        return [*self.objects, self.images_table, *(stored for _, stored in sorted(self.postings.items()))]

    @property
    def size(self) -> int:
        """Bytes of all objects that it names."""
        return sum(stored.size for stored in self.named)

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Commit:
        values = parse_record(data, where)
        try:
            values["errors"] = tuple(tuple(error) for error in values["errors"])
            values["images_table"] = Stored(**values["images_table"])
            values["objects"] = tuple(Stored(**stored) for stored in values["objects"])
            values["postings"] = {table: Stored(**stored) for table, stored in values["postings"].items()}
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not a commit record: {error}.", "Run: vlq verify") from error


@dataclass(frozen=True)
class IndexManifest:
    """`index/<hash>.json`: the compacted index of the first `shards` shards of a plan."""

    run: str
    shards: int
    images: int
    errors: tuple[tuple[int, str, str], ...]
    tables: Mapping[str, tuple[IndexFile, ...]]  # TABLES, DIVERGENCE and "images", each one or more files in key order
    format: int = FORMAT

    @property
    def objects(self) -> list[Stored]:
        """Every object that it names."""
        files = [file for files in self.tables.values() for file in files]
        return [*files, *(file.blocks for file in files if file.blocks is not None)]

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> IndexManifest:
        values = parse_record(data, where)
        try:
            values["errors"] = tuple(tuple(error) for error in values["errors"])
            values["tables"] = {table: tuple(map(IndexFile.of, files)) for table, files in values["tables"].items()}
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not an index manifest: {error}.", "Run: vlq index") from error


@dataclass(frozen=True)
class Annotation:
    """Image columns that were joined later: those `columns` of a Parquet table that has an `image_id` beside them.

    Other columns of the table were replaced since. Images without a row have nulls.
    """

    stored: Stored
    columns: tuple[str, ...]


MODES = ("mean", "zero", "noise")
"""What stands where a patch was: the corpus' mean patch, nothing, or noise with the corpus' mean and spread."""

BASELINES = ("random", "register", "gradient")
"""What taking the chosen patches away is held against: taking as many others at random; those whose embeddings are far
longer than the others'; as many as integrated gradients name."""

COMBINATIONS = ("all", "regions", "singles")
"""How the chosen patches are taken: together; each region, and regions in every combination; each patch."""


INTERVENTIONS = ("ablate", "knockout", "steer", "patch")
"""What is done to images' runs: patches are taken away; attention to them is cut; a token's direction is added to
states; another image's states are put in."""

TO = ("last", "last-row", "prompt")
"""Who no longer sees patches that are cut off: the prompt's last token (and those of the answer), the last row of
patches, or every token of the prompt behind the image."""

Window = tuple[int, int]
"""Consecutive layers, both ends included."""


@dataclass(frozen=True)
class Study:
    """`studies/<digest>/study.json`: an intervention on the images, all that decides its effects.

    Its digest names it, so that the same is done once. See `vlq.query.studies`.
    """

    LATER: ClassVar = ("intervention", "windows", "to", "others", "token", "token_ids", "strengths", "source", "prompt")
    """Fields that came after the first caches: left out of the record where they say what was always so."""

    run: str  # Run.digest
    patches: (
        str  # the query that chose them, as the language writes it; or where states change: that, 'last', 'patches'
    )
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
    source: str = ""  # whose states are put in: see `vlq.query.partners`
    prompt: str | None = None  # what images are asked instead of the run's prompt: a question, or a whole prompt

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_bytes())[:16]

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
        values = parse_record(data, where)
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
        lists |= {name: tuple(values.get(name, ())) for name in ("token_ids", "strengths")}
        lists["windows"] = tuple(map(tuple, values.get("windows", ())))
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Finished:
    """A study all of whose effects are there: one Parquet table of them, of `studies.EFFECTS`."""

    study: Study
    effects: Stored


@dataclass(frozen=True)
class Head:
    """`commits/head-<number>.json`. The newest one tells what the cache should hold and whether it does."""

    number: int
    plan: str  # key of the plan
    shards: int
    images: int
    sealed: bool  # all shards are committed and `index` covers them: nothing will change below this head
    index: str | None  # key of the index manifest
    annotations: tuple[Annotation, ...] = ()
    studies: tuple[Finished, ...] = ()  # the newest last
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        values = asdict(self)
        values["studies"] = [{"study": one.study.plain(), "effects": asdict(one.effects)} for one in self.studies]
        if not self.studies:
            del values["studies"]  # the bytes of heads from before there were any stay so
        return record_bytes(values)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Head:
        values = parse_record(data, where)
        try:
            values["studies"] = tuple(
                Finished(Study.of(finished["study"]), Stored(**finished["effects"]))
                for finished in values.get("studies", ())
            )
            values["annotations"] = tuple(
                Annotation(Stored(**annotation["stored"]), tuple(annotation["columns"]))
                for annotation in values.get("annotations", ())
            )
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not a head: {error}.", "Run: vlq verify") from error
