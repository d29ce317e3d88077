"""An S3 server of one's own for a test: moto's, over HTTP."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from .serving import serving

SECRET = "a-secret-that-nobody-may-see"
"""The secret key that tests have in their environment."""


PAGE = 100
"""Keys that moto lists at once; real servers list a thousand."""


@contextmanager
def moto_server() -> Iterator[str]:
    """Its address."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def answer(environ: Any, start_response: Any) -> Any:
        with one_at_a_time:  # moto looks whether a key is free before it writes: two writers at once would both win
            return application(environ, start_response)

    with patch.dict(os.environ, {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}):
        server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
        with serving(server) as url:
            yield url


def environment(endpoint: str) -> dict[str, str]:
    """What a client of the server at `endpoint` has in its environment."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }


def client(environ: Mapping[str, str]) -> Any:
    """Amazon's own client, which reaches the same objects without VLQ."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        region_name=environ["AWS_REGION"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
    )


def new_bucket(environ: Mapping[str, str]) -> str:
    """The name of a bucket that was just made."""
    name = f"vlq-{uuid4().hex[:12]}"
    client(environ).create_bucket(Bucket=name)
    return name
