"""One shard in process: an image's readings depend on the image alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from vlq.query.errors import InputError, RunError
from vlq.query.schema import IMAGE_COLUMNS, Run, array_specs
from vlq.workers.corpus import list_images
from vlq.workers.encode import encode_group
from vlq.workers.extract import decode_ahead, prepare, read_decoded, read_shard
from vlq.workers.images import fetching
from vlq.workers.lenses import lens_of
from vlq.workers.look.corpus import look
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.worker import Setup, describe_run

from .conftest import save_images
from .models import checks
from .models.zoo import llava_pixtral
from .web import NOWHERE, Server

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


@pytest.fixture(scope="module")
def run(tiny_model: Path, model: LensModel) -> Run:
    return describe_run(
        Setup(str(tiny_model), PROMPT, 5, ("patch", "prompt"), "cpu", "auto", 1, 8, 32), model, "0" * 64
    )


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = save_images(tmp_path_factory.mktemp("corpus"), 21)
    (folder / "0006.png").write_bytes((folder / "0006.png").read_bytes()[:200])
    (folder / "0013.png").write_bytes(b"")
    return list_images(str(folder))


FAILED = [6, 13]
GOOD = [i for i in range(21) if i not in FAILED]


def read(
    model: LensModel, run: Run, rows: pa.Table, decoders: ThreadPoolExecutor
) -> tuple[dict[str, np.ndarray], pa.Table]:
    return read_shard(model, lens_of(model, run), run, rows, decoders)


def joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        name: sum(part[name] for part in parts)
        if name.startswith("sum/")
        else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }  # type: ignore[return-value]


def assert_same_readings(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal to 1e-4 nats; ids change places only inside that."""
    for site in ("patch", "prompt"):
        a, b = one[f"{site}/logprob"][GOOD], other[f"{site}/logprob"][GOOD]
        np.testing.assert_allclose(a, b, atol=1e-4)
        moved = one[f"{site}/token"][GOOD] != other[f"{site}/token"][GOOD]
        gaps = np.minimum(np.abs(np.diff(a, prepend=np.inf)), np.abs(np.diff(a, append=-np.inf)))
        gaps[..., -1] = 0  # the next one is not stored
        assert (gaps[moved] < 2e-4).all()
        for name in ("lse", "entropy"):
            np.testing.assert_allclose(one[f"{site}/{name}"][GOOD], other[f"{site}/{name}"][GOOD], atol=1e-4)
    for name in ("sum/patch", "sum/last"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-3)


def test_shapes_fill_values_and_table(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    labelled = corpus.append_column("label", pa.array([f"l{i}" for i in range(21)]))
    arrays, table = read(model, run, labelled, decoders)
    for spec in array_specs(run, 21, run.positions):
        assert (arrays[spec.name].shape, arrays[spec.name].dtype) == (spec.shape, np.dtype(spec.dtype))
        if spec.axes[0] == "image":
            filled = np.full(spec.shape[1:], spec.fill, spec.dtype)
            for i in range(21):
                assert np.array_equal(arrays[spec.name][i], filled, equal_nan=spec.dtype[0] == "f") == (i in FAILED)
    assert table.column_names == [*IMAGE_COLUMNS, "label"]
    assert table["error"].to_pylist() == [
        "truncated" if i == 6 else "empty file" if i == 13 else None for i in range(21)
    ]
    rows = table.to_pylist()
    assert [rows[i]["transform"] for i in FAILED] == [None, None]
    assert rows[0]["grid"] == {"rows": 4, "columns": 4}
    assert [row["label"] for row in rows] == labelled["label"].to_pylist()
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_sums_are_the_probabilities_summed(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    whole = replace(run, k=run.vocabulary_size)  # with every token stored, the sums follow from the readings
    arrays, _ = read(model, whole, corpus, decoders)
    for name, site, last in (("sum/patch", "patch", slice(None)), ("sum/last", "prompt", slice(-1, None))):
        expected = np.zeros((run.layers, run.vocabulary_size))
        for image in GOOD:
            for layer in range(run.layers):
                ids = arrays[f"{site}/token"][image, layer, last]
                np.add.at(expected[layer], ids, np.exp(arrays[f"{site}/logprob"][image, layer, last].astype(float)))
        np.testing.assert_allclose(arrays[name], expected, atol=1e-4)


def test_stored_readings_equal_a_plain_script(
    model: LensModel, tiny_model: Path, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    """One image at a time, every hidden state, softmax over everything: with transformers alone."""
    arrays, _ = read(model, run, corpus, decoders)
    plain = LlavaForConditionalGeneration.from_pretrained(tiny_model)
    processor = AutoProcessor.from_pretrained(tiny_model, backend="pil")
    for i in GOOD[:8]:
        image = Image.open(corpus["uri"][i].as_py().removeprefix("file://")).convert("RGB")
        inputs = processor(images=image, text=PROMPT, return_tensors="pt")
        with torch.inference_mode():
            output = plain(**inputs, output_hidden_states=True)
            states = [plain.model.language_model.norm(state) for state in output.hidden_states[:-1]]
            states.append(output.hidden_states[-1])  # has been through the norm
            logits = plain.lm_head(torch.cat(states)).double()  # (layer, position, vocabulary)
        assert torch.equal(logits[-1].argmax(-1), output.logits[0].argmax(-1))
        expected = logits.log_softmax(-1)
        is_image = inputs["input_ids"][0] == plain.config.image_token_id
        for site, chosen in (("patch", is_image), ("prompt", ~is_image)):
            found = arrays[f"{site}/token"][i].astype(int)
            assert np.array_equal(arrays[f"{site}/top1"][i], found[..., 0])
            best = expected[:, chosen].topk(run.k).values.numpy()
            np.testing.assert_allclose(arrays[f"{site}/logprob"][i], best, atol=1e-4)
            # The ids named have these probabilities: ids change places only where two are that close.
            np.testing.assert_allclose(np.take_along_axis(expected[:, chosen].numpy(), found, -1), best, atol=1e-4)
            entropy = -(expected.exp() * expected).sum(-1)[:, chosen].numpy()
            np.testing.assert_allclose(arrays[f"{site}/entropy"][i], entropy, atol=1e-4)
            np.testing.assert_allclose(arrays[f"{site}/lse"][i], logits.logsumexp(-1)[:, chosen].numpy(), atol=1e-4)
        assert np.array_equal(arrays["patch/token"][i, -1, :, 0], output.logits[0, is_image].argmax(-1).numpy())


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_does_not_matter(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, batch_size: int
) -> None:
    one, _ = read(model, replace(run, batch_size=1, lens_block=16), corpus, decoders)
    other, _ = read(model, replace(run, batch_size=batch_size), corpus, decoders)
    assert_same_readings(one, other)


def test_shard_size_does_not_matter(model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor) -> None:
    whole, _ = read(model, run, corpus, decoders)
    parts = [read(model, run, corpus.slice(start, 4), decoders)[0] for start in range(0, 21, 4)]
    assert_same_readings(whole, joined(parts))


def test_a_failed_image_shifts_no_other(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    whole, _ = read(model, run, corpus, decoders)
    alone, _ = read(model, run, corpus.take(pa.array(GOOD)), decoders)
    for name, values in alone.items():
        expected = whole[name] if name.startswith("sum/") else whole[name][GOOD]
        assert np.array_equal(values, expected), name


def test_only_what_is_asked_for(model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor) -> None:
    both, _ = read(model, run, corpus, decoders)
    only, _ = read(model, replace(run, at=("prompt",)), corpus, decoders)
    assert set(only) == {name for name in both if name.startswith("prompt/") or name == "sum/last"}
    np.testing.assert_allclose(only["prompt/logprob"][GOOD], both["prompt/logprob"][GOOD], atol=1e-4)


@pytest.mark.parametrize("layers", [(0, 2), (1,), (3,), (0, 1, 3)])
def test_only_the_layers_that_are_asked_for(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, layers: tuple[int, ...]
) -> None:
    every, _ = read(model, run, corpus, decoders)
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
        for number, block in enumerate(model.blocks, 1)
    ]
    lens = lens_of(model, run)
    lensed: list[int] = []

    class Watched:
        def read(self, layer: int, *states: torch.Tensor) -> object:
            lensed.append(layer)
            return lens.read(layer, *states)

    try:
        some = replace(run, read_layers=layers)
        arrays, table = read_shard(model, Watched(), some, corpus, decoders)  # type: ignore[arg-type]
    finally:
        for handle in handles:
            handle.remove()
    # Neither the lens at other layers, nor blocks above the last.
    assert set(lensed) == set(layers)
    assert set(seen) == set(range(1, layers[-1] + 1))
    assert not model.blocks[0]._forward_pre_hooks
    others = [layer for layer in range(run.layers) if layer not in layers]
    for spec in array_specs(some, 21, run.positions):
        along = (slice(None),) if spec.axes[0] == "image" else ()
        at, away = arrays[spec.name][(*along, list(layers))], arrays[spec.name][(*along, others)]
        assert np.array_equal(at, every[spec.name][(*along, list(layers))], equal_nan=spec.dtype[0] == "f"), spec.name
        filled = np.full(away.shape, spec.fill, spec.dtype)
        assert np.array_equal(away, filled, equal_nan=spec.dtype[0] == "f"), spec.name
    assert [error is None for error in table["error"].to_pylist()] == [i in GOOD for i in range(21)]


def test_answers_at_the_layers_that_are_asked_for(
    tiny_model: Path, model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    asked = replace(run, at=("patch", "prompt", "answer"), answer=3)
    every, whole = read(model, asked, corpus, decoders)
    arrays, table = read(model, replace(asked, read_layers=(1, 2)), corpus, decoders)
    assert table.equals(whole)
    assert (arrays["answer/token"][:, 1:3] != run.no_id).any()
    for name, values in arrays.items():
        layers = (slice(None), [1, 2]) if name.split("/")[0] in asked.at else ([1, 2],)
        assert np.array_equal(values[layers], every[name][layers], equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("shape", [{}, {"read_layers": (1, 3)}, {"at": ("patch", "prompt", "answer"), "answer": 3}])
def test_tracked_tokens_are_what_a_full_vocabulary_says(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, shape: dict[str, Any]
) -> None:
    tracked = (0, 3, run.vocabulary_size - 1)
    every, _ = read(model, replace(run, **shape, k=run.vocabulary_size), corpus, decoders)
    some = replace(run, **shape, tracked=tracked)
    arrays, _ = read(model, some, corpus, decoders)
    for site in some.at:
        token = every[f"{site}/token"]
        for at, id in enumerate(tracked):
            place = np.argwhere(token == id)  # one row a reading, in the order of readings
            rank, logprob = (arrays[f"{site}/tracked_{name}"][..., at] for name in ("rank", "logprob"))
            assert np.array_equal(rank > 0, (token == id).any(-1))
            assert np.array_equal(rank[rank > 0], place[:, -1] + 1)
            assert np.array_equal(logprob[rank > 0], every[f"{site}/logprob"][tuple(place.T)])
            assert np.isnan(logprob[rank == 0]).all()


@pytest.mark.parametrize("shape", [{}, {"read_layers": (1, 3)}, {"at": ("patch", "prompt", "answer"), "answer": 3}])
def test_all_logits(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, shape: dict[str, Any]
) -> None:
    """Minus `lse` they are the log-probabilities of all tokens, and in a chunk of its own each image's layer."""
    few, _ = read(model, replace(run, **shape), corpus, decoders)
    every, _ = read(model, replace(run, **shape, k=run.vocabulary_size), corpus, decoders)
    some = replace(run, **shape, keep="all")
    arrays, _ = read(model, some, corpus, decoders)
    lengths = {site: arrays[f"{site}/top1"].shape[2] for site in some.at}
    objects: dict[str, Any] = {
        key: cpu.Buffer.from_bytes(data) for key, data in encode_group(some, arrays, 21, lengths).items()
    }
    group = zarr.open_group(MemoryStore(objects), mode="r")
    for site in some.at:
        logprob = arrays[f"{site}/logit"] - arrays[f"{site}/lse"][..., None]
        token = np.where(every[f"{site}/token"] == run.no_id, 0, every[f"{site}/token"]).astype(int)
        expected = every[f"{site}/logprob"]
        there = ~np.isnan(expected)
        assert np.array_equal(np.take_along_axis(logprob, token, -1)[there], expected[there])
        assert np.isnan(logprob[~there]).all()
        array = group[f"{site}/logit"]
        assert isinstance(array, zarr.Array)
        assert array.chunks == (1, 1, lengths[site], run.vocabulary_size)
        assert np.array_equal(array[...], arrays[f"{site}/logit"], equal_nan=True)
    for name, values in few.items():  # beside all that there is otherwise
        assert np.array_equal(arrays[name], values, equal_nan=values.dtype.kind == "f"), name


def test_states_that_are_no_numbers_name_image_and_layer(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    def overflow(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, float("inf"))

    handle = model.blocks[1].register_forward_hook(overflow)
    try:
        with pytest.raises(RunError, match=r"0000\.png: at layer 2 .* not finite in float32"):
            read(model, run, corpus, decoders)
    finally:
        handle.remove()


def test_a_model_that_raises_names_the_images(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("this shape is not mine\nand more of it")

    def lacks(*_: object) -> None:
        raise AttributeError("no such part\nand more of it")

    with monkeypatch.context() as patch:
        patch.setattr(model, "encode", lacks)
        with pytest.raises(RuntimeError, match=r"^the model fails on .*0000\.png: AttributeError: no such part$"):
            read(model, run, corpus, decoders)
    handle = model.blocks[-1].register_forward_pre_hook(fails)
    try:
        # The seventh is none that can be read, so the first batch ends with the ninth.
        with pytest.raises(RuntimeError, match=r"^the model fails on one of 0000\.png to 0008\.png \(8 images\): V"):
            read(model, run, corpus, decoders)
        with pytest.raises(RuntimeError, match=r"^the model fails on 0000\.png: ValueError"):
            read(model, replace(run, batch_size=1), corpus, decoders)
    finally:
        handle.remove()
    assert read(model, run, corpus, decoders)[1].num_rows == 21


def test_an_image_that_the_processor_does_not_take_is_its_own_error(tmp_path: Path) -> None:
    """Pixtral's scales the longer side to its 64 pixels, which leaves a hairline none of the other."""
    model = checks.loaded(llava_pixtral(tmp_path / "model"))
    for name, size in (("0.png", (60, 40)), ("1.png", (100, 1)), ("2.png", (40, 60))):
        checks.noise(*size).save(tmp_path / name)
    uris = [f"file://{tmp_path}/{i}.png" for i in range(3)]
    prepared = [prepare(model, uri) for uri in uris]
    assert [image.error is None for image in prepared] == [True, False, True]
    assert str(prepared[1].error).startswith("the model's processor does not take it: Size must contain")
    assert prepared[1].sha256 is not None
    with pytest.raises(InputError, match=r"^1\.png: the model's processor does not take it"):
        look(tmp_path / "1.png", tmp_path / "model")


def test_an_unreadable_file_is_no_image_error(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, tmp_path: Path
) -> None:
    gone = corpus.slice(0, 1).set_column(2, "uri", pa.array([f"file://{tmp_path}/away/0.png"]))  # with its folder
    with pytest.raises(OSError, match="No such folder"):
        read(model, run, gone, decoders)


def read_alive(model: LensModel, run: Run, uris: list[str]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    rows = pa.table({"image_id": range(len(uris)), "shard": [0] * len(uris), "image": uris, "uri": uris})
    with ThreadPoolExecutor(4) as decoders:
        ahead = decode_ahead(model, run, rows, decoders, fetching(skip_dead_links=True))
        arrays, table = read_decoded(model, lens_of(model, run), run, rows, ahead)
    return arrays, table.to_pylist()


def test_a_shard_is_read_without_its_dead_links(server: Server, model: LensModel, run: Run) -> None:
    names = ["a", "403", "b", "cc", "500", "d", "404", "later"]
    uris = [f"{server.url}/{name}" for name in names] + [f"{NOWHERE}/a"]
    arrays, table = read_alive(model, run, uris)
    good = [0, 2, 3, 5, 7]
    alone, others = read_alive(model, run, [uris[row] for row in good])
    assert [row["error"] and row["error"][:17] for row in table] == [
        *(None, "not fetched: 403 ", None, None, "not fetched: 500 ", None, "file not found", None),
        "not fetched: Cann",
    ]
    for row, other in zip(good, others, strict=True):
        assert table[row]["sha256"] == other["sha256"]
    for name, values in alone.items():
        assert np.array_equal(arrays[name] if name.startswith("sum/") else arrays[name][good], values), name


def test_a_shard_of_which_no_server_tells_anything_is_not_skipped(server: Server, model: LensModel, run: Run) -> None:
    """That is the network, not the images."""
    uris = [f"{NOWHERE}/a", f"{NOWHERE}/b", f"{server.url}/500"]
    with pytest.raises(OSError, match=r"^not one of 3 web servers' images arrived; .*/a: not fetched: Cannot connect"):
        read_alive(model, run, uris)
    _, table = read_alive(model, run, [*uris, f"{server.url}/403"])
    assert all(row["error"].startswith("not fetched: ") for row in table)
