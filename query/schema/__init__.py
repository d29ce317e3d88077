"""What a cache is made of: its objects, arrays and tables. The contract between who writes and who reads.

    run.json                          who made it: model, prompt, lens, k, axes (create-only: decides what the cache is)
    vocabulary.parquet                id -> piece and text; tokenizer.json beside it where the lens has a tokenizer
    lens/<layer>-<hash>.safetensors   a tuned lens' translator for a layer, where the run reads with one
    lens/unembed-<hash>.safetensors   what makes logits of states, where these are kept (`vlq.query.cache.unembed`)
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
    studies/<hash>/                   interventions on the images, and their effects: `vlq.query.cache.studies`

Layers: 0 is the embedding that enters the decoder, l the residual stream after block l. `layers` counts them all
(LLaVA-1.5-7B: 33). Positions: `patch` is row-major over the grid; `prompt` counts the prompt's text tokens without
the image's; `last` is the last of these.
"""

from __future__ import annotations

from vlq.query.schema.arrays import ArraySpec, array_specs, sum_of
from vlq.query.schema.blocks import MAGIC, Block, Blocks
from vlq.query.schema.commits import Annotation, Commit, Finished, Head, IndexFile, IndexManifest, Stored
from vlq.query.schema.images import (
    ANSWER_COLUMNS,
    FOLDER_HERE,
    IMAGE_COLUMNS,
    PATCHES_COLUMNS,
    PROMPT_COLUMNS,
    PUBLIC_URI,
    READ_COLUMNS,
    Transform,
)
from vlq.query.schema.keys import (
    COMMITS,
    HEADS,
    INTERIMS,
    LENS,
    RUN,
    SHARDS,
    STUDIES,
    TOKENIZER,
    VOCABULARY,
    annotation_key,
    commit_key,
    head_key,
    images_key,
    interim_key,
    is_ours,
    manifest_key,
    plan_key,
    postings_prefix,
    shard_prefix,
    translator_key,
    unembed_key,
)
from vlq.query.schema.records import FORMAT, check_format, digest_of, parse_json, parse_record, record_bytes, to_json
from vlq.query.schema.run import (
    KEEP,
    LENSES,
    LOGIT_LENS,
    MOST_POSITIONS,
    READING,
    SITES,
    STORED_SITES,
    LensSpec,
    Run,
    layers_option,
    layers_phrase,
    spans,
)
from vlq.query.schema.studies import (
    BASELINES,
    COMBINATIONS,
    EVERY,
    INTERVENTIONS,
    LAST,
    MODES,
    RANDOM,
    REPEATS,
    TO,
    Study,
    Window,
)
from vlq.query.schema.tables import COUNTS, DIVERGENCE, KINDS, PATCH_CELLS, TABLES

__all__ = [
    "ANSWER_COLUMNS",
    "BASELINES",
    "COMBINATIONS",
    "COMMITS",
    "COUNTS",
    "DIVERGENCE",
    "EVERY",
    "FOLDER_HERE",
    "FORMAT",
    "HEADS",
    "IMAGE_COLUMNS",
    "INTERIMS",
    "INTERVENTIONS",
    "KEEP",
    "KINDS",
    "LAST",
    "LENS",
    "LENSES",
    "LOGIT_LENS",
    "MAGIC",
    "MODES",
    "MOST_POSITIONS",
    "PATCHES_COLUMNS",
    "PATCH_CELLS",
    "PROMPT_COLUMNS",
    "PUBLIC_URI",
    "RANDOM",
    "READING",
    "READ_COLUMNS",
    "REPEATS",
    "RUN",
    "SHARDS",
    "SITES",
    "STORED_SITES",
    "STUDIES",
    "TABLES",
    "TO",
    "TOKENIZER",
    "VOCABULARY",
    "Annotation",
    "ArraySpec",
    "Block",
    "Blocks",
    "Commit",
    "Finished",
    "Head",
    "IndexFile",
    "IndexManifest",
    "LensSpec",
    "Run",
    "Stored",
    "Study",
    "Transform",
    "Window",
    "annotation_key",
    "array_specs",
    "check_format",
    "commit_key",
    "digest_of",
    "head_key",
    "images_key",
    "interim_key",
    "is_ours",
    "layers_option",
    "layers_phrase",
    "manifest_key",
    "parse_json",
    "parse_record",
    "plan_key",
    "postings_prefix",
    "record_bytes",
    "shard_prefix",
    "spans",
    "sum_of",
    "to_json",
    "translator_key",
    "unembed_key",
]
