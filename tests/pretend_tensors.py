"""How tensors, storages and the functions that make them answer on a pretend GPU, for tests/pretend_api.py."""

from __future__ import annotations

from typing import Any

import torch
from pretend import Pretend
from pretend_cuda import build_event, build_stream
from pretend_rules import BASE, CPU
from torch import Tensor
from torch.utils import _device
from torch.utils._mode_utils import no_dispatch


def tell_device_of(gpu: Pretend, tensor: Tensor, own: torch.device) -> torch.device:
    """What a tensor says of itself; `own` is what torch knows."""
    return own if gpu.thread.inside or own.type != "cpu" else gpu.find_device(tensor)


def build_tensor_methods(gpu: Pretend) -> dict[str, Any]:
    def tell_device(self: Tensor) -> torch.device:
        return tell_device_of(gpu, self, BASE.device.__get__(self))

    def tell_index(self: Tensor) -> int:
        device = tell_device(self)
        return device.index if device.type == "cuda" else -1

    def to(self: Tensor, *words: Any, **named: Any) -> Tensor:
        return _move(gpu, self, *words, **named)

    def cuda(self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
        return _move(gpu, self, "cuda" if device is None else device, None, non_blocking, memory_format=memory_format)

    def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
        return _move(gpu, self, CPU, memory_format=memory_format)

    def type_as(self: Tensor, other: Tensor) -> Tensor:
        return _move(gpu, self, other)

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        if tell_device(self).type != "cpu":
            raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
        if gpu.is_pinned(self):
            return self
        made = self.detach().clone()
        gpu.pin(BASE.untyped_storage(made))
        return made

    def numpy(self: Tensor, *, force: bool = False) -> Any:
        if tell_device(self).type == "cpu":
            return BASE.numpy(self, force=force)
        if force:
            return BASE.numpy(cpu(self.detach()), force=True)
        raise TypeError(
            f"can't convert {tell_device(self)} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to"
            " host memory first."
        )

    def tolist(self: Tensor) -> Any:
        return BASE.tolist(cpu(self.detach()))

    def new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, **more: Any) -> Tensor:
        return _move(gpu, BASE.new_tensor(self, data, dtype=dtype, **more), device or tell_device(self))

    def record_stream(self: Tensor, stream: Any) -> None:
        if tell_device(self).type == "cpu":
            raise NotImplementedError("Could not run 'aten::record_stream' with arguments from the 'CPU' backend.")

    grad = vars(BASE)["grad"]

    def set_grad(self: Tensor, value: Tensor | None) -> None:
        if value is not None and tell_device(value) != tell_device(self):
            raise RuntimeError("attempting to assign a gradient located on a different device than the tensor's")
        grad.__set__(self, value)

    return {
        "device": property(tell_device),
        "get_device": tell_index,
        "is_cuda": property(lambda self: tell_device(self).type == "cuda"),
        "is_cpu": property(lambda self: tell_device(self).type == "cpu"),
        "grad": property(grad.__get__, set_grad, grad.__delete__),
        "to": to,
        "cuda": cuda,
        "cpu": cpu,
        "type_as": type_as,
        "pin_memory": pin_memory,
        "is_pinned": lambda self, device=None: gpu.is_pinned(self),
        "numpy": numpy,
        "tolist": tolist,
        "new_tensor": new_tensor,
        "record_stream": record_stream,
    }


def _move(
    gpu: Pretend,
    tensor: Tensor,
    *words: Any,
    device: Any = None,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
    other: Tensor | None = None,
) -> Tensor:
    """`Tensor.to`, in all its forms."""
    rest = list(words)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
    if other is not None:
        device, dtype = other.device, other.dtype
    elif rest and not isinstance(rest[0], torch.dtype):
        device = rest.pop(0)
    if rest and other is None and not isinstance(rest[0], bool):
        dtype = rest.pop(0)
    non_blocking, copy = (*rest, *(non_blocking, copy)[len(rest) :])
    here = tensor.device
    there = here if device is None else gpu.name_device(device)
    dtype = dtype or tensor.dtype
    if there == here:
        return BASE.to(tensor, dtype, non_blocking, copy, memory_format=memory_format)
    if "meta" in (here.type, there.type):  # to it there is no copy, and from it torch refuses one
        meant = CPU if there.type == "cuda" else there
        return BASE.to(tensor, meant, dtype, non_blocking, copy, memory_format=memory_format)
    if tensor.requires_grad and torch.is_grad_enabled():
        return _Crossing.apply(tensor, gpu, there, dtype, non_blocking)
    return _copy(gpu, tensor, there, dtype, non_blocking, memory_format)


def _copy(
    gpu: Pretend, tensor: Tensor, there: torch.device, dtype: torch.dtype, is_free: bool, memory_format: Any = None
) -> Tensor:
    with torch.no_grad():
        source = BASE.to(tensor.detach(), dtype)  # CUDA changes the type where the data come from
        is_pinned = is_free and there.type == "cpu"
        layout = memory_format or torch.preserve_format
        if gpu.dataless is not None and not _is_fake(source):
            with no_dispatch():  # what has data keeps it
                made = source.clone(memory_format=layout)
            gpu.note_copy(source, tensor.device, made, there, is_free)
            gpu.paint(BASE.untyped_storage(made), there)
            return made
        made = torch.empty_like(source, device=there, memory_format=layout, pin_memory=is_pinned)
        return made.copy_(source, non_blocking=is_free)


def _is_fake(tensor: Tensor) -> bool:
    from pretend_fake import is_fake

    return is_fake(tensor)


class _Crossing(torch.autograd.Function):
    """A copy to another device; the gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gpu: Pretend, there: torch.device, dtype: torch.dtype, free: bool) -> Tensor:
        ctx.gpu, ctx.here, ctx.dtype = gpu, gpu.find_device(tensor), tensor.dtype
        return _copy(gpu, tensor, there, dtype, free)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _copy(ctx.gpu, grad, ctx.here, ctx.dtype, False), None, None, None, None


def build_storage_methods(gpu: Pretend) -> dict[str, Any]:
    own = torch.UntypedStorage

    def tell_device(self: Any) -> torch.device:
        block = None if gpu.thread.inside else gpu.blocks.get(self._cdata)
        return device.__get__(self) if block is None else block.device

    def clone(self: Any) -> Any:
        made = own(self.nbytes()).copy_(self)
        gpu.paint(made, tell_device(self))
        return made

    def to(self: Any, *, device: Any, non_blocking: bool = False) -> Any:
        there = gpu.name_device(device)
        if there == tell_device(self) or there.type == "meta":
            return self if there.type != "meta" else plain(self, device=there)
        made = own(self.nbytes()).copy_(self)
        gpu.paint(made, there)
        return made

    def resize(self: Any, size: int) -> Any:
        resize_(self, size)
        gpu.paint(self, tell_device(self))
        return self

    plain, device, resize_ = own.to, torch._C.StorageBase.device, own.resize_
    return {
        "device": property(tell_device),
        "is_cuda": property(lambda self: tell_device(self).type == "cuda"),
        "clone": clone,
        "to": to,
        "resize_": resize,
    }


def build_makers(gpu: Pretend) -> dict[str, Any]:
    """Functions whose C++ reserves the device before anything is dispatched."""

    def wrap(make: Any) -> Any:
        def wrapped(*words: Any, device: Any = None, pin_memory: bool = False, **more: Any) -> Tensor:
            if device is None:
                modes = torch.overrides._get_current_function_mode_stack()
                device = next((m.device for m in reversed(modes) if isinstance(m, _device.DeviceContext)), None)
            if device is None:
                made = make(*words, **more)
            elif torch.device(device if not isinstance(device, int) else "cuda").type == "cuda":
                is_tensor = make is not tensor_ and words and isinstance(words[0], Tensor)
                made = _move(
                    gpu, words[0] if is_tensor else make(*words, device=CPU, **more), device, more.get("dtype")
                )
            else:
                made = make(*words, device=device, **more)
            return made.pin_memory() if pin_memory else made

        return wrapped

    tensor_ = torch.tensor
    return {name: wrap(getattr(torch, name)) for name in ("tensor", "as_tensor", "asarray")} | {
        "Generator": _build_generator(gpu),
        "Stream": build_stream(gpu),
        "Event": build_event(gpu),
    }


def _build_generator(gpu: Pretend) -> Any:
    class Kind(type(torch._C.Generator)):  # type: ignore[misc]
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, torch._C.Generator)

    class Generator(torch._C.Generator, metaclass=Kind):
        """Of a device; it draws the CPU's numbers."""

        def __new__(cls, device: Any = "cpu") -> Any:
            made = torch._C.Generator.__new__(cls)
            made._device = gpu.name_device(device)
            return made

        device = property(lambda self: self._device)

    return Generator
