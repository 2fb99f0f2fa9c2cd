"""Runs 2:4 sparse weights on the GPU's sparse kernels, for timings.

Uses torch's semi-structured tensors (`torch.sparse.to_sparse_semi_structured`). They need an NVIDIA GPU of compute
capability 8.0 or later, float16 or bfloat16, and weights whose rows and columns are multiples of 64.
"""

from __future__ import annotations

import torch
from torch import nn

from interlace_cli.domain.progress import Progress
from interlace_cli.runtime.accelerator import is_cuda

SIDE = 64


def has_kernels(device: torch.device | str) -> bool:
    """Whether `device` is a GPU with 2:4 kernels (compute capability 8.0 or later)."""
    return is_cuda(device) and torch.cuda.get_device_capability(device) >= (8, 0)


def use_sparse_kernels(model: nn.Module, progress: Progress) -> int:
    """Replaces the model's 2:4 sparse weights by compressed ones and returns how many; 0 on a device without kernels.

    `progress` gets one line that says which.
    """
    if not has_kernels(next(model.parameters()).device):
        progress.say("2:4 sparse weights are timed as dense ones: this device has no kernels for them.")
        return 0
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and _fits(module.weight):
            module.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(module.weight.detach()), False)
            count += 1
    progress.say(f"{count} weights are timed with 2:4 sparse kernels.")
    return count


def _fits(weight_OI: torch.Tensor) -> bool:
    """Whether the kernels take the weight's dtype and shape, and at most 2 of every 4 values are non-zero."""
    if weight_OI.dtype not in (torch.float16, torch.bfloat16) or weight_OI.shape[0] % SIDE or weight_OI.shape[1] % SIDE:
        return False
    return bool(((weight_OI.reshape(-1, 4) != 0).sum(-1) <= 2).all())
