"""States that are kept: what of them is read, wherever they lie, and what else is asked of such caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.cache.copies import folder
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CacheError, CorruptCache
from vlq.query.schema import RUN, Run
from vlq.query.store import open_store

from ...counting import CountingStore
from ...synthetic import head_bytes, head_of, make_cache, make_run

SIZE = 16
STATES = make_run(keep="residual", k=3)


@pytest.fixture
def here(tmp_path: Path) -> LocalCorpus:
    make_cache(tmp_path / "here", STATES, images=10, failed=[3], columns={"label": ["beach", "snow"] * 5})
    return vlq.open(str(tmp_path / "here"))


def test_arrays_are_there_one_by_one_and_joined(here: LocalCorpus) -> None:
    states = here.zarr["patch/residual"]
    assert (states.dims, states.shape) == (("image", "layer", "patch", "d"), (10, 5, 12, 4))
    logits = states[7] @ head_of(SIZE).T
    np.testing.assert_allclose(here.zarr["patch/lse"][7], np.log(np.exp(logits).sum(-1)), rtol=1e-6)
    assert np.isnan(states[3]).all()


def test_what_is_read_is_what_is_asked_for(here: LocalCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two images and one layer two chunks, of all layers all of theirs, of which newer Zarr reads those that are
    neighbours at once; the weights once, and kept."""
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    url = here.cache.url
    store = CountingStore(open_store(url))
    corpus = LocalCorpus(Cache(url, store, here.cache.run))
    assert sorted(row["prob"] for row in corpus.query("prob(3, layers=2, images=image_id in [1, 6])").rows) == sorted(
        row["prob"] for row in here.query("prob(3)").rows if row["layer"] == 2 and row["image_id"] in (1, 6)
    )

    def chunks() -> list[str]:
        """Shards of which states were read; where they lie in a shard is read once for each."""
        keys = [key for key in store.keys("read_range") if "residual" in key]
        return [key.split("/")[1][:8] for key in keys]

    assert sorted(chunks()) == ["00000000"] * 2 + ["00000001"] * 2
    assert store.keys("read").count(str(corpus.cache.run.unembed)) == 1
    assert list(folder().glob("*.safetensors"))
    store.reset()
    assert len(corpus.query("rank(3, images=image_id == 1)").rows) == 5 * 12
    assert set(chunks()) == {"00000000"}
    assert len(chunks()) <= 5
    store.reset()
    assert corpus.query("prob(3, images=image_id == 3)").rows == []
    assert chunks() == []
    assert corpus.cache.run.unembed not in store.keys("read")
    # Of several tokens, the layers in which one of them is read so well; all else they have there adds up.
    store.reset()
    rows = corpus.query("first_layer([2, 3], rank=1, min_prob=0.9, images=image_id in [0, 7])").rows
    token = here.zarr["patch/token"]
    layers = sum((np.isin(token[image, :, :, 0], [2, 3]).any(1)).sum() for image in (0, 7))
    assert rows
    assert 0 < layers < 10
    assert 0 < len(chunks()) <= layers
    # Where the k best tell all that is asked, no states are read.
    store.reset()
    corpus.query("first_layer(3, rank=2)").rows  # noqa: B018
    assert chunks() == []


def test_without_states_it_is_said_how_they_are_kept(tmp_path: Path) -> None:
    make_cache(tmp_path, images=2)
    with pytest.raises(CacheError, match=r"keeps no states\.\nThey are kept by: vlq run --keep residual") as caught:
        vlq.open(tmp_path).cache.unembedding()
    assert not isinstance(caught.value, CorruptCache)


def test_of_some_patches(here: LocalCorpus) -> None:
    every = {(row["image_id"], row["layer"], row["patch"]): row["rank"] for row in here.query("rank(2)").rows}
    for patches in ("[1, 7]", "7", "readings(4)"):
        some = here.query(f"rank(2, patches={patches})").rows
        assert 0 < len(some) < len(every)
        assert all(every[row["image_id"], row["layer"], row["patch"]] == row["rank"] for row in some)
    assert max(every.values()) > 9


def test_states_are_taken_some_at_a_time(here: LocalCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = ("rank([2, 9])", "prob(4, at='prompt')", "readings(5, rank=12)")
    expected = [here.query(query).rows for query in queries]
    for block in (1, 100, 1000):
        monkeypatch.setattr("vlq.query.cache.any_token.BLOCK", block)
        monkeypatch.setattr("vlq.query.cache.unembed.BLOCK", block)
        assert [here.query(query).rows for query in queries] == expected


def test_of_annotated_images(here: LocalCorpus, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image_id,mark\n" + "\n".join(f"{image},{image % 3}" for image in range(10)))
    here.annotate(str(table))
    rows = here.query("prob(3, images=mark == 1)").rows
    assert {row["image_id"] for row in rows} == {1, 4, 7}
    assert here.query("prob(3).group(label).mean()").rows


def test_compared_with_another_cache(here: LocalCorpus, tmp_path: Path) -> None:
    """Either side goes by its own states, or by what else it keeps."""
    make_cache(tmp_path / "other", make_run(keep="residual", k=2), images=10, seed=4)
    make_cache(tmp_path / "whole", make_run(k=SIZE, width=4), images=10, seed=4)
    other, whole = (str(tmp_path / name) for name in ("other", "whole"))
    for query in ("first_layer(3, rank=9)", "peak_layer([3, 5], rank=6)", "emergence(3, rank=7)"):
        first, second = (here.compare(url, query).rows for url in (other, whole))
        assert first
        assert len(first) == len(second)
        for row, same in zip(first, second, strict=True):
            assert {name: value for name, value in row.items() if not isinstance(value, float)} == {
                name: value for name, value in same.items() if not isinstance(value, float)
            }
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            assert numbers == {name: pytest.approx(same[name], abs=1e-5) for name in numbers}


def test_what_is_damaged_is_told(here: LocalCorpus, tmp_path: Path) -> None:
    cache = tmp_path / "here"
    path = cache / str(here.cache.run.unembed)
    assert path.read_bytes() == head_bytes(SIZE)
    for data in (head_bytes(SIZE)[:-1] + b"x", b"", None):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        else:
            path.unlink(missing_ok=True)
        with pytest.raises(CorruptCache, match=r"lens/unembed-\w+\.safetensors") as error:
            vlq.open(str(cache)).query("prob(3)").rows  # noqa: B018
        assert error.value.hint == "Run: vlq verify"
        if data is None:
            break
    path.write_bytes(head_bytes(SIZE))
    chunk = next(cache.glob("shards/00000000-*/patch/residual/c/0/0/0/0"))
    harmed = bytearray(chunk.read_bytes())
    harmed[10] ^= 1
    chunk.write_bytes(harmed)
    with pytest.raises(CorruptCache, match="patch/residual is damaged"):
        vlq.open(str(cache)).query("prob(3)").rows  # noqa: B018
    # Nothing names what makes logits.
    run = Run.from_bytes((cache / RUN).read_bytes(), RUN)
    bare = make_run(keep="residual", k=3)
    object.__setattr__(bare, "checksums", {key: value for key, value in run.checksums.items() if "lens" not in key})
    (cache / RUN).write_bytes(bare.to_bytes())
    with pytest.raises(CorruptCache, match="does not name what makes logits of states"):
        vlq.open(str(cache)).query("prob(3)").rows  # noqa: B018
