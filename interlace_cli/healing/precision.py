"""The precision of a forward while healing: tuned weights are float32, all others are of the recipe's dtype, and the
layers compute in that dtype."""

from __future__ import annotations

import torch


def autocast(device: torch.device | str, dtype: torch.dtype) -> torch.autocast:
    """The context of every forward through a model that is healed, its losses too; of float32 it does nothing."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)
