"""Writing so that nothing half-written ever has a final name, and telling files by their content."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from interlace_cli.errors import ExistsError, InterlaceError
from interlace_cli.runtime.machine import is_alive, name_machine

CHUNK = 1 << 22
DRAFT = re.compile(r"\.(.+)\.([0-9a-f]{12})\.(\d+)\.\w+")
"""A draft's name: that of what it becomes, the machine and the process that makes it, and what tells it from others."""
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds without a touch after which another machine's draft counts as left behind."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def hash_bytes(data: bytes) -> str:
    """sha256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of the content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: object) -> str:
    """`hashlib.file_digest`, which Python 3.10 does not have yet."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):  # type: ignore[attr-defined]
        digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes under a temporary name in the same folder, fsyncs, renames. Raises InterlaceError where it cannot."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for draft in _find_abandoned(path.parent).pop(path.name, []):
            draft.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_name_draft(path))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise


def write_named(path: Path, data: bytes, force: bool) -> None:
    """Writes a file that the call names itself. Raises ExistsError where one of other content is and not `force`."""
    if not force and path.exists() and (not path.is_file() or path.read_bytes() != data):
        raise ExistsError(f"{path} exists already, with other content.", "Add --force to replace it, or name another.")
    write_atomically(path, data)


@contextmanager
def folder_being_made(path: Path, force: bool = False) -> Iterator[Path]:
    """Yields a fresh folder beside `path`; when the block succeeds it becomes `path`, else it is removed.

    An existing `path` is replaced only with `force`; InterlaceError otherwise.
    """
    check_free(path, force)
    is_new = not path.parent.exists()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=_name_draft(path)))
        os.chmod(draft, 0o777 & ~_umask())
    try:
        yield draft
        with explained(path):
            if not path.exists():
                os.replace(draft, path)
            elif _exchange(draft, path):
                _remove(draft)
            else:
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                os.replace(path, old / "replaced")
                os.replace(draft, path)
                shutil.rmtree(old)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                path.parent.rmdir()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise


def name_scratch(path: Path) -> Path:
    """A name beside `path` that nobody else has, for a folder of this process alone. Folders of such names that killed
    processes left behind are removed."""
    _remove_abandoned(path)
    return path.parent / f"{_name_draft(path)}{uuid4().hex[:8]}"


def _exchange(first: Path, second: Path) -> bool:
    """Lets two folders change names, so that neither is gone for a moment (Linux, renameat2(2)); False where that
    cannot be done."""
    if sys.platform != "linux":
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    return libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def check_free(path: Path, force: bool) -> None:
    """Raises InterlaceError if something is at `path` already and `force` is not set."""
    if not force and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InterlaceError(f"{path} exists already.", "Add --force to replace it, or name another place.")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into the sentence that `path` cannot be written: InterlaceError."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _remove_abandoned(path: Path) -> None:
    """Drafts of the same folder that killed processes left behind: they may be many GB."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        found = DRAFT.fullmatch(draft.name)
        if found and found[1] == path.name and _is_abandoned(draft, found):
            with suppress(OSError):
                _remove(draft)


@lru_cache(maxsize=256)
def _find_abandoned(folder: Path) -> dict[str, list[Path]]:
    """Name -> drafts of the file that killed processes left behind. A folder is looked through once: one that many
    files are written to is not to be read for each of them."""
    drafts: dict[str, list[Path]] = {}
    for draft in folder.glob(".*"):
        found = DRAFT.fullmatch(draft.name)
        if found and draft.is_file() and _is_abandoned(draft, found):
            drafts.setdefault(found[1], []).append(draft)
    return drafts


def _is_abandoned(draft: Path, found: re.Match[str]) -> bool:
    """Of processes of another machine nothing is known; this one was another before it was started anew."""
    if found[2] == _here():
        return not is_alive(int(found[3]))
    with suppress(OSError):
        touched = [path.lstat().st_mtime for path in (draft, *draft.rglob("*"))]
        return time.time() - max(touched) > FORGOTTEN
    return False


def _remove(path: Path) -> None:
    """A folder with all that is in it, or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _name_draft(path: Path) -> str:
    """How the name of a draft begins; DRAFT reads it."""
    return f".{path.name}.{_here()}.{os.getpid()}."


@cache
def _here() -> str:
    """This machine, in names of files: hosts may share a folder and have one name."""
    return hash_bytes(name_machine().encode())[:12]


def _cannot_write(path: Path, error: OSError) -> InterlaceError:
    reason = error.strerror or str(error)
    return InterlaceError(f"cannot write {path}: {reason}.", "Choose another folder with --workspace or --out.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def parse_json(data: bytes) -> Any:
    """The parsed value, or the ValueError that says what is wrong with it."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return error
