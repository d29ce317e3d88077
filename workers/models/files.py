"""Where a model's files lie, and the hash that tells models apart. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path

from vlq.query.errors import ModelError
from vlq.query.schema import digest_of

POINTER_BYTES = 1024
"""No pointer of Git LFS is larger."""

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # ./model and ../model are folders

CONFIGURATION = ("*.json", "*.jinja", "*.model", "*.txt")

NOT_WEIGHTS = ("consolidated*", "*/*.safetensors", "*/*.bin")
"""Files of a hub's model that hold the same weights once more, in Mistral's own layout, or others' in subfolders."""


def resolve(model: str, *, revision: str | None = None, download: bool = True, weights: bool = True) -> Path:
    """The folder of a model: the one named, or the Hugging Face hub's copy of it on this machine.

    `revision` is a branch, tag or commit of a hub model. With `download` what is not here yet is fetched, and a branch
    is followed to where it is now, unless $HF_HUB_OFFLINE is set; without `weights` all but these. Raises ModelError.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"{model} is a folder here, which has no revision {revision}.",
                "Leave --revision out; or name a model of the Hugging Face hub, OWNER/NAME.",
            )
        _check_configured(model, folder)
        return folder
    if not HUB_ID.fullmatch(model) or folder.exists():
        raise ModelError(
            f"There is no model folder {model}.", "Give a folder that save_pretrained wrote, or a Hugging Face hub id."
        )
    folder = _from_hub(model, revision, download, weights)
    _check_configured(model, folder)
    return folder


def _check_configured(model: str, folder: Path) -> None:
    """Raises ModelError unless a folder holds a model as transformers stores one; with what it holds instead, where
    that is known."""
    if (folder / "adapter_config.json").is_file():  # without peft transformers would read the model without it
        raise ModelError(
            f"{model} holds an adapter for another model (PEFT), which is not read.",
            "Merge it into that model (merge_and_unload of peft), and save_pretrained both that and its processor in "
            "a folder without adapter_config.json.",
        )
    pointers = (file for pattern in (*CONFIGURATION, "*.safetensors", "*.bin") for file in folder.glob(pattern))
    if (pointer := next(filter(_is_pointer, pointers), None)) is not None:
        raise ModelError(f"{pointer} is a pointer of Git LFS, and not the file itself.", "Run there: git lfs pull")
    if (folder / "config.json").is_file():
        return
    found = ": it is not a model's folder"
    hint = "Give the folder that save_pretrained wrote, or a Hugging Face hub id."
    if (folder / "params.json").is_file():
        found = ", but a model in Mistral's own layout"
        hint = "Give a copy in that of transformers, as mistral-community/pixtral-12b is of Pixtral-12B-2409."
    elif any(folder.glob("*.gguf")):
        found = ", but GGUF files, which are not read"
        hint = "Give the model that they were made of, in the layout of transformers."
    raise ModelError(f"{model} holds no config.json{found}.", hint)


def _is_pointer(file: Path) -> bool:
    """Whether a file is what `git clone` leaves in the place of a large one, without Git LFS."""
    if not file.is_file() or file.stat().st_size > POINTER_BYTES:
        return False
    return file.read_bytes().startswith(b"version https://git-lfs")


def may_be_elsewhere(model: str) -> bool:
    """Whether a model that is not here may be had by workers: from the hub, or in a folder of their machines."""
    return "/" in model and not Path(model).expanduser().exists()


def commit_of(model: str, folder: Path) -> str | None:
    """The commit of a hub model whose `folder` is that of `resolve`; None for a model that was named by its folder."""
    return None if Path(model).expanduser().is_dir() else folder.name  # the hub's cache names snapshots by commits


def _from_hub(model: str, revision: str | None, download: bool, weights: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{model}"
    name = f"{model} at revision {revision}" if revision else model

    def snapshot(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(NOT_WEIGHTS),
                local_files_only=not download,
            )
        )

    try:
        if not weights:
            return snapshot(*CONFIGURATION)
        folder = snapshot(*CONFIGURATION, "*.safetensors")
        if not any(folder.glob("*.safetensors")):
            folder = snapshot(*CONFIGURATION, "*.bin")
        return folder
    except GatedRepoError as error:
        raise ModelError(
            f"The model {model} is gated: {_reason(error)}", f"Ask for access at {page}, then log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no model {model}: no folder here, and none on the Hugging Face hub that you may see.",
            "Check the spelling; if it is private, log in: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"The model {model} has no revision {revision}.", f"Give a branch, tag or commit of {page}/commits"
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"The model {name} is not here, or not all of it, and {_offline()} is set: the Hugging Face hub is not "
                "asked.",
                "Give a folder that save_pretrained wrote, or unset the variable, once, to download the model.",
            ) from error
        cause = f": {_reason(error.__cause__)}" if error.__cause__ is not None else "."
        raise ModelError(
            f"The model {name} is no folder here and not downloaded, and the Hugging Face hub cannot be reached{cause}",
            "Give a folder that save_pretrained wrote, or try again with a connection.",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        response = getattr(error, "response", None)
        denied = response is not None and response.status_code in (401, 403)
        raise ModelError(
            f"The model {name} cannot be downloaded: {_reason(error)}",
            "Log in with a token that may read it: hf auth login" if denied else "Try again; what came is kept.",
        ) from error


def _offline() -> str:
    """The variable that keeps the hub from being asked."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name)), names[0])


def _reason(error: BaseException) -> str:
    """What the hub's server says itself, else the first line of what its client says."""
    text = (getattr(error, "server_message", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_config(folder: Path) -> dict[str, object]:
    """The model's config.json. Raises ModelError."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} is not readable: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a model's configuration.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, by name: safetensors, else PyTorch's. Raises ModelError if there are none."""

    def here(names: str) -> list[Path]:
        found = (file for file in folder.glob(names) if not file.match(NOT_WEIGHTS[0]))
        return sorted(file for file in found if file.is_file())  # a link may lead nowhere

    files = here("*.safetensors") or here("pytorch_model*.bin")
    if not files:
        raise ModelError(f"{folder} holds no weights: neither *.safetensors nor pytorch_model*.bin.")
    return files


def weight_bytes(folder: Path) -> int:
    """The size of the stored weights."""
    return sum(file.stat().st_size for file in weight_files(folder))


def model_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the configuration and the weights: the same wherever they lie."""
    files = [folder / "config.json", folder / "preprocessor_config.json", folder / "processor_config.json"]
    files = [file for file in files if file.is_file()] + weight_files(folder)
    return digest_of("\n".join(f"{file.name} {_file_hash(file)}" for file in files).encode())


def _file_hash(file: Path) -> str:
    target = file.resolve()
    if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
        return target.name  # the hub's cache names large files by their SHA-256
    about = target.stat()
    return _hashed(target, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=256)
def _hashed(file: Path, size: int, modified: int, changed: int) -> str:
    """A file's SHA-256. Gigabytes of weights take seconds, and a command may ask more than once: it is computed anew if
    the file is another one now."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
