"""Copies from the host to a device that the host does not wait for.

A copy from pageable memory to a GPU waits for what the GPU computes; one from pinned (page-locked) memory does not.
torch's host allocator keeps a pinned block until the copies from it are done, so the tensor may be dropped at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interlace_cli.runtime.accelerator import is_cuda
from interlace_cli.runtime.memory import is_out_of_memory


def send(value: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`value` on `device`, in `dtype` if it is floating-point and `dtype` is given."""
    return prepare(value, device, dtype).to(device, non_blocking=True)


def prepare(value: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`value` as `send` copies it: in `dtype`, and in pinned memory if `device` is a GPU. Where the host has no more
    memory to lock, it stays pageable."""
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    if not is_cuda(device) or value.device.type != "cpu" or value.is_pinned():
        return value
    try:
        return value.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return value
