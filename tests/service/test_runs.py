"""Runs that a service starts: real ones, of the demo's model, as a process here and as a job of a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

import vlq
from vlq.service.app import create_app
from vlq.service.settings import Settings
from vlq.workers.demo.manifest import write_scenes
from vlq.workers.demo.scenes import DEMO, compose

from ..doors import running
from ..synthetic import make_cache

MODEL = str(Path(vlq.__file__).parent / "workers" / "demo" / "model")

TOKEN = "operators"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_scenes(tmp_path_factory.mktemp("scenes"), [compose(DEMO, number) for number in range(24)]))


def settings(folder: Path, **more: Any) -> Settings:
    make_cache(folder / "first", images=2)
    return Settings({"first": str(folder / "first")}, operators_token=TOKEN, **more)


@contextmanager
def operated(app: FastAPI) -> Iterator[tuple[str, httpx2.Client]]:
    """A service, and an operator's client."""
    with running(app) as url, httpx2.Client(base_url=url, headers=OPERATOR, timeout=60) as client:
        yield url, client


def until(client: httpx2.Client, id: str, done: Any) -> Any:
    end = time.monotonic() + 240
    while True:
        run = client.get(f"/v1/runs/{id}").json()
        if done(run):
            return run
        assert time.monotonic() < end, run
        assert run["state"] not in ("succeeded", "failed", "stopped"), (run, client.get(f"/v1/runs/{id}/log").text)
        time.sleep(0.2)


def test_a_run_is_started_stopped_and_gone_on_with(images: str, tmp_path: Path) -> None:
    """Then its cache is served: no run was lost, and none is started twice at once."""
    asked = {
        "images": images,
        "model": MODEL,
        "cache": str(tmp_path / "new"),
        "corpus": "scenes",
        "options": {"shard_size": 2, "workers": 1, "device": "cpu", "k": 5, "skip_dead_links": True, "compile": False},
    }
    began = time.time()
    with operated(create_app(settings(tmp_path))) as (url, client):
        run = client.post("/v1/runs", json=asked)
        assert run.status_code == 201
        id = run.json()["id"]
        assert "--k=5 --skip-dead-links --log=json" in run.json()["command"]
        twice = client.post("/v1/runs", json=asked)
        assert (twice.status_code, twice.json()["message"]) == (400, f"Run {id} writes that cache already.")
        until(client, id, lambda run: run["progress"] is not None and run["progress"]["cached"] > 0)
        assert client.post("/v1/runs/nothing/cancel").status_code == 404
        client.post(f"/v1/runs/{id}/cancel")
        stopped = until(client, id, lambda run: run["state"] == "stopped")
        assert stopped["ended"] >= stopped["started"]
        before = stopped["progress"]["cached"]
        assert 0 < before < 24
        again = client.post("/v1/runs", json=asked).json()
        assert again["progress"]["cached"] == before
        done = until(client, again["id"], lambda run: run["state"] == "succeeded")
        assert (done["progress"]["cached"], done["progress"]["state"]) == (24, "complete")
        listed = client.get("/v1/runs").json()
        assert [run["id"] for run in listed["runs"]] == [again["id"], id]
        assert [run["id"] for run in client.get("/v1/runs?limit=1").json()["runs"]] == [again["id"]]
        assert began <= listed["since"] <= stopped["started"]
        log = client.get(f"/v1/runs/{again['id']}/log").text.splitlines()
        assert any(line.startswith("{") and json.loads(line) for line in log)
        served = vlq.open(f"{url}/scenes", token=TOKEN)
        assert len(served.images()) == 24
        assert served.first_layer("dog").rows == vlq.open(str(tmp_path / "new")).first_layer("dog").rows


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with operated(create_app(settings(tmp_path))) as (_, client):
        asked = {"images": str(tmp_path / "none"), "model": MODEL, "cache": str(tmp_path / "new"), "corpus": "scenes"}
        id = client.post("/v1/runs", json=asked).json()["id"]
        run = until(client, id, lambda run: run["state"] == "failed")
        assert f"{tmp_path / 'none'}" in run["message"]
        assert run["progress"] is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), ({"Authorization": "Bearer wrong"}, 403), (OPERATOR, 400)],
    ids=["none", "wrong", "right"],
)
def test_runs_are_for_operators(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    asked = {"images": "x", "model": "m", "cache": "c", "corpus": "v1"}
    with running(create_app(settings(tmp_path))) as url:
        answer = httpx2.post(f"{url}/v1/runs", json=asked, headers=headers)
        assert answer.status_code == status
        assert answer.json()["kind"] == ("forbidden" if status == 403 else "input")
        assert httpx2.get(f"{url}/v1/runs", headers=headers).status_code == (403 if status == 403 else 200)


def test_without_operators_there_are_no_runs(tmp_path: Path) -> None:
    make_cache(tmp_path / "first", images=2)
    with running(create_app(Settings({"first": str(tmp_path / "first")}))) as url:
        answer = httpx2.get(f"{url}/v1/runs", headers=OPERATOR)
        assert (answer.status_code, answer.json()["kind"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"exec": "x"}}, "There is no option exec."),
        ({"options": {"skip_dead_links": 1}}, "skip_dead_links: true or false is expected. Got 1."),
        ({"options": {"k": True}}, "k: a value is expected. Got True."),
        ({"corpus": "../x"}, "A corpus cannot be called '../x'."),
        ({"corpus": "first"}, "Another cache is called first here."),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted."),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    asked = {"images": "x", "model": "m", "cache": "c", "corpus": "y", **change}
    with running(create_app(settings(tmp_path))) as url:
        answer = httpx2.post(f"{url}/v1/runs", json=asked, headers=OPERATOR)
        assert (answer.status_code, answer.json()["message"]) == (400, message)


# --- on a cluster ----------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray head with a place for a worker, whose jobs want a token: the address of its jobs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    gcs, dashboard, client, agent, metrics, environment = free_ports(6)
    ports = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "runtime-env-agent-port": environment,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 2,
        "num-gpus": 0,
        "object-store-memory": 100_000_000,
    }
    options = [f"--{name}={value}" for name, value in ports.items()]
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(
            [*command, "--dashboard-host=127.0.0.1", *options], stdout=log, stderr=log, start_new_session=True
        )
        url, end = f"http://127.0.0.1:{dashboard}", time.monotonic() + 120
        try:
            while True:
                assert head.poll() is None, (tmp_path / "ray.log").read_text()
                assert time.monotonic() < end, (tmp_path / "ray.log").read_text()
                try:
                    if httpx2.get(f"{url}/api/jobs/", timeout=5).status_code == 401:
                        break
                except httpx2.HTTPError:
                    pass
                time.sleep(0.3)
            yield url
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


def test_a_run_on_a_cluster(cluster: str, images: str, tmp_path: Path) -> None:
    asked = {
        "images": images,
        "model": MODEL,
        "cache": str(tmp_path / "new"),
        "corpus": "scenes",
        "options": {"limit": 6, "shard_size": 3, "workers": 1, "device": "cpu", "k": 5},
    }
    began = time.time()
    with operated(create_app(settings(tmp_path, ray_jobs=cluster))) as (url, client):
        id = client.post("/v1/runs", json=asked).json()["id"]
        done = until(client, id, lambda run: run["state"] == "succeeded")
        assert done["progress"]["cached"] == 6
        assert "6 images read" in client.get(f"/v1/runs/{id}/log").text
        assert len(vlq.open(f"{url}/scenes", token=TOKEN).images()) == 6
        long = {**asked, "cache": str(tmp_path / "going"), "corpus": "going"}
        long["options"] = {"shard_size": 1, "workers": 1, "device": "cpu", "k": 5}
        going = client.post("/v1/runs", json=long).json()
        until(client, going["id"], lambda run: run["state"] == "running")
    # The cluster's other jobs are none of a service's business.
    ray = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    other = {"entrypoint": "echo secret", "submission_id": "other", "metadata": {"of": "others"}}
    httpx2.post(f"{cluster}/api/jobs/", json=other, headers=ray).raise_for_status()
    # Another service, or the same one started anew, knows the runs from the cluster.
    with operated(create_app(settings(tmp_path / "another", ray_jobs=cluster))) as (url, client):
        listed = client.get("/v1/runs").json()
        assert [run["id"] for run in listed["runs"]] == [going["id"], id]
        assert listed["since"] is None
        known = ("id", "corpus", "cache", "command", "state", "progress")
        assert {key: listed["runs"][1][key] for key in known} == {key: done[key] for key in known}
        assert began <= listed["runs"][1]["started"] <= listed["runs"][1]["ended"] <= time.time()
        assert len(vlq.open(f"{url}/scenes", token=TOKEN).images()) == 6
        assert "6 images read" in client.get(f"/v1/runs/{id}/log").text
        twice = client.post("/v1/runs", json=long)
        assert twice.json()["message"] == f"Run {going['id']} writes that cache already."
        client.post(f"/v1/runs/{going['id']}/cancel")
        until(client, going["id"], lambda run: run["state"] == "stopped")
        for path in ("", "/log", "/cancel"):
            refused = client.request("POST" if path == "/cancel" else "GET", f"/v1/runs/other{path}")
            assert (refused.status_code, refused.json()["kind"]) == (404, "not-found")


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with running(create_app(settings(tmp_path, ray_jobs=f"http://127.0.0.1:{port}"))) as url:
        asked = {"images": "x", "model": "m", "cache": "c", "corpus": "y"}
        for answer in (
            httpx2.post(f"{url}/v1/runs", json=asked, headers=OPERATOR),
            httpx2.get(f"{url}/v1/runs", headers=OPERATOR),
        ):
            assert answer.json()["message"].startswith(f"The cluster at http://127.0.0.1:{port} does not answer")
