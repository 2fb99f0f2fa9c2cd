"""Addresses of remote files (`s3://bucket/folder`) as people write them: what is one, and which would give a secret
away. Pure.

An address is written into the dataset and the log. So none with a password or a signature in it is taken, and what a
library says of an address is shown without them.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from interlace_cli.errors import UsageError

WEB = ("http", "https")
PORT, MOST_WORDS = 5, 300
"""Digits of a port, and characters of what a library says."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(?=[^/\s])")
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_LOGIN = re.compile(r"(?<=//)[^/\s'\"@:]*(:[^\s'\"@]*)?@")
"""A password may have a slash in it."""
_QUERY = re.compile(r"(?<=[^\s'\"?])\?[^\s'\",)>]*")
_ADVICE = {
    "s3": "Credentials are taken from the environment (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY);"
    " for a public bucket set FSSPEC_S3_ANON=true.",
    "gs": "Credentials are taken from the environment (GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth"
    " application-default login`); for a public bucket set FSSPEC_GS_TOKEN=anon.",
    "hf": "Set HF_TOKEN or run `hf auth login`, and accept the dataset's terms on the Hub.",
    "http": "A name and a password are taken from ~/.netrc.",
}
_SAME = {"s3a": "s3", "gcs": "gs", "https": "http"}


def is_address(name: str) -> bool:
    """Whether `name` is an address that is no local path: `s3://...`, and not `file://...`."""
    found = _ADDRESS.match(name)
    return found is not None and found[1].lower() not in ("file", "local")


def find_protocol(address: str) -> str:
    """`s3` of `s3://bucket`."""
    return address.partition("://")[0].lower()


def check_address(address: str) -> None:
    """Raises UsageError for an address with a login, a query or a fragment, or of several protocols."""
    protocol, _, rest = address.partition("://")
    if _has_login(protocol.lower(), rest):
        raise UsageError(
            f"{redact(address)} has a login in it, or what looks like one, and would be written into the dataset.",
            f"Leave it out. {advise_access(address)}",
        )
    if "?" in rest or "#" in rest:
        raise UsageError(
            f"{redact(address)} goes on behind a ? or #: what stands there may be a signature or a key, and would be"
            " written into the dataset.",
            "Leave it out, or download the file and name it.",
        )
    if "::" in address:
        raise UsageError(f"{redact(address)} is of several protocols.", "Name a file or folder by one, as s3://.")


def _has_login(protocol: str, rest: str) -> bool:
    """Whether there is a password, or on the web a name, or what looks like one: a password may have slashes in it, and
    begin like a port. Azure's addresses have a container before an @, those of SSH a user."""
    host, _, path = rest.partition("/")
    port = host.rpartition(":")[2] if ":" in host else "0"
    is_port = port.isdecimal() and len(port) <= PORT
    is_user = "@" in host and protocol in WEB
    return ":" in host.rpartition("@")[0] or not is_port or is_user or (":" in host and "@" in path)


def redact(text: str) -> str:
    """Without logins and queries in addresses: a presigned address is as good as a password."""
    return _QUERY.sub("?...", _LOGIN.sub("...@", text))


def describe_error(error: BaseException) -> str:
    """What a library says, in one line, without secrets and without a full stop; its name where it says nothing."""
    own = error.strerror if isinstance(error, (FileNotFoundError, PermissionError)) else None
    words = redact(" ".join(_ERRNO.sub("", own or str(error)).split())).rstrip(".")
    shown = words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}..."
    return shown or type(error).__name__


def advise_access(address: str) -> str:
    """Where credentials for the address come from."""
    protocol = find_protocol(address)
    return _ADVICE.get(_SAME.get(protocol, protocol), "Credentials are taken from the environment, as fsspec has it.")


def join_inside(name: str) -> str | None:
    """The path `name` without `.` and `..`; None where it leads out of the folder or is absolute. Backslashes are
    letters, as in the keys of an object store."""
    parts: list[str] = []
    for part in PurePosixPath(name).parts:
        if part == "/" or (part == ".." and not parts):
            return None
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
