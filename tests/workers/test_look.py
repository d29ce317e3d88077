"""One image without a cache, held against transformers alone: what is read, what is printed, what is refused."""

from __future__ import annotations

import gc
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import vlq
from vlq.query.errors import BadArgument, InputError, MissingExtra, ModelError, StoreError, UnknownToken
from vlq.query.store import open_store
from vlq.workers.corpus import list_images
from vlq.workers.look import held
from vlq.workers.models import load
from vlq.workers.worker import loaded

from ..tars import tar_of
from .models.tiny import make_llava_next
from .runs import Vlq

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


@pytest.fixture
def run(vlq: Vlq, monkeypatch: pytest.MonkeyPatch) -> Vlq:
    """The same on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    return vlq


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo that its camera turned: upright it is 60 wide and 44 high."""
    path = tmp_path_factory.mktemp("look") / "photo.png"
    pixels = np.random.default_rng(3).integers(0, 256, (6, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).resize((44, 60), Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


class Plain:
    """The readings of an upright image by transformers alone: one forward pass, a softmax over everything."""

    def __init__(self, folder: Path, image: Image.Image) -> None:
        model = LlavaForConditionalGeneration.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
        inputs = processor(images=image, text=PROMPT, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
            states = [*(model.model.language_model.norm(state) for state in hidden[:-1]), hidden[-1]]
            logprobs = model.lm_head(torch.cat(states)).double().log_softmax(-1).numpy()  # (layer, position, id)
        is_image = (inputs["input_ids"][0] == model.config.image_token_id).numpy()
        self.patch, self.last = logprobs[:, is_image], logprobs[:, -1]
        self.tokenizer = processor.tokenizer

    def ranks(self, id: int) -> np.ndarray:
        """(layer, patch) how many ids are at least as probable."""
        return (self.patch >= self.patch[..., id : id + 1]).sum(-1)

    def best(self, logprobs: np.ndarray, k: int) -> list[tuple[str, float]]:
        """Pieces and probabilities of the k best; a number where there is no piece."""
        ids = np.argsort(-logprobs, kind="stable")[:k]
        known = len(self.tokenizer)
        names = [self.tokenizer.convert_ids_to_tokens(int(id)) if id < known else str(id) for id in ids]
        return list(zip(names, np.exp(logprobs[ids]), strict=True))


@pytest.fixture(scope="module")
def plain(tiny_model: Path, picture: Path) -> Plain:
    return Plain(tiny_model, Image.open(picture).transpose(Image.Transpose.ROTATE_270).convert("RGB"))


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    yield
    held.release()


# --- what is read ----------------------------------------------------------------------------------------------


def test_readings_are_the_models_own(tiny_model: Path, picture: Path, plain: Plain) -> None:
    corpus = vlq.look(picture, tiny_model, prompt=PROMPT, k=6)
    for array, expected in (("patch", plain.patch), ("prompt", plain.last[:, None])):
        ids = corpus.zarr[f"{array}/token"][0].astype(int)
        ids = ids if array == "patch" else ids[:, -1:]
        logprobs = corpus.zarr[f"{array}/logprob"][0][:, -ids.shape[1] :]
        np.testing.assert_allclose(logprobs, -np.sort(-expected)[..., :6], atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(expected, ids, -1), logprobs, atol=1e-4)
    (row,) = corpus.images().rows
    assert (row["image"], row["width"], row["height"]) == ("photo.png", 60, 44)
    snapshot = corpus.cache.snapshot()
    assert (snapshot.images, snapshot.notes) == (1, [])


def test_it_answers_as_a_cache_does(tiny_model: Path, picture: Path, plain: Plain) -> None:
    corpus = vlq.look(picture, str(tiny_model), prompt=PROMPT, k=6)
    decoded = plain.patch.argmax(-1)  # (layer, patch)
    for id in np.unique(decoded):
        layer = int((decoded == id).any(1).argmax())
        (row,) = corpus.first_layer(int(id)).rows
        assert (row["layer"], row["patches"]) == (layer, np.flatnonzero(decoded[layer] == id).tolist())
    assert corpus.sql("SELECT count(*) AS n FROM images").rows == [{"n": 1}]
    assert corpus.divergence(at="patch").rows


def test_the_model_stays_for_the_next_image(
    tiny_model: Path, picture: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return loaded(*arguments, **options)

    monkeypatch.setattr(held, "loaded", counted)
    first = vlq.look(picture, tiny_model, prompt="Which?", k=3)
    again = vlq.look(picture, tiny_model, prompt=PROMPT, k=6, answer=2)
    assert len(loads) == 1
    assert (first.cache.run.prompt, first.cache.run.k) == ("USER: <image>\nWhich? ASSISTANT:", 3)
    run = again.cache.run
    fresh = load(str(tiny_model), prompt=PROMPT)
    assert (run.prompt, run.prompt_ids, run.k, run.answer) == (PROMPT, fresh.prompt_ids, 6, 2)
    assert run.at == ("patch", "prompt", "answer")
    np.testing.assert_allclose(again.zarr["prompt/logprob"][0, :, -1], -np.sort(-plain.last)[:, :6], atol=1e-4)
    assert len(again.answer().rows) == 1

    held.release()
    vlq.look(picture, tiny_model, prompt=PROMPT)
    assert len(loads) == 2
    (tiny_model / "config.json").touch()  # as if the model had been trained on
    vlq.look(picture, tiny_model, prompt=PROMPT)
    assert len(loads) == 3


def test_images_in_memory(tiny_model: Path, picture: Path) -> None:
    expected = vlq.look(picture, tiny_model, prompt=PROMPT).zarr["patch/logprob"][0]
    turned = Image.open(picture)
    upright = np.asarray(turned.transpose(Image.Transpose.ROTATE_270).convert("RGB"))
    opaque = np.full(upright.shape[:2], 255, np.uint8)
    for image in (turned, upright, upright / 255.0, np.dstack([upright, opaque])):
        corpus = vlq.look(image, tiny_model, prompt=PROMPT)
        assert np.array_equal(corpus.zarr["patch/logprob"][0], expected)
    half = np.arange(opaque.size).reshape(opaque.shape) % 2 == 0
    found = [
        vlq.look(image, tiny_model, prompt=PROMPT)
        for image in (np.dstack([upright, opaque * half]), np.where(half[..., None], upright, np.uint8(255)))
    ]
    assert len({corpus.zarr["patch/logprob"][0].tobytes() for corpus in found}) == 1
    gray = upright[..., 0]
    found = [vlq.look(image, tiny_model, prompt=PROMPT) for image in (gray, gray[..., None], Image.fromarray(gray))]
    assert len({corpus.zarr["patch/logprob"][0].tobytes() for corpus in found}) == 1
    # The pixels are kept beside the cache, so that plots are over the image.
    from vlq.query.client.one import one_image
    from vlq.query.image.pictures import pixels

    one = one_image(corpus)
    shown = pixels(one.uri, one.sha256, one.size)
    assert shown is not None
    assert np.array_equal(shown, upright)


def test_images_inside_tables_and_tars(tiny_model: Path, picture: Path, tmp_path: Path) -> None:
    """By the URIs that a cache has of them."""
    data = picture.read_bytes()
    (tmp_path / "some.tar").write_bytes(tar_of({"a.txt": b"a dog", "a.jpg": data}))
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "a.jpg"}]}), tmp_path / "some.parquet")
    expected = vlq.look(picture, tiny_model).rank(3).rows
    for held_in in ("tar", "parquet"):
        (uri,) = list_images(str(tmp_path / f"some.{held_in}"))["uri"].to_pylist()
        corpus = vlq.look(uri, tiny_model)
        assert [row | {"image": picture.name} for row in corpus.rank(3).rows] == expected
        assert corpus.images().rows[0]["image"] == uri
    wrong = {
        "parquet://image/1::": "not in its table: there is no row 1.",
        "parquet://image/::": "cannot be read: invalid literal",
        "member://1536/9/0000beef::": "the tar is another one than when it was listed.\nPut the tar back",
        "member://1/2/3::": "cannot be read: expected member://OFFSET/LENGTH/CHECK::URL.",
    }
    for place, why in wrong.items():
        uri = f"{place}{tmp_path}/some.{'tar' if 'member' in place else 'parquet'}"
        with pytest.raises(InputError) as caught:
            vlq.look(uri, tiny_model)
        told = str(caught.value)
        assert (told.count(uri), why in told) == (1, True), told


def test_grids_of_their_own(tmp_path: Path, run: Vlq) -> None:
    """Of 96 x 32 pixels three tiles of 4 x 4 patches are shown side by side."""
    model = make_llava_next(tmp_path / "model")
    Image.effect_noise((96, 32), 80).convert("RGB").save(tmp_path / "wide.png")
    code, out, said = run("look", tmp_path / "wide.png", "--model", model, "--token", "['dog', 'cat']", "--layer", 0)
    assert code == 0, said
    assert "4 x 12 patches" in out
    code, _, said = run("look", tmp_path / "wide.png", "--model", model, "--patch", "48")
    assert (code, "this image's grid of 4 x 12 has the patches 0 to 47" in said) == (2, True)


# --- where it lies ---------------------------------------------------------------------------------------------


def test_what_was_read_goes_with_the_corpus(
    tiny_model: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    corpus = vlq.look(picture, tiny_model)
    answer = corpus.first_layer(0)
    assert len(list(tmp_path.iterdir())) == 1
    del corpus
    gc.collect()
    assert answer.columns
    assert len(answer.corpus.rank(0).rows) >= 0  # an answer keeps what it is of
    assert len(list(tmp_path.iterdir())) == 1
    del answer
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_saved_look_is_a_cache(tiny_model: Path, picture: Path, tmp_path: Path, run: Vlq) -> None:
    cache = tmp_path / "deep" / "cache"
    corpus = vlq.look(Image.open(picture), tiny_model, prompt=PROMPT, save=cache)
    assert vlq.open(str(cache)).rank(3).rows == corpus.rank(3).rows
    code, out, said = run("verify", "--cache", cache, "--deep")
    assert (code, "All is well: 1 image, " in out) == (0, True), said
    with pytest.raises(StoreError, match="is there already, and not an empty folder"):
        vlq.look(picture, tiny_model, save=cache)
    before = sorted(entry.key for entry in open_store(str(cache)).list())
    code, _, said = run("look", picture, "--model", tiny_model, "--save", cache)
    assert (code, "is there already" in said) == (2, True)
    assert sorted(entry.key for entry in open_store(str(cache)).list()) == before


def test_mistakes_leave_nothing_saved(tiny_model: Path, picture: Path, tmp_path: Path, run: Vlq) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (tmp_path / "new", empty):
        code, out, _ = run("look", picture, "--model", tiny_model, "--token", "dgo", "--save", folder)
        assert (code, out) == (2, "")
    assert not (tmp_path / "new").exists()
    assert list(empty.iterdir()) == []


# --- what is printed -------------------------------------------------------------------------------------------


def table(out: str, title: str) -> list[list[str]]:
    """The words of the rows under a line, up to an empty one."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    rows = [line.split() for line in lines[start + 1 :]]
    return rows[: next((i for i, row in enumerate(rows) if not row), len(rows))]


def test_tables_of_places(run: Vlq, tiny_model: Path, picture: Path, plain: Plain) -> None:
    code, out, said = run("look", picture, "--model", tiny_model, "--prompt", PROMPT, "--k", 3)
    assert code == 0, said
    assert out.splitlines()[0] == "photo.png: 60 x 44 pixels, 4 x 4 patches; layers 0 (the embedding) to 3"
    assert f"model   {tiny_model}" in out
    assert f"prompt  {PROMPT!r}" in out
    for title, logprobs in (
        ("The last prompt token, :", plain.last),
        ("Patch 10: row 2, column 2", plain.patch[:, 10]),
    ):
        head, *rows = table(out, title)
        assert head == ["layer", "1", "2", "3"]
        for layer, row in enumerate(rows):
            expected = plain.best(logprobs[layer], 3)
            assert row[0] == str(layer)
            assert row[1::2] == [name for name, _ in expected]
            assert [float(figure) for figure in row[2::2]] == pytest.approx([p for _, p in expected], abs=6e-4)
        assert len(rows) == 4


def test_chosen_places_and_layers(run: Vlq, tiny_model: Path, picture: Path, plain: Plain) -> None:
    options = ("--model", tiny_model, "--prompt", PROMPT, "--k", 1, "--layer", "0-1", "--layer", 3)
    code, out, said = run("look", picture, *options, "--patch", "1,2", "--patch", "last", "--patch", "0")
    assert code == 0, said
    titles = [line.partition(":")[0] for line in out.splitlines() if line.startswith(("Patch", "The last"))]
    assert titles == ["Patch 6", "The last prompt token, ", "Patch 0"]
    rows = table(out, "Patch 6")[1:]
    assert [row[0] for row in rows] == ["0", "1", "3"]
    assert [row[1] for row in rows] == [plain.best(plain.patch[layer, 6], 1)[0][0] for layer in (0, 1, 3)]


def test_narrow_terminals_cut_tokens_and_columns(
    run: Vlq, tiny_model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = run("look", picture, "--model", tiny_model, "--prompt", PROMPT, "--k", 30)
    assert code == 0
    head, *rows = table(out, "Patch 10")
    assert head == ["layer", "1", "2"]
    lines = out[out.index("Patch 10") :].splitlines()[1:]
    assert max(map(len, lines)) <= 40
    assert len(rows) == 4


def test_where_a_token_comes_up(run: Vlq, tiny_model: Path, picture: Path, plain: Plain) -> None:
    """The token that most patches decode to at the last layer, by brute force."""
    id = int(np.bincount(plain.patch[-1].argmax(-1)).argmax())
    ranks = plain.ranks(id)  # (layer, patch)
    code, out, said = run("look", picture, "--model", tiny_model, "--prompt", PROMPT, "--token", f"[{id}]")
    assert code == 0, said
    assert f"({id})" in out or f"token: {id}" in out
    decoded = ranks == 1
    first = int(decoded.any(1).argmax())
    patches = np.flatnonzero(decoded[first])
    named = f"by patch{'es' if len(patches) > 1 else ''} {' '.join(map(str, patches[:8]))}"
    assert f"[{id}]: first read at layer {first}, {named}" in out
    layer, patch = np.unravel_index(plain.patch[..., id].argmax(), ranks.shape)
    most = np.exp(plain.patch[layer, patch, id])
    assert f"most probable at layer {layer}, {most:.3f} at patch {patch} (row {patch // 4}, column {patch % 4})" in out

    rows = table(out, "layer  patches")
    for layer, row in enumerate(rows):
        counts = [layer, decoded[layer].sum(), (ranks[layer] <= 20).sum(), ranks[layer].min()]
        best = plain.patch[layer, :, id].argmax()
        assert row[:4] == [str(count) for count in counts]
        assert float(row[4]) == pytest.approx(np.exp(plain.patch[layer, best, id]), abs=6e-4)
        assert row[5] == str(best)
    assert len(rows) == 4

    signs = {rank: "·" if rank > 20 else "+" if rank > 9 else str(rank) for rank in range(1, 200)}
    for line, row in zip(table(out, "layer 0 ")[1:5], range(4), strict=True):
        here = [[str(row), *(signs[rank] for rank in of_layer[row * 4 : row * 4 + 4])] for of_layer in ranks]
        assert line == [sign for of_layer in here for sign in of_layer]


def test_a_token_that_is_nowhere(run: Vlq, tiny_model: Path, picture: Path, plain: Plain) -> None:
    id = int(plain.patch.max((0, 1)).argmin())  # the least probable everywhere
    corpus = vlq.look(picture, tiny_model, prompt=PROMPT, k=2)
    assert corpus.rank(id).rows == []
    ranks = plain.ranks(id)
    expected = "no patch decodes to it" if (ranks <= 20).any() else "among the 20 best tokens of no patch."
    code, out, _ = run("look", picture, "--model", tiny_model, "--prompt", PROMPT, "--token", f"[{id}]")
    assert code == 0
    assert expected in out


def test_the_demos_model_is_the_default_and_says_so(run: Vlq, picture: Path) -> None:
    code, out, said = run("look", picture, "--patch", 0, "--k", 1, "--answer", 2)
    assert code == 0, said
    assert "model   the demo's, which knows nothing but scenes of its kind; --model names another" in out
    assert "\nanswer  '" in out
    assert "\x1b" not in out


def test_a_page(run: Vlq, tiny_model: Path, picture: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, said = run("look", picture, "--model", tiny_model, "--page", page)
    assert code == 0, said
    assert out.splitlines()[-1] == f"Page written to {page}"
    assert "Patch" not in out  # the page has it
    assert "<title>photo.png · VLQ</title>" in page.read_text()
    assert "data:image/png;base64," in page.read_text()
    code, _, said = run("look", picture, "--model", tiny_model, "--page", tmp_path / "none" / "page.html")
    assert (code, "Choose another --page." in said) == (2, True)


# --- mistakes --------------------------------------------------------------------------------------------------


def refused(result: tuple[int, str, str]) -> str:
    """The message of a command that was refused."""
    code, out, said = result
    assert (code, out) == (2, "")
    assert "Traceback" not in said
    return said[said.index("vlq: ") :]


def test_mistakes_before_the_model_is_loaded(
    run: Vlq, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "loaded", None)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    expected = {
        "text.png: not an image.": [tmp_path / "text.png"],
        "empty.png: empty file.": [tmp_path / "empty.png"],
        "There is nothing at": [tmp_path / "none.png"],
        "holds several images": [tmp_path],
        "nosuch://x cannot be opened": ["nosuch://x"],
        "--device is one of": [picture, "--device", "tpu"],
        "--dtype is one of": [picture, "--dtype", "int8"],
        "There is no model folder": [picture, "--model", tmp_path / "none"],
        "holds no config.json": [picture, "--model", tmp_path],
        "expected a folder on this machine": [picture, "--save", "s3://bucket/look"],
    }
    for message, arguments in expected.items():
        assert message in refused(run("look", *arguments))


def test_mistakes_about_what_was_read(run: Vlq, tiny_model: Path, picture: Path) -> None:
    expected = {
        "this image's grid of 4 x 4 has the patches 0 to 15.": ("--patch", "16"),
        "row and column up to 3,3": ("--patch", "0,4"),
        "--patch x: ": ("--patch", "x"),
        "--layer 4: the model has the layers 0 to 3.": ("--layer", "4"),
        "--layer 3-1: ": ("--layer", "3-1"),
        "Did you mean 'dog'?": ("--token", "dig"),
    }
    for message, options in expected.items():
        assert message in refused(run("look", picture, "--model", tiny_model, *options))


def test_mistakes_in_python(picture: Path, tiny_model: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    cut = Image.open(io.BytesIO(picture.read_bytes()[:200]))
    wrong: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (InputError, r"Got an array of shape \(3, 8, 8\)", noise.random((3, 8, 8)), {}),
        (InputError, "Got an array of shape", np.zeros((0, 5)), {}),
        (InputError, "Got int64", np.zeros((5, 5), int), {}),
        (InputError, "Got floats from 0 to 255", np.array([[0.0, 255.0]]), {}),
        (InputError, "Got floats from nan", np.array([[0.0, np.nan]]), {}),
        (InputError, "Got a NoneType", None, {}),
        (InputError, "image.png: cannot be decoded", cut, {}),
        (InputError, "too elongated", np.zeros((1, 200), np.uint8), {}),
        (ModelError, "There is no model folder", picture, {"model": tmp_path / "none"}),
        (ModelError, "names the image 2 times", picture, {"model": tiny_model, "prompt": "<image> <image>"}),
        (BadArgument, "answer: expected a whole number of at least 0", picture, {"answer": -1}),
        (BadArgument, "k: expected a whole number from 1 to 255", picture, {"k": 0}),
        (BadArgument, "device is one of", picture, {"device": "gpu"}),
        (BadArgument, "dtype is one of", picture, {"dtype": "int8"}),
    ]
    for kind, message, image, options in wrong:
        with pytest.raises(kind, match=message):
            vlq.look(image, **options)
    corpus = vlq.look(picture, tiny_model)
    with pytest.raises(UnknownToken, match="'dig' is not one token"):
        corpus.first_layer("dig")


def test_numbers_may_be_numpys(tiny_model: Path, picture: Path) -> None:
    given: dict[str, Any] = {"answer": np.int64(2), "k": np.uint8(3)}
    run = vlq.look(picture, tiny_model, **given).cache.run
    assert (run.answer, run.k) == (2, 3)


def test_without_the_workers_extra(monkeypatch: pytest.MonkeyPatch, picture: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra) as caught:
        vlq.look(picture)
    assert str(caught.value) == "This needs torch, which is not installed.\nRun: pip install 'vlq[workers]'"
