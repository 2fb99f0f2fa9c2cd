"""A pretend GPU: ordinary CPU tensors whose storages carry the name of a device.

    with Pretend(gpus=2, capacity=24 << 30) as gpu:
        ...                                 # any code that says "cuda:1"
    assert gpu.peak[0] == 0

or, for a command line (peaks, and waits by line, are printed at its end):

    python tests/pretend.py --gpus 2 --capacity 24GiB -- finetune -w w --device cuda:1

Code under it sees `cuda:0` to `cuda:<gpus-1>`. What is made on a device, or copied there, has its colour; views inherit
it. An operation on tensors of different colours raises as CUDA does. Counted are the bytes of each colour, with a
capacity that raises `torch.OutOfMemoryError`, the places where the host waits for a device, and copies from memory that
is not pinned. With `fake=True` large tensors have no data, so that the step of a large model can be walked.

It cannot see what only a device has: limits and faults of kernels, precision other than the CPU's, NCCL, time, races
between streams (all work is done when its call returns), fragmentation and the workspaces of libraries. Kernels are the
CPU's, and so are the checks inside of them, and the attention that is chosen.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from pretend_rules import (
    BASE,
    CPU,
    aten,
    check_devices,
    is_collective,
    is_composite,
    is_dtensor,
    is_of_options,
    iter_tensors,
    name_wait,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GRAIN = 512
"""Bytes; the caching allocator gives multiples of it."""
OURS = os.path.dirname(os.path.abspath(__file__))
HIDDEN = (
    os.path.join(OURS, "pretend."),
    os.path.join(OURS, "pretend_"),
    f"{os.sep}torch{os.sep}",
    f"{os.sep}contextlib.py",
    f"{os.sep}threading.py",
)


def find_place() -> str:
    """`file.py:line` of the innermost frame that is not torch's; behind that of a library, in brackets, the frame of
    ours that called it."""
    place, frame = "", sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in HIDDEN):
            here = f"{name.rsplit(os.sep, 1)[-1]}:{frame.f_lineno}"
            if "site-packages" not in name and not name.startswith("<"):
                return f"{place} ({here})" if place else here
            place = place or here
        frame = frame.f_back
    return place or "?"


def format_size(size: int) -> str:
    """As c10/cuda/CUDACachingAllocator.cpp does it."""
    if size <= 1 << 10:
        return f"{size} bytes"
    unit, name = next(
        ((1 << bits, name) for bits, name in ((10, "KiB"), (20, "MiB")) if size <= 1 << bits + 10), (1 << 30, "GiB")
    )
    return f"{size / unit:.2f} {name}"


def find_call(frame: FrameType | None) -> tuple[tuple[Any, int], ...]:
    """The instruction that is being executed, with those that led to it: one for all that torch's C++ does in one call
    of Python's."""
    found = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


@dataclass(slots=True)
class Block:
    """Memory of a device."""

    device: torch.device
    size: int


class Thread(threading.local):
    """What each thread of the host has of its own."""

    current = 0
    """The index of the device that "cuda" is."""
    last: torch.device | None = None
    """The device of the last operation; None where it was the host."""
    inside = 0
    """Above zero while torch works on what it believes to be CPU tensors."""
    made_by: tuple[Any, ...] = ()
    made: Sequence[weakref.ref[Any]] = ()
    """What the last operation without inputs made on the host, and the call that did."""


class Pretend(TorchDispatchMode):
    """`gpus` devices of `capacity` bytes each (None: 80 GiB are said, and no shortage comes)."""

    def __init__(
        self, gpus: int = 1, capacity: int | None = None, fake: bool = False, capability: tuple[int, int] = (9, 0)
    ) -> None:
        super().__init__()
        self.gpus, self.capacity, self.capability = gpus, capacity, capability
        self.now, self.peak, self.reserved = [0] * gpus, [0] * gpus, [0] * gpus
        self.waits: Counter[str] = Counter()
        """What @ where, of each time the host waited for a device."""
        self.pageable: Counter[str] = Counter()
        """Where tensors were copied to a device from memory that is not pinned."""
        self.moved: Counter[str] = Counter()
        """Bytes by "to device", "to host", "between devices"."""
        self.shortages: Counter[str] = Counter()
        """Where a device had no room."""
        self.blocks: dict[int, Block] = {}
        self.pinned: set[int] = set()
        self.thread = Thread()
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.has_nccl_alone: Callable[[], bool] = lambda: False
        """Whether processes exchange tensors of GPUs only (pretend_ranks)."""
        self.dataless = None
        if fake:
            from pretend_fake import Dataless

            self.dataless = Dataless(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else a frame of torch's lies between an operation and its caller

    def __enter__(self) -> Pretend:
        from pretend_api import disguise

        self._disguise = disguise(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._disguise.close()

    # --- Colours and bytes ---

    def find_device(self, tensor: Tensor) -> torch.device:
        """The device that a tensor is said to be on; of a DTensor, that its part is on."""
        if is_dtensor(type(tensor)):
            return self.find_device(tensor._local_tensor)
        try:
            block = self.blocks.get(BASE.untyped_storage(tensor)._cdata)
        except (NotImplementedError, RuntimeError):  # sparse ones have no storage
            return CPU
        return CPU if block is None else block.device

    def name_device(self, device: Any) -> torch.device:
        """ "cuda", 1 ... -> cuda:<index>; raises where there is no such device, and in a forked process."""
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if found.type != "cuda":
            return found
        if os.getpid() != self.owner:
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the"
                " 'spawn' start method"
            )
        index = self.thread.current if found.index is None else found.index
        if index >= self.gpus:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def paint(self, storage: Any, device: torch.device) -> None:
        """Gives a storage a colour, or counts again one that has it."""
        key, size = storage._cdata, -(-storage.nbytes() // GRAIN) * GRAIN
        block = self.blocks.get(key)
        if block is None:
            if device.type != "cuda":
                return
            self._take(device.index, size)
            self.blocks[key] = Block(device, size)
            weakref.finalize(storage, self._free, key).atexit = False
        elif block.size != size:
            self._take(block.device.index, size - block.size)
            block.size = size

    def pin(self, storage: Any) -> None:
        """Says that memory of the host is pinned."""
        if storage._cdata not in self.pinned:
            self.pinned.add(storage._cdata)
            weakref.finalize(storage, self.pinned.discard, storage._cdata).atexit = False

    def _take(self, index: int, size: int) -> None:
        with self.lock:
            wanted = self.now[index] + size
            if self.capacity is not None and size > 0 and wanted > self.capacity:
                self.shortages[find_place()] += 1
                raise torch.OutOfMemoryError(self._describe_shortage(index, size))
            self.now[index] = wanted
            self.peak[index] = max(self.peak[index], wanted)
            self.reserved[index] = max(self.reserved[index], wanted)

    def _describe_shortage(self, index: int, size: int) -> str:
        wanted, total, free = map(format_size, (size, self.capacity, self.capacity - self.now[index]))
        return (
            f"CUDA out of memory. Tried to allocate {wanted}. GPU {index} has a total capacity of {total} of which"
            f" {free} is free. (pretended)"
        )

    def _free(self, key: int) -> None:
        with self.lock:
            block = self.blocks.pop(key)
            self.now[block.device.index] -= block.size

    # --- Operations ---

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_dtensor, types)):
            return NotImplemented  # it does the same with the parts, one by one
        if torch.is_inference_mode_enabled() and is_composite(func):
            return self._decompose(func, args, kwargs or {})
        kwargs = dict(kwargs or {})
        tensors = list(iter_tensors([*args, *kwargs.values()]))
        device = self._settle(func, args, kwargs, tensors, sys._getframe(1))
        is_pinned = bool(kwargs.pop("pin_memory", False)) and device.type == "cpu"
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = CPU
        self.thread.inside += 1
        try:
            out = self._run(func, args, kwargs, tensors, device)
        finally:
            self.thread.inside -= 1
        made = [tensor for tensor in iter_tensors(out) if tensor.layout is torch.strided]
        if self.dataless is None:
            made = [tensor for tensor in made if not tensor.is_meta]  # no memory of any device
        storages = [BASE.untyped_storage(tensor) for tensor in made]
        for storage in storages:
            self.paint(storage, device)
            if is_pinned:
                self.pin(storage)
        if not tensors and device.type == "cpu":
            self.thread.made_by = find_call(sys._getframe(1))
            self.thread.made = [weakref.ref(storage) for storage in storages]
        return out

    def _decompose(self, func: Any, args: Any, kwargs: Any) -> Any:
        """In inference mode operations come here that are otherwise divided before, such as `item` and `linear`."""
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _settle(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], frame: FrameType) -> torch.device:
        """The device that the result is on. Raises where the inputs do not go together."""
        asked, is_formula = kwargs.get("device"), is_of_options(frame.f_code)
        if not tensors:
            if is_formula and self.thread.last is not None and torch.device(asked or CPU).type == "cpu":
                return self.thread.last
            return self.name_device(asked or CPU)
        devices = [self.find_device(tensor) for tensor in tensors]
        colours = [device for device in devices if device.type == "cuda"]
        if len(colours) < len(devices) and is_collective(func) and self.has_nccl_alone():
            raise RuntimeError("No backend type associated with device type cpu")
        if colours and any(device.type == "cpu" for device in devices):
            devices = self._adopt(tensors, devices, colours[0], frame)
        if colours:
            self.thread.last = colours[0]
        elif torch._C._current_autograd_node() is None and any(map(BASE.dim, tensors)):
            self.thread.last = None  # a formula of what comes is the host's
        if func is aten._to_copy.default:  # `Tensor.to` between devices does not come here: it is in pretend_api
            return devices[0]
        if func is aten.copy_.default:
            is_free = kwargs.get("non_blocking") or args[2:] == (True,)
            self.note_copy(tensors[1], devices[1], tensors[0], devices[0], is_free)
            return devices[0]
        if asked is not None and not is_formula:
            return self.name_device(asked)
        if not colours:
            return CPU
        check_devices(func, args, kwargs, tensors, self.find_device)
        if (what := name_wait(func, args, kwargs, self.find_device)) is not None:
            self.wait(what)
        return colours[0]

    def _adopt(
        self, tensors: list[Tensor], devices: list[torch.device], device: torch.device, frame: FrameType
    ) -> list[torch.device]:
        """What C++ made for itself, by the options of a tensor of a device, has that device."""
        made = [storage for storage in (found() for found in self.thread.made) if storage is not None]
        if made and self.thread.made_by == find_call(frame):
            for storage in made:
                self.paint(storage, device)
            return [self.find_device(tensor) for tensor in tensors]
        return devices

    # --- Waits ---

    def wait(self, what: str) -> None:
        """The host waits for a device."""
        self.waits[f"{what} @ {find_place()}"] += 1

    def note_copy(
        self, source: Tensor, here: torch.device, made: Tensor, there: torch.device, is_free: bool = False
    ) -> None:
        """A copy from `here` to `there`. Unless it `is_free` (non_blocking) the host waits for it, and where the host's
        side is not pinned it waits all the same for what it reads."""
        if here == there or BASE.numel(source) == 0 or made.is_meta:
            return
        size = BASE.numel(source) * source.element_size()
        if there.type == "cpu":
            self.moved["to host"] += size
            if not is_free or not self.is_pinned(made):
                self.wait("to host")
        elif here.type == "cpu":
            self.moved["to device"] += size
            if not self.is_pinned(source):
                self.pageable[find_place()] += 1
            if not is_free:
                self.wait("to device")
        else:
            self.moved["between devices"] += size

    def is_pinned(self, tensor: Tensor) -> bool:
        return BASE.untyped_storage(tensor)._cdata in self.pinned

    # --- The work itself ---

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], device: torch.device) -> Any:
        is_random = device.type == "cuda" and torch.Tag.nondeterministic_seeded in func.tags
        if is_random and kwargs.get("generator") is None:
            own = torch.cuda.default_generators[device.index]
            before = torch.default_generator.get_state()
            torch.default_generator.set_state(own.get_state())
            try:
                return self._calculate(func, args, kwargs, tensors)
            finally:
                own.set_state(torch.default_generator.get_state())
                torch.default_generator.set_state(before)
        return self._calculate(func, args, kwargs, tensors)

    def _calculate(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if self.dataless is None:
            return func(*args, **kwargs)
        return self.dataless.run(func, args, kwargs, tensors)


if __name__ == "__main__":
    from pretend_run import main

    main()
