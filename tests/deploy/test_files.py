"""Images, the compose file, Ray's launcher file and the scripts: against schemas and linters, and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from compose_spec import PyCompose

import vlq

from .manifests import DEPLOY, KUBERNETES, ROOT

DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def tool(name: str) -> str:
    """A linter that the environment brings."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, name
    return found


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles(file: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    assert text.count("USER 1000") == 1
    assert all("org.opencontainers.image." + label in text for label in ("title", "description", "version", "licenses"))
    assert re.findall(r'image\.version="([^"]+)"', text) == [vlq.__version__]


def test_images_install_extras_that_there_are() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = [re.findall(r"'\.\[([\w,]+)\]'", file.read_text()) for file in DOCKERFILES]
    asked = {extra for lists in found for each in lists for extra in each.split(",")}
    assert asked == {"aws", "cluster", "service"}
    assert asked <= set(extras)


def test_what_is_built_from_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {"LICENSE", "README.md", "constraints.txt", "pyproject.toml", "query", "service", "vlq", "workers"} == kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("*.sh")), ids=lambda file: file.name)
def test_scripts(file: Path) -> None:
    done = subprocess.run([tool("shellcheck"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def compose(text: str) -> None:
    """Raises ValueError if a compose file does not keep to the specification."""
    values = {"S3_SECRET": "secret", "IMAGES": "/images", "MODEL": "/model"}
    filled = re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: values.get(found[1], found[2] or ""), text)
    PyCompose.from_yaml(filled).validate()
    content = yaml.safe_load(filled)
    mounts = [mount for service in content["services"].values() for mount in service.get("volumes", [])]
    named = {mount.partition(":")[0] for mount in mounts if mount[0] not in "./~"}
    if named != set(content.get("volumes", {})):
        raise ValueError(f"volumes that are named: {named}")


def test_the_compose_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    compose(text)
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    assert set(services) == {"s3", "worker", "service"}
    assert services["service"]["ports"] == ["127.0.0.1:8765:8765"]  # nobody else's
    for name in ("worker", "service"):
        assert services[name]["image"] == f"vlq-{name}:{vlq.__version__}"
        assert (
            DEPLOY / services[name]["build"]["context"] / services[name]["build"]["dockerfile"]
        ).resolve() in DOCKERFILES
    assert re.fullmatch(r"[\w/]+:\d[\d.]*", services["s3"]["image"])
    secrets = [service["environment"]["AWS_SECRET_ACCESS_KEY"] for service in services.values()]
    assert all(secret.startswith("${S3_SECRET:?") for secret in secrets)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart:", "restarts:"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("service_healthy", "service_well"),
        ("volumes:\n  bucket:", "volumes:\n  pail:"),
    ],
)
def test_a_mistake_in_a_compose_file_is_found(right: str, wrong: str) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert right in text
    with pytest.raises(ValueError, match=r"services|volumes"):
        compose(text.replace(right, wrong))


def test_the_launchers_file_keeps_to_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((DEPLOY / "ray-aws.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    starts = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in starts
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"max_worker": 1}, schema)


def test_the_launchers_head_has_what_it_starts_workers_with() -> None:
    """It runs in the worker's image, and calls these programs there, and the provider's library."""
    launcher = Path(ray.__file__).parent / "autoscaler" / "_private"
    runner, provider = (launcher / "command_runner.py").read_text(), (launcher / "aws" / "utils.py").read_text()
    assert all(call in runner for call in ('["ssh"]', '["rsync"]', "rsync -e '{} exec -i'"))
    assert "import boto3" in provider
    image = yaml.safe_load((DEPLOY / "ray-aws.yaml").read_text())["docker"]["image"]
    assert image.startswith("REGISTRY/vlq-worker:")
    text = (DEPLOY / "worker.Dockerfile").read_text()
    (installed,) = re.findall(r"apt-get install -y --no-install-recommends (.*) \\", text)
    assert {"openssh-client", "rsync"} <= set(installed.split())
    assert "'.[aws,cluster]'" in text


def test_versions_agree() -> None:
    texts = {file: file.read_text() for file in DEPLOY.rglob("*") if file.is_file()}
    for file, text in texts.items():
        for image, version in re.findall(r"(vlq-(?:worker|service)):(\d[\w.]*)", text):
            assert version == vlq.__version__, f"{file}: {image}"
    cluster = yaml.safe_load((KUBERNETES / "base" / "ray.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == PINS["ray"]
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert {image["newTag"] for image in base["images"]} == {vlq.__version__}
    pythons = {match for text in texts.values() for match in re.findall(r"ARG PYTHON=(\S+)", text)}
    assert len(pythons) == 1
    servers = {match for text in texts.values() for match in re.findall(r"chrislusf/seaweedfs:(\S+)", text)}
    assert len(servers) == 1
