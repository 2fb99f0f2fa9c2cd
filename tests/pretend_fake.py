"""Tensors of a pretend device that have a size and no data: the step of a large model, in seconds and no memory.

FakeTensorMode on `cuda` itself aborts a CPU build as soon as a gradient is asked for, so they are fake CPU tensors,
with the colour of a device like others."""

from __future__ import annotations

from contextlib import ExitStack
from math import prod
from typing import Any
from unittest import mock

import torch
from pretend import Pretend
from pretend_rules import BASE, INDEXED, aten
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

MANY = 1 << 16
"""Elements from which on a tensor has no data. What is smaller has, so that positions and masks are right."""
LIKE = {aten.zeros_like.default, aten.empty_like.default, aten.ones_like.default, aten.full_like.default}


class Dataless:
    """Does the operations of `gpu`, without data where tensors are large."""

    def __init__(self, gpu: Pretend) -> None:
        self.gpu = gpu
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """The result of an operation: fake where an input is, or where something large is made."""
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if self._is_large(func, args, kwargs, tensors):
                return self._pretend(func, args, kwargs)
            return func(*args, **kwargs)
        name = func._schema.name
        if func is aten._local_scalar_dense.default:
            return False if tensors[0].dtype == torch.bool else 0.0 if tensors[0].dtype.is_floating_point else 0
        if name in ("aten::allclose", "aten::equal"):
            return True
        if func in INDEXED:  # how many a mask chooses is known where it has data
            args = (args[0], [part for index in args[1] for part in _spread(index)], *args[2:])
        if func._schema.is_mutable and not isinstance(tensors[0], FakeTensor) and not name.startswith("aten::_foreach"):
            return args[0] if func._schema.returns else None
        return self._pretend(func, args, kwargs)

    def _is_large(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        if tensors:
            return func in LIKE and BASE.numel(tensors[0]) >= MANY
        size = args[0] if args and isinstance(args[0], (list, tuple)) else kwargs.get("size", ())
        return bool(size) and prod(size) >= MANY

    def _pretend(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self.mode:
            return func(*map(self.lift, args), **{name: self.lift(value) for name, value in kwargs.items()})

    def lift(self, value: Any) -> Any:
        """A tensor as a fake one; anything else as it is."""
        if isinstance(value, (list, tuple)):
            return [self.lift(part) for part in value]
        if isinstance(value, BASE) and not isinstance(value, FakeTensor):
            return self.mode.from_tensor(value.detach())
        return value

    def disguise(self, stack: ExitStack, find_device: Any) -> None:
        """Until `stack` is closed fake tensors tell the device of their colour, and a module's are replaced when it is
        moved (torch swaps their data, which fake ones do not allow)."""
        own = FakeTensor.__dict__["device"]

        def tell(self: Any) -> torch.device:
            return find_device(self, own.fget(self))

        FakeTensor.device = property(tell, own.fset)
        stack.callback(setattr, FakeTensor, "device", own)
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))


def is_fake(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor)


def _spread(index: Any) -> list[Any]:
    if isinstance(index, BASE) and index.dtype in (torch.bool, torch.uint8) and not isinstance(index, FakeTensor):
        return [places.contiguous() for places in index.nonzero(as_tuple=True)]
    return [index]


def _apply(self: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    for module in self.children() if recurse else ():
        module._apply(change)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                made = change(parameter)
            if made is not parameter:
                self._parameters[name] = nn.Parameter(made, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self
