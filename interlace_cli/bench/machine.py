"""The machine at hand: what it is, and the most that it was seen to do, by which floors are counted."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TRIALS = 5


def describe_machine(device: str = "cpu") -> str:
    """The GPU's name, or the processor's with its cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def find_versions() -> dict[str, str]:
    """Of Python and what computes."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure_flops(device: str, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large matrix product: the best of some trials."""
    import torch

    size = 8192 if device.startswith("cuda") else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return max(2 * size**3 / _time(lambda: a @ b, device) for _ in range(TRIALS))


def measure_bandwidth(device: str) -> float:
    """Bytes a second of a copy in the device's memory, read and written."""
    import torch

    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return max(2 * source.nbytes / _time(lambda: target.copy_(source), device) for _ in range(TRIALS))


def _time(work: Callable[[], object], device: str) -> float:
    import torch

    is_cuda = device.startswith("cuda")
    work()
    if is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
