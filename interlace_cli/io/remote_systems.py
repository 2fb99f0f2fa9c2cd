"""fsspec's file systems by protocol: opened with bounds of ours, or the reason why they cannot be."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from interlace_cli.errors import MissingInputError, UsageError
from interlace_cli.io.addresses import WEB, find_protocol
from interlace_cli.io.missing_packages import find_missing_package
from interlace_cli.io.remote_errors import explain

WAIT = 30.0
"""Seconds to wait for a web server's answer or a piece of it."""


def open_system(address: str) -> Any:
    """Raises UsageError for a protocol that nothing knows, MissingInputError for a package that is missing."""
    import fsspec

    protocol = find_protocol(address)
    try:
        options = choose_options(protocol)
        # What the user has set for fsspec counts. One for each folder object: what it has listed is no older than that.
        own = fsspec.config.conf.get(protocol, {})
        options = {name: value for name, value in options.items() if name not in own}
        found = fsspec.core.url_to_fs(address, skip_instance_cache=True, **options)[0]
        if hasattr(found, "retries"):
            # Of s3fs, which tries five times: times ours, a server that does not answer would take ten minutes.
            found.retries = 1
        return found
    except ImportError as error:
        cause = error.__cause__ or error.__context__ or error
        package = find_missing_package(cause) or find_missing_package(error)
        needed = f"the package {package}" if package else "a package that is not installed"
        fix = f"pip install {package}." if package else f"{error}."
        raise MissingInputError(f"{protocol}:// needs {needed}.", fix) from error
    except ValueError as error:
        if protocol in fsspec.available_protocols():
            raise explain(address, error) from error
        raise UsageError(
            f"{protocol}:// is no protocol that fsspec knows.",
            "Name a file or folder by s3://, gs://, hf://, https://.",
        ) from error


def walks_folders(system: Any) -> bool:
    """Whether it lists by going from folder to folder."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    own = type(system)
    return own._find is AsyncFileSystem._find if system.async_impl else own.find is AbstractFileSystem.find


def choose_options(protocol: str) -> dict[str, Any]:
    """Of the implementation: a bounded wait for an answer, and for web servers the machine's proxies, ~/.netrc, and
    ranges of the content as it is. Those that are not here have a bound of their own."""
    if protocol in ("gs", "gcs") and find_spec("aiohttp") is None:
        # gcsfs brings it along, and is what is missing.
        return {}
    if protocol in (*WEB, "gs", "gcs"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=WAIT, sock_read=WAIT)
        if protocol in ("gs", "gcs"):
            return {"requests_timeout": timeout}
        client = {"trust_env": True, "timeout": timeout}
        return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
    if protocol in ("s3", "s3a"):
        once = {"connect_timeout": WAIT, "read_timeout": WAIT, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": once}
    return {}
