"""One command at a time in a workspace: the second waits, and says for whom.

The lock is the kernel's (flock), so that it ends with the process however that ends; the file it is on only says who
holds it, and goes with it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interlace_cli.runtime.processes import find_processes, is_launched_by_us

try:
    import fcntl
except ImportError:
    # Not on Windows.
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
MOST_VANISHED = 1000


@contextmanager
def locked(folder: Path, command: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds `folder`, which is made if need be and removed again if nothing came into it.

    Of several processes of one command the first holds it for all. Where a lock cannot be had (a read-only folder, a
    file system without them), the block runs without one.
    """
    if fcntl is None or is_launched_by_us() or not find_processes().is_main:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _acquire(folder, command, say)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(file)
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _acquire(folder: Path, command: str, say: Callable[[str], None]) -> int | None:
    path, vanished = folder / LOCK, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            # The one before has removed the folder that it had made; or none can be made there at all.
            vanished += 1
            if vanished == MOST_VANISHED:
                return None
            continue
        except OSError:
            return None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for {_describe_holder(path)}, which is at work in {folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
            # The one before took the file with it: what was waited for is no longer the lock of this folder.
            if os.fstat(file).st_ino == path.stat().st_ino:
                os.ftruncate(file, 0)
                os.write(file, _describe_self(command))
                return file
        except FileNotFoundError:
            pass
        except OSError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _describe_self(command: str) -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"command": command, "process": os.getpid(), "since": since}).encode()


def _describe_holder(path: Path) -> str:
    try:
        found = json.loads(path.read_bytes())
        return f"`interlace {found['command']}` (process {found['process']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command"
