"""Studies of knockouts, directions and other images' states as one types them: kept as rows of the cache, gone on with
to the same bytes, and told clearly where something is amiss."""

from __future__ import annotations

import csv
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlq as package
import vlq.workers.intervene.job as job
from vlq.query.cache.reader import Cache
from vlq.query.errors import BadArgument
from vlq.query.image.pictures import decode, fetch
from vlq.query.studies.chosen import Written
from vlq.workers.intervene.asked import Asked, Knockout, Patching, Steering
from vlq.workers.intervene.foreseen import foresee
from vlq.workers.intervene.job import begin, run_study
from vlq.workers.intervene.lab_commands import findings_of
from vlq.workers.intervene.shards import effects_of, encode_ahead, sources_ahead
from vlq.workers.models import load
from vlq.workers.upkeep.rerun import model_of
from vlq.workers.upkeep.verify import verify

from ...synthetic import make_cache, make_run
from ..conftest import save_images
from ..here import PoolHere, printed, without_ray
from ..runs import PROMPT, Silent, Vlq, contents
from ..test_commands import refused

IMAGES = 7
LAST = Written.place("last")


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a few images in shards of two."""
    folder = tmp_path_factory.mktemp("wide")
    images = save_images(folder / "images", IMAGES)
    options = ["--model", tiny_model, "--prompt", PROMPT, "--k", 2, "--shard-size", 2, "--batch-size", 2]
    printed("run", images, "--cache", folder / "cache", *options)
    return folder / "cache"


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    shutil.copytree(made, tmp_path / "cache")
    return tmp_path / "cache"


def asked(kind: str, cache: Path, **more: Any) -> Asked:
    dog = Written.word("dog")
    if kind == "knockout":
        options = {"window": 1, "repeats": 1, "answer": 2, **more}
        return Knockout(str(cache), Written.of("[0, 3]"), dog, **options)
    if kind == "steer":
        return Steering(str(cache), LAST, None, token=dog, strengths=(0.5, 2.0), answer=2, **more)
    return Patching(str(cache), LAST, None, source="other", answer=2, **more)


KINDS = ("knockout", "steer", "patch")


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_is_that_of_the_model_by_itself(cache: Path, kind: str, no_ray: None) -> None:
    outcome = run_study(asked(kind, cache), Silent())
    assert (outcome.fresh, outcome.errors) == (IMAGES, ())
    found = begin(asked(kind, cache))
    assert (found.study, found.study.intervention) == (outcome.study, kind)
    model, rows = model_of(found.run, None, str(cache)), found.plan.table
    with ThreadPoolExecutor(1) as decoder:
        images, sources = encode_ahead(model, rows, decoder), sources_ahead(model, found.study, rows, decoder)
        alone = effects_of(model, found.study, None, rows, images, sources)
    assert outcome.effects.to_pylist() == alone.table.to_pylist()
    foreseen = foresee(found)
    assert (foreseen.images, foreseen.sets) == (IMAGES, outcome.effects.num_rows)
    assert foreseen.corpus == 0  # no mean patch is needed
    assert list(verify(Cache.open(str(cache)), lambda what, done, of: None)) == []
    # What it prints says how it is asked for, and that has the rows.
    findings = findings_of(outcome, str(cache))
    query = findings.notes[-1].split('"')[1]
    corpus = package.open(str(cache))
    windows = len(found.study.windows)
    assert len(corpus.query(query).rows) == IMAGES * (windows if windows > 1 else len(found.study.strengths))
    assert len(findings.rows) == len(findings.head) == windows * max(1, len(found.study.strengths))
    again = run_study(asked(kind, cache), Silent())
    assert (again.fresh, again.effects) == (0, outcome.effects)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_was_stopped_goes_on_to_the_same_bytes(cache: Path, kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(cache, other)
    with without_ray():
        run_study(asked(kind, other), Silent())

    class Stopping(PoolHere):
        def work(self, shards: Any, begin: Any, watch: Any) -> Any:
            super().work(list(shards)[:2], begin, watch)
            raise KeyboardInterrupt

    with without_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Pool", Stopping)
        with pytest.raises(KeyboardInterrupt):
            run_study(asked(kind, cache), Silent())
    assert Cache.open(str(cache)).snapshot().studies == ()
    (record,) = cache.glob("studies/*/commits/00000001.json")
    shutil.copy(record, record.with_name("00000002.json"))  # as if a writer was cut short: it is no shard of its own
    record.with_name("00000002.json").write_bytes(record.read_bytes()[:40])
    with without_ray():
        assert run_study(asked(kind, cache), Silent()).fresh == IMAGES - 4
    assert contents(cache) == contents(other)


def test_a_partner_that_is_away_for_a_while(cache: Path, no_ray: None) -> None:
    """Its images are told, the same command shows that; with the file back it measures them."""
    options = asked("patch", cache, limit=4)
    whole = run_study(asked("patch", shutil.copytree(cache, cache.with_name("whole")), limit=4), Silent())
    plan = begin(options).plan.table.to_pylist()
    away = Path(plan[0]["source_uri"].removeprefix("file://"))
    data = away.read_bytes()
    try:
        away.unlink()
        outcome = run_study(options, Silent())
        assert (0, "0000.png", f"{away.name}: file not found") in outcome.errors
        again = run_study(options, Silent())
        assert (again.fresh, again.errors, again.effects) == (0, outcome.errors, outcome.effects)
    finally:
        away.write_bytes(data)
    mended = run_study(options, Silent())
    assert (mended.errors, mended.effects) == ((), whole.effects)


def test_other_options_are_other_studies(cache: Path, no_ray: None) -> None:
    digests = {
        begin(options).study.digest
        for options in (
            asked("knockout", cache),
            asked("knockout", cache, others=True),
            asked("knockout", cache, to="prompt"),
            asked("knockout", cache, layers=(1, 2)),
            asked("knockout", cache, baselines=()),
            asked("steer", cache),
            asked("steer", cache, window=2),
            asked("patch", cache),
            asked("patch", cache, seed=1),
            asked("patch", cache, layers=(0, 1)),
        )
    }
    assert len(digests) == 10


def test_the_corpus_mean_where_gradients_need_it(cache: Path, no_ray: None) -> None:
    outcome = run_study(asked("knockout", cache, baselines=("gradient",), window=None, limit=2), Silent())
    assert outcome.study.moments is not None
    assert {row["kind"] for row in outcome.effects.to_pylist()} == {"all", "gradient"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_prompt_is_a_study_of_its_own(cache: Path, kind: str, no_ray: None) -> None:
    question = "Is there a dog?"
    run_study(asked(kind, cache), Silent())
    outcome = run_study(asked(kind, cache, prompt=question), Silent())
    assert (outcome.study.prompt, outcome.fresh) == (question, IMAGES)
    model = load(begin(asked(kind, cache)).run.model, prompt=question)
    assert question in model.prompt
    rows, uris = outcome.effects.to_pylist(), begin(asked(kind, cache)).plan.table["uri"].to_pylist()
    with torch.inference_mode():
        for image, uri in enumerate(uris):
            encoded = model.encode(decode(fetch(uri)))
            logits = model.model(**model.batch([encoded]), use_cache=False).logits[0, -1]
            logprobs = torch.log_softmax(logits.double(), -1).numpy()
            own = [row for row in rows if row["image_id"] == image]
            if kind == "patch":
                ranks = [row["rank_before"] - 1 for row in own]
                np.testing.assert_allclose([row["before"] for row in own], -np.sort(-logprobs)[ranks], atol=1e-4)
            if kind != "patch":  # which is of the first token that the partner answers
                dog = np.logaddexp.reduce(logprobs[[*outcome.study.target_ids]])
                np.testing.assert_allclose([row["before"] for row in own], dog, atol=1e-4)
    corpus = package.open(str(cache))
    query = findings_of(outcome, str(cache)).notes[-1].split('"')[1]
    assert f"prompt={question!r}" in query
    found = {(row["image_id"], row["before"]) for row in corpus.query(query).rows}
    assert found == {(row["image_id"], row["before"]) for row in rows}
    plain = query.replace(f", prompt={question!r}", "")
    assert {(row["image_id"], row["before"]) for row in corpus.query(plain).rows}.isdisjoint(found)
    with pytest.raises(BadArgument, match=r"prompt='What\?'") as nobody:
        corpus.query(query.replace(question, "What?"))
    assert '--prompt "What?"' in str(nobody.value)


# --- as one types it -------------------------------------------------------------------------------------------


def test_what_is_printed(cache: Path) -> None:
    out = printed("knockout", "[0, 3]", "--target", "dog", "--window", "1", "--answer", "2", "--cache", cache)
    head = out.splitlines()[0]
    assert re.match(
        r"\[0, 3\] cut off from the last token in each of layers 1-\d, in 7 images: dog loses most in ", head
    )
    assert f"Ask for it: vlq \"effect(knockout=[0, 3], on='dog', by='layer')\" --cache {cache}" in out
    again = printed(
        "knockout", "[0, 3]", "--target", "dog", "--window", "1", "--answer", "2", "--cache", cache, "--format", "csv"
    )
    rows = list(csv.DictReader(again.splitlines()))
    assert [row["layers"] for row in rows] == [str(layer) for layer in range(1, len(rows) + 1)]
    assert {row["images"] for row in rows} == {"7"}
    found = printed("steer", "dog", "--strength", "1", "--answer", "1", "--cache", cache, "--format", "json")
    assert json.loads(found)["summary"]["steps"][0]["images"] == IMAGES
    assert "states of 0003.png put in at the last token in each of layers 0-" in printed(
        "patch", "--source", "0003.png", "--answer", "1", "--cache", cache
    )
    shown = printed("info", "--cache", cache)
    assert ": [0, 3] cut off from the last token in each of layers 1-" in shown
    assert "on the source's answer" in shown


def test_one_image_is_looked_at_and_not_kept(cache: Path) -> None:
    before = contents(cache)
    cut = ["--target", "dog", "--answer", "1", "--cache", cache]
    by_name = printed("knockout", "[0, 3]", *cut, "--images", "0002.png")
    assert by_name == printed("knockout", "0002.png", "[0, 3]", *cut)
    assert by_name.startswith("0002.png: the last token cut off from 2 patches")
    assert printed("steer", "dog", "--images", "0002.png", *cut[2:]) == printed("steer", "2", "dog", *cut[2:])
    assert contents(cache) == before


def test_one_image_is_asked_something_else(cache: Path) -> None:
    """The same figures as those of a study of that prompt, whose model is loaded with it."""
    question = ["--prompt", "Is there a dog?", "--answer", "1", "--cache", cache, "--format", "json"]
    for command, one in (
        (["knockout", "[0, 3]", "--target", "dog"], ["knockout", "0002.png", "[0, 3]", "--target", "dog"]),
        (["steer", "dog", "--strength", "1"], ["steer", "0002.png", "dog", "--strength", "1"]),
        (["patch", "--source", "0004.png", "--target", "dog"], ["patch", "2", "0004.png", "--target", "dog"]),
    ):
        found = json.loads(printed(*one, *question))
        assert any("answers 'Is there a dog?' with" in note for note in found["notes"])
        condition = ["--images", "image_id == 2"]
        study = json.loads(printed(*command, *condition, *question))
        (query,) = (note.split('"')[1] for note in study["notes"] if note.startswith("Ask for it"))
        rows = package.open(str(cache)).query(query).rows
        assert len(rows) == len(found["rows"])
        for row, own in zip(rows, found["rows"], strict=True):
            assert (row["before"], row["after"]) == pytest.approx((own["before"], own["after"]), abs=1e-4)
        other = json.loads(printed(*one, *question[2:]))
        assert other["rows"][0]["before"] != pytest.approx(found["rows"][0]["before"], abs=1e-3)
    made_of = ["attribute", "2", "--target", "dog", *question[4:]]
    assert printed(*made_of) != printed(*made_of, *question[:2])


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    columns = {"label": ["beach", "snow"] * 3}
    make_cache(tmp_path / "synthetic", make_run(grid=None, patches=9), images=6, columns=columns)
    return tmp_path / "synthetic"


def test_mistakes(vlq: Vlq, synthetic: Path) -> None:
    def said(*arguments: object) -> str:
        return refused(vlq(*arguments, "--cache", synthetic))

    assert "No --target" in said("knockout", "[0]")
    assert "000-0.png is an image: which of its patches?" in said("knockout", "000-0.png", "--target", "dog")
    assert "dog is a word, and no query" in said("knockout", "dog", "--target", "dog")
    assert "Attention is cut in layers 1 to 4" in said("knockout", "[0]", "--target", "dog", "--layers", "0:3")
    assert "A window has 1 to 4 layers" in said("knockout", "[0]", "--target", "dog", "--window", "9")
    assert "--to is one of last, last-row, prompt" in said("knockout", "[0]", "--target", "dog", "--to", "first")
    assert "of consecutive layers" in said("knockout", "[0]", "--target", "dog", "--layers", "1,3")
    assert "nothing is to be taken" in said("knockout", "[0]", "--target", "dog", "--images", "label == 'desert'")
    assert "Either the image" in said("knockout", "1", "[0]", "--target", "dog", "--images", "2")
    assert "goes with a study of many images" in said("knockout", "1", "[0]", "--target", "dog", "--dry-run")
    assert "Did you mean" in said("steer", "rokc")
    assert "expected numbers" in said("steer", "rock", "--strength", "much")
    assert "There is no image 'none.png' with readings" in said("steer", "rock", "--images", "none.png")
    assert "--prompt is empty" in said("steer", "rock", "--prompt", "")
    assert "each one is tried once" in said("steer", "rock", "--strength", "1,1")
    assert "Layers are 0 (the embedding) to 4" in said("steer", "rock", "--layers", "2:9")
    assert "There is no image for which" in said("steer", "rock", "--images", "label == 'desert'")
    assert "Whose states are put in?" in said("patch", "--target", "dog")
    assert "Whose states are put in?" in said("patch", "1", "2", "--target", "dog", "--source", "other")
    assert "no such name" in said("patch", "--source", "nowhere.png")
    assert "Take two of one shape" in said("patch", "--source", "0", "--at", "[0]")
    # What is asked for is sound, but the model that made the cache is not here.
    assert "--model FOLDER_OR_ID" in said("patch", "--source", "other label")
    assert not (synthetic / "studies").exists()


def test_what_it_takes(vlq: Vlq, synthetic: Path) -> None:
    code, out, _ = vlq("knockout", "[0, 1]", "--target", "dog", "--window", "2", "--cache", synthetic, "--dry-run")
    # Of six images, in three windows each, the chosen patches and three random sets.
    assert (code, "images   6, with 12 patches chosen" in out, "sets     72 at most" in out) == (0, True, True)
    code, out, _ = vlq("steer", "dog", "--window", "2", "--cache", synthetic, "--dry-run", "--format", "json")
    assert (code, json.loads(out)["sets"]) == (0, 6 * 4 * 3)
