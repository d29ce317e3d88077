"""A study: what it leaves, what it is gone on with, and the same bytes however often it was stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vlq
import vlq.workers.intervene.job as job
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.errors import BadArgument, CacheMismatch, InputError, ModelError, RunError
from vlq.query.info import as_text as info_text
from vlq.query.schema import head_key
from vlq.query.status import as_text as status_text
from vlq.query.status import status_of
from vlq.query.studies.chosen import Written, numbered
from vlq.workers.intervene.asked import Ablation
from vlq.workers.intervene.foreseen import foresee
from vlq.workers.intervene.job import Outcome, begin, run_study
from vlq.workers.intervene.moments import moments_at
from vlq.workers.intervene.shards import CHANGED, effects_of, encode_ahead
from vlq.workers.models import load
from vlq.workers.upkeep.rerun import model_of
from vlq.workers.upkeep.verify import STUDY_AGAIN, verify

from ..conftest import IMAGES, make_model, save_images
from ..here import printed, without_ray
from ..runs import Silent, below, contents, finished, wait_until_gone, workers_of
from ..runs import vlq as started
from ..test_stopped import held

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy

DONE = 11
"""Images of the study: the first ones, without a broken one, in shards of two."""


def asked(cache: Path, **changes: Any) -> Ablation:
    options = {"combinations": "singles", "repeats": 2, "answer": 2, "limit": DONE} | changes
    return Ablation(str(cache), numbered([0, 5, 6]), Written.word("dog"), **options)


def command(cache: Path, *more: str) -> list[object]:
    """The same as one types it."""
    options = ["--combinations", "singles", "--repeats", "2", "--answer", "2", "--limit", str(DONE)]
    return ["ablate", "--patches", "0,5,6", "--target", "dog", *options, "--cache", cache, *more]


@pytest.fixture(scope="module")
def done(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A cache with a finished study, which nobody disturbed."""
    cache = tmp_path_factory.mktemp("study") / "cache"
    shutil.copytree(undisturbed, cache)
    with without_ray():
        return cache, run_study(asked(cache), Silent())


@pytest.fixture
def study(done: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy that may be harmed."""
    shutil.copytree(done[0], tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no model is needed")

    monkeypatch.setattr(job, "check_model", refuse)


# --- what it leaves --------------------------------------------------------------------------------------------


def test_effects_are_those_of_the_model_by_itself(done: tuple[Path, Outcome]) -> None:
    cache, outcome = done
    assert (outcome.fresh, outcome.errors) == (DONE, ())
    found = begin(asked(cache))
    assert found.study == outcome.study
    assert found.study.moments is not None
    model = model_of(found.run, None, str(cache))
    moments = moments_at(found.store, found.study.moments)
    with ThreadPoolExecutor(1) as decoder:
        rows = found.plan.table
        alone = effects_of(model, found.study, moments, rows, encode_ahead(model, rows, decoder))
    assert outcome.effects.to_pylist() == alone.table.to_pylist()
    # Every image that was read counts for the mean patch, not only those of the study.
    assert len(list((cache / "moments").glob("0*.safetensors"))) == IMAGES // 2


def test_a_head_names_it_and_all_is_sound(done: tuple[Path, Outcome]) -> None:
    cache, outcome = done
    opened = Cache.open(str(cache))
    (finished,) = opened.snapshot().studies
    assert finished.study == outcome.study
    assert list(verify(opened, lambda what, done, of: None)) == []
    assert ": [0, 5, 6] taken, mean in their place, singles: on 'dog'\n" in info_text(opened.info()) + "\n"
    assert status_of(opened)["studies"] == []


def test_what_it_takes_is_foreseen(done: tuple[Path, Outcome], undisturbed: Path) -> None:
    cache, outcome = done
    found = foresee(begin(asked(cache)))
    assert (found.images, found.patches, found.sets) == (DONE, 3 * DONE, outcome.effects.num_rows)
    assert (found.passes, found.gradients, found.corpus) == (2 * DONE, 0, 0)
    new = foresee(begin(asked(undisturbed, baselines=("random", "gradient"), batch=2)))
    # 4 chosen sets, 2 random ones and the gradients': 4 passes of two runs at most, and the plain one
    assert (new.sets, new.passes, new.gradients, new.corpus) == (7 * DONE, 5 * DONE, 16 * DONE, IMAGES)
    assert foresee(begin(asked(undisturbed, mode="zero"))).corpus == 0


def test_a_finished_study_is_only_shown(study: Path, done: tuple[Path, Outcome], no_model: None) -> None:
    before = contents(study)
    again = run_study(asked(study), Silent())
    assert (again.fresh, again.effects) == (0, done[1].effects)
    assert contents(study) == before
    head = latest_head(Cache.open(str(study)).store)
    assert head is not None
    (study / head_key(head.number)).unlink()  # whoever did the shards was stopped then
    assert run_study(asked(study), Silent()).effects == done[1].effects
    assert contents(study) == before


# --- what it is gone on with -----------------------------------------------------------------------------------


def test_what_is_damaged_is_done_again(study: Path, no_ray: None) -> None:
    before = contents(study)
    shard = next(study.glob("studies/*/effects/00000003-*"))
    whole, plan = next(study.glob("studies/*/effects-*")), next(study.glob("studies/*/plan.parquet"))
    record = next(study.glob("studies/*/commits/00000004.json"))
    moments = next(path for path in study.glob("moments/*") if not path.name.startswith("0000"))
    for path in (shard, whole, plan, record, moments):
        path.write_bytes(path.read_bytes().replace(path.read_bytes()[-9:], b"otherwise"))
    found = list(verify(Cache.open(str(study)), lambda what, done, of: None))
    harmed = {path.relative_to(study).as_posix() for path in (shard, whole, plan, record, moments)}
    assert {finding.where for finding in found} == harmed
    assert {finding.mend for finding in found} == {STUDY_AGAIN}
    outcome = run_study(asked(study), Silent())
    assert outcome.fresh == 4  # of two shards
    assert contents(study) == before
    whole.unlink()
    assert run_study(asked(study), Silent()).fresh == 0
    assert contents(study) == before


def test_other_options_are_another_study(study: Path, no_ray: None) -> None:
    sums = {path.name for path in (study / "moments").iterdir()}
    outcome = run_study(asked(study, mode="zero", limit=2, buffer=1, images=Written.of("image_id > 3")), Silent())
    assert outcome.study.moments is None
    assert {*outcome.effects["image_id"].to_pylist()} == {4, 6}  # the fifth is broken
    corpus: Any = vlq.open(str(study))
    assert [one.study.mode for one in corpus.cache.snapshot().studies] == ["mean", "zero"]
    assert {path.name for path in (study / "moments").iterdir()} == sums


def test_images_that_failed_are_tried_again_when_they_are_back(
    tiny_model: Path, undisturbed: Path, images: Path, tmp_path: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, never = tmp_path / "cache", tmp_path / "never"
    for copy in (cache, never):
        shutil.copytree(undisturbed, copy)
    options = {"mode": "zero", "limit": 5}
    aside = {name: (images / name).read_bytes() for name in ("0001.png", "0002.png")}
    try:
        (images / "0001.png").write_bytes(aside["0002.png"])
        (images / "0002.png").unlink()
        outcome = run_study(asked(cache, **options), Silent())
        assert outcome.errors == ((1, "0001.png", CHANGED), (2, "0002.png", "file not found"))
        assert {*outcome.effects["image_id"].to_pylist()} == {0, 3, 4}
        (shown,) = Cache.open(str(cache)).snapshot().studies
        assert shown.study == outcome.study
        with monkeypatch.context() as patch:  # as long as no file is back no model is needed
            patch.setattr(job, "check_model", None)
            again = run_study(asked(cache, **options), Silent())
        assert (again.fresh, again.errors, again.effects) == (0, outcome.errors, outcome.effects)
        (images / "0002.png").write_bytes(aside["0002.png"])
        outcome = run_study(asked(cache, **options), Silent())
        assert (outcome.fresh, outcome.errors) == (2, ((1, "0001.png", CHANGED),))  # the shard of images 2 and 3
    finally:
        for name, data in aside.items():
            (images / name).write_bytes(data)
    outcome, whole = run_study(asked(cache, **options), Silent()), run_study(asked(never, **options), Silent())
    assert (outcome.fresh, outcome.errors, outcome.study) == (2, (), whole.study)
    assert outcome.effects == whole.effects
    (study,) = Cache.open(str(cache)).snapshot().studies
    assert study == Cache.open(str(never)).snapshot().studies[0]
    left = {name: data for name, data in contents(never).items() if name.startswith("studies/")}
    assert left.items() <= contents(cache).items()
    assert list(verify(Cache.open(str(cache)), lambda what, done, of: None)) == []


def test_a_study_of_nothing_that_is_left(tmp_path: Path, tiny_model: Path, no_ray: None) -> None:
    images, cache = save_images(tmp_path / "images", 2), tmp_path / "cache"
    printed("run", images, "--model", tiny_model, "--cache", cache, "--k", "2")
    aside = {image: image.read_bytes() for image in images.iterdir()}
    for image in aside:
        image.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match="None of the 2 images is as the run read it") as told:
            run_study(asked(cache, mode="zero"), Silent())
        assert told.value.hint == "Put the files back, and run the same command again."
        assert Cache.open(str(cache)).snapshot().studies == ()
    for image, data in aside.items():
        image.write_bytes(data)
    outcome = run_study(asked(cache, mode="zero"), Silent())
    assert (outcome.fresh, outcome.errors) == (2, ())


def test_another_prompt_is_a_study_of_its_own(
    study: Path, done: tuple[Path, Outcome], undisturbed: Path, tmp_path: Path, no_ray: None
) -> None:
    prompt = "Is there a dog?"
    outcome = run_study(asked(study, prompt=prompt), Silent())
    found = begin(asked(study, prompt=prompt))
    assert found.study == outcome.study
    assert (found.study.prompt, found.study.moments) == (prompt, done[1].study.moments)
    model = load(found.run.model, prompt=prompt)
    assert prompt in model.prompt
    assert model.prompt != found.run.prompt
    moments = moments_at(found.store, done[1].study.moments or "")
    with ThreadPoolExecutor(1) as decoder:
        rows = found.plan.table
        alone = effects_of(model, found.study, moments, rows, encode_ahead(model, rows, decoder))
    assert outcome.effects.to_pylist() == alone.table.to_pylist()
    assert outcome.effects["before"] != done[1].effects["before"]
    # Each question is answered from its own.
    corpus: Any = vlq.open(str(study))
    for more, own in ((f", prompt={prompt!r}", outcome), ("", done[1])):
        answer = corpus.query(f"effect([0, 5, 6], 'dog'{more})")
        whole = [row for row in own.effects.to_pylist() if row["set"] == "all"]
        before = {row["image_id"]: row["before"] for row in answer.rows}
        assert before == pytest.approx({row["image_id"]: row["before"] for row in whole})
        assert ("asked 'Is there a dog?'" in answer.headline) == bool(more)
    with pytest.raises(BadArgument, match=r"prompt='What\?'") as nobody:
        corpus.query("effect([0, 5, 6], 'dog', prompt='What?')")
    assert '--prompt "What?"' in str(nobody.value)
    # What patches are like is measured with the run's own prompt, whichever study measures it.
    shutil.copytree(undisturbed, tmp_path / "first")
    run_study(asked(tmp_path / "first", prompt=prompt, limit=1, combinations="all"), Silent())
    sums = {path.name: path.read_bytes() for path in (study / "moments").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "first" / "moments").iterdir()} == sums


# --- refused ---------------------------------------------------------------------------------------------------


def test_another_model_or_none(undisturbed: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(CacheMismatch, match=r"is not the model of .*: its hash is") as caught:
        run_study(asked(undisturbed, model=str(other)), Silent())
    assert "--model" in str(caught.value)
    with pytest.raises(ModelError, match="no model folder") as missing:
        run_study(asked(undisturbed, model=str(tmp_path / "nowhere")), Silent())
    assert "--model FOLDER_OR_ID" in str(missing.value)
    assert not (undisturbed / "studies").exists()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_a_gpu_that_is_not_there(undisturbed: Path, no_ray: None) -> None:
    with pytest.raises(RunError, match="There is no GPU") as caught:
        run_study(asked(undisturbed, device="cuda"), Silent())
    assert "--device cpu" in str(caught.value)


# --- stopped ---------------------------------------------------------------------------------------------------


def test_a_study_stopped_in_every_way_goes_on_to_the_same_bytes(
    images: Path, undisturbed: Path, done: tuple[Path, Outcome], tmp_path: Path
) -> None:
    """And two at once come to them."""
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    asked = command(cache, "--workers", "1")

    # In the middle of the mean patch, and of the study's shards.
    with held(images / "0041.png", partial(started, *asked)) as (process, _):
        processes = below(process.pid)
        process.terminate()
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out, "Traceback" in said) == (143, "", False)
        assert said.endswith("Stopped. What is done is kept; the same command goes on from here.\n")
        wait_until_gone(processes, 20)
    with held(images / "0007.png", partial(started, *asked)) as (process, worker):
        os.kill(worker, signal.SIGKILL)  # the study itself goes on with another one
        wait_until_gone([worker], 30)
        assert Cache.open(str(cache)).snapshot().studies == ()
        text = status_text(status_of(Cache.open(str(cache))))
        said = r"^study    \[0, 5, 6\] taken, mean in their place, on 'dog': \d of 6 shards$"
        assert re.search(said, text, re.MULTILINE)
        with held(images / "0010.png", lambda: process):
            workers = workers_of(process.pid)
            process.kill()
            assert "Traceback" not in process.communicate(timeout=60)[1]
            wait_until_gone(workers, 60)  # Ray's own follow within a minute
    with held(images / "0010.png", partial(started, *asked)) as (process, _):
        here = printed(*asked)  # does that shard, too, which the other one then finds done
    there = finished(process)
    assert "11 images, 66 sets of patches taken" in here
    assert here.splitlines()[-12:] == there.splitlines()[-12:]
    assert contents(cache) == contents(done[0])
