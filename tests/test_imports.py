"""Who may import whom, and that a question needs neither torch nor ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .synthetic import make_cache

ROOT = Path(__file__).parents[1]
ROOMS = ("query", "workers", "service")

HEAVY = {"torch", "ray", "transformers", "fastapi"}
MAY_IMPORT = {"query": set(), "workers": {"torch", "ray", "transformers"}, "service": {"fastapi"}}
"""Of what is heavy, what each room may import."""

FOR_WORKERS = {
    "schema",
    "store",
    "arrays",
    "cache",
    "collector",
    "sums",
    "errors",
    "geometry",
    "heads",
    "info",
    "pictures",
    "shell",
    "status",
    "studies",
    "tables",
    "tokens",
    "chunks",
    "truth",
    "stores",
    "unembed",
}
"""Of query: its schema, its reader, with what that says of a run, what words mean and objects cover, its errors,
how commands are typed, and the pause of Python's collector."""


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
        assert {parts[1] for parts in own if parts[0] == "query"} <= FOR_WORKERS


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
    code = "import vlq.workers.commands, vlq.workers.lenses.command, vlq.workers.look.command, vlq.workers.upkeep"
    assert not loaded_by(code) & {*HEAVY, "duckdb", "zarr"}


def test_looking_is_imported_where_its_name_is_used() -> None:
    assert not loaded_by("import vlq; vlq.look") & {*HEAVY, "PIL", "zarr"}


def test_info_needs_no_workers(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = f"from vlq.query.cache import Cache; Cache.open({str(tmp_path)!r}).info()"
    assert not loaded_by(code) & {*HEAVY, "zarr", "PIL"}


def test_an_index_is_made_without_zarr(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = (
        "from vlq.query.cache import Cache; from vlq.query.heads import planned\n"
        "from vlq.workers.index import compact\n"
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
