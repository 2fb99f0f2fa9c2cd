"""Sums in float64 on devices that have it, and on the host where a device has not (Apple's MPS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def choose_wide_device(device: torch.device) -> torch.device:
    """The device itself, or the host's if it has no float64."""
    import torch

    if device.type == "cpu":
        return device
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device


def to_wide(value: Tensor) -> Tensor:
    """`value`, in its own dtype, where it can be made float64."""
    return value.to(choose_wide_device(value.device))
