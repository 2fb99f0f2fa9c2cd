"""What Python code sees of a pretend GPU: `Tensor.device`, `Tensor.to`, `torch.cuda`, `torch.accelerator` and others
answer as on a machine that has it."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from pretend import Pretend
from pretend_cuda import build_cuda, build_machine
from pretend_tensors import build_makers, build_storage_methods, build_tensor_methods, tell_device_of
from torch import Tensor
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode


def disguise(gpu: Pretend) -> ExitStack:
    """Puts the pretended functions in the place of torch's, until the stack is closed."""
    _device._device_constructors()  # kept by torch at its first call: it has to find its own functions
    stack = ExitStack()
    _forget()
    stack.callback(_forget)
    for owner, build in (
        (Tensor, build_tensor_methods),
        (torch.UntypedStorage, build_storage_methods),
        (torch, build_makers),
        (torch._C, build_machine),
        (torch.cuda, build_cuda),
        (threading.Thread, _build_thread),
        (torch.amp.autocast_mode.autocast, _build_autocast),
    ):
        for name, value in build(gpu).items():
            _replace(stack, owner, name, value)
    parse = torch._C._nn._parse_to
    stack.enter_context(mock.patch.object(torch._C._nn, "_parse_to", lambda *a, **k: parse(*_name(gpu, a), **k)))
    if gpu.dataless is not None:
        gpu.dataless.disguise(stack, lambda tensor, own: tell_device_of(gpu, tensor, own))
    return stack


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """An attribute of a class or module; one that the class inherited, or the build lacks, is taken away at the end."""
    own = vars(owner).get(name, owner)
    setattr(owner, name, value)
    stack.callback(*((delattr, owner, name) if own is owner else (setattr, owner, name, own)))


def _forget() -> None:
    """What libraries asked once about the machine, and keep."""
    for module in ("transformers.utils.import_utils", "accelerate.utils.imports", "accelerate.utils.environment"):
        for value in list(vars(sys.modules.get(module, SimpleNamespace())).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


def _name(gpu: Pretend, words: tuple[Any, ...]) -> tuple[Any, ...]:
    """The words of `Module.to`: a number is the index of a device."""
    return tuple(gpu.name_device(w) if isinstance(w, int) and not isinstance(w, bool) else w for w in words)


def _build_autocast(gpu: Pretend) -> dict[str, Any]:
    """Autocast of `cuda` is that of the CPU, with the CPU's lists of operations."""
    own = torch.amp.autocast_mode.autocast
    enter, leave = own.__enter__, own.__exit__

    def enter_both(self: Any) -> Any:
        self._outer = (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
        found = enter(self)
        if self.device == "cuda":
            torch.set_autocast_enabled("cpu", self._enabled)
            torch.set_autocast_dtype("cpu", self.fast_dtype)
        return found

    def leave_both(self: Any, *error: Any) -> Any:
        if self.device == "cuda":
            torch.set_autocast_enabled("cpu", self._outer[0])
            torch.set_autocast_dtype("cpu", self._outer[1])
        return leave(self, *error)

    return {"__enter__": enter_both, "__exit__": leave_both}


def _build_thread(gpu: Pretend) -> dict[str, Any]:
    """Threads that are started see the device too."""
    start = threading.Thread.start

    def start_with(self: threading.Thread) -> None:
        run = self.run

        def run_with() -> None:
            TorchDispatchMode.__enter__(gpu)
            try:
                run()
            finally:
                TorchDispatchMode.__exit__(gpu, None, None, None)

        self.run = run_with  # type: ignore[method-assign]
        start(self)

    return {"start": start_with}
