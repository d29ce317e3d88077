"""What deploy/ holds, as data, and KubeRay's definitions of its kinds."""

from __future__ import annotations

import functools
import lzma
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())


def closed(schema: Any) -> Any:
    """An OpenAPI schema in which unknown fields are mistakes, as they are to `kubectl apply --validate=strict`."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


@functools.cache
def kuberay(kind: str) -> jsonschema.Draft202012Validator:
    """What checks one of KubeRay's kinds, `RayCluster` or `RayJob`, by its own definition (see kuberay/README.md)."""
    text = lzma.decompress((Path(__file__).parent / "kuberay" / f"ray.io_{kind.lower()}s.yaml.xz").read_bytes())
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    versions = {version["name"]: version["schema"]["openAPIV3Schema"] for version in definition["versions"]}
    schema: dict[str, Any] = closed(versions["v1"])
    schema["properties"]["metadata"] = {"type": "object"}  # which Kubernetes itself defines
    return jsonschema.Draft202012Validator(schema)


@functools.cache
def built(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, and the run that is created on it."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True, check=True
    )
    return [*yaml.safe_load_all(done.stdout), yaml.safe_load((KUBERNETES / "run.yaml").read_text())]


def pod_specs(thing: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods that an object makes."""
    if thing["kind"] == "RayCluster":
        groups = [thing["spec"]["headGroupSpec"], *thing["spec"]["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]
    return [thing["spec"]["template"]["spec"]] if thing["kind"] == "Deployment" else []
