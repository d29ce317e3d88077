"""`vlq ablate` as it is typed: what it prints, and one clear message and exit code 2 for every mistake."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import vlq.workers.intervene.job as job
from vlq.query.cache.reader import Cache
from vlq.query.cache.studies import EFFECTS, plan_key, study_key
from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import BadArgument
from vlq.query.language.parse import parse
from vlq.query.language.tokens import Token, TokenSet
from vlq.query.schema import RUN, VOCABULARY
from vlq.query.status import status_of
from vlq.query.store import open_store
from vlq.query.studies.chosen import Written
from vlq.workers.intervene.asked import Ablation
from vlq.workers.intervene.command import parse_baselines
from vlq.workers.intervene.job import Outcome

from ...studies import make_study, random_effects
from ...synthetic import make_cache, make_run, parquet, vocabulary_table
from ..runs import Vlq
from ..test_commands import refused


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    objects = [[{"label": "dog", "box": [0.0, 0.0, 50.0, 50.0], "mask_rle": None}]] * 6
    columns = {"label": ["beach", "snow"] * 3, "objects": objects}
    make_cache(tmp_path / "cache", make_run(), images=6, columns=columns)
    return tmp_path / "cache"


def test_mistakes(vlq: Vlq, cache: Path, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        return refused(vlq("ablate", *arguments, "--cache", cache))

    assert "Nothing says which patches are taken" in said("--target", "dog")
    assert "in one way" in said("[0]", "--objects", "dog", "--target", "dog")
    assert "--objects dog" in said("dog", "--target", "dog")
    assert "No --target" in said("[0]")
    assert "Such as --patches 12,13" in said("--patches", "1,x", "--target", "dog")
    assert "there is no patch 12. This grid of 3 x 4 has" in said("--patches", "1,12", "--target", "dog")
    assert "no image has an object labelled 'cat'" in said("--objects", "cat", "--target", "dog")
    assert "expected a row for each image and patch" in said("images()", "--target", "dog")
    assert "Did you mean" in said("--patches", "1", "--target", "rokc")
    assert "--mode is one of mean, zero, noise. Got 'blur'." in said("[0]", "--target", "dog", "--mode", "blur")
    assert "--combinations is one of" in said("[0]", "--target", "dog", "--combinations", "pairs")
    assert "--baseline is some of random, register, gradient" in said("[0]", "--target", "dog", "--baseline", "best")
    assert "nothing is to be taken" in said("[0]", "--target", "dog", "--images", "label == 'desert'")
    assert "--format is one of table, json, csv" in said("[0]", "--target", "dog", "--format", "parquet")
    nowhere = refused(vlq("ablate", "[0]", "--target", "dog", "--cache", tmp_path / "nowhere"))
    assert "There is no cache at" in nowhere
    assert "There is no image 'none.png' with readings" in said("[0]", "--target", "dog", "--images", "none.png")
    assert "nothing is to be taken" in said("[0]", "--target", "dog", "--images", "6")
    assert "--prompt is empty" in said("[0]", "--target", "dog", "--prompt", " ")
    # What is asked for is sound, but the model that made the cache is not here.
    assert "--model FOLDER_OR_ID" in said("[0]", "--target", "dog")
    assert not (cache / "studies").exists()


def test_a_cache_that_has_no_images_yet(vlq: Vlq, tmp_path: Path) -> None:
    run = make_run()
    store = open_store(str(tmp_path / "empty"), create=True)
    store.create(RUN, run.to_bytes())
    store.create(VOCABULARY, parquet(vocabulary_table(run.vocabulary_size)))
    assert "vlq run" in refused(vlq("ablate", "[0]", "--target", "dog", "--cache", tmp_path / "empty"))


def test_what_it_takes(vlq: Vlq, cache: Path) -> None:
    options = ["--patches", "0,1,11", "--target", "dog", "--combinations", "regions", "--cache", cache, "--dry-run"]
    code, out, _ = vlq("ablate", *options, "--baseline", "random,register,gradient", "--images", "label == 'snow'")
    assert code == 0
    # Of three images two regions and both together, three random sets, registers, gradients.
    assert "images   3, with 9 patches chosen" in out
    assert "sets     24 at most" in out
    assert "passes   6 through the decoder" in out
    assert "48 forward and backward" in out
    assert "before   6 images for the corpus' mean patch, once" in out
    for one in ("838-2.png", "2", "image_id == 2"):  # by its name, its number, a condition
        code, out, _ = vlq("ablate", *options, "--images", one)
        assert (code, "images   1, with 3 patches chosen" in out) == (0, True)
    code, out, _ = vlq("ablate", *options, "--mode", "zero", "--format", "json")
    found = json.loads(out)
    assert (found["images"], found["sets"], found["corpus"], found["gradients"]) == (6, 36, 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        ["readings('rock', rank=2)", "--target", "rock"],
        ["--patches", "1,0", "--target", "['rock', 'dog']", "--buffer", "2", "--limit", "3", "--seed", "7"],
        ["--patches", "3", "--target", "▁rock", "--repeats", "5", "--limit", "9", "--images", "label == 'snow'"],
        ["--objects", "dog", "--target", "matching('^r')", "--baseline", "gradient,random", "--answer", "3"],
        [
            "--objects",
            "dog",
            "--target",
            "3",
            "--baseline",
            "none",
            "--mode",
            "zero",
            "--batch-size",
            "4",
            "--limit",
            "1",
        ],
        ["locate('rock', rank=2)", "--target", "rock", "--combinations", "regions", "--mode", "noise", "--limit", "2"],
        ["[0]", "--target", "dog", "--prompt", 'What\'s "in" it?', "--device", "cuda", "--answer", "16"],
        ["[0]", "--target", "dog", "--prompt", "USER: <image>\nWhat? ASSISTANT:"],
        ["[0]", "--target", "dog", "--images", "757-3.png"],
    ],
)
def test_the_command_of_a_study_comes_to_it_again(
    vlq: Vlq, cache: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    found: list[job.Beginning] = []

    def stopped(options: Ablation, tracker: object) -> Outcome:
        found.append(job.begin(options))
        store, study = found[-1].store, found[-1].study
        store.create(study_key(study), study.to_bytes())
        store.create(plan_key(study), parquet_bytes(found[-1].plan.table))
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_study", stopped)
    monkeypatch.setattr(os, "_exit", sys.exit)  # which would end this process
    code, _, said = vlq("ablate", *options, "--cache", cache)
    assert (code, "the same command goes on" in said) == (130, True)
    (under,) = status_of(Cache.open(str(cache)))["studies"]
    command = shlex.split(under["command"])
    assert command[:2] == ["vlq", "ablate"]
    assert vlq(*command[1:])[0] == 130
    one, other = found
    assert (other.study, other.plan.table) == (one.study, one.plan.table)


@pytest.fixture
def outcome(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """What any study comes to."""
    study = make_study(make_run(), combinations="regions", baselines=("random", "register"))
    effects = pa.Table.from_pylist(random_effects(study, range(4), 12), EFFECTS)
    names = {i: f"image-{i}.png" for i in range(4)}
    tokens = TokenSet("rock", (Token(3, "▁rock", " rock"),))
    made = Outcome(study, tokens, effects, ((5, "gone.png", "file not found"),), names, fresh=4, notes=("A note.",))
    monkeypatch.setattr(job, "run_study", lambda options, tracker: made)
    return made


def test_a_table(vlq: Vlq, cache: Path, outcome: Outcome) -> None:
    code, out, _ = vlq("ablate", "readings('rock')", "--target", "rock", "--cache", cache)
    assert code == 0
    for kind in ("all", "region", "regions", "random", "register"):
        assert f"\n{kind} " in out
    assert "gone.png has no effects: file not found\nA note.\n" in out
    query = out.rsplit('vlq "', 1)[1].partition('"')[0]
    assert query == "effect(ablate=readings('rock'), on='rock', combinations='regions')"
    parse(query)


def test_json_and_csv(vlq: Vlq, cache: Path, outcome: Outcome) -> None:
    code, out, _ = vlq("ablate", "readings('rock')", "--target", "rock", "--cache", cache, "--format", "json")
    values = json.loads(out)
    assert code == 0
    assert values["errors"] == [{"image": "gone.png", "reason": "file not found"}]
    assert values["kinds"]["all"]["images"] == 4
    _, out, _ = vlq("ablate", "readings('rock')", "--target", "rock", "--cache", cache, "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == outcome.effects.num_rows == values["sets"]
    for row, effect in zip(rows, outcome.effects.to_pylist(), strict=True):
        assert (row["image"], row["set"]) == (f"image-{effect['image_id']}.png", effect["set"])
        assert float(row["effect"]) == pytest.approx(effect["before"] - effect["after"])
        assert row["patches"] == " ".join(map(str, effect["patches"]))


def test_baselines() -> None:
    assert parse_baselines("gradient, random") == ("random", "gradient")
    assert parse_baselines("none") == parse_baselines("") == ()
    with pytest.raises(BadArgument, match="best"):
        parse_baselines("random,best")


def test_moments_are_needed_by_what_uses_them(cache: Path) -> None:
    def needs(**options: object) -> bool:
        return Ablation(str(cache), Written.of("[0]"), Written.word("dog"), **options).needs_moments  # type: ignore[arg-type]

    assert needs()
    assert needs(mode="noise")
    assert not needs(mode="zero")
    assert needs(mode="zero", baselines=("random", "gradient"))
