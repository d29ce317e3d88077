"""A whole run over a server that fails at a share of the requests ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..faults import FAULTS, Faults, faulty
from ..s3 import client, environment, moto_server, new_bucket
from ..workers.conftest import make_model, save_images
from ..workers.runs import start

PATIENCE = {"AWS_CONNECT_TIMEOUT": "2s", "AWS_READ_TIMEOUT": "2s"}
"""A server that is silent for 3 seconds has timed out."""


def run(model: Path, images: str, cache: str, environ: Mapping[str, str]) -> None:
    """One `vlq run` to its end. Raises AssertionError with what it said if it fails."""
    process = start(model, images, cache, "--workers", "1", env=os.environ | environ)
    out, said = process.communicate(timeout=550)
    assert process.returncode == 0, said
    secret = environ.get("AWS_SECRET_ACCESS_KEY")
    assert secret is None or secret not in out + said


def objects_of(bucket: str, folder: str, environ: Mapping[str, str]) -> dict[str, bytes]:
    """What lies in a bucket's folder, as Amazon's client sees it."""
    s3 = client(environ)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    return {key.removeprefix(f"{folder}/"): s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@dataclass(frozen=True)
class Outcome:
    """Two runs over the same images in a bucket, one on a good day and one on a bad one."""

    bucket: str
    good: dict[str, bytes]  # in the folder `good`
    bad: dict[str, bytes]  # in the folder `bad`
    seconds: tuple[float, float]

    @property
    def differing(self) -> list[str]:
        return sorted(key for key in {*self.good, *self.bad} if self.good.get(key) != self.bad.get(key))


def compared(
    model: Path,
    images: Path,
    environ: Mapping[str, str],
    faults: Faults,
    good: Callable[[Path, str, str, Mapping[str, str]], None] = run,
) -> Outcome:
    """Run twice against the server that `environ` names, the second time through `faults`. `good`: who has the good
    day."""
    bucket = new_bucket(environ)
    for path in sorted(images.iterdir()):
        client(environ).put_object(Bucket=bucket, Key=f"images/{path.name}", Body=path.read_bytes())
    seconds = []
    for folder, made, who in (("good", Faults(), good), ("bad", faults, run)):
        with faulty(environ["AWS_ENDPOINT_URL"], made) as proxy:
            began = time.monotonic()
            who(
                model,
                f"s3://{bucket}/images",
                f"s3://{bucket}/{folder}",
                {**environ, **PATIENCE, "AWS_ENDPOINT_URL": proxy},
            )
            seconds.append(time.monotonic() - began)
    left = [objects_of(bucket, folder, environ) for folder in ("good", "bad")]
    return Outcome(bucket, left[0], left[1], (seconds[0], seconds[1]))


def storm(work: Path, seed: int, images: int) -> Iterator[tuple[str, Faults, Outcome]]:
    """What goes wrong, of a run into moto's server: every kind at once, then each alone, at 5% of the requests; answers
    of puts that are lost at 20%; listings that lag by two seconds."""
    model, folder = make_model(work / "model"), save_images(work / "images", images)
    days = {"every kind, listings lag": Faults(share=0.05, seed=seed, lag=2.0)}
    days |= {kind: Faults(share=0.2 if kind == "answer lost" else 0.05, kinds=(kind,), seed=seed) for kind in FAULTS}
    days["listings lag"] = Faults(lag=2.0, seed=seed)
    with moto_server() as endpoint:
        for name, faults in days.items():
            yield name, faults, compared(model, folder, environment(endpoint), faults)
