"""What Python's habits expect of a corpus and its answers: completion, iteration, arrays, paths, other processes."""

from __future__ import annotations

import inspect
import operator
import pickle
import pydoc
import subprocess
import sys
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.client.remote import RemoteCorpus, Service
from vlq.query.errors import BadArgument, MissingExtra, VlqError
from vlq.query.language.nodes import node_of
from vlq.query.language.registry import functions

from ...synthetic import make_cache

LABELS = ["beach", "snow", None, "sky"]
OBJECTS = [[{"label": "dog", "box": [0.0, 0.0, 50.0, 60.0]}], [], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    columns = {"label": [LABELS[i % 4] for i in range(12)], "objects": [OBJECTS[i % 3] for i in range(12)]}
    make_cache(folder, images=12, columns=columns)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return vlq.open(str(folder))


# --- completion and help ---------------------------------------------------------------------------------------


def test_completion_and_help_know_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(vlq.__all__) <= set(dir(vlq))
    shown = pydoc.render_doc(vlq, renderer=pydoc.plaintext)
    assert "open(url: " in shown
    assert "first_layer(token: " in shown
    monkeypatch.setattr(vlq, "find_spec", lambda name: None)  # without the extra `workers`
    assert "open" in dir(vlq)
    assert not {"Lab", "look"} & set(dir(vlq))


@pytest.mark.parametrize("name", [name for name, function in functions().items() if function.is_table])
def test_a_notebook_shows_all_arguments_of_a_method(corpus: Corpus, name: str) -> None:
    shown = inspect.signature(getattr(corpus, name))
    assert shown.return_annotation == "Asked"
    if name != "compare":
        known = [parameter.name for parameter in functions()[name].parameters]
        assert list(shown.parameters) == known + (["layer"] if name == "top" else [])  # one of its `layers`
        assert f"vlq help {name}" in str(inspect.getdoc(getattr(corpus, name)))


def test_what_an_extra_brings_is_named(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        corpus.first_layer("cat").df()
    monkeypatch.setattr(vlq, "import_module", lambda name: __import__("torch.none"))
    with pytest.raises(MissingExtra, match=r"Run: pip install 'vlq\[workers\]'"):
        _ = vlq.Lab
    with pytest.raises(AttributeError, match="module 'vlq' has no attribute 'firstlayer'"):
        _ = vlq.firstlayer


# --- what is taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (range(1, 4), "[1, 2, 3]"),
        (np.array([3, 4]), "[3, 4]"),
        (np.array([[1, 2]]), "[[1, 2]]"),
        (pd.Series(["a", "b"]), "['a', 'b']"),
        (np.float32(0.5), "0.5"),
        (np.array(7), "7"),
        (np.array(["2024-01-01"], "datetime64[D]"), "['2024-01-01']"),
        (pl.Series([1, None]), "[1, None]"),
        (pa.array(["a", "b"]), "['a', 'b']"),
        (pa.chunked_array([["a"], ["b"]]), "['a', 'b']"),
        (pa.scalar(3), "3"),
    ],
)
def test_arrays_are_lists(given: object, text: str) -> None:
    assert str(node_of(given)) == text


class Animal(StrEnum):
    CAT = "cat"


@pytest.mark.timeout(30)  # a number of an enumeration was sought among all there are
def test_texts_and_numbers_of_more_than_python(corpus: Corpus) -> None:
    for text in (np.str_("cat"), Animal.CAT):
        found = corpus.first_layer(text)
        assert found.query == "first_layer('cat')"
        assert found.rows == corpus.first_layer("cat").rows
    assert str(node_of(HTTPStatus.OK)) == "200"


def test_what_is_no_list_is_refused() -> None:
    for value in (np.longdouble(1), np.array(["1"], "timedelta64[D]"), object()):
        with pytest.raises(BadArgument, match="A query cannot hold"):
            node_of(value)


@pytest.mark.parametrize("sign", "+-*/")
def test_a_number_may_stand_first(corpus: Corpus, sign: str) -> None:
    calculate = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign]
    for number in (2, 0.5, np.int64(3)):
        text = f"{number} {sign} first_layer('cat')"
        assert calculate(number, vlq.first_layer("cat")).equals(vlq.parse(text))
        assert calculate(number, corpus.first_layer("cat")).rows == corpus.query(text).rows
        condition = calculate(number, vlq.col("width")) > 1
        assert condition.equals(vlq.parse(f"images({number} {sign} width > 1)").arguments[0][1])
    layers = {row["image_id"]: row["layer"] for row in corpus.first_layer("cat")}
    found = {row["image_id"]: row["value"] for row in calculate(2, corpus.first_layer("cat"))}
    assert found == {image: calculate(2, layer) for image, layer in layers.items() if sign != "/" or layer}


def test_questions_and_answers_are_joined_in_either_order(corpus: Corpus) -> None:
    cat, dog = vlq.first_layer("cat"), vlq.first_layer("dog")
    for join in (operator.lt, operator.ge, operator.eq, operator.sub, operator.truediv):
        whole = join(cat, dog)
        assert join(cat, corpus.first_layer("dog")).equals(whole)
        assert join(corpus.first_layer("cat"), dog).node.equals(whole)
    both = (cat < dog) & (dog > 1)
    assert ((cat < dog) & (corpus.first_layer("dog") > 1)).equals(both)
    assert ((corpus.first_layer("cat") < dog) & (dog > 1)).node.equals(both)


def test_conditions_say_what_texts_say(corpus: Corpus) -> None:
    label, objects = vlq.col("label"), vlq.col("objects")
    pairs = {
        "label in ['beach', 'sky']": label.isin(["beach", "sky"]),
        "'dog' in objects": objects.contains("dog"),
        "'dog' in objects and not (label in ['beach'])": objects.contains("dog") & ~label.isin(pd.Series(["beach"])),
    }
    for text, node in pairs.items():
        assert node.equals(vlq.parse(text))
        found = {row["image_id"] for row in corpus.images(node)}
        assert found == {row["image_id"] for row in corpus.query(f"images({text})")}
    assert {row["image_id"] for row in corpus.images(objects.contains("dog"))} == {0, 3, 6, 9}


def test_paths_are_taken(folder: Path, corpus: Corpus) -> None:
    assert vlq.open(folder).first_layer("cat").rows == corpus.first_layer("cat").rows
    compared = corpus.compare(folder, corpus.first_layer("cat"))
    assert compared.rows == corpus.compare(str(folder), "first_layer('cat')").rows


@pytest.mark.here("a service has no relative paths")
def test_a_relative_path_is_of_the_folder_where_it_was_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    corpus, other = vlq.open(folder.name), vlq.open(Path(folder.name))
    expected = corpus.first_layer("cat").rows
    monkeypatch.chdir(folder)
    assert corpus.first_layer("cat").rows == pickle.loads(pickle.dumps(corpus)).first_layer("cat").rows == expected
    assert len(corpus.compare(other, "first_layer('cat')")) == len(expected)
    assert corpus.url == str(folder)


def test_an_answer_is_a_question_to_another_corpus(folder: Path, corpus: Corpus) -> None:
    found = vlq.open(folder).query(corpus.first_layer("cat", rank=2))
    assert found.query == "first_layer('cat', rank=2)"
    assert found.rows == corpus.first_layer("cat", rank=2).rows


# --- what is given -----------------------------------------------------------------------------------------------


def test_an_answer_is_gone_through_row_by_row(corpus: Corpus) -> None:
    found = corpus.first_layer("cat")
    assert [row["image"] for row in found] == [row["image"] for row in found.rows]
    assert len(list(found)) == len(found) > 0
    with pytest.raises(BadArgument, match="An answer has no truth value"):
        _ = found.rows[0] in found


def test_arrays_are_numpys(folder: Path) -> None:
    corpus = vlq.open(folder)
    arrays = corpus.zarr
    array = arrays["patch/top1"]
    whole = np.asarray(array)
    assert whole.shape == array.shape
    assert len(array) == 12
    np.testing.assert_array_equal(whole, array[:])
    np.testing.assert_array_equal(np.asarray(array, dtype=float), whole.astype(float))
    mask = np.arange(12) % 3 == 1
    for chosen in ([5, 2, -1], np.array([0, 11]), mask, []):
        picked = np.asarray(chosen, None if len(chosen) else int)
        np.testing.assert_array_equal(array[chosen], whole[picked])
        np.testing.assert_array_equal(array[chosen, 2], whole[picked, 2])
        np.testing.assert_array_equal(array[chosen, 1:3, ::2], whole[picked, 1:3, ::2])
    with pytest.raises(IndexError):
        _ = array[[12]]
    np.testing.assert_array_equal(np.asarray(arrays["sum/patch"]), arrays["sum/patch"][...])
    assert repr(array) in repr(arrays)


# --- other processes -----------------------------------------------------------------------------------------------


def test_a_corpus_and_questions_are_pickled(corpus: Corpus) -> None:
    found = corpus.first_layer("cat") < corpus.first_layer("▁cat", rank=2)
    again, node = pickle.loads(pickle.dumps((corpus, found.node)))
    assert again is not corpus
    assert again.info()["images"] == corpus.info()["images"]
    assert node.equals(found.node)
    assert again.query(node).rows == found.rows
    with pytest.raises(BadArgument, match="An answer is not pickled"):
        pickle.dumps(found)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(found.df())), found.df())


def test_a_token_is_not_pickled() -> None:
    corpus = RemoteCorpus(Service("http://127.0.0.1:9", "a-secret"), "demo")
    pickled = pickle.dumps(corpus)
    assert b"secret" not in pickled
    assert pickle.loads(pickled).url == corpus.url == "http://127.0.0.1:9/demo"


PROCESSES = """
import multiprocessing, sys
import vlq

def ask(corpus):
    try:
        return len(corpus.first_layer("cat"))
    except vlq.VlqError as error:
        return error.kind

def opened(corpus):
    try:
        return len(vlq.open(corpus.url).zarr["patch/top1"][0])
    except vlq.VlqError as error:
        return error.kind

if __name__ == "__main__":
    corpus = vlq.open(sys.argv[1])
    print(ask(corpus))
    for what in ("fork", "spawn"):
        with multiprocessing.get_context(what).Pool(1) as pool:
            print(what, pool.apply(ask, [corpus]), pool.apply(opened, [corpus]))
"""


@pytest.mark.here("processes of this machine")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_a_forked_process_is_told_so_and_a_spawned_one_answers(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PROCESSES)
    command = [sys.executable, str(tmp_path / "script.py"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    count, layers = len(corpus.first_layer("cat")), corpus.info()["layers"]
    assert ran.stdout.splitlines() == [str(count), "fork forked forked", f"spawn {count} {layers}"]


def test_a_fork_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = vlq.open(folder)
    monkeypatch.setattr("vlq.query.forks._process", -1)
    with pytest.raises(VlqError, match="get_context\\('spawn'\\)") as caught:
        vlq.open(folder)
    assert caught.value.kind == "forked"
    with pytest.raises(VlqError, match="forked off"):
        _ = corpus.first_layer("cat").rows
