"""What the objects of a cache are called."""

from __future__ import annotations

import re

RUN = "run.json"

VOCABULARY = "vocabulary.parquet"

TOKENIZER = "tokenizer.json"

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


_HASHED = "shards|images|postings|index|plans|annotations|studies|moments|lens"
_OURS = re.compile(
    r"(?:run|tokenizer)\.json|vocabulary\.parquet|commits/(?:head-)?\d{8}\.json|commits/index-\d{8}-[0-9a-f]{16}"
    rf"|moments/\d{{8}}\.safetensors|(?:{_HASHED})/(?:\w+-)?[0-9a-f]{{16}}[./-].*"
)


def is_ours(key: str) -> bool:
    """Whether a key is as those of VLQ's objects are. A cache may lie in a folder of somebody's own, which has its
    annotations/, too."""
    return _OURS.fullmatch(key) is not None
