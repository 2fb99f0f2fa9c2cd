"""What Python code sees of a pretend GPU: `Tensor.device`, `Tensor.to`, `torch.cuda`, `torch.accelerator` and others
answer as on a machine that has it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from pretend import BASE, CPU, Pretend
from torch import Tensor
from torch.utils import _device
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

SAID = 80 << 30
"""Bytes that a device is said to have where no capacity is given."""


def disguise(gpu: Pretend) -> ExitStack:
    """Puts the pretended functions in the place of torch's, until the stack is closed."""
    _device._device_constructors()  # kept by torch at its first call: it has to find its own functions
    stack = ExitStack()
    _forget()
    stack.callback(_forget)
    for owner, build in (
        (Tensor, _build_tensor_methods),
        (torch.UntypedStorage, _build_storage_methods),
        (torch, _build_makers),
        (torch._C, _build_machine),
        (torch.cuda, _build_cuda),
        (threading.Thread, _build_thread),
        (torch.amp.autocast_mode.autocast, _build_autocast),
    ):
        for name, value in build(gpu).items():
            _replace(stack, owner, name, value)
    parse = torch._C._nn._parse_to
    stack.enter_context(mock.patch.object(torch._C._nn, "_parse_to", lambda *a, **k: parse(*_name(gpu, a), **k)))
    if gpu.dataless is not None:
        gpu.dataless.disguise(stack, lambda tensor, own: _tell(gpu, tensor, own))
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


def _tell(gpu: Pretend, tensor: Tensor, own: torch.device) -> torch.device:
    return own if gpu.thread.inside or own.type != "cpu" else gpu.find_device(tensor)


# --- Tensors and storages ---


def _build_tensor_methods(gpu: Pretend) -> dict[str, Any]:
    def tell_device(self: Tensor) -> torch.device:
        return _tell(gpu, self, BASE.device.__get__(self))

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


def _build_storage_methods(gpu: Pretend) -> dict[str, Any]:
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


# --- torch ---


def _build_makers(gpu: Pretend) -> dict[str, Any]:
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
        "Stream": _build_stream(gpu),
        "Event": _build_event(gpu),
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


def _build_stream(gpu: Pretend) -> Any:
    class Stream:
        """A queue in which all is done at once."""

        def __init__(self, device: Any = None, priority: int = 0, **more: Any) -> None:
            self.device = gpu.name_device("cuda" if device is None else device)
            self.device_index, self.priority = self.device.index, priority
            self.stream_id = self.cuda_stream = id(self)

        def synchronize(self) -> None:
            gpu.wait("Stream.synchronize")

        def query(self) -> bool:
            return True

        def is_capturing(self) -> bool:
            return False

        def wait_stream(self, stream: Any) -> None: ...

        def wait_event(self, event: Any) -> None: ...

        def record_event(self, event: Any = None) -> Any:
            event = event or torch.Event(self.device)
            event.record(self)
            return event

        def __enter__(self) -> Any:
            self._guard = torch.cuda.stream(self)
            self._guard.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self._guard.__exit__(*error)

    return Stream


def _build_event(gpu: Pretend) -> Any:
    class Event:
        """A mark in a queue; it is reached when it is made."""

        def __init__(self, device: Any = None, enable_timing: bool = False, **more: Any) -> None:
            self.device = gpu.name_device("cuda" if device is None or isinstance(device, bool) else device)
            self.time: float | None = None

        def record(self, stream: Any = None) -> None:
            self.time = time.perf_counter()

        def wait(self, stream: Any = None) -> None: ...

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            gpu.wait("Event.synchronize")

        def elapsed_time(self, end: Any) -> float:
            return (end.time - self.time) * 1000

    return Event


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


# --- torch.cuda and torch.accelerator ---


def _build_machine(gpu: Pretend) -> dict[str, Any]:
    """What torch.cuda and torch.accelerator are built on."""

    def exchange(index: int) -> int:
        before = gpu.thread.current
        if index >= 0:
            gpu.thread.current = gpu.name_device(index).index
        return before

    def count(index: int = 0) -> dict[str, Any]:
        def entry(now: int, peak: int) -> dict[str, Any]:
            return {"all": {"current": now, "peak": peak, "allocated": peak, "freed": peak - now}}

        held, most = gpu.now[index], gpu.peak[index]
        reserved = entry(gpu.reserved[index], gpu.reserved[index])
        found = {name: entry(held, most) for name in ("allocated_bytes", "active_bytes", "requested_bytes")}
        return {**found, "reserved_bytes": reserved, "num_ooms": gpu.shortages.total(), "num_alloc_retries": 0}

    def reset(index: int = 0) -> None:
        gpu.peak[index] = gpu.now[index]

    def empty() -> None:
        gpu.reserved[:] = gpu.now

    def total() -> int:
        return gpu.capacity or SAID

    functions = {
        "_cuda_getDevice": lambda: gpu.thread.current,
        "_cuda_setDevice": lambda index: exchange(index) and None,
        "_cuda_synchronize": lambda: gpu.wait("synchronize"),
        "_cuda_emptyCache": empty,
        "_cuda_memoryStats": count,
        "_cuda_resetPeakMemoryStats": reset,
        "_cuda_resetAccumulatedMemoryStats": reset,
        "_cuda_isInBadFork": lambda: os.getpid() != gpu.owner,
        "_accelerator_getAccelerator": lambda: torch.device("cuda"),
        "_accelerator_getDeviceIndex": lambda: gpu.thread.current,
        "_accelerator_setDeviceIndex": lambda index: exchange(index) and None,
        "_accelerator_exchangeDevice": exchange,
        "_accelerator_maybeExchangeDevice": exchange,
        "_accelerator_getStream": lambda index: torch.cuda.current_stream(index),
        "_accelerator_setStream": lambda stream: torch.cuda.set_stream(stream),
        "_accelerator_synchronizeDevice": lambda index: gpu.wait("synchronize"),
        "_accelerator_isAllocatorInitialized": lambda: True,
        "_accelerator_emptyCache": empty,
        "_accelerator_getDeviceStats": count,
        "_accelerator_resetPeakStats": reset,
        "_accelerator_resetAccumulatedStats": reset,
        "_accelerator_getMemoryInfo": lambda index: (total() - gpu.reserved[index], total()),
        "_group_tensors_by_device_and_dtype": _build_grouping(gpu),
    }
    return functions | {"_cuda_exchangeDevice": exchange, "_cuda_maybeExchangeDevice": exchange}


def _build_grouping(gpu: Pretend) -> Any:
    group = torch._C._group_tensors_by_device_and_dtype

    def by_colour(lists: list[list[Any]], with_indices: bool = False) -> dict[Any, Any]:
        """The optimizers' groups: those that torch finds, each divided by device."""
        divided: dict[Any, Any] = {}
        for (_, dtype), (columns, places) in group(lists, True).items():
            for at, first in enumerate(columns[0]):
                found = divided.setdefault((first.device, dtype), ([[] for _ in columns], []))
                for column, own in zip(columns, found[0], strict=True):
                    own += column[at : at + 1]
                found[1].append(places[at])
        return {key: (columns, places if with_indices else []) for key, (columns, places) in divided.items()}

    return by_colour


def _build_cuda(gpu: Pretend) -> dict[str, Any]:
    machine = _build_machine(gpu)
    stream, event = torch.Stream, torch.Event
    streams: dict[tuple[int, int], Any] = {}

    def index(device: Any = None) -> int:
        return gpu.name_device("cuda" if device is None else device).index

    def properties(device: Any = None) -> Any:
        major, minor = gpu.capability
        return SimpleNamespace(
            name="Pretended GPU", major=major, minor=minor, total_memory=gpu.capacity or SAID, multi_processor_count=132
        )

    def measure(device: Any = None) -> tuple[int, int]:
        return machine["_accelerator_getMemoryInfo"](index(device))

    def default_stream(device: Any = None) -> Any:
        return streams.setdefault((-1, index(device)), stream(index(device)))

    def current_stream(device: Any = None) -> Any:
        return streams.get((threading.get_ident(), index(device))) or default_stream(device)

    def set_stream(made: Any) -> None:
        if made is not None:
            streams[threading.get_ident(), made.device_index] = made

    class StreamContext:
        def __init__(self, made: Any) -> None:
            self.stream = made

        def __enter__(self) -> Any:
            if self.stream is not None:
                self.before = gpu.thread.current, current_stream(self.stream.device)
                gpu.thread.current = self.stream.device_index
                set_stream(self.stream)

        def __exit__(self, *error: Any) -> None:
            if self.stream is not None:
                gpu.thread.current = self.before[0]
                set_stream(self.before[1])

    return {
        "is_available": lambda: True,
        "_initialized": True,
        "_is_in_bad_fork": machine["_cuda_isInBadFork"],
        "is_current_stream_capturing": lambda: False,
        "init": lambda: None,
        "device_count": lambda: gpu.gpus,
        "_exchange_device": machine["_cuda_exchangeDevice"],
        "_maybe_exchange_device": machine["_cuda_maybeExchangeDevice"],
        "get_device_properties": properties,
        "is_bf16_supported": lambda including_emulation=True: gpu.capability >= (8, 0) or including_emulation,
        "is_tf32_supported": lambda: gpu.capability >= (8, 0),
        "mem_get_info": measure,
        "default_generators": tuple(torch.Generator(f"cuda:{i}") for i in range(gpu.gpus)),
        "Stream": stream,
        "Event": event,
        "StreamContext": StreamContext,
        "stream": StreamContext,
        "set_stream": set_stream,
        "current_stream": current_stream,
        "default_stream": default_stream,
    }
