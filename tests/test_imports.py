"""Who may import whom, and that a question needs neither torch nor ray."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from .synthetic import make_cache

ROOT = Path(__file__).parents[1]
ROOMS = ("query", "workers", "service")

HEAVY = {"torch", "ray", "transformers", "fastapi"}
MAY_IMPORT = {"query": set(), "workers": {"torch", "ray", "transformers"}, "service": {"fastapi"}}
"""Of what is heavy, what each room may import."""

FOR_WORKERS = (
    "schema",
    "stores",
    "store",
    "cache",
    "image",
    "errors",
    "info",
    "status",
    "collector",
    "folders",
    "options",
    "shell",
    "summary",
    "language.tokens",
    "language.truth",
)
"""Of query: its schema, its reader, with what that says of a run, its images, what words mean and objects cover, its
errors, folders that are made, how commands and their options are typed, how figures are written, and the pause of
Python's collector."""


def imports(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: absolute imports only"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, names: Iterable[str]) -> bool:
    """Whether a module, or something in it, is one of those named, or lies in one."""
    return any(f"{module}.".startswith(f"{name}.") for name in names)


FILES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_rooms_import_what_they_may(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    named = imports(file)
    assert {name.split(".")[0] for name in named} & HEAVY <= MAY_IMPORT[room]
    own = {tuple(name.split(".")[1:]) for name in named if name.startswith("vlq.")}
    rooms = {parts[0] for parts in own} & set(ROOMS)
    if room == "query":
        assert rooms <= {"query"}
    if room == "workers" and not {"demo", "intervene", "look"} & {*file.parts}:  # which ask of what they read
        assert rooms <= {"query", "workers"}
        assert all(within(".".join(parts[1:]), FOR_WORKERS) for parts in own if parts[0] == "query")


def at_first(tree: ast.Module) -> Iterator[str]:
    """Every module of this package that is imported as soon as a file is, and not where something in it is used."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vlq."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ["query", "workers"])
def test_there_is_an_order_in_which_rooms_import_one_another(room: str) -> None:
    """What lies in one folder of a room counts as one."""
    graph: dict[str, set[str]] = {}
    for file in (ROOT / room).rglob("*.py"):
        place = file.relative_to(ROOT).with_suffix("").parts[1]
        named = (name.split(".") for name in at_first(ast.parse(file.read_text())))
        graph.setdefault(place, set()).update(parts[2] for parts in named if parts[1] == room)
    for place, others in graph.items():
        others.discard(place)
    graphlib.TopologicalSorter(graph).prepare()  # or it raises a CycleError that names the circle


def test_the_documentation_says_what_every_folder_holds() -> None:
    said = (ROOT / "docs" / "architecture.md").read_text()
    folders = {file.parent.relative_to(ROOT) for file in FILES if file.name == "__init__.py"}
    assert [folder for folder in sorted(folders) if f"{folder}/" not in said] == []


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh Python holds after running code."""
    ending = "\nimport sys; print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_a_question_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = f"import vlq; result = vlq.open({str(tmp_path)!r}).query(\"first_layer(token='dog')\"); assert result.rows"
    loaded = loaded_by(code)
    assert "duckdb" in loaded
    assert not loaded & {*HEAVY, "typer", "zarr", "PIL", "safetensors"}


def test_importing_the_package_is_light() -> None:
    assert not loaded_by("import vlq.query.cli") & {*HEAVY, "typer", "duckdb", "pyarrow", "obstore", "rich", "zarr"}


def test_commands_are_listed_without_what_they_run_on() -> None:
    code = (
        "import vlq.workers.commands, vlq.workers.lenses.command, vlq.workers.look.command, vlq.workers.upkeep.commands"
    )
    assert not loaded_by(code) & {*HEAVY, "duckdb", "zarr"}


def test_looking_is_imported_where_its_name_is_used() -> None:
    assert not loaded_by("import vlq; vlq.look") & {*HEAVY, "PIL", "zarr"}


def test_info_needs_no_workers(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = f"from vlq.query.cache.reader import Cache; Cache.open({str(tmp_path)!r}).info()"
    assert not loaded_by(code) & {*HEAVY, "zarr", "PIL"}


def test_an_index_is_made_without_zarr(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = (
        "from vlq.query.cache.reader import Cache; from vlq.query.cache.heads import planned\n"
        "from vlq.workers.indexing.index import compact\n"
        f"cache = Cache.open({str(tmp_path)!r})\n"
        "assert 'divergence' in compact(cache.store, cache.run, planned(cache.store))[1].tables"
    )
    assert not loaded_by(code) & {*HEAVY, "duckdb", "zarr"}


def test_an_images_page_needs_no_service(tmp_path: Path) -> None:
    """Neither that of a notebook nor that of `vlq look --page`."""
    make_cache(tmp_path)
    code = f"import vlq; assert 'srcdoc' in vlq.open({str(tmp_path)!r}).image(0)._repr_html_()"
    loaded = loaded_by(code)
    assert {"jinja2", "duckdb"} <= loaded
    assert not loaded & {*HEAVY, "starlette", "pydantic", "uvicorn", "prometheus_client"}


def test_a_service_loads_no_model_until_one_is_asked_for(tmp_path: Path) -> None:
    make_cache(tmp_path)
    started = "from vlq.service.app import create_app; from vlq.service.settings import Settings"
    loaded = loaded_by(f"{started}; create_app(Settings({{'one': {str(tmp_path)!r}}}, intervene=True))")
    assert "fastapi" in loaded
    assert not loaded & {"torch", "ray", "transformers", "safetensors"}
