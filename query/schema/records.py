"""The bytes of records: canonical JSON that carries its format and its checksum."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vlq.query.errors import CorruptCache, NewerFormat, OlderFormat

FORMAT = 3

NEWER = "Install a newer VLQ: git pull in its clone, and pip install it from there again."

_CHECKSUM = re.compile(rb'(?<=\n) "checksum": "[0-9a-f]{64}",\n')
"""The line of a record that `to_json` writes of it: those of what is in the record stand further in."""


def digest_of(data: bytes) -> str:
    """The SHA-256 of stored bytes, as hex. The first 16 digits name things, all 64 check them."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Any) -> bytes:
    """Canonical JSON: the same value gives the same bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def record_bytes(values: Mapping[str, Any]) -> bytes:
    """A record as JSON that carries the checksum of all else in it."""
    return to_json({**values, "checksum": digest_of(to_json(values))})


def parse_record(data: bytes, where: str, of: type) -> dict[str, Any]:
    """The values of a record, of such a dataclass' fields.

    Raises CorruptCache if they are not those that were written, NewerFormat, OlderFormat.
    """
    values = parse_json(data, where)
    check_format(values, where)
    checksum = values.pop("checksum", None)
    # A record as it was written is its checksum's JSON with a line more.
    if checksum != digest_of(_CHECKSUM.sub(b"", data, count=1)):
        raise CorruptCache(f"{where} is not what was written.", "Run: vlq verify")
    check_fields(values, where, of)
    return values


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CorruptCache(f"{where} is not readable: {error}.", "Run: vlq verify") from error
    if not isinstance(values, dict):
        raise CorruptCache(f"{where} is not a record.", "Run: vlq verify")
    return values


def check_format(values: Mapping[str, Any], where: str) -> None:
    """Raises NewerFormat or OlderFormat if the record was written by a VLQ whose caches this one cannot read."""
    found = values.get("format")
    if not isinstance(found, int):
        raise CorruptCache(f"{where} names no format.", "Is this a VLQ cache?")
    if found > FORMAT:
        raise NewerFormat(f"{where} is of format {found}; this VLQ reads up to {FORMAT}.", NEWER)
    if found < FORMAT:
        raise OlderFormat(
            f"{where} is of format {found}, an older VLQ's; this one reads {FORMAT}.",
            "Make the cache anew: the same `vlq run` with another --cache.",
        )


def check_fields(values: Mapping[str, Any], where: str, of: type) -> None:
    """Raises NewerFormat if a record has fields that a dataclass lacks: without them the others may mislead."""
    unknown = set(values) - {field.name for field in fields(of)}
    if unknown:
        raise NewerFormat(f"{where} has {', '.join(sorted(unknown))}, which this VLQ does not know.", NEWER)
