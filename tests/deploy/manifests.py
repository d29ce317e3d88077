"""What deploy/ holds, as data, and the strict schemas of KubeRay's kinds."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


# The fields of KubeRay's v1 API that we use, and no more: a field that is not here is misspelt, or belongs here
# after a look at the API. Pod templates are checked as pods are; with $KUBERAY_CRDS, KubeRay's own definitions count.
GROUP = {
    "serviceType": {"enum": ["ClusterIP"]},
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": strict(["spec"], metadata={"type": "object"}, spec={"type": "object"}),
}
KUBERAY: dict[str, dict[str, Any]] = {
    "RayCluster": strict(
        ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
        rayVersion=TEXT,
        authOptions=strict(["mode", "secretName"], mode={"const": "token"}, secretName=TEXT),
        enableInTreeAutoscaling={"type": "boolean"},
        autoscalerOptions=strict([], idleTimeoutSeconds=COUNT, resources={"type": "object"}),
        headGroupSpec=strict(["serviceType", "rayStartParams", "template"], **GROUP),
        workerGroupSpecs={
            "type": "array",
            "minItems": 1,
            "items": strict(
                ["groupName", "minReplicas", "maxReplicas", "template"],
                groupName=TEXT,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas={"type": "integer", "minimum": 1},
                rayStartParams=GROUP["rayStartParams"],
                template=GROUP["template"],
            ),
        },
    ),
    "RayJob": strict(
        ["clusterSelector", "entrypoint"],
        clusterSelector={"type": "object", "additionalProperties": TEXT},
        entrypoint=TEXT,
        submitterConfig=strict([], backoffLimit=COUNT),
    ),
}


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
