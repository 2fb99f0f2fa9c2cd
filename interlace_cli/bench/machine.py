"""The machine: its name, and its measured peak rates, from which the floors of the benchmarks are computed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.runtime.accelerator import is_cuda, read_name, synchronize

if TYPE_CHECKING:
    import torch

TRIALS = 5


def describe_machine(device: str = "cpu") -> str:
    """The name of the GPU, or of the processor with its number of cores."""
    if is_cuda(device):
        return read_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def find_versions() -> dict[str, str]:
    """Name -> version of Python, torch and transformers; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure_flops(device: str, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product: the best of five trials."""
    import torch

    size = 8192 if is_cuda(device) else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return max(2 * size**3 / _time(lambda: a @ b, device) for _ in range(TRIALS))


def measure_bandwidth(device: str) -> float:
    """Bytes per second, read plus written, of a copy within the device's memory: the best of five trials."""
    import torch

    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return max(2 * source.nbytes / _time(lambda: target.copy_(source), device) for _ in range(TRIALS))


def _time(work: Callable[[], object], device: str) -> float:
    """Seconds of the second run; the first is a warm-up."""
    work()
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began
