"""This machine and its processes, told from all others, also where files are shared between them."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def name_machine() -> str:
    """What two processes have alike that know each other by their ids. Hosts may have the same name, and containers
    the same kernel."""
    words = [platform.node()]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def is_alive(process: int, started: float | None = None) -> bool:
    """Whether the process of this machine is there and can work, if it is the one that began at `started`."""
    import psutil

    try:
        if os.name == "posix":
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Somebody else's: not all systems show more of it.
        return True
    try:
        # A zombie has ended; another process may have its id by now.
        is_it = started is None or find_start(process) == started
        return is_it and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def find_start(process: int) -> float:
    """When it began: on Linux in ticks since the kernel did, as no clock is set anew then."""
    import psutil

    with suppress(OSError, ValueError, IndexError):
        # After the name, which may hold anything, in brackets.
        return float(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return psutil.Process(process).create_time()
