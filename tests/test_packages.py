"""What is installed is what lies in the rooms: setuptools leaves out, without a word, what it is not told of."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOLD = PROJECT["tool"]["setuptools"]

TOPS = [ROOT / "vlq", *(ROOT / "vlq" / room for room in ("query", "service", "workers"))]  # of which three are links
FILES = {file for top in TOPS for file in top.rglob("*") if file.is_file() and file.suffix != ".pyc"}
CODE = {file for file in FILES if file.suffix == ".py"}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in CODE}
    assert set(TOLD["packages"]) == folders


def test_every_other_file_is_a_packages_data() -> None:
    data = {
        file
        for package, patterns in TOLD["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
        if file.is_file()
    }
    assert data == FILES - CODE


BROUGHT = {"huggingface-hub", "markupsafe", "pydantic", "starlette", "triton"}
"""Packages that come with others that are asked for: transformers, jinja2, fastapi and torch."""

OFFERED = {"pandas", "polars"}
"""Those that whoever wants answers so has."""


def test_what_code_imports_is_asked_for() -> None:
    """Here other packages bring it, too, where a user's environment may be without it."""
    project = PROJECT["project"]
    extras = [wanted for extra, wanted in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
    asked = {_plain(re.split(r"[\[<>=;]", wanted)[0]) for wanted in sum(extras, project["dependencies"])}
    names = {name for file in CODE for name in _imported(file)} - {"vlq"} - sys.stdlib_module_names
    owners = packages_distributions()
    unasked = [{_plain(owner) for owner in owners[name]} for name in names]
    assert {owner for found in unasked if not found & asked for owner in found} == BROUGHT | OFFERED


def _plain(package: str) -> str:
    return package.strip().lower().replace("_", "-")


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
