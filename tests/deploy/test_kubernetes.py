"""Every manifest keeps to its schema, strictly, and to what the guide promises of it."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from .manifests import OVERLAYS, built, kuberay, pod_specs

API = "1.33"
"""The Kubernetes whose schemas count."""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the overlays")


def check(thing: dict[str, Any]) -> None:
    """Raises if a field is unknown, missing or of the wrong type."""
    if thing["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(thing, API, strict=True)
        return
    kuberay(thing["kind"]).validate(thing)
    for spec in pod_specs(thing):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, API, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_keep_to_their_schemas(overlay: str) -> None:
    things = built(overlay)
    kinds = {thing["kind"] for thing in things}
    assert {"RayCluster", "RayJob", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= kinds
    for thing in things:
        check(thing)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("RayCluster", ["spec", "headGroupSpec"]),
        ("RayCluster", ["spec", "authOptions"]),
        ("RayCluster", ["spec", "workerGroupSpecs", 0]),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0]),
        ("RayJob", ["spec"]),
        ("Deployment", ["spec", "template", "spec", "containers", 0, "readinessProbe"]),
        ("NetworkPolicy", ["spec", "ingress", 0]),
    ],
)
def test_a_misspelt_field_is_found(kind: str, path: list[Any]) -> None:
    thing = copy.deepcopy(next(thing for thing in built("eks") if thing["kind"] == kind))
    place: Any = thing
    for step in path:
        place = place[step]
    place["replicaz"] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(thing)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_bounded_unprivileged_and_hold_no_secret(overlay: str) -> None:
    for thing in built(overlay):
        for spec in pod_specs(thing):
            ours = thing["metadata"]["name"] != "s3"
            if ours:
                assert spec["securityContext"]["runAsNonRoot"] is True
                assert spec["terminationGracePeriodSeconds"] >= 15
            for container in spec["containers"]:
                assert {"cpu", "memory"} <= set(container["resources"]["requests"])
                assert "memory" in container["resources"]["limits"]
                assert not container["image"].endswith(":latest")
                assert ":" in container["image"]
                for variable in container.get("env", []):
                    if any(word in variable["name"] for word in ("SECRET", "TOKEN", "PASSWORD")):
                        assert "secretKeyRef" in variable["valueFrom"], variable["name"]
                if ours:
                    assert container["securityContext"]["allowPrivilegeEscalation"] is False
                    assert container["lifecycle"]["preStop"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_named_is_there(overlay: str) -> None:
    things = built(overlay)
    named = {(thing["kind"], thing["metadata"].get("name")) for thing in things}
    for thing in things:
        assert thing["kind"] in ("Namespace", "RayJob") or thing["metadata"]["namespace"] == "vlq"
        for spec in pod_specs(thing):
            if "serviceAccountName" in spec:
                assert ("ServiceAccount", spec["serviceAccountName"]) in named
            for container in spec["containers"]:
                for source in container.get("envFrom", []):
                    if "secretRef" in source:  # whoever deploys makes it, or does without
                        assert source["secretRef"]["optional"]
                    else:
                        assert ("ConfigMap", source["configMapRef"]["name"]) in named
    job = next(thing for thing in things if thing["kind"] == "RayJob")
    assert ("RayCluster", job["spec"]["clusterSelector"]["ray.io/cluster"]) in named
    settings = next(thing for thing in things if thing["kind"] == "ConfigMap")["data"]
    assert settings["VLQ_CACHE"].partition("://")[0] == ("gs" if overlay == "gke" else "s3")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_asks_for_a_token_and_shows_no_dashboard(overlay: str) -> None:
    things = built(overlay)
    cluster = next(thing["spec"] for thing in things if thing["kind"] == "RayCluster")
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {"Ingress", "Route"} & {thing["kind"] for thing in things}
    assert all(thing["spec"].get("type", "ClusterIP") == "ClusterIP" for thing in things if thing["kind"] == "Service")
    (policy,) = (
        thing["spec"]
        for thing in things
        if (thing["kind"], thing["metadata"].get("name")) == ("NetworkPolicy", "vlq-ray")
    )
    within, submitters = policy["ingress"]
    assert within["from"] == [{"podSelector": {"matchLabels": {"ray.io/cluster": "vlq"}}}]
    assert [port["port"] for port in submitters["ports"]] == [8265]
