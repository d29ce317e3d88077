"""The table of mistakes: every example is asked, every raise goes through the table, and the page shows it."""

from __future__ import annotations

import ast
import importlib
import inspect
import shlex
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models

import vlq
from vlq.query import errors
from vlq.query.cli import is_query, main
from vlq.query.errors import QueryError, SqlMistake, VlqError
from vlq.query.language.parse import FOUND, parse
from vlq.query.language.reference import mistakes_page as page
from vlq.query.mistakes import CHAPTERS
from vlq.query.mistakes.table import DEMO, Example, Mistake
from vlq.query.pointed import pointed
from vlq.query.schema import RUN, TOKENIZER, VOCABULARY, digest_of
from vlq.query.store import open_store
from vlq.workers.models.vocabulary import vocabulary_hash

from ..studies import finish, make_study, random_curves, random_effects
from ..synthetic import make_cache, make_run, parquet

ROOT = Path(__file__).parents[2]
QUERY = ROOT / "query"
MISTAKES = {
    f"{chapter.__name__.rpartition('.')[2]}.{name}": mistake
    for chapter in CHAPTERS.values()
    for name, mistake in vars(chapter).items()
    if isinstance(mistake, Mistake)
}
EXAMPLES = [(name, mistake, example) for name, mistake in MISTAKES.items() for example in mistake.examples]


# --- caches ----------------------------------------------------------------------------------------------------


def save(folder: Path, vocabulary: pa.Table, tokenizer: bytes | None, **shape: Any) -> None:
    """A cache of random readings with this vocabulary and tokenizer."""
    made = {key: shape.pop(key) for key in ("images", "names", "columns") if key in shape}
    checksums = {VOCABULARY: digest_of(parquet(vocabulary))}
    if tokenizer is not None:
        checksums[TOKENIZER] = digest_of(tokenizer)
    run = make_run(
        vocabulary_size=len(vocabulary),
        vocabulary_hash=vocabulary_hash(vocabulary),
        checksums=checksums,
        **shape,
    )
    if made:
        make_cache(folder, run, vocabulary=vocabulary, **made)
    else:
        store = open_store(str(folder), create=True)
        store.create(VOCABULARY, parquet(vocabulary))
        store.create(RUN, run.to_bytes())
    if tokenizer is not None:
        open_store(str(folder)).create(TOKENIZER, tokenizer)


def vocabulary_of(tokenizer: Tokenizer, size: int) -> pa.Table:
    """The tokenizer's pieces as a cache's vocabulary."""
    pieces = [tokenizer.id_to_token(id) for id in range(size)]
    texts = ["\n" if piece == "<0x0A>" else piece and piece.replace("▁", " ") for piece in pieces]
    return pa.table(
        {
            "id": pa.array(range(size), pa.uint32()),
            "piece": pa.array(pieces, pa.string()),
            "text": pa.array(texts, pa.string()),
            "word_start": pa.array([piece is not None and piece.startswith("▁") and piece != "▁" for piece in pieces]),
            "special": pa.array([piece in ("<s>", "</s>", "<unk>", "<image>") for piece in pieces]),
        }
    )


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`demo` has the demo's shape and vocabulary; the others lack what some mistakes are about."""
    folder = tmp_path_factory.mktemp("caches")
    text = (ROOT / "workers" / "demo" / "model" / "tokenizer.json").read_bytes()
    vocabulary = vocabulary_of(Tokenizer.from_str(text.decode()), 896)
    objects = [[{"label": label, "box": [0.0, 0.0, 50.0, 50.0], "mask_rle": None}] for label in ("dog", "cat", "car")]
    columns = {"label": ["beach", "snow", "grass"], "objects": objects}
    save(folder / DEMO, vocabulary, text, layers=9, grid=(8, 8), k=20, images=3, columns=columns)
    (folder / "limited").symlink_to(DEMO)
    save(folder / "prompts", vocabulary, text, at=("prompt",), images=2)
    save(folder / "empty", vocabulary, text)
    make_cache(folder / "other", make_run(prompt_ids=(0, 1)), images=2, columns={"label": [1, 2]})
    columns = {"objects": objects[1:]}
    save(folder / "studied", vocabulary, text, images=2, columns=columns)
    store, run = open_store(str(folder / "studied")), make_run()
    (cat,) = (id for id, piece in enumerate(vocabulary["piece"].to_pylist()) if piece == "▁cat")
    for patches, buffer in (("readings('cat')", 0), ("'cat'", 1)):
        study = make_study(run, patches=patches, target="'cat'", target_ids=(cat,), buffer=buffer)
        finish(store, study, random_effects(study, [0], 12))
    told = {"intervention": "knockout", "windows": ((1, 2), (2, 3)), "to": "last"}
    study = make_study(run, patches="'cat'", target="'▁cat'", target_ids=(cat,), **told)
    finish(store, study, random_curves(study, [0], 12))
    pieces = {"▁": 0, "▁dog": 1, "d": 2, "o": 3, "g": 4}
    save(folder / "layers", vocabulary, text, layers=33, read_layers=(0, 8, *range(16, 33)), images=2)
    save(folder / "tracked", vocabulary, text, k=20, images=2, tracked=(286, 287), tracked_pieces=("▁dog", "▁ear"))
    bare = Tokenizer(models.BPE(vocab=pieces, merges=[]))  # which has nothing for what it does not know
    save(
        folder / "twins",
        vocabulary_of(bare, 5),
        bare.to_str().encode(),
        k=2,
        images=3,
        names=["one.png", "two.png"] * 2,
    )
    return folder


# --- every example ---------------------------------------------------------------------------------------------


def agrees(hint: str, expected: str) -> bool:
    return hint.startswith(expected[:-3]) if expected.endswith("...") else hint == expected


def asked(name: str, mistake: Mistake, example: Example) -> Any:
    """A test's arguments. A service names corpora and commands otherwise, and knows nothing of what Python writes."""
    is_of_here = name in ("values.NO_STUDY", "values.EMPTY_CACHE")
    is_of_here |= name == "conditions.NO_CONDITION" and example.text.startswith(">>> ")
    marks = [pytest.mark.here("what a cache and its commands are called")] if is_of_here else []
    return pytest.param(name, mistake, example, id=f"{name}: {example.text:.60}", marks=marks)


@pytest.mark.parametrize(("name", "mistake", "example"), [asked(*example) for example in EXAMPLES])
def test_an_example(
    name: str,
    mistake: Mistake,
    example: Example,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(caches)
    if example.cache == "limited":
        monkeypatch.setattr("vlq.query.answers.result.LISTED_CELLS", 1000)
    monkeypatch.setenv("VLQ_CACHE", example.cache)
    message, hint = mistake.said(example)
    if example.text.startswith("$ vlq "):
        arguments = shlex.split(example.text)[2:]
    elif example.text.startswith(">>> "):
        with pytest.raises(VlqError) as caught:
            eval(example.text.removeprefix(">>> "), {"vlq": vlq, "corpus": vlq.open(example.cache)})
        assert type(caught.value) is mistake.kind
        assert (caught.value.message, agrees(caught.value.hint or "", hint)) == (message, True)
        return
    else:
        with pytest.raises(VlqError) as caught:
            str(vlq.open(example.cache).query(example.text))
        error = caught.value
        assert type(error) is mistake.kind
        assert (error.message, agrees(error.hint or "", hint)) == (message, True)
        assert error.span == example.span
        if example.span:
            assert error.query == example.text.encode(errors="replace").decode()
        arguments = [example.text]
        if not is_query(arguments):
            return
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"vlq: {message}\n")
    carets = "\n".join(pointed(example.text.encode(errors="replace").decode(), example.span)) if example.span else ""
    assert agrees(printed.err.removeprefix(f"vlq: {message}\n{carets}").strip("\n"), hint)


SYNTAX = [(mistake, example) for name, mistake, example in EXAMPLES if name.startswith("syntax.") and example.span]


@pytest.mark.parametrize(("mistake", "example"), SYNTAX, ids=[example.text[:60] for _, example in SYNTAX])
def test_space_before_a_query_moves_the_caret_along(mistake: Mistake, example: Example) -> None:
    with pytest.raises(mistake.kind) as caught:
        parse(f"\n\n  {example.text}  ")
    start, end = example.span or (0, 0)
    assert caught.value.span == (start + 4, end + 4)


# --- the table is whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mistake"), MISTAKES.items())
def test_a_mistake_has_examples_of_all_that_it_says(name: str, mistake: Mistake) -> None:
    assert mistake.examples
    hints = [mistake.said(example)[1] for example in mistake.examples]
    # What it says where something near is known, and what where nothing is.
    for template in {mistake.hint, mistake.near} - {""}:
        begin = template.partition("{")[0]
        assert any(hint.startswith(begin) for hint in hints), template


KINDS = {
    name
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, QueryError) and kind is not SqlMistake  # whose words are DuckDB's
}


def trees() -> dict[Path, ast.Module]:
    files = sorted(set(QUERY.rglob("*.py")) - set((QUERY / "mistakes").glob("*.py")))
    assert len(files) > 50
    return {file: ast.parse(file.read_text()) for file in files}


def test_every_error_of_a_query_is_in_the_table() -> None:
    made = [
        f"{file.relative_to(QUERY)}:{node.lineno}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS
    ]
    assert made == []


IMPLIED = {"got", "function", "signature"}
"""What `Scope.error` and the registry fill in themselves."""


def test_every_mistake_is_raised_with_all_that_its_texts_are_filled_with() -> None:
    seen: set[int] = set()
    for file, tree in trees().items():
        module = importlib.import_module(".".join(("vlq", *file.relative_to(ROOT).with_suffix("").parts)))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
                continue
            chosen = [*call.args[:1], *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
            for mistake in (found for part in chosen for found in named(part, module)):
                seen.add(id(mistake))
                given = {word.arg for word in call.keywords}
                missing = fields(mistake.message + mistake.hint) - {*given, *IMPLIED}
                assert not missing or None in given, f"{file.name}:{call.lineno}: {missing}"
    seen |= {id(value) for value in (row for _, row in FOUND)}
    assert [name for name, mistake in MISTAKES.items() if id(mistake) not in seen] == []


def named(part: ast.expr, module: ModuleType) -> list[Mistake]:
    """The mistakes that an expression is: one by its name, by its module's, or of two that a condition chooses from."""
    match part:
        case ast.IfExp():
            return [*named(part.body, module), *named(part.orelse, module)]
        case ast.Name():
            found = getattr(module, part.id, None)
        case ast.Attribute(value=ast.Name(id=name)):
            found = getattr(getattr(module, name, None), part.attr, None)
        case _:
            found = None
    return [found] if isinstance(found, Mistake) else []


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def test_the_page_shows_the_table() -> None:
    assert (ROOT / "docs" / "mistakes.md").read_text() == page()
