"""Tensors of which this process holds only a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def is_partitioned(tensor: Tensor) -> bool:
    """Whether DeepSpeed has divided the parameter: it is empty unless it is gathered."""
    return hasattr(tensor, "ds_id")


def is_divided(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return is_partitioned(tensor) or isinstance(tensor, DTensor)
