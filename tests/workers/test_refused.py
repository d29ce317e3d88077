"""What a storage does not let a run do is said in one message, leaves nothing half-visible, and is gone on from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlq.query.commands import status
from vlq.query.errors import StoreError
from vlq.query.schema import Commit
from vlq.query.store import open_store

from ..faults import Faults, faulty
from ..s3 import environment, moto_server, new_bucket
from ..storm.objects import objects_of
from .conftest import IMAGES
from .here import printed
from .runs import commits, contents, run_of, start

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy


def test_a_shard_that_cannot_be_read_is_given_up_and_named(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    shutil.copytree(images, folder)
    gone = tmp_path / "gone"  # as of a mount that went away, which says nothing about its images
    places = {path: gone / path.name if path.name in ("0006.png", "0021.png") else path for path in folder.iterdir()}
    manifest = tmp_path / "all.csv"
    manifest.write_text("\n".join(["image", *(str(places[path]) for path in sorted(places))]))
    process = start(tiny_model, manifest, cache, "--workers", "1")
    _, said = process.communicate(timeout=250)
    assert process.returncode == 2
    assert said.splitlines()[-4:] == [
        "vlq: 2 shards were given up:",
        f"  shard 3, tried 4 times: {gone}: No such folder",
        f"  shard 10, tried 4 times: {gone}: No such folder",
        "The same command tries again what is missing; the rest is cached. vlq status shows which.",
    ]
    assert re.search(r"Shard 3: .*: No such folder; tried again in [01]\.\d s or later\.", said)
    assert commits(cache) == IMAGES // 2 - 2

    status(str(cache))
    shown = capsys.readouterr().out
    assert "shards   29 of 31 committed" in shown
    assert "missing  2 shards: 3, 10" in shown
    status(str(cache), format="json")
    values = json.loads(capsys.readouterr().out)
    assert values["missing"] == {"shards": 2, "ranges": [[3, 3], [10, 10]]}
    assert (values["images"], values["cached"], values["errors"]) == (IMAGES, IMAGES - 4, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=900k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(tiny_model: Path, images: Path, undisturbed: Path, small_disk: Path) -> None:
    cache = small_disk / "cache"
    message, hint = refused(start(tiny_model, images, cache, "--workers", "1"))
    assert message.endswith(": no space left on the device.")
    assert hint == "Free some space and run the same command again: it goes on."
    assert 0 < commits(cache) < IMAGES // 2
    assert_only_whole_shards(contents(cache), contents(undisturbed))

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="the file system is read-only"):
        open_store(str(cache)).create("commits/00000099.json", b"x")

    subprocess.run(["mount", "-o", "remount,rw,size=100M", small_disk], check=True)
    printed(*run_of(tiny_model, images, cache, "--workers", "1"))
    assert contents(cache) == contents(undisturbed)


def refused(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The last message of a run that its storage does not let go on, and the next step."""
    out, said = process.communicate(timeout=250)
    assert (process.returncode, out) == (2, "")
    assert "Traceback" not in said
    *_, cached, message, hint = said.splitlines()
    assert re.fullmatch(r"\d+ of \d+ images are cached\.", cached)  # said at once: no shard is tried again
    assert "tried again" not in said
    assert message.startswith("vlq: Cannot ")
    return message, hint


def assert_only_whole_shards(found: dict[str, bytes], undisturbed: dict[str, bytes]) -> None:
    """Nothing is there that would not be there at the end, and all is there that a record names."""
    assert {key: undisturbed.get(key) for key in found} == found
    records = [Commit.from_bytes(data, key) for key, data in found.items() if re.match(r"commits/\d", key)]
    assert {stored.key for record in records for stored in record.named} <= found.keys()


def test_credentials_that_expire(
    tiny_model: Path, images: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ten images: their shards have the bytes that they have among all."""
    of_ten = re.compile(r"(shards|images|postings|commits)/0000000[0-4]|[a-z]+\.")
    whole = {key: data for key, data in contents(undisturbed).items() if of_ten.match(key)}
    with moto_server() as endpoint, faulty(endpoint, faults := Faults()) as proxy:
        bucket = new_bucket(environment(endpoint))
        cache = f"s3://{bucket}/cache"
        for name, value in environment(proxy).items():
            monkeypatch.setenv(name, value)

        faults.expires = faults.requests.total() + 100
        run = tiny_model, images / "000?.png", cache, "--workers", "1"
        message, hint = refused(start(*run))
        assert re.fullmatch(rf"vlq: Cannot (read|write) {cache}/\S+: the credentials have expired\.", message)
        assert hint.startswith("Get new ones ($AWS_ACCESS_KEY_ID")
        assert hint.endswith("Then run the same command again: it goes on.")
        found = objects_of(bucket, "cache", environment(endpoint))
        assert 0 < sum(bool(re.match(r"commits/\d", key)) for key in found) < 5
        assert_only_whole_shards({key: data for key, data in found.items() if of_ten.match(key)}, whole)
        faults.expires = None

        printed(*run_of(*run))
        found = objects_of(bucket, "cache", environment(endpoint))
        assert {key: data for key, data in found.items() if of_ten.match(key)} == whole
