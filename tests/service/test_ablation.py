"""Patches taken from an image by the service: held against the model in this process, and against what was cached."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

import vlq
import vlq.workers.intervene.single as single
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument, MissingExtra, ModelError
from vlq.query.schema import RUN
from vlq.service.app import create_app
from vlq.service.command import check_models, check_workers
from vlq.service.settings import Settings
from vlq.workers.demo.dialogues import MAIN_PROMPT
from vlq.workers.demo.scenes import DEMO, compose
from vlq.workers.intervene.ablation import Moments, MomentSums, measure
from vlq.workers.intervene.moments import put_moments, put_sums
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.intervene.sets import PatchSet
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from ..doors import running
from ..synthetic import make_cache

SIDE = 8
"""Rows and columns of the demo's patches."""


@pytest.fixture(scope="module")
def model() -> LensModel:
    torch.set_num_threads(1)
    return load(str(Path(vlq.__file__).parent / "workers" / "demo" / "model"), prompt=MAIN_PROMPT)


@pytest.fixture(scope="module")
def known(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cache, to store its mean patch in."""
    return Path(shutil.copytree(scenes, tmp_path_factory.mktemp("known") / "cache"))


@pytest.fixture(scope="module")
def client(scenes: Path, known: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    other = tmp_path_factory.mktemp("other")
    make_cache(other, images=2)  # of a model that is nowhere
    served = {"scenes": str(scenes), "known": str(known), "other": str(other)}
    with (
        running(create_app(Settings(served, intervene=True))) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def prompted(model: LensModel, scenes: Path, number: int) -> Prompted:
    with Image.open(scenes.parent / "images" / f"scene-{number:03d}.png") as image:
        return Prompted(model, model.encode(image.convert("RGB")))


def moments_of(*images: Prompted) -> Moments:
    sums = MomentSums()
    for image in images:
        sums.add(image.entering_patches())
    return sums.moments()


def main_patches(number: int) -> list[int]:
    """Where the main object of a scene is seen."""
    scene = compose(DEMO, number)
    place = [placed.label for placed in scene.objects].index(scene.main)
    return np.flatnonzero(scene.coverage[place] > 0).tolist()


def around(patches: list[int], rings: int) -> list[int]:
    """Patches with those around them, by their distances."""
    return [
        patch
        for patch in range(SIDE * SIDE)
        if any(max(abs(patch // SIDE - p // SIDE), abs(patch % SIDE - p % SIDE)) <= rings for p in patches)
    ]


def check(
    found: dict[str, Any], image: Prompted, moments: Moments, mode: str, patches: list[int], ids: list[int]
) -> None:
    """It is what the model in this process says, by the core of interventions."""
    taken, target = PatchSet("all", tuple(patches)), Target(tuple(ids))
    plain, (one,) = measure(image, [taken], moments, target, mode, answer=4, seed=[0])
    assert found["patches"] == patches
    assert [token["id"] for token in found["tokens"]] == ids
    assert found["before"] == pytest.approx(plain.logprob[0], abs=1e-4)
    assert found["after"] == pytest.approx(one.outcome.logprob[0], abs=1e-4)
    assert found["effect"] == pytest.approx(found["before"] - found["after"], abs=1e-6)
    assert (found["rank_before"], found["rank_after"]) == (plain.rank[0], one.outcome.rank[0])
    decode = image.model.tokenizer.decode
    assert (found["answer_before"], found["answer"]) == (
        decode(plain.answer).strip(),
        decode(one.outcome.answer).strip(),
    )


@pytest.mark.parametrize(("number", "mode", "rings"), [(1, "mean", 0), (1, "zero", 1), (2, "mean", 2), (7, "zero", 0)])
def test_it_is_what_the_model_says(
    client: httpx2.Client, scenes: Path, model: LensModel, number: int, mode: str, rings: int
) -> None:
    word, patches = compose(DEMO, number).main, main_patches(number)
    asked = {"patches": patches, "target": word, "mode": mode, "buffer": rings}
    found = client.post(f"/v1/images/{number}/ablation", json=asked).json()
    image = prompted(model, scenes, number)
    ids = sorted(LocalCorpus(Cache.open(str(scenes))).vocabulary.by_word(word, pieces=False))
    check(found, image, moments_of(image), mode, around(patches, rings), ids)
    assert found["mean_of"] == ("image" if mode == "mean" else None)
    # The answer as the run cached it, and without the object another one.
    cached = client.get(f"/v1/images/{number}").json()
    assert found["answer_before"] == cached["answer"] == word != found["answer"]
    assert found["gone"] is True
    first = cached["answer_tokens"][0]
    one = client.post(f"/v1/images/{number}/ablation", json={**asked, "target": str(first["id"])}).json()
    assert np.exp(one["before"]) == pytest.approx(first["probability"], abs=1e-4)
    assert one["rank_before"] == 1


def test_a_word_that_was_never_said(client: httpx2.Client) -> None:
    found = client.post("/v1/images/1/ablation", json={"patches": [0], "target": "elephant"}).json()
    assert found["gone"] is None
    assert found["rank_before"] > 1


def test_the_corpus_mean_stands_in_where_it_is_stored(
    client: httpx2.Client, scenes: Path, known: Path, model: LensModel
) -> None:
    cache = Cache.open(str(known))
    store = cache.store
    asked = {"patches": main_patches(1), "target": "tree", "mode": "mean", "corpus": "known"}
    assert client.post("/v1/images/1/ablation", json=asked).json()["mean_of"] == "image"
    commits = sorted(cache.snapshot().commits, key=lambda commit: commit.shard)
    every = [prompted(model, scenes, number) for number in range(8)]
    for commit in commits:
        sums = MomentSums()
        for number in range(commit.first_image, commit.first_image + commit.images):
            sums.add(every[number].entering_patches())
        put_sums(store, commit.shard, sums)
    put_moments(store, [commit.shard for commit in commits])
    found = client.post("/v1/images/1/ablation", json=asked).json()
    assert found["mean_of"] == "corpus"
    check(found, every[1], moments_of(*every), "mean", main_patches(1), [token["id"] for token in found["tokens"]])


@pytest.mark.parametrize(
    ("number", "change", "status", "kind", "message"),
    [
        (1, {"patches": [3, 64]}, 400, "bad-request", "There is no patch 64."),
        (1, {"patches": [-1]}, 400, "bad-request", "There is no patch -1."),
        (1, {"patches": []}, 400, "bad-request", "patches: List should have at least 1 item"),
        (1, {"target": "dgo"}, 400, "unknown-token", "'dgo' is"),
        (1, {"target": " "}, 400, "bad-argument", "target"),
        (1, {"mode": "noise"}, 400, "bad-request", "mode: Input should be 'mean' or 'zero'."),
        (1, {"buffer": 3}, 400, "bad-request", "buffer: Input should be 0, 1 or 2."),
        (1, {"layers": 3}, 400, "bad-request", "layers: Extra inputs are not permitted."),
        (1, {"corpus": "none"}, 404, "not-found", "There is no corpus none."),
        (8, {}, 404, "not-found", "There is no image 8 with readings."),
        (0, {"corpus": "other", "patches": [0], "target": "dog"}, 503, "model", "The model of this corpus, "),
    ],
)
def test_mistakes(
    client: httpx2.Client, number: int, change: dict[str, Any], status: int, kind: str, message: str
) -> None:
    asked = {"patches": [0], "target": "dog", **change}
    answer = client.post(f"/v1/images/{number}/ablation", json=asked)
    told = answer.json()
    assert (answer.status_code, told["kind"]) == (status, kind), told
    assert told["message"].startswith(message) or kind == "bad-argument"
    assert told.keys() == {"kind", "message", "hint", "span"}
    assert "/" not in told["message"] + (told["hint"] or "").replace("/docs", "")


def test_only_the_image_that_was_read_is_run(client: httpx2.Client, scenes: Path) -> None:
    """Another file in its place is not, nor is one that is gone; then the right one is."""
    file, asked = scenes.parent / "images" / "scene-003.png", {"patches": [0], "target": "car"}
    data = file.read_bytes()
    try:
        file.write_bytes((scenes.parent / "images" / "scene-004.png").read_bytes())
        replaced = client.post("/v1/images/3/ablation", json=asked)
        file.unlink()
        gone = client.post("/v1/images/3/ablation", json=asked)
    finally:
        file.write_bytes(data)
    for answer in (replaced, gone):
        assert (answer.status_code, answer.json()["kind"]) == (404, "not-found")
        assert answer.json()["message"] == "scene-003.png is not where it was, or no longer the same."
    assert client.post("/v1/images/3/ablation", json=asked).json()["answer_before"] == "car"


# --- who may, and when -----------------------------------------------------------------------------------------


def test_without_a_model_there_are_none(scenes: Path) -> None:
    with running(create_app(Settings({"scenes": str(scenes)}))) as url:
        answer = httpx2.post(f"{url}/v1/images/1/ablation", json={"patches": [0], "target": "dog"})
        assert (answer.status_code, answer.json()["kind"]) == (404, "not-found")
        assert answer.json()["hint"] == "Start it so: vlq serve --intervene"
        assert 'id="without"' not in httpx2.get(f"{url}/scenes/images/1").text


@pytest.mark.parametrize(
    ("tokens", "who", "may"),
    [
        ({}, None, True),
        ({"operators_token": "o"}, None, False),
        ({"operators_token": "o"}, "o", True),
        ({"readers_token": "r"}, "r", False),
        ({"readers_token": "r", "operators_token": "o"}, "r", False),
        ({"readers_token": "r", "operators_token": "o"}, "o", True),
    ],
)
def test_where_there_are_tokens_they_are_for_operators(
    scenes: Path, tokens: dict[str, str], who: str | None, may: bool
) -> None:
    headers = {} if who is None else {"Authorization": f"Bearer {who}"}
    with running(create_app(Settings({"scenes": str(scenes)}, intervene=True, **tokens))) as url:
        answer = httpx2.post(f"{url}/v1/images/1/ablation", json={"patches": [99], "target": "dog"}, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == ((400, "bad-request") if may else (403, "forbidden"))
        page = httpx2.get(f"{url}/scenes/images/1", headers=headers)
        assert (page.status_code, 'id="without"' in page.text) == (200, may)


def test_no_query_waits_for_a_model(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is being loaded, or works, queries are answered; who comes when too many wait is sent away; what takes
    too long is stopped, and what comes after it is as if nothing had been."""
    may_load, usual, real = threading.Event(), single.model_of, single.measure
    began: list[float] = []

    def slowly(*arguments: Any) -> LensModel:
        may_load.wait(60)
        return usual(*arguments)

    def for_ever(image: Prompted, *arguments: Any, **more: Any) -> Any:
        began.append(time.monotonic())
        while time.monotonic() < began[-1] + 60:
            image.states([SIDE])
        return real(image, *arguments, **more)

    monkeypatch.setattr(single, "model_of", slowly)
    asked = {"patches": [0, 1], "target": "tree"}
    app = create_app(Settings({"scenes": str(scenes)}, intervene=True, timeout=1.0, waiting=1))
    with running(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        query = {"query": "first_layer('tree')"}
        until(lambda: client.post("/v1/query", json=query).status_code, lambda status: status == 200)

        def ask() -> tuple[int, dict[str, Any]]:
            answer = client.post("/v1/images/1/ablation", json=asked)
            return answer.status_code, answer.json()

        def together(count: int) -> list[tuple[int, dict[str, Any]]]:
            """What so many are answered of whom each comes when the one before has a place, or was sent away."""
            found: list[tuple[int, dict[str, Any]]] = []
            turns, threads = app.state.served.models._turns, []
            for number in range(count):
                threads.append(threading.Thread(target=lambda: found.append(ask())))
                threads[-1].start()
                places = min(number + 1, 2)  # one is being worked for, and one may wait
                until(lambda: (len(turns), len(found) >= number + 1 - places), lambda now: now == (places, True))  # noqa: B023
            assert client.post("/v1/query", json=query).status_code == 200
            for thread in threads:
                thread.join()
            return found

        found = together(3)
        assert {status for status, _ in found} == {429}
        assert sorted(told["message"] for _, told in found) == [
            "The model is at work for others.",
            "The model is still being loaded.",
            "Too many interventions are waiting.",
        ]
        may_load.set()
        found = [until(ask, lambda answer: answer[0] == 200)]
        monkeypatch.setattr(single, "measure", for_ever)
        status, told = ask()
        assert (status, told["kind"], told["message"]) == (400, "limit", "It was stopped after 1 seconds.")
        assert len(began) == 1
        monkeypatch.setattr(single, "measure", real)
        assert until(ask, lambda answer: answer[0] == 200) == found[0]
        assert time.monotonic() < began[0] + 30  # the model was stopped; nobody waited for its end


def until(ask: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + 60
    while not done(answer := ask()):
        assert time.monotonic() < end, answer
        time.sleep(0.1)
    return answer


def test_whoever_goes_away_has_it_stopped(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[BaseException] = []

    def for_ever(image: Prompted, *arguments: Any, **more: Any) -> Any:
        end = time.monotonic() + 60
        try:
            while time.monotonic() < end:
                image.states([SIDE])
        except single.Stopped as error:
            ended.append(error)
            raise

    asked = {"patches": [0], "target": "tree"}
    with running(create_app(Settings({"scenes": str(scenes)}, intervene=True, timeout=60.0))) as url:
        asked_of = f"{url}/v1/images/1/ablation"
        found = httpx2.post(asked_of, json=asked, timeout=60).json()
        with monkeypatch.context() as patch:
            patch.setattr(single, "measure", for_ever)
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(asked_of, json=asked, timeout=0.5)
            until(lambda: ended, bool)
        assert httpx2.post(asked_of, json=asked, timeout=30).json() == found


def test_a_model_that_moved_is_found_by_its_hash(scenes: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(scenes, tmp_path / "cache"))
    corpus = LocalCorpus(Cache.open(str(moved)))
    place = Path(corpus.cache.run.model)
    here, other = shutil.copytree(place, tmp_path / "here"), shutil.copytree(place, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"changed": True}))
    run = replace(corpus.cache.run, model=str(tmp_path / "gone"))
    (moved / RUN).write_bytes(run.to_bytes())
    asked = {"patches": [9, 10, 17, 18], "target": "tree"}

    def answer(*models: Path) -> dict[str, Any]:
        settings = Settings({"moved": str(moved)}, intervene=True, models=tuple(map(str, models)))
        with running(create_app(settings)) as url:
            found: dict[str, Any] = httpx2.post(f"{url}/v1/images/1/ablation", json=asked, timeout=60).json()
        return found

    told = answer(other)
    assert (told["kind"], "--model" in told["hint"]) == ("model", True)
    with running(create_app(Settings({"scenes": str(scenes)}, intervene=True))) as url:
        assert answer(other, here) == httpx2.post(f"{url}/v1/images/1/ablation", json=asked, timeout=60).json()


def test_models_are_looked_for_before_it_starts(tmp_path: Path) -> None:
    check_models([], False)
    with pytest.raises(ModelError, match="There is no model folder"):
        check_models([str(tmp_path / "nowhere")], True)
    with pytest.raises(BadArgument, match="--model says where a model is"):
        check_models([str(tmp_path)], False)


def test_what_a_service_without_workers_says(monkeypatch: pytest.MonkeyPatch) -> None:
    check_workers()
    monkeypatch.setattr("vlq.service.command.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="torch, which is not installed") as told:
        check_workers()
    assert told.value.hint == "Run: pip install 'vlq[workers]'"
