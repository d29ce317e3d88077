"""The SQL door's tables are what the arrays say, and its answers are shown as all answers are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.answers.answer import Answer
from vlq.query.answers.render import save, to_json
from vlq.query.cache.reader import Cache
from vlq.query.cli import main
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument, CacheError, CorruptCache, SqlMistake
from vlq.query.limits import Limits, size_of
from vlq.query.schema import ANSWER_COLUMNS, head_key
from vlq.query.sql.views import VIEWS, reference, views_of

from ...synthetic import make_cache, make_run
from ..cache.test_cache import Counting
from ..corpora import SHAPES, Case

DOCS = Path(__file__).parents[3] / "docs"

shapes = pytest.mark.parametrize("name", SHAPES)


def readings(case: Case, site: str) -> Iterator[tuple[int, int, int, int, int, float]]:
    """(token, image, layer, position, rank, log-probability) of every stored reading."""
    stored = case.sites[site]
    for image in np.flatnonzero(case.good).tolist():
        layers, ranks = case.run.read_layers, stored.token.shape[-1]
        for layer, position, k in product(layers, np.flatnonzero(case.at(site)[image]).tolist(), range(ranks)):
            value = float(np.float32(stored.logprob[image, layer, position, k]))
            yield int(stored.token[image, layer, position, k]), image, layer, position, k + 1, value


def selected(corpus: LocalCorpus, table: str, columns: str) -> list[tuple[Any, ...]]:
    rows = corpus.sql(f"SELECT {columns} FROM {table}").rows
    return sorted(tuple(row.values()) for row in rows)


# --- every table, by hand --------------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize(
    ("table", "site", "position"),
    [
        ("readings", "patch", "patch"),
        ("prompt_readings", "prompt", "position"),
        ("last_readings", "last", None),
        ("answer_readings", "answer", "position"),
    ],
)
def test_readings(cases: dict[str, Case], name: str, table: str, site: str, position: str | None) -> None:
    case = cases[name]
    if site not in case.run.positions:
        pytest.skip("not asked for answers")
    every = [row if position else (*row[:3], *row[4:]) for row in readings(case, site)]
    columns = f"token, image_id, layer, {f'{position}, ' if position else ''}rank, logprob"
    assert selected(case.corpus, table, columns) == sorted(every)

    best: dict[tuple[int, int, int], list[tuple[int, float]]] = defaultdict(list)
    for token, image, layer, place, rank, logprob in readings(case, site):
        if rank == 1:
            best[token, image, layer].append((place, logprob))
    expected = []
    for key, found in best.items():
        places = [place for place, _ in found]
        several = (len(places), places) if position else ()
        expected.append((*key, *several, max(value for _, value in found)))
    several_columns = {"patch": "n, patches, ", "position": "n, positions, ", None: ""}[position]
    columns = f"token, image_id, layer, {several_columns}logprob"
    assert selected(case.corpus, f"{table}_top1", columns) == sorted(expected)


@pytest.mark.parametrize("name", ["tracked", "tracked, not compacted"])
@pytest.mark.parametrize(
    ("table", "site", "position"),
    [("tracked", "patch", "patch"), ("prompt_tracked", "prompt", "position"), ("last_tracked", "last", None)],
)
def test_tracked_tokens(cases: dict[str, Case], name: str, table: str, site: str, position: str | None) -> None:
    case = cases[name]
    expected = []
    for image in np.flatnonzero(case.good).tolist():
        for layer, place in product(case.run.read_layers, np.flatnonzero(case.at(site)[image]).tolist()):
            for token in case.run.tracked:
                rank, logprob = (values[image, layer, place] for values in case.sites[site].tracked[token])
                key = (token, image, layer, *([place] if position else []))
                expected.append((*key, int(rank), float(np.float32(logprob))))
    assert max(row[-2] for row in expected) > case.run.k
    columns = f"token, image_id, layer, {f'{position}, ' if position else ''}rank, logprob"
    assert selected(case.corpus, table, columns) == sorted(expected)


@shapes
def test_summary(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    found: dict[tuple[int, int], list[tuple[int, int, float]]] = defaultdict(list)
    for token, image, layer, _, rank, logprob in readings(case, "patch"):
        found[token, image].append((layer, rank, logprob))
    expected = []
    for key, rows in found.items():
        layers = [layer for layer, rank, _ in rows if rank == 1]
        first, last = (min(layers), max(layers)) if layers else (-1, -1)
        stored = [layer for layer, _, _ in rows]
        best = (min(rank for _, rank, _ in rows), max(value for _, _, value in rows))
        expected.append((*key, first, last, len(set(layers)), len(layers), min(stored), len(stored), *best))
    columns = (
        "token, image_id, coalesce(first_layer, -1), coalesce(last_layer, -1), layers, n, first_stored, n_stored, "
        "best_rank, logprob"
    )
    assert selected(case.corpus, "summary", columns) == sorted(expected)


@shapes
def test_images_and_tokens(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    rows = case.corpus.sql("SELECT * FROM images ORDER BY image_id").rows
    assert [row["image"] for row in rows] == case.names
    assert [row["error"] is None for row in rows] == case.good.tolist()
    assert [row["label"] for row in rows] == case.labels
    assert [row["objects"] for row in rows] == case.objects
    assert [(row["width"], row["height"]) for row in rows if row["error"] is None] == [case.pixels] * sum(case.good)

    rows = case.corpus.sql("SELECT * FROM tokens ORDER BY token LIMIT 100").rows
    expected = case.corpus.vocabulary
    assert [(row["token"], row["piece"], row["text"]) for row in rows] == [
        (id, expected.token(id).piece, expected.token(id).text) for id in range(min(len(expected), 100))
    ]


@shapes
def test_agrees_with_the_language(cases: dict[str, Case], name: str) -> None:
    corpus = cases[name].corpus
    answer = corpus.sql(
        "SELECT image, min(layer) AS layer FROM readings_top1 JOIN images USING (image_id) "
        "WHERE token = 2 GROUP BY image, image_id ORDER BY layer, image, image_id"
    )
    assert [(row["image"], row["layer"]) for row in answer.rows] == [
        (row["image"], row["layer"]) for row in corpus.first_layer(2).rows
    ]


def test_columns_are_documented(tmp_path: Path) -> None:
    run = make_run(at=("patch", "prompt", "answer"), answer=3, tracked=(1, 4), tracked_pieces=("",) * 2)
    make_cache(tmp_path, run, columns={"label": list("xyxyxyxyxy")})
    corpus = vlq.open(str(tmp_path))
    assert list(views_of(corpus.cache.run)) == [view.name for view in VIEWS]
    for view in VIEWS:
        own = [*ANSWER_COLUMNS, "label"] if view.name == "images" else []
        described = corpus.sql(f"DESCRIBE {view.name}").arrow()
        assert described["column_name"].to_pylist() == [*view.columns, *own]


def test_the_page_ends_with_the_tables() -> None:
    assert (DOCS / "sql.md").read_text().partition("## Tables\n\n")[2] == reference() + "\n"


def test_columns_that_were_joined_later(tmp_path: Path) -> None:
    make_cache(tmp_path)
    corpus = vlq.open(str(tmp_path))
    corpus.annotate(pa.table({"image_id": [4], "note": ["x"]}))
    assert corpus.sql("SELECT image_id FROM images WHERE note = 'x'").rows == [{"image_id": 4}]


# --- what is asked of which files ------------------------------------------------------------------------------


def test_a_cache_elsewhere_and_only_what_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    make_cache(tmp_path / "local")
    url = f"memory://{tmp_path.name}"
    make_cache(url)
    opened = Cache.open(url)
    counting = Counting(opened.store)
    corpus = LocalCorpus(Cache(url, counting, opened.run))
    corpus.cache.snapshot()
    before = counting.requests
    query = "SELECT i.image, count(*) AS n FROM Readings_Top1 JOIN images i USING (image_id) GROUP BY ALL ORDER BY ALL"
    answer = corpus.sql(query)
    assert counting.requests - before == 2
    assert len(answer) == 10
    assert answer.rows == vlq.open(str(tmp_path / "local")).sql(query).rows
    corpus.sql(query)
    assert counting.requests - before == 2


def test_a_run_that_is_not_complete(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=12, seal=False)
    store.delete("commits/00000001.json")
    answer = vlq.open(str(tmp_path)).sql("SELECT count(DISTINCT image_id) AS images FROM readings")
    assert answer.rows == [{"images": 8}]
    assert answer.notes == ["The run is not complete: 8 of 12 images are cached."]


def test_nothing_cached_yet(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=1, seal=False)
    store.delete("commits/00000000.json")
    with pytest.raises(CacheError, match="no readings yet"):
        vlq.open(str(tmp_path)).sql("SELECT * FROM images")
    assert vlq.open(str(tmp_path)).sql("SELECT 1 AS one").rows == [{"one": 1}]
    store.delete(head_key(1))
    assert vlq.open(str(tmp_path)).sql("SELECT 1 AS one").rows == [{"one": 1}]


def test_tables_that_a_cache_has_not(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("patch",)))
    with pytest.raises(SqlMistake) as caught:
        vlq.open(str(tmp_path)).sql("SELECT * FROM prompt_readings")
    assert caught.value.message == "There is no table prompt_readings."
    assert "There is images, tokens, readings, readings_top1, summary, effects." in str(caught.value.hint)
    with pytest.raises(SqlMistake, match="There is no table tracked"):
        vlq.open(str(tmp_path)).sql("SELECT * FROM tracked")


def test_a_damaged_index(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (table,) = tmp_path.glob("index/*/patch_topk-000.parquet")
    for damaged in (table.read_bytes()[:100], b"", table.read_bytes()[:-2000] + bytes(2000)):
        table.write_bytes(damaged)
        with pytest.raises(CorruptCache, match="is not what was written"):
            vlq.open(str(tmp_path)).sql("SELECT count(*), max(logprob) FROM readings")


# --- answers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    folder = tmp_path_factory.mktemp("sql")
    make_cache(folder, columns={"label": list("xyxyxyxyxy")})
    return vlq.open(str(folder))


def test_values(corpus: LocalCorpus) -> None:
    answer = corpus.sql(
        "SELECT sum(image_id) AS s, 170141183460469231731687303715884105727::HUGEINT AS huge, avg(image_id) AS mean, "
        "list(label ORDER BY image_id)[:2] AS labels, {'a': 1} AS pair, DATE '2020-02-29' AS day, "
        "1.50::DECIMAL(5,2) AS d, NULL AS nothing, 'nan'::DOUBLE AS none FROM images"
    )
    assert isinstance(answer, Answer)
    (row,) = answer.rows
    assert (row["s"], type(row["s"]), row["mean"]) == (45, int, 4.5)
    assert int(row["huge"]) == 2**127 - 1
    assert (row["labels"], row["pair"], row["day"].isoformat()) == (["x", "y"], {"a": 1}, "2020-02-29")
    assert answer.arrow()["s"].type == pa.int64()
    assert answer.df()["mean"].tolist() == [4.5]
    assert (answer.headline, answer.summary, answer.tokens, answer.notes) == ("1 row", {"rows": 1}, [], [])
    assert len(answer) == 1
    shown = json.loads(to_json(answer))
    assert shown["rows"][0] == {
        "s": 45,
        "huge": str(2**127 - 1),
        "mean": 4.5,
        "labels": ["x", "y"],
        "pair": {"a": 1},
        "day": "2020-02-29",
        "d": "1.50",
        "nothing": None,
        "none": None,
    }


def test_what_no_file_has_is_text(corpus: LocalCorpus, tmp_path: Path) -> None:
    """Intervals, as those between two times, and unions: as DuckDB writes them, in every format."""
    answer = corpus.sql(
        'SELECT TIMESTAMP \'2024-03-01 12:00:00\' - TIMESTAMP \'2024-02-28\' AS "a ""b""", [INTERVAL 1 MONTH] AS list, '
        "union_value(k := 1) AS either, 5 AS five"
    )
    expected = {'a "b"': "2 days 12:00:00", "list": "[1 month]", "either": "1", "five": 5}
    assert answer.rows == [expected]
    assert answer.df().to_dict("records") == answer.polars().to_dicts() == [expected]
    for form in ("parquet", "arrow"):
        save(answer, form, str(tmp_path / form))
    assert pq.read_table(tmp_path / "parquet").to_pylist() == [expected]
    assert json.loads(to_json(answer))["rows"] == [expected]


def test_a_table_for_a_person(corpus: LocalCorpus) -> None:
    answer = corpus.sql(
        "SELECT image_id, nullif(image_id, 0) AS n, CASE image_id WHEN 0 THEN repeat('é', 300) END AS text "
        "FROM images ORDER BY 1 LIMIT 2"
    )
    assert str(answer.__repr__()).splitlines() == [
        "2 rows",
        "",
        f"image_id  n  text{' ' * 97}".rstrip(),
        f"       0  –  {'é' * 100}…",
        "       1  1  –",
    ]
    assert "<b>2 rows</b>" in answer._repr_html_()
    assert str(corpus.sql("SELECT 1 WHERE false").__repr__()) == "0 rows"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_command(corpus: LocalCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", corpus.cache.url]
    statement = "SELECT label, count(*) AS n FROM images GROUP BY label ORDER BY label"
    assert run("sql", statement, *cache) == 0
    assert capsys.readouterr().out == "2 rows\n\nlabel  n\nx      5\ny      5\n"
    assert run("sql", statement, *cache, "--format", "csv") == 0
    assert capsys.readouterr().out == "label,n\nx,5\ny,5\n"
    assert run("sql", statement, *cache, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["query"] == statement
    assert run("sql", statement, *cache, "--output", str(tmp_path / "answer.parquet")) == 0
    assert capsys.readouterr().out == f"2 rows\nWritten to {tmp_path / 'answer.parquet'}\n"
    assert pq.read_table(tmp_path / "answer.parquet").to_pylist() == [{"label": "x", "n": 5}, {"label": "y", "n": 5}]
    assert run("sql", statement, *cache, "--format", "arrow") == 2
    assert "--output answer.arrow" in capsys.readouterr().err
    assert run("sql", statement, *cache, "--format", "xml") == 2
    assert "--format is one of table, json," in capsys.readouterr().err
    assert run("sql", *cache) == 0
    assert "readings: a row is a token among the k best of a patch at a layer\n" in capsys.readouterr().out
    assert run("sql", "SELECT 1 AS a FROM range(3)", *cache, "--max-rows", "2") == 2
    assert capsys.readouterr().err.startswith("vlq: The answer has more than 2 rows.\nAdd a LIMIT")


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "message", "pointed", "hint"),
    [
        ("", "Nothing is asked.", None, "SELECT count(*) FROM images"),
        (" ; -- nothing", "Nothing is asked.", None, None),
        ("SELEC 1", 'syntax error at or near "SELEC"', "SELEC", None),
        ("SELECT 'open", "unterminated string literal", "'", None),
        ("SELECT 'é', lable FROM images", 'Referenced column "lable" not found in FROM clause!', "lable", '"label"'),
        (
            "SELECT\n  nope(image_id) FROM images",
            "Scalar Function with name nope does not exist!",
            "nope(image_id)",
            None,
        ),
        ("SELECT * FROM image", "There is no table image.", "image", "Did you mean images?"),
        ("SELECT 'x'::INT FROM images", "Could not convert string 'x' to INT32", "::INT", None),
        ("SELECT error('mine')", "mine", None, None),
        ("SELECT $1", "Values were not provided for the following parameters: 1", None, None),
        ("SELECT * FROM images, readings", "Several columns are named image_id.", None, "AS"),
        ("SELECT 1; SELECT 2", "Expected one statement. Got 2.", " ", None),
        ("PIVOT images ON label", "Expected a SELECT. Got a PIVOT that is several statements.", None, "SELECT"),
        ("SELECT '\ud800'", "The statement holds half of a character.", None, None),
    ],
)
def test_mistakes(corpus: LocalCorpus, statement: str, message: str, pointed: str | None, hint: str | None) -> None:
    with pytest.raises(SqlMistake) as caught:
        corpus.sql(statement)
    assert caught.value.message == message
    if pointed is None:
        assert caught.value.span is None
    else:
        assert caught.value.span is not None
        start, end = caught.value.span
        assert statement[start : max(end, start + 1)] == pointed
    if hint is not None:
        assert hint in (caught.value.hint or "")
    assert "{" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4GB", 4 * 10**9), ("512 mb", 512 * 10**6), ("1.5KiB", 1536), ("2G", 2 * 10**9), (17, 17), ("17", 17), ("3B", 3)],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert size_of("memory", size) == expected


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(memory="much"), "memory: expected a size such as 4GB or 512MB. Got much."),
        (Limits(temp="-1GB"), "temp: expected a size such as 4GB or 512MB. Got -1GB."),
        (Limits(memory=0), "memory: expected 1 to 1e+15. Got 0."),
        (Limits(timeout=0), "timeout: expected 0.001 to 1e+08. Got 0."),
        (Limits(timeout=float("nan")), "timeout: expected 0.001 to 1e+08. Got nan."),
        (Limits(max_rows=-1), "max_rows: expected 1 to 1e+15. Got -1."),
        (Limits(threads=0), "threads: expected 1 to 1024. Got 0."),
        (Limits(threads=1.5), "threads: expected 1 to 1024. Got 1.5."),  # type: ignore[arg-type]
        (Limits(max_rows=None), "max_rows: expected 1 to 1e+15. Got None."),  # type: ignore[arg-type]
        (Limits(timeout="10"), "timeout: expected 0.001 to 1e+08. Got 10."),  # type: ignore[arg-type]
    ],
)
def test_limits_that_are_none(limits: Limits, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        limits.checked()
    assert caught.value.message == message


def test_limits_may_be_numpys(corpus: LocalCorpus) -> None:
    given: dict[str, Any] = {"max_rows": np.int64(5), "threads": np.uint8(1), "timeout": np.float32(9)}
    assert corpus.sql("SELECT 1 AS a", **given).rows == [{"a": 1}]
