"""What a store says of a file: its size, and what tells whether it is still the same. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, NamedTuple

_DIGESTS = ("content-md5", "digest", "md5hash", "content_md5", "crc32c", "checksum", "xet_hash", "blob_id", "etag")
_VERSIONS = ("versionid", "version_id", "generation", "lastmodified", "last-modified", "last_modified", "updated")
_TIMES = ("mtime", "modified", "timemodified", "modification_time", "created")
"""What listings call it, in small letters. Checksums come first: an ETag may change with a description."""


class RemoteFacts(NamedTuple):
    """Of a file: `size` in bytes, None if the server does not say it; `tag`: what the store knows its content by (an
    ETag, a checksum, else a version or the time of writing), None if it has none of these."""

    size: int | None
    tag: str | None


def to_facts(info: dict[str, Any]) -> RemoteFacts:
    """Of what an implementation says of a file."""
    size = info.get("size")
    own = {str(key).lower(): value for key, value in info.items() if value not in (None, "")}
    lfs = own.get("lfs")
    if isinstance(lfs, dict) and lfs.get("sha256"):
        own["digest"] = lfs["sha256"]
    for key in (*_DIGESTS, *_VERSIONS, *_TIMES):
        value = own.get(key)
        if key in _TIMES and isinstance(value, (int, float)):
            value = datetime.fromtimestamp(value, timezone.utc)
        if isinstance(value, datetime):
            value = value.isoformat()
        if isinstance(value, (str, int, float)):
            is_content = key in _DIGESTS
            return RemoteFacts(size, f"{key} {value}" if is_content else f"{key} {value}, {size} bytes")
    return RemoteFacts(size, None)
