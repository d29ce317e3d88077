"""`vlq run --patches`: which patches of each image are read, by a column of the manifest.

The column holds true objects, as `query.truth` knows them, of which the patches are read that they cover; or lists of
patches' numbers. Images for which it has nothing have no readings at patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from vlq.query.errors import InputError
from vlq.query.language.truth import OBJECTS, covered_in, named, objects_in
from vlq.query.schema import Run
from vlq.workers.corpus import column_called

if TYPE_CHECKING:
    from vlq.workers.extract import Prepared

EXPECTED = "Expected objects (label, with a box or a mask_rle) or lists of patches' numbers: see docs/running.md."

NAMED = 10
"""So many labels are named."""


# --- before a run ----------------------------------------------------------------------------------------------


def choice_of(option: str, corpus: pa.Table, called: Mapping[str, str], source: str) -> tuple[str, str | None]:
    """The column that `--patches` names, as it is called in the corpus, and the label, if it names one.

    `corpus` and `called` are those of `corpus.list_manifest`. Raises InputError if there is no such column, or it tells
    of no patch.
    """
    column, label = option, None
    if option not in called and ":" in option:
        column, _, label = option.partition(":")
    name = column_called(column, called, source, "--patches")
    values, where = corpus[name].combine_chunks(), f"The column {column} of {source}"
    if values.null_count == len(values) or (_is_list(values.type) and pa.types.is_null(values.type.value_type)):
        raise InputError(f"{where} is empty: no patch of any image would be read.", EXPECTED)
    if _holds_numbers(values.type):
        if label is not None:
            raise InputError(f"{where} holds numbers, which have no labels.", f"Give it alone: --patches {column}")
        _check_numbers(corpus, name, where)
    elif objects_in(values):
        _check_labels(values, label, where)
    else:
        raise InputError(f"{where} is of type {values.type}, which tells of no patches.", EXPECTED)
    return name, label


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _holds_numbers(kind: pa.DataType) -> bool:
    return _is_list(kind) and pa.types.is_integer(kind.value_type)


def _check_numbers(corpus: pa.Table, name: str, where: str) -> None:
    if not pc.sum(pc.list_value_length(corpus[name])).as_py():
        raise InputError(f"{where} names no patch of any image: none would be read.", EXPECTED)
    for row, image, patches in _rows(corpus, name):
        for patch in patches:
            if patch is None or patch < 0:
                shown = "null" if patch is None else patch
                raise InputError(
                    f"{where} has {shown} for {image} (row {row}), which is no number of a patch.",
                    "They count from 0, row by row from the upper left.",
                )


def _check_labels(values: pa.Array, label: str | None, where: str) -> None:
    labels = pc.unique(pc.struct_field(values.flatten(), "label")).drop_null().to_pylist()
    if not len(values.flatten()):
        raise InputError(f"{where} has no object of any image: no patch would be read.", EXPECTED)
    if label is not None and not named([label], labels):
        near = get_close_matches(label, labels, 1)
        shown = ", ".join(sorted(labels)[:NAMED]) + (", ..." if len(labels) > NAMED else "")
        hint = f"Did you mean {near[0]}?" if near else f"The labels are: {shown or 'none'}."
        raise InputError(f"{where} has no object that is labelled {label}.", hint)


def check_grid(run: Run, corpus: pa.Table) -> None:
    """Raises InputError if the corpus names a patch that no image of this run has, with the image that it is of."""
    if run.patches_column is None or not _holds_numbers(corpus[run.patches_column].type):
        return
    grid = f"The grid is {run.grid[0]} x {run.grid[1]}, its" if run.grid else "The largest grids'"
    for row, image, patches in _rows(corpus, run.patches_column):
        if (highest := max(filter(None, patches), default=0)) >= run.patches:
            raise InputError(
                f"The column {run.patches_column} has {highest} for {image} (row {row}), and there is no such patch. "
                f"{grid} patches are 0 to {run.patches - 1}.",
                "Correct the manifest, and run the same again.",
            )


def _rows(corpus: pa.Table, name: str) -> Iterator[tuple[int, str, list[int | None]]]:
    """Row, image and patches of each image that has a list of them."""
    for row, (image, patches) in enumerate(zip(corpus["image"].to_pylist(), corpus[name].to_pylist(), strict=True)):
        if patches is not None:
            yield row, image, patches


# --- while images are read -------------------------------------------------------------------------------------


def chosen_patches(
    run: Run, rows: pa.Table, prepared: Sequence[Prepared], places: Sequence[int]
) -> dict[int, list[int] | str]:
    """The patches that are to be read of some images, ascending; a text says why that cannot be told of one.

    `rows` are of the plan, `prepared` the images of those rows, as far as they are prepared, `places` which rows.
    """
    name = run.patches_column
    assert name is not None
    if not places:
        return {}
    if _holds_numbers(rows[name].type):
        return {row: _inside(rows[name][row].as_py() or [], prepared[row], name) for row in places}
    try:
        found = covered_in(_images(rows, name, prepared, places), run.patches_label)
    except InputError as error:
        if len(places) == 1:
            return {places[0]: error.message}
        # It is one of them: the others are as they are.
        return {row: one for place in places for row, one in chosen_patches(run, rows, prepared, [place]).items()}
    return {row: found.get(row, []) for row in places}


def _inside(patches: list[int], image: Prepared, column: str) -> list[int] | str:
    assert image.grid is not None
    beyond = max(patches, default=0)
    if beyond >= prod(image.grid):
        rows, columns = image.grid
        return f"its {column} has {beyond}, and its grid of {rows} x {columns} the patches 0 to {rows * columns - 1}"
    return sorted({*patches})


def _images(rows: pa.Table, name: str, prepared: Sequence[Prepared], places: Sequence[int]) -> pa.Table:
    """What `covered_in` takes of some images, which it numbers by their rows."""
    from vlq.workers.extract import GRID, TRANSFORM

    images = [prepared[row] for row in places]
    return pa.table(
        {
            "image_id": pa.array(places, pa.uint32()),
            "image": rows["image"].take(pa.array(places)),
            "width": pa.array([image.size and image.size[0] for image in images], pa.uint32()),
            "height": pa.array([image.size and image.size[1] for image in images], pa.uint32()),
            "transform": pa.array([image.transform and asdict(image.transform) for image in images], TRANSFORM),
            "grid": pa.array([image.grid for image in images], GRID),
            "error": pa.nulls(len(images), pa.string()),
            OBJECTS: rows[name].take(pa.array(places)),
        }
    )
