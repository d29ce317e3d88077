"""Random corpora of several shapes, and random arguments for them, for functions that are held against brute force."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import assume
from hypothesis import strategies as st

import vlq
from vlq.query.answers.result import Result
from vlq.query.client.corpus import Corpus
from vlq.query.image.geometry import patch_box
from vlq.query.language.compile import Derived, Statement
from vlq.query.schema import Run, Transform

from ..brute import Site, read_site
from ..examples import examples
from ..synthetic import MOST_PROMPT, WORDS, head_of, make_cache, make_run

SNAPSHOTS = Path(__file__).parent / "snapshots"

LABELS = ["beach", "grass", "snow"]

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

SHAPES: dict[str, dict[str, Any]] = {
    "several shards": {"run": {}, "images": 10, "failed": [3, 4]},
    "one patch": {"run": {"grid": (1, 1), "layers": 2, "k": 3}, "images": 5, "seed": 1, "failed": [0]},
    "the whole vocabulary stored": {
        "run": {"grid": (2, 2), "layers": 4, "k": len(WORDS) + 6},
        "images": 6,
        "seed": 2,
        "transform": Transform(0.5, 0.5, -28.0, 0.0, 112, 112),  # a wide image, resized and cropped
        "pixels": (336, 224),
    },
    "only the best": {
        "run": {"grid": (5, 3), "layers": 6, "k": 1, "dtype": "float16"},
        "images": 9,
        "seed": 3,
        "transform": Transform(0.25, 0.25, 0.0, 30.0, 112, 112),  # padded: a row of patches shows nothing but that
        "pixels": (448, 208),
    },
    "wide ids, not compacted": {
        "run": {"grid": (3, 2), "layers": 5, "k": 6, "vocabulary_size": 70_000},
        "images": 6,
        "seed": 5,
        "failed": [5],
        "seal": False,
    },
    "grids of their own": {
        "run": {"grid": None, "patches": 14, "layers": 4, "k": 3},
        "images": 11,
        "seed": 6,
        "failed": [2],
        "transform": Transform(0.25, 0.5, 0.0, 10.0, 112, 112),
        "pixels": (400, 190),
    },
    "with answers": {
        "run": {"at": ("patch", "prompt", "answer"), "answer": 3, "grid": (2, 3), "layers": 4, "k": 4},
        "images": 10,
        "seed": 7,
        "failed": [6],
    },
    "tracked": {
        "run": {"grid": (2, 4), "layers": 4, "k": 3, "tracked": (0, 1, 2, 5, 11), "tracked_pieces": ("",) * 5},
        "images": 9,
        "seed": 9,
        "failed": [4],
    },
    "tracked, not compacted": {
        "run": {"grid": None, "patches": 9, "layers": 5, "read_layers": (0, 2, 3), "k": 2, "dtype": "float16"}
        | {"tracked": (1, 3, 4), "tracked_pieces": ("",) * 3},
        "images": 7,
        "seed": 10,
        "failed": [5],
        "seal": False,
    },
    "residuals": {
        "run": {"grid": (2, 3), "layers": 4, "read_layers": (0, 1, 3), "k": 3, "keep": "residual"},
        "images": 9,
        "seed": 12,
        "failed": [4],
    },
    "residuals, not compacted": {
        "run": {"grid": None, "patches": 8, "layers": 3, "k": 2, "keep": "residual"}
        | {"at": ("patch", "prompt", "answer"), "answer": 2, "prompt_column": "question", "prompt_ids": ()},
        "images": 6,
        "seed": 13,
        "failed": [0],
        "seal": False,
    },
    "some layers": {
        "run": {"grid": (3, 2), "layers": 8, "read_layers": (1, 2, 4, 6), "k": 3, "vocabulary_size": len(WORDS) + 8},
        "images": 9,
        "seed": 8,
        "failed": [0, 7],
    },
    "some patches": {
        "run": {"patches_column": "objects", "grid": (3, 4), "layers": 4, "k": 3},
        "images": 12,
        "seed": 11,
        "failed": [5],
        "transform": Transform(0.5, 0.5, -28.0, 0.0, 112, 112),
        "pixels": (336, 224),
    },
    "some patches of grids of their own": {
        "run": {"patches_column": "objects", "grid": None, "patches": 9, "layers": 5, "read_layers": (0, 2, 3), "k": 2}
        | {"tracked": (1, 3, 4), "tracked_pieces": ("",) * 3, "dtype": "float16"},
        "images": 11,
        "seed": 12,
        "failed": [3],
        "seal": False,
    },
    "prompts of their own": {
        "run": {"prompt_column": "question", "prompt_ids": (), "grid": (2, 2), "layers": 4, "k": 4},
        "images": 12,
        "seed": 9,
        "failed": [5],
    },
}


@dataclass(frozen=True)
class Places:
    """What `patches=` can be, and by brute force the patches that it stands for."""

    argument: Any
    mask: np.ndarray  # (image, patch)
    by_image: bool = True  # whether images have patches of their own

    def summary(self, images: np.ndarray) -> dict[str, Any]:
        """What a summary says of them, of chosen images."""
        return {"with_patches": (self.mask.any(1) & images).sum()} if self.by_image else {}


@dataclass
class Case:
    """A corpus, and what its arrays and image table hold."""

    corpus: Corpus
    sites: dict[str, Site]
    names: list[str]
    good: np.ndarray  # (image,): whether it has readings
    labels: list[str]
    bright: list[bool | None]
    objects: list[list[dict[str, Any]]]
    grids: list[tuple[int, int]]  # rows and columns of each image; none of one that failed
    answers: list[list[int]]  # ids of each image's answer; none of one that failed
    prompts: list[list[int]] | None  # of each image's own prompt, if images have some; none of one that failed
    read: list[list[int]] | None  # the patches that were read of each image, if not all were; none of one that failed
    transform: Transform
    pixels: tuple[int, int]

    @property
    def run(self) -> Run:
        return self.corpus.cache.run

    @cached_property
    def pieces(self) -> dict[int, tuple[str | None, str | None]]:
        """(piece, text) by id."""
        vocabulary = self.corpus.vocabulary
        return {id: (vocabulary.token(id).piece, vocabulary.token(id).text) for id in range(len(vocabulary))}

    def at(self, site: str) -> np.ndarray:
        """(image, position): whether the image has such a position at the site, and it was read."""
        most = 1 if site == "last" else most_of(self.run, site)
        if site == "patch" and self.read is not None:
            return np.array([np.isin(np.arange(most), patches) for patches in self.read])
        counts = {
            "patch": [rows * columns for rows, columns in self.grids],
            "answer": [*map(len, self.answers)],
            **({} if self.prompts is None else {"prompt": [*map(len, self.prompts)]}),
        }
        there: np.ndarray = np.arange(most) < np.array(counts.get(site, [most] * len(self.names)))[:, None]
        return there

    @property
    def there(self) -> np.ndarray:
        """(image, patch): whether the image has such a patch, and it was read."""
        return self.at("patch")

    def chosen(self, condition: str | None, site: str = "patch") -> np.ndarray:
        """(image,): the images with readings at the site for which a condition of `conditions` holds."""
        good = self.good
        if site == "patch" and self.read is not None:
            good = good & self.there.any(1)
        return good if condition is None else good & (np.array(self.labels) == condition)

    def hits(self, site: str, ids: Sequence[int], arguments: dict[str, Any]) -> np.ndarray:
        """(image, layer, position): what counts as read, in chosen images and layers with enough positions."""
        best, probability = self.sites[site].cells(ids)
        hit = best <= arguments["rank"]
        if arguments["min_prob"] is not None:
            hit &= probability >= arguments["min_prob"]
        hit &= self.chosen(arguments["images"], site)[:, None, None]
        if (places := arguments.get("patches")) is not None:
            hit &= places.mask[:, None, :]
        counted = layers_of(arguments.get("layers"), self.run)
        hit &= np.isin(np.arange(self.run.layers), counted)[None, :, None]
        hit &= hit.sum(-1, keepdims=True) >= arguments["min_patches"]
        return hit


def make_cases(folder: Path) -> dict[str, Case]:
    made = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        options = dict(shape)
        run, images = make_run(**options.pop("run")), options["images"]
        rng = np.random.default_rng(number)
        labels = [LABELS[i % 3] for i in range(images)]
        objects = [random_objects(rng, options.get("pixels", (112, 112))) for _ in range(images)]
        bright = [[True, False, None][int(i)] for i in rng.choice(3, images, p=[0.4, 0.4, 0.2])]
        cache = folder / str(number)
        make_cache(cache, run, columns={"label": labels, "bright": bright, "objects": objects}, **options)
        shards = sorted(str(path.parent.relative_to(cache)) for path in cache.glob("shards/*/zarr.json"))
        prompts = ids_of(cache, "prompt_ids") if run.prompt_column else None
        head = head_of(run.vocabulary_size) if run.keep == "residual" else None
        good = np.ones(images, bool)
        good[options.get("failed", [])] = False
        made[name] = Case(
            vlq.open(str(cache)),
            {
                site: read_site(cache, shards, site, most_of(run, site), prompts, run.tracked, head)
                for site in run.positions
            },
            [f"{(i * 7919) % 1000:03d}-{i}.png" for i in range(images)],
            good,
            labels,
            bright,
            objects,
            grids_of(cache),
            ids_of(cache, "answer_ids"),
            prompts,
            ids_of(cache, "patches_read") if run.patches_column else None,
            options.get("transform", Transform(1.0, 1.0, 0.0, 0.0, 112, 112)),
            options.get("pixels", (112, 112)),
        )
    return made


def grids_of(cache: Path) -> list[tuple[int, int]]:
    """Of each image its rows and columns, from the shards' image tables."""
    tables = [pq.read_table(path) for path in sorted(cache.glob("images/*.parquet"))]
    grids = [grid for table in tables for grid in table["grid"].to_pylist()]
    return [(grid["rows"], grid["columns"]) if grid else (0, 0) for grid in grids]


def ids_of(cache: Path, column: str) -> list[list[int]]:
    """Of each image a list of numbers, such as its answer's ids, from the shards' image tables."""
    rows = [row for path in sorted(cache.glob("images/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [row.get(column) or [] for row in rows]


def most_of(run: Run, site: str) -> int:
    """How many positions a site's arrays are filled up to."""
    if run.prompt_column is not None and site in ("prompt", "last"):
        return MOST_PROMPT
    return run.positions["prompt" if site == "last" else site]


def sites() -> st.SearchStrategy[str]:
    """Where tokens are asked for; of a case that was not read there, `of_case` makes another of it."""
    return st.sampled_from(["patch", "patch", "last", "prompt", "answer"])


def of_case(case: Case, site: str) -> str:
    return site if site in case.run.positions else "last"


def random_objects(rng: np.random.Generator, pixels: tuple[int, int]) -> list[dict[str, Any]]:
    found = []
    for label in rng.choice(["dog", "Dog", "cat", "EAR", "rock", "nothing"], 4):
        x, y = (np.sort(rng.uniform(0, length, 2)) for length in pixels)
        box = [float(x[0]), float(y[0]), float(x[1]), float(y[1])]
        found.append({"label": str(label), "box": box, "mask_rle": None})
    return found


def flood_fill(patches: list[int], columns: int) -> int:
    """How many connected regions the patches form."""
    left = {divmod(patch, columns) for patch in patches}
    found = 0
    while left:
        found += 1
        reached = [left.pop()]
        while reached:
            row, column = reached.pop()
            for beside in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if beside in left:
                    left.remove(beside)
                    reached.append(beside)
    return found


def layers_of(layers: Any, run: Run) -> list[int]:
    """The layers that `layers=` means, of those that were read."""
    match layers:
        case None:
            return list(run.read_layers)
        case int():
            return [layers]
        case tuple():
            return [layer for layer in range(layers[0], layers[1] + 1) if layer in run.read_layers]
    return sorted(set(layers))


# --- random questions ------------------------------------------------------------------------------------------

SETTINGS = examples(100)

shapes = st.sampled_from(list(SHAPES))


def token_ids(case: Case) -> st.SearchStrategy[list[int]]:
    """One to three ids, most of them read somewhere."""
    read = np.unique(case.sites["patch"].token[case.good])
    read = read[read != case.run.no_id]
    some = st.integers(0, len(read) - 1).map(lambda i: int(read[i])) | st.integers(0, len(WORDS) + 5)
    return st.lists(some, min_size=1, max_size=3, unique=True)


def layer_choices(run: Run) -> st.SearchStrategy[Any]:
    layer = st.sampled_from(run.read_layers)
    windows = [(low, high) for high in range(run.layers) for low in range(high + 1)]
    window = st.sampled_from([window for window in windows if layers_of(window, run)])
    return st.none() | layer | window | st.lists(layer, min_size=1, max_size=3)


def reading_arguments(draw: st.DrawFn, case: Case, site: str = "patch") -> dict[str, Any]:
    """What narrows a reading; `images` is a label or None, `patches` are Places or None."""
    places = draw(st.none() | st.composite(places_of)(case)) if site == "patch" else None
    most = case.run.positions[site]
    if places is not None and isinstance(places.argument, int | list):  # numbers of patches
        most = len({*np.atleast_1d(places.argument).tolist()})
    return {
        "rank": draw(st.just(1) | st.integers(1, case.run.k)),
        "min_prob": draw(st.none() | st.floats(0.001, 0.5)),
        "patches": places,
        "min_patches": draw(st.sampled_from(range(1, 1 + min(3, most)))),
        "images": draw(st.sampled_from([None, None, *LABELS])),
    }


def places_of(draw: st.DrawFn, case: Case) -> Places:
    """Patches by number, by label, of a token's location, of rows by patch, or where a condition holds."""
    ids, run = draw(token_ids(case)), case.run
    every = {"rank": run.k, "min_prob": None, "min_patches": 1, "images": None}
    hit = case.hits("patch", ids, every)  # (image, layer, patch)
    match draw(st.sampled_from(["numbers", "label", "locate", "readings", "first_layer", "condition"])):
        case "numbers":
            numbers = draw(st.lists(st.integers(0, run.positions["patch"] - 1), min_size=1, max_size=6))
            mask = np.zeros((len(case.names), run.positions["patch"]), bool)
            mask[:, numbers] = True
            own = "patch" in run.uneven
            return Places(numbers[0] if len(numbers) == 1 else numbers, mask & case.there if own else mask, own)
        case "label":
            label = draw(st.sampled_from(["dog", "DOG", "cat", "nothing"]))
            known = {item["label"].lower() for objects in case.objects for item in objects}
            assume(label.lower() in known)
            return Places(label, covered(case, label))
        case "locate":
            layer = draw(st.sampled_from(run.read_layers))
            node = vlq.locate(one_or_list(ids), rank=run.k, layer=layer)
            whole = node.where(vlq.col("layer") >= 0)  # the same rows by another way
            return Places(whole if draw(st.booleans()) else node, hit[:, layer])
        case "readings":
            return Places(vlq.readings(one_or_list(ids), rank=run.k), hit.any(1))
        case "first_layer":
            layer = draw(st.sampled_from(run.read_layers))
            node = vlq.first_layer(one_or_list(ids), rank=run.k, by="patch", layers=(0, layer))
            return Places(node, hit[:, : layer + 1].any(1))
    first = vlq.first_layer(one_or_list(ids), rank=run.k, by="patch")
    return Places(first > 0, hit.any(1) & ~hit[:, 0])


def covered(case: Case, label: str) -> np.ndarray:
    """(image, patch): whether an object of the label covers half or more of what the patch shows of the image."""
    mask = np.zeros((len(case.names), case.run.positions["patch"]), bool)
    for image in np.flatnonzero(case.good):
        for patch in np.flatnonzero(case.there[image]):
            x0, y0, x1, y1 = patch_box(case.transform, case.pixels, case.grids[image], patch)
            for item in case.objects[image]:
                a0, b0, a1, b1 = item["box"]
                shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
                if item["label"].lower() == label.lower() and shared > 0:
                    mask[image, patch] |= shared >= (x1 - x0) * (y1 - y0) / 2
    return mask


def asked(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same as the language takes them."""
    label, places = arguments.get("images"), arguments.get("patches")
    taken = arguments | {"images": None if label is None else vlq.col("label") == label}
    return taken if places is None else taken | {"patches": places.argument}


def with_patches(case: Case, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a summary says of `patches=`."""
    places = arguments.get("patches")
    return {} if places is None else places.summary(case.chosen(arguments["images"]))


def one_or_list(ids: list[int]) -> int | list[int]:
    return ids if len(ids) > 1 else ids[0]


def snapshot(result: Result, text: str) -> str:
    """What a snapshot of the SQL holds: before the statement those whose rows Python makes its tables of."""
    sources = [
        f"-- {name} is made of\n{written(loaded.source)}\n"
        for name, loaded in result.statement.loaded.items()
        if isinstance(loaded, Derived)
    ]
    return f"-- {text}\n{''.join(sources)}{written(result.statement)}\n"


def written(statement: Statement) -> str:
    values = "\n".join(f"-- ${key} = {value}" for key, value in statement.parameters.items())
    return f"{values}\n{statement.sql}"
