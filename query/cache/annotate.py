"""Joining columns to a cache's images after they were read: what somebody labelled later, or what another model says.

The table is put as one object that its content names, and a head that names it is created: until then nobody sees any
of it, from then on everybody who opens the cache sees all of it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from vlq.query.cache.heads import renew
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import check_writable, latest_head
from vlq.query.cache.tables import parquet_bytes, read_plan
from vlq.query.errors import CacheError, InputError, printable
from vlq.query.image.embedded import is_list
from vlq.query.image.tables import IMAGE_NAMES, is_text, plain, read_table, reason
from vlq.query.schema import READ_COLUMNS, Annotation, Head, annotation_key, digest_of
from vlq.query.store import put

KEYS = ("image_id", *IMAGE_NAMES)
"""Columns of a table that can say which image a row is of, the first one there is."""

IDENTITY = ("image_id", "image", "uri")
"""Columns that say nothing but that, so that they are never joined: answers have several of them."""

OBJECTS = "objects"
NAMED = 5
"""How many images a message names."""


@dataclass(frozen=True)
class Annotated:
    """What was joined: which columns, to how many of how many images, and the rows that are of none of them."""

    columns: tuple[str, ...]
    matched: int
    images: int
    unknown: tuple[str, ...]  # what these rows call their image

    def __str__(self) -> str:
        lines = [f"{printable(', '.join(self.columns))}: joined to {self.matched:,} of {self.images:,} images."]
        if left := self.images - self.matched:
            lines.append(f"The other {left:,} have none: null." if left > 1 else "The other one has none: null.")
        if self.unknown:
            rows = "1 row names" if len(self.unknown) == 1 else f"{len(self.unknown):,} rows name"
            lines.append(f"{rows} no image of this cache: {listed(self.unknown)}.")
        return "\n".join(lines)


def annotate(cache: Cache, table: Any, *, on: str | None = None, replace: bool = False) -> Annotated:
    """Join a table's columns to the images: who opens the cache from now on has them.

    `table` is the path or URL of a .parquet, .csv, .jsonl or .json file, or a table in memory (Arrow, pandas, polars).
    Its column `on`, by default the first of KEYS that it has, says which image a row is of: by its number (`image_id`),
    its name, its URI or path, or its file name alone. Where images have prompts of their own, a row is of all questions
    about its image, or of the one that it has in their column. Columns that the images have already are refused unless
    `replace`. Raises InputError if the table does not fit, CacheError if no images are planned yet.
    """
    check_writable(cache.store, cache.run)
    table = os.fspath(table) if isinstance(table, os.PathLike) else table
    source = table if isinstance(table, str) else "The table"
    rows = read_table(table) if isinstance(table, str) else in_memory(table)
    key = key_column(rows, on, source)
    prompts = cache.run.prompt_column
    apart = (key, *IDENTITY, prompts)
    columns = tuple(name for name in rows.column_names if name not in apart)
    check_columns(rows, columns, key, source)
    head = latest_head(cache.store)
    if head is None:
        raise CacheError(f"{cache.url} has no plan yet.", "Begin with `vlq run`; the images can be annotated then.")
    plan = read_plan(cache.store, head.plan)
    found, unknown = numbers(rows, key, plan, prompts, source)
    if not any(found):
        none = "The one row" if rows.num_rows == 1 else f"None of the {rows.num_rows:,} rows"
        raise InputError(
            f"{none} of {source} is of {'no' if rows.num_rows == 1 else 'an'} image of this cache.",
            f"{key} has {listed([unknown[0]])}; the images are {listed(plan['image'].slice(0, 2).to_pylist())}.",
        )
    ids = pa.array([number for images in found for number in images], pa.uint32())
    taken = pa.array([row for row, images in enumerate(found) for _ in images], pa.int64())
    joined = rows.select(columns).take(taken).add_column(0, "image_id", ids).sort_by("image_id")
    try:
        data = parquet_bytes(joined)
    except pa.ArrowException as error:
        raise InputError(f"{source} has a column that cannot be stored: {reason(error)}.") from error
    stored = put(cache.store, annotation_key(digest_of(data)[:16]), data)
    own = plan.schema.names
    renew(cache.store, lambda newest: with_annotation(newest, Annotation(stored, columns), own, replace))
    cache.forget()
    return Annotated(columns, joined.num_rows, plan.num_rows, tuple(unknown))


def with_annotation(head: Head, added: Annotation, own: Sequence[str], may_replace: bool) -> Head:
    """The head with one more annotation, the columns that it replaces taken from those before.

    `own` are the columns that came with the images. Raises InputError if there is such a column and it must stay.
    """
    names = {name.lower() for name in added.columns}
    present = {name.lower(): name for name in own}
    present |= {name.lower(): name for annotation in head.annotations for name in annotation.columns}
    taken = [present[name] for name in names & present.keys()]
    if added in head.annotations:
        return head
    if taken and not may_replace:
        are = "is a column" if len(taken) == 1 else "are columns"
        raise InputError(
            f"{', '.join(sorted(taken))} {are} of the images already.", "To put it in its place: --replace"
        )
    kept = []
    for annotation in head.annotations:
        left = tuple(name for name in annotation.columns if name.lower() not in names)
        if left:
            kept.append(dataclasses.replace(annotation, columns=left))
    return dataclasses.replace(head, annotations=(*kept, added))


# --- the table -------------------------------------------------------------------------------------------------


def in_memory(table: Any) -> pa.Table:
    """A table of another library as Arrow's. Raises InputError."""
    try:
        if type(table).__module__.partition(".")[0] == "pandas":
            table = pa.Table.from_pandas(table, preserve_index=False)
        return plain(pa.table(table).replace_schema_metadata(None)).combine_chunks()
    except pa.ArrowException as error:
        raise InputError(f"The table has a column that cannot be stored: {reason(error)}.") from error
    except OverflowError as error:
        wide = next(name for name in table if _overflows(table[name]))
        raise InputError(
            f"The column {wide} has whole numbers from 2^63 on as Python's objects.",
            "Make it one of 64 bits without a sign, as .astype('uint64') of pandas does, or of texts.",
        ) from error
    except (TypeError, ValueError) as error:
        expected = "Give a path, an Arrow table or a data frame."
        raise InputError(f"A {type(table).__name__} is no table.", expected) from error


def _overflows(values: Any) -> bool:
    try:
        pa.array(values)
    except OverflowError:
        return True
    return False


def key_column(rows: pa.Table, on: str | None, source: str) -> str:
    """The column that says which image a row is of."""
    names = rows.column_names
    if on is not None:
        if on not in names:
            near = get_close_matches(on, names, 1)
            hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(names)}."
            raise InputError(f"{source} has no column {on}.", hint)
        return on
    key = next((name for name in KEYS if name in names), None)
    if key is None:
        raise InputError(
            f"{source} has no image column.",
            f"Expected one of {', '.join(KEYS)}. Got {', '.join(names) or 'no columns'}. Another one: --on COLUMN",
        )
    return key


def check_columns(rows: pa.Table, columns: Sequence[str], key: str, source: str) -> None:
    """Raises InputError unless the columns can stand beside the images' own."""
    if rows.num_rows == 0:
        raise InputError(f"{source} has no rows.", "Give a table with a row per image.")
    if not columns:
        raise InputError(f"{source} has no column beside {key}.", "Give a table with columns to be joined.")
    reserved = [name for name in columns if name.lower() in READ_COLUMNS]
    if reserved:
        verb = "is a column" if len(reserved) == 1 else "are columns"
        raise InputError(
            f"{', '.join(reserved)} {verb} that every image has from being read.", "Rename it, or leave it out."
        )
    folded = [name.lower() for name in rows.column_names]
    unclear = sorted({name for name in rows.column_names if not name or folded.count(name.lower()) > 1})
    if unclear:
        raise InputError(
            f"{source} has columns without a name of their own: {', '.join(map(repr, unclear))}.",
            "Give each column one, which differs from the others' not by its case alone.",
        )
    if OBJECTS in columns and not holds_objects(rows.schema.field(OBJECTS).type):
        raise InputError(
            f"The column {OBJECTS} of {source} is of type {rows.schema.field(OBJECTS).type}.",
            "Expected lists of structs with a label (a text), and perhaps a box [x0, y0, x1, y1] in pixels and a "
            "mask_rle (COCO's run lengths).",
        )


def holds_objects(kind: pa.DataType) -> bool:
    """Whether a type is that of objects: lists of structs with a label, perhaps a box and a mask."""
    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    label, box = fields.get("label"), fields.get("box", pa.null())
    if label is None or not is_text(label):
        return False
    if not (pa.types.is_null(box) or (is_list(box) and pa.types.is_primitive(box.value_type))):
        return False
    mask = fields.get("mask_rle", pa.null())
    if pa.types.is_struct(mask):
        mask = next((field.type for field in mask if field.name == "counts"), pa.bool_())
    return (
        pa.types.is_null(mask)
        or is_text(mask)
        or pa.types.is_binary(mask)
        or (is_list(mask) and pa.types.is_integer(mask.value_type))
    )


# --- which image a row is of -----------------------------------------------------------------------------------


def numbers(
    rows: pa.Table, column: str, plan: pa.Table, prompts: str | None, source: str
) -> tuple[list[list[int]], list[str]]:
    """The images' numbers for each row, none where there is no such image, and what these rows call it.

    `prompts` is the column of questions, if images have their own: then a row is of all questions about its image,
    except for those that other rows name by themselves (`a.png#2`), or of the one that it has in that column. Raises
    InputError if a row names no image or several, or if two rows are of the same one.
    """
    keys = rows[column].to_pylist()
    if (empty := next((row for row, key in enumerate(keys) if key is None or key == ""), None)) is not None:
        raise InputError(f"Row {empty} of {source} has no {column}.", "Leave such rows out.")
    look_up = by_number(plan) if column == "image_id" else by_name(plan, prompts is not None)
    kind = int if column == "image_id" else str
    wrong = next((key for key in keys if not isinstance(key, kind) or isinstance(key, bool)), None)
    if wrong is not None:
        expected = "numbers of images" if kind is int else "names, file names or URIs of images"
        hint = "A column of image numbers is called image_id." if isinstance(wrong, int) else None
        raise InputError(f"The column {column} of {source}: expected {expected}. Got {wrong!r}.", hint)
    found: list[list[int]] = []
    for row, key in enumerate(keys):
        images = look_up(key)
        if len(images) > 1:
            raise InputError(
                f"{key!r} in row {row} of {source} is the name of {len(images)} images: "
                f"{listed([questions[0] for questions in images])}.",
                "Name them by their numbers, in a column image_id, or by their URIs.",
            )
        found.append([*images[0]] if images else [])
    names, hint = [str(key) for key in keys], "Leave one of them out."
    if prompts is not None and prompts in rows.column_names and prompts != column:
        asked = rows[prompts].to_pylist()
        found = of_question(found, asked, plan, prompts)
        names = [f"{name}: {question!r}" for name, question in zip(names, asked, strict=True)]
    elif prompts is not None:
        hint = f"Which question about it a row is of is told by the column {prompts}, or by image_id."
    return once(found, names, source, hint), [name for name, own in zip(names, found, strict=True) if not own]


def of_question(found: Sequence[list[int]], asked: Sequence[Any], plan: pa.Table, prompts: str) -> list[list[int]]:
    """Of each row's images those that were asked its question."""
    questions = dict(zip(plan["image_id"].to_pylist(), plan[prompts].to_pylist(), strict=True))
    return [
        [number for number in own if questions[number] == question] for own, question in zip(found, asked, strict=True)
    ]


def once(found: Sequence[list[int]], names: Sequence[str], source: str, hint: str | None) -> list[list[int]]:
    """Each row's images but for those that another row names by themselves. Raises InputError if one is left twice."""
    by_itself = {own[0] for own in found if len(own) == 1}
    left = [own if len(own) == 1 else [number for number in own if number not in by_itself] for own in found]
    first_row: dict[int, int] = {}
    for row, own in enumerate(left):
        for number in own:
            if number in first_row:
                message = f"Rows {first_row[number]} and {row} of {source} are of the same image, {names[row]!r}."
                raise InputError(message, hint)
            first_row[number] = row
    return left


LookUp = Callable[[Any], Sequence[Sequence[int]]]
"""From what a table calls an image to the images that are called so: of each its number, or the numbers of all
questions about it."""


def by_number(plan: pa.Table) -> LookUp:
    present = set(plan["image_id"].to_pylist())
    return lambda key: [[key]] if key in present else []


def by_name(plan: pa.Table, of_questions: bool) -> LookUp:
    """By name; where no image has that name by URI, by path, and in the end by the name of the file alone.

    `of_questions`: there may be several about an image, whose first one has the image's name.
    """
    ids, names, uris = (plan[column].to_pylist() for column in ("image_id", "image", "uri"))
    questions: dict[Any, list[int]] = defaultdict(list)
    for number, uri in zip(ids, uris, strict=True):
        questions[uri if of_questions else number].append(number)
    tables: list[dict[str, list[Sequence[int]]]] = [defaultdict(list) for _ in range(4)]
    for number, name, uri in zip(ids, names, uris, strict=True):
        images = questions[uri if of_questions else number]
        is_first = images[0] == number
        own = images if is_first else [number]
        tables[0][name].append(own)
        tables[3][name.rpartition("/")[2]].append(own)
        if is_first:
            tables[1][uri].append(images)
            tables[2][uri.removeprefix("file://")].append(images)
    return lambda key: next((table[key] for table in tables if key in table), [])


def listed(names: Sequence[Any]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more
