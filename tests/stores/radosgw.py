"""A real S3 server for a while: Ceph's radosgw over one monitor and one object store in memory.

Everything lies in a temporary folder, listens on 127.0.0.1 alone and is gone afterwards; the credentials are made up
anew each time.

    python tests/stores/radosgw.py COMMAND ...      # runs COMMAND with the server's address in its environment
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
HOW_TO_INSTALL = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd"
PATIENCE = 120
"""Seconds for a step of the start."""


def lacking() -> list[str]:
    """Programs of the server that are not on this machine."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment variables under which clients reach the server."""
    with tempfile.TemporaryDirectory(prefix="vlq-radosgw-") as name:
        folder = Path(name)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            yield _start(folder, processes)
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGKILL)  # nothing of it is to be kept
                process.wait()


def _start(folder: Path, processes: list[subprocess.Popen[bytes]]) -> dict[str, str]:
    monitor, gateway = _free_ports(2)
    cluster = str(uuid.uuid4())
    configuration = folder / "ceph.conf"
    configuration.write_text(
        f"""
[global]
fsid = {cluster}
mon host = v2:127.0.0.1:{monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
run dir = {folder}
admin socket = {folder}/$name.sock
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
crash dir = {folder}
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
mon allow pool size one = true
mon data avail crit = 1
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.radosgw]
rgw data = {folder}/rgw
keyring = {folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw enable usage log = false
rgw thread pool size = 32
"""
    )

    def call(*command: str) -> None:
        done = subprocess.run(
            [command[0], "-c", str(configuration), *command[1:]], capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")

    def start(*command: str) -> None:
        with open(folder / f"{command[0]}.out", "wb") as out:
            processes.append(
                subprocess.Popen(
                    [command[0], "-c", str(configuration), *command[1:], "-f"], stdout=out, stderr=out, cwd=folder
                )
            )

    (folder / "osd").mkdir()
    (folder / "rgw").mkdir()
    (folder / "keyring").touch()
    monmap = str(folder / "monmap")
    call("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "--fsid", cluster, monmap)
    call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    start("ceph-mon", "-i", "a")
    osd = str(uuid.uuid4())
    call("ceph", "osd", "new", osd, "0")
    call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    start("ceph-osd", "-i", "0")
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{gateway}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
    }
    keys = [
        f"--access-key={environment['AWS_ACCESS_KEY_ID']}",
        f"--secret-key={environment['AWS_SECRET_ACCESS_KEY']}",
    ]
    call("radosgw-admin", "user", "create", "--uid=vlq", "--display-name=vlq", *keys)
    start("radosgw", "-n", "client.radosgw")
    _await(environment["AWS_ENDPOINT_URL"], processes[-1], folder)
    return environment


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def _await(url: str, server: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                said = (folder / "radosgw.out").read_text(errors="replace")
                raise RuntimeError(f"radosgw does not start: {said[-2000:]}") from None
            time.sleep(0.2)


def main(command: Sequence[str]) -> int:
    if missing := lacking():
        print(f"No real S3 server here: {', '.join(missing)} not found. Install it: {HOW_TO_INSTALL}", file=sys.stderr)
        return 1
    began = time.monotonic()
    with running() as environment:
        print(f"radosgw answers after {time.monotonic() - began:.0f} s.", file=sys.stderr)
        return subprocess.run(list(command), env=os.environ | environment | {"VLQ_TEST_RADOSGW": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
