"""The `vlq` command: what is a query, what is imported for it, and how mistakes end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.cli import is_query, main
from vlq.query.client import local
from vlq.query.language.registry import functions, methods
from vlq.service import command as serving

from ..synthetic import make_cache, make_run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, images=8, failed=[1])
    return str(folder)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["first_layer(token='dog')"], True),
        (["--format", "json", "first_layer('dog')"], True),
        (["first_layer('dog'"], True),
        (["('dog')"], True),
        (["run", "images (1)", "--model", "m"], False),
        (["info", "--cache", "a(b)"], False),
        (["--help"], False),
        ([], False),
    ],
)
def test_what_is_a_query(arguments: list[str], expected: bool) -> None:
    assert is_query(arguments) is expected


def test_a_query(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("first_layer(token='dog')", "--cache", cache) == 0
    out, err = capsys.readouterr()
    assert out.startswith("dog: read in ")
    assert err == ""
    assert run("--format", "json", "first_layer(token='dog')", "--cache", cache) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["images"] == 7
    assert run("first_layer(token='dog')", "--explain", "--cache", cache) == 0
    assert "read_parquet($patch_topk)" in capsys.readouterr().out


def test_an_explanation_as_json_and_as_a_file(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "why.txt"
    asked = ("first_layer('dog')", "--explain", "--cache", cache)
    assert run(*asked) == 0
    text = capsys.readouterr().out
    assert run(*asked, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"query", "text"}
    assert found["query"] == "first_layer('dog')"
    assert found["text"].partition("\n\n")[0] == text.partition("\n\n")[0]  # behind it DuckDB says how long it took
    assert run(*asked, "--output", str(path)) == 0
    assert capsys.readouterr().out == f"Written to {path}\n"
    assert path.read_text().startswith("query       first_layer('dog')\n")


def test_an_output_file(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answer.parquet"
    assert run("first_layer(token='dog')", "--cache", cache, "--output", str(path)) == 0
    headline, written = capsys.readouterr().out.splitlines()
    assert headline.startswith("dog: read in ")
    assert written == f"Written to {path}"
    assert path.read_bytes()[:4] == b"PAR1"
    assert run("first_layer(token='dog')", "--cache", cache, "--format", "arrow") == 2
    assert "--output answer.arrow" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [("images()",), ("sql", "SELECT image FROM images WHERE error IS NULL ORDER BY image")]
)
def test_a_dash_is_stdout(
    command: tuple[str, ...],
    cache: str,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (*command, "--cache", cache)
    for form in ("table", "json", "jsonl", "csv"):
        assert run(*asked, "--format", form) == 0
        printed = capsysbinary.readouterr().out
        assert run(*asked, "--format", form, "--output", "-") == 0
        assert capsysbinary.readouterr().out == printed
    images = [row["image"] for row in vlq.open(cache).images().rows]
    assert run(*asked, "--format", "parquet", "--output", "-") == 0
    found = pq.read_table(io.BytesIO(capsysbinary.readouterr().out))
    assert found["image"].to_pylist() == images
    assert run(*asked, "--format", "arrow", "--output", "-") == 0
    assert pa.ipc.open_file(capsysbinary.readouterr().out).read_all()["image"].to_pylist() == images
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(*asked, "--format", "parquet", "--output", "-") == 2
    assert capsysbinary.readouterr() == (
        b"",
        b"vlq: --format parquet is no text.\n"
        b"Say where it should go: --output answer.parquet, or --output - into a pipe\n",
    )
    assert [*tmp_path.iterdir()] == []


def test_a_plot_and_a_dash(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("first_layer('dog')", "--cache", cache)
    assert run(*asked, "--output", "-") == 0
    printed = capsys.readouterr().out
    assert run(*asked, "--output", "-", "--plot", str(tmp_path / "dog.svg")) == 0
    assert capsys.readouterr().out == printed
    assert run(*asked, "--explain", "--output", "-") == 0
    assert capsys.readouterr().out.startswith("query       first_layer('dog')\n")


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("help", "run"), ("run", "--help"), ("run", "-h")):
        assert run(*words) == 0
        assert capsys.readouterr().out.startswith("Usage: vlq run ")
    assert run("help", "top") == 0
    assert capsys.readouterr().out.startswith("top(image")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("arguments", ["'foo()'", "info --cache none"])
def test_a_mistake_that_cannot_be_told(arguments: str, stderr: str) -> None:
    command = f"{sys.executable} -m vlq {arguments} {stderr}"
    assert subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=False).returncode == 2


def test_the_cache_of_the_environment(
    cache: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLQ_CACHE", cache)
    assert run("first_layer(token='dog')") == 0
    monkeypatch.delenv("VLQ_CACHE")
    monkeypatch.setenv("VLQ_HOME", str(tmp_path))
    assert run("first_layer(token='dog')") == 2
    assert "make demo" in capsys.readouterr().err
    make_cache(tmp_path / "demo" / "cache", images=2)
    assert run("first_layer(token='dog')") == 0


def test_a_plot(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "dog.svg", tmp_path / "dog.json"
    assert run("first_layer('dog')", "--cache", cache, "--plot", str(path)) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("dog: read in ")
    assert out.splitlines()[1:] == [f"Drawn to {path}"]
    assert err == ""
    assert path.read_text().startswith("<?xml")
    # What goes to a program stays what it is.
    assert run("first_layer('dog')", "--cache", cache, "--plot", str(path), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["rows"]
    assert run("first_layer('dog')", "--cache", cache, "--plot", str(path), "--output", str(other)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"Drawn to {path}", f"Written to {other}"]
    assert json.loads(other.read_text())["rows"]
    path.unlink()
    assert run("first_layer('dog', min_prob=1.0)", "--cache", cache, "--plot", str(path)) == 0
    assert "read in none of 7 images" in capsys.readouterr().out
    assert path.exists()


@pytest.mark.parametrize(
    ("query", "name", "message"),
    [
        (
            "first_layer('dog')",
            "a.jpg",
            "A plot is a .png or .svg file: {path} ends with neither.\nSuch as --plot answer.png",
        ),
        ("first_layer('dog')", "a", "A plot is a .png or .svg file: {path} has no ending.\nSuch as --plot answer.png"),
        ("first_layer('dog')", "none/a.png", "Cannot write {path}: No such file or directory.\nChoose another --plot."),
        (
            "first_layer('dog').select(image)",
            "a.png",
            "There is nothing to draw: the answer has no numbers.\nChoose columns that are numbers: .select([...])",
        ),
    ],
)
def test_plots_that_cannot_be(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str, name: str, message: str
) -> None:
    path = str(tmp_path / name)
    assert run(query, "--cache", cache, "--plot", path) == 2
    assert capsys.readouterr() == ("", f"vlq: {message.format(path=path)}\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["first_layer(token='dgo')"],
            ["vlq: 'dgo' is no word of this vocabulary.", "  first_layer(token='dgo')", f"  {' ' * 18}^^^^^"],
        ),
        (
            ["first_layer('dog', ranks=1)"],
            [
                "vlq: ranks is no argument of first_layer; did you mean rank?",
                "  first_layer('dog', ranks=1)",
                f"  {' ' * 19}^^^^^^^",
            ],
        ),
        (
            ["first_layer('dog'"],
            ["vlq: This parenthesis is never closed.", "  first_layer('dog'", f"  {' ' * 11}^", "Add the missing one."],
        ),
        (["inof"], ["vlq: There is no command 'inof'.", "Did you mean `vlq info`? All commands: vlq --help"]),
        (["info", "--format", "csv"], ["vlq: --format is table or json, not 'csv'."]),
    ],
)
def test_mistakes_end_with_2_and_one_message(
    cache: str,
    arguments: list[str],
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLQ_CACHE", cache)
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[: len(lines)] == lines
    assert "Traceback" not in err


def test_a_missing_or_newer_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("first_layer('dog')", "--cache", str(tmp_path / "none")) == 2
    assert f"There is no cache at {tmp_path / 'none'}." in capsys.readouterr().err
    make_cache(tmp_path, make_run(), images=2)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"format": 99}))
    assert run("first_layer('dog')", "--cache", str(tmp_path)) == 2
    assert "Install a newer VLQ" in capsys.readouterr().err


def test_a_damaged_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cache(tmp_path, images=2)
    (table,) = tmp_path.glob("index/*/patch_topk-000.parquet")
    table.write_bytes(table.read_bytes()[:100])
    assert run("first_layer('dog')", "--cache", str(tmp_path)) == 2
    assert "Run: vlq index" in capsys.readouterr().err
    table.unlink()
    assert run("first_layer('dog')", "--cache", str(tmp_path)) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_info(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "--cache", cache, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"model", "prompt", "layers", "grid", "k", "images", "errors"} <= found.keys()
    assert found["errors"] == [{"image": "919-1.png", "reason": "truncated"}]


def test_every_command_is_told_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "--version" in shown
    lines = shown.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["demo", "look", "run"]  # with what one begins
    assert [line for line in lines if line.endswith("...") or not line.endswith(".")] == []
    assert run("--version") == 0
    assert capsys.readouterr().out == f"vlq {vlq.__version__}\n"


def test_help_comes_from_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help") == 0
    out = capsys.readouterr().out
    for entry in (*functions().values(), *methods().values()):
        assert entry.documentation in out
        assert run("help", entry.name) == 0
        whole = capsys.readouterr().out
        assert str(entry) in whole
        assert entry.example in whole
        assert all(parameter.documentation in whole for parameter in entry.parameters)
    assert run("help", "frist_layer") == 2
    assert "Did you mean first_layer?" in capsys.readouterr().err


HEAVY = ("torch", "ray", "transformers", "zarr", "numpy", "pyarrow", "typer", "rich")


def test_a_query_imports_nothing_heavy(cache: str) -> None:
    code = (
        "import sys\n"
        "from vlq.query.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "first_layer(token='dog')", "--cache", cache]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("asked", ["\"first_layer('dog', by='patch')\"", "info", '"images()" --format json'])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_said(
    cache: str, monkeypatch: pytest.MonkeyPatch, unbuffered: str, asked: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = f"{sys.executable} -m vlq {asked} --cache {cache} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("vlq: No space left on device: ")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("asked", ["images()", "info", "serve"])
def test_who_stops_it_is_told_what_becomes_of_it(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "open", stop)
    monkeypatch.setattr(serving, "check_address", stop)
    assert run(asked) == 130
    assert capsys.readouterr().err == "vlq: Stopped. The same command begins anew.\n"


def test_nobody_need_read_what_is_printed(cache: str) -> None:
    command = f'{sys.executable} -m vlq "images()" --cache {cache} >&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("asked", ['"images()"', "info", "help"])
def test_who_has_seen_enough_is_no_error(
    cache: str, monkeypatch: pytest.MonkeyPatch, unbuffered: str, asked: str
) -> None:
    """As `grep -q` has."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    monkeypatch.setenv("VLQ_CACHE", cache)
    script = f"set -o pipefail; {sys.executable} -m vlq {asked} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_a_locale_lacks_are_told_by_their_numbers(cache: str) -> None:
    command = [sys.executable, "-m", "vlq", "first_layer('dog')", "--cache", cache]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert b"\\u2581dog" in done.stdout


def test_a_closed_pipe_is_no_error(cache: str) -> None:
    command = f"{sys.executable} -m vlq \"first_layer('dog', by='patch')\" --format csv | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env={**os.environ, "VLQ_CACHE": cache}, check=True
    )
    assert done.stderr == ""
    assert done.stdout == "image,patch,layer,patches,logprob,censored,image_id\n"


def test_a_name_in_a_mistake_does_not_turn_a_terminals_colours(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("images()", "--cache", "a\x1b[31m.b") == 2
    err = capsys.readouterr().err
    assert "a�[31m.b" in err
    assert err.replace("\n", "").isprintable()
