"""How a layer was called, put away on the host until the layer learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.transfer import send


@dataclass(frozen=True)
class Away:
    """A tensor of a device that waits on the host."""

    tensor: Tensor


class Host:
    """Puts the tensors of one forward away. One that several calls share (rotary tables, masks) is copied once."""

    def __init__(self) -> None:
        # With its source, whose id is nobody else's as long as it lives.
        self._copies: dict[int, tuple[Tensor, Away]] = {}

    def put(self, value: Any) -> Any:
        """`value`, in which each tensor of a device is an `Away`; tensors of the host stay."""
        return _replace(value, Tensor, self._put)

    def _put(self, tensor: Tensor) -> Tensor | Away:
        if tensor.device.type == "cpu":
            return tensor
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = (tensor, Away(tensor.to("cpu")))
        return self._copies[id(tensor)][1]


def take_back(value: Any, device: torch.device) -> Any:
    """What was given to `Host.put`, with its tensors on `device` again."""
    return _replace(value, Away, lambda away: send(away.tensor, device))


def _replace(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Anything but plain tuples, lists and dicts is a leaf."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_replace(item, kind, change) for item in value)
    if type(value) is dict:
        return {name: _replace(item, kind, change) for name, item in value.items()}
    return value
