"""`vlq lens` as it is typed: what it prints and writes, and one clear message for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlq.query.schema import digest_of
from vlq.workers.lenses import train as training
from vlq.workers.models.files import model_hash

from ..conftest import save_images
from ..runs import Vlq

IMAGES = 12


def test_train_and_show(vlq: Vlq, tiny_model: Path, images: Path, tmp_path: Path) -> None:
    (images / "0005.png").write_bytes(b"")
    out = tmp_path / "below" / "my lens"
    options = ["--model", tiny_model, "--steps", 40, "--positions-per-image", 12, "--prompt", "What is this?"]
    code, said, _ = vlq("lens", "train", images, *options, "--out", out)
    assert code == 0
    assert "Left out: 0005.png: empty file" in said
    assert f'vlq run IMAGES --model {tiny_model} --lens "{out}" --cache CACHE' in said
    record = json.loads((out / "lens.json").read_bytes())
    assert {path.name for path in out.iterdir()} == {
        "lens.json",
        *(f"layer-{layer:04d}.safetensors" for layer in range(3)),
    }
    for layer in range(3):
        file = out / f"layer-{layer:04d}.safetensors"
        assert digest_of(file.read_bytes()) == record["translators"][str(layer)]
        shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in load_file(file).items()}
        assert shapes == {"weight": ((32, 32), torch.float32), "bias": ((32,), torch.float32)}
        overall = record["metrics"][layer]["overall"]
        assert f"{overall['logit']:.3f} -> {overall['tuned']:.3f}" in said
        assert overall["tuned"] < overall["logit"]
    assert (record["layers"], record["width"], record["model_hash"]) == (4, 32, model_hash(tiny_model))
    assert record["training"]["prompt"] == "USER: <image>\nWhat is this? ASSISTANT:"
    assert record["training"]["images"] + record["training"]["held_out"] == 11
    assert {"vlq", "torch", "transformers"} <= record["versions"].keys()

    code, shown, _ = vlq("lens", "show", out)
    assert code == 0
    assert "translates 3 of 3 layers" in shown
    figures = re.compile(r"^ +\d( +\d\.\d{3} -> \d\.\d{3}){3}$", re.MULTILINE)
    assert len(figures.findall(shown)) == len(figures.findall(said)) == 3
    assert [found.group() for found in figures.finditer(shown)] == [found.group() for found in figures.finditer(said)]

    again = tmp_path / "again"
    assert vlq("lens", "train", images, *options, "--out", again)[0] == 0
    for path in out.glob("*.safetensors"):
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_one_site(vlq: Vlq, tiny_model: Path, images: Path, tmp_path: Path) -> None:
    options = ["--model", tiny_model, "--steps", 5, "--at", "prompt", "--out", tmp_path / "lens"]
    code, said, _ = vlq("lens", "train", images, *options)
    assert code == 0
    assert said.splitlines()[2].split() == ["layer", "prompt"]


def test_a_lens_that_is_no_better_is_not_written(vlq: Vlq, tiny_model: Path, images: Path, tmp_path: Path) -> None:
    options = ["--model", tiny_model, "--steps", 20, "--lr", 1e30]
    code, out, said = vlq("lens", "train", images, *options, "--out", tmp_path / "lens")
    assert code == 2
    assert out.count("not better: read as by the logit lens") == 3
    assert "vlq: At no layer is the trained lens better than the logit lens: nothing was written." in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_stopped_leaves_nothing(
    vlq: Vlq, tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Learner, "learn", stop)
    code, _, said = vlq("lens", "train", images, "--model", tiny_model, "--out", tmp_path / "lens")
    assert (code, said.splitlines()[-1]) == (130, "vlq: Stopped. The same command begins anew.")
    assert list(tmp_path.iterdir()) == []


def test_mistakes(vlq: Vlq, tiny_model: Path, images: Path, tmp_path: Path) -> None:
    full = save_images(tmp_path / "full", 1)
    good = {"images": images, "--model": tiny_model, "--out": tmp_path / "lens"}
    expected = {
        "There is nothing at": {"images": tmp_path / "none"},
        "one image is not enough": {"images": full},
        "There is no model folder": {"--model": tmp_path / "none"},
        "is there already, and not an empty folder": {"--out": full},
        "--out: expected a folder on this machine": {"--out": "s3://bucket/lens"},
        "Cannot make": {"--out": tiny_model / "config.json" / "lens"},
        "--at is patch, prompt or patch,prompt": {"--at": "last"},
        "--device is one of": {"--device": "tpu"},
        "--dtype is one of": {"--dtype": "int8"},
    }
    for message, changes in expected.items():
        options: dict[str, object] = {**good, **changes}
        source = options.pop("images")
        code, out, said = vlq("lens", "train", source, *(part for option in options.items() for part in option))
        assert (code, out) == (2, "")
        assert message in said
        assert "Traceback" not in said
    for source in (tmp_path / "none", images):
        code, out, said = vlq("lens", "show", source)
        assert (code, out) == (2, "")
        assert said.startswith(f"vlq: There is no tuned lens at {source}.\nMake one: vlq lens train")
    assert not (tmp_path / "lens").exists()


def test_the_group_tells_its_commands(vlq: Vlq) -> None:
    code, out, said = vlq("lens")
    assert code in (0, 2)  # as the command framework has it
    assert {"train", "show"} <= set((out + said).split())
