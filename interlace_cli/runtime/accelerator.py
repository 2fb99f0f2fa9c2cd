"""What is asked of the device that computes. Each question names its device, since the current one may be another; of a
CPU the answers are what makes its callers right without a case of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_cuda(device: str | torch.device) -> bool:
    """Whether it is a CUDA device, with an index or without."""
    return str(device).partition(":")[0] == "cuda"


def is_cpu(device: str | torch.device) -> bool:
    """Whether it is the CPU."""
    return str(device).partition(":")[0] == "cpu"


def synchronize(device: str | torch.device) -> None:
    """Waits until the device has done all that it was given. A CPU has done it already."""
    import torch

    if is_cuda(device):
        torch.cuda.synchronize(device)
    elif not is_cpu(device):
        torch.accelerator.synchronize(device)


def read_held(device: str | torch.device) -> int:
    """Bytes of the tensors that this process has on a CUDA device."""
    import torch

    return int(torch.cuda.memory_allocated(device))


def reset_peak(device: str | torch.device) -> None:
    """Sets the peak of a CUDA device to what is held now."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str | torch.device) -> int:
    """Bytes that this process held at most on a CUDA device since `reset_peak`."""
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def read_free(device: str | torch.device) -> int:
    """Bytes of a CUDA device that this process can have: what nobody holds, and what its own allocator keeps for later
    use."""
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + max(int(kept), 0)


def read_total(device: str | torch.device) -> int:
    """Bytes that a CUDA device has."""
    import torch

    return int(torch.cuda.mem_get_info(device)[1])


def release_memory() -> None:
    """Gives memory that nothing refers to any more back, on every device. Call it where a whole model is done with:
    modules refer to each other in circles, which only the collector opens."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_name(device: str | torch.device) -> str:
    """The name of a CUDA device."""
    import torch

    return torch.cuda.get_device_name(device)


def to_host(value: torch.Tensor) -> torch.Tensor:
    """A copy on the host. From a CUDA device it is made in pinned memory, in its turn on the device's stream: nothing
    waits for it, and only what comes later on that stream may read it. What lies on the host is not copied."""
    return value if is_cpu(value.device) else value.to("cpu", non_blocking=is_cuda(value.device))


def bring_to(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that moves tensors to the device, without a wait where they lie in pinned memory."""
    return lambda value: value.to(device, non_blocking=True)
