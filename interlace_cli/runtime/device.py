"""Which device a process computes on, and in which dtype."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from interlace_cli.errors import UsageError, first_line
from interlace_cli.runtime.accelerator import is_cuda
from interlace_cli.runtime.processes import Processes, find_processes

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
FAST_FLOAT16 = (7, 0)
"""Compute capability from which on GPUs have tensor cores for float16 (V100, T4)."""


def choose_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. Of several processes each has a GPU of its own: the index is the
    rank on this machine, modulo the GPUs that this process sees (Slurm may show each task its own alone). Raises
    UsageError for a device that is not there, and for one GPU for several processes."""
    import torch

    here = find_processes()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if here.size > 1 and is_cuda(device) and torch.cuda.is_available():
        device = _choose_own(device, here)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} cannot be used here: {first_line(error)}") from error
    return device


def use_device(device: str) -> str:
    """`choose_device`, and the GPU becomes the current one of this process: libraries and kernels that are not told a
    device take that. LOCAL_RANK, by which launched libraries (DeepSpeed) choose theirs, becomes its index."""
    import torch

    device = choose_device(device)
    if is_cuda(device):
        default = _find_default()
        index = torch.device(device).index
        torch.cuda.set_device(default if index is None else index)
        if find_processes().is_launched:
            os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    return device


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that computes in it, float16 on an older one with tensor cores, else float32.

    Emulated bfloat16 (T4, V100) is slower than float32. float16 has less range: healing scales its losses there, and
    hidden states that exceed it are an error (`families/finite.py`), not a wrong result."""
    import torch

    if dtype not in DTYPES:
        raise UsageError(f"--dtype does not take {dtype!r}.", f"It takes {', '.join(DTYPES)}.")
    if dtype == "auto":
        dtype = _choose_fastest(device)
    result: torch.dtype = getattr(torch, dtype)
    return result


def _choose_fastest(device: str) -> str:
    import torch

    if not is_cuda(device):
        return "float32"
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        return "float16" if torch.cuda.get_device_capability() >= FAST_FLOAT16 else "float32"


def _choose_own(device: str, here: Processes) -> str:
    import torch

    count = torch.cuda.device_count()
    own = f"cuda:{here.local % count}"
    if device not in ("cuda", own):  # its own, if it was chosen before
        raise UsageError(
            f"--device {device} is one GPU, and there are {here.size} processes.",
            "Give --device cuda: each process takes a GPU of its own. CUDA_VISIBLE_DEVICES says which there are.",
        )
    return own


@cache
def _find_default() -> int:
    """The GPU that was the current one before any was chosen here: what `cuda` means."""
    import torch

    return torch.cuda.current_device()
