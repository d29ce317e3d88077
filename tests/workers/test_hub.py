"""Models of the Hugging Face hub, by its real client: which files are read, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlq.query.errors import ModelError
from vlq.query.schema import Run
from vlq.workers.models.files import commit_of, model_hash, resolve
from vlq.workers.plan import RunOptions, revision_for

from .conftest import make_model
from .hub import GATED, Hub, commit_hash, hub_of

MODEL = "acme/tiny"

TRY = """
import json, sys
from vlq.query.errors import ModelError
from vlq.workers.models.files import commit_of, model_hash, resolve

for model, revision in json.loads(sys.argv[1]):
    try:
        folder = resolve(model, revision=revision)
        told = {"folder": str(folder), "commit": commit_of(model, folder), "hash": model_hash(folder)}
    except ModelError as error:
        told = {"message": error.message, "hint": error.hint}
    print(json.dumps(told))
"""
"""The client reads its environment when it is imported, so it gets a process of its own."""

LOOK = """
import sys
from vlq.query.errors import ModelError
from vlq.workers.models import folder_of

for model in sys.argv[1:]:
    try:
        folder_of(model)
    except ModelError as error:
        print(error.message)
"""

RECORD = """
import sys
from vlq.workers.worker import Setup, load_model

setup = Setup(sys.argv[1], None, 4, ("patch",), "cpu", "auto", 1, 2, 2)
print(load_model(setup)[1].run.to_bytes().decode(), end="")
"""


@pytest.fixture(scope="module")
def commits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two states of one model."""
    return [tiny_model, make_model(tmp_path_factory.mktemp("hub") / "newer", seed=1)]


@pytest.fixture
def hub(commits: list[Path]) -> Iterator[Hub]:
    models = {MODEL: commits, "acme/gated": commits[:1]}
    names = {MODEL: {"main": 1, "v1": 0}, "acme/gated": {"main": 0}}
    refused = {
        "acme/forbidden": (403, "", "Your token lacks the permission"),
        "acme/broken": (500, "", "Something went wrong"),
    }
    with hub_of(Hub(models, names, refused, {"acme/gated"})) as started:
        yield started


def called(script: str, hub: Hub, home: Path, *arguments: str, **env: str) -> str:
    """What a script prints that asks the hub, with the client's files in `home`."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=os.environ | own | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(hub: Hub, home: Path, *models: tuple[str, str | None], **env: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in called(TRY, hub, home, json.dumps(models), **env).splitlines()]


def test_a_revision_names_its_files(hub: Hub, commits: list[Path], tmp_path: Path) -> None:
    told = tried(hub, tmp_path, (MODEL, None), (MODEL, "main"), (MODEL, "v1"), (MODEL, commit_hash(0)))
    assert [each["commit"] for each in told] == [commit_hash(number) for number in (1, 1, 0, 0)]
    assert [each["hash"] for each in told] == [model_hash(commits[number]) for number in (1, 1, 0, 0)]
    assert commit_of(str(commits[0]), commits[0]) is None


def test_what_the_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    gated, missing, unknown, commit, forbidden, broken = tried(
        hub,
        tmp_path,
        ("acme/gated", None),
        ("acme/none", None),
        (MODEL, "v2"),
        (MODEL, commit_hash(7)),
        ("acme/forbidden", None),
        ("acme/broken", None),
    )
    assert gated["message"] == f"The model acme/gated is gated: {GATED}"
    assert gated["hint"] == f"Ask for access at {hub.url}/acme/gated, then log in: hf auth login"
    assert missing["message"].startswith(
        "There is no model acme/none: no folder here, and none on the Hugging Face hub"
    )
    assert "hf auth login" in missing["hint"]
    assert unknown["message"] == f"The model {MODEL} has no revision v2."
    assert unknown["hint"] == f"Give a branch, tag or commit of {hub.url}/{MODEL}/commits"
    assert commit["message"] == f"The model {MODEL} has no revision {commit_hash(7)}."
    assert "Your token lacks the permission" in forbidden["message"]
    assert "Something went wrong" in broken["message"]
    for told in (gated, missing, unknown, commit, forbidden, broken):
        assert "\n" not in told["message"] + told["hint"]


def test_what_is_not_read_is_not_downloaded(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    for name, file, changes in (("foreign", "config.json", {"model_type": "llava_llama"}), ("bare", "params.json", {})):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").unlink()
        (folder / file).write_text(json.dumps(config | changes))
        hub.models[f"acme/{name}"], hub.names[f"acme/{name}"] = [folder], {"main": 0}
    said = called(LOOK, hub, tmp_path / "home", "acme/foreign", "acme/bare").splitlines()
    assert "acme/foreign is of type llava_llama, which transformers" in said[0]
    assert "acme/bare holds no config.json, but a model in Mistral's own layout" in said[1]
    assert [file for file in hub.asked if "tokenizer" in file]
    assert not [file for file in hub.asked if "safetensors" in file]


def test_weights_are_downloaded_once(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    """Mistral's models have them in its own layout, too. A folder with all of it is the same model."""
    folder = tmp_path / "both"
    shutil.copytree(tiny_model, folder)
    (folder / "original").mkdir()
    for file in ("consolidated.safetensors", "original/model.safetensors"):
        shutil.copy(tiny_model / "model.safetensors", folder / file)
    hub.models["acme/both"], hub.names["acme/both"] = [folder], {"main": 0}
    (told,) = tried(hub, tmp_path / "home", ("acme/both", None))
    assert told["hash"] == model_hash(tiny_model) == model_hash(folder)
    assert not [file for file in hub.asked if "consolidated" in file or "original" in file]


def test_offline(hub: Hub, commits: list[Path], tmp_path: Path) -> None:
    (absent,) = tried(hub, tmp_path, (MODEL, None), HF_HUB_OFFLINE="1")
    what = f"The model {MODEL} is not here, or not all of it, and HF_HUB_OFFLINE is set: the Hugging Face hub is not"
    assert absent["message"] == f"{what} asked."
    (elsewhere,) = tried(hub, tmp_path, (MODEL, "v1"), HF_HUB_OFFLINE="", TRANSFORMERS_OFFLINE="1")
    assert f"{MODEL} at revision v1 is not here" in elsewhere["message"]
    assert "TRANSFORMERS_OFFLINE is set" in elsewhere["message"]
    assert hub.asked == []

    tried(hub, tmp_path, (MODEL, "v1"))
    asked = len(hub.asked)
    tag, commit, main = tried(hub, tmp_path, (MODEL, "v1"), (MODEL, commit_hash(0)), (MODEL, None), HF_HUB_OFFLINE="1")
    assert tag["hash"] == commit["hash"] == model_hash(commits[0])
    assert "HF_HUB_OFFLINE is set" in main["message"]  # where the branch is was never asked
    assert len(hub.asked) == asked
    (cut,) = Path(tag["folder"]).glob("*.safetensors")
    cut.unlink()
    (partial,) = tried(hub, tmp_path, (MODEL, "v1"), HF_HUB_OFFLINE="1")
    assert "or not all of it" in partial["message"]


def test_a_hub_out_of_reach(hub: Hub, tmp_path: Path) -> None:
    (told,) = tried(hub, tmp_path, (MODEL, None), HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hugging Face hub cannot be reached: " in told["message"]
    assert "Connection refused" in told["message"]


def test_a_run_records_the_commit_and_goes_on_with_it(hub: Hub, commits: list[Path], tmp_path: Path) -> None:
    hub.names[MODEL]["main"] = 0
    run = Run.from_bytes(called(RECORD, hub, tmp_path, MODEL).encode(), "told")
    assert (run.model, run.revision, run.model_hash) == (MODEL, commit_hash(0), model_hash(commits[0]))
    asked = RunOptions("images", MODEL, "cache")
    assert revision_for(asked, None) is None
    assert revision_for(asked, run) == commit_hash(0)  # wherever the branch goes
    assert revision_for(replace(asked, revision="v2"), run) == "v2"
    assert revision_for(replace(asked, model=str(commits[0])), run) is None


def test_a_folder_has_no_revisions(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="is a folder here, which has no revision v1") as caught:
        resolve(str(tiny_model), revision="v1")
    for path in ("./none", "../none"):
        with pytest.raises(ModelError, match="There is no model folder"):
            resolve(path)
    assert "Leave --revision out" in str(caught.value.hint)
