"""Records survive their bytes; arrays and keys are what the format says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlq.query.errors import CorruptCache, NewerFormat, OlderFormat
from vlq.query.schema import (
    BASELINES,
    COMBINATIONS,
    FORMAT,
    INTERVENTIONS,
    LENSES,
    MODES,
    TO,
    VOCABULARY,
    Annotation,
    Commit,
    Finished,
    Head,
    IndexFile,
    IndexManifest,
    LensSpec,
    Run,
    Stored,
    Study,
    array_specs,
    commit_key,
    digest_of,
    head_key,
    record_bytes,
    records,
    to_json,
    translator_key,
)

from ..synthetic import make_run

pytestmark = pytest.mark.here("the records of a cache")

names = st.text(max_size=20)
whole = st.integers(0, 2**31)
stored = st.builds(Stored, key=names, size=whole, sha256=names)
files = st.builds(
    IndexFile,
    key=names,
    size=whole,
    sha256=names,
    blocks=st.none() | stored,
    first=st.none() | whole,
    last=st.none() | whole,
)
errors = st.lists(st.tuples(whole, names, names), max_size=3).map(tuple)

lenses = st.builds(
    LensSpec,
    kind=st.sampled_from(LENSES),
    temperature=st.none() | st.floats(0.01, 1),
    sha256=st.none() | names,
    source=st.none() | names,
)
runs = st.builds(
    Run,
    model=names,
    model_class=names,
    model_hash=names,
    prompt=names,
    prompt_ids=st.lists(whole, max_size=5).map(tuple),
    layers=st.integers(7, 100),
    read_layers=st.sampled_from([(), (0,), (2, 3, 6)]),
    tracked=st.sampled_from([(), (5,)]),
    grid=st.none() | st.tuples(whole, whole),
    patches=whole,
    k=whole,
    at=st.sampled_from([("patch",), ("prompt",), ("patch", "prompt"), ("patch", "answer")]),
    answer=whole,
    vocabulary_size=whole,
    vocabulary_hash=names,
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    quantized=st.none() | st.sampled_from(["4bit", "8bit"]),
    revision=st.none() | names,
    lens=lenses,
    image_processor=st.dictionaries(names, st.one_of(whole, names, st.booleans(), st.lists(whole, max_size=2))),
    shard_size=whole,
    batch_size=whole,
    threads=whole,
    lens_block=whole,
    device=names,
    attention=names,
    versions=st.dictionaries(names, names),
    prompt_column=st.none() | names,
    patches_column=st.none() | names,
    patches_label=st.none() | names,
    reading=st.integers(1, 3),
)
commits = st.builds(
    Commit,
    run=names,
    shard=whole,
    first_image=whole,
    lengths=st.dictionaries(names, whole),
    images=whole,
    prefix=names,
    errors=errors,
    objects=st.lists(stored, max_size=3).map(tuple),
    images_table=stored,
    postings=st.dictionaries(names, stored, max_size=3),
)
manifests = st.builds(
    IndexManifest,
    run=names,
    shards=whole,
    images=whole,
    errors=errors,
    tables=st.dictionaries(names, st.lists(files, max_size=2).map(tuple), max_size=3),
)
studies = st.builds(
    Study,
    run=names,
    patches=names,
    target=names,
    target_ids=st.lists(whole, max_size=3).map(tuple),
    mode=st.sampled_from(MODES),
    buffer=whole,
    combinations=st.sampled_from(COMBINATIONS),
    baselines=st.lists(st.sampled_from(BASELINES), unique=True).map(tuple),
    repeats=whole,
    answer=whole,
    seed=whole,
    intervention=st.sampled_from(INTERVENTIONS),
    windows=st.lists(st.tuples(whole, whole), max_size=3).map(tuple),
    to=st.sampled_from(("", *TO)),
    others=st.booleans(),
    token=names,
    token_ids=st.lists(whole, max_size=3).map(tuple),
    strengths=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3).map(tuple),
    source=names,
    prompt=st.none() | names,
)
heads = st.builds(
    Head,
    number=whole,
    plan=names,
    shards=whole,
    images=whole,
    sealed=st.booleans(),
    index=st.one_of(st.none(), names),
    annotations=st.lists(st.builds(Annotation, stored, st.just(("a",))), max_size=2).map(tuple),
    studies=st.lists(st.builds(Finished, studies, stored), max_size=2).map(tuple),
)


@given(record=st.one_of(runs, commits, manifests, studies, heads))
def test_records_survive_their_bytes(record: Any) -> None:
    data = record.to_bytes()
    again = type(record).from_bytes(data, "there")
    assert again == record
    assert again.to_bytes() == data
    # Every field is stored under its own name, and nothing else is; of what came later only what says something.
    unsaid = set()
    if isinstance(record, Run):
        unsaid = {name for name in Run.LATER if getattr(record, name) in (None, False, (), "topk")}
        unsaid |= {"reading"} if record.reading == 1 else set()
        unsaid |= {"read_layers"} if len(record.read_layers) == record.layers else set()
    if isinstance(record, Study):
        unsaid = {name for name in Study.LATER if getattr(record, name) in (None, False, (), "", "ablate")}
        unsaid -= {"prompt"} if record.prompt == "" else set()
    if isinstance(record, Head) and not record.studies:
        unsaid = {"studies"}
    assert json.loads(data).keys() == {"checksum", *(field.name for field in fields(record))} - unsaid
    with pytest.raises(CorruptCache, match="there is not what was written"):
        type(record).from_bytes(data.replace(b"0", b"1", 1) if b"0" in data else data.replace(b"a", b"b", 1), "there")


RECORDS = [
    make_run(),
    Commit("r", 0, 0, 1, {"patch": 1}, "p", (), (), Stored("k", 1, "h"), {}),
    IndexManifest("r", 1, 1, (), {}),
    Study("r", "q", "rock", (3,), "mean", 0, "all", ("random",), 3, 10, 0),
    Head(1, "plan", 1, 1, False, None),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_is_no_record(record: Any) -> None:
    read = type(record).from_bytes
    values = json.loads(record.to_bytes())
    del values["checksum"]
    with pytest.raises(
        OlderFormat, match=rf"run\.json is of format {FORMAT - 1}, an older VLQ's; this one reads {FORMAT}"
    ):
        read(record_bytes(values | {"format": FORMAT - 1}), "run.json")
    with pytest.raises(NewerFormat, match=rf"run\.json is of format {FORMAT + 1}; this VLQ reads up to {FORMAT}"):
        read(to_json(values | {"format": FORMAT + 1, "unheard_of": 1}), "run.json")
    # In a record as it was written a field that is not known is a newer VLQ's, and may change what the others say.
    with pytest.raises(NewerFormat, match=r"run\.json has further, unheard_of, which this VLQ does not know"):
        read(record_bytes(values | {"unheard_of": 1, "further": None}), "run.json")
    for broken in (b"", b"{", b"\xff\xfe", b"[]", b"{}", to_json({"format": "1"}), to_json({"format": FORMAT})):
        with pytest.raises(CorruptCache):
            read(broken, "run.json")
    for name in ("prompt_ids", "images_table", "tables", "number"):
        if name in values:
            without = {field: value for field, value in values.items() if field != name}
            with pytest.raises(CorruptCache) as caught:
                read(record_bytes(without), "run.json")
            assert (caught.value.hint or "").startswith("Run: vlq ")
    for name in ("prompt_ids", "images_table", "tables"):
        if name in values:
            with pytest.raises(CorruptCache):
                read(record_bytes(values | {name: 5}), "run.json")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_checked_as_it_lies_there(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not written anew: of a million images' index that takes a second. Other bytes that say the same are damage."""
    data, read = record.to_bytes(), type(record).from_bytes
    for other in (json.dumps(json.loads(data)).encode(), data[:-1], data + b"\n", data.replace(b'1"', b'\\u0031"', 1)):
        if other != data:
            with pytest.raises(CorruptCache, match="there is not what was written"):
                read(other, "there")

    def never(values: Any) -> bytes:
        raise AssertionError("written anew")

    monkeypatch.setattr(records, "to_json", never)
    assert read(data, "there") == record


def test_canonical_json_does_not_depend_on_order() -> None:
    assert to_json({"b": 1, "a": "é"}) == to_json({"a": "é", "b": 1}) == '{\n "a": "é",\n "b": 1\n}\n'.encode()


def test_keys_sort_as_their_numbers() -> None:
    numbers = [0, 1, 9, 10, 99, 100, 12345678]
    assert sorted(commit_key(n) for n in numbers) == [commit_key(n) for n in numbers]
    assert sorted(head_key(n) for n in numbers) == [head_key(n) for n in numbers]


def test_digests_are_sha256() -> None:
    assert digest_of(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("size", "dtype", "no_id"),
    [(10, "uint16", 65535), (65534, "uint16", 65535), (65535, "uint32", 2**32 - 1), (152_064, "uint32", 2**32 - 1)],
)
def test_ids_are_as_narrow_as_the_vocabulary_allows(size: int, dtype: str, no_id: int) -> None:
    run = replace(make_run(), vocabulary_size=size)
    assert (run.id_dtype, run.no_id) == (dtype, no_id)
    assert size - 1 < run.no_id


def test_arrays_of_a_llava_shard() -> None:
    run = make_run(
        layers=33,
        grid=(24, 24),
        k=20,
        vocabulary_size=32_064,
        vocabulary_hash="",
        prompt_ids=tuple(range(15)),
        dtype="float16",
    )
    shapes = {spec.name: (spec.shape, spec.dtype, spec.axes) for spec in array_specs(run, 32, run.positions)}
    cell = ("image", "layer", "patch")
    assert shapes["patch/token"] == ((32, 33, 576, 20), "uint16", (*cell, "k"))
    assert shapes["patch/logprob"] == ((32, 33, 576, 20), "float16", (*cell, "k"))
    assert shapes["patch/top1"] == ((32, 33, 576), "uint16", cell)
    assert shapes["patch/lse"] == shapes["patch/entropy"] == ((32, 33, 576), "float32", cell)
    assert shapes["prompt/token"] == ((32, 33, 15, 20), "uint16", ("image", "layer", "prompt", "k"))
    assert shapes["sum/patch"] == shapes["sum/last"] == ((33, 32_064), "float32", ("layer", "vocabulary"))
    assert len(shapes) == 12
    assert {spec.name for spec in array_specs(replace(run, at=("prompt",)), 1, run.positions)} == {
        *(f"prompt/{name}" for name in ("token", "logprob", "top1", "lse", "entropy")),
        "sum/last",
    }


def test_positions_of_each_site() -> None:
    run = make_run(grid=(3, 4), prompt_ids=(5, 6, 7))
    assert run.positions == {"patch": 12, "prompt": 3, "last": 1}
    assert replace(run, at=("patch",)).positions == {"patch": 12}


def test_what_tells_lenses_apart() -> None:
    tuned = LensSpec("tuned", sha256="a", source="here")
    assert tuned == replace(tuned, source="there")
    assert tuned != replace(tuned, sha256="b")
    assert LensSpec("nearest") == LensSpec("nearest", temperature=0.1) != LensSpec("head")
    assert replace(make_run(), lens=tuned).identity() != make_run().identity()


def test_translators_are_found_by_their_keys() -> None:
    digests = {0: "ab" * 32, 31: "cd" * 32, 12_345: "ef" * 32}
    keys = {layer: translator_key(layer, digest) for layer, digest in digests.items()}
    assert keys[31] == "lens/0031-cdcdcdcdcdcdcdcd.safetensors"
    checksums = {VOCABULARY: "x", **{keys[layer]: digest for layer, digest in digests.items()}}
    assert replace(make_run(), checksums=checksums).translators == keys
    assert make_run().translators == {}


def test_arrays_where_prompts_differ_in_length() -> None:
    run = make_run(prompt_column="question", prompt_ids=(), k=2, layers=5)
    assert (run.uneven, run.stored, run.summed) == (("prompt",), ("patch", "prompt", "last"), ("patch", "prompt"))
    specs = {spec.name: spec.shape for spec in array_specs(run, 3, {"patch": 12, "prompt": 9, "last": 1})}
    assert specs["prompt/token"] == (3, 5, 9, 2)
    assert specs["last/token"] == (3, 5, 1, 2)
    assert specs["last/entropy"] == (3, 5, 1)
    assert sum(name.startswith("sum/") for name in specs) == 2


def test_a_runs_digest_knows_what_is_pinned() -> None:
    run = make_run()
    assert run.digest == replace(run).digest
    assert run.digest != replace(run, batch_size=run.batch_size + 1).digest
    assert "batch_size" not in run.identity()
