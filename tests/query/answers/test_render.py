"""What a person and a program see of a result."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
import sys
import unicodedata
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.answers.render import aligned, bars, deliver, form_of, html, render, save
from vlq.query.client.corpus import Corpus
from vlq.query.errors import MissingExtra, StoreError
from vlq.query.info import as_text

from ...synthetic import make_cache, make_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, images=40, failed=[2])
    return vlq.open(str(folder))


def test_the_table_begins_with_the_sentence_and_ends_with_bars(corpus: Corpus) -> None:
    result = corpus.first_layer("cat", layers=(1, 4))
    lines = render(result, "table").splitlines()
    summary = result.summary
    matched, middle, earliest = summary["matched"], summary["median"], summary["min"]
    assert lines[0] == (
        f"cat (layers 1 to 4): read in {matched} of 39 images, median first layer {middle:g}, earliest {earliest}"
    )
    assert lines[1] == "token: ▁cat (2)"
    assert lines[3].split() == ["image", "layer", "patches", "logprob", "censored"]
    first = result.rows[0]
    assert lines[4].split()[:2] == [first["image"], str(first["layer"])]
    shown = [line.split()[-1] for line in lines[4:24]]
    assert shown == ["yes" if row["censored"] else "no" for row in result.rows[:20]]
    last = render(result.sort("layer", descending=True), "table").splitlines()[4]
    assert (last.split()[-1], max(row["layer"] for row in result.rows) > 1) == ("no", True)
    assert f"{matched - 20} more rows: --format json or csv has all." in lines
    assert "Censored: at the edge of the layers that were looked at; what is beyond might change it." in lines
    at = lines.index("layer")
    counted = {int(line.split()[0]): int(line.split()[-1]) for line in lines[at + 1 :]}
    assert {layer: count for layer, count in summary["histogram"].items() if count} == {
        layer: count for layer, count in counted.items() if count
    }


def test_a_corpus_says_what_it_is(corpus: Corpus, tmp_path: Path) -> None:
    """Of 40 images one has no readings."""
    run = corpus.cache.run
    assert repr(corpus) == f"<Corpus {corpus.cache.url}: 39 images, {run.model}, {run.layers} layers>"
    make_cache(tmp_path, images=1)
    assert ": 1 image, " in repr(vlq.open(str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rank": 3, "min_prob": 0.25}, "cat (rank 1 to 3, probability at least 0.25): read in "),
        ({"at": "last"}, "cat: read at the last prompt token in "),
        ({"layers": 2}, "cat (layer 2): read in "),
        ({"layers": [0, 3]}, "cat (layers 0, 3): read in "),
        ({"min_patches": 2, "min_run": 2}, "cat (at least 2 patches a layer, 2 layers in a row): read in "),
        ({"min_prob": 1.0}, "cat (probability at least 1): read in none of 39 images"),
        ({"by": "corpus"}, "cat: read in "),
    ],
)
def test_the_sentence(corpus: Corpus, arguments: dict[str, object], sentence: str) -> None:
    assert corpus.first_layer("cat", **arguments).headline.startswith(sentence)  # type: ignore[arg-type]


def test_by_patch_the_median_is_of_patches(corpus: Corpus) -> None:
    assert "median first layer of a patch" in corpus.first_layer("cat", by="patch").headline


def test_an_answer_without_rows(corpus: Corpus) -> None:
    result = corpus.first_layer("cat", min_prob=1.0)
    assert render(result, "table").splitlines() == [
        "cat (probability at least 1): read in none of 39 images",
        "token: ▁cat (2)",
    ]
    assert render(result, "csv") == "image,layer,patches,logprob,censored,image_id"
    assert json.loads(render(result, "json"))["summary"]["median"] is None


def test_json_is_the_result(corpus: Corpus) -> None:
    result = corpus.query("first_layer(token='dog')")
    found = json.loads(render(result, "json"))
    assert list(found) == ["query", "headline", "tokens", "notes", "columns", "rows", "summary"]
    assert found["query"] == "first_layer('dog')"
    assert found["tokens"][0] == {"id": 0, "piece": "▁dog", "text": " dog"}
    assert found["rows"] == result.rows
    assert found["columns"] == list(found["rows"][0])
    histogram = {int(layer): count for layer, count in found["summary"]["histogram"].items()}
    assert histogram == result.summary["histogram"]
    assert sum(histogram.values()) == found["summary"]["matched"] == len(found["rows"])
    by_corpus = json.loads(render(corpus.first_layer("dog", by="corpus"), "json"))
    assert by_corpus["summary"] == found["summary"]


def test_csv_has_every_row(corpus: Corpus) -> None:
    result = corpus.first_layer("dog")
    rows = list(csv.DictReader(io.StringIO(render(result, "csv"))))
    assert [row["image"] for row in rows] == [row["image"] for row in result.rows]
    assert [[int(patch) for patch in row["patches"].split()] for row in rows] == [row["patches"] for row in result.rows]


def test_csv_is_read_back_whatever_texts_and_lists_hold(tmp_path: Path) -> None:
    texts = ["a\rb", 'a "b", c', "a\nb", "a\r\nb", "", "\r"]
    objects = [[{"label": "a dog", "box": [0.0, 1.5, 2.0, 3.0]}]] * 6
    columns = {"said": texts, "tags": [["red car", "blue"]] * 6, "numbers": [[1, 2]] * 6, "objects": objects}
    make_cache(tmp_path, images=6, columns=columns)
    result = vlq.open(str(tmp_path)).images().sort("image_id").select(["said", "tags", "numbers", "objects"])
    assert [row["said"] for row in result.rows] == texts
    text = render(result, "csv") + "\n"
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["said"] for row in rows] == texts
    assert [json.loads(row["tags"]) for row in rows] == columns["tags"]
    assert [json.loads(row["objects"]) for row in rows] == objects
    assert {row["numbers"] for row in rows} == {"1 2"}
    assert list(pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False)["said"]) == texts


def test_what_is_missing_in_a_list_is_a_dash(tmp_path: Path) -> None:
    make_cache(tmp_path, images=2, columns={"tags": [["a", None, "b"], None]})
    result = vlq.open(str(tmp_path)).images().sort("image_id").select(["image", "tags"])
    assert [line.split(maxsplit=1)[1] for line in render(result, "table").splitlines()[-2:]] == ["a – b", "–"]


def test_no_rows_are_no_lines_of_json(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = corpus.first_layer("cat", min_prob=1.0)
    deliver(nothing, "jsonl", None)
    assert capsys.readouterr().out == ""
    save(nothing, "jsonl", str(tmp_path / "none.jsonl"))
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("form", "output", "expected"),
    [
        (None, None, "table"),
        (None, "answer", "table"),
        (None, "answer.txt", "table"),
        (None, "answer.csv", "csv"),
        (None, "ANSWER.CSV", "csv"),
        ("csv", "answer.tsv", "csv"),
        ("table", "answer.log", "table"),
    ],
)
def test_a_files_name_says_the_format(form: str | None, output: str | None, expected: str) -> None:
    assert form_of(form, output) == expected


def test_bars_are_as_long_as_their_counts() -> None:
    assert bars({0: 0, 1: 80, 2: 0, 3: 1, 4: 40, 5: 0}) == [
        f"    1  {'█' * 40} 80",
        "    2  0",
        "    3  ▌ 1",
        f"    4  {'█' * 20} 40",
    ]
    assert bars({3: 1, 4: 10_000})[0] == "    3  ▏ 1"


def places(text: str) -> int:
    """On a terminal, by the Unicode database alone."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def test_columns_stand_below_each_other_in_every_script() -> None:
    cells = ["dog", "犬", "子犬だ", "강아지", "ｄｏｇ", "cafe\u0301", "собака", "e\u0323\u0302", "", "コ\u3099"]
    assert {places(cell) for cell in cells} == {0, 1, 2, 3, 4, 6}
    lines = aligned(
        [["piece", "n", "name"], *([cell, str(10**i), "|"] for i, cell in enumerate(cells))], [False, True, False]
    )
    assert {places(line[: line.index("|")]) for line in lines[1:]} == {6 + 2 + 10 + 2}
    assert {places(line[: line.rindex("0") + 1]) for line in lines[2:]} == {6 + 2 + 10}


def test_a_table_of_names_in_every_script(tmp_path: Path) -> None:
    names = ["犬.png", "dog.png", "cafe\u0301.png", "강아지.png"]
    make_cache(tmp_path, images=4, names=names)
    lines = render(vlq.open(str(tmp_path)).images(), "table").splitlines()
    assert {name in line for line, name in zip(lines[3:], sorted(names), strict=True)} == {True}
    assert len({places(line) for line in lines[2:]}) == 1


def test_names_do_no_harm(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(), images=1, names=["<b>\x1b[31m\n.png"])
    result = vlq.open(str(tmp_path)).first_layer(["dog", "cat", "rock", "ear", "nose", "sky"], rank=4)
    assert "\x1b" not in render(result, "table")
    assert "<b>�[31m�.png" in render(result, "table")
    assert "<b>" not in html(result).replace("<p><b>", "")
    assert "&lt;b&gt;" in html(result)


def test_texts_in_lists_do_no_harm_either(tmp_path: Path) -> None:
    columns = {"tags": [["a\nb\x1b[31m", "c"], ["x" * 5000]], "turns": [[{"from": "human", "value": "y" * 5000}]] * 2}
    make_cache(tmp_path, make_run(), images=2, columns=columns)
    result = vlq.open(str(tmp_path)).images()
    lines = render(result, "table").splitlines()
    assert len(lines) == 5  # the sentence, a gap, the columns' names, and two images
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) < 300
    assert len(result._repr_html_()) < 1500


def test_a_columns_name_may_have_lines(tmp_path: Path) -> None:
    name = 'score\n(0 to "5")\n'
    make_cache(tmp_path, images=4, columns={name: [3, 1, 2, 1]})
    corpus = vlq.open(str(tmp_path))
    images = corpus.images()
    assert {row["image_id"]: row[name] for row in images.rows} == {0: 3, 1: 1, 2: 2, 3: 1}
    assert 'score�(0 to "5")�' in render(images, "table").splitlines()[2]
    score = vlq.col(name)
    assert {row["image_id"] for row in corpus.images().where(score == 1).rows} == {1, 3}
    assert [row["count"] for row in corpus.images().group(score).count().rows] == [2, 1, 1]
    assert corpus.images().mean(score).rows[0]["mean"] == 7 / 4
    assert len(corpus.first_layer("rock", against=score == 1).rows) <= 4
    assert len(as_text(corpus.info()).splitlines()) == len(as_text(corpus.info() | {"columns": ["score"]}).splitlines())


def test_a_notebook_shows_no_markup_but_its_own(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    own = {"label": [evil] * 4, evil: [evil] * 4, "objects": [[{"label": evil, "box": [0.0] * 4}]] * 4}
    make_cache(tmp_path, images=4, names=[f"{evil}{i}" for i in range(4)], columns=own)
    corpus = vlq.open(str(tmp_path))
    for result in (
        corpus.images(),
        corpus.images().group(evil).count(),
        corpus.images().group("objects").count(),
        corpus.images(vlq.col("label") == evil),
        corpus.first_layer(["dog", "cat"], images=vlq.col("label") == evil).group("label").median(),
        corpus.first_layer("dog", rank=4).histogram(),
    ):
        page = result._repr_html_()
        assert not re.findall(r"<(?!/?(?:p|b|table|thead|tbody|tr|th|td|pre)>)", page)
        assert result.columns == ["layer", "count"] or "&lt;img src=x onerror=alert(1)&gt;" in page


def test_rows_as_data_frames(corpus: Corpus) -> None:
    for result in (corpus.first_layer("cat"), corpus.images(), corpus.first_layer("cat", min_prob=1.0)):
        assert result.polars().to_dicts() == result.rows
        assert result.polars().columns == result.df().columns.to_list() == result.columns
        assert len(result.df()) == len(result.rows)


def test_polars_is_not_always_there(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match="pip install polars"):
        corpus.first_layer("cat").polars()


def test_a_run_that_goes_on_is_said(tmp_path: Path) -> None:
    make_cache(tmp_path, images=10, seal=False)
    (tmp_path / "commits" / "00000001.json").unlink()
    result = vlq.open(str(tmp_path)).first_layer("cat")
    assert result.notes == ["The run is not complete: 6 of 10 images are cached."]
    assert result.notes[0] in render(result, "table")
    assert result.summary["images"] == 6


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet", "arrow", "table"])
def test_files_hold_the_rows(corpus: Corpus, tmp_path: Path, form: str) -> None:
    result = corpus.first_layer("cat")
    path = tmp_path / f"answer.{form}"
    save(result, form, str(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing is left beside it
    match form:
        case "json":
            assert json.loads(path.read_text())["rows"] == result.rows
        case "jsonl":
            assert [json.loads(line) for line in path.read_text().splitlines()] == result.rows
        case "csv":
            assert len(path.read_text().splitlines()) == len(result.rows) + 1
        case "parquet":
            assert pq.read_table(path).to_pylist() == result.rows
        case "arrow":
            assert pa.ipc.open_file(path.read_bytes()).read_all().to_pylist() == result.rows
        case _:
            assert path.read_text() == render(result, "table") + "\n"


def test_a_file_that_cannot_be_written(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Cannot write .*answer\.json: No such file or directory\."):
        save(corpus.first_layer("cat"), "json", str(tmp_path / "none" / "answer.json"))


def test_what_is_no_file_stays(corpus: Corpus, tmp_path: Path) -> None:
    """As root, /dev/null and /dev/stdout would be files afterwards."""
    answer = corpus.first_layer("cat")
    pipe, link, file = tmp_path / "pipe", tmp_path / "link.csv", tmp_path / "file.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        save(answer, "csv", str(pipe))
        assert os.read(reader, 1 << 20).decode() == f"{render(answer, 'csv')}\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(file.name)
    save(answer, "csv", str(link))
    assert link.is_symlink()
    assert file.read_text() == f"{render(answer, 'csv')}\n"
    assert sorted(tmp_path.iterdir()) == [file, link, pipe]
    with pytest.raises(StoreError, match="Is a directory"):
        save(answer, "csv", str(tmp_path))


def test_columns_that_json_does_not_know(tmp_path: Path) -> None:
    columns = {
        "taken": [datetime.datetime(2026, 1, 2, 3, 4)] * 3,
        "score": [float("nan"), float("inf"), 0.5],
        "price": [Decimal("1.50")] * 3,
        "raw": [b"a"] * 3,
    }
    make_cache(tmp_path, images=3, columns=columns)
    rows = json.loads(render(vlq.open(str(tmp_path)).images(), "json"))["rows"]
    assert sorted((row["score"] for row in rows), key=str) == [0.5, None, None]
    assert rows[0]["taken"] == "2026-01-02 03:04:00"
    assert rows[0]["price"] == "1.50"
