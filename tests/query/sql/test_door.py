"""What hostile SQL gets: it is refused or stopped, nothing of the machine is in what comes back, nothing is changed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import LimitReached, SqlMistake
from vlq.query.limits import Limits, shown_size, size_of
from vlq.query.sql import door
from vlq.query.sql.views import VIEWS

from ...examples import examples
from ...synthetic import make_cache

inside = pytest.mark.here("the process that runs a statement")

SECRET = "the-secret-of-this-machine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("door")
    make_cache(folder / "cache", columns={"label": list("xyxyxyxyxy")})
    (folder / "secret.csv").write_text(f"a,b\n{SECRET},2\n")
    (folder / "secret.json").write_text(f'{{"a": "{SECRET}"}}')
    con = duckdb.connect(str(folder / "secret.db"))
    con.execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS a")
    con.execute(f"COPY t TO '{folder}/secret.parquet'")
    con.close()
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return vlq.open(str(folder / "cache"))


@pytest.fixture(autouse=True)
def nothing_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VLQ_SECRET", SECRET)
    before = contents(folder)
    yield
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


READING = [
    "SELECT * FROM read_csv('{folder}/secret.csv')",
    "SELECT * FROM read_csv_auto('{folder}/secret.csv')",
    "SELECT * FROM sniff_csv('{folder}/secret.csv')",
    "SELECT * FROM read_text('{folder}/secret.csv')",
    "SELECT * FROM read_blob('{folder}/secret.csv')",
    "SELECT * FROM read_json('{folder}/secret.json')",
    "SELECT * FROM read_ndjson_objects('{folder}/secret.json')",
    "SELECT * FROM read_parquet('{folder}/secret.parquet')",
    "SELECT * FROM parquet_scan(['{folder}/secret.parquet'])",
    "SELECT * FROM parquet_metadata('{folder}/secret.parquet')",
    "SELECT * FROM parquet_schema('{folder}/secret.parquet')",
    "SELECT * FROM read_duckdb('{folder}/secret.db')",
    "SELECT * FROM '{folder}/secret.csv'",
    "SELECT * FROM '{folder}/secret.parquet'",
    'FROM "{folder}/secret.parquet"',
    "SELECT * FROM glob('{folder}/*')",
    "SELECT (SELECT max(a) FROM '{folder}/secret.csv')",
    "SELECT * FROM images WHERE label IN (FROM '{folder}/secret.csv' SELECT a)",
    "WITH x AS (SELECT * FROM '{folder}/secret.csv') SELECT * FROM x",
    "SELECT 1 UNION ALL FROM '{folder}/secret.csv' SELECT b",
    "SELECT * FROM images LIMIT (SELECT count(*) FROM '{folder}/secret.csv')",
    "DESCRIBE '{folder}/secret.csv'",
    "SUMMARIZE '{folder}/secret.parquet'",
    "SELECT * FROM (PIVOT '{folder}/secret.csv' ON b IN (2) USING max(a))",
    "SELECT * FROM query('SELECT * FROM ''{folder}/secret.csv''')",
    "SELECT * FROM query_table('{folder}/secret.csv')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM ''{folder}/secret.csv'''))",
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM read_text('vlq://images/0.parquet')",
    "SELECT * FROM 'vlq://images/0.parquet'",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM read_text('request.json')",
    "SELECT * FROM (WITH \"{folder}/secret.csv\" AS (SELECT 1) SELECT 2), '{folder}/secret.csv'",
]
"""Selects of what was not handed over."""

DOING = [
    "COPY images TO '{folder}/new.csv'",
    "COPY images TO '{index}'",
    "COPY (SELECT 42) TO '{index}' (use_tmp_file false)",
    "COPY (SELECT 42) TO 'vlq://images/0.parquet' (use_tmp_file false)",
    "WITH x AS (COPY (SELECT 42) TO '{folder}/new.csv') SELECT * FROM x",
    "WITH x AS (COPY (SELECT 42) TO '{index}' (use_tmp_file false)) SELECT * FROM x",
    "WITH x AS (COPY (SELECT 42) TO 'vlq://images/0.parquet' (use_tmp_file false)) SELECT * FROM x",
    "SELECT (WITH x AS (COPY (SELECT 42) TO 'vlq://images/0.parquet' (use_tmp_file false)) SELECT count(*) FROM x)",
    "COPY images FROM '{folder}/secret.csv'",
    "WITH x AS (INSERT INTO images VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM images RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE images SET label = 'z' RETURNING *) SELECT * FROM x",
    "EXPORT DATABASE '{folder}/export'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/secret.db'",
    "ATTACH '{folder}/new.db' AS other",
    "DETACH memory",
    "USE system",
    "INSTALL httpfs",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "LOAD '{folder}/secret.db'",
    "SET threads = 99",
    "SET GLOBAL memory_limit = '90GB'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET python_enable_replacements = true",
    "SET VARIABLE x = 1",
    "RESET threads",
    "RESET lock_configuration",
    "PRAGMA threads = 99",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "SELECT * FROM enable_logging()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW images AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "DROP VIEW images",
    "ALTER TABLE images RENAME TO other",
    "INSERT INTO images VALUES (1)",
    "DELETE FROM images",
    "UPDATE images SET label = 'z'",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE COPY images TO '{folder}/new.csv'",
    "PIVOT images ON label",
    "SELECT 1; COPY images TO '{folder}/new.csv'",
    "SELECT 1 /* */ ; /* */ COPY images TO '{folder}/new.csv'",
    "SELECT 1 --\n; DROP VIEW images",
    "/* SELECT 1; */ DROP VIEW images",
    "SELECT $$;$$ ; DROP VIEW images -- ';",
    "SELECT 1; SELECT 2",
    "\ufeffDROP VIEW images",
    "SELECT 1\x00; DROP VIEW images",
]
"""Statements that do more than select."""

TELLING = [
    "SELECT getenv('VLQ_SECRET')",
    "SELECT \"getenv\"('VLQ_SECRET')",
    "SELECT current_setting('allowed_paths')",
    "SELECT Current_Setting('temp_directory')",
    "SELECT 'allowed_paths'.current_setting()",
    "SELECT getvariable('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_external_file_cache()",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM pg_settings",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM system.main.duckdb_settings()",
    "SELECT pg_get_viewdef(0)",
    "SELECT json_serialize_plan('SELECT current_setting(''temp_directory'')', optimize := true)",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "SELECT * FROM (WITH duckdb_views AS (SELECT 1) SELECT 2), duckdb_views",
    "SELECT * FROM (WITH PG_Settings AS (SELECT 1) SELECT 2), pg_settings",
    "SELECT * FROM secret_table",
    "SELECT * FROM corpus",
    "SELECT * FROM which_secret('s3://x', 's3')",
]
"""Selects that would tell of the machine, or of the asking program's variables."""


@pytest.mark.parametrize("statement", [*READING, *DOING, *TELLING])
def test_refused(corpus: Corpus, folder: Path, statement: str) -> None:
    secret_table = duckdb.connect().sql(f"SELECT '{SECRET}' AS a").to_arrow_table()
    assert secret_table.num_rows == 1  # named so that a replacement scan would find it
    index = next((folder / "cache").glob("index/*/images-000.parquet"))
    asked = statement.format(folder=folder, index=index)
    with pytest.raises(SqlMistake) as caught:
        check_only(asked)
    assert SECRET not in str(caught.value)


def check_only(statement: str) -> None:
    """What the door says of a statement before it would run it."""
    try:
        door.check(duckdb.connect(), statement, [view.name for view in VIEWS])
    except (door.Refused, duckdb.Error) as error:
        told = door.report(error)
        raise SqlMistake(told["message"], told["hint"]) from None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM '{folder}/secret.csv'",
        "WITH x AS (COPY (SELECT 42) TO '{index}' (use_tmp_file false)) SELECT * FROM x",
        "SELECT 1; COPY images TO '{folder}/new.csv'",
        "SELECT * FROM secret_table",
    ],
)
def test_refused_by_the_whole_way_and_the_corpus_still_answers(corpus: Corpus, folder: Path, statement: str) -> None:
    secret_table = duckdb.connect().sql(f"SELECT '{SECRET}' AS a").to_arrow_table()
    assert secret_table.num_rows == 1
    index = next((folder / "cache").glob("index/*/images-000.parquet"))
    with pytest.raises(SqlMistake) as caught:
        corpus.sql(statement.format(folder=folder, index=index))
    assert SECRET not in str(caught.value)
    assert corpus.sql("SELECT count(*) AS n FROM images").rows == [{"n": 10}]
    assert corpus.first_layer(0).rows


# --- the locks behind the check --------------------------------------------------------------------------------


def opened(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection as statements get it, without the check in front of it."""
    snapshot = vlq.open(str(folder / "cache")).cache.snapshot()
    (images,) = [view for view in VIEWS if view.name == "images"]
    limits = Limits(memory="500MB").checked()
    files = {"images": snapshot.files("images")}
    return door.opened({"views": {"images": images.sql}, "files": files, "limits": limits})


@inside
@pytest.mark.parametrize("statement", [*READING, *DOING, *TELLING])
def test_the_locks_hold_without_the_check(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Even what the check lets through by mistake reaches no other file, changes none, and loosens no lock."""
    monkeypatch.chdir(tmp_path)
    secret_table = duckdb.connect().sql(f"SELECT '{SECRET}' AS a").to_arrow_table()
    connection = opened(folder)
    given: list[Any] = []
    with suppress(duckdb.Error):
        index = next((folder / "cache").glob("index/*/images-000.parquet"))
        given = connection.execute(statement.format(folder=folder, index=index)).fetchall()
    assert SECRET not in str(given)
    assert str(folder) not in str(given)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    for setting in ("threads = 98", "enable_external_access = true", "lock_configuration = false"):
        with pytest.raises(duckdb.Error):
            connection.cursor().execute(f"SET {setting}")
    assert secret_table.num_rows == 1


@inside
@pytest.mark.parametrize(
    "statement",
    [
        *[text for text in READING if "vlq://" not in text],
        "COPY (SELECT 42) TO 'vlq://images/0.parquet' (use_tmp_file false)",
        "COPY (SELECT 42) TO '{folder}/new.csv'",
        "ATTACH '{folder}/secret.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 99",
        "SET lock_configuration = false",
        "RESET threads",
        "CALL enable_logging()",
        "SELECT * FROM secret_table",
    ],
)
def test_each_lock(folder: Path, statement: str) -> None:
    secret_table = duckdb.connect().sql(f"SELECT '{SECRET}' AS a").to_arrow_table()
    assert secret_table.num_rows == 1
    with pytest.raises(duckdb.Error):
        opened(folder).execute(statement.format(folder=folder)).fetchall()


@inside
def test_an_interrupt_ends_what_hears_it(folder: Path) -> None:
    connection = opened(folder)
    door.bound_time(connection, 0.2)
    with pytest.raises(duckdb.InterruptException):
        connection.execute("SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b").fetchall()


@inside
def test_settings(folder: Path) -> None:
    wanted = ("python_enable_replacements", "enable_external_access", "allow_persistent_secrets")
    settings = ", ".join(f"current_setting('{name}')" for name in wanted)
    assert opened(folder).execute(f"SELECT {settings}").fetchall() == [(False, False, False)]


@inside
def test_what_comes_of_the_environment(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has none of the asking one's environment but what it needs to start."""
    seen: dict[str, Any] = {}
    start = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert corpus.sql("SELECT 1 AS one").rows == [{"one": 1}]
    assert SECRET not in str(seen["env"])
    assert "HOME" not in seen["env"]
    assert not os.path.exists(seen["cwd"])  # its folder is gone with it


# --- what is let through ---------------------------------------------------------------------------------------

FINE = [
    "SELECT 1;",
    "select label, count(*) over (partition by label order by image_id rows 1 preceding) from images order by 1 desc",
    "SELECT DISTINCT ON (label) label FROM images LIMIT 10%",
    "SELECT label FROM images UNION ALL BY NAME (SELECT label FROM images EXCEPT SELECT 'x')",
    "WITH a AS MATERIALIZED (FROM images), b(n) AS (SELECT count(*) FROM a) SELECT * FROM b, a",
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 5) SELECT * FROM r",
    "WITH RECURSIVE r(i, j) USING KEY (i) AS (SELECT 1, 2 UNION SELECT i, j FROM recurring.r) SELECT * FROM r",
    "SELECT * FROM images ASOF JOIN readings ON images.image_id >= readings.image_id",
    "SELECT * FROM images POSITIONAL JOIN tokens",
    "SELECT list_transform([1, 2], lambda y: y + x) FROM range(3) AS r(x), LATERAL (SELECT x), unnest([1, 2]) AS u(v)",
    "SELECT unnest(patches) FROM readings_top1 TABLESAMPLE reservoir(5 ROWS) REPEATABLE (3)",
    "SELECT CASE WHEN layer BETWEEN 1 AND 2 THEN 'a' END, layer IN (1, 2), EXISTS (SELECT 1) FROM Readings",
    "SELECT count(*) FILTER (WHERE rank = 1) FROM readings GROUP BY GROUPING SETS ((layer), ()) HAVING count(*) > 1",
    "SELECT COLUMNS('im.*'), * EXCLUDE (label) REPLACE (width + 1 AS width) FROM \"IMAGES\"",
    "SELECT * FROM (PIVOT images ON label IN ('x', 'y') USING count(*) GROUP BY width)",
    "SELECT * FROM (UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b INTO NAME n VALUE v)",
    "VALUES (1, 2), (3, 4)",
    "FROM images SELECT label",
    "TABLE tokens",
    "DESCRIBE images",
    "SUMMARIZE SELECT * FROM images",
    "SELECT i.image_id FROM images AS i WINDOW w AS (ORDER BY image_id) QUALIFY row_number() OVER w = 1",
    "/* ; */ SELECT ';' -- ; DROP",
    "SELECT " + " + ".join(["1"] * 300),
]


@inside
@pytest.mark.parametrize("statement", FINE)
def test_a_select_is_let_through(statement: str) -> None:
    door.check(duckdb.connect(), statement, [view.name for view in VIEWS])


PARSER = duckdb.connect()


@inside
@examples(200)
@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            ["SELECT", "*", "FROM", "images", "(", ")", ",", "'x.csv'", "WITH", "a", "AS", "COPY", "TO", ";", "1"]
        ),
        max_size=14,
    ).map(" ".join)
)
def test_no_text_gets_the_check_out_of_step(text: str) -> None:
    """Whatever is asked, the check says yes or says why not; it says yes to nothing but one SELECT."""
    try:
        door.check(PARSER, text, ["images"])
    except (door.Refused, duckdb.Error, UnicodeEncodeError):
        return
    assert [statement.type.name for statement in PARSER.extract_statements(text)] == ["SELECT"]
    assert "'x.csv'" not in text or "from 'x.csv'" not in text.lower()


def test_nested_deeply(corpus: Corpus) -> None:
    for statement in ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT " + " + ".join(["1"] * 5000)):
        with pytest.raises(SqlMistake):
            corpus.sql(statement)
    assert corpus.sql("SELECT " + " + ".join(["1"] * 900) + " AS n").rows == [{"n": 900}]


# --- limits ----------------------------------------------------------------------------------------------------

ENDLESS = [
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b",
    "SELECT sum(hash(a.token, b.token, c.token)) FROM readings a, readings b, readings c, readings d",
    "SELECT length(lpad('x', 900_000_000, 'y')), length(lpad('x', 900_000_000, 'z'))",  # hears no interrupt
    "SELECT sleep_ms(100_000)",
]


@pytest.mark.parametrize("statement", ENDLESS)
def test_what_takes_too_long_is_stopped(corpus: Corpus, statement: str) -> None:
    began = time.monotonic()
    with pytest.raises(LimitReached, match=r"stopped after 0\.5 seconds"):
        corpus.sql(statement, timeout=0.5)
    # The process also has to start, and to be ended: on a busy machine that takes a while.
    assert time.monotonic() - began < 20
    assert corpus.sql("SELECT 1 AS one").rows == [{"one": 1}]


LARGE = [
    "SELECT list(range) FROM range(10_000_000_000)",
    "SELECT len(range(1_000_000_000))",
    "SELECT string_agg(repeat('x', 1_000_000), '') FROM range(10_000)",
    "SELECT length(repeat('x', 2_000_000_000))",
    "SELECT length(printf('%2000000000d', 1))",
    "SELECT array_agg(range(1_000_000)) FROM range(1_000_000)",
    "SELECT count(*) FROM (SELECT DISTINCT a.range, b.range FROM range(100_000) a, range(100_000) b)",
]


@pytest.mark.parametrize("statement", LARGE)
def test_what_takes_too_much_memory_is_stopped(corpus: Corpus, statement: str) -> None:
    most = Watch()
    with most, pytest.raises(LimitReached, match="more than 200MB of memory"):
        corpus.sql(statement, memory="200MB", temp=0, timeout=50)
    assert most.bytes < 2**30  # of which the interpreter, DuckDB and Arrow are a fifth


class Watch:
    """The most memory that a process begun meanwhile was seen to have."""

    def __enter__(self) -> Watch:
        self.bytes, self._done = 0, False
        self._before = set(children())
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done:
            for child in set(children()) - self._before:
                with suppress(OSError, IndexError):
                    # What was only forked has this process' memory, and its name.
                    if b"vlq.query.sql.door" in Path(f"/proc/{child}/cmdline").read_bytes():
                        self.bytes = max(self.bytes, int(Path(f"/proc/{child}/statm").read_text().split()[1]) * 4096)
            time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        self._done = True
        self._thread.join()
        assert self.bytes > 0


def children(parent: int | None = None) -> list[int]:
    """The processes that this one, or another, has begun."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid()):
                found.append(int(stat.parent.name))
    return found


def test_what_does_not_fit_into_memory_goes_to_disk_if_it_may(corpus: Corpus) -> None:
    numbered = "SELECT row_number() OVER (ORDER BY hash(range), range) AS n, range FROM range(2_000_000)"
    sorting = f"SELECT max(n) AS n FROM ({numbered})"
    assert corpus.sql(sorting, memory="80MB", temp="2GB", threads=2).rows == [{"n": 2_000_000}]
    with pytest.raises(LimitReached, match="memory"):
        corpus.sql(sorting, memory="80MB", temp=0, threads=2)
    with pytest.raises(LimitReached, match="memory"):
        corpus.sql(sorting, memory="80MB", temp="1MB", threads=2)


def test_large_answers(corpus: Corpus) -> None:
    for statement in ("SELECT * FROM range(10_000_000_000)", "SELECT 1 AS a FROM range(11)"):
        with pytest.raises(LimitReached, match="more than 10 rows"):
            corpus.sql(statement, max_rows=10)
    assert len(corpus.sql("SELECT 1 AS a FROM range(10)", max_rows=10)) == 10
    with pytest.raises(LimitReached, match="larger than 100MB"):
        corpus.sql("SELECT repeat('x', 10_000) AS a FROM range(100_000)", memory="100MB")


@inside
@given(st.integers(1, 9999), st.sampled_from([1, 10**3, 10**6, 10**9, 10**12, 2**10, 2**20, 2**30]))
def test_sizes_as_they_are_read(count: int, unit: int) -> None:
    shown = shown_size(count * unit)
    assert size_of("memory", shown.removesuffix(" bytes").replace(",", "")) == count * unit
    assert unit == 1 or "bytes" not in shown
    assert len(shown) < 18


def test_threads(corpus: Corpus) -> None:
    assert corpus.sql("SELECT count(*) AS n FROM readings", threads=1).rows[0]["n"] > 0
    request = {"views": {}, "files": {}, "limits": Limits(threads=3).checked()}
    assert door.opened(request).execute("SELECT current_setting('threads')").fetchall() == [(3,)]


def test_a_process_that_dies_is_said_to(corpus: Corpus) -> None:
    """The kernel may end it, for one, when the machine runs out of memory."""

    def kill() -> None:
        while not (found := set(children()) - before):
            time.sleep(0.01)
        time.sleep(0.5)
        for child in found:
            os.kill(child, signal.SIGKILL)

    before = set(children())
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LimitReached, match="memory"):
        corpus.sql("SELECT sleep_ms(30_000)")
    killer.join()


@inside
def test_ctrl_c_ends_the_process_too(folder: Path) -> None:
    code = (
        "import signal, vlq\n"
        # What runs in the background of a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"corpus = vlq.open({str(folder / 'cache')!r})\n"
        "print('asking', flush=True)\n"
        "corpus.sql('SELECT sleep_ms(60_000)')\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asking\n"
    running: list[str] = []
    while not running:  # by its own name: until then it is still being started
        running = subprocess.run(
            ["pgrep", "-P", str(asking.pid), "-f", "vlq.query.sql.door"], capture_output=True, text=True, check=False
        ).stdout.split()
    time.sleep(0.5)
    asking.send_signal(signal.SIGINT)
    asking.communicate(timeout=30)
    until = time.monotonic() + 10
    while any(lives(child) for child in running):
        assert time.monotonic() < until
        time.sleep(0.05)


def lives(process: str) -> bool:
    """Whether it is there, and is more than a record of its end."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
