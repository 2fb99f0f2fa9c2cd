"""The most memory that a piece of work held at once, above what was held before it."""

from __future__ import annotations

import ctypes
import errno
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from interlace_cli.runtime import accelerator
from interlace_cli.runtime.cgroups import read_group_available

_SHORT = ("out of memory", "alloc_failed", "allocation_failed", "defaultcpuallocator", "cannot allocate memory")
"""CUDA, HIP and MPS; CUBLAS_STATUS_ALLOC_FAILED and its like; cuDNN 9; the host's allocator; the system."""


def measure_peak(work: Callable[[], object], device: str) -> int | None:
    """Bytes: on a GPU what the allocator held, on a CPU the growth of this process (Linux, proc(5)); None where the
    system does not tell."""
    gc.collect()
    if accelerator.is_cuda(device):
        accelerator.release_memory()
        accelerator.reset_peak(device)
        before = accelerator.read_held(device)
        work()
        return accelerator.read_peak(device) - before
    if not reset_peak():
        return None
    before = read_status("VmRSS")
    work()
    return max(read_status("VmHWM") - before, 0)


def reset_peak() -> bool:
    """Sets this process's high-water mark back to what it holds now; False where the system does not have one."""
    try:
        # What was freed goes back to the system, so that it counts again when it is taken again.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def read_status(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def read_available() -> int:
    """Bytes of the machine's memory that can be had without swapping, at most what a container or a job scheduler
    allows. What the system holds of files that were read counts: it is given up when the memory is needed."""
    import psutil

    free, allowed = int(psutil.virtual_memory().available), read_group_available()
    return free if allowed is None else min(free, allowed)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the machine's memory did not do. The caching allocator of a device says it in a class of
    its own; the drivers, cuBLAS, cuDNN and the host's allocator say it in plain RuntimeErrors, and mmap in an OSError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and find_shortage(str(error)) is not None


def find_shortage(text: str) -> str | None:
    """The line of what somebody says that tells of memory that did not do."""
    return next((line for line in text.splitlines() if any(words in line.lower() for words in _SHORT)), None)


def trim_host() -> None:
    """Gives memory of the host that was freed back to the system, where the C library keeps it (glibc): after many
    small tensors were made into few large ones, as much again may be kept. What only refers to itself goes first."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
