"""What CUDA lets meet, and what the host waits for: rules by operation, for tests/pretend.py.

Read in torch's sources: TensorIterator's `compute_common_device` (a number of the host goes with any device, unless it
is written into), the advanced indexing of CUDA (indices may lie on the host), `cat` (no such number)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import graph
from torch.distributed import utils
from torch.nn.parallel import distributed

aten = torch.ops.aten
BASE = torch._C.TensorBase
CPU = torch.device("cpu")
Find = Callable[[Tensor], torch.device]
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
INDEXED |= {aten._index_put_impl_.default, aten._unsafe_index_put.default}
"""Their indices may lie on the host."""
STRICT = {aten.cat.default, aten.stack.default}
"""They take no number of the host among tensors of a device."""
READ = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2, aten.unique_dim}
READ |= {aten.unique_consecutive, aten.bincount, aten.is_nonzero}
"""The host waits for their result: it, or its shape, is a number that the host must know."""


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an operation's arguments or results."""
    if isinstance(value, BASE):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from iter_tensors(part)


@cache
def is_dtensor(kind: type) -> bool:
    """Whether tensors of this class are parts of one that lies on several devices."""
    return hasattr(kind, "_local_tensor")


def is_collective(func: Any) -> bool:
    """Whether processes exchange its tensors. (A barrier's is made for it by C++.)"""
    return func.namespace == "c10d" and func is not torch.ops.c10d.barrier.default


@cache
def is_composite(func: Any) -> bool:
    """Whether torch makes it of other operations, without a kernel of its own."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def is_of_options(code: CodeType) -> bool:
    """Whether what this Python code makes on the CPU is made by C++, which copies what it believes to be a tensor's
    options: the formulas of autograd, and what DistributedDataParallel compares and buckets."""
    return code is graph._engine_run_backward.__code__ or code.co_filename in (distributed.__file__, utils.__file__)


@cache
def find_written(func: Any) -> list[tuple[int, str]]:
    """Place and name of the arguments that an operation writes into."""
    arguments = enumerate(func._schema.arguments)
    return [(i, found.name) for i, found in arguments if found.alias_info is not None and found.alias_info.is_write]


def check_devices(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], find_device: Find) -> None:
    """Raises RuntimeError as CUDA does, where tensors of different devices meet."""
    name = func._schema.name
    if name.startswith(("aten::_foreach", "aten::_fused")):
        lists = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple))]
        for column in zip(*(found for found in lists if found and isinstance(found[0], BASE)), strict=False):
            _compare(func, column, find_device, "_foreach" in name)
    elif func in INDEXED:
        _compare(func, [args[0], *iter_tensors([*args[2:], *kwargs.values()])], find_device)
        if {find_device(index) for index in args[1] if index is not None} - {CPU, find_device(args[0])}:
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor ({find_device(args[0])})"
            )
    elif not name.startswith("c10d::"):
        written = [args[i] if i < len(args) else kwargs.get(name) for i, name in find_written(func)]
        _compare(func, tensors, find_device, func not in STRICT, written)


def _compare(
    func: Any, tensors: Sequence[Tensor], find_device: Find, takes_numbers: bool = True, written: Iterable[Any] = ()
) -> None:
    """A tensor of no dimensions on the host goes as a number, but nothing is written into it."""
    results, devices = {id(tensor) for tensor in written}, [find_device(tensor) for tensor in tensors]
    found = {
        str(device)
        for tensor, device in zip(tensors, devices, strict=True)
        if device != CPU or BASE.dim(tensor) > 0 or not takes_numbers or id(tensor) in results
    }
    if len(found) > 1:
        each = ", ".join(f"{tuple(t.shape)} {d}" for t, d in zip(tensors, devices, strict=True))
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices,"
            f" {' and '.join(sorted(found))}! (when checking arguments of {func}: {each})"
        )


def name_wait(func: Any, args: Any, kwargs: Any, find_device: Find) -> str | None:
    """What the host waits for in an operation on a device, if for anything."""
    if func.overloadpacket in READ or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        return func._schema.name.removeprefix("aten::").removeprefix("_local_")
    if func not in INDEXED:
        return None
    indices = [index for index in args[1] if index is not None]
    is_fill = len(args) > 2 and len(indices) == 1 and BASE.numel(args[2]) == 1  # torch makes it a masked_fill
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not is_fill:
        return "index by mask"
    is_far = find_device(args[0]) != CPU and any(find_device(index) == CPU for index in indices)
    return "index from the host" if is_far and not is_fill else None
