"""Columns that are joined later: they equal a dictionary's look-ups, everywhere, and no writer loses another's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.cache.annotate import annotate
from vlq.query.cache.heads import name_index
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cli import main
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CacheError, CorruptCache, InputError
from vlq.query.schema import Head, head_key
from vlq.query.store import Store, open_store
from vlq.workers.indexing.index import compact, rebuild
from vlq.workers.plan import settle
from vlq.workers.shard import write_shard
from vlq.workers.upkeep.verify import verify

from ...examples import examples
from ...synthetic import edit_record, image_table, make_cache, make_run, planned, random_readings
from .test_cache import Counting, add_shard

NAMES = [f"{folder}/{i}.png" for i in range(5) for folder in ("a", "b")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_cache(tmp_path / "cache", names=NAMES, failed=[3], columns={"label": list("xyxyxyxyxy")})
    return tmp_path / "cache"


def column(folder: Path, name: str) -> dict[str, Any]:
    """A column of the images, by their names."""
    return {row["image"]: row[name] for row in vlq.open(str(folder)).images().rows}


def without_3(values: dict[str, Any]) -> dict[str, Any]:
    """Of the values by name those of images with readings; null where there is none."""
    return {name: values.get(name) for i, name in enumerate(NAMES) if i != 3}


# --- what is joined to what ------------------------------------------------------------------------------------

KEYS: dict[str, Callable[[int], Any]] = {
    "image": lambda i: NAMES[i],
    "uri": lambda i: f"file:///images/{NAMES[i]}",
    "path": lambda i: f"/images/{NAMES[i]}",
    "image_id": lambda i: i,
}

FORMATS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "csv": lambda table, path: pyarrow.csv.write_csv(table, path),
    "parquet": lambda table, path: pq.write_table(table, path),
    "jsonl": lambda table, path: path.write_text("\n".join(json.dumps(row) for row in table.to_pylist())),
}


@examples(25)
@given(
    key=st.sampled_from(list(KEYS)),
    form=st.sampled_from([*FORMATS, "arrow", "pandas"]),
    values=st.dictionaries(st.integers(0, 9), st.integers(-(2**31), 2**31), min_size=1),
    unknown=st.integers(0, 3),
    order=st.randoms(),
    sealed=st.booleans(),
)
def test_equals_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    key: str,
    form: str,
    values: dict[int, int],
    unknown: int,
    order: Any,
    sealed: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("annotated")
    folder = tmp_path / "cache"
    make_cache(folder, names=NAMES, failed=[3], seal=sealed)
    rows = [(KEYS[key](i), value) for i, value in values.items()]
    rows += [(100 + i if key == "image_id" else f"none-{i}.png", 7) for i in range(unknown)]
    order.shuffle(rows)
    table = pa.table({"score": [value for _, value in rows], key: [name for name, _ in rows]})
    given_as: Any = table if form == "arrow" else table.to_pandas()
    if form in FORMATS:
        given_as = str(tmp_path / f"table.{form}")
        FORMATS[form](table, Path(given_as))

    done = vlq.open(str(folder)).annotate(given_as)
    assert (done.columns, done.matched, done.images) == (("score",), len(values), 10)
    assert set(done.unknown) == {str(name) for name, value in rows if name not in [KEYS[key](i) for i in values]}
    expected = without_3({NAMES[i]: value for i, value in values.items()})
    assert column(folder, "score") == expected

    # And where it chooses: the images in which id 0 is read, by hand.
    read = {row["image"] for row in vlq.open(str(folder)).first_layer(0).rows}
    chosen = {name for name, value in expected.items() if value is not None and value >= 0}
    corpus = vlq.open(str(folder))
    assert {row["image"] for row in corpus.query("first_layer(0).where(score >= 0)").rows} == read & chosen
    assert {row["image"] for row in corpus.query("first_layer(0, images=score >= 0)").rows} == read & chosen
    assert corpus.query("first_layer(0, images=score >= 0)").summary["images"] == len(chosen)
    assert {row["image"] for row in corpus.query("images(score >= 0)").rows} == chosen


def test_a_bare_file_name_where_it_is_no_others(tmp_path: Path) -> None:
    make_cache(tmp_path, names=["a/1.png", "a/2.png", "b/2.png", "2.png"], images=4)
    corpus = vlq.open(str(tmp_path))
    corpus.annotate(pa.table({"file": ["1.png", "2.png"], "note": ["one", "two"]}))
    assert {row["image"]: row["note"] for row in corpus.images().rows} == {
        "a/1.png": "one",
        "a/2.png": None,
        "b/2.png": None,
        "2.png": "two",  # a whole name goes before a part of others
    }
    assert str(corpus.annotate(pa.table({"file": ["b/2.png", "1.jpg"], "other": [1, 2]}))) == (
        "other: joined to 1 of 4 images.\nThe other 3 have none: null.\n1 row names no image of this cache: 1.jpg."
    )


OBJECTS = [
    {"image": "a/0.png", "objects": [{"label": "dog", "box": [0, 0, 50, 60.5], "mask_rle": [112, 112 * 111]}]},
    {"image": "b/0.png", "objects": [{"label": "cat", "box": [1, 1, 2, 2]}, {"label": "dog", "box": [0, 0, 112, 112]}]},
    {"image": "a/1.png", "objects": []},
]


def test_objects(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "objects.jsonl").write_text("\n".join(map(json.dumps, OBJECTS)))
    corpus = vlq.open(str(folder))
    before = corpus.locate(0)
    assert before.summary["judged"] == 0
    corpus.annotate(str(tmp_path / "objects.jsonl"))
    assert [row["image"] for row in corpus.query("images('dog' in objects)").rows] == ["a/0.png", "b/0.png"]
    assert [row["image"] for row in corpus.query("images('cat' in objects and label == 'y')").rows] == ["b/0.png"]
    assert [row["image"] for row in corpus.query("images('dog' not in objects)").rows] == ["a/1.png"]
    read = {row["image"] for row in corpus.locate("dog", rank=4).rows}
    assert corpus.locate("dog", rank=4).summary["judged"] == len(read & {"a/0.png", "b/0.png"})


def test_columns_of_answers_are_joined_but_not_what_names_their_images(folder: Path) -> None:
    corpus = vlq.open(str(folder))
    answer = corpus.images().df()[["image", "label", "image_id"]]
    answer["longer"] = answer["label"] + "!"
    done = corpus.annotate(answer.drop(columns="label"))
    assert done.columns == ("longer",)
    assert column(folder, "longer") == {name: f"{value}!" for name, value in column(folder, "label").items()}
    # An index of pandas is no column.
    corpus.annotate(pandas.DataFrame({"image": ["a/0.png"], "n": [1]}, index=["row"]))
    assert "__index_level_0__" not in corpus.images().columns


def test_columns_of_polars(folder: Path) -> None:
    """Its texts are views, and so are those of its categories, lists and structs."""
    columns = {
        "text": ["x", None],
        "bytes": [b"x", b""],
        "texts": [["x", None], None],
        "nested": [{"a": "x", "b": [["y"]]}, None],
        "objects": [[{"label": "dog", "box": [0.0, 0.0, 9.0, 9.0]}], []],
    }
    numbered = {
        "category": polars.Series(["x", None], dtype=polars.Categorical),
        "enum": polars.Series(["x", "y"], dtype=polars.Enum(["y", "x"])),
    }
    frame = polars.DataFrame({"image": ["a/0.png", "b/0.png"], **columns, **numbered})
    vlq.open(str(folder)).annotate(frame, replace=True)
    for name, values in (columns | {"category": ["x", None], "enum": ["x", "y"]}).items():
        found = column(folder, name)
        assert [found["a/0.png"], found["b/0.png"]] == values
    assert [row["image"] for row in vlq.open(str(folder)).query("images('x' in text)").rows] == ["a/0.png"]


# --- the same column again -------------------------------------------------------------------------------------


def note(value: object, *names: str, column: str = "note") -> pa.Table:
    return pa.table({"image": names or ("a/0.png",), column: [value] * (len(names) or 1)})


def test_a_column_is_replaced_only_if_asked_for(folder: Path) -> None:
    corpus = vlq.open(str(folder))
    corpus.annotate(note("old", "a/0.png", "b/0.png").append_column("kept", pa.array([1, 2])))
    with pytest.raises(InputError) as caught:
        corpus.annotate(note("new", "b/0.png", column="NOTE"))
    assert caught.value.message == "note is a column of the images already."
    assert "--replace" in str(caught.value)
    assert column(folder, "note") == without_3({"a/0.png": "old", "b/0.png": "old"})

    corpus.annotate(note("new", "b/0.png", column="NOTE"), replace=True)
    assert column(folder, "NOTE") == without_3({"b/0.png": "new"})
    assert column(folder, "kept") == without_3({"a/0.png": 1, "b/0.png": 2})
    assert "note" not in corpus.images().columns

    # Columns that came with the images, too.
    with pytest.raises(InputError, match="label is a column"):
        corpus.annotate(note("z", column="label"))
    corpus.annotate(note("z", column="label"), replace=True)
    assert column(folder, "label") == without_3({"a/0.png": "z"})
    assert [row["image"] for row in corpus.query("images(label == 'z')").rows] == ["a/0.png"]


def test_the_same_again_changes_nothing(folder: Path) -> None:
    corpus = vlq.open(str(folder))
    corpus.annotate(note(1))
    before = latest_head(corpus.cache.store)
    corpus.annotate(note(1))
    assert latest_head(corpus.cache.store) == before


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"picture": ["a"], "n": [1]}, {}, "The table has no image column."),
        ({"image": ["a/0.png"], "n": [1]}, {"on": "imag"}, "The table has no column imag."),
        ({"image": ["a/0.png"]}, {}, "The table has no column beside image."),
        ({"image": pa.array([], pa.string()), "n": pa.array([], pa.int64())}, {}, "The table has no rows."),
        ({"image": ["a/0.png"], "width": [1], "Grid": [2]}, {}, "width, Grid are columns that every image has"),
        ({"image": ["a/0.png"], "n": [1], "N": [2]}, {}, "columns without a name of their own: 'N', 'n'"),
        ({"image": ["a/0.png"], "": [1]}, {}, "columns without a name of their own: ''"),
        ({"image": ["a/0.png", None], "n": [1, 2]}, {}, "Row 1 of The table has no image."),
        ({"image": [5], "n": [1]}, {}, "expected names, file names or URIs of images. Got 5."),
        ({"image_id": ["5"], "n": [1]}, {}, "expected numbers of images. Got '5'."),
        ({"image": ["x.png", "y.png"], "n": [1, 2]}, {}, "None of the 2 rows of The table is of an image"),
        ({"image": ["x.png"], "n": [1]}, {}, "The one row of The table is of no image of this cache"),
        ({"image": ["a/0.png", ""], "n": [1, 2]}, {}, "Row 1 of The table has no image"),
        ({"file": ["0.png"], "n": [1]}, {}, "'0.png' in row 0 of The table is the name of 2 images: 0, 1."),
        ({"image": ["a/0.png", "/images/a/0.png"], "n": [1, 2]}, {}, "Rows 0 and 1 of The table are of the same image"),
        ({"image": ["a/0.png"], "objects": ["dog"]}, {}, "The column objects of The table is of type string."),
        ({"image": ["a/0.png"], "objects": [[{"label": 3}]]}, {}, "The column objects of The table is of type list"),
        (
            {"image": ["a/0.png"], "objects": [[{"label": "dog", "mask_rle": {"size": [1, 1]}}]]},
            {},
            "The column objects of The table is of type list",
        ),
        (
            {"image": ["a/0.png"], "objects": [[{"label": "dog", "box": "1 2"}]]},
            {},
            "The column objects of The table is of type list",
        ),
        ({"image": ["a/0.png"], "t": pa.array([None], pa.month_day_nano_interval())}, {}, "cannot be stored"),
    ],
)
def test_tables_that_do_not_fit(folder: Path, table: dict[str, Any], options: dict[str, Any], message: str) -> None:
    cache = Cache.open(str(folder))
    before = latest_head(cache.store)
    with pytest.raises(InputError) as caught:
        annotate(cache, pa.table(table), **options)
    assert message in caught.value.message
    assert latest_head(cache.store) == before


def test_a_column_of_several_kinds_is_named(folder: Path) -> None:
    frame = pandas.DataFrame({"image": ["a/0.png", "b/0.png"], "mixed": [1, "a"]})
    with pytest.raises(InputError) as caught:
        vlq.open(str(folder)).annotate(frame)
    assert caught.value.message == (
        "The table has a column that cannot be stored: Could not convert 'a' with type str: tried to convert to int64; "
        "Conversion failed for column mixed with type object."
    )


def test_numbers_beyond_all_of_64_bits_are_told_with_their_column(folder: Path) -> None:
    for numbers in ([1, 2**64], [2**63, None]):
        frame = pandas.DataFrame({"image": ["a/0.png", "b/0.png"], "hash": pandas.Series(numbers, dtype=object)})
        with pytest.raises(InputError, match=r"The column hash has whole numbers from 2\^63 on") as caught:
            vlq.open(str(folder)).annotate(frame)
        assert "astype('uint64')" in str(caught.value.hint)
    frame = pandas.DataFrame({"image": ["a/0.png", "b/0.png"], "hash": np.array([2**63, 2**64 - 1], "uint64")})
    corpus = vlq.open(str(folder))
    corpus.annotate(frame)
    assert sorted(row["hash"] for row in corpus.images().rows if row["hash"]) == [2**63, 2**64 - 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "There is no file"),
        ("table.txt", b"x", "is no table"),
        ("table.csv", b"", "cannot be read"),
        ("table.jsonl", b"{", "cannot be read"),
        ("table.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_files_that_are_no_tables(folder: Path, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        vlq.open(str(folder)).annotate(str(tmp_path / name))


def test_a_path(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text("filename,said\na/0.png,yes\n")
    vlq.open(folder).annotate(tmp_path / "said.csv")
    assert column(folder, "said") == without_3({"a/0.png": "yes"})


def test_what_is_no_table(folder: Path) -> None:
    with pytest.raises(InputError, match="A int is no table"):
        vlq.open(str(folder)).annotate(3)


def test_names_that_several_images_have(tmp_path: Path) -> None:
    make_cache(tmp_path, names=["x.png", "x.png", "y.png"], images=3)
    corpus = vlq.open(str(tmp_path))
    with pytest.raises(InputError, match=r"'x\.png' in row 0 of The table is the name of 2 images: 0, 1"):
        corpus.annotate(note(1, "x.png"))
    corpus.annotate(pa.table({"image_id": [1], "note": ["second"]}))
    assert [row["note"] for row in corpus.images().rows] == [None, "second", None]


ASKED = [
    ("a/1.png", "Which?"),
    ("a/1.png#2", "Where?"),
    ("b/1.png", "Which?"),
    ("a/1.png#3", "Why?"),
    ("a/2.png", "Where?"),
    ("a/1.png#4", "Why?"),
]
"""Images and questions about them: one has four, of which two are the same."""


@pytest.fixture
def of_questions(tmp_path: Path) -> Path:
    names, questions = zip(*ASKED, strict=True)
    run = make_run(prompt="USER: <image>\n{question} ASSISTANT:", prompt_ids=(), prompt_column="question")
    make_cache(tmp_path / "cache", run, images=len(ASKED), names=names, columns={"question": questions})
    return tmp_path / "cache"


@pytest.mark.parametrize("key", ["image", "path", "uri"])
def test_a_row_is_of_all_questions_about_its_image(of_questions: Path, key: str) -> None:
    before = {"image": "", "path": "/images/", "uri": "file:///images/"}[key]
    corpus = vlq.open(str(of_questions))
    table = pa.table({key: [f"{before}a/2.png", f"{before}a/1.png"], "scene": ["a room", "a street"]})
    found = corpus.annotate(table)
    assert str(found) == "scene: joined to 5 of 6 images.\nThe other one has none: null."
    scenes = {"a/1.png": "a street", "a/2.png": "a room"}
    assert column(of_questions, "scene") == {name: scenes.get(name.partition("#")[0]) for name, _ in ASKED}


def test_a_file_name_alone_is_of_all_questions(of_questions: Path) -> None:
    corpus = vlq.open(str(of_questions))
    corpus.annotate(pa.table({"file": ["2.png"], "n": [2]}))
    assert column(of_questions, "n") == {name: 2 if name == "a/2.png" else None for name, _ in ASKED}
    with pytest.raises(InputError, match=r"'1\.png' in row 0 of The table is the name of 2 images: 0, 2"):
        corpus.annotate(pa.table({"file": ["1.png"], "m": [1]}))


def test_a_row_with_a_question_is_of_that_one(of_questions: Path) -> None:
    """As the manifest has it: image, question, and what there is to know of the two."""
    corpus = vlq.open(str(of_questions))
    truth = {
        ("a/1.png", "Why?"): "because",
        ("a/1.png", "Which?"): "this",
        ("b/1.png", "Which?"): "that",
        ("b/1.png", "Why?"): "of no image",
        ("a/2.png", "Where?"): "here",
    }
    images, questions = zip(*truth, strict=True)
    found = corpus.annotate(pa.table({"image": images, "question": questions, "truth": [*truth.values()]}))
    assert str(found).endswith("1 row names no image of this cache: b/1.png: 'Why?'.")
    expected = {name: truth.get((name.partition("#")[0], question)) for name, question in ASKED}
    assert column(of_questions, "truth") == expected
    assert column(of_questions, "question") == dict(ASKED)


def test_names_with_numbers_are_one_question_each(of_questions: Path) -> None:
    corpus = vlq.open(str(of_questions))
    corpus.annotate(pa.table({"image": ["a/1.png", "a/1.png#3"], "note": ["the others", "third"]}))
    expected = {"a/1.png": "the others", "a/1.png#2": "the others", "a/1.png#3": "third", "a/1.png#4": "the others"}
    assert column(of_questions, "note") == {name: expected.get(name) for name, _ in ASKED}
    numbered = pa.table({"image": [name for name, _ in ASKED], "place": [*range(6)]})
    corpus.annotate(numbered)
    assert column(of_questions, "place") == {name: i for i, (name, _) in enumerate(ASKED)}


def test_rows_that_do_not_say_which_question(of_questions: Path) -> None:
    corpus = vlq.open(str(of_questions))
    with pytest.raises(InputError, match=r"Rows 0 and 1 of The table are of the same image, 'a/1\.png'") as caught:
        corpus.annotate(pa.table({"image": ["a/1.png", "a/1.png"], "truth": ["this", "here"]}))
    assert caught.value.hint == "Which question about it a row is of is told by the column question, or by image_id."
    twice = pa.table({"image": ["a/1.png"] * 2, "question": ["Why?"] * 2, "truth": ["this", "here"]})
    with pytest.raises(InputError, match=r"of the same image, \"a/1\.png: 'Why\?'\"") as caught:
        corpus.annotate(twice)
    assert caught.value.hint == "Leave one of them out."
    corpus.annotate(pa.table({"image_id": [3, 5], "truth": ["this", "here"]}))
    truth = {"a/1.png#3": "this", "a/1.png#4": "here"}
    assert column(of_questions, "truth") == {name: truth.get(name) for name, _ in ASKED}


def test_before_the_plan(tmp_path: Path) -> None:
    open_store(str(tmp_path)).create("run.json", make_run().to_bytes())
    with pytest.raises(CacheError, match="no plan yet"):
        vlq.open(str(tmp_path)).annotate(note(1))


# --- several writers -------------------------------------------------------------------------------------------


class Late(Store):
    """A store on which something else happens just before the first head is created."""

    def __init__(self, behind: Store, meanwhile: Callable[[], object]) -> None:
        self.behind, self.url, self.meanwhile = behind, behind.url, meanwhile

    def create(self, key: str, data: bytes) -> bool:
        if key.startswith("commits/head-"):
            happened, self.meanwhile = self.meanwhile, lambda: None
            happened()
        return self.behind.create(key, data)

    def read(self, key: str) -> bytes:
        return self.behind.read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.behind.read_range(key, start, length)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Any]:
        return self.behind.list(prefix, after)

    def delete(self, key: str) -> None:
        self.behind.delete(key)

    def local_path(self, key: str) -> str | None:
        return self.behind.local_path(key)


def late(folder: Path, meanwhile: Callable[[], object]) -> Cache:
    cache = Cache.open(str(folder))
    return Cache(cache.url, Late(cache.store, meanwhile), cache.run)


def test_another_annotator_was_first(folder: Path) -> None:
    annotate(late(folder, lambda: annotate(Cache.open(str(folder)), note("theirs", column="b"))), note("mine"))
    assert column(folder, "note")["a/0.png"] == "mine"
    assert column(folder, "b")["a/0.png"] == "theirs"


def test_another_annotator_was_first_with_the_same_column(folder: Path) -> None:
    with pytest.raises(InputError, match="note is a column of the images already"):
        annotate(late(folder, lambda: annotate(Cache.open(str(folder)), note("theirs"))), note("mine"))
    assert column(folder, "note")["a/0.png"] == "theirs"


def test_many_annotators_at_once(folder: Path) -> None:
    failed: list[BaseException] = []

    def write(n: int) -> None:
        try:
            annotate(Cache.open(str(folder)), note(n, column=f"c{n}"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    row = vlq.open(str(folder)).query("images(image == 'a/0.png')").rows[0]
    assert {name: row[name] for name in row if name[0] == "c"} == {f"c{n}": n for n in range(8)}


def test_a_run_in_progress(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=12, seal=False)
    for shard in (1, 2):
        store.delete(f"commits/{shard:08d}.json")
    reader = vlq.open(str(tmp_path))
    assert len(reader.images().rows) == 4
    names = [entry["image"] for entry in pq.read_table(next(tmp_path.glob("plans/*"))).to_pylist()]
    annotate(Cache.open(str(tmp_path)), pa.table({"image": names, "n": range(12)}))
    # An unsealed cache is looked at again by each query.
    assert [row["n"] for row in reader.images().rows] == [
        i for i, name in sorted(enumerate(names[:4]), key=lambda pair: pair[1])
    ]

    for shard in (1, 2):
        table = image_table(names[shard * 4 : shard * 4 + 4], shard * 4, [], run)
        write_shard(store, run, shard, shard * 4, random_readings(run, 4, np.random.default_rng(1)), table)
    assert {row["image"]: row["n"] for row in reader.images().rows} == {name: i for i, name in enumerate(names)}

    # The run, which began with the first head, seals: what was annotated meanwhile stays.
    first = Head.from_bytes(store.read(head_key(1)), head_key(1))
    key, _ = compact(store, run, first)
    name_index(store, first, key, sealed=True)
    head = latest_head(store)
    assert head is not None
    assert (head.number, head.sealed, head.index, len(head.annotations)) == (3, True, key, 1)
    assert {row["image"]: row["n"] for row in vlq.open(str(tmp_path)).images().rows} == {
        name: i for i, name in enumerate(names)
    }


def test_sealing_while_somebody_annotates(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, names=NAMES, seal=False)
    head = latest_head(store)
    assert head is not None
    key, _ = compact(store, run, head)
    cache = late(tmp_path, lambda: annotate(Cache.open(str(tmp_path)), note(1)))
    name_index(cache.store, head, key, sealed=True)
    newest = latest_head(store)
    assert newest is not None
    assert (newest.number, newest.sealed, len(newest.annotations)) == (3, True, 1)


def test_more_images_later(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, names=NAMES[:8], images=8)
    corpus = vlq.open(str(tmp_path))
    corpus.annotate(note(1, "a/0.png"))
    more = planned(NAMES, {}, run.shard_size).drop_columns("shard")
    head, _ = settle(store, run, more, lambda text: None)
    assert (head.number, head.sealed, head.images, len(head.annotations)) == (4, False, 10, 1)
    add_shard(store, 2, 2)
    assert [row["note"] for row in vlq.open(str(tmp_path)).images().rows].count(1) == 1
    # Another look at the same images is no change.
    assert settle(store, run, more, lambda text: None)[0] == head


# --- what readers see, and what it costs them ------------------------------------------------------------------


def test_nothing_is_seen_before_the_head_is_there(folder: Path) -> None:
    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    before = column(folder, "image_id")
    with pytest.raises(Killed):
        annotate(late(folder, die), note("x"))
    assert list(folder.glob("annotations/*"))
    assert column(folder, "image_id") == before
    assert "note" not in vlq.open(str(folder)).images().columns
    assert list(verify(Cache.open(str(folder)), lambda what, done, of: None)) == []
    annotate(Cache.open(str(folder)), note("x"))
    assert column(folder, "note")["a/0.png"] == "x"


def test_a_sealed_cache_costs_no_request_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    url = f"memory://{tmp_path.name}"
    make_cache(url, names=NAMES)

    def requests() -> tuple[int, int]:
        opened = Cache.open(url)
        counting = Counting(opened.store)
        cache = Cache(url, counting, opened.run)
        corpus = LocalCorpus(cache)
        columns = corpus.images().columns
        first = counting.requests
        assert corpus.images().columns == columns
        return first, counting.requests

    assert requests()[0] > requests()[0]  # the first one fetches the images
    bare = requests()
    annotate(Cache.open(url), note("x"))
    assert requests() == (bare[0] + 1, bare[0] + 1)  # the annotation itself, once
    assert requests() == bare


@pytest.mark.here("until when an open cache stays as it was; a service goes by the clock")
def test_who_has_a_sealed_cache_open_sees_what_there_was(folder: Path) -> None:
    reader = vlq.open(str(folder))
    result = reader.images()
    annotate(Cache.open(str(folder)), note("x"))
    assert "note" not in reader.images().columns
    assert "note" not in result.columns
    writer = vlq.open(str(folder))
    earlier = writer.images()
    writer.annotate(note("y", column="mine"))
    assert {"note", "mine"} <= set(writer.images().columns)
    assert "mine" not in earlier.columns


def test_heads_from_before_there_were_annotations(folder: Path) -> None:
    edit_record(folder / "commits" / "head-00000002.json", lambda record: record.pop("annotations"))
    assert Cache.open(str(folder)).snapshot().annotations == ()
    annotate(Cache.open(str(folder)), note("x"))
    assert column(folder, "note")["a/0.png"] == "x"


# --- upkeep ----------------------------------------------------------------------------------------------------


def test_a_new_index_keeps_them(folder: Path) -> None:
    store, run = open_store(str(folder)), Cache.open(str(folder)).run
    annotate(Cache.open(str(folder)), note("x"))
    before = latest_head(store)
    assert rebuild(store, run)[2] is False
    assert latest_head(store) == before
    # An index of another kind than the one that there is.
    assert before is not None
    store.create(head_key(9), Head(**{**before.__dict__, "number": 9, "index": "index/other.json"}).to_bytes())
    key, _, changed = rebuild(store, run)
    assert changed
    after = latest_head(store)
    assert after is not None
    assert (after.number, after.index, after.annotations) == (10, key, before.annotations)


def test_damage_is_found_and_mended(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    annotate(Cache.open(str(folder)), note("x"))
    assert list(verify(Cache.open(str(folder)), lambda what, done, of: None)) == []
    (path,) = folder.glob("annotations/*")
    path.write_bytes(path.read_bytes()[:-9])
    (finding,) = verify(Cache.open(str(folder)), lambda what, done, of: None)
    assert (finding.where, finding.what) == (f"annotations/{path.name}", "not what was written")
    assert "annotate" in finding.mend
    with pytest.raises(CorruptCache, match="vlq verify"):
        vlq.open(str(folder)).images().columns  # noqa: B018
    annotate(Cache.open(str(folder)), note("x"), replace=True)
    assert column(folder, "note")["a/0.png"] == "x"
    path.unlink()
    (finding,) = verify(Cache.open(str(folder)), lambda what, done, of: None)
    assert finding.what == "missing"


def test_info_names_them(folder: Path) -> None:
    corpus = vlq.open(str(folder))
    corpus.annotate(note("x"))
    assert corpus.info()["columns"] == ["label", "note"]
    assert corpus.info()["annotated"] == ["note"]


# --- the command -----------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("where,score\na/0.png,0.5\nb/4.png,2\nx.png,1\ny.png,1\n")
    assert run("annotate", str(table), "--cache", str(folder)) == 2
    assert "no image column" in capsys.readouterr().err
    assert run("annotate", str(table), "--cache", str(folder), "--on", "where") == 0
    assert capsys.readouterr().out == (
        "score: joined to 2 of 10 images.\nThe other 8 have none: null.\n"
        "2 rows name no image of this cache: x.png, y.png.\n"
    )
    assert run("annotate", str(table), "--cache", str(folder), "--on", "where") == 0  # the very same: nothing to do
    capsys.readouterr()
    table.write_text("where,score\na/0.png,0.5\nb/4.png,3\n")
    assert run("annotate", str(table), "--cache", str(folder), "--on", "where") == 2
    assert (
        capsys.readouterr().err == "vlq: score is a column of the images already.\nTo put it in its place: --replace\n"
    )
    assert run("annotate", str(table), "--cache", str(folder), "--on", "where", "--replace") == 0
    capsys.readouterr()
    assert run("info", "--cache", str(folder)) == 0
    assert "label, score (annotated)" in capsys.readouterr().out
    assert run("images(score > 1)", "--cache", str(folder), "--format", "csv") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("b/4.png,")


def test_bytes_are_not_read_by_the_scanner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's scanner may abort a program that ends soon after it has read of Python's bytes; of files it does not."""
    make_cache(tmp_path, images=2)
    usual = pq.read_table

    def of_files(source: Any, *args: Any, **options: Any) -> pa.Table:
        assert isinstance(source, (str, list))
        return usual(source, *args, **options)

    monkeypatch.setattr(pq, "read_table", of_files)
    corpus = vlq.open(str(tmp_path))
    corpus.annotate(pa.table({"image_id": [0, 1], "score": [0.5, 1.5], "tags": [["a"], []]}))
    (row,) = vlq.open(str(tmp_path)).query("images(score > 1)").rows
    assert (row["score"], row["tags"]) == (1.5, [])
