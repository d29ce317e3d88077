"""A whole run over a server that fails at a share of the requests ends with the bytes of an undisturbed one.

python -m tests.storm.objects [--images 60] [--share 0.05] [--seed 0] [--rounds 1]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..faults import Faults, faulty
from ..s3 import client, environment, moto_server, new_bucket
from ..workers.conftest import make_model, save_images

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"
PATIENCE = {"AWS_CONNECT_TIMEOUT": "2s", "AWS_READ_TIMEOUT": "2s"}
"""A server that is silent for 3 seconds has timed out."""


def run(model: Path, images: str, cache: str, environ: Mapping[str, str], *more: str) -> None:
    """One `vlq run` to its end. Raises AssertionError with what it said if it fails."""
    options = ["--model", str(model), "--cache", cache, "--prompt", PROMPT, "--k", "4", "--workers", "1"]
    options += ["--shard-size", "2", "--batch-size", "2", *more]
    vlq("run", images, *options, environ=environ)


def vlq(*arguments: str, environ: Mapping[str, str]) -> str:
    """What a command of `vlq` prints. Raises AssertionError with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "vlq.query.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    secret = environ.get("AWS_SECRET_ACCESS_KEY")
    assert secret is None or secret not in done.stdout + done.stderr
    return done.stdout


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


def compared(model: Path, images: Path, environ: Mapping[str, str], faults: Faults) -> Outcome:
    """Run twice against the server that `environ` names, the second time through `faults`."""
    bucket = new_bucket(environ)
    for path in sorted(images.iterdir()):
        client(environ).put_object(Bucket=bucket, Key=f"images/{path.name}", Body=path.read_bytes())
    seconds = []
    for folder, made in (("good", Faults()), ("bad", faults)):
        with faulty(environ["AWS_ENDPOINT_URL"], made) as proxy:
            began = time.monotonic()
            run(
                model,
                f"s3://{bucket}/images",
                f"s3://{bucket}/{folder}",
                {**environ, **PATIENCE, "AWS_ENDPOINT_URL": proxy},
            )
            seconds.append(time.monotonic() - began)
    good, bad = (objects_of(bucket, folder, environ) for folder in ("good", "bad"))
    return Outcome(bucket, good, bad, (seconds[0], seconds[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--lag", type=float, default=2.0, help="seconds by which listings lag behind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name, moto_server() as endpoint:
        model = make_model(Path(name, "model"))
        images = save_images(Path(name, "images"), given.images)
        print("| seed | requests | faults | seconds, on a good day | seconds | same bytes |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seed in range(given.seed, given.seed + given.rounds):
            faults = Faults(share=given.share, seed=seed, lag=given.lag)
            outcome = compared(model, images, environment(endpoint), faults)
            happened = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.happened.items()))
            usual, took = outcome.seconds
            row = (seed, faults.requests.total(), happened, f"{usual:.0f}", f"{took:.0f}", not outcome.differing)
            print("|", " | ".join(map(str, row)), "|", flush=True)
            if outcome.differing:
                print(f"differing: {', '.join(outcome.differing)}", file=sys.stderr)
                failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
