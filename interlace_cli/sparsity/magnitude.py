"""Magnitude pruning: the weights with the smallest absolute value go (Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

import torch
from torch import nn

from interlace_cli.domain.progress import Advance
from interlace_cli.runtime.dispatch import loaded
from interlace_cli.sparsity.pattern import Pattern


@torch.no_grad()
def prune_by_magnitude(layers: nn.ModuleList, pattern: Pattern, advance: Advance) -> None:
    """Sets weights of every linear layer inside `layers` to zero, in place, by |weight| alone; no data is needed.
    Weights whose inputs do not fall into whole groups are left as they are. `advance` counts layers."""
    for layer in layers:
        with loaded(layer, is_changed=True):
            for linear in (module for module in layer.modules() if isinstance(module, nn.Linear)):
                if pattern.fits(linear.weight):
                    linear.weight.masked_fill_(pattern.find_dropped(linear.weight.abs()), 0)
        advance(1)
