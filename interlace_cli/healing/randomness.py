"""The state of torch's random numbers, so that a step that starts again draws the same ones (dropout)."""

from __future__ import annotations

import torch
from torch import Tensor

from interlace_cli.runtime.accelerator import is_cuda


def read_random(device: torch.device) -> list[Tensor]:
    """The states of the host's generator and of the device's."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if is_cuda(device) else states


def restore_random(device: torch.device, states: list[Tensor]) -> None:
    """Sets what `read_random` returned."""
    torch.set_rng_state(states[0])
    if is_cuda(device):
        torch.cuda.set_rng_state(states[1], device)
