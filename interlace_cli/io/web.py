"""A file at a web address, fetched within bounds: of size, time, redirects and tries."""

from __future__ import annotations

import time
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.images import MOST_BYTES, TOO_LARGE
from interlace_cli.io.offline import find_offline_switch

WAIT, MOST_SECONDS = 20.0, 120.0
"""Seconds to wait for an answer or a piece of it, and for all of it."""
MOST_REDIRECTS, TRIES = 5, 2
_NO_ADDRESS = "image on the web: the address cannot be asked for"
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (429, 500, 502, 503, 504)
"""Status codes of what may go by: tried again."""


def fetch(address: str) -> bytes:
    """What lies at an http or https address, through the Hub library's client, which goes by the machine's proxies and
    certificates. Raises UnusableRecordError, which names no address: the reasons are counted."""
    switch = find_offline_switch(is_dataset=True)
    if switch is not None:
        raise UnusableRecordError(f"image is on the web, which is not asked because of {switch}")
    if not _names_host(address):
        raise UnusableRecordError(_NO_ADDRESS)
    reason = ""
    for attempt in range(TRIES):
        time.sleep(attempt)
        found = _fetch(address)
        if isinstance(found, bytes):
            return found
        reason, may_pass = found
        if not may_pass:
            break
    raise UnusableRecordError(reason)


def _names_host(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname)
    except ValueError:
        return False


@lru_cache(maxsize=1)
def _name_ourselves() -> dict[str, str]:
    from interlace_cli import __version__

    return {"user-agent": f"interlace-cli/{__version__}", "accept": "image/*,*/*;q=0.5"}


def _fetch(address: str) -> bytes | tuple[str, bool]:
    """The content; or the reason, and whether it may be another one the next time."""
    from huggingface_hub import errors, get_session

    end = time.monotonic() + MOST_SECONDS
    try:
        for _ in range(MOST_REDIRECTS + 1):
            with get_session().stream(
                "GET", address, headers=_name_ourselves(), follow_redirects=False, timeout=WAIT
            ) as answer:
                if answer.status_code in _REDIRECTS and "location" in answer.headers:
                    address = urljoin(address, answer.headers["location"])
                    if urlsplit(address).scheme not in ("http", "https"):
                        return "image on the web: a redirect that leads elsewhere", False
                    continue
                if answer.status_code != 200:
                    return f"image on the web: HTTP status {answer.status_code}", answer.status_code in _PASSING
                return _read_bounded(answer, end)
        return f"image on the web: more than {MOST_REDIRECTS} redirects", False
    except errors.HTTPError:  # type: ignore[attr-defined]
        return "image on the web: no connection, or it broke off", True
    # An address that is none: the client raises what its parser does, and an InvalidURL, which is no HTTPError.
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError)) and type(error).__name__ != "InvalidURL":
            raise
        return _NO_ADDRESS, False


def _read_bounded(answer: object, end: float) -> bytes | tuple[str, bool]:
    parts, size = list[bytes](), 0
    for part in answer.iter_bytes(1 << 16):  # type: ignore[attr-defined]
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            return TOO_LARGE, False
        if time.monotonic() > end:
            return f"image on the web: not there within {MOST_SECONDS:.0f} s", False
    return b"".join(parts)
