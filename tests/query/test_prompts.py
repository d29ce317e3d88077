"""Images with prompts of their own: what is asked about them, beside what every function's own test holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.client.corpus import Corpus
from vlq.query.client.one import one_image
from vlq.query.errors import BadArgument
from vlq.query.info import as_text
from vlq.query.schema import Run

from ..synthetic import make_cache, make_run
from .corpora import Case

PROMPT = {"prompt": "USER: <image>\n{question} ASSISTANT:", "prompt_ids": (), "prompt_column": "question"}


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["prompts of their own"]


def test_what_an_image_was_asked_is_a_column(case: Case) -> None:
    asked = {row["image_id"]: row["question"] for row in case.corpus.images().rows}
    assert {*asked} == {*np.flatnonzero(case.good).tolist()}
    of_dogs = {image for image, text in asked.items() if "dog" in text}
    assert of_dogs
    result = case.corpus.query("prob('dog', at='last', layers=0, missing='bound', images='dog' in question)")
    assert {row["image_id"] for row in result.rows} == of_dogs


def test_positions_of_prompts_differ_in_number(case: Case) -> None:
    assert case.prompts is not None
    assert len({len(case.prompts[image]) for image in np.flatnonzero(case.good)}) > 2
    for image in np.flatnonzero(case.good).tolist():
        count = len(case.prompts[image])
        token = case.sites["prompt"].token[image, :, :count, :2]
        rows = case.corpus.top(image, at="prompt", rank=2).rows
        assert [row["token"] for row in rows] == token.reshape(-1).tolist()
        last = case.corpus.top(image, at="last", rank=2).rows
        assert [row["token"] for row in last] == token[:, -1].reshape(-1).tolist()
        with pytest.raises(BadArgument, match=f"has the positions 0 to {count - 1}. Got {count}."):
            case.corpus.top(image, at="prompt", patch=count)
        assert one_image(case.corpus, image).prompt_ids == tuple(case.prompts[image])


def test_the_arrays_as_one(case: Case) -> None:
    """As long as the longest prompt of all shards; the last token of each is an array of its own."""
    assert case.prompts is not None
    arrays = case.corpus.zarr
    longest = max(len(case.prompts[image]) for image in range(len(case.names)))
    assert arrays["prompt/top1"].shape == (len(case.names), case.run.layers, longest)
    expected = [
        case.sites["prompt"].token[image, :, len(case.prompts[image]) - 1, 0] for image in np.flatnonzero(case.good)
    ]
    assert arrays["last/top1"][:][case.good, :, 0].tolist() == np.array(expected).tolist()


def test_the_answer_stands_beside_the_question(tmp_path: Path) -> None:
    run = make_run(**PROMPT, at=("patch", "prompt", "answer"), answer=2)
    make_cache(tmp_path, run, images=6, failed=[1])
    corpus = vlq.open(str(tmp_path))
    asked = {row["image_id"]: row["question"] for row in corpus.images().rows}
    for result in (corpus.answer(), corpus.answer([*range(12)])):
        assert result.columns[:3] == ["image", "question", "answer"]
        assert result.rows
        assert all(row["question"] == asked[row["image_id"]] for row in result.rows)


@pytest.mark.parametrize("column", ["prob", "position", "Answer of mine", "select"])
def test_a_column_of_any_name(tmp_path: Path, column: str) -> None:
    run = make_run(**PROMPT | {"prompt_column": column}, at=("patch", "prompt", "answer"), answer=2)
    make_cache(tmp_path, run, images=3)
    corpus = vlq.open(str(tmp_path))
    assert len(corpus.answer().rows) == 3
    assert all(isinstance(row["prob"], float) for row in corpus.answer().rows)


def corpus_of(folder: Path, run: Run, seed: int) -> Corpus:
    make_cache(folder, run, images=6, failed=[seed], seed=seed)
    return vlq.open(str(folder))


def test_two_runs_of_the_same_prompts_and_of_others(tmp_path: Path) -> None:
    a, other = corpus_of(tmp_path / "a", make_run(**PROMPT), 3), corpus_of(tmp_path / "b", make_run(**PROMPT), 4)
    plain = corpus_of(tmp_path / "plain", make_run(), 5)
    url = a.cache.url
    assert a.query(f"compare({url!r}, {url!r}, readings('dog', at='prompt'))").rows
    for second in (other, plain):
        for first, then in ((a, second), (second, a)):
            urls = f"{first.cache.url!r}, {then.cache.url!r}"
            with pytest.raises(BadArgument, match="The prompts differ, and so do their positions"):
                first.query(f"compare({urls}, readings('dog', at='prompt'))")
            assert first.query(f"compare({urls}, readings('dog', at='last', rank=4))").rows


def test_what_is_said_of_the_run(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(**PROMPT), images=2)
    info = Cache.open(str(tmp_path)).info()
    assert info["prompt_column"] == "question"
    assert info["columns"] == ["question"]
    assert "prompt   'USER: <image>\\n{question} ASSISTANT:', each image with its own question" in as_text(info)
    (path,) = Cache.open(str(tmp_path)).snapshot().files("images")
    assert "prompt_ids" in pq.read_table(path).column_names
