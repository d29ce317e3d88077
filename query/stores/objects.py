"""Local folders, memory, and object storage on S3, Google Cloud Storage and Azure, through obstore."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from vlq.query.errors import Forked, StoreError
from vlq.query.forks import check_process
from vlq.query.stores.contract import Entry, Store
from vlq.query.stores.location import VARIABLES, Location, locate
from vlq.query.stores.trouble import AGAIN, Answer, explained, missing_bucket

RETRIES = 8
"""How often obstore asks again where a server fails, throttles (500, 503, 429) or cannot be reached."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between tries, doubled from one to the next, each cut at random so that clients do not come in step."""

RETRY_FOR = 120.0
"""Seconds after which obstore gives up asking again."""

TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "10m"}
"""Of connecting, of waiting for anything to arrive, of a whole request. $AWS_READ_TIMEOUT and the like change them."""

ATTEMPTS = 4
"""How often a request is made whose connection breaks: what obstore does not repeat by itself, as puts may not be."""

CONFLICT = "ConditionalRequestConflict"
"""S3's answer where a delete of the key, or another put, is under way."""

Result = TypeVar("Result")


class ObstoreStore(Store):
    """What obstore reaches. `location` is of object storage, `root` of a local folder."""

    def __init__(self, url: str, backend: Any, location: Location | None = None, root: str | None = None) -> None:
        self.url = url
        self._backend = backend
        self._kind = location.kind if location else None
        self._shown = location.plain if location else url.rstrip("/")
        self._root = root

    def read(self, key: str) -> bytes:
        return self.read_at_most(key, sys.maxsize)[1]

    def read_at_most(self, key: str, most: int) -> tuple[int, bytes]:
        """The object's size, and its bytes unless these are more than `most`: in one request, whose answer begins with
        the size. Raises FileNotFoundError."""
        import obstore

        def get() -> tuple[int, bytes]:
            found = obstore.get(self._backend, key)
            size = int(found.meta["size"])
            return size, bytes(found.bytes()) if size <= most else b""

        with self._translated("read", key):
            return self._patiently(get)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        import obstore

        if start < 0 and length != -start:
            raise ValueError("a range from the end reads to the end")
        wanted: Any = {"suffix": length} if start < 0 else (start, start + length)
        with self._translated("read", key):
            if length and not (start < 0 and self._kind == "az"):  # Azure has no ranges from the end
                try:
                    return self._range(key, wanted)
                except obstore.exceptions.GenericError as error:
                    # Each has its own way to say that the range begins beyond the end, or the object is empty.
                    answer = Answer.of(error)
                    if answer.status not in (None, 416) or "HTTP error" in answer.text:
                        raise
            size = int(self._patiently(lambda: obstore.head(self._backend, key))["size"])
            first, last = max(0, size + start if start < 0 else start), size if start < 0 else min(size, start + length)
            return self._range(key, (first, last)) if first < last else b""

    def _range(self, key: str, wanted: Any) -> bytes:
        import obstore

        return self._patiently(lambda: bytes(obstore.get(self._backend, key, options={"range": wanted}).bytes()))

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError

        may_be_mine = False  # what is there: a try before went through, perhaps, and its answer was lost

        def put() -> bool | None:
            """None if it was neither put nor is there."""
            nonlocal may_be_mine
            try:
                # A multipart upload would not be create-only.
                obstore.put(self._backend, key, data, mode="create", use_multipart=False)
                return True
            except AlreadyExistsError as error:
                answer = Answer.of(error)
                if answer.code == CONFLICT:
                    return None
                may_be_mine = may_be_mine or answer.retries > 0
                if not may_be_mine:
                    return False
                try:
                    return bytes(obstore.get(self._backend, key).bytes()) == data
                except FileNotFoundError:
                    return None
            except GenericError:
                may_be_mine = True
                raise

        with self._translated("write", key):
            for attempt in range(ATTEMPTS):
                if (is_mine := self._patiently(put)) is not None:
                    return is_mine
                _wait(attempt)
            raise StoreError(
                f"Cannot write {self._shown}/{key}: the server says that it is there, and that it is not.",
                f"Somebody may be deleting it. {AGAIN}",
            )

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        import obstore

        def pages() -> list[Entry]:
            listing = obstore.list(self._backend, prefix or None, offset=after or None)
            return [
                Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for page in listing
                for meta in page
                if meta["path"] > after  # not every server knows where to begin
            ]

        with self._translated("list", prefix):
            found = self._patiently(pages)
        yield from sorted(found)

    def delete(self, key: str) -> None:
        import obstore

        with self._translated("delete", key):
            try:
                self._patiently(lambda: obstore.delete(self._backend, key))
            except FileNotFoundError as error:
                if missing_bucket(error):
                    raise

    def local_path(self, key: str) -> str | None:
        return None if self._root is None else os.path.join(self._root, *key.split("/"))

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """What `call` returns, made again while connections break off or time out. Raises Forked."""
        from obstore.exceptions import GenericError

        check_process()
        for attempt in range(ATTEMPTS - 1):
            try:
                return call()
            except GenericError as error:
                answer = Answer.of(error)
                if answer.status is not None or "HTTP error" not in answer.text or answer.retries >= RETRIES:
                    raise
                _wait(attempt)
        return call()

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        """FileNotFoundError passes, callers expect it; where it is the bucket that is not there, it is an error."""
        where = f"{self._shown}/{key}".rstrip("/")
        try:
            yield
        except (ValueError, StoreError, Forked):
            raise
        except FileNotFoundError as error:
            if not missing_bucket(error):
                raise
            raise explained(error, self._kind, where, verb) from error
        except Exception as error:
            raise explained(error, self._kind, where, verb) from error


def _wait(attempt: int) -> None:
    time.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * (0.5 + random.random() / 2))


def open_objects(url: str) -> ObstoreStore:
    """The store at an s3, gs or az URL. Raises StoreError if the URL or what the environment says cannot be."""
    from obstore import store as backends

    location = locate(url)
    configuration: dict[str, Any] = dict(location.configuration())
    prefix = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}[location.kind]
    for name, value in TIMEOUTS.items():
        configuration.setdefault(name, os.environ.get(f"{prefix}_{name.upper()}", value))
    if _endpoint(location).startswith("http://"):
        configuration["allow_http"] = "true"  # who says http:// means it
    options: dict[str, Any] = {
        "config": configuration,
        "prefix": location.prefix or None,
        "retry_config": {
            "max_retries": RETRIES,
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_WAIT),
                "max_backoff": timedelta(seconds=LONGEST_WAIT),
                "base": 2,
            },
            "retry_timeout": timedelta(seconds=RETRY_FOR),
        },
    }
    if location.kind == "s3" and (profile := _profile_for(location)):
        options["credential_provider"] = _profile(profile)
    backend = {"s3": backends.S3Store, "gs": backends.GCSStore, "az": backends.AzureStore}[location.kind]
    try:
        return ObstoreStore(url, backend(location.bucket, **options), location)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        hint = f"Check its options and the environment: {VARIABLES[location.kind]}."
        if "Account must be specified" in reason:
            reason = "the storage account is not known"
            hint = "Set $AZURE_STORAGE_ACCOUNT_NAME, or append ?account=NAME to the URL."
        raise StoreError(f"Cannot open {location.plain}: {reason.rstrip('.')}.", hint) from error


def _endpoint(location: Location) -> str:
    """Where requests go, as far as somebody says so."""
    variables = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_BASE_URL",),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }[location.kind]
    return location.options.get("endpoint") or next(filter(None, map(os.environ.get, variables)), "")


GIVEN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""Variables of the environment with one of which obstore needs no profile."""


def _profile_for(location: Location) -> str | None:
    """Whose credentials to read from ~/.aws, in the order in which Amazon's tools look. None: obstore finds some."""
    if profile := location.options.get("profile"):
        return profile
    if location.options.get("anonymous") == "true" or any(map(os.environ.get, GIVEN)):
        return None
    if profile := os.environ.get("AWS_PROFILE"):
        return profile
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
    try:
        with open(file, encoding="utf-8") as lines:
            return "default" if any(line.strip() == "[default]" for line in lines) else None
    except OSError:
        return None


def _profile(name: str) -> Any:
    """Credentials of a profile of ~/.aws, which obstore itself does not read. Raises StoreError."""
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise StoreError(
            f"The profile {name} cannot be read without boto3.",
            'Install it: pip install "vlq[aws]". Or set the variables that '
            f"`aws configure export-credentials --profile {name} --format env` prints, and unset $AWS_PROFILE.",
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=name))
    except Exception as error:
        raise StoreError(f"The profile {name} cannot be used: {error}.", "Check ~/.aws, or $AWS_PROFILE.") from error
