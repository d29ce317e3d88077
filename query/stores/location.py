"""What a URL of object storage says: the bucket, the prefix, and the options behind its `?`.

Secrets are not among them. A URL is printed, logged and stored with a plan; secrets come from the environment.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl, unquote, urlsplit

from vlq.query.errors import StoreError

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
}
"""What is reached through obstore, and the kind of its server."""

OPTIONS = {
    "s3": {
        "endpoint": "aws_endpoint_url_s3",  # what else the environment may say of it gives way
        "region": "region",
        "profile": "profile",
        "anonymous": "skip_signature",
        "virtual_hosted": "virtual_hosted_style_request",
        "requester_pays": "request_payer",
    },
    "gs": {"endpoint": "base_url", "anonymous": "skip_signature"},
    "az": {"endpoint": "endpoint", "account": "account_name", "anonymous": "skip_signature"},
}
"""By kind of server: an option's name in a URL, and in obstore's configuration."""

FLAGS = ("anonymous", "virtual_hosted", "requester_pays")

VARIABLES = {
    "s3": "$AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY and $AWS_SESSION_TOKEN",
    "gs": "$GOOGLE_APPLICATION_CREDENTIALS",
    "az": "$AZURE_STORAGE_ACCOUNT_KEY or $AZURE_STORAGE_SAS_TOKEN",
}
"""Where credentials are looked for first, by kind of server."""

_URL = re.compile(r"([A-Za-z][\w+.-]+):/")

SECRET = re.compile(r"key|secret|token|passw|credential|signature|^sig$|^sas", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A parsed URL."""

    kind: str  # s3, gs or az
    host: str  # as the URL has it: the bucket, or Azure's container@account.domain
    bucket: str
    prefix: str
    account: str | None  # of Azure, where the URL has it as its host
    options: dict[str, str]  # by their names in a URL
    plain: str  # the URL without its options

    def configuration(self) -> dict[str, str]:
        """The options as obstore names them, `profile` left out."""
        configuration = {OPTIONS[self.kind][name]: value for name, value in self.options.items() if name != "profile"}
        if self.account is not None:
            configuration["account_name"] = self.account
        return configuration


ONE_SLASH = "{} has one slash behind its scheme."


def is_url(text: str) -> bool:
    """Whether a text looks like a URL, be it with one slash alone behind its scheme."""
    return _URL.match(text) is not None


def with_slashes(path: str) -> str | None:
    """The URL that is meant by one which has a single slash behind its scheme, as paths of Python make it."""
    found = _URL.match(path)
    if found is None or path.startswith("//", found.end() - 1):
        return None
    import fsspec

    scheme = found[1].lower()
    if scheme not in SCHEMES and scheme not in fsspec.available_protocols():
        return None
    return f"{scheme}:{'//' if scheme == 'file' else '/'}{path[found.end() - 1 :]}"


def path_here(url: str) -> str | None:
    """The path on this machine that a path or a `file://` URL names; None of any other URL.

    A URL may be percent-encoded, and need not be: what is there under the name as it is written comes first. Raises
    StoreError of a URL with one slash.
    """
    scheme, mark, path = url.partition("://")
    if not mark:
        if meant := with_slashes(url):
            raise StoreError(ONE_SLASH.format(url), f"Did you mean {meant}? A folder of that name is ./{url}")
        return url
    if scheme.lower() != "file":
        return None
    path = path.removeprefix("localhost")
    decoded = unquote(path)
    if decoded == path or os.path.lexists(path):
        return path
    is_as_written = os.path.isdir(os.path.dirname(path)) and not os.path.isdir(os.path.dirname(decoded))
    return path if is_as_written else decoded


def kind_of(url: str) -> str | None:
    """s3, gs or az; None if the URL is of none of them."""
    scheme, mark, _ = url.partition("://")  # of a glob with brackets urllib says that it is no URL
    return SCHEMES.get(scheme.lower()) if mark else None


def without_options(url: str) -> str:
    """The URL up to its options, if it is of object storage; any other path or URL as it is."""
    return apart(url)[0] if kind_of(url) else url


def apart(url: str) -> tuple[str, str]:
    """A URL of object storage up to its options, and these: what is behind its last `?`, so that a key with one in it
    is followed by another."""
    head, mark, options = url.rpartition("?")
    return (head, options) if mark else (url, "")


def locate(url: str) -> Location:
    """Raises StoreError if the URL names no bucket, has a secret in it, or an option that there is none of."""
    refuse_secrets(url)
    kind = kind_of(url)
    assert kind is not None
    head, query = apart(url)
    scheme, _, path = head.partition("://")
    host, _, prefix = path.partition("/")
    bucket, _, domain = host.partition("@")  # abfss://container@account.dfs.core.windows.net/prefix
    if not bucket:
        raise StoreError(f"{url} names no bucket.", f"Such as {scheme}://bucket/folder")
    account = domain.split(".")[0] if domain and kind == "az" else None
    return Location(kind, host, bucket, prefix.strip("/"), account, _options(kind, head, query), head.rstrip("/"))


def _options(kind: str, url: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS[kind]:
            near = get_close_matches(name, OPTIONS[kind], 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise StoreError(
                f"{url}?{name}=… has an unknown option: {name}.",
                f"{hint}There are {', '.join(OPTIONS[kind])}. A ? that is part of a name is followed by another one at "
                "the URL's end.",
            )
        if name in FLAGS and value not in ("true", "false"):
            raise StoreError(f"{url}?{name}={value}: expected true or false, got {value!r}.", f"Such as ?{name}=true")
        if name == "endpoint" and urlsplit(value).scheme not in ("http", "https"):
            raise StoreError(
                f"{url}?endpoint={value}: expected an http:// or https:// URL, got {value!r}.",
                "Such as ?endpoint=http://localhost:9000",
            )
        options[name] = value.rstrip("/") if name == "endpoint" else value
    return options


def refuse_secrets(url: str) -> None:
    """Raises StoreError if there is a password or a key in the URL, which the message does not repeat."""
    head, _, query = url.partition("?")
    scheme, _, path = head.partition("://")
    kind = SCHEMES.get(scheme.lower())
    user, at, _ = path.partition("/")[0].rpartition("@")
    found = [name for name, value in parse_qsl(query) if value and SECRET.search(name)] if kind else []
    nested = any("@" in urlsplit(value).netloc for _, value in parse_qsl(query)) if kind else False
    if not (at and ":" in unquote(user)) and not found and not nested:
        return
    shown = f"{scheme}://{path[len(user) + 1 :] if at and ':' in unquote(user) else path}"
    where = f"{VARIABLES[kind]}" if kind else f"$FSSPEC_{scheme.upper()}_USERNAME and $FSSPEC_{scheme.upper()}_PASSWORD"
    what = f"?{found[0]}=" if found else "what stands before its @"
    raise StoreError(
        f"A URL is no place for secrets: it is shown and stored. {shown} was given with one ({what}).",
        f"Leave it out and set {where}.",
    )
