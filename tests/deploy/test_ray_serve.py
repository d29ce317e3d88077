"""The application of Ray Serve, on a Ray of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vlq

from ..synthetic import make_cache

DEPLOY = Path(__file__).parents[2] / "deploy"

SCRIPT = textwrap.dedent(
    """
    import json, sys
    import ray
    from ray import serve
    import ray_serve
    import vlq

    port = int(sys.argv[1])
    settings = ray_serve.service().state.settings
    print("TOLD", json.dumps([settings.intervene, settings.models]))
    small = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
    ray.init("local", _node_ip_address="127.0.0.1", **small)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(ray_serve.application({"replicas": "1"}))
    corpus = vlq.open(f"http://127.0.0.1:{port}/two", token="secret")
    print("FOUND", json.dumps([corpus.first_layer("dog").rows, len(corpus.readings("cat", rank=4).arrow())]))
    serve.shutdown()
    ray.shutdown()
    """
)


@pytest.mark.timeout(200)
def test_the_application(tmp_path: Path) -> None:
    make_cache(tmp_path / "one", images=3)
    make_cache(tmp_path / "two", images=6, seed=4)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(port)],
        capture_output=True,
        text=True,
        cwd=DEPLOY,
        timeout=180,
        env={
            **os.environ,
            "VLQ_CACHES": f"{tmp_path / 'one'} {tmp_path / 'two'}",
            "VLQ_READERS_TOKEN": "secret",
            "VLQ_INTERVENE": "1",
            "VLQ_MODELS": "/models/llava llava-hf/llava-1.5-7b-hf",
            "PYTHONPATH": f"{DEPLOY}{os.pathsep}{DEPLOY.parent}",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert 'TOLD [true, ["/models/llava", "llava-hf/llava-1.5-7b-hf"]]' in done.stdout.splitlines()
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    corpus = vlq.open(str(tmp_path / "two"))
    assert json.loads(line.removeprefix("FOUND ")) == [
        corpus.first_layer("dog").rows,
        len(corpus.readings("cat", rank=4)),
    ]
