"""What a URL of object storage may say, and that no secret is ever shown."""

from __future__ import annotations

import logging
import shutil
import traceback
from pathlib import Path

import pytest

import vlq
from vlq.query.answers.files import write_whole
from vlq.query.errors import NoCache, StoreError, VlqError
from vlq.query.image.tables import read_table
from vlq.query.store import ObstoreStore, open_store
from vlq.query.stores.location import OPTIONS, locate
from vlq.workers.corpus import list_images

from ..s3 import SECRET, client, environment, new_bucket
from ..synthetic import make_cache


def test_locations() -> None:
    here = locate("s3://bucket/a b/c%20d/?endpoint=http://localhost:9000/&region=eu-west-1&anonymous=true")
    assert (here.kind, here.bucket, here.prefix, here.plain) == ("s3", "bucket", "a b/c%20d", "s3://bucket/a b/c%20d")
    assert here.configuration() == {
        "aws_endpoint_url_s3": "http://localhost:9000",
        "region": "eu-west-1",
        "skip_signature": "true",
    }
    there = locate("abfss://tests@account.dfs.core.windows.net/x/y")
    assert (there.kind, there.bucket, there.prefix) == ("az", "tests", "x/y")
    assert there.configuration() == {"account_name": "account"}
    assert locate("gcs://bucket").kind == locate("gs://bucket").kind == "gs"


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("s3://bucket/x?endpoint_url=http://h", "unknown option: endpoint_url", "Did you mean endpoint?"),
        ("s3://bucket/x?reigon=eu", "unknown option: reigon", "Did you mean region?"),
        ("gs://bucket/x?region=eu", "unknown option: region", "There are endpoint, anonymous"),
        ("s3://bucket/x?endpoint=localhost:9000", "expected an http:// or https:// URL", "localhost:9000"),
        ("s3://bucket/x?anonymous=yes", "expected true or false, got 'yes'", r"\?anonymous=true"),
        ("s3:///x", "names no bucket", "s3://bucket/folder"),
        ("az://container/x", "the storage account is not known", r"\?account=NAME"),
    ],
)
def test_mistakes(url: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(url)
    with pytest.raises(StoreError, match=hint):
        raise caught.value


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        (f"s3://AKIA:{SECRET}@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        (f"s3://bucket/x?secret_access_key={SECRET}", "AWS_SECRET_ACCESS_KEY"),
        (f"s3://bucket/x?access_key_id={SECRET}&region=eu", "AWS_ACCESS_KEY_ID"),
        (f"s3://bucket/x?session_token={SECRET}", "AWS_SESSION_TOKEN"),
        (f"s3://bucket/x?endpoint=http://me:{SECRET}@host", "AWS_SECRET_ACCESS_KEY"),
        (f"az://container/x?sig={SECRET}", "AZURE_STORAGE_SAS_TOKEN"),
        (f"az://container/x?account_key={SECRET}", "AZURE_STORAGE_ACCOUNT_KEY"),
        (f"gs://bucket/x?service_account_key={SECRET}", "GOOGLE_APPLICATION_CREDENTIALS"),
        (f"sftp://me:{SECRET}@host/x", "FSSPEC_SFTP_PASSWORD"),
        (f"ftp://me:{SECRET}@host/x", "FSSPEC_FTP_PASSWORD"),
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str, variable: str) -> None:
    with pytest.raises(StoreError, match="no place for secrets") as caught:
        open_store(url)
    assert variable in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["gs://bucket/x", "gs://bucket/x?endpoint=http://127.0.0.1:1&anonymous=true"])
def test_google_opens_as_s3_does(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, ObstoreStore)
    assert store._backend.prefix == "x"


@pytest.mark.parametrize("url", ["az://tests/y?account=mine", "abfss://tests@mine.dfs.core.windows.net/y"])
def test_azure_opens_as_s3_does(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, ObstoreStore)
    assert repr(store._backend) == 'AzureStore(container_name="tests", account_name="mine", prefix="y")'


def test_every_option_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    values = {"endpoint": "http://127.0.0.1:1", "region": "eu", "profile": "mine", "account": "a"}
    for kind, options in OPTIONS.items():
        for name in options:
            query = f"?{name}={values.get(name, 'true')}" + ("&account=a" if kind == "az" and name != "account" else "")
            assert open_store(f"{kind}://bucket/x{query}").url.endswith(query)


def test_options_come_before_the_environment(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = environment(moto)
    bucket = new_bucket(environ)
    for name, value in (environ | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}).items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{bucket}/x?endpoint={moto}&region=us-east-1")
    assert store.create("key", b"x")
    assert client(environ).get_object(Bucket=bucket, Key="x/key")["Body"].read() == b"x"


def test_a_profile_gives_the_credentials(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ = environment(moto)
    bucket = new_bucket(environ)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert open_store(f"s3://{bucket}/x?endpoint={moto}&profile=mine").create("key", b"x")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert open_store(f"s3://{bucket}/x?endpoint={moto}").read("key") == b"x"
    with pytest.raises(StoreError, match="The profile yours cannot be used"):
        open_store(f"s3://{bucket}/x?profile=yours")


def test_no_message_holds_a_secret(
    moto: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2024-11-04&sig={SECRET}")
    said = []
    for url in ("s3://no-such-bucket/x", f"az://none/x?endpoint={moto}", f"gs://none/x?endpoint={moto}&anonymous=true"):
        store = open_store(url)
        said += [repr(store), store.url]
        for call in (lambda: store.read("k"), lambda: store.create("k", b"x"), lambda: list(store.list())):  # noqa: B023
            try:
                call()
            except (StoreError, FileNotFoundError) as error:
                said.append("".join(traceback.format_exception(error)))
    out, err = capfd.readouterr()
    assert len(said) > 9
    assert SECRET not in "".join([*said, caplog.text, out, err])


def test_an_archive_may_hold_a_cache_at_its_root(tmp_path: Path) -> None:
    """Of zip's file system paths there begin with no /."""
    make_cache(tmp_path / "cache", images=5)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "cache")
    corpus, expected = vlq.open(f"zip://::{archive}"), vlq.open(tmp_path / "cache")
    assert corpus.info()["images"] == 5
    assert corpus.first_layer("dog").rows == expected.first_layer("dog").rows


def test_what_is_not_there_or_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"Cannot open zip://.*: File is not a zip file"):
        vlq.open(f"zip://::{tmp_path}/broken.zip")
    with pytest.raises(NoCache):
        vlq.open(f"zip://::{tmp_path}/none.zip")
    with pytest.raises(StoreError, match="Cannot open ftp://"):
        vlq.open("ftp://127.0.0.1:9/cache")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("s3:/bucket/cache", "s3://bucket/cache"),
        ("GS:/bucket/cache", "gs://bucket/cache"),
        ("abfss:/box@me.dfs.core.windows.net/a", "abfss://box@me.dfs.core.windows.net/a"),
        ("file:/data/cache", "file:///data/cache"),
        ("https:/host/corpus", "https://host/corpus"),
        ("hf:/datasets/a/b", "hf://datasets/a/b"),
    ],
)
def test_one_slash_is_no_folder(given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cache, as images, as a manifest, in one, and as what is annotated with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / given).mkdir(parents=True)  # an older VLQ made one
    (tmp_path / "list.csv").write_text(f"image\na.png\n{given}/b.png\n")
    for take in (
        lambda: open_store(given, create=True),
        lambda: vlq.open(given),
        lambda: vlq.open(Path(given)),
        lambda: list_images(given),
        lambda: list_images(f"{given}/list.csv"),
        lambda: list_images("list.csv"),
        lambda: read_table(f"{given}/list.csv"),
    ):
        with pytest.raises(VlqError) as caught:
            take()
        assert "has one slash behind its scheme" in caught.value.message
        assert f"Did you mean {meant}" in str(caught.value.hint)
    with pytest.raises(StoreError, match="is a URL, and files are written to this machine"):
        write_whole(f"{given}/answer.csv", b"", "--output")
    assert open_store(f"./{given}").list() is not None


def test_other_names_with_colons_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run:/cache", "a:b", "2026-11-27T10:/x", "x/s3:/b"):
        assert open_store(name, create=True).create("key", b"1")
        assert (tmp_path / name / "key").read_bytes() == b"1"


def test_a_folders_url_may_be_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "my cache%41"
    made = open_store(folder.as_uri(), create=True)
    assert folder.is_dir()
    assert made.create("a", b"1")
    for url in (folder.as_uri(), f"file://{folder}", f"file://localhost{folder}", str(folder)):
        assert open_store(url).read("a") == b"1"
    for path in (str(folder).replace(" ", "%20"), "file:///a%00b", "a\0b"):
        with pytest.raises(FileNotFoundError):
            open_store(path)
