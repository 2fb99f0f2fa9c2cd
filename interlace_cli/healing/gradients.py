"""Gradients that several processes average by torch's DistributedDataParallel (`--engine ddp`), held once.

DDP sends gradients in buckets of memory of its own: beside the gradients themselves that is a second copy, 4 bytes for
each tuned weight. With `gradient_as_bucket_view` a gradient is a view of its bucket. It is not from the start, and not
after it was set to None: autograd then makes a new one, which the rows of a step are summed in until the last of them.
So gradients are there before DDP is made, and zeroed in place between steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn


def view_buckets(accelerator: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Called before accelerate wraps the model. Does nothing where accelerate will not use DDP."""
    if accelerator.ddp_handler is None:
        return
    accelerator.ddp_handler.gradient_as_bucket_view = True
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def keep_views(model: Any) -> None:
    """Called with the wrapped model: its `zero_grad()` leaves the gradients where they are."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.zero_grad = partial(model.zero_grad, set_to_none=False)  # type: ignore[method-assign]
