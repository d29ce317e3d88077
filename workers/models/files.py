"""Where a model's files lie, and the hash that tells models apart. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from vlq.query.errors import ModelError
from vlq.query.schema import digest_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

CONFIGURATION = ("*.json", "*.jinja", "*.model", "*.txt")


def resolve(model: str, *, download: bool = True) -> Path:
    """The folder of a model: the one named, or the Hugging Face hub's copy of it on this machine.

    With `download` a hub model that is not here yet is fetched. Raises ModelError.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{model} holds no config.json: it is not a model's folder.",
                "Give the folder that save_pretrained wrote, or a Hugging Face hub id.",
            )
        return folder
    if not HUB_ID.fullmatch(model) or folder.exists():
        raise ModelError(
            f"There is no model folder {model}.", "Give a folder that save_pretrained wrote, or a Hugging Face hub id."
        )
    return _from_hub(model, download)


def _from_hub(model: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def snapshot(*patterns: str) -> Path:
        return Path(snapshot_download(model, allow_patterns=list(patterns), local_files_only=not download))

    try:
        folder = snapshot(*CONFIGURATION, "*.safetensors")
        if not any(folder.glob("*.safetensors")):
            folder = snapshot(*CONFIGURATION, "*.bin")
        return folder
    except GatedRepoError as error:
        raise ModelError(
            f"The model {model} is gated.",
            f"Ask for access at https://huggingface.co/{model}, then log in: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no model {model}: no folder here, and none on the Hugging Face hub that you may see.",
            "Check the spelling; if it is private, log in: hf auth login",
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"The model {model} is no folder here and not downloaded, and the Hugging Face hub cannot be reached.",
            "Give a folder that save_pretrained wrote, or try again with a connection.",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model {model} cannot be downloaded: {reason}", "Try again; what came is kept."
        ) from error


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
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
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
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
