"""The commands as they are typed: what they print, and one clear message and exit code 2 for every mistake."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlq.query.cache.reader import Cache
from vlq.query.errors import BadArgument
from vlq.query.store import open_store
from vlq.workers.commands import parse_layers, parse_sites, parse_track, report

from ..synthetic import make_cache
from .conftest import save_images
from .runs import Vlq

pytestmark = pytest.mark.timeout(200)


def refused(result: tuple[int, str, str]) -> str:
    """The message of a command that was refused."""
    code, out, said = result
    assert (code, out) == (2, "")
    assert said.startswith("vlq: ")
    assert len(said.splitlines()) <= 5
    assert "Traceback" not in said
    return said


def newer(folder: Path) -> Path:
    """A cache as a later version may write it."""
    make_cache(folder)
    record = json.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(json.dumps(record | {"format": 7, "lens": {"kind": "tuned"}}))
    return folder


def test_mistakes_before_any_work(
    vlq: Vlq, tmp_path: Path, tiny_model: Path, image_folder: Callable[[int], Path]
) -> None:
    images, cache = image_folder(1), tmp_path / "cache"
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "config.json").write_text('{"model_type": "llama"}')
    good = {"images": images, "--model": tiny_model, "--cache": cache}
    expected = {
        "There is nothing at": {"images": tmp_path / "none"},
        "There are no images in": {"images": tiny_model},
        "There is no model folder": {"--model": tmp_path / "none"},
        "holds no config.json": {"--model": images},
        "is of type llama: not an image-text-to-text model": {"--model": llama},
        "Cannot make the folder": {"--cache": tiny_model / "config.json"},
        "Cannot open nosuch://x": {"--cache": "nosuch://x"},
        "run.json is of format 7": {"--cache": newer(tmp_path / "newer")},
        "--at is patch, prompt": {"--at": "patches"},
        "--device is one of": {"--device": "tpu"},
        "--dtype is one of": {"--dtype": "int8"},
        "--attention is one of auto, sdpa, eager, flash_attention_2": {"--attention": "linear"},
        "--quantize is one of 4bit, 8bit": {"--quantize": "int4"},
        "has no revision v1": {"--revision": "v1"},
        "--format is for what --dry-run says": {"--format": "json"},
        "--device-map is auto": {"--device-map": "balanced"},
        "--log is one of": {"--log": "xml"},
        "--gpus-per-worker is a part of one": {"--gpus-per-worker": 1.5},
    }
    for message, changes in expected.items():
        options = {**good, **changes}
        source = options.pop("images")
        flat = [part for option in options.items() for part in option]
        assert message in refused(vlq("run", source, *flat))
    assert not cache.exists()


@pytest.mark.parametrize("command", ["info", "status", "index", "verify", "repair", "compact"])
def test_mistakes_about_caches(vlq: Vlq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("VLQ_CACHE", raising=False)
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    assert "No cache given" in refused(vlq(command))
    assert "There is no cache at" in refused(vlq(command, "--cache", tmp_path / "none"))
    assert "There is no cache at" in refused(vlq(command, "--cache", "memory://nothing-here"))
    assert "Install a newer VLQ" in refused(vlq(command, "--cache", newer(tmp_path / "newer")))
    monkeypatch.setenv("VLQ_CACHE", str(tmp_path / "elsewhere"))
    assert "elsewhere" in refused(vlq(command))


def test_a_model_is_spread_with_accelerate_only(vlq: Vlq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = ("run", tmp_path, "--model", tmp_path, "--cache", tmp_path / "cache", "--device-map", "auto")
    assert "pip install 'vlq[large]'" in refused(vlq(*command))


def test_a_model_is_quantised_with_bitsandbytes_only(vlq: Vlq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.workers.models.weights.find_spec", lambda name: None)
    command = ("run", tmp_path, "--model", tmp_path, "--cache", tmp_path / "cache", "--quantize", "4bit")
    assert "pip install 'vlq[quantized]'" in refused(vlq(*command))


def test_run_says_where_the_cache_goes_missing(vlq: Vlq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLQ_CACHE", raising=False)
    assert "--cache FOLDER_OR_URL" in refused(vlq("run", tmp_path, "--model", tmp_path))
    for cache, why in {
        "memory://x": "the memory of this process alone",
        "http://host/x": "a web server's address",
        "https://host/x": "a web server's address",
    }.items():
        for more in ((), ("--dry-run",)):
            said = refused(vlq("run", tmp_path, "--model", tmp_path, "--cache", cache, *more))
            assert f"{cache} " in said
            assert why in said
            assert "--cache FOLDER_OR_URL" in said


def test_status_of_a_complete_cache(vlq: Vlq, tmp_path: Path) -> None:
    make_cache(tmp_path)
    code, out, _ = vlq("status", "--cache", tmp_path, "--format", "json")
    assert code == 0
    told = json.loads(out)
    plan = Cache.open(str(tmp_path)).snapshot()
    assert (told["state"], told["images"], told["cached"]) == ("complete", plan.planned, plan.planned)
    assert told["missing"] == {"shards": 0, "ranges": []}
    named = ("shards", "images", "postings")
    assert told["bytes"] == sum(
        path.stat().st_size for name in named for path in (tmp_path / name).rglob("*") if path.is_file()
    )
    assert "missing  none" in vlq("status", "--cache", tmp_path)[1]
    assert "--format is table or json" in refused(vlq("status", "--cache", tmp_path, "--format", "xml"))


def test_index_and_verify(vlq: Vlq, tmp_path: Path) -> None:
    make_cache(tmp_path)
    code, out, _ = vlq("verify", "--cache", tmp_path)
    assert (code, out) == (0, "All is well: 10 images, every object as written, the index agrees with the arrays.\n")
    code, out, _ = vlq("index", "--cache", tmp_path)
    assert code == 0
    assert out.endswith(" (as it was).\n")

    store = open_store(str(tmp_path))
    (index,) = [entry.key for entry in store.list("index") if entry.key.endswith("patch_top1-000.parquet")]
    store.delete(index)
    code, out, _ = vlq("verify", "--cache", tmp_path)
    assert code == 1
    assert out.splitlines() == [
        f"{index}: missing. To mend: vlq repair",
        f"1 finding in {tmp_path}.",
        f"Run: vlq repair --cache {tmp_path}",
    ]
    assert vlq("index", "--cache", tmp_path)[0] == 0
    assert vlq("verify", "--cache", tmp_path)[0] == 0


def odd_images(folder: Path) -> dict[str, str | None]:
    """Saves images of every odd kind; each one's name and its reason, None where it works."""
    folder.mkdir()
    noise = Image.effect_noise((60, 40), 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise.save(folder / "gray.png")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray((pa.array(range(2400)).to_numpy() * 27).astype("uint16").reshape(40, 60)).save(folder / "deep.png")
    noise.convert("RGB").quantize(9).save(folder / "palette.gif")
    noise.save(folder / "rotated.jpg", exif=exif)
    noise.save(folder / "animated.webp", save_all=True, append_images=[noise.rotate(90)])
    (folder / "cut.png").write_bytes((folder / "gray.png").read_bytes()[:700])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"not at all an image")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    Image.new("F", (9, 9), 1e6).save(folder / "undecodable.tiff")
    return {
        "gray.png": None,
        "cmyk.jpg": None,
        "deep.png": None,
        "palette.gif": None,
        "rotated.jpg": None,
        "animated.webp": None,
        "cut.png": "truncated",
        "empty.png": "empty file",
        "text.jpg": "not an image",
        "bomb.png": "too large: 200,000,000 pixels",
        "undecodable.tiff": "pixel values out of range",
        "gone.png": "file not found",
    }


def test_odd_images_and_columns_through_a_whole_run(vlq: Vlq, tmp_path: Path, tiny_model: Path, no_ray: None) -> None:
    reasons = odd_images(tmp_path / "images")
    count = len(reasons)
    boxes = [[{"label": "dog", "box": [0.5, 1.5]}] * (i % 3) for i in range(count)]
    mine = {
        "label": ["beach", None] * (count // 2),
        "objects": boxes,
        "camera": [{"make": "x", "iso": i} for i in range(count)],
        "logprob": ["not a number"] * count,  # names that VLQ uses itself
        "position": [0.5] * count,
        "token": [None] * count,
        "error": ["mine"] * count,
        "Error": ["mine, too"] * count,
        "image_id": list(range(100, 100 + count)),
    }
    pq.write_table(pa.table({"path": list(reasons)} | mine), tmp_path / "images" / "all.parquet")
    command = [tmp_path / "images" / "all.parquet", "--model", tiny_model, "--cache", tmp_path / "cache", "--k", 3]
    code, out, said = vlq("run", *command, "--shard-size", 5)
    assert code == 0, said
    assert out.splitlines()[:2] == [f"6 images read, 6 could not be: {tmp_path}/cache", "  cut.png: truncated"]
    assert "and 1 more: vlq info" in out

    failed = {name: reason for name, reason in reasons.items() if reason}
    code, out, _ = vlq("info", "--cache", tmp_path / "cache", "--format", "json")
    info = json.loads(out)
    assert code == 0
    assert {error["image"]: error["reason"] for error in info["errors"]} == failed
    assert (info["images"], info["state"]) == (12, "complete")
    assert info["columns"] == [
        "label", "objects", "camera", "logprob", "position", "token", "error_", "Error__", "image_id_"
    ]  # fmt: skip

    cache = Cache.open(str(tmp_path / "cache"))
    (path,) = cache.snapshot().files("images")
    rows = pq.read_table(path).to_pylist()
    assert [row["image"] for row in rows] == list(reasons)
    assert [row["error"] for row in rows] == list(reasons.values())
    for name, values in mine.items():
        renamed = {"error": "error_", "Error": "Error__", "image_id": "image_id_"}.get(name, name)
        assert [row[renamed] for row in rows] == values
    sizes = {row["image"]: (row["width"], row["height"]) for row in rows}
    assert (sizes["gray.png"], sizes["rotated.jpg"], sizes["cut.png"]) == ((60, 40), (40, 60), (None, None))
    assert vlq("verify", "--cache", tmp_path / "cache")[0] == 0
    code, out, _ = vlq("first_layer(token='dog', rank=3)", "--cache", tmp_path / "cache", "--format", "json")
    assert code == 0
    assert json.loads(out)["summary"]["images"] == 6


def test_nothing_but_bad_images(vlq: Vlq, tmp_path: Path, tiny_model: Path, no_ray: None) -> None:
    images = save_images(tmp_path / "images", 3)
    for image in images.iterdir():
        image.write_bytes(b"")
    command = ("run", images, "--model", tiny_model, "--cache", tmp_path / "cache")
    one = next(images.iterdir())
    code, out, said = vlq("run", one, *command[2:4], "--cache", tmp_path / "one")
    assert (code, out) == (2, "")
    assert said.splitlines()[-3:-1] == [
        f"vlq: The one image could not be read: {tmp_path}/one",
        f"  {one.name}: empty file",
    ]
    for _ in range(2):  # the second one finds nothing to do, and ends as the first did
        code, out, said = vlq(*command, "--limit", 2)
        assert (code, out) == (2, "")
        assert said.splitlines()[-4:] == [
            f"vlq: Not one of 2 images could be read: {tmp_path}/cache",
            "  0000.png: empty file",
            "  0001.png: empty file",
            "Give images that can be read, and another --cache: this one holds these as they were.",
        ]
    assert vlq("verify", "--cache", tmp_path / "cache")[0] == 0
    code, out, _ = vlq("first_layer(token='dog')", "--cache", tmp_path / "cache", "--format", "json")
    assert (code, json.loads(out)["rows"]) == (0, [])
    save_images(tmp_path / "more", 1)
    shutil.move(tmp_path / "more" / "0000.png", images / "0003.png")
    code, out, said = vlq(*command)
    assert code == 0, said
    assert out.splitlines()[0] == f"1 image read, 3 could not be: {tmp_path}/cache"


# --- parts -----------------------------------------------------------------------------------------------------


def test_sites() -> None:
    assert parse_sites("patch") == ("patch",)
    assert parse_sites(" prompt , patch") == ("patch", "prompt")
    for wrong in ("", ",", "last", "patch,last"):
        with pytest.raises(BadArgument, match="--at is patch, prompt or patch,prompt") as caught:
            parse_sites(wrong)
        assert (caught.value.hint is not None) == ("last" in wrong)


def test_layers() -> None:
    assert parse_layers("") == ()
    assert parse_layers("0,8,16:18") == (0, 8, 16, 17, 18)
    assert parse_layers("3, 1:2 ,2") == (1, 2, 3)
    assert parse_layers("2,0:99999999999") == (2, 99999999999)  # which is no layer of any model
    for wrong in ("-1", "3:1", "1:2:3", "one", "1,,2", ":4", "1.5"):
        with pytest.raises(BadArgument, match="--layers are numbers from 0"):
            parse_layers(wrong)


def test_a_model_without_a_name(vlq: Vlq, tmp_path: Path) -> None:
    """It would be the folder that one is in."""
    code, _, said = vlq("run", tmp_path, "--model", " ", "--cache", tmp_path / "cache")
    assert (code, said.splitlines()[0]) == (2, "vlq: --model is empty.")


def test_words_to_track(tmp_path: Path) -> None:
    assert parse_track("") == ()
    assert parse_track("dog, ear,dog,17") == ("dog", "ear", "17")
    words = tmp_path / "words"
    words.write_text("# animals\ndog\n\nDog  # the same\n ▁cat\n")
    assert parse_track(str(words)) == ("dog", "Dog", "▁cat")
    words.write_text("dog\ncat\n", encoding="utf-8-sig")  # as Notepad and Excel write it
    assert parse_track(str(words)) == ("dog", "cat")
    for wrong, message in (
        (" , ", "there is no word in it"),
        ("words.txt", "there is no file"),
        ("a/b", "no file a/b"),
    ):
        with pytest.raises(BadArgument, match=message):
            parse_track(wrong)


def test_tracked_words_through_a_whole_run(
    vlq: Vlq, tmp_path: Path, tiny_model: Path, images: Path, no_ray: None
) -> None:
    cache = tmp_path / "cache"
    command = ("run", images, "--model", tiny_model, "--cache", cache, "--k", "4", "--limit", "3")
    code, _, said = vlq(*command, "--track", "dog,dachshund")
    assert (code, said.startswith("vlq: 'dachshund' is not one token of this vocabulary: it is spelled ")) == (2, True)
    first = re.search(r"Its first piece is .+ \((\d+)\); ", said)
    assert first, said
    code, _, said = vlq(*command, "--track", "ear")
    assert (code, said.splitlines()[-1]) == (2, "Inside of words there is ear (45): give its number.")
    code, _, said = vlq(*command, "--track", "dog,1000000")
    assert (code, said.startswith("vlq: --track: there is no token 1000000.")) == (2, True)
    assert not cache.exists()
    assert vlq(*command, "--track", f"dog,{first[1]}", "--dry-run")[0] == 0
    code, _, said = vlq(*command, "--track", "dog,3")
    assert code == 0, said
    _, out, _ = vlq("info", "--cache", cache)
    assert re.search(r"^tracked +\S+ \(3\), ▁dog \(\d+\)", out, re.MULTILINE), out
    assert vlq(*command, "--track", "3,DOG")[0] == 0  # the same tokens
    code, _, said = vlq(*command)
    assert code == 2
    assert re.search(r"tracked: the cache has 3,\d+, asked for none", said)
    code, _, said = vlq(*command, "--track", "nothere")
    assert (code, "'nothere'" in said) == (2, True)
    code, out, _ = vlq("rank('dog') > 4", "--cache", cache)
    assert code == 0
    assert "of 192 readings for which it can be said" in out.splitlines()[0]  # 3 images, 4 layers, 16 patches


def test_layers_that_the_model_does_not_have(vlq: Vlq, tmp_path: Path, tiny_model: Path, images: Path) -> None:
    cache = tmp_path / "cache"
    code, _, said = vlq("run", images, "--model", tiny_model, "--cache", cache, "--layers", "0,4")
    assert code == 2
    assert said.startswith("vlq: --layers: there is no layer 4. The model has the layers 0 (the embedding) to 3.\n")
    assert not cache.exists()


def test_a_configuration_that_transformers_does_not_know(vlq: Vlq, tmp_path: Path, tiny_model: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "llama99"
    (folder / "config.json").write_text(json.dumps(config))
    image = save_images(tmp_path / "images", 1)
    for more in (["--layers", "0"], ["--track", "dog"]):
        code, _, said = vlq("run", image, "--model", folder, "--cache", tmp_path / "cache", *more)
        assert (code, "cannot be loaded: Unrecognized model type for subconfig: llama99." in said) == (2, True)
        assert said.endswith("Is its config.json complete?\n")


def test_a_tokenizer_that_cuts_the_prompt_otherwise(
    vlq: Vlq, tmp_path: Path, tiny_model: Path, images: Path, no_ray: None
) -> None:
    """Its pieces are the same, and so is the prompt's text."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    command = ("run", images, "--model", folder, "--cache", tmp_path / "cache", "--k", "4", "--shard-size", "2")
    code, _, said = vlq(*command, "--limit", "2")
    assert code == 0, said
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    begins = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begins, text[0]],
        "pair": [begins, *text],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, said = vlq(*command, "--limit", "4")
    assert code == 2
    assert re.search(r"prompt_ids: the cache has ([\d,]+), asked for 1,\1\n", said), said


def test_some_layers_through_a_whole_run(
    vlq: Vlq, tmp_path: Path, tiny_model: Path, images: Path, no_ray: None
) -> None:
    cache = tmp_path / "cache"
    command = ("run", images, "--model", tiny_model, "--cache", cache, "--k", "4", "--limit", "3")
    code, _, said = vlq(*command, "--layers", "2,0:1", "--shard-size", "2")
    assert code == 0, said
    code, out, _ = vlq("info", "--cache", cache)
    assert "4: 0 is the embedding, 3 the last block's output; read are 0 to 2" in out
    assert vlq(*command, "--layers", "0:2")[:2] == (0, vlq(*command, "--layers", "0,1,2")[1])
    code, _, said = vlq(*command)
    assert (code, "read_layers: the cache has 0:2, asked for 0:3" in said) == (2, True)
    code, _, said = vlq("first_layer(0, layers=3)", "--cache", cache)
    assert (code, "layer 3 was not read. This cache has the layers 0 to 2." in said) == (2, True)


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    report("my c", 1, (), 1)
    assert capsys.readouterr().out.splitlines()[-1] == 'Ask it: vlq "first_layer(token=\'dog\')" --cache "my c"'
    report("c", 1, (), 1)
    report("c", 1200, (), 0)
    report("c", 7, tuple((i, f"{i}\n.png", "truncated") for i in range(6)), 7)
    assert capsys.readouterr().out.splitlines() == [
        "1 image read: c",
        "Ask it: vlq \"first_layer(token='dog')\" --cache c",
        "Nothing to do: all images are cached already.",
        "1,200 images read: c",
        "Ask it: vlq \"first_layer(token='dog')\" --cache c",
        "1 image read, 6 could not be: c",
        *(f"  {i}�.png: truncated" for i in range(5)),
        "  and 1 more: vlq info --cache c",
        "Ask it: vlq \"first_layer(token='dog')\" --cache c",
    ]
