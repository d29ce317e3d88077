"""Completion: what is offered where, in each shell's own words, and in a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlq.query.language.completion import candidates, columns_of, shell_words
from vlq.query.language.parse import parse
from vlq.query.language.registry import functions, methods

from ...synthetic import make_cache

pytestmark = pytest.mark.here("the command line, before it asks")

COMMANDS = [
    "demo",
    "look",
    "run",
    "status",
    "info",
    "help",
    "sql",
    "annotate",
    "serve",
    "export",
    "ablate",
    "knockout",
    "patch",
    "steer",
    "attribute",
    "lens",
    "index",
    "compact",
    "verify",
    "repair",
    "gc",
]
AT = ("patch", "last", "prompt", "answer")
OTHER_THAN_A = [f"{parameter.name}=" for parameter in functions()["overlap"].parameters[1:]] + ["matching(", "prefix("]
TABLES = [entry.name for entry in functions().values() if entry.tokens is None]


def offered(text: str) -> list[str]:
    return [candidate.text for candidate in candidates(text)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache whose images came with columns."""
    folder = tmp_path_factory.mktemp("cache")
    objects = [[{"label": "dog", "box": [0.0, 0.0, 9.0, 9.0], "mask_rle": None}]] * 2
    make_cache(folder, images=2, columns={"label": ["beach", "snow"], "objects": objects})
    return str(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first_layer('dog').where(la", {"layer": "number", "label": "text"}),
        ("first_layer('dog').where(layer < 3 and lo", {"logprob": "number"}),
        ("first_layer('dog').where('dog' in obj", {"objects": "list"}),
        ("first_layer('dog').sort(by=la", {"layer": "number", "label": "text"}),
        ("first_layer('dog').select([image, la", {"layer": "number", "label": "text"}),
        ("first_layer('dog').group(label).count().sort(c", {"count": "number"}),
        ("first_layer('ear') < first_layer('dog', by='patch').where(pat", {"patch": "number", "patches": "list"}),
        ("first_layer('ear', patches=readings('dog').where(ra", {"rank": "number"}),
        ("first_layer('dog', images=la", {"label": "text"}),
        ("first_layer('dog', images=label == 'beach' and obj", {"objects": "list"}),
        ("images(la", {"label": "text"}),
        ("first_layer('dog', la", {}),  # an argument, if a wrong one
        ("first_layer('unheard', 'of').where(la", {}),
        ("first_layer(dog).where(la", {}),
        ("first_layer('dog').where(label == 'la", {}),
        ("first_layer('dog').limit(la", {}),
    ],
)
def test_columns_are_those_of_the_answer_or_the_images(cache: str, text: str, expected: dict[str, str]) -> None:
    start = re.sub(r"\w*$", "", text)
    found = {one.text.removeprefix(start): one.help for one in candidates(text, columns=partial(columns_of, cache))}
    assert {name: kind for name, kind in found.items() if name.isidentifier()} == expected


def test_no_columns_of_a_cache_that_is_far_away_or_nowhere() -> None:
    for url in ("s3://bucket/cache", "/nowhere/at/all"):
        assert columns_of(url, "") == columns_of(url, "first_layer('dog')") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fir", ["first_layer(", "first_layer(token="]),
        ("t", ["top(", "tokens("]),
        ("nothing", []),
        ("first_layer('ear') < fir", ["first_layer('ear') < first_layer(", "first_layer('ear') < first_layer(token="]),
        ("not im", ["not images(", "not images(condition="]),
        ("images(", ["images(condition=", "images(condition=None"]),
        ("first_layer('dog', ra", ["first_layer('dog', rank=", "first_layer('dog', rank=1"]),
        ("first_layer('dog', ra'", []),
        ("overlap(a, b, c=1, pi", ["overlap(a, b, c=1, pieces=", "overlap(a, b, c=1, pieces=False"]),
        ("overlap(a, ", ["overlap(a, " + word for word in OTHER_THAN_A]),
        ("first_layer('dog', tok", []),  # it stands there without its name
        ("first_layer('dog', mat", []),
        ("top(0, rank=1, p", ["top(0, rank=1, patch=", "top(0, rank=1, patches="]),
        ("first_layer(rank=1, ra", []),  # it is given already
        ("top(0, layers=(3, 4), at=", [f"top(0, layers=(3, 4), at='{at}'" for at in AT]),
        ("first_layer('a,b(', at='pa", ["first_layer('a,b(', at='patch'", "first_layer('a,b(', at='patch')"]),
        ('first_layer("dog", at="pa', ['first_layer("dog", at="patch"', 'first_layer("dog", at="patch")']),
        ("first_layer('dog', missing=", ["first_layer('dog', missing='never'", "first_layer('dog', missing='never')"]),
        ("first_layer('dog', pieces=F", ["first_layer('dog', pieces=False", "first_layer('dog', pieces=False)"]),
        ("first_layer(mat", ["first_layer(matching(", "first_layer(matching(pattern="]),
        ("first_layer(token=pre", ["first_layer(token=prefix(", "first_layer(token=prefix(word="]),
        ("first_layer('dog', images=", []),  # a condition: anything may stand here
        ("first_layer('do", []),
        ("first_layer(['dog', ra", []),  # in a list
        ("compare('a', 'b', emer", ["compare('a', 'b', emergence(", "compare('a', 'b', emergence(token="]),
        ("compare(0, 1, query=top", ["compare(0, 1, query=top(", "compare(0, 1, query=top(image="]),
        ("first_layer('dog').", [f"first_layer('dog').{name}(" for name in methods()]),
        ("top(0).sort(layer, desc", ["top(0).sort(layer, descending=", "top(0).sort(layer, descending=False"]),
        ("first_layer('dog').where(layer == ra", []),
        ("unheard_of(ra", []),
        ("first_layer('dog'))))", []),
        ("first_layer('dog')", []),
        ("first_layer('dog') fir", []),
        ("(top(0) < fir", ["(top(0) < first_layer(", "(top(0) < first_layer(token="]),
        ("first_layer('dog', layers=(fir", []),
        ("1 <= top(0) and last", ["1 <= top(0) and last_layer(", "1 <= top(0) and last_layer(token="]),
    ],
)  # fmt: skip
def test_what_may_stand_next(text: str, expected: list[str]) -> None:
    assert offered(text) == expected


def test_every_function_and_argument_is_offered() -> None:
    assert offered("") == [f"{name}(" for name in TABLES]
    for name in TABLES:
        names = [f"{name}({parameter.name}=" for parameter in functions()[name].parameters]
        assert set(names) <= set(offered(f"{name}("))
        assert all(candidate.help for candidate in candidates(f"{name}("))


@pytest.mark.parametrize("entry", [*functions().values(), *methods().values()], ids=lambda entry: entry.name)
def test_an_example_can_be_typed_by_completing_its_names(entry: object) -> None:
    """Wherever a function's or a method's name is cut off, the whole name is among what is offered."""
    example = str(getattr(entry, "example", ""))
    parse(example)
    for name in (*TABLES, *methods()):
        start = example.find(f"{name}(")
        if start >= 0 and (start == 0 or example[start - 1] in ". ("):
            for cut in range(start + 1, start + len(name) + 1):
                if example[start - 1 : start] != "(":
                    assert f"{example[:start]}{name}(" in offered(example[:cut])


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*"()[]'\"=,. \\<ab", "first_layer", "at", "where", "rank"]), max_size=14).map("".join))
def test_whatever_is_typed_goes_on_as_it_was(text: str) -> None:
    found = offered(text)
    assert all(whole.startswith(text) for whole in found)
    assert len(found) != 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vlq", [("vlq", "vlq")]),
        ("vlq ", [("vlq", "vlq"), ("", "")]),
        ("vlq \"a 'b' c", [("vlq", "vlq"), ("\"a 'b' c", "a 'b' c")]),
        ("vlq 'a \"b\"' c\\ d", [("vlq", "vlq"), ("'a \"b\"'", 'a "b"'), ("c\\ d", "c d")]),
        ('vlq "a\\"b\\c', [("vlq", "vlq"), ('"a\\"b\\c', 'a"b\\c')]),
        ("vlq a\\", [("vlq", "vlq"), ("a\\", "a")]),
    ],
)
def test_words_of_a_shell(line: str, expected: list[tuple[str, str]]) -> None:
    assert shell_words(line) == expected


# --- the shells' scripts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path on which `vlq` is this one."""
    folder = tmp_path_factory.mktemp("bin")
    vlq = folder / "vlq"
    vlq.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from vlq.query.cli import main; main()' \"$@\"\n")
    vlq.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def asked(path: str, **variables: str) -> list[str]:
    done = subprocess.run(
        ["vlq"], env={**os.environ, "PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(path: str, *words: str) -> list[str]:
    return asked(path, _VLQ_COMPLETE="complete_bash", COMP_WORDS="\n".join(["vlq", *words]), COMP_CWORD=str(len(words)))


def test_commands_options_and_functions(path: str) -> None:
    assert bash(path, "") == [*COMMANDS, *(f'"{name}(' for name in TABLES)]
    assert bash(path, "in") == ["info", "index"]
    assert bash(path, "ex") == ["export"]
    assert bash(path, '"in') == []
    assert bash(path, "fi") == ['"first_layer(', '"first_layer(token=']
    assert bash(path, '"fi') == ["first_layer(", "first_layer(token="]
    assert bash(path, '\'first_layer("dog", at=') == [f'first_layer("dog", at="{at}"' for at in AT]
    assert bash(path, "\"first_layer('dog')\"", "--f") == ["--format"]
    options = ["--cache", "--format", "--output", "--plot", "--explain"]
    assert bash(path, "\"first_layer('dog')\"", "--") == options
    for option in ("--cache", "--output", "--plot"):  # what stands behind these the shell knows
        assert bash(path, "\"first_layer('dog')\"", option, "") == []
    assert bash(path, "\"first_layer('dog')\"", "--format", "json") == ["json", "jsonl"]
    assert bash(path, "--format", "csv", '"fi') == ["first_layer(", "first_layer(token="]
    assert bash(path, "annotate", "--re") == ["--replace"]
    assert bash(path, "run", "--shard") == ["--shard-size"]
    assert bash(path, "help", "where") == ["where"]
    assert bash(path, "sql", "--format", "pa") == ["parquet"]
    assert "--install-completion" in bash(path, "--")


def test_zsh_and_fish(path: str) -> None:
    line = "vlq \"first_layer('dog', ra"
    (zsh,) = asked(path, _VLQ_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert zsh.startswith("local -a shown; shown=(")
    assert zsh.endswith(
        "compadd -S '' -l -d shown -- 'first_layer('\"'\"'dog'\"'\"', rank=' 'first_layer('\"'\"'dog'\"'\"', rank=1'"
    )
    (zsh,) = asked(path, _VLQ_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="vlq ann")
    assert zsh.endswith("compadd  -l -d shown -- annotate")
    fish = {"_VLQ_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    meaning = next(p.documentation for p in functions()["first_layer"].parameters if p.name == "rank")
    assert asked(path, _TYPER_COMPLETE_FISH_ACTION="get-args", **fish) == [
        f"first_layer('dog', rank=\t{meaning}",
        f"first_layer('dog', rank=1\t{meaning}",
    ]
    assert asked(path, _TYPER_COMPLETE_FISH_ACTION="is-args", **fish) == []
    with pytest.raises(subprocess.CalledProcessError):
        asked(path, **{**fish, "_TYPER_COMPLETE_ARGS": "vlq zzz", "_TYPER_COMPLETE_FISH_ACTION": "is-args"})
    assert any(
        "--replace" in text
        for text in asked(path, _VLQ_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="vlq annotate --")
    )


def test_a_query_is_completed_without_what_answers_it() -> None:
    code = (
        "import sys\nfrom vlq.query.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('duckdb', 'pyarrow', 'obstore', 'rich', 'torch') if name in sys.modules])"
    )
    variables = {"_VLQ_COMPLETE": "complete_bash", "COMP_WORDS": 'vlq\n"fi', "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["first_layer(", "first_layer(token=", "[]"]


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

SCRIPT = 'eval "$(_VLQ_COMPLETE=source_bash vlq)"'


@needs_bash
def test_bash_with_the_script(path: str, tmp_path: Path) -> None:
    """The script that is installed, sourced, and its function called as bash calls it."""
    (tmp_path / "a.png").write_bytes(b"x")  # a pattern in a word must not turn into a file
    code = (
        f"cd {tmp_path}; {SCRIPT}; complete -p vlq\n"
        "COMP_WORDS=(vlq \"\\\"first_layer(['dog', 'ear'], ra\"); COMP_CWORD=1\n"
        "_vlq_completion vlq; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _vlq_completion vlq",
        "first_layer(['dog', 'ear'], rank=",
        "first_layer(['dog', 'ear'], rank=1",
    ]


@needs_bash
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ('vlq "fi\t', 'vlq "first_layer('),
        ("vlq \"first_layer('dog', min_r\t", "vlq \"first_layer('dog', min_run="),
        ("vlq \"first_layer('dog').wh\t", "vlq \"first_layer('dog').where("),
        ("vlq annot\t", "vlq annotate "),
    ],
)
def test_the_tab_key_in_bash(path: str, tmp_path: Path, typed: str, line: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb", "HOME": str(tmp_path)}
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        read_until(terminal, "ready> ")
        os.write(terminal, f"{SCRIPT}; echo sour''ced\n".encode())
        read_until(terminal, "sourced\r\nready> ")
        os.write(terminal, typed.encode())
        assert read_until(terminal, line).startswith(line)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    """What comes from a terminal up to a text, without its bells; what came in a minute if it does not come."""
    shown, end = "", time.monotonic() + 60
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode().replace("\x07", "")
    return shown


@needs_bash
def test_it_is_installed(path: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    command = ["bash", "--norc", "-c", "vlq --install-completion; vlq --show-completion; :"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "bash completion installed in" in done.stdout
    script = (tmp_path / ".bash_completions" / "vlq.sh").read_text()
    assert "_VLQ_COMPLETE=complete_bash" in script
    assert script.strip() in done.stdout
    assert "vlq.sh" in (tmp_path / ".bashrc").read_text()
