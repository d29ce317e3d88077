"""Effects in windows of layers and of several strengths equal a look at each row, asked for in whatever way."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow as pa
import pytest

import vlq
from vlq.query.cache.studies import IN_LAYERS
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument
from vlq.query.language.effects import done_in, made_by
from vlq.query.language.parse import parse
from vlq.query.schema import Study
from vlq.query.statistics.bootstrap import median_interval
from vlq.query.studies.curves import headline, query_of, rows_of, steps_of

from ...studies import Row, finish, make_study, random_curves, random_effects
from ...synthetic import WORDS, make_cache, make_run
from ..corpora import LABELS

ROCK, DOG = WORDS.index("rock"), WORDS.index("dog")
IMAGES = 14
FAILED = [3]
PAIRS = ((1, 2), (2, 3), (3, 4))

STUDIES: dict[str, dict[str, Any]] = {
    "an ablation": {},
    "cut in windows": {"intervention": "knockout", "windows": PAIRS, "to": "last", "combinations": "regions"},
    "cut in all layers": {"intervention": "knockout", "windows": ((1, 4),), "to": "last"},
    "all others cut off": {"intervention": "knockout", "windows": ((1, 4),), "to": "prompt", "others": True},
    "steered": {
        "intervention": "steer",
        "patches": "'last'",
        "baselines": (),
        "windows": ((0, 1), (2, 3)),
        "token": "'rock'",
        "token_ids": (ROCK,),
        "strengths": (-0.5, 1.0, 2.0),
    },
    "steered at patches": {
        "intervention": "steer",
        "patches": "readings('rock')",
        "baselines": (),
        "windows": ((2, 3),),
        "token": "'dog'",
        "token_ids": (DOG, DOG + 1),  # dog and Dog
        "strengths": (0.1,),
    },
    "patched": {
        "intervention": "patch",
        "patches": "'last'",
        "baselines": (),
        "windows": ((0, 0), (1, 1), (4, 4)),
        "source": "other label",
        "target": "None",
        "target_ids": (),
    },
}


@dataclass
class Studied:
    corpus: Corpus
    effects: dict[str, list[Row]]
    studies: dict[str, Study]

    def rows(self, name: str, **equal: Any) -> list[Row]:
        return [row for row in self.effects[name] if all(row[key] == value for key, value in equal.items())]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    folder = tmp_path_factory.mktemp("cache")
    run = make_run(at=("patch", "prompt", "answer"), answer=3)
    columns = {"label": [LABELS[i % 3] for i in range(IMAGES)]}
    store, run, _ = make_cache(folder, run, images=IMAGES, failed=FAILED, columns=columns)
    effects, studies = {}, {}
    for seed, (name, changes) in enumerate(STUDIES.items()):
        study = make_study(run, **changes)
        make = random_curves if study.windows else random_effects
        images = [i for i in range(IMAGES) if i not in FAILED and (i + seed) % 4]
        effects[name] = make(study, images, run.patches, seed=100 * seed)
        finish(store, study, effects[name])
        studies[name] = study
    return Studied(vlq.open(str(folder)), effects, studies)


ROW = ("image_id", "before", "after", "rank_before", "rank_after", "gone", "answer_before", "answer", "patches")
KNOCKOUT = "knockout=readings('rock'), on='rock'"


def agree(found: list[dict[str, Any]], rows: list[Row], **more: Any) -> None:
    """The answer has these rows, and beside what is in them what `more` makes of each."""

    def told(row: Row) -> dict[str, Any]:
        own = {name: row[name] for name in ROW} | {"effect": row["before"] - row["after"]}
        return own | {name: make(row) for name, make in more.items()}

    expected = [told(row) for row in rows]
    assert expected
    names = [*expected[0]]
    assert sorted(str({name: row[name] for name in names}) for row in found) == sorted(map(str, expected))


def random_of(studied: Studied, name: str, row: Row) -> list[Row]:
    return studied.rows(name, image_id=row["image_id"], first_layer=row["first_layer"], kind="random")


def test_knockouts_by_layer(studied: Studied) -> None:
    name = "cut in windows"

    def mean_gone(row: Row) -> float | None:
        gone = [other["gone"] for other in random_of(studied, name, row) if other["gone"] is not None]
        return fmean(gone) if gone else None

    for layers, kept in (("", PAIRS), (", layers=(2, 4)", PAIRS[1:]), (", layers=(1, 2)", PAIRS[:1])):
        found = studied.corpus.query(f"effect({KNOCKOUT}, by='layer'{layers})")
        assert found.table.keys == ("image", "layer")
        agree(
            found.rows,
            [row for row in studied.rows(name, set="all") if (row["first_layer"], row["last_layer"]) in kept],
            layer=lambda row: row["first_layer"],
            last_layer=lambda row: row["last_layer"],
            random=lambda row: fmean(other["before"] - other["after"] for other in random_of(studied, name, row)),
            random_gone=mean_gone,
        )
        assert [step["layer"] for step in found.summary["steps"]] == [first for first, _ in kept]


def test_one_window(studied: Studied) -> None:
    found = studied.corpus.query(f"effect({KNOCKOUT}, layers=(2, 3))")
    agree(found.rows, studied.rows("cut in windows", set="all", first_layer=2))
    assert " off from the last token in layers 2-3, in " in found.headline
    by_set = studied.corpus.query(f"effect({KNOCKOUT}, layers=(2, 3), by='set', kind='region')")
    agree(by_set.rows, studied.rows("cut in windows", kind="region", first_layer=2), set=lambda row: row["set"])
    # Where one study is of all layers, nothing more needs to be said.
    agree(studied.corpus.query(f"effect({KNOCKOUT})").rows, studied.rows("cut in all layers", set="all"))
    others = studied.corpus.query(f"effect({KNOCKOUT}, to='prompt', others=True)")
    agree(others.rows, studied.rows("all others cut off", set="all"))
    assert others.headline.startswith("cutting all but patches of readings('rock') off from the prompt in layers 1-4")
    narrow = studied.corpus.query(f"effect({KNOCKOUT}, by='layer', window=4)")
    agree(narrow.rows, studied.rows("cut in all layers", set="all"))


def test_directions(studied: Studied) -> None:
    found = studied.corpus.query("effect(steer='rock', layers=(0, 1), by='strength')")
    rows = studied.rows("steered", first_layer=0)
    agree(found.rows, rows, strength=lambda row: row["strength"])
    found = studied.corpus.query("effect(steer='rock', strength=2, by='layer')")
    agree(found.rows, studied.rows("steered", strength=2.0), layer=lambda row: row["first_layer"])
    found = studied.corpus.query("effect(steer='rock', strength=-0.5, layers=(2, 3))")
    agree(found.rows, studied.rows("steered", strength=-0.5, first_layer=2))
    # What is measured is another word than what is added; and of a strength that binary numbers only come near to.
    found = studied.corpus.query("effect(steer='dog', on='rock', place=readings('rock'), strength=0.1)")
    agree(found.rows, studied.rows("steered at patches"))
    assert found.headline.startswith("adding dog at patches of readings('rock') in layers 2-3, strength 0.1, in ")


def test_states_of_partners(studied: Studied) -> None:
    def share(row: Row) -> float | None:
        between = row["before"] - row["source_logprob"]
        return (row["before"] - row["after"]) / between if between else None

    found = studied.corpus.query("effect(patch='other label', by='layer')")
    told = {name: (lambda row, name=name: row[name]) for name in ("source", "source_logprob")}
    agree(found.rows, studied.rows("patched"), share=share, layer=lambda row: row["first_layer"], **told)
    agree(studied.corpus.query("effect(patch='other label', layers=4)").rows, studied.rows("patched", first_layer=4))
    for step in found.summary["steps"]:
        shares = [one for row in studied.rows("patched", first_layer=step["layer"]) if (one := share(row)) is not None]
        assert step["median_share"] == pytest.approx(median(shares))
        assert step["median_share_interval"] == pytest.approx(median_interval(shares))


def test_it_combines_as_other_tables_do(studied: Studied) -> None:
    rows = studied.rows("cut in windows", set="all")
    effects = {(row["image_id"], row["first_layer"]): row["before"] - row["after"] for row in rows}
    groups = studied.corpus.query(f"effect({KNOCKOUT}, by='layer').group(layer).median(effect)")
    by_layer = defaultdict(list)
    for (_, layer), effect in effects.items():
        by_layer[layer].append(effect)
    assert {row["layer"]: row["median"] for row in groups.rows} == {key: median(some) for key, some in by_layer.items()}
    more = studied.corpus.query(f"effect({KNOCKOUT}, by='layer') > 1")
    assert {(row["image_id"], row["layer"]) for row in more.rows} == {
        key for key, effect in effects.items() if effect > 1
    }
    some = studied.corpus.query(f"effect({KNOCKOUT}, by='layer').where(layer == 2 and effect > 0 and label == 'beach')")
    assert {row["image_id"] for row in some.rows} == {
        image
        for (image, layer), effect in effects.items()
        if layer == 2 and effect > 0 and LABELS[image % 3] == "beach"
    }
    against = studied.corpus.query(f"effect({KNOCKOUT}, by='layer', against=label == 'beach')")
    assert "; without, in " in against.headline
    images = [image for image, layer in effects if layer == 1 and LABELS[image % 3] != "beach"]
    assert against.summary["against"]["steps"][0]["median"] == median(effects[image, 1] for image in images)


# --- figures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cut in windows", "steered", "patched"])
def test_a_study_as_its_command_shows_it(studied: Studied, name: str) -> None:
    study = studied.studies[name]
    steps = steps_of(study, pa.Table.from_pylist(studied.effects[name], IN_LAYERS))
    kinds = {"cut in windows": ["all", "region", "regions"]}.get(name, ["all"])
    assert [(step["layer"], step["strength"], step["kind"]) for step in steps] == [
        (first, strength, kind)
        for first, _ in study.windows
        for strength in study.strengths or [None]
        for kind in kinds
    ]
    for step in steps:
        rows = studied.rows(name, first_layer=step["layer"], strength=step["strength"], kind=step["kind"])
        by_image = defaultdict(list)
        for row in rows:
            by_image[row["image_id"]].append(row["before"] - row["after"])
        means = [fmean(some) for some in by_image.values()]
        assert step["images"] == len(means)
        assert step["median"] == pytest.approx(median(means))
        assert step["median_interval"] == pytest.approx(median_interval(means))
        held = {row["image_id"] for row in rows if row["gone"] is not None}
        assert step["held"] == len(held)
        assert (step["random"] is not None) == ("random" in study.baselines)
        assert step["first"] == sum(row["rank_after"] == 1 for row in rows)
    told = rows_of(study, steps)
    assert len(told) == len(steps)
    assert headline(study, steps, "rock").startswith(done_in(study))
    # The question that it says asks for the same figures.
    asked = studied.corpus.query(query_of(study)).summary["steps"]
    last = study.strengths[-1] if study.strengths else None
    shown = [step for step in steps if step["kind"] == "all" and step["strength"] == last]
    for one, other in zip(asked, shown, strict=True):
        assert {name: one[name] for name in one} == {name: other[name] for name in one}


@pytest.mark.parametrize(
    ("name", "where"), [("cut in all layers", "in layers 1-4"), ("steered at patches", "at strength 0.1")]
)
def test_a_study_of_one_step_as_its_command_shows_it(studied: Studied, name: str, where: str) -> None:
    study = studied.studies[name]
    steps = steps_of(study, pa.Table.from_pylist(studied.effects[name], IN_LAYERS))
    middle = median(row["before"] - row["after"] for row in studied.rows(name, kind="all"))
    (step,) = steps
    assert step["median"] == pytest.approx(middle)
    verb = "gains" if middle < 0 else "loses"
    said = headline(study, steps, "rock").removeprefix(f"{done_in(study)}, in {step['images']} images: ")
    assert said.startswith(f"rock {verb} ")
    assert said.endswith(f") {where}")


def test_tables_of_sql(studied: Studied) -> None:
    columns = "study, intervention, ablate, knockout, steer, patch, target, mode, combinations, buffer, cut_to, others"
    found = studied.corpus.sql(f"SELECT DISTINCT {columns}, place FROM effects").rows
    told = {row.pop("study"): {name: value for name, value in row.items() if value is not None} for row in found}
    rock = {"target": "'rock'"}
    sets = rock | {"combinations": "all", "buffer": 0}
    cut = sets | {"intervention": "knockout", "knockout": "readings('rock')", "cut_to": "last", "others": False}
    assert told == {
        studied.studies[name].digest: expected
        for name, expected in {
            "an ablation": sets | {"intervention": "ablate", "ablate": "readings('rock')", "mode": "mean"},
            "cut in windows": cut | {"combinations": "regions"},
            "cut in all layers": cut,
            "all others cut off": cut | {"cut_to": "prompt", "others": True},
            "steered": rock | {"intervention": "steer", "steer": "'rock'", "place": "'last'"},
            "steered at patches": rock | {"intervention": "steer", "steer": "'dog'", "place": "readings('rock')"},
            "patched": {"intervention": "patch", "patch": "other label", "place": "'last'"},
        }.items()
    }
    named = 'study, image_id, "set", first_layer, last_layer, strength, source, effect, source_logprob'
    rows = studied.corpus.sql(f"SELECT {named} FROM effects").rows
    names = ("image_id", "set", "first_layer", "last_layer", "source", "source_logprob")
    assert sorted(str({name: row[name] for name in ("study", *names, "effect")}) for row in rows) == sorted(
        str(
            {"study": studied.studies[name].digest}
            | {key: row.get(key) for key in names}
            | {"effect": row["before"] - row["after"]}
        )
        for name, effects in studied.effects.items()
        for row in effects
    )
    strengths = {round(row["strength"], 6) for row in rows if row["strength"] is not None}
    assert strengths == {-0.5, 1.0, 2.0, 0.1}


@pytest.mark.here
def test_plots(studied: Studied) -> None:
    (axes,) = studied.corpus.query(f"effect({KNOCKOUT}, by='layer')").plot().axes
    assert axes.get_legend_handles_labels()[1] == ["chosen", "random"]
    chosen, random = (line.get_ydata() for line in axes.get_lines()[:2])
    for layer, found in zip((1, 2, 3), chosen, strict=True):
        rows = studied.rows("cut in windows", set="all", first_layer=layer)
        assert found == pytest.approx(median(row["before"] - row["after"] for row in rows))
    assert len(random) == 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1-2", "2-3", "3-4"]
    (axes,) = studied.corpus.query("effect(patch='other label', by='layer')").plot().axes
    assert axes.get_ylabel() == "share of the way to the source"
    assert axes.get_xlabel() == "layer (0 = embedding)"
    assert axes.get_legend() is None
    (axes,) = studied.corpus.query("effect(steer='rock', layers=(0, 1), by='strength')").plot().axes
    assert list(axes.get_lines()[0].get_xdata()) == [-0.5, 1.0, 2.0]


# --- what is asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (f"effect({KNOCKOUT}, window=2)", "measured in layers 1-2, 2-3, 3-4, each by itself"),
        ("effect(steer='rock', layers=(0, 1))", "measured in strengths -0.5, 1, 2, each by itself"),
        (f"effect({KNOCKOUT}, layers=(1, 3))", "Nobody has measured"),
        (f"effect({KNOCKOUT}, others=True)", "Nobody has measured"),
        ("effect(steer='rock', strength=3, by='layer')", "Nobody has measured what adding 'rock' does to 'rock'"),
        ("effect(patch='other', by='layer')", "Nobody has measured what states of 'other' do to the source's answer"),
        ("effect(knockout=[0], on='rock', place='patches')", "place goes with steer= or patch=, not with knockout="),
        (f"effect({KNOCKOUT}, layers=(3, 1))", "expected a layer, or a window"),
        (f"effect({KNOCKOUT}, layers=9)", "layers"),
        ("effect(knockout=readings('rock'))", "on is missing"),
    ],
)
def test_mistakes(studied: Studied, query: str, said: str) -> None:
    with pytest.raises(BadArgument, match=said.replace("(", r"\(")):
        studied.corpus.query(query)


def test_questions_and_commands(studied: Studied) -> None:
    expected = {
        "an ablation": ("effect(readings('rock'), 'rock')", "vlq ablate \"readings('rock')\" --target rock"),
        "cut in windows": (
            "effect(on='rock', knockout=readings('rock'), combinations='regions', by='layer')",
            "vlq knockout \"readings('rock')\" --target rock --combinations regions --window 2 --layers 1:4",
        ),
        "all others cut off": (
            "effect(on='rock', knockout=readings('rock'), to='prompt', others=True)",
            "vlq knockout \"readings('rock')\" --target rock --to prompt --others --layers 1:4",
        ),
        "steered": (
            "effect(steer='rock', strength=2.0, by='layer')",
            "vlq steer rock --window 2 --layers 0:3 --strength -0.5,1,2",
        ),
        "steered at patches": (
            "effect(on='rock', steer='dog', place=readings('rock'))",
            "vlq steer dog --target rock --at \"readings('rock')\" --layers 2:3 --strength 0.1",
        ),
        "patched": ("effect(patch='other label', by='layer')", 'vlq patch --source "other label" --layers 0:4'),
    }
    for name, (query, command) in expected.items():
        study = studied.studies[name]
        assert parse(query_of(study)).equals(parse(query))
        made = made_by(replace(study, repeats=3), studied.corpus.cache)
        cache = f"--cache {studied.corpus.url}"
        assert made in (f"{command} {cache}", f"{command} --baseline none {cache}")


def test_a_cache_of_one_study(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=4)
    study = make_study(run, intervention="knockout", windows=((1, 2),), to="last", images="label == 'x'")
    finish(store, study, random_curves(study, [0, 2], 12))
    result = vlq.open(str(tmp_path)).query(f"effect({KNOCKOUT})")
    assert result.notes[0] == "The study is of images with label == 'x'."
    with pytest.raises(BadArgument, match="Nobody has measured") as caught:
        vlq.open(str(tmp_path)).query("effect(readings('rock'), 'rock')")
    assert "There is effect(on='rock', knockout=readings('rock'))" in str(caught.value.hint)
