"""What is installed is what lies in the rooms: setuptools leaves out, without a word, what it is not told of."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

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
