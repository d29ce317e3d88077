"""One message, with what to do next, for what a backend raises."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from errno import EDQUOT, ENOSYS, EOPNOTSUPP, EPERM

from vlq.query.errors import StoreError, StoreStopped
from vlq.query.stores.location import VARIABLES

AGAIN = "Then run the same command again: it goes on."

PERMISSIONS = {
    "read": "s3:GetObject, storage.objects.get or Storage Blob Data Reader",
    "write": "s3:PutObject, storage.objects.create or Storage Blob Data Contributor",
    "list": "s3:ListBucket, storage.objects.list or Storage Blob Data Reader",
    "delete": "s3:DeleteObject, storage.objects.delete or Storage Blob Data Contributor",
}
"""What one may lack, by what was to be done."""


@dataclass(frozen=True)
class Answer:
    """What a server's refusal says, taken out of the text of obstore's exception."""

    status: int | None
    code: str  # such as SlowDown; "" if there was none
    message: str
    text: str
    retries: int  # that obstore made before it gave up

    @classmethod
    def of(cls, error: Exception) -> Answer:
        # obstore appends a dump of its Rust error.
        text, _, dump = str(error).partition("\n\nDebug source:")
        status = re.search(r"status code: (\d{3})", text)
        code = re.search(r"<Code>(\w+)</Code>|\"code\": ?\"(\w+)\"", text)
        message = re.search(r"<Message>([^<]*)</Message>|\"message\": ?\"([^\"]*)\"", text)
        retries = re.search(r"after (\d+) retries", text)
        if "Timeout" in dump or "TimedOut" in dump:
            text += " timed out"
        return cls(
            int(status[1]) if status else None,
            next(filter(None, code.groups())) if code else "",
            next(filter(None, message.groups()), "") if message else "",
            text,
            int(retries[1]) if retries else 0,
        )


METADATA = ("169.254.169.254", "/latest/api/token", "/latest/meta-data", "computeMetadata", "performing token request")
"""In requests for the credentials that a machine in the cloud has of itself: the last that are looked for."""

NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
INVALID = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidClientTokenId",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "MissingSecurityHeader",
    "UnrecognizedClientException",
}
ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "IllegalLocationConstraint"}
THROTTLED = {"SlowDown", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ServerBusy", "rateLimitExceeded"}
FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "TooManyBuckets"}


HAS_EXPIRED = "the credentials have expired"
NOT_ACCEPTED = "the server does not accept the credentials"
IS_FULL = "the storage is full"
NO_SPACE = "no space left on the device"
OVER_QUOTA = "the disk quota is exceeded"
READ_ONLY = "the file system is read-only"
NO_LINKS = "the file system has no hard links, which keep writers apart"
STOPPED = {HAS_EXPIRED, NOT_ACCEPTED, IS_FULL, NO_SPACE, OVER_QUOTA, READ_ONLY, NO_LINKS}
"""Reasons that hold for whatever else is asked of the storage, until somebody sees to it."""


def explained(error: Exception, kind: str | None, where: str, verb: str) -> StoreError:
    """The error for an exception, StoreStopped where it would be the same of anything else.

    `kind` is s3, gs, az or None, `where` the object's URL without options, `verb` is read, write, list or delete;
    without a kind also open.
    """
    reason, hint = _explain(Answer.of(error), kind, verb) if kind else _explain_local(error)
    return (StoreStopped if reason in STOPPED else StoreError)(f"Cannot {verb} {where}: {reason}.", hint)


def missing_bucket(error: Exception) -> bool:
    """Whether it is the bucket that there is none of, and not just the object."""
    return Answer.of(error).code in NO_BUCKET


def _explain(answer: Answer, kind: str, verb: str) -> tuple[str, str]:
    """Reason and next step. The server's own message comes last: where nothing better is known."""
    status, code, text = answer.status, answer.code, answer.text
    if any(sign in text for sign in METADATA):
        return "there are no credentials", _credentials(kind)
    if code in NO_BUCKET:
        return "there is no such bucket", "Check its name, endpoint and region; VLQ does not make buckets."
    if code in EXPIRED or "expired" in answer.message.lower():
        return HAS_EXPIRED, f"Get new ones ({VARIABLES[kind]}). {AGAIN}"
    if code in INVALID or status == 401:
        return NOT_ACCEPTED, f"Check {VARIABLES[kind]}, and the endpoint. {AGAIN}"
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is wrong", f"Set the clock. {AGAIN}"
    if code in ELSEWHERE or status in (301, 307, 308) or "Received redirect" in text:
        return "the bucket is in another region", "Set $AWS_REGION, or append ?region=NAME to the URL."
    if code in FULL or status == 507:
        return IS_FULL, f"Free some space, or raise the quota. {AGAIN}"
    if status == 403:
        return f"no permission to {verb}", f"It takes {PERMISSIONS[verb]}. {AGAIN}"
    if code in THROTTLED or status in (429, 503):
        return (
            f"the server goes on asking for fewer requests ({status} {code or 'Service Unavailable'})",
            f"Wait, or use fewer --workers. {AGAIN}",
        )
    if code == "NotImplemented" or status == 501:
        return (
            "the server does not know conditional requests (If-None-Match), which keep writers apart",
            "Use a server that does: AWS S3, Ceph, MinIO, R2, Google Cloud Storage, Azure.",
        )
    if "invalid path" in text:
        return _first_line(text).rpartition("invalid path: ")[2], (
            "Keys with empty parts or control characters are not read: move that object away, or give a manifest of "
            "the others."
        )
    if status is not None and status >= 500:
        return f"the server fails again and again ({status} {code})".replace(" )", ")"), f"Wait. {AGAIN}"
    if "timed out" in text:
        return "the server did not answer in time", f"Check the endpoint and the network. {AGAIN}"
    if status is None and ("HTTP error" in text or "error sending" in text):
        return "the server cannot be reached, or breaks off", f"Check the endpoint and the network. {AGAIN}"
    said = answer.message or (f"the server answered {status} {code}".strip() if status else _first_line(text))
    return said.rstrip("."), f"Check the URL and its options, and {VARIABLES[kind]}."


def _credentials(kind: str) -> str:
    public = " For a public bucket append ?anonymous=true to the URL."
    return f"Set {VARIABLES[kind]}{', or $AWS_PROFILE' if kind == 's3' else ''}.{public}"


def _explain_local(error: Exception) -> tuple[str, str]:
    """Of this machine's disk, of memory, and of what fsspec reaches."""
    text = str(error)
    if "No space left" in text or "StorageFull" in text or "os error 28" in text:
        return NO_SPACE, "Free some space and run the same command again: it goes on."
    if f"os error {EDQUOT}" in text or os.strerror(EDQUOT) in text:
        return OVER_QUOTA, f"Free some space, or have the quota raised. {AGAIN}"
    # A new object is linked to its name, and a file system says in one of these ways that it has no links.
    if "Unable to rename file" in text and re.search(rf"os error (?:{EPERM}|{ENOSYS}|{EOPNOTSUPP})\)", text):
        return NO_LINKS, "Choose another place: FAT, exFAT and some network folders have none."
    if "ermission denied" in text:
        return "permission denied", "Check that you may read and write there."
    if "Read-only file system" in text:
        return READ_ONLY, "Choose another place, or mount it for writing."
    return _first_line(text) or type(error).__name__, "Check the URL, its credentials and your permission to it."


def _first_line(text: str) -> str:
    """Without the queries of URLs, which may hold a signature."""
    lines = text.partition("\n\nDebug source:")[0].strip().splitlines()
    return re.sub(r"\?\S+", "?…", lines[0]).rstrip(".") if lines else ""
