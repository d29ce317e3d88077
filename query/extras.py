"""What an extra brings, and what to say where it is not installed."""

from __future__ import annotations

from vlq.query.errors import MissingExtra

EXTRAS = {
    "coco": {"pycocotools"},
    "workers": {"ray", "torch", "transformers", "safetensors"},
    "service": {"fastapi", "prometheus_client", "pydantic", "uvicorn"},
}
"""Packages that only an extra brings."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The error of a package that is not there; None if no extra brings it."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return None
    return MissingExtra(f"This needs {error.name}, which is not installed.", f"Run: pip install 'vlq[{extra}]'")
