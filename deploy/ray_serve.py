"""The service as an application of Ray Serve, for clusters that serve with it already.

    pip install 'vlq[serve]'
    cd deploy && VLQ_CACHES="coco=s3://bucket/coco demo=s3://bucket/demo" serve run ray_serve:application replicas=2

or `serve deploy serve.yaml`. Caches are separated by spaces; tokens come from $VLQ_READERS_TOKEN and
$VLQ_OPERATORS_TOKEN, and where runs are started from $VLQ_RAY_JOBS. With $VLQ_INTERVENE=1, and vlq[workers], each
replica loads a model of its own when it is asked to intervene, perhaps one of the folders and hub ids of $VLQ_MODELS,
which are separated by spaces; `ray_actor_options` of a deployment give it a GPU. Else a replica holds no state but the
list of the runs that it started.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from ray import serve

from vlq.service.app import create_app
from vlq.service.command import OPERATORS, READERS
from vlq.service.names import named
from vlq.service.settings import Settings


def service() -> FastAPI:
    """Made in each replica: what is open in it cannot travel."""
    return create_app(
        Settings(
            caches=named(os.environ["VLQ_CACHES"].split()),
            readers_token=os.environ.get(READERS) or None,
            operators_token=os.environ.get(OPERATORS) or None,
            ray_jobs=os.environ.get("VLQ_RAY_JOBS") or None,
            intervene=os.environ.get("VLQ_INTERVENE", "0") not in ("", "0"),
            models=tuple(os.environ.get("VLQ_MODELS", "").split()),
        )
    )


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=100, health_check_period_s=10)
@serve.ingress(service)
class Service:
    """Answers HTTP. A replica is well as long as its process answers."""


def application(arguments: dict[str, str]) -> serve.Application:
    """With `replicas=N` of them; one by default."""
    return Service.options(num_replicas=int(arguments.get("replicas", 1))).bind()
