"""Every `vlq` command in deploy/ and in its guide is one that the real command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
import typer
import yaml

from vlq.query.commands import COMMANDS
from vlq.query.language.parse import parse

from .manifests import DEPLOY, KUBERNETES, ROOT

NAMES = sorted(COMMANDS.keys() | {entry.name for entry in entry_points(group="vlq.commands")})
FILES = [
    *sorted(file for file in DEPLOY.rglob("*") if file.is_file()),
    ROOT / "docs" / "deploy.md",
]
COMMAND = re.compile(rf"(?<![\w/-])vlq ((?:{'|'.join(NAMES)})(?: +[^\s`'&|;>#]+)+)")
QUESTION = re.compile(r'(?<![\w/-])vlq "([^"]*\([^"]*\))"')


def words_of(command: str) -> list[str]:
    """As a shell would split it, with values for its variables: a number, which is a name as well."""
    return shlex.split(re.sub(r"\$\w+", "1", command.replace('"$@"', "images --model model")))


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands, each with where it stands: lines of text, and lists in YAML and in Dockerfiles."""
    for file in FILES:
        text = re.sub(r"\\\n\s*|\n#?\s+(?=--)", " ", file.read_text())
        for found in COMMAND.finditer(text):
            yield str(file.relative_to(ROOT)), words_of(found[1])
        if file.suffix == ".Dockerfile":
            for found in re.finditer(r"^CMD (\[.*\])$", text, re.MULTILINE):
                words = yaml.safe_load(found[1])
                yield str(file.relative_to(ROOT)), words[1:] if words[0] == "vlq" else words
    worker = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]["command"]
    assert worker[0] == "vlq"
    yield "deploy/compose.yaml", worker[1:]
    service = next(yaml.safe_load_all((KUBERNETES / "base" / "service.yaml").read_text()))
    yield "deploy/kubernetes/base/service.yaml", service["spec"]["template"]["spec"]["containers"][0]["args"]


FOUND = [pytest.param(words, id=f"{where}: {' '.join(words)}") for where, words in commands()]


def parsed(words: list[str]) -> None:
    """Raises what the command line would, without running the command."""
    name, *arguments = words
    loaded = {entry.name: entry.load for entry in entry_points(group="vlq.commands")}
    app = typer.Typer()
    app.command(name)(COMMANDS[name] if name in COMMANDS else loaded[name]())
    typer.main.get_command(app).make_context(name, arguments)


@pytest.mark.parametrize("words", FOUND)
def test_commands_are_real(words: list[str]) -> None:
    if words != ["--help"]:
        parsed(words)


def test_commands_are_found_where_they_are() -> None:
    where = {case.id.partition(":")[0] for case in FOUND if case.id}
    expected = {"compose.yaml", "kubernetes/run.yaml", "ray-aws.yaml", "slurm.sh", "smoke.sh", "service.Dockerfile"}
    assert {f"deploy/{name}" for name in expected} | {"docs/deploy.md"} <= where


def test_a_renamed_option_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["run", "images", "--model", "m", "--shards", "4"])


def test_questions_are_questions() -> None:
    questions = [found[1] for file in FILES for found in QUESTION.finditer(file.read_text())]
    assert questions
    for question in questions:
        parse(question)
