"""What is drawn is what the table says, and files are what their names say."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from decimal import Decimal
from io import BytesIO
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, MissingExtra, QueryError, StoreError
from vlq.query.image.geometry import patch_box
from vlq.query.image.pictures import pixels
from vlq.query.plots import images
from vlq.query.plots.style import chip, shown

from ..synthetic import make_cache, make_run
from .corpora import Case

Box = list[tuple[float, float]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    own = {"label": [["beach", "grass", None][i % 3] for i in range(24)], "kind": [i % 2 == 0 for i in range(24)]}
    make_cache(folder, images=24, failed=[5], columns=own)
    return vlq.open(str(folder))


def axes_of(figure: Figure, number: int = 0) -> Axes:
    return figure.axes[number]


def heights(axes: Axes) -> dict[float, float]:
    """The bars' heights by their middles."""
    bars = [bar for container in axes.containers if isinstance(container, BarContainer) for bar in container]
    return {round(bar.get_x() + bar.get_width() / 2, 9): bar.get_height() for bar in bars}


def texts(axes: Axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def tick_labels(labels: list[Text]) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("values", [["a", "b"], [0, 99], [[0, 99], [1]], [{"x": 1}, {"x": 2}], [None, None]], ids=str)
def test_own_columns_may_have_the_names_of_readings(tmp_path: Path, values: list[Any]) -> None:
    names = ("layer", "patch", "patches", "row", "col", "box", "histogram", "token", "logprob")
    make_cache(tmp_path, images=4, columns={name: [values[i % 2] for i in range(4)] for name in names})
    named = vlq.open(str(tmp_path))
    figure = named.images().plot()
    assert [axes.get_title() for axes in figure.axes] == [row["image"] for row in named.images().rows]
    drawn = [artist for axes in figure.axes for artist in axes.collections if isinstance(artist, PolyCollection)]
    assert not any(len(artist.get_paths()) for artist in drawn)
    if isinstance(values[0], str):
        for column in ("layer", "patches"):
            axes = axes_of(named.query(f"images().group({column}).count()").plot())
            assert [bar.get_width() for bar in axes.patches] == [2, 2]
            assert tick_labels(axes.get_yticklabels()) == values


# --- bars ------------------------------------------------------------------------------------------------------


def test_layers_are_bars(corpus: Corpus) -> None:
    result = corpus.first_layer("rock", min_prob=0.3)
    axes = axes_of(result.plot())
    expected = Counter(row["layer"] for row in result.rows)
    assert heights(axes) == {layer: expected[layer] for layer in range(5)}
    assert {str(n) for n in expected.values()} == texts(axes) - {""}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer (0 = embedding)", "images")
    assert tick_labels(axes.get_xticklabels()) == ["0", "1", "2", "3", "4"]
    one = corpus.first_layer("rock", min_prob=0.3, by="corpus").plot()
    assert heights(axes_of(one)) == heights(axes)
    patches = axes_of(corpus.first_layer("rock", by="patch").plot())
    assert patches.get_ylabel() == "patches"
    assert sum(heights(patches).values()) == len(corpus.first_layer("rock", by="patch").rows)


def test_what_is_never_read_stands_beside_the_layers(corpus: Corpus) -> None:
    result = corpus.first_layer("rock", min_prob=0.38, missing="never")
    for drawn in (result, result.histogram()):
        axes = axes_of(drawn.plot())
        expected = Counter(row["layer"] for row in result.rows)
        assert expected[None] > 0
        assert heights(axes) == {layer: expected[layer] for layer in range(5)} | {6: expected[None]}
        assert tick_labels(axes.get_xticklabels())[-1] == "never"
        assert axes.get_ylabel() == "images"


def test_bins_are_as_wide_as_they_are(corpus: Corpus) -> None:
    result = corpus.first_layer("rock").histogram("logprob")
    axes = axes_of(result.plot())
    bars = [bar for container in axes.containers for bar in container]  # type: ignore[attr-defined]
    drawn = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in bars]
    assert drawn == [pytest.approx((row["low"], row["high"], row["count"])) for row in result.rows]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("logprob", "images")


def test_groups_are_bars(corpus: Corpus) -> None:
    result = corpus.first_layer("ear").group("label").median()
    axes = axes_of(result.plot())
    bars = [bar for container in axes.containers for bar in container]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in bars] == [row["median"] for row in result.rows]
    assert tick_labels(axes.get_yticklabels()) == ["beach", "grass", "no label"]
    assert axes.get_xlabel() == "median first layer (0 = embedding)"
    assert texts(axes) == {f"{row['median']:g}" for row in result.rows}
    truth = axes_of(corpus.first_layer("ear").group("kind").count().plot())
    assert tick_labels(truth.get_yticklabels()) == ["not kind", "kind"]
    assert truth.get_xlabel() == "images"
    by_layer = corpus.readings("rock").group("layer").mean("logprob")
    axes = axes_of(by_layer.plot())
    assert heights(axes) == {row["layer"]: row["mean"] for row in by_layer.rows}
    assert axes.get_ylabel() == "mean logprob"


def test_a_group_without_a_value_has_no_bar(corpus: Corpus) -> None:
    rare = corpus.first_layer("rock", min_prob=0.45, missing="never").group("image").median()
    assert {row["median"] is None for row in rare.rows} == {True, False}
    axes = axes_of(rare.plot())
    bars = [bar for container in axes.containers for bar in container]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in bars] == [row["median"] or 0 for row in rare.rows]
    labels = [text.get_text() for text in axes.texts]
    assert [label == "–" for label in labels] == [row["median"] is None for row in rare.rows]


def test_many_bars_are_cut(tmp_path: Path) -> None:
    make_cache(tmp_path, images=60, columns={"label": [f"label {i}" for i in range(60)]})
    result = vlq.open(str(tmp_path)).images().group("label").count()
    figure = result.plot()
    assert len(axes_of(figure).get_yticklabels()) == 40
    assert "(the first 40 of 60)" in str(figure.get_suptitle())
    tokens = vlq.open(str(tmp_path)).tokens("").plot()
    assert tick_labels(axes_of(tokens).get_yticklabels())[0].endswith(")")


# --- lines, heat maps, scatter ---------------------------------------------------------------------------------


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Each line's points, without gaps."""
    found = {}
    for line in axes.lines:
        points = zip(*line.get_data(), strict=True)
        found[str(line.get_label())] = [(float(x), float(y)) for x, y in points if np.isfinite(y)]
    return found


def test_tokens_are_lines_over_layers(corpus: Corpus) -> None:
    result = corpus.emergence(["rock", "cat"], min_prob=0.3)
    figure = result.plot()
    expected: dict[str, list[tuple[float, float]]] = {}
    for row in result.rows:
        expected.setdefault(row["token"], []).append((row["layer"], row["images"]))
    assert lines(axes_of(figure)) == expected
    drawn = axes_of(figure).lines
    assert len({line.get_color() for line in drawn}) == len({line.get_marker() for line in drawn}) == 2
    legend = axes_of(figure).get_legend()
    assert legend is not None
    assert tick_labels(legend.get_texts()) == ["rock", "cat"]
    assert axes_of(corpus.emergence("rock").plot()).get_legend() is None


def test_groups_over_layers_and_bins_are_lines(corpus: Corpus) -> None:
    counts = corpus.first_layer("rock").group(["label", "layer"]).count()
    bins = corpus.first_layer("rock").group("label").histogram("logprob")
    for result, x in (
        (counts, lambda row: row["layer"]),
        (bins, lambda row: (row["low"] + row["high"]) / 2),
    ):
        expected: dict[str, list[tuple[float, float]]] = {}
        for row in result.rows:
            expected.setdefault(row["label"] or "no label", []).append((x(row), row["count"]))
        assert lines(axes_of(result.plot())) == expected
    # Between layers that have no row there is no line.
    gaps = [
        label
        for label, points in lines(axes_of(counts.plot())).items()
        if len(points) < points[-1][0] - points[0][0] + 1
    ]
    for line in axes_of(counts.plot()).lines:
        assert (line.get_label() in gaps) == bool(np.isnan(line.get_ydata()).any())


def cells(axes: Axes) -> np.ma.MaskedArray[Any, Any]:
    (image,) = axes.images
    return np.ma.masked_invalid(image.get_array())


def test_tokens_by_layer_are_a_heat_map(corpus: Corpus) -> None:
    for result in (corpus.defaults(), corpus.neighbours("rock", layers=(1, 3))):
        axes = axes_of(result.plot())
        found = cells(axes)
        labels = tick_labels(axes.get_yticklabels())
        expected = {(row["token"], row["layer"]): row["share"] for row in result.rows}
        assert len(labels) == len({token for token, _ in expected}) == found.shape[0]
        begins = []
        for y, label in enumerate(labels):
            token = int(label.rpartition("(")[2].rstrip(")"))
            for layer in range(5):
                assert bool(np.ma.getmaskarray(found)[y, layer]) == ((token, layer) not in expected)
                if (token, layer) in expected:
                    assert found[y, layer] == pytest.approx(expected[token, layer])
            begins.append(min(layer for known, layer in expected if known == token))
        assert begins == sorted(begins)
        assert axes.get_xlabel() == "layer (0 = embedding)"


def test_shares_are_written_as_such(corpus: Corpus) -> None:
    """Whole ones, too."""
    result = corpus.query("defaults(share=1)")

    for answer in (result, corpus.query("defaults(at='last', share=1, images=image_id == 0)")):
        axes = axes_of(answer.plot())
        found = sorted(text.get_text() for text in axes.texts)
        assert found == sorted(f"{100 * row['share']:.0f}%" for row in answer.rows if row["share"] >= 0.01)


def test_many_lines_are_a_heat_map(corpus: Corpus) -> None:
    result = corpus.first_layer("rock").group(["image", "layer"]).count()
    axes = axes_of(result.plot())
    names = tick_labels(axes.get_yticklabels())
    expected = {(row["image"], row["layer"]): row["count"] for row in result.rows}
    found = cells(axes)
    assert {(names[y], x) for y, x in np.argwhere(~np.ma.getmaskarray(found))} == expected.keys()


def test_two_groups_are_held_against_each_other(corpus: Corpus) -> None:
    result = corpus.first_layer("rock").group(["label", "kind"]).count()
    axes = axes_of(result.plot())
    ys, xs = tick_labels(axes.get_yticklabels()), tick_labels(axes.get_xticklabels())
    assert (ys, xs) == (["beach", "grass", "no label"], ["not kind", "kind"])
    expected = [[0] * 2 for _ in range(3)]
    for row in result.rows:
        expected[["beach", "grass", None].index(row["label"])][int(row["kind"])] = row["count"]
    assert cells(axes).tolist() == expected


def test_the_second_of_two_groups_ascends_too(tmp_path: Path) -> None:
    """Rows are in the order of the first one's values, and the second one's come in any."""
    make_cache(tmp_path, images=4, columns={"text": ["", "a", "a", "b"], "n": [2, 10, None, 1]})
    axes = axes_of(vlq.open(str(tmp_path)).images().group(["text", "n"]).count().plot())
    assert tick_labels(axes.get_xticklabels()) == ["n 1", "n 2", "n 10", "no n"]
    assert tick_labels(axes.get_yticklabels()) == ["''", "a", "b"]
    assert cells(axes).filled(0).tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]


def test_lines_of_groups_are_in_order(corpus: Corpus) -> None:
    """Whichever of them has a row at the first layer."""
    rows = corpus.query("readings('rock').group([layer, patch]).count().where(layer > 0 or patch > 3)")
    rows = rows.where(vlq.col("patch") < 8)
    found = [*dict.fromkeys(row["patch"] for row in rows.rows)]
    assert found != sorted(found)
    assert [line.get_label() for line in axes_of(rows.plot()).lines] == [f"patch {patch}" for patch in sorted(found)]


def test_groups_of_patches_lie_in_the_grid(corpus: Corpus) -> None:
    for result, key in (
        (corpus.readings("rock", layers=2).group("patch").count(), "patch"),
        (corpus.first_layer("rock", min_prob=0.38).group("patches").count(), "patches"),
    ):
        found = cells(axes_of(result.plot()))
        assert found.shape == (3, 4)
        expected = {row[key]: row["count"] for row in result.rows}
        assert found.filled(0).reshape(-1).tolist() == [expected.get(patch, 0) for patch in range(12)]


def test_long_names_that_look_the_same_stay_apart(tmp_path: Path) -> None:
    names = [f"{'a' * 40}{i}{'b' * 40}" for i in range(3)]
    make_cache(tmp_path, images=12, columns={"label": [names[i % 3] for i in range(12)], "kind": ["x", "y"] * 6})
    corpus = vlq.open(str(tmp_path))
    assert len({shown(name, 28) for name in names}) == 1
    assert len(axes_of(corpus.first_layer("rock").group("label").histogram().plot()).lines) == 3
    crossed = cells(axes_of(corpus.images().group(["label", "kind"]).count().plot()))
    assert crossed.shape == (3, 2)
    assert crossed.sum() == 12


def test_conditions_are_pairs(corpus: Corpus) -> None:
    result = corpus.query("first_layer('ear') <= first_layer('cat')")
    axes = axes_of(result.plot())
    (marks,) = [part for part in axes.collections if isinstance(part, PathCollection)]
    expected = Counter((row["layer_1"], row["layer_2"]) for row in result.rows)
    places = [(int(x), int(y)) for x, y in np.asarray(marks.get_offsets())]
    assert {*places} == expected.keys()
    sizes = marks.get_sizes()
    assert [expected[place] for place in sorted(places, key=lambda place: sizes[places.index(place)])] == sorted(
        expected.values()
    )
    assert texts(axes) == {str(n) for n in expected.values()}
    assert axes.get_xlabel() == "layer of first_layer('ear')"


@pytest.mark.parametrize("name", ["low", "HIGH", "Layer"])
def test_histograms_of_groups_that_are_called_as_bins_are(tmp_path: Path, name: str) -> None:
    own = {name: [i % 2 for i in range(12)], "number": [i / 4 for i in range(12)]}
    make_cache(tmp_path, images=12, columns=own)
    named = vlq.open(str(tmp_path))
    bins = named.images().group(name).histogram("number")
    low, high, count = bins.columns[-3:]
    drawn = [line.get_xydata().tolist() for line in axes_of(bins.plot()).lines]
    assert drawn == [
        [[(row[low] + row[high]) / 2, row[count]] for row in bins.rows if row[name] == group] for group in (0, 1)
    ]
    layers = named.first_layer("dog").group(name).histogram()
    layer, count = layers.columns[-2:]
    drawn = [line.get_xydata().tolist() for line in axes_of(layers.plot()).lines]
    assert drawn == [[[row[layer], row[count]] for row in layers.rows if row[name] == group] for group in (0, 1)]


def test_groups_by_lists_with_nulls_are_drawn_by_layer(tmp_path: Path) -> None:
    nested = [[[1], [None]], [[1], [2]], [[None]], None]
    make_cache(tmp_path, images=12, columns={"nested": [nested[i % 4] for i in range(12)]})
    result = vlq.open(str(tmp_path)).first_layer("dog").group(["nested", "layer"]).count()
    drawn = {line.get_label() for line in axes_of(result.plot()).lines}
    assert len(drawn) == len({str(row["nested"]) for row in result.rows}) == 4


def test_numbers_as_large_as_hashes_are_drawn(tmp_path: Path) -> None:
    hashes = np.array([2**64 - 1, 2**63, 5, 7], np.uint64)
    make_cache(tmp_path, images=4, columns={"hash": hashes})
    hashed = vlq.open(str(tmp_path))
    (bar,) = axes_of(hashed.images().max("hash").plot()).patches
    assert isinstance(bar, Rectangle)
    assert bar.get_width() == 2.0**64
    by_layer = hashed.first_layer("dog").group("layer").max("hash")
    found = heights(axes_of(by_layer.plot()))
    assert {x: height for x, height in found.items() if height} == {row["layer"]: row["max"] for row in by_layer.rows}


def test_a_difference_is_a_histogram_around_whole_numbers(corpus: Corpus) -> None:
    result = corpus.query("last_layer('ear') - first_layer('ear')")
    axes = axes_of(result.plot())
    expected = Counter(row["value"] for row in result.rows)
    assert {x: n for x, n in heights(axes).items() if n} == expected


def test_selected_columns_are_drawn(corpus: Corpus) -> None:
    rows = corpus.first_layer("rock").rows
    pair = axes_of(corpus.first_layer("rock").select(["layer", "logprob"]).plot())
    (marks,) = [part for part in pair.collections if isinstance(part, PathCollection)]
    drawn = sorted((x, y) for x, y in np.asarray(marks.get_offsets()).tolist())
    assert drawn == [pytest.approx(place) for place in sorted((row["layer"], row["logprob"]) for row in rows)]
    one = axes_of(corpus.first_layer("rock").select("logprob").plot())
    values = np.array([row["logprob"] for row in rows])
    bars = [bar for container in one.containers for bar in container]  # type: ignore[attr-defined]
    inner = [bar.get_x() for bar in bars[1:]]
    expected = np.histogram(values, [values.min(), *inner, values.max()])[0]
    assert len(bars) > 3
    assert [bar.get_height() for bar in bars] == expected.tolist()
    three = corpus.readings("rock").select(["rank", "logprob", "row"]).plot()
    assert [axes.get_xlabel() for axes in three.axes] == ["rank", "logprob", "row"]
    with pytest.raises(BadArgument, match="There is nothing to draw"):
        corpus.first_layer("rock").select("image").plot()


def test_decimals_are_drawn_as_numbers(tmp_path: Path) -> None:
    prices = [Decimal("1.10"), Decimal("2.25"), None, Decimal("-0.05")]
    make_cache(tmp_path, images=4, columns={"price": prices, "n": [1, 2, 3, 4]})
    images = vlq.open(str(tmp_path)).images()
    assert sum(heights(axes_of(images.select("price").plot())).values()) == 3
    (marks,) = [
        part for part in axes_of(images.select(["n", "price"]).plot()).collections if isinstance(part, PathCollection)
    ]
    assert sorted(np.asarray(marks.get_offsets()).tolist()) == [[1, 1.1], [2, 2.25], [4, -0.05]]


def test_values_by_layer_are_quartiles(corpus: Corpus) -> None:
    result = corpus.overlap("rock", "cat")
    axes = axes_of(result.plot())
    for layer, middle in lines(axes)["median"]:
        assert middle == pytest.approx(np.median([row["iou"] for row in result.rows if row["layer"] == layer]))
    (band,) = axes.collections
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    for layer in {row["layer"] for row in result.rows}:
        values = [row["iou"] for row in result.rows if row["layer"] == layer]
        at = corners[corners[:, 0] == layer, 1]
        assert (at.min(), at.max()) == pytest.approx((np.quantile(values, 0.25), np.quantile(values, 0.75)))


def test_numbers_of_layers_are_panels(corpus: Corpus) -> None:
    result = corpus.readings("rock").group("layer").count() - corpus.readings("cat").group("layer").count()
    figure = result.plot()
    for axes, column in zip(figure.axes, ["value", "count_1", "count_2"], strict=True):
        (points,) = lines(axes).values()
        assert points == sorted((row["layer"], row[column]) for row in result.rows)
    assert figure.axes[1].get_title("left") == "count of readings('rock').group('layer').count()"


# --- images ----------------------------------------------------------------------------------------------------


def corners(box: tuple[float, float, float, float]) -> Box:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def drawn_patches(axes: Axes) -> list[Box]:
    """The corners of the patches over an image."""
    fills = [part for part in axes.collections if isinstance(part, PolyCollection)]
    assert len(fills) == 3  # the areas, a white line, a coloured one
    parts = [[[*map(tuple, path.vertices[:4].tolist())] for path in fill.get_paths()] for fill in fills]
    assert parts[0] == parts[1] == parts[2]
    return parts[0]


def expected_patches(case: Case, image: int, patches: list[int]) -> list[Box]:
    boxes = [patch_box(case.transform, case.pixels, case.grids[image], patch) for patch in sorted({*patches})]
    return [corners(box) for box in boxes if box[0] < box[2] and box[1] < box[3]]


@pytest.mark.parametrize("shape", ["the whole vocabulary stored", "only the best", "one patch", "grids of their own"])
def test_patches_lie_where_the_geometry_says(cases: dict[str, Case], shape: str) -> None:
    """Images that were cropped, padded, and neither."""
    case = cases[shape]
    result = case.corpus.readings([0, 1, 2, 3])
    figure = result.plot()
    order = list(dict.fromkeys(row["image_id"] for row in result.rows))[:6]
    for axes, image in zip(figure.axes, order, strict=False):
        patches = [row["patch"] for row in result.rows if row["image_id"] == image]
        assert drawn_patches(axes) == expected_patches(case, image, patches)
        assert axes.get_title().startswith(case.names[image])
        assert axes.get_xlim() == (0, case.pixels[0])
        assert axes.get_ylim() == (case.pixels[1], 0)
    assert "image not found" in texts(figure.axes[0])


def test_patches_have_the_colour_of_their_lowest_layer(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    result = case.corpus.readings([0, 2], rank=2)
    figure = result.plot()
    lowest: dict[tuple[int, int], int] = {}
    for row in result.rows:
        key = row["image_id"], row["patch"]
        lowest[key] = min(row["layer"], lowest.get(key, row["layer"]))
    order = list(dict.fromkeys(row["image_id"] for row in result.rows))[:6]
    shown_layers = [layer for (image, _), layer in lowest.items() if image in order]
    norm = BoundaryNorm(np.arange(min(shown_layers) - 0.5, max(shown_layers) + 1), 256)
    for axes, image in zip(figure.axes, order, strict=False):
        layers = [lowest[image, patch] for patch in range(12) if (image, patch) in lowest]
        fill = axes.collections[0]
        expected = colormaps["viridis"](norm(np.array(layers)))
        assert np.asarray(fill.get_facecolor())[:, :3].tolist() == expected[:, :3].tolist()
        assert sorted(texts(axes) - {"image not found"}) == sorted({str(layer) for layer in layers})
    assert figure.axes[-1].get_ylabel() == "lowest layer (0 = embedding)"


def test_at_one_layer_it_is_the_probability(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    result = case.corpus.readings([0, 2], rank=2, layers=1)
    figure = result.plot()
    order = list(dict.fromkeys(row["image_id"] for row in result.rows))[:6]
    rows = [row for row in result.rows if row["image_id"] in order]
    shares = [exp(row["logprob"]) for row in rows]
    scale = Normalize(min(shares), max(shares))
    for axes, image in zip(figure.axes, order, strict=False):
        own = sorted((row["patch"], exp(row["logprob"])) for row in rows if row["image_id"] == image)
        expected = colormaps["viridis"](scale([share for _, share in own]))
        assert np.asarray(axes.collections[0].get_facecolor())[:, :3] == pytest.approx(expected[:, :3])
        assert axes.get_title().endswith(", layer 1")
    assert figure.axes[-1].get_ylabel() == "probability"


def test_one_image_shows_its_patches(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    image = vlq.col("image_id") == 1
    for result in (case.corpus.first_layer(0, images=image), case.corpus.first_layer(0, by="patch", images=image)):
        patches = [patch for row in result.rows for patch in row["patches"]]
        assert patches
        assert drawn_patches(axes_of(result.plot())) == expected_patches(case, 1, patches)
    assert axes_of(case.corpus.first_layer(0, images=image, at="last").plot()).get_ylabel() == "images"


def test_places_have_their_box_and_their_middle(cases: dict[str, Case]) -> None:
    case = cases["the whole vocabulary stored"]
    result = case.corpus.locate(0)
    figure = result.plot()
    transform = case.transform
    for axes, row in zip(figure.axes, result.rows, strict=False):
        rows, columns = case.grids[row["image_id"]]
        assert drawn_patches(axes) == expected_patches(case, row["image_id"], row["patches"])
        boxes = [patch for patch in axes.patches if patch.get_gid() == "box"]
        if row["box"] is None:
            assert not boxes
            continue
        assert [tuple(corner) for corner in boxes[0].get_path().vertices[:4]] == [(0, 0), (1, 0), (1, 1), (0, 1)]
        assert boxes[0].get_bbox().extents.tolist() == row["box"]  # type: ignore[attr-defined]
        (point,) = [line for line in axes.lines if line.get_marker() == "x"]
        x = ((row["col"] + 0.5) * transform.width / columns - transform.offset_x) / transform.scale_x
        y = ((row["row"] + 0.5) * transform.height / rows - transform.offset_y) / transform.scale_y
        assert (float(point.get_xdata()[0]), float(point.get_ydata()[0])) == pytest.approx((x, y))  # type: ignore[index]


def test_the_first_images_are_shown(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
    monkeypatch.setattr(images, "pixels", lambda uri, sha256, size: picture)
    result = corpus.images()
    figure = result.plot()
    assert [axes.get_title() for axes in figure.axes] == [row["image"] for row in result.rows[:6]]
    assert "(the first 6 of 23 images)" in str(figure.get_suptitle())
    for axes in figure.axes:
        (image,) = axes.images
        assert np.asarray(image.get_array()).tolist() == picture.tolist()
        assert [*image.get_extent()] == [0, 112, 112, 0]


def png(array: np.ndarray, **options: Any) -> bytes:
    sink = BytesIO()
    Image.fromarray(array).save(sink, "PNG", **options)
    return sink.getvalue()


def test_a_picture_is_shown_if_it_is_the_one_that_was_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = tmp_path / "a b%20.png"
    for data, size, expected in (
        (png(array), (6, 4), array),
        (png(array, exif=exif), (4, 6), np.rot90(array, -1)),
        (png(array), (4, 6), None),
        (b"no image", (6, 4), None),
        (b"", (6, 4), None),
    ):
        path.write_bytes(data)
        found = pixels(f"file://{path}", hashlib.sha256(data).hexdigest(), size)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.tolist() == expected.tolist()
    path.write_bytes(png(array))
    assert pixels(f"file://{path}", "0" * 64, (6, 4)) is None
    assert pixels(f"file://{tmp_path}/none.png", "0" * 64, (6, 4)) is None
    assert pixels("nonsense://bucket/none.png", "0" * 64, (6, 4)) is None


# --- tables of tokens ------------------------------------------------------------------------------------------


def test_one_patch_is_a_table_of_layers_and_ranks(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    result = case.corpus.top(1, patch=3, rank=4)
    axes = axes_of(result.plot())
    found = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert found == {(row["layer"], row["rank"] - 1): chip(row["piece"], row["token"]) for row in result.rows}
    assert any("▁" in text for text in found.values())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "layer (0 = embedding)")
    norm = Normalize(0, 1)
    shades = {(round(p.get_y() + 0.44), round(p.get_x() + 0.48)): p.get_facecolor() for p in axes.patches}  # type: ignore[attr-defined]
    for row in result.rows:
        shade = colormaps["viridis"](norm(exp(row["logprob"])))
        assert shades[row["layer"], row["rank"] - 1] == pytest.approx(shade)
    assert len(axes_of(case.corpus.top(1, at="last").plot()).texts) == 5


def test_ranks_that_are_not_drawn_are_told(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(k=12), images=1)
    for rank, note in ((10, False), (12, True)):
        figure = vlq.open(str(tmp_path)).top(0, patch=0, rank=rank).plot()
        assert len(axes_of(figure).get_xticks()) == 10
        assert ("(the first 10 of 12 ranks)" in figure.get_suptitle()) is note


def test_one_layer_is_drawn_over_the_image(cases: dict[str, Case]) -> None:
    case = cases["only the best"]
    result = case.corpus.top(1, layers=3)
    axes = axes_of(result.plot())
    expected = {}
    for row in result.rows:
        x0, y0, x1, y1 = patch_box(case.transform, case.pixels, case.grids[1], row["patch"])
        if y0 < y1:
            expected[(x0 + x1) / 2, (y0 + y1) / 2] = chip(row["piece"], row["token"], 8)
    assert {text.get_position(): text.get_text() for text in axes.texts} == expected
    assert len(expected) < 15  # a row of patches shows padding alone


def test_a_whole_image_is_a_map_of_probabilities(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    result = case.corpus.top(1, rank=2)
    found = cells(axes_of(result.plot()))
    expected = np.exp(case.sites["patch"].logprob[1, :, :, 0].T)
    assert found.shape == expected.shape == (12, 5)
    assert np.allclose(found, expected)
    assert axes_of(case.corpus.top(1, at="prompt").plot()).get_ylabel() == "position"


def test_a_map_of_some_patches_names_them(cases: dict[str, Case]) -> None:
    case = cases["several shards"]
    axes = axes_of(case.corpus.top(1, layers=[0, 3], patches=[2, 7, 11]).plot())
    assert tick_labels(axes.get_xticklabels()) == ["0", "3"]
    assert tick_labels(axes.get_yticklabels()) == ["2", "7", "11"]
    expected = np.exp(case.sites["patch"].logprob[1, :, :, 0].T)
    assert np.allclose(cells(axes), expected[[2, 7, 11]][:, [0, 3]])


# --- texts -----------------------------------------------------------------------------------------------------


def test_texts_that_fonts_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("a\n\x1b[31m$b$") == "a��[31m$b$"
    assert shown("x" * 50, 11) == "xxxxxx…xxxx"
    assert len(shown("x" * 50, 11)) == 11
    assert shown("x" * 11, 11) == "x" * 11
    assert chip("▁dog", 3) == "▁dog"
    assert chip(None, 3) == chip("", 3) == chip(" ", 3) == chip("\n", 3) == chip("\U000f0000", 3) == "3"


QUERIES = [
    "first_layer('dog')",
    "first_layer('dog', min_prob=0.3, missing='never')",
    "first_layer('dog').limit(1)",
    "readings('dog', rank=3)",
    "locate('dog')",
    "emergence(['dog', 'cat', 'rock', 'ear', 'nose', 'sky', 'beach'])",
    "emergence([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])",
    "defaults(at='patch', unit='position')",
    "neighbours('dog')",
    "top(0, patch=5, rank=3)",
    "top(0, patch=5, layers=8, rank=3)",
    "top(0, layers=12)",
    "top(0)",
    "first_layer('dog').group(label).median()",
    "first_layer('dog').group([label, layer]).count()",
    "readings('dog').group([label, kind]).count()",
    "readings('dog').group([kind, layer]).count()",
    "readings('dog').group(layer).max(logprob)",
    "readings('dog').group(patch).count()",
    "readings('dog').group(kind).histogram(logprob)",
    "readings('dog').histogram(logprob)",
    "first_layer('dog') <= last_layer('cat')",
    "(first_layer('dog') <= last_layer('cat')) or (first_layer('ear') <= last_layer('cat'))",
    "last_layer('dog') - first_layer('dog')",
    "first_layer('dog').mean()",
    "tokens('')",
    "images()",
    "overlap('dog', 'cat', layers=(3, 9))",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Many layers and patches, and names that are hard to draw."""
    folder = tmp_path_factory.mktemp("odd")
    count = 14
    names = [f"{'long/' * 20}$name$_{i}\n\x1b<b>漢字.png" for i in range(count)]
    labels = [f"a label that goes on and on {i} and on for $x^2$ 漢字" for i in range(count)]
    own = {"label": labels, "kind": ["$a$", "b_{c}"] * (count // 2)}
    make_cache(folder, make_run(layers=33, grid=(9, 7), k=3), images=count, names=names, columns=own)
    return vlq.open(str(folder))


@pytest.mark.parametrize("text", QUERIES)
def test_nothing_lies_over_something_else(odd: Corpus, text: str) -> None:
    """Labels and titles are apart from each other and within the figure; nothing warns."""
    figure = odd.query(text).plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    labels: list[Text] = [part for part in figure.texts if part.get_text()]
    for axes in figure.axes:
        labels += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            labels += [label for place, label in ticks if low <= place <= high]
        if (legend := axes.get_legend()) is not None:
            labels += legend.get_texts()
    labels = [label for label in labels if label.get_text() and label.get_visible()]
    boxes = [label.get_window_extent(renderer).padded(-1) for label in labels]
    width, height = figure.canvas.get_width_height()
    for label, box in zip(labels, boxes, strict=True):
        assert box.x0 > -2, label
        assert box.y0 > -2, label
        assert box.x1 < width + 2, label
        assert box.y1 < height + 2, label
        if label.get_rotation() in (0, 90):
            over = [other for other, its in zip(labels, boxes, strict=True) if other is not label and box.overlaps(its)]
            assert not over, label


def test_no_rows_are_a_sentence(corpus: Corpus) -> None:
    figure = corpus.first_layer("dog", min_prob=1.0).plot()
    assert figure.get_suptitle() == "dog (probability at least 1): read in none of 23 images"
    assert texts(axes_of(figure)) == {"no rows"}


# --- files -----------------------------------------------------------------------------------------------------


def test_files_are_the_same_every_time(corpus: Corpus, tmp_path: Path) -> None:
    for query in ("first_layer('rock', min_prob=0.38, missing='never')", "readings('rock')"):
        for form in ("png", "svg"):
            paths = [tmp_path / f"{number}.{form.upper()}" for number in (1, 2)]
            for path in paths:
                corpus.query(query).plot(path)
            one, other = (path.read_bytes() for path in paths)
            assert one == other
    with Image.open(tmp_path / "1.PNG") as image:
        image.verify()
        assert image.format == "PNG"
    assert ElementTree.parse(tmp_path / "1.SVG").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<dc:date>" not in (tmp_path / "1.SVG").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"{i}.{form}" for i in (1, 2) for form in ("PNG", "SVG")}


@pytest.mark.parametrize("name", ["plot.jpg", "plot", "plot.pdf", ".png"])
def test_other_endings(corpus: Corpus, tmp_path: Path, name: str) -> None:
    with pytest.raises(QueryError, match=r"A plot is a \.png or \.svg file"):
        corpus.first_layer("rock").plot(str(tmp_path / name))
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_is_not_there(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        corpus.first_layer("rock").plot(tmp_path / "none" / "plot.png")
    assert caught.value.message.startswith(f"Cannot write {tmp_path}/none/plot.png: No such file or directory")
    assert caught.value.hint == "Choose another --plot."


def test_a_notebook_shows_a_plot(corpus: Corpus) -> None:
    figure = corpus.first_layer("rock").plot()
    with Image.open(BytesIO(figure._repr_png_())) as image:  # type: ignore[attr-defined]
        assert image.format == "PNG"


def test_matplotlib_is_an_extra(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "matplotlib" or name.startswith("vlq.query.plots")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra) as caught:
        corpus.first_layer("rock").plot()
    assert caught.value.message == "Drawing needs matplotlib, which is not installed."
    assert caught.value.hint == "Run: pip install 'vlq[plot]'"


def test_nothing_is_kept_of_a_plot(corpus: Corpus) -> None:
    """pyplot would hold every figure, and look for a screen."""
    code = (
        "import sys, vlq\n"
        f"vlq.open({corpus.cache.url!r}).first_layer('rock').plot()\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
