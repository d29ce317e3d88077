"""effect equals a look at each row of the studies, whichever of them is meant."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers.render import render
from vlq.query.cache.reader import Cache
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument
from vlq.query.language import effects
from vlq.query.language.effects import KINDS, kinds_of, same_patches, typed
from vlq.query.language.nodes import Node
from vlq.query.language.parse import parse
from vlq.query.schema import Study
from vlq.query.statistics.bootstrap import drawn_means, drawn_medians, mean_interval, median_interval, share_interval

from ...brute import read_site
from ...studies import Row, finish, make_study, random_effects
from ...synthetic import WORDS, make_cache, make_run
from ..corpora import LABELS, SETTINGS, SNAPSHOTS, snapshot

ROCK = WORDS.index("rock")
IMAGES = 16
FAILED = [3]
LOCATED = "locate('rock', layer=2)"

SHAPES: dict[str, dict[str, Any]] = {
    "one grid": {"run": {"at": ("patch", "prompt", "answer"), "answer": 3}},
    "grids of their own, not compacted": {"run": {"grid": None, "patches": 9, "k": 2}, "seal": False},
    "some patches": {"run": {"patches_column": "objects"}},
}

STUDIES: list[dict[str, Any]] = [
    {"patches": "readings('rock')", "combinations": "regions"},
    {"patches": "readings('rock')", "baselines": ("random", "gradient", "register"), "repeats": 3},
    {"patches": "readings('rock')", "mode": "zero", "baselines": ()},
    {"patches": "readings('rock')", "mode": "zero", "buffer": 1, "combinations": "singles", "repeats": 1},
    {"patches": "'Rock'", "combinations": "regions", "baselines": ("gradient",)},
    {"patches": "[5, 1, 0]", "target": "['dog', 3]", "target_ids": (ROCK, 0)},
    {"patches": LOCATED, "images": "label == 'beach'"},
    {"patches": LOCATED, "images": "label == 'snow'"},
]
"""What is changed of a usual study, in the order in which they are finished."""

ASKED = {"'Rock'": "rock", "[5, 1, 0]": [0, 1, 5], "readings('rock')": vlq.readings("rock"), LOCATED: parse(LOCATED)}
"""What is asked for where a study has these texts."""


@dataclass
class Studied:
    """A corpus, its studies in the order in which they were finished, and their effects."""

    corpus: Corpus
    names: list[str]
    studies: list[tuple[Study, list[Row]]]
    read: np.ndarray  # (image,): whether some patch of it reads rock

    def label(self, image: int) -> str:
        return LABELS[image % 3]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Studied]:
    made = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        folder = tmp_path_factory.mktemp("cache")
        labels = [LABELS[i % 3] for i in range(IMAGES)]
        objects = [
            [{"label": "Rock", "box": [0.0, 0.0, 60.0, 50.0], "mask_rle": None}] * (i % 2) for i in range(IMAGES)
        ]
        options = dict(shape)
        run = make_run(**options.pop("run"))
        columns = {"label": labels, "objects": objects}
        store, run, _ = make_cache(folder, run, images=IMAGES, failed=FAILED, seed=seed, columns=columns, **options)
        shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
        site = read_site(folder, shards, "patch", run.positions["patch"], None, run.tracked, None)
        studies = []
        for number, changes in enumerate(STUDIES):
            study = make_study(run, **changes)
            rng = np.random.default_rng([seed, number])
            images = [i for i in range(IMAGES) if i not in FAILED and rng.random() < 0.7]
            if study.images is not None:
                images = [i for i in images if f"label == '{labels[i]}'" == study.images]
            rows = random_effects(study, images, run.patches, seed=number)
            finish(store, study, rows)
            studies.append((study, rows))
        names = [f"{(i * 7919) % 1000:03d}-{i}.png" for i in range(IMAGES)]
        read = (site.token[..., 0] == ROCK).any((1, 2))
        made[name] = Studied(vlq.open(str(folder)), names, studies, read)
    return made


def wanted(
    studied: Studied, arguments: dict[str, Any], patches: str, ids: tuple[int, ...]
) -> tuple[Study, list[Row]] | None:
    """The study that is meant and its effects: the newest that fits, of the images asked for if there is such a one, or
    else of all."""
    fit = []
    for study, rows in studied.studies:
        same = study.patches == patches and sorted(study.target_ids) == sorted(ids)
        same &= (study.mode, study.buffer) == (arguments["mode"], arguments["buffer"])
        same &= arguments["combinations"] in (None, study.combinations)
        names = {name.split()[0] for name in ("all", *study.baselines)}
        names |= {"regions": {"region", "regions"}, "singles": {"patch"}, "all": set()}[study.combinations]
        if same and arguments["kind"] in {None, *names}:
            fit.append((study, rows))
    label = arguments["images"]
    asked = [one for one in fit if one[0].images == (None if label is None else f"label == '{label}'")]
    whole = [one for one in fit if one[0].images is None]
    return (asked or whole or fit or [None])[-1]


def row_of(studied: Studied, row: Row, by: str) -> dict[str, Any]:
    """A row as the language has it."""
    copied = ("before", "after", "rank_before", "rank_after", "gone", "answer_before", "answer", "patches")
    found = {name: row[name] for name in copied} | {"effect": row["before"] - row["after"]}
    found |= {"image": studied.names[row["image_id"]], "image_id": row["image_id"]}
    return found | ({"set": row["set"], "kind": row["kind"]} if by == "set" else {})


def with_random(row: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    others = [one for one in rows if one["image_id"] == row["image_id"] and one["kind"] == "random"]
    gone = [one["gone"] for one in others if one["gone"] is not None]
    return row | {
        "random": fmean(one["before"] - one["after"] for one in others) if others else None,
        "random_gone": fmean(gone) if gone else None,
    }


@SETTINGS
@given(name=st.sampled_from([*SHAPES]), data=st.data())
def test_equals_a_look_at_each_row(studied: dict[str, Studied], name: str, data: st.DataObject) -> None:
    case = studied[name]
    patches = data.draw(st.sampled_from([*ASKED]))
    ids = (0, ROCK) if patches == "[5, 1, 0]" else (ROCK,)
    by = data.draw(st.sampled_from(["image", "image", "set"]))
    arguments = {
        "mode": data.draw(st.sampled_from(["mean", "mean", "zero"])),
        "buffer": data.draw(st.sampled_from([0, 0, 1])),
        "combinations": data.draw(st.sampled_from([None, None, "all", "regions", "singles"])),
        "kind": data.draw(st.none() | st.sampled_from(KINDS)) if by == "set" else None,
        "images": data.draw(st.sampled_from([None, None, *LABELS])),
    }
    label = arguments["images"]
    asked = arguments | {"images": None if label is None else vlq.col("label") == label, "by": by}
    found = wanted(case, arguments, patches, ids)
    if found is None:
        with pytest.raises(BadArgument, match="Nobody has measured"):
            case.corpus.effect(ASKED[patches], list(ids), **asked)
        return
    _, effects = found
    chosen = [row for row in effects if label is None or case.label(row["image_id"]) == label]
    if by == "image":
        rows = [with_random(row_of(case, row, by), chosen) for row in chosen if row["set"] == "all"]
        rows.sort(key=lambda row: (-row["effect"], row["image"]))
    else:
        rows = [row_of(case, row, by) for row in chosen if arguments["kind"] in (None, row["kind"])]
        rows.sort(key=lambda row: (row["image"], row["set"]))
    result = case.corpus.effect(ASKED[patches], list(ids), **asked)
    assert result.rows == rows
    good = [i for i in range(IMAGES) if i not in FAILED and (label is None or case.label(i) == label)]
    summary = result.summary
    assert (summary["images"], summary["matched"]) == (len(good), len({row["image_id"] for row in rows}))
    if by == "image":
        check_figures(summary, rows, "effect", "gone")
        if random := [row for row in rows if row["random"] is not None]:
            check_figures(summary["random"], random, "random", "random_gone")
        else:
            assert summary["random"] is None
    else:
        assert summary["kinds"].keys() == {row["kind"] for row in rows}
        for kind, figures in summary["kinds"].items():
            check_figures(figures, means([row for row in rows if row["kind"] == kind]), "effect", "gone")
    assert result.headline
    if patches == "readings('rock')":
        lacking = [i for i in good if case.read[i] and i not in {row["image_id"] for row in effects}]
        noted = [note for note in result.notes if "no effects" in note]
        assert [note.split()[0] for note in noted] == ([str(len(lacking))] if lacking else [])


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each image the means over its rows."""
    found = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return [
        {
            "effect": fmean(row["effect"] for row in some),
            "gone": fmean(gone) if (gone := [row["gone"] for row in some if row["gone"] is not None]) else None,
        }
        for some in found.values()
    ]


def check_figures(found: dict[str, Any], rows: list[dict[str, Any]], effect: str, gone: str) -> None:
    values, lost = [row[effect] for row in rows], [row[gone] for row in rows if row[gone] is not None]
    assert found["median"] == (pytest.approx(median(values)) if values else None)
    assert (found["held"], found["gone"]) == (len(lost), pytest.approx(sum(lost)))
    assert found["share"] == (pytest.approx(fmean(lost)) if lost else None)
    for interval, some in ((found["median_interval"], values), (found["share_interval"], lost)):
        assert (interval is None) == (not some)
        if interval is not None:
            assert min(some) <= interval[0] <= interval[1] <= max(some)


# --- intervals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 8, 25, 60])
def test_medians_are_drawn_as_by_literal_resampling(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(-6, 7, count) / 2
    literal = np.median(values[rng.integers(0, count, (20_000, count))], axis=1)
    many = np.concatenate([drawn_medians(values.tolist(), np.random.default_rng(seed)) for seed in range(20)])
    for edge in np.unique(literal):
        assert np.mean(many <= edge) == pytest.approx(np.mean(literal <= edge), abs=0.02)
    low, high = median_interval(values.tolist()) or [np.nan, np.nan]
    assert np.mean(literal < low) <= 0.025 + 0.015
    assert np.mean(literal <= low) >= 0.025 - 0.015
    assert np.mean(literal < high) <= 0.975 + 0.015
    assert np.mean(literal <= high) >= 0.975 - 0.015


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_means_are_drawn_as_by_literal_resampling(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 4, count) / 3
    literal = values[rng.integers(0, count, (20_000, count))].mean(1)
    many = np.concatenate([drawn_means(values.tolist(), np.random.default_rng(seed)) for seed in range(20)])
    for share in (0.025, 0.2, 0.5, 0.8, 0.975):
        edge = np.quantile(literal, share)
        assert np.mean(many <= edge + 1e-9) == pytest.approx(np.mean(literal <= edge + 1e-9), abs=0.02)


def test_intervals_of_nothing_and_of_truth() -> None:
    assert median_interval([]) is mean_interval([]) is None
    assert median_interval([2.5]) == mean_interval([2.5]) == [2.5, 2.5]
    assert mean_interval([1.0, 0.0, 1.0]) == share_interval(2, 3)


# --- the sides of a condition ----------------------------------------------------------------------------------


def test_against(studied: dict[str, Studied]) -> None:
    case = studied["one grid"]
    summary = case.corpus.query("effect(readings('rock'), 'rock', against=label == 'beach')").summary
    _, effects = case.studies[1]
    sides = []
    for side, found in ((True, summary), (False, summary["against"])):
        rows = [row for row in effects if row["set"] == "all" and (case.label(row["image_id"]) == "beach") is side]
        sides.append([row["before"] - row["after"] for row in rows])
        images = [i for i in range(IMAGES) if i not in FAILED and (case.label(i) == "beach") is side]
        assert (found["images"], found["matched"]) == (len(images), len(rows))
        assert found["median"] == median(sides[-1])
        assert found["gone"] == sum(row["gone"] is True for row in rows)
    difference = summary["difference"]
    assert difference["median"] == median(sides[0]) - median(sides[1])
    assert difference["share"] == pytest.approx(summary["share"] - summary["against"]["share"])
    rng = np.random.default_rng(5)
    literal = np.subtract(
        *(np.median(np.array(side)[rng.integers(0, len(side), (20_000, len(side)))], axis=1) for side in sides)
    )
    low, high = difference["median_interval"]
    assert np.mean(literal < low) <= 0.045
    assert np.mean(literal <= low) >= 0.005
    assert np.mean(literal > high) <= 0.045
    assert np.mean(literal >= high) >= 0.005
    shown = render(case.corpus.query("effect(readings('rock'), 'rock', against=label == 'beach')"), "table")
    assert "word gone" in shown
    assert "median effect" in shown
    by_set = case.corpus.query("effect(readings('rock'), 'rock', by='set', against=label == 'beach')")
    assert by_set.summary["kinds"].keys() == by_set.summary["against"]["kinds"].keys()
    assert "; without: in " in by_set.headline


# --- with everything else --------------------------------------------------------------------------------------


def test_it_combines_as_other_tables_do(studied: dict[str, Studied]) -> None:
    case = studied["one grid"]
    _, effects = case.studies[1]
    rows = {row["image_id"]: row["before"] - row["after"] for row in effects if row["set"] == "all"}
    more = case.corpus.query("effect(ablate=readings('rock'), on='rock') > 2")
    assert {row["image_id"] for row in more.rows} == {image for image, effect in rows.items() if effect > 2}
    groups = case.corpus.query("effect(readings('rock'), 'rock').group('label').median(effect)")
    expected = defaultdict(list)
    for image, effect in rows.items():
        expected[case.label(image)].append(effect)
    assert {row["label"]: row["median"] for row in groups.rows} == {key: median(some) for key, some in expected.items()}
    first = {row["image_id"]: row["layer"] for row in case.corpus.first_layer("rock").rows}
    apart = case.corpus.query("effect(readings('rock'), 'rock') - first_layer('rock')")
    both = {image: rows[image] - first[image] for image in rows.keys() & first.keys()}
    assert {row["image_id"]: row["value"] for row in apart.rows} == both
    kinds = case.corpus.query("effect(readings('rock'), 'rock', by='set').group(kind).count()")
    counts = {row["kind"]: row["count"] for row in kinds.rows}
    assert counts == {kind: sum(row["kind"] == kind for row in effects) for kind in counts}
    one = case.corpus.query("effect(readings('rock'), 'rock', by='set').where(set == 'random 2' and effect > 0)")
    assert [row["set"] for row in one.rows] == ["random 2"] * len(one.rows)
    taken = {row["image_id"]: {*row["patches"]} for row in effects if row["set"] == "all"}
    inside = case.corpus.query("readings('dog', patches=effect(readings('rock'), 'rock'))")
    assert inside.rows
    assert all(row["patch"] in taken[row["image_id"]] for row in inside.rows)
    areas = case.corpus.query("effect(readings('rock'), 'rock').where(area >= 0.5)")
    assert {row["image_id"] for row in areas.rows} == {image for image, some in taken.items() if len(some) >= 6}


@pytest.mark.parametrize("name", [*SHAPES])
def test_tables_of_sql(studied: dict[str, Studied], name: str) -> None:
    case = studied[name]
    rows = case.corpus.sql("SELECT * FROM effects").rows
    expected = [(study.digest, row["image_id"], row["set"]) for study, effects in case.studies for row in effects]
    assert [(row["study"], row["image_id"], row["set"]) for row in rows] == [
        key
        for digest in dict.fromkeys(key[0] for key in expected)
        for key in sorted(k for k in expected if k[0] == digest)
    ]
    study, effects = case.studies[3]
    (found,) = case.corpus.sql(
        f"SELECT any_value(ablate) AS ablate, any_value(target) AS target, any_value(mode) AS mode, "
        f"any_value(combinations) AS combinations, any_value(buffer) AS buffer, sum(effect) AS effect "
        f"FROM effects WHERE study = '{study.digest}'"
    ).rows
    assert found.pop("effect") == sum(row["before"] - row["after"] for row in effects)
    assert found == {
        "ablate": study.patches,
        "target": study.target,
        "mode": "zero",
        "combinations": "singles",
        "buffer": 1,
    }


def test_a_cache_without_studies(tmp_path: Path) -> None:
    make_cache(tmp_path, images=2)
    corpus = vlq.open(str(tmp_path))
    assert corpus.sql("SELECT count(*) AS n FROM effects").rows == [{"n": 0}]
    with pytest.raises(BadArgument, match="Nobody has measured") as caught:
        corpus.query("effect(readings('rock'), 'rock', kind='gradient', by='set')")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(
        "Run: vlq ablate \"readings('rock')\" --target rock --baseline random,gradient --cache "
    )
    assert "There is" not in caught.value.hint


def test_sql(studied: dict[str, Studied]) -> None:
    case = studied["one grid"]
    texts = [
        "effect(readings('rock'), 'rock', images=label == 'beach')",
        "effect(readings('rock'), 'rock', by='set', kind='random') > 2",
    ]
    digest = case.studies[1][0].digest
    found = "".join(snapshot(case.corpus.query(text), text) for text in texts).replace(digest, "STUDY")
    assert found == (SNAPSHOTS / "effect.sql").read_text()


def test_sentences(studied: dict[str, Studied]) -> None:
    case = studied["one grid"]
    headline = case.corpus.query("effect(readings('rock'), 'rock', mode='zero')").headline
    assert headline.startswith("taking patches of readings('rock') away, zero in their place, in ")
    assert "random" not in headline
    headline = case.corpus.query("effect(readings('rock'), 'rock', mode='zero', buffer=1)").headline
    assert headline.startswith(
        "taking patches of readings('rock') and 1 ring around them away, zero in their place, in "
    )
    headline = case.corpus.query("effect('rock', 'rock', by='set')").headline
    assert headline.startswith("taking patches of objects labelled 'rock' away: median effect on rock in ")
    assert "; regions " in headline
    assert "; gradient " in headline
    result = case.corpus.query(f"effect({LOCATED}, 'rock')")
    assert result.notes[:2] == [
        f"2 studies measured this: these are the effects of {case.studies[-1][0].digest}.",
        "The study is of images with label == 'snow'.",
    ]
    assert case.corpus.query("effect('rock', 'rock', images=label == 'nowhere')").headline == (
        "taking patches of objects labelled 'rock' away (images with label == 'nowhere'): measured in none of 0 images"
    )


def test_what_is_exported(studied: dict[str, Studied]) -> None:
    result = studied["one grid"].corpus.query("effect(readings('rock'), 'rock')")
    table = result.arrow()
    assert table.column_names == result.columns
    assert table.to_pylist() == result.rows
    assert render(result, "csv").splitlines()[0] == ",".join(result.columns)


@pytest.mark.here
def test_plots(studied: dict[str, Studied]) -> None:
    corpus = studied["one grid"].corpus
    result = corpus.query("effect(readings('rock'), 'rock')")
    (axes,) = result.plot().axes
    assert sum(bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")) == len(result.rows)
    assert axes.get_legend_handles_labels()[1] == ["chosen", "random"]
    (axes,) = corpus.query("effect(readings('rock'), 'rock', by='set')").plot().axes
    assert axes.get_legend_handles_labels()[1] == ["all", "gradient", "register", "random"]
    assert axes.get_ylabel() == "sets"
    (axes,) = corpus.query("effect(readings('rock'), 'rock', mode='zero')").plot().axes
    assert axes.get_legend() is None


# --- which study -----------------------------------------------------------------------------------------------


def test_the_newest_of_several_counts_and_an_unfinished_one_does_not(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    old, new, unfinished = (make_study(run, seed=seed) for seed in range(3))
    finish(store, old, random_effects(old, [0, 1], 12))
    assert {row["image_id"] for row in vlq.open(str(tmp_path)).effect(vlq.readings("rock"), "rock").rows} == {0, 1}
    finish(store, new, random_effects(new, [2], 12))
    store.create(f"{unfinished.prefix}/study.json", unfinished.to_bytes())
    result = vlq.open(str(tmp_path)).effect(vlq.readings("rock"), "rock")
    assert {row["image_id"] for row in result.rows} == {2}
    assert result.notes[0] == f"2 studies measured this: these are the effects of {new.digest}."


def test_studies_that_there_are_instead_are_named(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    for number, word in enumerate(
        ("'dog'", "'cat'", "'ear'", "later_function('ear')", "'sky'", "'sky'", "'nose'", "'tree'")
    ):
        finish(store, make_study(run, patches=word, seed=number), [])
    finish(store, make_study(run, patches="'sky'", seed=7, mode="noise", buffer=2), [])
    with pytest.raises(BadArgument) as caught:
        vlq.open(str(tmp_path)).effect(vlq.readings("rock"), "rock")
    assert str(caught.value.hint).splitlines()[1:] == [
        "There is effect('sky', 'rock', mode='noise', buffer=2)",
        "There is effect('tree', 'rock')",
        "There is effect('nose', 'rock')",
        "There is effect('sky', 'rock')",
        "and 3 others",
    ]


def test_studies_of_words_with_and_without_a_space_before_them_are_found(tmp_path: Path) -> None:
    """Those that were made before pieces counted where an answer begins say nothing of these."""
    run = make_run(grid=(2, 3), k=4)
    store, _, _ = make_cache(tmp_path, run, images=4)
    dogs, inside = (0, 1), 11
    words = {"before": (dogs, ()), "since": ((*dogs, inside), (inside,)), "other": ((*dogs, inside), ())}
    for seed, (ids, only_first) in enumerate(words.values()):
        study = make_study(run, target="'dog'", target_ids=ids, only_first=only_first, seed=seed)
        finish(store, study, random_effects(study, range(4), 6, seed))
        corpus = vlq.open(str(tmp_path))
        found = {row["before"] for row in corpus.effect(vlq.readings("rock"), "dog").rows}
        wanted = random_effects(study, range(4), 6, min(seed, 1))
        assert found == {row["before"] for row in wanted if row["set"] == "all"}


def test_another_word_is_another_study(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    study = make_study(run)
    finish(store, study, random_effects(study, [0], 12))
    corpus = vlq.open(str(tmp_path))
    for same in ("'Rock'", "'▁rock'", "3", "[3]", "matching('^rock$')"):
        assert len(corpus.query(f"effect(readings('rock'), {same})").rows) == 1
    for other in ("'dog'", "['rock', 'dog']"):
        with pytest.raises(BadArgument, match="Nobody has measured"):
            corpus.query(f"effect(readings('rock'), {other})")


def test_effects_that_are_damaged_are_found(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    study = make_study(run)
    finished = finish(store, study, random_effects(study, [0], 12))
    assert Cache.open(str(tmp_path)).snapshot().files("effects") == Cache.open(str(tmp_path)).snapshot().files(
        "effects"
    )
    (tmp_path / finished.effects.key).write_bytes(b"no table")
    with pytest.raises(vlq.VlqError, match="is not what was written"):
        vlq.open(str(tmp_path)).effect(vlq.readings("rock"), "rock").rows  # noqa: B018


def test_what_says_the_same() -> None:
    assert same_patches(parse("[3, 1]"), "[1, 3]")
    assert same_patches(parse("5"), "[5]")
    assert same_patches(parse("'Rock'"), "'rock'")
    assert same_patches(parse("readings(token='dog')"), "readings('dog')")
    assert not same_patches(parse("[3, 1]"), "[1]")
    assert not same_patches(parse("'rock'"), "readings('rock')")
    assert not same_patches(parse("'rock'"), "later_function('rock')")
    study = make_study(make_run(), combinations="singles", baselines=("gradient",))
    assert kinds_of(study) == ("all", "patch", "gradient")


@pytest.mark.parametrize(
    ("patches", "target", "expected"),
    [
        ("readings('rock')", "'rock'", "vlq ablate \"readings('rock')\" --target rock --cache c"),
        ("'big rock'", "286", 'vlq ablate --objects "big rock" --target 286 --cache c'),
        ("[3, 1]", "['a', 'b']", "vlq ablate --patches 3,1 --target \"['a', 'b']\" --cache c"),
        ("7", "'▁rock'", "vlq ablate --patches 7 --target \"'▁rock'\" --cache c"),
        (
            "readings('a', images=label == \"it's\")",
            "'$x'",
            """vlq ablate 'readings('"'"'a'"'"', images=label == "it'"'"'s")' --target ''"'"'$x'"'"'' --cache c""",
        ),
    ],
)
def test_commands(patches: str, target: str, expected: str) -> None:
    assert typed("ablate", parse(patches), parse(target), "c") == expected


def test_what_studies_chose_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many questions look through them."""
    parsed: list[str] = []

    def counted(text: str) -> Node:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(effects, "parse", counted)
    written = ("readings('dog', layers=(1, 2))", "[5, 3]", "'Once'", "readings(")  # the last one of another VLQ
    for asked, same in (("[3, 5]", 1), ("'once'", 2), ("readings('dog', layers=(1, 2))", 0), ("[3]", None)):
        found = [effects.same_patches(parse(asked), text) for text in written]
        assert found == [number == same for number in range(4)]
    assert parsed == [*written]
