"""Whole runs with every lens: what is stored is what the lens reads, and a cache holds what its lens needs later."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.errors import CacheMismatch, ModelError
from vlq.query.info import info
from vlq.query.store import open_store
from vlq.workers.estimate import as_text, as_values, estimate
from vlq.workers.job import run_job
from vlq.workers.lenses import tuned
from vlq.workers.lenses.files import Found
from vlq.workers.look import held
from vlq.workers.models.base import LensModel
from vlq.workers.upkeep.gc import collect, leftovers
from vlq.workers.upkeep.repair import Mended, command_of, repair
from vlq.workers.upkeep.verify import Finding

from ...brute import picked_layers, read_site
from ..conftest import make_model
from ..runs import PROMPT, Silent, Vlq, contents
from . import exact
from .making import KINDS, SHARD, K, caches_of, deeply_verified, findings, make_lens, options

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy

IMAGES = 5

Expected = Callable[[LensModel, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def caches(tiny_model: Path, images: Path, lens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache by each lens."""
    return caches_of(tmp_path_factory.mktemp("caches"), tiny_model, images, lens, IMAGES)


@pytest.fixture
def copied(caches: dict[str, Path], tmp_path: Path) -> Path:
    """The tuned lens' cache, to be harmed."""
    return Path(shutil.copytree(caches["tuned"], tmp_path / "cache"))


def shards(cache: Path) -> list[str]:
    return sorted(path.parent.relative_to(cache).as_posix() for path in cache.glob("shards/*/zarr.json"))


# --- what is stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_the_lens_reads(
    caches: dict[str, Path], model: LensModel, images: Path, lens: Path, kind: str
) -> None:
    cache = caches[kind]
    read: dict[str, Expected] = {
        "logit": exact.logit,
        "head": exact.head,
        "nearest": exact.nearest,
        "tuned": lambda model, states: exact.tuned(model, lens, states),
    }
    for site, positions in (("patch", slice(16)), ("prompt", slice(16, None))):
        stored = read_site(cache, shards(cache), site)
        for number, image in enumerate(exact.opened(sorted(images.iterdir()))):
            expected = read[kind](model, exact.states_of(model, image))[:, positions]
            best = -np.sort(-expected, -1)[..., :K]
            np.testing.assert_allclose(stored.logprob[number], best, atol=1e-4)
            own = np.take_along_axis(expected, stored.token[number].astype(int), -1)
            np.testing.assert_allclose(own, best, atol=1e-4)


def test_a_layer_without_a_translator_is_read_by_the_logit_lens(caches: dict[str, Path]) -> None:
    by_tuned, by_logit = (read_site(caches[kind], shards(caches[kind]), "patch") for kind in ("tuned", "logit"))
    for layer in range(4):
        assert np.array_equal(by_tuned.logprob[:, layer], by_logit.logprob[:, layer]) is (layer in (1, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_verify_reads_with_the_same_lens(caches: dict[str, Path], kind: str) -> None:
    assert deeply_verified(caches[kind]) == 0


def test_verify_finds_readings_of_another_lens(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A translator that is not the one that was read with, under a record that says so."""
    store, run = open_store(str(copied)), Cache.open(str(copied)).run
    zero, two = run.translators[0], run.translators[2]
    data = store.read(two)
    store.delete(zero)
    store.create(zero, data)
    store.delete("run.json")
    store.create("run.json", replace(run, checksums={**run.checksums, zero: run.checksums[two]}).to_bytes())
    assert deeply_verified(copied) == 1
    assert "layer 0, patch 0: logprob is " in capsys.readouterr().out


def test_only_layers_that_are_read_need_translators(caches: dict[str, Path], model: LensModel) -> None:
    cache = Cache.open(str(caches["tuned"]))
    assert sorted(tuned.stored(model, cache.run, cache.store)) == [0, 2]
    assert sorted(tuned.stored(model, replace(cache.run, read_layers=(1, 2)), cache.store)) == [2]


def test_a_cache_tells_its_lens(caches: dict[str, Path], lens: Path) -> None:
    told = {kind: info(Cache.open(str(cache)))["lens"] for kind, cache in caches.items()}
    sha256 = Cache.open(str(caches["tuned"])).run.lens.sha256
    assert (told["logit"], told["head"]) == ("logit", "head")
    assert told["nearest"] == {"kind": "nearest", "temperature": pytest.approx(32**-0.5)}
    assert told["tuned"] == {"kind": "tuned", "sha256": sha256, "source": str(lens)}


# --- going on --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("by", ["its folder elsewhere", "tuned"])
def test_a_run_goes_on(
    tiny_model: Path, images: Path, lens: Path, caches: dict[str, Path], copied: Path, tmp_path: Path, by: str
) -> None:
    """With the translators that the cache holds, wherever they came from."""
    store = open_store(str(copied))
    for key in ("commits/00000001.json", "commits/head-00000002.json"):
        store.delete(key)
    named = "tuned" if by == "tuned" else str(shutil.copytree(lens, tmp_path / "elsewhere"))
    assert run_job(options(tiny_model, images, copied, named), Silent()).fresh == SHARD
    assert contents(copied) == contents(caches["tuned"])


def test_another_lens_is_refused(
    tiny_model: Path, model: LensModel, images: Path, lens: Path, caches: dict[str, Path], tmp_path: Path
) -> None:
    def refused(kind: str, named: Path | str) -> str:
        with pytest.raises((CacheMismatch, ModelError)) as caught:
            run_job(options(tiny_model, images, caches[kind], named), Silent())
        return str(caught.value)

    own = Cache.open(str(caches["tuned"])).run.lens
    assert "lens: the cache has logit, asked for head\n" in refused("logit", "head")
    assert "lens: the cache has nearest (cosines divided by 0.177), asked for logit\n" in refused("nearest", "logit")
    message = refused("tuned", "logit")
    assert f"lens: the cache has tuned ({(own.sha256 or '')[:12]}, from {lens}), asked for logit\n" in message
    assert "The cache holds its tuned lens: --lens tuned goes on with it." in message
    other = make_lens(tmp_path / "other", tiny_model, model, images, steps=31)
    assert f"from {other})\n" in refused("tuned", other)
    assert "The cache was not begun with a tuned lens, but with head." in refused("head", "tuned")
    message = refused("tuned", tmp_path / "gone")
    assert (
        message == f"There is no tuned lens at {tmp_path}/gone.\nThe cache holds {own}: --lens tuned goes on with it."
    )


def test_a_lens_of_another_model_is_refused(images: Path, lens: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"was trained on another model than .*/other") as caught:
        run_job(options(other, images, tmp_path / "cache", lens), Silent())
    assert caught.value.hint == f"Train one on this model: vlq lens train IMAGES --model {other} --out FOLDER"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_harmed_lens_leaves_no_cache(tiny_model: Path, images: Path, lens: Path, tmp_path: Path, harm: str) -> None:
    shutil.copytree(lens, tmp_path / "lens")
    file = tmp_path / "lens" / "layer-0002.safetensors"
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"layer-0002\.safetensors"):
        run_job(options(tiny_model, images, tmp_path / "cache", tmp_path / "lens"), Silent())
    assert not (tmp_path / "cache").exists()


def test_a_dry_run(tiny_model: Path, images: Path, lens: Path, caches: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = {kind: estimate(options(tiny_model, images, cache, kind), Silent()) for kind in (str(lens), "logit")}
    tuned, logit = (found[kind] for kind in (str(lens), "logit"))
    assert tuned.run.lens == Cache.open(str(caches["tuned"])).run.lens
    assert f"\nlens     {tuned.run.lens}\n" in as_text(as_values(tuned))
    assert tuned.cost is not None
    assert logit.cost is not None
    # What it is read with lies in the cache, too: arrays of other readings pack a little more or less densely.
    files = sum(path.stat().st_size for path in lens.glob("*.safetensors"))
    beside = [cost.bytes - round(cost.image_bytes * IMAGES) for cost in (tuned.cost, logit.cost)]
    assert beside[0] - beside[1] == pytest.approx(files, abs=500)
    assert not cache.exists()
    (tmp_path / "lens").mkdir()
    with pytest.raises(ModelError, match="There is no tuned lens"):
        estimate(options(tiny_model, images, cache, tmp_path / "lens"), Silent())
    with pytest.raises(CacheMismatch, match="lens: the cache has head, asked for logit"):
        estimate(options(tiny_model, images, caches["head"], "logit"), Silent())


def test_names_of_lenses(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    for name, message in {
        "logits": r"There is no lens logits\.\nA lens is logit, head, nearest",
        "tuned": "'tuned' does not say which tuned lens",
        str(images): "There is no tuned lens at",
        "memory://no-lens": "There is no tuned lens at memory://no-lens",
    }.items():
        with pytest.raises(ModelError) as caught:
            run_job(options(tiny_model, images, tmp_path / "cache", name), Silent())
        assert caught.match(message)
    (tmp_path / "lens").mkdir()
    for text in ("no JSON", '{"format": 2}', "[]"):
        (tmp_path / "lens" / "lens.json").write_text(text)
        with pytest.raises(ModelError, match=r"lens\.json is not"):
            run_job(options(tiny_model, images, tmp_path / "cache", tmp_path / "lens"), Silent())
    assert not (tmp_path / "cache").exists()


# --- upkeep ----------------------------------------------------------------------------------------------------


def test_a_translator_that_came_to_harm(lens: Path, caches: dict[str, Path], copied: Path) -> None:
    def told() -> list[Mended | Finding]:
        return list(repair(Cache.open(str(copied)), None, lambda what, done, of: None))

    keys = Cache.open(str(copied)).run.translators
    assert sorted(keys) == [0, 2]
    (copied / keys[0]).unlink()
    (copied / keys[2]).write_bytes(b"damaged")
    assert [(finding.where, finding.what) for finding in findings(copied)] == [
        (keys[0], "missing"),
        (keys[2], "not what was written"),
    ]
    assert deeply_verified(copied) == 1
    lens.rename(lens.with_name("moved"))
    try:
        for finding in told():
            assert isinstance(finding, Finding)
            assert str(lens) in finding.mend
    finally:
        lens.with_name("moved").rename(lens)
    assert [type(each) for each in told()] == [Mended, Mended]
    assert contents(copied) == contents(caches["tuned"])
    assert command_of(Cache.open(str(copied)).run, "c").endswith(" --lens tuned")


def test_translators_of_a_start_that_was_cut_off_go(copied: Path, caches: dict[str, Path]) -> None:
    open_store(str(copied)).create("lens/0000-0123456789abcdef.safetensors", b"of another lens")
    found = leftovers(Cache.open(str(copied)), grace=-1)
    assert [(leftover.key, leftover.why) for leftover in found] == [
        ("lens/0000-0123456789abcdef.safetensors", "not the run's lens")
    ]
    list(collect(Cache.open(str(copied)), found))
    assert contents(copied) == contents(caches["tuned"])


# --- side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["head", "nearest", "tuned"])
def test_two_lenses_are_compared(caches: dict[str, Path], other: str) -> None:
    a, b = str(caches["logit"]), str(caches[other])
    sites = [read_site(Path(cache), shards(Path(cache)), "patch") for cache in (a, b)]
    # A token that both read somewhere.
    id = next(iter(sorted(set(sites[0].token.flat) & set(sites[1].token.flat))))
    rows = vlq.open(a).query(f"compare({a!r}, {b!r}, first_layer({id}, rank={K}))").rows
    first, second = ({row["image"]: row["layer"] for row in picked_layers(site, [id], rank=K)} for site in sites)
    assert first
    assert second
    assert first != second
    assert {row["image_id"]: (row["layer_a"], row["layer_b"]) for row in rows} == {
        image: (first.get(image), second.get(image)) for image in first.keys() | second.keys()
    }
    answer = vlq.open(a).query(f"compare({a!r}, {b!r}, defaults(at='last'))")  # rows by token
    notes = answer.notes
    assert notes[0] == f"a: {a}, {vlq.open(a).cache.run.model}, lens logit"
    assert notes[1] == f"b: {b}, {vlq.open(a).cache.run.model}, lens {vlq.open(b).cache.run.lens}"
    warned = "The nearest lens makes probabilities of cosines: compare ranks, not probabilities." in notes
    assert warned is (other == "nearest")


def test_the_lens_is_not_told_where_it_is_the_same(caches: dict[str, Path]) -> None:
    a = str(caches["head"])
    notes = vlq.open(a).query(f"compare({a!r}, {a!r}, first_layer(1, rank={K}))").notes
    assert not [note for note in notes if "lens" in note.removeprefix(f"a: {a}").removeprefix(f"b: {a}")]


# --- one image by itself ---------------------------------------------------------------------------------------


@pytest.fixture
def nothing_is_held() -> Iterator[None]:
    yield
    held.release()


@pytest.mark.usefixtures("nothing_is_held")
def test_a_look_reads_with_any_lens(model: LensModel, tiny_model: Path, images: Path, lens: Path) -> None:
    """The model stays in memory from one to the next, and then to the first again."""
    image = min(images.iterdir())
    states = exact.states_of(model, next(iter(exact.opened([image]))))[:, :16]
    expected = {
        "logit": exact.logit(model, states),
        "head": exact.head(model, states),
        "nearest": exact.nearest(model, states),
        "tuned": exact.tuned(model, lens, states),
    }
    for kind in ("logit", "tuned", "head", "nearest", "logit"):
        corpus = vlq.look(image, tiny_model, prompt=PROMPT, k=K, lens=lens if kind == "tuned" else kind)
        best = -np.sort(-expected[kind], -1)[..., :K]
        np.testing.assert_allclose(corpus.zarr["patch/logprob"][0], best, atol=1e-4)
        run = corpus.cache.run
        assert run.lens.kind == kind
        assert {key: run.checksums[key] for key in run.translators.values()} == (
            Found.at(str(lens)).checksums if kind == "tuned" else {}
        )


@pytest.mark.usefixtures("nothing_is_held")
def test_what_a_look_says_and_saves_of_its_lens(
    vlq: Vlq, tiny_model: Path, images: Path, lens: Path, tmp_path: Path
) -> None:
    for name, shown in (("nearest", "nearest (cosines divided by 0.177)"), (lens, f", from {lens})")):
        saved = tmp_path / Path(name).name
        options = ("--model", tiny_model, "--lens", name, "--save", saved)
        code, out, said = vlq("look", min(images.iterdir()), *options)
        assert code == 0, said
        (line,) = (line for line in out.splitlines() if line.startswith("lens    "))
        assert line.endswith(shown)
        assert findings(saved) == []
        code, out, said = vlq("verify", "--deep", "--cache", saved)
        assert code == 0, said


@pytest.mark.usefixtures("nothing_is_held")
def test_a_look_refuses_a_lens(vlq: Vlq, images: Path, tiny_model: Path, lens: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=5)
    shutil.copytree(lens, tmp_path / "harmed")
    (tmp_path / "harmed" / "layer-0002.safetensors").write_bytes(b"")
    for name, folder, message in (
        ("logits", tiny_model, "There is no lens logits.\nA lens is logit, head, nearest, or"),
        (tmp_path / "gone", tiny_model, "There is no tuned lens at"),
        ("tuned", tiny_model, "'tuned' does not say which tuned lens."),
        (lens, other, "was trained on another model than"),
        (tmp_path / "harmed", tiny_model, "layer-0002.safetensors of the tuned lens"),
    ):
        options = ("--model", folder, "--lens", name, "--save", tmp_path / "saved")
        code, out, said = vlq("look", min(images.iterdir()), *options)
        assert (code, out) == (2, "")
        assert message in said
        assert not (tmp_path / "saved").exists()
