"""torch.cuda and torch.accelerator of a pretend GPU, with streams and events in which all is done at once, for
tests/pretend_api.py."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import torch
from pretend import Pretend

SAID, LEAST = 80 << 30, 4 << 30
"""Bytes that a device is said to have where no capacity is given, and at least: what a small capacity leaves of them is
another process's. (transformers makes room by the whole less 1.2 GiB.)"""


def tell_total(gpu: Pretend) -> int:
    """Bytes of each device, whoever holds them."""
    return max(gpu.capacity or SAID, LEAST)


def tell_free(gpu: Pretend, index: int) -> int:
    """Bytes that are still to be had."""
    return (gpu.capacity or SAID) - gpu.reserved[index]


def build_machine(gpu: Pretend) -> dict[str, Any]:
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
        "_accelerator_getMemoryInfo": lambda index: (tell_free(gpu, index), tell_total(gpu)),
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


def build_cuda(gpu: Pretend) -> dict[str, Any]:
    machine = build_machine(gpu)
    stream, event = torch.Stream, torch.Event
    streams: dict[tuple[int, int], Any] = {}

    def index(device: Any = None) -> int:
        return gpu.name_device("cuda" if device is None else device).index

    def properties(device: Any = None) -> Any:
        major, minor = gpu.capability
        return SimpleNamespace(
            name="Pretended GPU", major=major, minor=minor, total_memory=tell_total(gpu), multi_processor_count=132
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


def build_stream(gpu: Pretend) -> Any:
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


def build_event(gpu: Pretend) -> Any:
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
